"""Random networks on the Verilated core: every frame, and all accumulators at the end."""

import numpy as np
import pytest

from reticent.compiler import compile_network
from reticent.config import BuildConfig
from reticent.cycles import CycleModel
from reticent.fold import FOLDS, Fold
from reticent.golden import Golden
from reticent.random_networks import Limits, random_frames, random_network
from reticent_sim.backend import sim_backend

FRAMES = 24
QUICK = range(12)
ALL = range(100)
# Of networks that the default builds hold, whatever the number of lanes.
SMALLER = Limits(input_size=20, map_size=12, channels=32, neurons=1600, kernel=6)


def compare(
    seed: int, config: BuildConfig, fold: Fold | None = None, limits: Limits | None = None
) -> None:
    """Two episodes of a network on golden model and device; the cycle model predicts the counters.

    `fold` is one for every seed in turns unless given.
    """
    network = random_network(seed, limits)
    frames = random_frames(network, seed, FRAMES)
    fold = fold or FOLDS[seed % len(FOLDS)]
    image = compile_network(network, config, frames[:3], fold=fold)
    golden, device, model = Golden(network), sim_backend(config, image), CycleModel(image)
    for episode in range(2):
        golden.reset()
        device.reset()
        model.reset()
        for step, frame in enumerate(frames[episode * FRAMES // 2 :]):
            where = f"seed {seed} folded {fold}, episode {episode}, step {step}"
            expected, got = golden.step(frame), device.step(frame)
            np.testing.assert_array_equal(got.outputs, expected.outputs, f"outputs, {where}")
            assert list(got.events) == expected.events, f"events, {where}"
            assert list(got.significant) == expected.significant, f"multiplications, {where}"
            cycles = got.cycles
            assert config.lanes * cycles.total == cycles.busy + sum(cycles.lost.values()), where
            assert model.step(np.asarray(frame), golden.fired) == cycles, f"cycles, {where}"
        for i, acc in enumerate(device.accumulators()):
            np.testing.assert_array_equal(acc, golden.acc[i], f"accumulators of layer {i}, {where}")
    device.close()


@pytest.mark.parametrize("seed", QUICK)
def test_random_network(seed, roomy):
    compare(seed, roomy)


@pytest.mark.parametrize("fold", FOLDS)
@pytest.mark.parametrize("seed", QUICK[:4])
def test_two_streams(seed, fold, two_streams):
    compare(seed, two_streams, fold)


@pytest.mark.slow
@pytest.mark.parametrize("fold", FOLDS)
@pytest.mark.parametrize("seed", ALL)
def test_every_fold(seed, fold, roomy):
    compare(seed, roomy, fold)


@pytest.mark.slow
@pytest.mark.parametrize("seed", ALL)
def test_two_streams_of_three_lanes(seed, two_streams):
    compare(seed, two_streams)


@pytest.mark.slow
@pytest.mark.parametrize("seed", ALL)
def test_four_streams(seed, four_streams):
    compare(seed, four_streams)


@pytest.mark.slow
@pytest.mark.parametrize("seed", ALL)
def test_five_lanes(seed, roomy):
    """The same on a number of lanes that is no power of two."""
    depths = {name: getattr(roomy, name) for name in ("state_depth_odd", "state_depth_even")}
    depths |= {name: getattr(roomy, name) for name in ("pointer_depth", "weight_depth")}
    compare(seed, BuildConfig.for_lanes(5, relative_bits=13, **depths))


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [8, 32, 64])
@pytest.mark.parametrize("seed", ALL)
def test_default_builds(seed, lanes):
    """The builds that the bench measures."""
    compare(seed, BuildConfig.for_lanes(lanes), limits=SMALLER)
