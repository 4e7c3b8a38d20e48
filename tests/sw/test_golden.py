"""The golden model against its definition."""

import numpy as np
import pytest

from reticent.errors import UserError
from reticent.golden import Golden, convolve, dense_reference
from reticent.network import InputSpec
from reticent.quantise import QuantisedLayer, QuantisedNetwork
from reticent.random_networks import random_frames, random_network


def expected_accumulators(layer, sent):
    """bias + sum(w * sent), multiplied out one output at a time."""
    (py, px), (sy, sx) = layer.padding, layer.stride
    _, _, ky, kx = layer.weight.shape
    padded = np.pad(sent, ((0, 0), (py, py), (px, px)))
    acc = np.empty(layer.out_shape, np.int64)
    for y in range(layer.out_shape[1]):
        for x in range(layer.out_shape[2]):
            window = padded[:, y * sy : y * sy + ky, x * sx : x * sx + kx]
            acc[:, y, x] = layer.bias + (layer.weight * window).sum(axis=(1, 2, 3))
    return acc


@pytest.mark.parametrize("seed", range(20))
def test_accumulators_hold_exactly_what_was_sent(seed):
    network = random_network(seed)
    golden = Golden(network)
    for frame in random_frames(network, seed, 4):
        before = [sent.copy() for sent in golden.sent]
        step = golden.step(frame)
        for i, layer in enumerate(network.layers):
            assert np.array_equal(golden.acc[i], expected_accumulators(layer, golden.sent[i]))
            assert np.array_equal(golden.delta[i], golden.sent[i] - before[i])
            assert np.abs(golden.acc[i]).max() <= layer.accumulator_bound
            assert step.events[i] == np.count_nonzero(golden.delta[i])
            assert 0 <= step.significant[i] <= layer.dense_multiplications
        assert np.array_equal(step.outputs, golden.acc[-1].reshape(-1))


@pytest.mark.parametrize("seed", range(40))
def test_threshold_zero_equals_the_dense_network(seed):
    network = random_network(seed)
    network = network.with_counts([0] * len(network.layers))
    golden = Golden(network)
    frames = random_frames(network, seed, 6)
    for frame, expected in zip(frames, dense_reference(network, frames), strict=True):
        assert np.array_equal(golden.step(frame).outputs, expected)


def tiny_layer(weight, bias, **choices):
    """A hidden 1 x 1 ReLU layer of one channel unless told otherwise: activation = accumulator."""
    fields = {
        "name": "tiny",
        "weight": np.array(weight, np.int8),
        "bias": np.array(bias, np.int64),
        "multiplier": np.full(len(bias), 2),
        "shift": 1,
        "signed": False,
        "threshold": 0,
        "scale": 1.0,
        "stride": (1, 1),
        "padding": (0, 0),
        "dense_multiplications": 0,
    }
    return QuantisedLayer(**{**fields, **choices})


def tiny_network(**choices):
    """A 1 x 3 frame, a kernel of 2 with a pruned weight for two channels, then one output."""
    hidden = tiny_layer(
        [[[[1, 2]]], [[[0, 1]]]],
        [10, -100],
        in_shape=(1, 1, 3),
        out_shape=(2, 1, 2),
        threshold=5,
    )
    out = tiny_layer(
        [[[[1, 1]], [[3, 0]]]],
        [0],
        in_shape=(2, 1, 2),
        out_shape=(1, 1, 1),
        stride=(1, 2),
        signed=True,
    )
    spec = {"height": 1, "width": 3, "stack": 1, **choices}
    return QuantisedNetwork(input=InputSpec(**spec), input_threshold=2, layers=(hidden, out))


