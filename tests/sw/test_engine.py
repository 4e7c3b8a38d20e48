"""The fast engine equals the golden model, and the float engine the float delta network."""

from dataclasses import replace

import numpy as np
import pytest

from reticent.engine import Engine, FloatEngine
from reticent.errors import UserError
from reticent.floatnet import FloatDelta, dense_forward, observe
from reticent.golden import Golden
from reticent.network import Dense, Flatten, InputSpec, Network, reference_network
from reticent.quantise import activation_scales, quantise
from reticent.random_networks import random_float_network, random_frames, random_network

STEPS = 10


def assert_equal_step(golden, engine, frame, where):
    """One step of both; everything that can be seen is equal."""
    expected, got = golden.step(frame), engine.step(frame)
    assert got.events == expected.events, where
    assert got.significant == expected.significant, where
    assert np.array_equal(got.outputs, expected.outputs), where
    assert got.outputs.dtype == expected.outputs.dtype
    for name in ("acc", "sent", "delta"):
        pairs = zip(getattr(golden, name), getattr(engine, name), strict=True)
        for i, (a, b) in enumerate(pairs):
            assert np.array_equal(a, b), f"{where}, {name} of layer {i}"
    for i, (a, b) in enumerate(zip(golden.fired, engine.fired, strict=True)):
        assert np.array_equal(a, np.sort(b)), f"{where}, what fired into layer {i}"


def assert_equal_run(seed):
    """Both over random frames, with a threshold change and a reset on the way."""
    network = random_network(seed)
    golden, engine = Golden(network), Engine(network)
    rng = np.random.default_rng(seed)
    for t, frame in enumerate(random_frames(network, seed, STEPS)):
        if t == STEPS // 2:
            counts = rng.integers(0, 41, len(network.layers)).tolist()
            golden.set_thresholds(counts)
            engine.set_thresholds(counts)
        if t == STEPS * 4 // 5:
            golden.reset()
            engine.reset()
        assert_equal_step(golden, engine, frame, f"seed {seed}, step {t}")


@pytest.mark.parametrize("seed", range(100))
def test_engine_equals_golden_model(seed):
    assert_equal_run(seed)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 2000, 50))
def test_engine_equals_golden_model_on_many_more(start):
    for seed in range(start, start + 50):
        assert_equal_run(seed)


def test_two_engines_do_not_share_state():
    network = random_network(5)
    frames = random_frames(network, 5, 8)
    alone = [Engine(network).step(frame).outputs for frame in frames[:1]]
    one, other = Engine(network), Engine(network)
    for frame in frames[1:]:
        other.step(frame)
    assert np.array_equal(one.step(frames[0]).outputs, alone[0])


@pytest.mark.parametrize("last", range(8))
def test_changes_of_all_sizes_with_the_largest_weights(last):
    """Four events at once, up to the largest change there is, and the same back."""
    weight = np.array([[1, 1, 1, 1], [-1, -1, -1, -1]], np.float32)
    out = Dense(name="out", weight=weight, bias=np.zeros(2, np.float32), activation="identity")
    spec = InputSpec(height=2, width=2, stack=1)
    network = quantise(Network(input=spec, layers=(Flatten(), out)), [], thresholds=0)
    assert np.abs(network.layers[0].weight).min() == 127
    golden, engine = Golden(network), Engine(network)
    frames = [
        [255, last, 0, 0],
        [0, 0, 0, 0],
        [254, 1, 1, last],
        [0, 0, 0, 0],
        [255, 255, 255, 255],
    ]
    for t, pixels in enumerate(frames):
        frame = np.array(pixels, np.uint8).reshape(2, 2)
        assert_equal_step(golden, engine, frame, f"frame {t}")


def test_results_stay_when_the_engine_goes_on():
    network = random_network(6)
    engine = Engine(network)
    black, white = (np.full(network.input.frame_shape, v, np.uint8) for v in (0, 255))
    step = engine.step(black)
    kept = step.outputs.copy(), list(step.events)
    engine.step(white)
    assert np.array_equal(step.outputs, kept[0])
    assert step.events == kept[1]


def test_engine_equals_golden_model_on_the_reference_network():
    network = reference_network(6, seed=1, density=0.2, history="repeat")
    frames = random_frames(network, 2, 6)
    quantised = quantise(network, activation_scales(network, frames))
    golden, engine = Golden(quantised), Engine(quantised)
    for t, frame in enumerate(frames):
        assert_equal_step(golden, engine, frame[:, :, 0], f"step {t}")


