"""The bit-exact golden model of the quantised delta network.

The judge of everything else: each layer keeps `sent` (what its inputs last transmitted) and `acc`,
with `acc = bias + sum(w * sent)` exactly, always. It is written from the definition with dense
integer convolutions, not event by event; `reticent.engine` and the gateware do it the other way.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .arithmetic import fires, requantise
from .floatnet import frame_history
from .quantise import QuantisedLayer, QuantisedNetwork

__all__ = ["Golden", "Step", "dense_reference"]

Ints = npt.NDArray[np.int64]


class Step(NamedTuple):
    """One step of the quantised delta network. Lists have one item per layer."""

    outputs: Ints  # accumulators of the output layer, (outputs,)
    events: list[int]  # events that entered the layer
    significant: list[int]  # multiplications done: w != 0, d != 0, position on the map


def convolve(layer: QuantisedLayer, weight: Ints, x: Ints) -> Ints:
    """Integer convolution of the padded input (in, h, w) with `weight`, without the bias."""
    (py, px), (sy, sx) = layer.padding, layer.stride
    _, oh, ow = layer.out_shape
    padded = np.pad(x, ((0, 0), (py, py), (px, px)))
    total = np.zeros(layer.out_shape, np.int64)
    for ky in range(weight.shape[2]):
        for kx in range(weight.shape[3]):
            window = padded[:, ky : ky + sy * oh : sy, kx : kx + sx * ow : sx][:, :oh, :ow]
            total += np.einsum("oi,iyx->oyx", weight[:, :, ky, kx], window)
    return total


class Golden:
    """The quantised delta network, one new frame a step.

    Public state, for tests: `sent[i]` (in, h, w) is what layer i's inputs last transmitted,
    `acc[i]` (out, h, w) its accumulators, `delta[i]` the last step's events.
    """

    def __init__(self, network: QuantisedNetwork) -> None:
        self.network = network
        self.weight = [layer.weight.astype(np.int64) for layer in network.layers]
        self.stored = [(w != 0).astype(np.int64) for w in self.weight]
        self.reset()

    def reset(self) -> None:
        """Start an episode: nothing was ever sent, accumulators hold their biases."""
        layers = self.network.layers
        spec = self.network.input
        self.sent = [np.zeros(layer.in_shape, np.int64) for layer in layers]
        self.acc = [
            np.broadcast_to(layer.bias[:, None, None], layer.out_shape).copy() for layer in layers
        ]
        self.delta = [np.zeros(layer.in_shape, np.int64) for layer in layers]
        # Channel k sees frame t - (stack - 1) + k, so one pixel's channels send one after
        # another what the newest channel sent: the stack is a history of `sent`, newest last.
        self.history = np.zeros((spec.stack, spec.channels, spec.height, spec.width), np.int64)
        self.first = True

    def set_thresholds(self, counts: list[int]) -> None:
        """Change thresholds between two frames, in counts (input first, then hidden layers)."""
        self.network = self.network.with_counts(counts)

    def step(self, frame: npt.NDArray[np.uint8]) -> Step:
        """Advance by one new frame (height, width[, channels]) uint8."""
        x = self._stack(self.network.input.check_frame(frame).transpose(2, 0, 1).astype(np.int64))
        events, significant = [], []
        for i, layer in enumerate(self.network.layers):
            if i > 0:
                before = self.network.layers[i - 1]
                multiplier = before.multiplier[:, None, None]
                a = requantise(self.acc[i - 1], multiplier, before.shift, before.signed)
                fired = fires(a, self.sent[i], before.threshold)
                x = np.where(fired, a, self.sent[i])
            self.delta[i] = x - self.sent[i]
            self.sent[i] = x
            self.acc[i] += convolve(layer, self.weight[i], self.delta[i])
            fired_now = (self.delta[i] != 0).astype(np.int64)
            events.append(int(fired_now.sum()))
            significant.append(int(convolve(layer, self.stored[i], fired_now).sum()))
        return Step(self.acc[-1].reshape(-1).copy(), events, significant)

    @property
    def fired(self) -> list[npt.NDArray[np.int64]]:
        """Which of each layer's inputs sent in the last step: flat indices into (in, h, w)."""
        return [np.flatnonzero(delta) for delta in self.delta]

    def _stack(self, frame: Ints) -> Ints:
        """Threshold the new frame and return what all stacked channels have sent by now."""
        newest = self.history[-1]
        fired = fires(frame, newest, self.network.input_threshold)
        newest = np.where(fired, frame, newest)
        if self.first and self.network.input.history == "repeat":
            self.history[:] = newest
        else:
            self.history = np.concatenate([self.history[1:], newest[None]])
        self.first = False
        return self.history.reshape(-1, *frame.shape[1:])


def dense_reference(network: QuantisedNetwork, frames: list[npt.NDArray[np.uint8]]) -> list[Ints]:
    """Outputs of the plain dense int8 network for each frame: what T = 0 must equal."""
    answers = []
    for stacked in frame_history(network.input, frames):
        x = stacked.astype(np.int64)
        for layer in network.layers:
            acc = convolve(layer, layer.weight.astype(np.int64), x) + layer.bias[:, None, None]
            x = requantise(acc, layer.multiplier[:, None, None], layer.shift, layer.signed)
        answers.append(acc.reshape(-1))
    return answers
