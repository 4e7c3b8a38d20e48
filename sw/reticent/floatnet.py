"""The float network: dense evaluation, and the delta network with the published counting.

Written to be read; `reticent.engine` computes the same quickly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .arithmetic import PIXEL_MAX
from .network import InputSpec, LinearLayer, Network

__all__ = ["FloatDelta", "FloatStep", "convolve", "dense_forward", "frame_history", "observe"]


def frame_history(
    spec: InputSpec, frames: Iterable[npt.NDArray[np.uint8]]
) -> Iterator[npt.NDArray[np.uint8]]:
    """Stack frames as the network sees them: uint8 (stack * channels, height, width) a step."""
    history: list[npt.NDArray[np.uint8]] = []
    for frame in frames:
        checked = spec.check_frame(frame).transpose(2, 0, 1)
        if not history:
            older = np.zeros_like(checked) if spec.history == "zeros" else checked
            history = [older] * spec.stack
        history = [*history[1:], checked]
        yield np.concatenate(history)


def observe(
    spec: InputSpec, frames: Iterable[npt.NDArray[np.uint8]]
) -> Iterator[npt.NDArray[np.float32]]:
    """`frame_history` in real values, 0..1."""
    for stacked in frame_history(spec, frames):
        yield stacked.astype(np.float32) / np.float32(PIXEL_MAX)


def convolve(layer: LinearLayer, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The layer before its activation: (in, h, w) to (out, h', w'), without the bias."""
    (py, px), (sy, sx) = layer.padding, layer.stride
    _, _, ky, kx = layer.weight.shape
    padded = np.pad(x, ((0, 0), (py, py), (px, px)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (ky, kx), axis=(1, 2))
    windows = windows[:, ::sy, ::sx][:, : layer.out_shape[1], : layer.out_shape[2]]
    return np.tensordot(layer.weight, windows, axes=([1, 2, 3], [0, 3, 4]))


def activate(layer: LinearLayer, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """ReLU or identity."""
    return np.maximum(x, 0) if layer.activation == "relu" else x


def dense_forward(
    network: Network, observation: npt.NDArray[np.float32]
) -> list[npt.NDArray[np.float32]]:
    """Every layer's activations (out, h, w) for one stacked observation, as a dense network."""
    x = observation
    found = []
    for layer in network.linear:
        x = activate(layer, convolve(layer, x) + layer.bias[:, None, None])
        found.append(x)
    return found


class FloatStep(NamedTuple):
    """One step of the float delta network. Lists have one item per layer."""

    outputs: npt.NDArray[np.float32]  # (outputs,)
    events: list[int]  # events that entered the layer
    significant: list[int]  # multiplications with w != 0 and d != 0 at valid positions


class FloatDelta:
    """The published delta network in float32.

    Threshold on the inputs and on every hidden layer (strictly greater), last-sent value kept.
    `thresholds` has one value per layer input: the frame first, then each hidden layer.
    """

    def __init__(self, network: Network, thresholds: list[float]) -> None:
        self.network = network
        self.thresholds = thresholds
        self.nonzero = [(layer.weight != 0).astype(np.int64) for layer in network.linear]
        self.reset()

    def reset(self) -> None:
        """Forget everything: nothing was ever sent."""
        self.sent = [np.zeros(layer.in_shape, np.float32) for layer in self.network.linear]
        self.sums = [
            np.broadcast_to(layer.bias[:, None, None], layer.out_shape).astype(np.float32)
            for layer in self.network.linear
        ]

    def step(self, observation: npt.NDArray[np.float32]) -> FloatStep:
        """Advance by one stacked observation (in, h, w) of real values."""
        events, significant = [], []
        x = observation
        for i, layer in enumerate(self.network.linear):
            change = x - self.sent[i]
            fired = np.abs(change) > np.float32(self.thresholds[i])
            delta = np.where(fired, change, np.float32(0))
            self.sent[i] = np.where(fired, x, self.sent[i])
            self.sums[i] = self.sums[i] + convolve(layer, delta)
            events.append(int(fired.sum()))
            significant.append(count_multiplications(layer, self.nonzero[i], fired))
            x = activate(layer, self.sums[i])
        return FloatStep(x.reshape(-1), events, significant)


def count_multiplications(
    layer: LinearLayer, nonzero: npt.NDArray[np.int64], fired: npt.NDArray[np.bool_]
) -> int:
    """Stored weights that the fired inputs (in, h, w) meet at valid output positions."""
    (py, px), (sy, sx) = layer.padding, layer.stride
    padded = np.pad(fired, ((0, 0), (py, py), (px, px)))
    total = 0
    weights = nonzero.sum(axis=0)  # over outputs: (in, ky, kx)
    _, oh, ow = layer.out_shape
    for ky in range(weights.shape[1]):
        for kx in range(weights.shape[2]):
            seen = padded[:, ky : ky + sy * oh : sy, kx : kx + sx * ow : sx]
            total += int((seen.sum(axis=(1, 2)) * weights[:, ky, kx]).sum())
    return total
