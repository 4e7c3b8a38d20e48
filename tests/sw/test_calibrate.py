"""Tuned activation scales."""

import numpy as np
import pytest

from reticent.agent import find_agent
from reticent.atari import record_trace
from reticent.backends import make_model
from reticent.calibrate import tune_scales
from reticent.config import BuildConfig
from reticent.engine import Engine, FloatEngine
from reticent.network import Dense, InputSpec, Network
from reticent.quantise import activation_scales, quantise


def outlier_network() -> Network:
    """Hidden values around 1, and one around 50 that the outputs hardly see."""
    hidden = np.zeros((3, 4), np.float32)
    hidden[0, 0], hidden[1, 1], hidden[2, 2] = 2.0, 2.0, 100.0
    outputs = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1e-6]], np.float32)
    return Network(
        input=InputSpec(height=1, width=1, channels=4, stack=1),
        layers=(
            Dense(name="hidden", weight=hidden, bias=np.zeros(3, np.float32)),
            Dense(name="out", weight=outputs, bias=np.zeros(2, np.float32), activation="identity"),
        ),
    )


def test_outliers_do_not_take_all_counts():
    network = outlier_network()
    frames = np.random.default_rng(0).integers(0, 256, (60, 1, 1, 4), np.uint8)
    peaks = activation_scales(network, frames)
    tuned = tune_scales(network, frames, threshold=0.0)
    assert tuned[0] < peaks[0] / 2
    assert tuned == tune_scales(network, frames, threshold=0.0)


def agreement(agent, scales, frames, resets):
    """Share of clear decisions (the closest quarter left out) on which int8 and float agree."""
    exact = FloatEngine(agent.network, 0.01)
    integer = Engine(quantise(agent.network, scales))
    wanted, got = [], []
    for frame, reset in zip(frames, resets, strict=True):
        for model, outputs in ((exact, wanted), (integer, got)):
            if reset:
                model.reset()
            outputs.append(model.step(frame).outputs)
    wanted, got = np.array(wanted), np.array(got)
    ordered = np.sort(wanted, axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    return (got.argmax(axis=1) == wanted.argmax(axis=1))[margin >= np.quantile(margin, 0.25)].mean()


def test_tuned_scales_keep_more_decisions_than_peaks():
    agent = find_agent(None, "breakout")
    frames, resets = agent.calibration, [True] + [False] * (len(agent.calibration) - 1)
    tuned = agreement(agent, agent.scales, frames, resets)
    fitted = agreement(agent, activation_scales(agent.network, frames), frames, resets)
    assert tuned >= 0.98
    assert tuned > fitted


@pytest.mark.slow
def test_the_shipped_agent_keeps_its_decisions_on_fresh_frames():
    """The project's figure: 0.99, on 4,000 frames that did not calibrate."""
    agent = find_agent(None, "breakout")
    policy = make_model("float", agent, 0.01, BuildConfig())
    frames, resets = record_trace("breakout", policy, 4000, seed=100, epsilon=0.01)
    assert agreement(agent, agent.scales, frames, resets) >= 0.99
