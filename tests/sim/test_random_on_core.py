"""Random networks on the Verilated core: every frame, and all accumulators at the end."""

import numpy as np
import pytest

from reticent.compiler import compile_network
from reticent.config import BuildConfig
from reticent.golden import Golden
from reticent.random_networks import random_frames, random_network
from reticent_sim.backend import sim_backend

FRAMES = 24
QUICK = range(12)
ALL = range(100)


def compare(seed: int, config: BuildConfig) -> None:
    """Two episodes of a network on golden model and device."""
    network = random_network(seed)
    frames = random_frames(network, seed, FRAMES)
    image = compile_network(network, config, frames[:3])
    golden, device = Golden(network), sim_backend(config, image)
    for episode in range(2):
        golden.reset()
        device.reset()
        for step, frame in enumerate(frames[episode * FRAMES // 2 :]):
            where = f"seed {seed}, episode {episode}, step {step}"
            expected, got = golden.step(frame), device.step(frame)
            np.testing.assert_array_equal(got.outputs, expected.outputs, f"outputs, {where}")
            assert list(got.events) == expected.events, f"events, {where}"
            assert list(got.significant) == expected.significant, f"multiplications, {where}"
            cycles = got.cycles
            assert config.lanes * cycles.total == cycles.busy + sum(cycles.lost.values()), where
        for i, acc in enumerate(device.accumulators()):
            np.testing.assert_array_equal(acc, golden.acc[i], f"accumulators of layer {i}, {where}")
    device.close()


@pytest.mark.parametrize("seed", QUICK)
def test_random_network(seed, roomy):
    compare(seed, roomy)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [seed for seed in ALL if seed not in QUICK])
def test_more_random_networks(seed, roomy):
    compare(seed, roomy)


@pytest.mark.slow
@pytest.mark.parametrize("seed", ALL)
def test_five_lanes(seed, roomy):
    """The same on a number of lanes that is no power of two."""
    depths = {name: getattr(roomy, name) for name in ("state_depth_odd", "state_depth_even")}
    compare(seed, BuildConfig.for_lanes(5, pointer_depth=roomy.pointer_depth, **depths))
