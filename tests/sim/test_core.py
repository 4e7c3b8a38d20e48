"""The cocotb bench of the whole core, on builds that differ in everything."""

import pytest

from reticent_sim.bench import run_bench
from reticent_sim.small import SMALL

TWO = SMALL.replace(queue_depth=16, stack=2, state_depth_odd=128, channel_depth=16)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(TWO, id="2 lanes, shallow queues"),
        pytest.param(
            TWO.replace(
                lanes=3,
                fifo_depth=11,
                queue_depth=50,
                stack=3,
                state_depth_even=200,
                map_rows=11,
                multiplier_bits=8,
                accumulator_bits=20,
            ),
            id="3 lanes, no power of two",
        ),
        pytest.param(
            TWO.replace(lanes=4, streams=2, fifo_depth=32, queue_depth=512, stack=4),
            id="4 lanes, 2 streams",
        ),
    ],
)
def test_core(config, tmp_path):
    run_bench("core", config, tmp_path)