def test_accumulators_beyond_32_bits_are_refused():
    network = random_network(3)
    wide = replace(network.layers[0], bias=network.layers[0].bias + (1 << 31))
    with pytest.raises(UserError, match="may need 33 bits and the engine has 32"):
        Engine(replace(network, layers=(wide, *network.layers[1:])))


def test_frames_may_lie_anyhow_in_memory():
    network = random_network(6)
    golden, engine = Golden(network), Engine(network)
    for t, frame in enumerate(random_frames(network, 6, 4)):
        wide = np.repeat(np.asarray(frame), 2, axis=1)
        turned = np.ascontiguousarray(np.swapaxes(frame, 0, 1))
        for other in (wide[:, ::2], np.swapaxes(turned, 0, 1)):
            assert not other.flags.c_contiguous
            assert_equal_step(golden, engine, other, f"frame {t}")


def test_odd_frames_and_thresholds_are_refused():
    engine = Engine(random_network(8))
    with pytest.raises(UserError, match="give uint8"):
        engine.step(np.zeros(engine.network.input.frame_shape))
    with pytest.raises(UserError, match="this network watches"):
        engine.step(np.zeros((1, 2, 3, 4), np.uint8))
    with pytest.raises(UserError, match="thresholds given"):
        engine.set_thresholds([])
    with pytest.raises(UserError, match="300 counts"):
        engine.set_thresholds([300] * len(engine.network.layers))


@pytest.mark.parametrize("seed", range(40))
def test_float_engine_equals_float_delta_network(seed):
    """Sums in another order differ in the last digits; this threshold is near no activation."""
    network = random_float_network(seed)
    frames = random_frames(network, seed, 6)
    threshold = 0.0123456
    delta = FloatDelta(network, [threshold] * len(network.linear))
    engine = FloatEngine(network, threshold)
    for observation, frame in zip(observe(network.input, frames), frames, strict=True):
        expected, got = delta.step(observation), engine.step(frame)
        assert got.events == expected.events
        assert got.significant == expected.significant
        np.testing.assert_allclose(got.outputs, expected.outputs, rtol=1e-4, atol=1e-4)
        for a, b in zip(engine.sent, delta.sent, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
        for a, b in zip(engine.acc, delta.sums, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_float_engine_takes_thresholds_per_layer_and_changes_them():
    network = random_float_network(11)
    frames = random_frames(network, 3, 6)
    first = [0.05 * (i + 1) for i in range(len(network.linear))]
    second = [first[0], *[0.001] * (len(first) - 1)]
    delta, engine = FloatDelta(network, first), FloatEngine(network, first)
    for t, (observation, frame) in enumerate(
        zip(observe(network.input, frames), frames, strict=True)
    ):
        if t == 3:
            delta.thresholds = second
            engine.set_thresholds(second)
        assert engine.step(frame).events == delta.step(observation).events
        np.testing.assert_allclose(engine.acc[-1], delta.sums[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [(-1.0, "-1.0 is not allowed"), ([0.1] * 9, "9 thresholds given"), (np.inf, "not allowed")],
)
def test_float_engine_refuses_odd_thresholds(thresholds, message):
    with pytest.raises(UserError, match=message):
        FloatEngine(random_float_network(1), thresholds)


def test_float_engine_at_threshold_zero_equals_the_dense_network():
    network = reference_network(4, seed=3, density=0.3)
    frames = random_frames(network, 9, 5)
    engine = FloatEngine(network, 0.0)
    for observation, frame in zip(observe(network.input, frames), frames, strict=True):
        expected = dense_forward(network, observation)[-1].reshape(-1)
        np.testing.assert_allclose(engine.step(frame).outputs, expected, rtol=1e-3, atol=1e-3)


def test_pixels_that_do_not_fill_a_word():
    network = random_network(12)
    layer = network.layers[-1]
    spec = InputSpec(height=1, width=3, stack=2)
    tiny = replace(
        layer,
        weight=np.ones((1, 2, 1, 3), np.int8),
        bias=np.zeros(1, np.int64),
        multiplier=np.zeros(1, np.int64),
        in_shape=(2, 1, 3),
        out_shape=(1, 1, 1),
        stride=(1, 3),
    )
    network = replace(network, input=spec, input_threshold=0, layers=(tiny,))
    golden, engine = Golden(network), Engine(network)
    for t, frame in enumerate(random_frames(network, 1, 12)):
        assert_equal_step(golden, engine, frame, f"step {t}")
