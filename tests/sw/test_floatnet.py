"""The float delta network: the published counting, and dense evaluation."""

import numpy as np
import pytest

from reticent.floatnet import FloatDelta, dense_forward, frame_history, observe
from reticent.network import (
    AvgPool,
    Conv,
    Dense,
    Flatten,
    InputSpec,
    Network,
    reference_network,
)
from reticent.random_networks import random_float_network, random_frames


@pytest.mark.parametrize("actions", [4, 6, 18])
def test_dense_multiplications_of_the_reference_network(actions):
    layers = reference_network(actions).linear
    assert [layer.dense_multiplications for layer in layers] == [
        3_276_800,
        1_327_104,
        294_912,
        524_288,
        512 * actions,
    ]
    assert [layer.out_shape for layer in layers] == [
        (32, 20, 20),
        (32, 9, 9),
        (64, 4, 4),
        (512, 1, 1),
        (actions, 1, 1),
    ]


def test_pooling_multiplies_each_channel_with_its_own_kernel():
    spec = InputSpec(height=4, width=4, stack=3)
    pool = AvgPool(name="pool", kernel=(2, 2), stride=(2, 2))
    dense = Dense(
        name="out",
        weight=np.ones((1, 12), np.float32),
        bias=np.zeros(1, np.float32),
        activation="identity",
    )
    network = Network(input=spec, layers=(pool, Flatten(), dense))
    assert network.linear[0].dense_multiplications == 3 * 2 * 2 * 2 * 2
    outputs = dense_forward(network, np.ones((3, 4, 4), np.float32))
    assert np.allclose(outputs[0], 1)
    assert np.allclose(outputs[1], 12)


def small_network() -> Network:
    """1 x 3 pixels, kernel 2 with a pruned weight for two channels, then a dense output."""
    conv = Conv(
        name="conv",
        weight=np.array([[[[1, 2]]], [[[0, -1]]]], np.float32),
        bias=np.array([0.5, 0], np.float32),
    )
    out = Dense(
        name="out",
        weight=np.array([[1, 0, 3, 4]], np.float32),
        bias=np.array([10], np.float32),
        activation="identity",
    )
    spec = InputSpec(height=1, width=3, stack=1)
    return Network(input=spec, layers=(conv, Flatten(), out))


def test_published_counting_by_hand():
    delta = FloatDelta(small_network(), [0.1, 0.25])

    # Nothing moves, but the bias of 0.5 makes both neurons of the first channel fire once: one
    # of their two output weights is pruned.
    step = delta.step(np.array([[[0.0, 0.0, 0.0]]], np.float32))
    assert (step.events, step.significant) == ([0, 2], [0, 1])
    assert step.outputs.tolist() == [10.5]

    # Pixel 0 (one position) meets w = 1, pixel 2 (one position) w = 2 and w = -1. Pixel 1 moved
    # by exactly the threshold: silent. Channel 0: 0.75 moved by the threshold, 1.5 by more.
    step = delta.step(np.array([[[0.25, 0.1, 0.5]]], np.float32))
    assert (step.events, step.significant) == ([2, 1], [3, 0])
    assert delta.sums[0].tolist() == [[[0.75, 1.5]], [[0, -0.5]]]
    assert step.outputs.tolist() == [10.5]

    # The middle pixel meets 1 and 2 of channel 0 and -1 of channel 1 (the other is pruned).
    # 2.75 and 2.5 fire; channel 1 stays below zero, ReLU keeps it silent.
    step = delta.step(np.array([[[0.25, 1.0, 0.5]]], np.float32))
    assert (step.events, step.significant) == ([1, 2], [3, 1])
    assert step.outputs.tolist() == [10 + 2.75]


def test_the_last_sent_value_is_kept_and_slow_drift_is_sent_in_the_end():
    delta = FloatDelta(small_network(), [0.1, 10.0])
    sent = []
    for value in np.linspace(0, 0.3, 7, dtype=np.float32):
        delta.step(np.array([[[value, 0, 0]]], np.float32))
        sent.append(float(delta.sent[0][0, 0, 0]))
    assert np.allclose(sent, [0, 0, 0, 0.15, 0.15, 0.15, 0.3])


@pytest.mark.parametrize("seed", range(10))
def test_threshold_zero_equals_the_dense_network(seed):
    network = random_float_network(seed)
    delta = FloatDelta(network, [0.0] * len(network.linear))
    for observation in observe(network.input, random_frames(network, seed, 5)):
        expected = dense_forward(network, observation)[-1].reshape(-1)
        np.testing.assert_allclose(delta.step(observation).outputs, expected, atol=1e-4, rtol=1e-4)


def test_a_reset_forgets():
    network = random_float_network(2)
    observations = list(observe(network.input, random_frames(network, 2, 3)))
    delta = FloatDelta(network, [0.01] * len(network.linear))
    first = [delta.step(x) for x in observations]
    delta.reset()
    for expected, observation in zip(first, observations, strict=True):
        step = delta.step(observation)
        assert np.array_equal(step.outputs, expected.outputs)
        assert step.events == expected.events


@pytest.mark.parametrize(("history", "older"), [("zeros", 0), ("repeat", 5)])
def test_frame_history_is_oldest_first(history, older):
    spec = InputSpec(height=1, width=1, stack=3, history=history)
    frames = [np.array([[value]], np.uint8) for value in (5, 6, 7, 8)]
    stacks = [stack.reshape(-1).tolist() for stack in frame_history(spec, frames)]
    assert stacks == [[older, older, 5], [older, 5, 6], [5, 6, 7], [6, 7, 8]]


def test_observations_are_fractions_of_255():
    spec = InputSpec(height=1, width=2, stack=1)
    (observation,) = observe(spec, [np.array([[255, 51]], np.uint8)])
    assert observation.dtype == np.float32
    assert np.allclose(observation, [[[1, 0.2]]])
