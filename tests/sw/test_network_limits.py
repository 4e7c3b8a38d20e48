"""Networks that must be refused, quickly and by name, before anything of their size is made."""

import time

import numpy as np
import pytest

from reticent.errors import UserError
from reticent.network import LARGEST, AvgPool, Conv, Dense, Flatten, InputSpec, Network


def network(*layers, height=8, width=8, **spec):
    return Network(input=InputSpec(height=height, width=width, stack=1, **spec), layers=layers)


def conv(*shape, name="conv", bias=None, **options):
    weight = np.zeros(shape, np.float32)
    bias = np.zeros(shape[0], np.float32) if bias is None else bias
    return Conv(name=name, weight=weight, bias=bias, **options)


def dense(*shape, name="out", **options):
    return Dense(
        name=name,
        weight=np.zeros(shape, np.float32),
        bias=np.zeros(shape[0], np.float32),
        **{"activation": "identity"} | options,
    )


def pool(kernel, stride=(1, 1), padding=(0, 0)):
    return AvgPool(name="pool", kernel=kernel, stride=stride, padding=padding)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (pool((9, 1)), r"pool: kernel \(9, 1\) with padding \(0, 0\) does not fit a map of 8 x 8"),
        (pool((2**40, 2**40)), "does not fit"),
        (pool((2, 2), padding=(2, 0)), "give a kernel above the padding"),
        (pool((2, 2), padding=(2**40, 2**40)), "does not fit"),
        (pool((2**20 + 1, 2**20 + 1), padding=(2**20, 2**20)), "weights, zeros included"),
        (pool((1, 2**25 + 1), padding=(0, 2**25)), "outputs: give 1 to"),
        (pool((0, 1)), r"pool: kernel is \(0, 1\): give two whole numbers of at least 1"),
        (pool((1.5, 1)), "two whole numbers"),
        (pool((float("nan"), 1)), "two whole numbers"),
        (pool(("2", "2")), "two whole numbers"),
        (pool(2), "kernel is 2"),
        (pool((1, 1), stride=(0, 1)), "stride is"),
        (pool((1, 1), padding=(-1, 0)), "padding is"),
        (conv(1, 1, 9, 9), "does not fit"),
        (conv(1, 1, 0, 1), "does not fit"),
        (conv(0, 1, 1, 1), "conv: it has 0 weights"),
        (conv(1, 2, 1, 1), r"expected \(out, 1, ky, kx\)"),
        (conv(1, 1), "expected"),
        (conv(2, 1, 1, 1, bias=np.zeros(3, np.float32)), r"bias has shape \(3,\), expected \(2,\)"),
        (conv(1, 1, 1, 1, bias=np.full(1, np.inf, np.float32)), "not finite"),
        (conv(1, 1, 1, 1, activation="tanh"), "activation 'tanh' is not supported"),
    ],
)
def test_refused_layer(layer, message):
    start = time.perf_counter()
    with pytest.raises(UserError, match=message):
        network(layer, Flatten(), dense(1, 64))
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("shape", [(64,), (1, 1, 64), (1, 63), (0, 64)])
def test_dense_weights_of_another_shape(shape):
    with pytest.raises(UserError, match=r"out: (weight has shape|it has 0 weights)"):
        network(Flatten(), dense(*shape))


def test_pooling_many_channels_is_refused_before_its_weights_are_made():
    start = time.perf_counter()
    with pytest.raises(UserError, match=f"pool: it has .* weights.*give 1 to {LARGEST}"):
        network(pool((8, 8)), Flatten(), dense(1, 1), channels=1 << 15)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("size", [{"height": 1 << 30}, {"stack": 1 << 30}, {"channels": 1 << 30}])
def test_input_beyond_any_device(size):
    with pytest.raises(UserError, match="give up to"):
        InputSpec(**{"height": 8, "width": 8} | size)


@pytest.mark.parametrize("value", [0, -1, 1.5, "8", None])
def test_input_of_odd_size(value):
    with pytest.raises(UserError, match="input height is"):
        InputSpec(height=value, width=8)


def test_whole_numbers_of_numpy_are_accepted():
    checked = network(
        pool(tuple(np.array([8, 8])), tuple(np.array([8, 8]))), Flatten(), dense(1, 1)
    )
    assert checked.linear[0].stride == (8, 8)
    assert all(type(v) is int for v in checked.linear[0].stride)


def test_largest_kernel_that_fits():
    checked = network(pool((10, 10), padding=(1, 1)), Flatten(), dense(2, 1))
    assert checked.linear[0].out_shape == (1, 1, 1)
    assert checked.density == 0
