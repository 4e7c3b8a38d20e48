"""The cycle model predicts what the gateware counts, frame by frame, to the cycle."""

import numpy as np
import pytest

from reticent.agent import find_agent
from reticent.compiler import compile_network
from reticent.config import BuildConfig
from reticent.cycles import CycleModel
from reticent.engine import Engine
from reticent.random_networks import random_frames, random_network
from reticent_sim.backend import sim_backend


def differences(network, config, frames, *, thresholds=(), trace=()):
    """Frames on which model and device disagree; `thresholds` maps a frame to new counts."""
    image = compile_network(network, config, trace)
    device, model, engine = sim_backend(config, image), CycleModel(image), Engine(network)
    found = []
    for n, frame in enumerate(frames):
        if n in thresholds:
            device.set_thresholds(thresholds[n])
            engine.set_thresholds(thresholds[n])
            model.reset()
        counted = device.step(frame).cycles
        engine.step(frame)
        predicted = model.step(frame, engine.fired)
        if predicted != counted:
            found.append((n, predicted, counted))
    device.close()
    return found


def test_breakout_from_the_cold_start():
    agent = find_agent(None, "breakout")
    frames = list(agent.calibration[:60])
    changes = {40: [0] * 5, 50: [4, 0, 9, 1, 30]}
    config = BuildConfig.for_lanes(16)
    assert not differences(
        agent.quantised(), config, frames, thresholds=changes, trace=agent.calibration
    )


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [8, 32, 64])
def test_breakout_on_other_numbers_of_lanes(lanes):
    agent = find_agent(None, "breakout")
    config = BuildConfig.for_lanes(lanes)
    assert not differences(
        agent.quantised(), config, list(agent.calibration), trace=agent.calibration
    )


SEEDS = [*range(8), *(pytest.param(s, marks=pytest.mark.slow) for s in range(8, 100))]


@pytest.mark.parametrize("seed", SEEDS)
def test_random_networks(seed, roomy):
    """Small and odd ones, with frames that fill the event queue and frames that are silent."""
    network = random_network(seed)
    frames = random_frames(network, seed, 12)
    assert not differences(network, roomy, [np.asarray(f) for f in frames])
