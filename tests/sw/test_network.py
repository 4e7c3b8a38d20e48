"""Network descriptions: what is accepted, and that the rest is refused by name."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from reticent.errors import UserError
from reticent.floatnet import dense_forward
from reticent.network import (
    AvgPool,
    Conv,
    Dense,
    Flatten,
    InputSpec,
    Network,
    reference_network,
)
from reticent.random_networks import random_float_network

SPEC = InputSpec(height=6, width=5, stack=2)


def ones(*shape):
    return np.ones(shape, np.float32)


CONV = Conv(name="conv", weight=ones(3, 2, 2, 2), bias=ones(3), stride=(2, 1), padding=(1, 0))
OUT = Dense(name="out", weight=ones(4, 48), bias=ones(4), activation="identity")


def build(*layers, spec=SPEC):
    return Network(input=spec, layers=layers)


def test_a_chain_becomes_convolutions():
    network = build(CONV, Flatten(), OUT)
    conv, out = network.linear
    assert (conv.in_shape, conv.out_shape) == ((2, 6, 5), (3, 4, 4))
    assert (out.in_shape, out.out_shape) == ((3, 4, 4), (4, 1, 1))
    assert out.weight.shape == (4, 3, 4, 4)
    assert network.outputs == 4
    assert network.density == 1.0


def test_flatten_is_in_channel_y_x_order():
    weight = np.zeros((1, 48), np.float32)
    weight[0, 1 * 16 + 2 * 4 + 3] = 1
    network = build(CONV, Flatten(), replace(OUT, weight=weight, bias=np.zeros(1, np.float32)))
    assert network.linear[1].weight[0, 1, 2, 3] == 1
    observation = np.random.default_rng(0).random((2, 6, 5), dtype=np.float32)
    hidden, output = dense_forward(network, observation)
    assert np.isclose(output[0, 0, 0], hidden[1, 2, 3])


def test_a_dense_layer_on_one_position_needs_no_flatten():
    spec = InputSpec(height=1, width=1, channels=3, stack=1)
    network = build(replace(OUT, weight=ones(2, 3), bias=ones(2)), spec=spec)
    assert network.linear[0].in_shape == (3, 1, 1)


def test_a_convolution_that_leaves_one_position_may_end_the_network():
    network = build(replace(CONV, weight=ones(2, 2, 8, 5), bias=ones(2), activation="identity"))
    assert network.outputs == 2


@dataclass(frozen=True)
class MaxPool:
    name: str = "pool"


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((MaxPool(),), "layer MaxPool is not supported: accepted are conv, average pooling"),
        ((), "no layer with weights"),
        ((Flatten(),), "no layer with weights"),
        ((CONV, Flatten(), replace(OUT, name="conv")), "two layers are called 'conv'"),
        ((replace(CONV, activation="tanh"),), "'tanh' is not supported: accepted are relu"),
        ((CONV, OUT), "out: a dense layer after a map needs a flatten"),
        ((Flatten(), CONV), "conv: a Conv after flatten has no map"),
        ((CONV, Flatten()), "last layer gives a map of 4 x 4: end with a dense layer"),
        (
            (CONV, Flatten(), replace(OUT, activation="relu")),
            "out: the last layer has ReLU.* so give it activation 'identity'",
        ),
        (
            (CONV, Flatten(), replace(OUT, weight=ones(4, 47))),
            r"out: weight has shape \(4, 47\), expected \(out, 48\)",
        ),
        (
            (replace(CONV, weight=ones(3, 4, 2, 2)),),
            r"conv: weight has shape \(3, 4, 2, 2\), expected \(out, 2, ky, kx\)",
        ),
        ((replace(CONV, bias=ones(4)),), r"conv: bias has shape \(4,\), expected \(3,\)"),
        ((replace(CONV, bias=ones(3) * np.nan),), "conv: weights or biases are not finite"),
        ((replace(CONV, weight=ones(3, 2, 2, 2) * np.inf),), "conv: weights or biases are not"),
        ((replace(CONV, stride=(0, 1)),), r"conv: stride is \(0, 1\): give two whole numbers"),
        ((replace(CONV, stride=(1.5, 1)),), "conv: stride is"),
        ((replace(CONV, stride=(1,)),), "conv: stride is"),
        ((replace(CONV, padding=(-1, 0)),), r"conv: padding is \(-1, 0\)"),
        ((replace(CONV, padding=(2, 0)),), r"conv: kernel \(2, 2\) with padding \(2, 0\) does not"),
        ((replace(CONV, weight=ones(3, 2, 9, 2)),), r"does not fit a map of 6 x 5: give a kernel"),
        ((AvgPool(name="pool", kernel=(0, 2), stride=(1, 1)),), r"pool: kernel is \(0, 2\)"),
        ((AvgPool(name="pool", kernel=(9, 9), stride=(1, 1)),), "pool: kernel .* does not fit"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_is_not_supported_is_refused_by_name(layers, message):
    with pytest.raises(UserError, match=message):
        build(*layers)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"height": 0}, "input height is 0: give a whole number"),
        ({"stack": 1.5}, "input stack is 1.5"),
        ({"channels": -1}, "input channels is -1"),
        ({"history": "ones"}, "'ones': give 'zeros' or 'repeat'"),
        ({"height": 1 << 14, "width": 1 << 14}, "pixels in 4 frames: give up to"),
    ],
)
def test_odd_inputs_are_refused(choices, message):
    with pytest.raises(UserError, match=message):
        InputSpec(**{"height": 8, "width": 8, **choices})


def test_grey_frames_may_leave_the_channel_out():
    frame = np.zeros((6, 5), np.uint8)
    assert SPEC.check_frame(frame).shape == (6, 5, 1)
    assert SPEC.check_frame(frame[:, :, None]).shape == (6, 5, 1)
    with pytest.raises(UserError, match="6 x 5 x 3"):
        replace(SPEC, channels=3).check_frame(frame)


@pytest.mark.parametrize("seed", range(20))
def test_description_and_arrays_make_the_same_network(seed):
    network = random_float_network(seed)
    description = json.loads(json.dumps(network.describe()))
    again = Network.from_arrays(description, network.arrays())
    assert again.describe() == network.describe()
    for one, other in zip(network.linear, again.linear, strict=True):
        assert np.array_equal(one.weight, other.weight)
        assert np.array_equal(one.bias, other.bias)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, a: a.pop("conv.bias"), r"tensor 'conv.bias' is missing: the file has \["),
        (lambda d, a: d.pop("input"), "network description is not complete"),
        (lambda d, a: d["layers"][0].pop("name"), "description is not complete"),
        (lambda d, a: d["layers"][0].update(dilation=[2, 2]), "not complete .*dilation"),
        (lambda d, a: d["layers"][0].update(type="lstm"), "'lstm' is not supported: accepted are"),
        (lambda d, a: d["input"].update(depth=3), "not complete .*depth"),
    ],
)
def test_odd_descriptions_are_refused(change, message):
    network = build(CONV, Flatten(), OUT)
    description, arrays = network.describe(), network.arrays()
    change(description, arrays)
    with pytest.raises(UserError, match=message):
        Network.from_arrays(description, arrays)


def test_the_reference_network_is_reproducible_and_pruned():
    one, other = (reference_network(6, seed=3, density=0.2) for _ in range(2))
    assert np.array_equal(one.linear[3].weight, other.linear[3].weight)
    assert 0.19 < one.density < 0.21
    assert one.outputs == 6
    assert one.input == InputSpec(height=84, width=84, stack=4)
