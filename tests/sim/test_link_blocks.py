"""The cocotb benches of the link's blocks."""

import pytest

from reticent_sim.bench import run_bench
from reticent_sim.small import SMALL


@pytest.mark.parametrize(
    "block", ["uart_receiver", "uart_transmitter", "receiver", "replier", "link"]
)
def test_block(block, tmp_path):
    run_bench(block, SMALL, tmp_path)
