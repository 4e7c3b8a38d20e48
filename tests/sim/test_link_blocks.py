"""The cocotb benches of the link's blocks."""

import pytest

from reticent.config import BuildConfig
from reticent_sim.bench import run_bench

SMALL = BuildConfig(lanes=2, weight_depth=64, pointer_depth=64)


@pytest.mark.parametrize(
    "block", ["uart_receiver", "uart_transmitter", "receiver", "replier", "link"]
)
def test_block(block, tmp_path):
    run_bench(block, SMALL, tmp_path)
