"""The other runtimes compute the same network, so that their times are worth comparing."""

import numpy as np
import pytest

from reticent.dense import dense_onnx, dense_torch, observations
from reticent.floatnet import dense_forward
from reticent.network import AvgPool, Conv, Dense, Flatten, InputSpec, Network

STARTS = np.array([True, False, False, True, False, False])


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(0)

    def tensor(*shape):
        return rng.normal(0, 0.3, shape).astype(np.float32)

    return Network(
        input=InputSpec(height=9, width=8, stack=2, history="repeat"),
        layers=(
            Conv(name="a", weight=tensor(3, 2, 3, 2), bias=tensor(3), stride=(2, 1)),
            AvgPool(name="p", kernel=(2, 3), stride=(2, 2), padding=(1, 1), activation="relu"),
            Flatten(),
            Dense(name="b", weight=tensor(5, 36), bias=tensor(5)),
            Dense(name="c", weight=tensor(4, 5), bias=tensor(4), activation="identity"),
        ),
    )


@pytest.fixture(scope="module")
def pixels(network):
    frames = np.random.default_rng(1).integers(0, 256, (len(STARTS), 9, 8), np.uint8)
    return observations(network, frames, STARTS)


@pytest.fixture(scope="module")
def expected(network, pixels):
    """Action values of the float network."""
    return [dense_forward(network, x[0].astype(np.float32) / 255)[-1].reshape(-1) for x in pixels]


def test_an_episode_begins_with_its_own_frames(network, pixels):
    assert pixels.shape == (len(STARTS), 1, 2, 9, 8)
    for t, start in enumerate(STARTS):
        older = pixels[t, 0, 1] if start else pixels[t - 1, 0, 1]
        assert np.array_equal(pixels[t, 0, 0], older)


@pytest.mark.torch
def test_torch_decides_as_the_network(network, pixels, expected):
    contenders = dense_torch(network, pixels)
    assert len(contenders) == 2
    for decide in contenders.values():
        assert [decide(t) for t in range(len(pixels))] == [int(x.argmax()) for x in expected]


@pytest.mark.torch
def test_onnx_runtime_decides_as_the_network(network, pixels, expected):
    contenders = dense_onnx(network, pixels)
    for name, slack in (("float32", 1e-5), ("int8", 0.1)):
        (decide,) = (contenders[label] for label in contenders if label.endswith(f"dense {name}"))
        for t, values in enumerate(expected):
            # Of values that are nearly equal int8 may prefer another one.
            assert values[decide(t)] >= values.max() - slack * np.ptp(values)
