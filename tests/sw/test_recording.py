"""The GIF: one picture a decision, showing the frame and the events."""

import numpy as np
import pytest
from PIL import Image

from reticent.atari import Decision, record_trace
from reticent.backend import Cycles, StepResult
from reticent.backends import ModelBackend
from reticent.errors import UserError
from reticent.golden import Golden
from reticent.network import Conv, Dense, Flatten, InputSpec, Network
from reticent.quantise import activation_scales, quantise
from reticent.recording import Recorder
from reticent.report import Setup


@pytest.fixture(scope="module")
def frames():
    return record_trace("breakout", None, 5, seed=2)[0]


@pytest.fixture(scope="module")
def model(frames):
    rng = np.random.default_rng(0)

    def tensors(*shape):
        weight = rng.normal(size=shape).astype(np.float32)
        return {"weight": weight, "bias": np.zeros(shape[0], np.float32)}

    network = Network(
        input=InputSpec(height=84, width=84, stack=2),
        layers=(
            Conv(name="conv", stride=(8, 8), **tensors(4, 2, 8, 8)),
            Flatten(),
            Dense(name="hidden", **tensors(10, 400)),
            Dense(name="out", activation="identity", **tensors(4, 10)),
        ),
    )
    scales = activation_scales(network, frames)
    return ModelBackend("golden", Golden(quantise(network, scales)))


def setup(model):
    layers = [(layer.name, layer.dense_multiplications) for layer in model.model.network.layers]
    return Setup(
        game="breakout",
        backend="sim",
        agent="a",
        lanes=16,
        threshold=0.01,
        seed=0,
        checked=False,
        layers=layers,
    )


def record(path, model, frames):
    cycles = Cycles(layers=(1, 2, 3), total=1234, busy=1, lost={})
    with Recorder(path, setup(model), model) as recorder:
        for k, frame in enumerate(frames):
            result = StepResult(
                outputs=np.zeros(4), events=(1, 2, 3), significant=(4, 5, 6), cycles=cycles
            )
            recorder.add(Decision(0, k == 0, frame, result, 1.0, False, 4 * k, 0.1))


def test_one_picture_a_decision(tmp_path, model, frames):
    path = tmp_path / "play.gif"
    record(path, model, [*frames, frames[-1]])  # the last one is shown although nothing moved
    with Image.open(path) as gif:
        assert gif.n_frames == len(frames) + 1
        assert gif.info["loop"] == 0
        assert gif.size == (932, 464)
        for k, frame in enumerate(frames):
            gif.seek(k)
            assert gif.info["duration"] == 70
            page = np.asarray(gif.convert("RGB")).astype(int)
            # The frame is there, four times as large, in thirty greys.
            screen = page[52 : 52 + 336 : 4, 16 : 16 + 336 : 4].mean(axis=2)
            assert np.corrcoef(screen.ravel(), frame.ravel())[0, 1] > 0.99
            # The cold start lights the first panel where the screen is bright; once more, and
            # weaker, when the second channel of the stack sends it; then only what moves.
            panel = page[52 : 52 + 168 : 2, 372 : 372 + 168 : 2, 0]
            lit = panel > 100
            if k == 0:
                np.testing.assert_array_equal(lit, frame > 2)
            elif k > 1:
                assert lit.mean() < 0.1


def test_silence_is_dark(tmp_path, model):
    path = tmp_path / "silence.gif"
    record(path, model, [np.zeros((84, 84), np.uint8)] * 2)
    with Image.open(path) as gif:
        gif.seek(1)
        page = np.asarray(gif.convert("RGB"))
    assert (page[52 : 52 + 168, 372 : 372 + 168] == page[52, 372]).all()


def test_nothing_recorded_writes_nothing(tmp_path, model):
    record(tmp_path / "none.gif", model, [])
    assert not (tmp_path / "none.gif").exists()


def test_wrong_name(model):
    with pytest.raises(UserError, match=r"play\.png: give a file name that ends with \.gif"):
        Recorder("play.png", setup(model), model)


def test_folder_does_not_exist(tmp_path, model, frames):
    with pytest.raises(UserError, match="cannot be written"):
        record(tmp_path / "no" / "play.gif", model, frames)