def test_events_and_multiplications_counted_by_hand():
    golden = Golden(tiny_network())

    # All black: nothing is sent, but the first channel's bias of 10 exceeds its threshold of 5.
    step = golden.step(np.array([[0, 0, 0]], np.uint8))
    assert (step.events, step.significant) == ([0, 2], [0, 2])
    assert step.outputs.tolist() == [20]

    # Pixel 0 meets w = 1 of one output (its other position is off the map); pixel 2 meets w = 2
    # and w = 1 (the other channel). Pixel 1 moves by its threshold only: silent.
    step = golden.step(np.array([[4, 2, 3]], np.uint8))
    assert step.events[0] == 2
    assert step.significant[0] == 1 + 2
    assert golden.acc[0].tolist() == [[[14, 16]], [[-100, -97]]]
    # 14 moved by 4 from the 10 it sent: silent. 16 moved by 6: one event, one weight.
    assert (step.events[1], step.significant[1]) == (1, 1)
    assert step.outputs.tolist() == [10 + 16]

    # The middle pixel now differs by 200 from the 0 it last sent, and meets every kernel tap:
    # w = 2, 1 at one position and w = 1 (the other one is pruned) at the other.
    step = golden.step(np.array([[4, 200, 3]], np.uint8))
    assert (step.events[0], step.significant[0]) == (1, 3)
    assert golden.acc[0].tolist() == [[[414, 216]], [[100, -97]]]
    # 255 (saturated), 216 and 100 fire; they meet 1, 1 and 1 weights.
    assert (step.events[1], step.significant[1]) == (3, 3)
    assert step.outputs.tolist() == [255 + 216 + 3 * 100]


def test_a_threshold_change_reaches_neurons_that_nothing_touched():
    golden = Golden(tiny_network())
    golden.step(np.array([[0, 0, 0]], np.uint8))
    golden.step(np.array([[4, 0, 0]], np.uint8))
    assert golden.sent[1].tolist() == [[[10, 10]], [[0, 0]]]  # 14 is within the threshold of 10
    golden.set_thresholds([2, 3])
    step = golden.step(np.array([[4, 0, 0]], np.uint8))
    assert step.events == [0, 1]
    assert golden.sent[1].tolist() == [[[14, 10]], [[0, 0]]]


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [([1], "1 thresholds given"), ([0, 256], "256 counts"), ([-1, 0], "-1 counts")],
)
def test_odd_thresholds_are_refused(thresholds, message):
    with pytest.raises(UserError, match=message):
        Golden(tiny_network()).set_thresholds(thresholds)


@pytest.mark.parametrize(
    ("history", "sent"),
    [
        ("zeros", [[0, 0, 9], [0, 9, 9], [9, 9, 50], [9, 50, 50]]),
        ("repeat", [[9, 9, 9], [9, 9, 9], [9, 9, 50], [9, 50, 50]]),
    ],
)
def test_the_stack_holds_what_older_frames_sent(history, sent):
    layer = tiny_layer([[[[1]], [[1]], [[1]]]], [0], in_shape=(3, 1, 1), out_shape=(1, 1, 1))
    spec = InputSpec(height=1, width=1, stack=3, history=history)
    golden = Golden(QuantisedNetwork(input=spec, input_threshold=2, layers=(layer,)))
    for _ in range(2):  # a reset forgets everything
        for pixel, expected in zip([9, 11, 50, 52], sent, strict=True):
            golden.step(np.array([[pixel]], np.uint8))
            assert golden.sent[0].reshape(-1).tolist() == expected
        golden.reset()


def test_channels_of_a_frame_lie_together_in_the_stack():
    layer = tiny_layer([[[[1]]] * 4], [0], in_shape=(4, 1, 1), out_shape=(1, 1, 1))
    spec = InputSpec(height=1, width=1, channels=2, stack=2)
    golden = Golden(QuantisedNetwork(input=spec, input_threshold=0, layers=(layer,)))
    golden.step(np.array([[[1, 2]]], np.uint8))
    golden.step(np.array([[[3, 4]]], np.uint8))
    assert golden.sent[0].reshape(-1).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((1, 3)), "float64: give uint8"),
        (np.zeros((3, 1), np.uint8), r"shape \(3, 1\): this network watches 1 x 3 x 1"),
        (np.zeros((1, 3, 2), np.uint8), r"shape \(1, 3, 2\)"),
    ],
)
def test_odd_frames_are_refused(frame, message):
    with pytest.raises(UserError, match=message):
        Golden(tiny_network()).step(frame)


def test_a_threshold_of_255_silences_everything():
    network = random_network(4)
    golden = Golden(network.with_counts([255] * len(network.layers)))
    for frame in random_frames(network, 1, 3):
        assert not any(golden.step(frame).events)


def test_convolve_adds_no_bias():
    layer = tiny_network().layers[0]
    assert not convolve(layer, layer.weight.astype(np.int64), np.zeros((1, 1, 3), np.int64)).any()
