"""The random networks and frames are as odd as they promise, and always the same."""

from collections import Counter

import numpy as np
import pytest

from reticent.arithmetic import signed_bits
from reticent.errors import UserError
from reticent.golden import Golden
from reticent.random_networks import Limits, random_float_network, random_frames, random_network

SEEDS = 100


def is_pool(layer):
    """Every output has weights of its own channel only, all ones."""
    out, inputs, *_ = layer.weight.shape
    return out == inputs > 1 and np.array_equal(layer.weight.any(axis=(2, 3)), np.eye(out))


def features(network):
    """Names of what is special in a network."""
    yield f"{len(network.layers)} layers"
    yield f"history {network.input.history}"
    yield f"stack {network.input.stack}"
    yield f"frame channels {network.input.channels}"
    if 0 in network.thresholds:
        yield "a threshold of 0"
    if max(network.thresholds) > 30:
        yield "a threshold above 30"
    for layer, following in zip(network.layers, (*network.layers[1:], None), strict=True):
        _, in_height, in_width = layer.in_shape
        out, out_height, out_width = layer.out_shape
        kernel = layer.weight.shape[2:]
        dense = kernel == (in_height, in_width) and (out_height, out_width) == (1, 1)
        if following is not None:
            yield "identity" if layer.signed else "ReLU"
            yield "dense" if dense else "pool" if is_pool(layer) else "conv"
        if following is not None and not dense:
            yield f"kernel {kernel[0]}"
            yield f"stride {layer.stride[0]}"
            if kernel[0] != kernel[1]:
                yield "oblong kernel"
            if layer.stride[0] > kernel[0]:
                yield "stride beyond the kernel"
            if max(layer.padding) > 0:
                yield "padding"
            if (in_height + 2 * layer.padding[0] - kernel[0]) % layer.stride[0]:
                yield "inputs past the last window"
        if out == 1:
            yield "1 output channel"
        if out > 32:
            yield "more than 32 output channels"
        weight, fanout = layer.weight, layer.weight.any(axis=(0, 2, 3))
        density = np.count_nonzero(weight) / weight.size
        if density < 0.05:
            yield "density below 5 %"
        if density > 0.95:
            yield "density above 95 %"
        if not fanout.all():
            yield "empty column"
        empty = ~weight.any(axis=(1, 2, 3))
        if (empty & (layer.bias < 0)).any():
            yield "dead channel"
        if following is not None and 0 in layer.multiplier:
            yield "a multiplier of 0"
        if layer.multiplier.max() == 65535:
            yield "the largest multiplier"
        if signed_bits(layer.accumulator_bound) >= 21:
            yield "accumulators of 21 bits or more"


def test_every_feature_occurs():
    found = Counter()
    for seed in range(SEEDS):
        found.update(set(features(random_network(seed))))
    wanted = {
        *(f"{n} layers" for n in (1, 2, 3, 4)),
        *(f"stack {n}" for n in (1, 2, 3, 4)),
        *(f"frame channels {n}" for n in (1, 2, 3)),
        *(f"kernel {n}" for n in range(1, 9)),
        *(f"stride {n}" for n in (1, 2, 3, 4)),
        *("history zeros", "history repeat", "conv", "pool", "dense", "ReLU", "identity"),
        *("a threshold of 0", "a threshold above 30", "padding", "oblong kernel"),
        *("stride beyond the kernel", "inputs past the last window", "1 output channel"),
        *("more than 32 output channels", "density below 5 %", "density above 95 %"),
        *("empty column", "dead channel", "a multiplier of 0", "the largest multiplier"),
        "accumulators of 21 bits or more",
    }
    rare = {name: found[name] for name in wanted if found[name] < 4}
    assert not rare, f"too rare in {SEEDS} networks: {rare}"


def test_activations_round_saturate_and_stay_between():
    values = Counter()
    for seed in range(SEEDS):
        network = random_network(seed)
        golden = Golden(network)
        for frame in random_frames(network, seed, 4):
            golden.step(frame)
        for layer, sent in zip(network.layers[:-1], golden.sent[1:], strict=True):
            ends = (-128, 127) if layer.signed else (0, 255)
            values["low"] += bool((sent == ends[0]).any())
            values["high"] += bool((sent == ends[1]).any())
            values["between"] += bool(((sent > ends[0]) & (sent < ends[1]) & (sent != 0)).any())
    assert min(values.values()) > 20, values


def test_every_kind_of_frame_occurs():
    found = Counter()
    for seed in range(40):
        network = random_network(seed)
        frames = random_frames(network, seed, 20)
        assert len(frames) == 20
        assert all(f.dtype == np.uint8 and f.shape == network.input.frame_shape for f in frames)
        pairs = list(zip(frames[1:], frames, strict=False))
        found["black"] += any(not f.any() for f in frames)
        found["white"] += any((f == 255).all() for f in frames)
        found["repeated"] += any(np.array_equal(a, b) for a, b in pairs)
        found["partly changed"] += any(0 < np.mean(a != b) < 0.5 for a, b in pairs)
        found["wholly changed"] += any(np.mean(a != b) > 0.9 for a, b in pairs)
    assert min(found.values()) >= 10, found


def test_the_same_seed_gives_the_same_network_and_frames():
    one, other = random_network(7), random_network(7)
    for a, b in zip(one.layers, other.layers, strict=True):
        assert np.array_equal(a.weight, b.weight)
        assert np.array_equal(a.multiplier, b.multiplier)
    assert one.thresholds == other.thresholds
    assert np.array_equal(random_frames(one, 3, 9), random_frames(other, 3, 9))
    assert np.array_equal(
        random_float_network(7).linear[0].weight, random_float_network(7).linear[0].weight
    )


@pytest.mark.parametrize("seed", range(0, 60, 3))
def test_networks_stay_within_limits(seed):
    limits = Limits(
        input_size=9,
        frame_channels=1,
        stack=2,
        layers=3,
        map_size=6,
        channels=10,
        neurons=80,
        weights=300,
        kernel=4,
        stride=2,
        threshold=5,
        multiplier_bits=8,
        accumulator_bits=17,
    )
    network = random_network(seed, limits)
    assert max(network.input.height, network.input.width) <= 9
    assert (network.input.channels, network.input.stack <= 2) == (1, True)
    assert len(network.layers) <= 3
    assert max(network.thresholds) <= 5
    for layer in network.layers:
        assert signed_bits(layer.accumulator_bound) <= 17
        assert layer.multiplier.max() < 256
        assert np.count_nonzero(layer.weight) <= 300
        assert np.abs(layer.weight.astype(int)).max() <= 127
    for layer in network.layers[:-1]:
        assert layer.out_shape[0] <= 10
        assert max(layer.out_shape[1:]) <= 6
        assert np.prod(layer.out_shape) <= 80


def test_limits_that_no_network_meets_are_refused():
    with pytest.raises(UserError, match="an input of 24 never gets down to maps of 20"):
        Limits(kernel=2, stride=1)
