"""The core in silicon: from random registers and rows to answers that are exact to the bit."""

import numpy as np
import pytest

from reticent.compiler import compile_network
from reticent.config import BuildConfig
from reticent.golden import Golden
from reticent.random_networks import Limits, random_frames, random_network
from reticent_hw.asic.pdk import find_pdk
from reticent_sim.silicon import silicon_backend

FRAMES = 12
SEEDS = range(4)
LIMITS = Limits(weights=8_000, layers=3)
BUILD = BuildConfig(
    lanes=3,
    fifo_depth=16,
    queue_depth=96,
    frame_depth=2048,
    layers=4,
    weight_depth=8192,
    pointer_depth=4096,
    state_depth_even=2048,
    state_depth_odd=2048,
    map_depth=128,
    relative_bits=12,
)


@pytest.fixture(params=["osu018", "ihp-sg13g2"])
def pdk(request):
    """Memories as black boxes of their own size, and as several macros each."""
    root = request.getfixturevalue("osu_root" if request.param == "osu018" else "ihp_root")
    return find_pdk(request.param, root=root)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_depends_on_power_up(seed, pdk):
    """Outputs, events and multiplications of every frame, and all accumulators at the end.

    The counts of cycles agree for all power-ups, too.
    """
    network = random_network(seed, LIMITS)
    frames = random_frames(network, seed, FRAMES)
    image = compile_network(network, BUILD, frames[:3])
    golden = Golden(network)
    cycles = []
    for power_up in (1 + seed, 1000 + seed):
        device = silicon_backend(BUILD, image, pdk, seed=power_up)
        golden.reset()
        device.reset()
        taken = []
        for step, frame in enumerate(frames):
            where = f"seed {seed}, power-up {power_up}, step {step}"
            expected, got = golden.step(frame), device.step(frame)
            np.testing.assert_array_equal(got.outputs, expected.outputs, where)
            assert list(got.events) == expected.events, where
            assert list(got.significant) == expected.significant, where
            taken.append(got.cycles)
        for i, acc in enumerate(device.accumulators()):
            np.testing.assert_array_equal(acc, golden.acc[i], f"accumulators of layer {i}")
        device.close()
        cycles.append(taken)
    assert cycles[0] == cycles[1]
