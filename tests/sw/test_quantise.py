"""Quantisation: scales, weights, multipliers, thresholds and the overflow bound."""

from dataclasses import replace

import numpy as np
import pytest

from reticent.arithmetic import requantise, signed_bits
from reticent.errors import UserError
from reticent.floatnet import dense_forward, observe
from reticent.golden import Golden
from reticent.network import AvgPool, Dense, Flatten, InputSpec, Network, reference_network
from reticent.quantise import activation_scales, quantise
from reticent.random_networks import random_float_network, random_frames

SEEDS = range(25)


def quantised(seed, **choices):
    network = random_float_network(seed)
    frames = random_frames(network, seed, 12)
    scales = activation_scales(network, frames)
    return network, frames, quantise(network, scales, accumulator_bits=32, **choices)


def scales_of(network):
    return [1 / 255, *(layer.scale for layer in network.layers[:-1])]


@pytest.mark.parametrize("seed", SEEDS)
def test_weights_are_symmetric_int8_and_pruned_ones_stay_zero(seed):
    network, _, integer = quantised(seed)
    for layer, source in zip(integer.layers, network.linear, strict=True):
        assert layer.weight.dtype == np.int8
        assert layer.weight.min() >= -127
        assert not layer.weight[source.weight == 0].any()
        peaks = np.abs(layer.weight.astype(int)).max(axis=(1, 2, 3))
        stored = peaks[peaks > 0]
        if layer is integer.layers[-1]:  # one scale for all channels
            stored = stored[stored == stored.max(initial=0)]
        assert np.all(stored == (1 if source.pool else 127))


@pytest.mark.parametrize("seed", SEEDS)
def test_accumulators_stand_for_the_float_sums(seed):
    """Each accumulator count is worth scale_in * scale_w: products come out to rounding."""
    network, frames, integer = quantised(seed, thresholds=0.0)
    golden = Golden(integer)
    for frame in frames[:3]:
        golden.step(frame)
        layers = zip(integer.layers, network.linear, scales_of(integer), golden.sent, strict=True)
        for i, (layer, source, scale_in, sent) in enumerate(layers):
            weight = np.abs(source.weight).max(axis=(1, 2, 3))
            if layer is integer.layers[-1]:
                weight = np.full_like(weight, weight.max())
            scale = scale_in * np.where(weight > 0, weight, 1) / (1 if source.pool else 127)
            real = golden.acc[i] * scale[:, None, None]
            # Rounding moves every stored weight by up to half a count, and the bias too.
            inputs = float(np.abs(sent).sum()) + 1
            assert np.abs(real - exact_sums(source, sent * scale_in)).max() <= (
                0.51 * scale.max() * inputs + 1e-4
            )
        assert np.isclose(layer.scale, scale[0])


def exact_sums(layer, x):
    (py, px), (sy, sx) = layer.padding, layer.stride
    _, _, ky, kx = layer.weight.shape
    padded = np.pad(x, ((0, 0), (py, py), (px, px)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (ky, kx), axis=(1, 2))
    windows = windows[:, ::sy, ::sx][:, : layer.out_shape[1], : layer.out_shape[2]]
    weight = layer.weight.astype(np.float64)
    return np.tensordot(weight, windows, axes=([1, 2, 3], [0, 3, 4])) + layer.bias[:, None, None]


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_multipliers_use_the_width_they_may_have(bits):
    for seed in range(10):
        network, _, integer = quantised(seed, multiplier_bits=bits)
        scales = scales_of(integer)
        for i, layer in enumerate(integer.layers[:-1]):
            assert 1 <= layer.shift <= 31
            assert layer.multiplier.min() >= 0
            assert layer.multiplier.max() < 1 << bits
            assert layer.shift == 31 or layer.multiplier.max() >= (1 << (bits - 1)) - 1
            source = network.linear[i]
            peak = np.abs(source.weight).max(axis=(1, 2, 3))
            scale_w = np.where(peak > 0, peak, 1) / (1 if source.pool else 127)
            wanted = scales[i] * scale_w / layer.scale
            assert np.abs(layer.multiplier / 2.0**layer.shift - wanted).max() <= 2.0**-layer.shift


def test_calibration_frames_fill_the_range_and_do_not_exceed_it():
    network = reference_network(4, seed=5, density=0.3)
    frames = random_frames(network, 1, 10)
    scales = activation_scales(network, frames)
    peaks = np.zeros(4)
    for observation in observe(network.input, frames):
        activations = dense_forward(network, observation)[:-1]
        peaks = np.maximum(peaks, [a.max() for a in activations])
    assert np.allclose(np.array(scales) * 255, peaks)


def test_int8_ranks_actions_nearly_as_float_does():
    network = reference_network(4, seed=6, density=0.3)
    frames = random_frames(network, 4, 40)
    integer = quantise(network, activation_scales(network, frames), thresholds=0.0)
    golden = Golden(integer)
    errors, spread = [], []
    for frame, observation in zip(frames, observe(network.input, frames), strict=True):
        real = dense_forward(network, observation)[-1].reshape(-1)
        errors.append(np.abs(golden.step(frame).outputs * integer.layers[-1].scale - real).max())
        spread.append(np.ptp(real))
    assert np.mean(errors) < 0.05 * np.mean(spread)


def test_a_layer_that_never_fires_gets_a_harmless_scale():
    silent = Dense(name="silent", weight=-np.ones((2, 1), np.float32), bias=np.zeros(2, np.float32))
    out = Dense(
        name="out",
        weight=np.ones((1, 2), np.float32),
        bias=np.zeros(1, np.float32),
        activation="identity",
    )
    network = Network(input=InputSpec(height=1, width=1, stack=1), layers=(silent, out))
    frames = [np.full((1, 1), 200, np.uint8)]
    integer = quantise(network, activation_scales(network, frames))
    assert Golden(integer).step(frames[0]).events == [1, 0]


def test_pooling_weights_are_exact_ones():
    network = Network(
        input=InputSpec(height=4, width=4, stack=2),
        layers=(
            AvgPool(name="pool", kernel=(2, 2), stride=(2, 2)),
            Flatten(),
            Dense(
                name="out",
                weight=np.ones((1, 8), np.float32),
                bias=np.zeros(1, np.float32),
                activation="identity",
            ),
        ),
    )
    frames = [np.full((4, 4), 254, np.uint8)] * 2
    integer = quantise(network, activation_scales(network, frames))
    pool = integer.layers[0]
    assert set(np.unique(pool.weight)) == {0, 1}
    acc = np.array([4 * 254])
    assert requantise(acc, pool.multiplier[:1], pool.shift, pool.signed) == 127


@pytest.mark.parametrize("seed", SEEDS)
def test_the_bound_holds_for_the_worst_input(seed):
    _, _, integer = quantised(seed)
    for layer in integer.layers:
        weight = layer.weight.astype(np.int64)
        worst = np.where(weight > 0, 255, 0) * weight
        least = np.where(weight < 0, 255, 0) * weight
        sums = [worst.sum(axis=(1, 2, 3)) + layer.bias, least.sum(axis=(1, 2, 3)) + layer.bias]
        assert np.abs(sums).max() <= layer.accumulator_bound


def test_channels_that_could_overflow_get_coarser_weights():
    network = reference_network(4, seed=0)
    scales = [0.01] * 4
    wide = quantise(network, scales, accumulator_bits=32)
    widest = max(range(5), key=lambda k: wide.layers[k].accumulator_bound)
    bits = signed_bits(wide.layers[widest].accumulator_bound)
    narrow = quantise(network, scales, accumulator_bits=bits - 1)
    room = (1 << (bits - 2)) - 1
    for old, new, source in zip(wide.layers, narrow.layers, network.linear, strict=True):
        assert new.accumulator_bound <= room
        before, after = (
            (np.abs(layer.weight.astype(np.int64)).sum(axis=(1, 2, 3)) * 255 + abs(layer.bias))
            for layer in (old, new)
        )
        kept = before <= room if new is not narrow.layers[-1] else np.full(4, before.max() <= room)
        np.testing.assert_array_equal(new.weight[kept], old.weight[kept])
        assert (after[~kept] > 0.95 * room).any() or kept.all()  # and no coarser than needed
        # Still the same weights, to half a count of the coarser scale.
        peak = np.abs(source.weight).max(axis=(1, 2, 3), keepdims=True)
        if new is narrow.layers[-1]:
            peak[:] = peak.max()
        top = np.abs(new.weight.astype(int)).max(axis=(1, 2, 3), keepdims=True)
        if new is narrow.layers[-1]:
            top[:] = top.max()
        assert np.abs(new.weight - source.weight / peak * top).max() <= 0.5 + 1e-6
    assert not (narrow.layers[widest].weight == wide.layers[widest].weight).all()


def test_an_accumulator_that_could_overflow_is_refused_by_its_layer():
    network = reference_network(4, seed=0)
    scales = [0.01] * 4
    layers = quantise(network, scales, accumulator_bits=32).layers
    widest = max(layers, key=lambda layer: layer.accumulator_bound)
    bits = signed_bits(widest.accumulator_bound) - 3
    with pytest.raises(UserError, match=rf"may need \d+ bits and has {bits}, more than coarser"):
        quantise(network, scales, accumulator_bits=bits)


def test_thresholds_become_counts_of_each_layer():
    network = reference_network(4, seed=0, density=0.1)
    integer = quantise(network, [0.01, 0.004, 0.02, 0.0001], thresholds=0.01)
    assert integer.thresholds == (2, 1, 2, 0, 100)
    assert integer.with_thresholds([0, 0.05, 0.05, 0.05, 5]).thresholds == (0, 5, 12, 2, 255)
    assert integer.with_thresholds(0).thresholds == (0,) * 5
    assert integer.with_counts([1, 2, 3, 4, 5]).thresholds == (1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        (-0.5, "threshold -0.5 is not allowed: give 0"),
        (float("nan"), "threshold nan is not allowed"),
        ([0.1, 0.2], r"2 thresholds given: this network has 5 \(the input and every hidden"),
    ],
)
def test_odd_thresholds_are_refused(thresholds, message):
    with pytest.raises(UserError, match=message):
        quantise(reference_network(4), [0.01] * 4, thresholds=thresholds)


def test_odd_scales_are_refused():
    with pytest.raises(UserError, match="3 activation scales given, the network has 4"):
        quantise(reference_network(4), [0.01] * 3)
    with pytest.raises(UserError, match="too large to requantise: check the activation scales"):
        quantise(reference_network(4), [1e-12, 1.0, 1.0, 1.0])
    with pytest.raises(UserError, match="no calibration frames: give at least one"):
        activation_scales(reference_network(4), [])


def test_counts_of_the_network():
    network = reference_network(4, seed=0, density=0.5)
    integer = quantise(network, [0.01] * 4)
    assert integer.dense_multiplications == 3_276_800 + 1_327_104 + 294_912 + 524_288 + 2048
    stored = sum(np.count_nonzero(layer.weight) for layer in integer.layers)
    assert integer.stored_weights == stored
    assert 0.4 < stored / 569_344 < 0.5  # some small weights round to zero: pruned too
    assert replace(integer, input_threshold=3).thresholds[0] == 3
