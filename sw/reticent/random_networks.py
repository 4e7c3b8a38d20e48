"""Random networks and frames from a seed: what every exactness test runs on.

The networks are odd on purpose (strides beyond the kernel, channels without weights, multipliers
that saturate), more than `quantise` would ever make. The same seed and limits always give the same
network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .arithmetic import PIXEL_MAX, WEIGHT_MAX
from .errors import UserError
from .network import Activation, AvgPool, Conv, Dense, Flatten, InputSpec, Layer, Network
from .quantise import QuantisedLayer, QuantisedNetwork

__all__ = ["FRAME_KINDS", "Limits", "random_float_network", "random_frames", "random_network"]

Frame = npt.NDArray[np.uint8]
Rng = np.random.Generator

FRAME_KINDS = ("black", "white", "noise", "blobs", "still", "flicker")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a random network must fit into. All are upper limits."""

    input_size: int = 24  # height and width of a frame
    frame_channels: int = 3
    stack: int = 4
    layers: int = 4
    map_size: int = 20  # height and width of an output map
    channels: int = 64  # outputs of a layer
    neurons: int = 4096  # outputs of a layer over its whole map
    weights: int = 30_000  # stored weights of a layer
    kernel: int = 8
    stride: int = 4
    threshold: int = 40  # counts
    multiplier_bits: int = 16
    accumulator_bits: int = 24

    def __post_init__(self) -> None:
        smallest = (self.input_size - self.kernel) // self.stride + 1
        if smallest > self.map_size or smallest**2 > self.neurons:
            raise UserError(
                f"an input of {self.input_size} never gets down to maps of {self.map_size} and "
                f"{self.neurons} neurons: allow larger kernels or strides"
            )


def random_float_network(seed: int, limits: Limits | None = None) -> Network:
    """A random float network; its activations stay near those of a trained one."""
    return _float_network(np.random.default_rng(seed), limits or Limits())


def random_network(seed: int, limits: Limits | None = None) -> QuantisedNetwork:
    """A random quantised network with random thresholds, multipliers and shifts."""
    limits = limits or Limits()
    rng = np.random.default_rng(seed)
    network = _float_network(rng, limits)
    layers: list[QuantisedLayer] = []
    for index, layer in enumerate(network.linear):
        last = index == len(network.linear) - 1
        # Few different small weights, or the whole range.
        peak = 1 if layer.pool else int(rng.choice([1, 7, WEIGHT_MAX, WEIGHT_MAX]))
        weight = np.rint(layer.weight / max(np.abs(layer.weight).max(), 1e-9) * peak)
        room = (1 << (limits.accumulator_bits - 1)) - 1
        heaviest = np.abs(weight).sum(axis=(1, 2, 3)).max() * PIXEL_MAX
        weight = np.trunc(weight / max(1, np.ceil(heaviest / (room / 2))))
        # What an accumulator typically holds sets biases and multipliers in proportion.
        typical = np.maximum(1, np.sqrt((weight**2).sum(axis=(1, 2, 3))) * PIXEL_MAX / 3)
        bias = np.clip(np.rint(layer.bias * typical), -room // 2, room // 2)
        multiplier, shift = np.zeros(len(bias)), 1
        if not last:
            multiplier, shift = _multipliers(rng, typical, limits.multiplier_bits)
        layers.append(
            QuantisedLayer(
                name=layer.name,
                weight=weight.astype(np.int8),
                bias=bias.astype(np.int64),
                multiplier=multiplier.astype(np.int64),
                shift=shift,
                signed=layer.activation == "identity",
                threshold=0,
                scale=1.0,
                stride=layer.stride,
                padding=layer.padding,
                in_shape=layer.in_shape,
                out_shape=layer.out_shape,
                dense_multiplications=layer.dense_multiplications,
            )
        )
    counts = rng.integers(0, limits.threshold + 1, len(layers))
    quantised = QuantisedNetwork(input=network.input, input_threshold=0, layers=tuple(layers))
    return quantised.with_counts([int(t) for t in counts * (rng.random(len(layers)) < 0.8)])


def _multipliers(
    rng: Rng, typical: npt.NDArray[np.float64], bits: int
) -> tuple[npt.NDArray[np.float64], int]:
    """One multiplier a channel and one shift: from hardly ever firing to nearly always full."""
    gain = PIXEL_MAX / typical * 2.0 ** rng.uniform(-4, 4, len(typical))
    used_bits = int(rng.integers(1, bits + 1))
    shift = int(np.clip(np.floor(used_bits - np.log2(gain.max())), 1, 31))
    multiplier = np.clip(np.rint(gain * 2.0**shift), 0, (1 << bits) - 1)
    extremes = rng.random(len(typical))
    multiplier[extremes < 0.02] = 0
    multiplier[extremes > 0.98] = (1 << bits) - 1
    return multiplier, shift


def _float_network(rng: Rng, limits: Limits) -> Network:
    """Draw the shape layer by layer, each within the limits."""
    height, width = (int(v) for v in rng.integers(1, limits.input_size + 1, 2))
    spec = InputSpec(
        height=height,
        width=width,
        channels=int(rng.integers(1, limits.frame_channels + 1)),
        stack=int(rng.integers(1, limits.stack + 1)),
        history="zeros" if rng.random() < 0.5 else "repeat",
    )
    shape = (spec.stack * spec.channels, height, width)
    layers: list[Layer] = []
    flat = False
    hidden = int(rng.integers(0, limits.layers))
    for index in range(hidden):
        activation: Activation = "relu" if rng.random() < 0.7 else "identity"
        name = f"layer{index}"
        kind = "dense" if flat else str(rng.choice(["conv", "conv", "conv", "pool", "dense"]))
        if kind == "dense":
            if not flat:
                layers.append(Flatten())
                flat = True
            tensors = _tensors(
                rng,
                (_channels(rng, min(limits.channels, limits.neurons)), int(np.prod(shape))),
                limits,
            )
            layers.append(Dense(name=name, activation=activation, **tensors))
            shape = (len(tensors["bias"]), 1, 1)
            continue
        kernel, stride, padding, size = _windows(rng, shape[1:], limits)
        room = min(limits.channels, limits.neurons // (size[0] * size[1]))
        if kind == "pool" and shape[0] <= room:
            layers.append(
                AvgPool(
                    name=name, kernel=kernel, stride=stride, padding=padding, activation=activation
                )
            )
            shape = (shape[0], *size)
        else:
            out = _channels(rng, room)
            tensors = _tensors(rng, (out, shape[0], *kernel), limits)
            layers.append(
                Conv(name=name, stride=stride, padding=padding, activation=activation, **tensors)
            )
            shape = (out, *size)
    if not flat:
        layers.append(Flatten())
    tensors = _tensors(
        rng, (int(rng.integers(1, min(limits.channels, 18) + 1)), int(np.prod(shape))), limits
    )
    layers.append(Dense(name="out", activation="identity", **tensors))
    return Network(input=spec, layers=tuple(layers))


def _channels(rng: Rng, top: int) -> int:
    """Output channels of a layer, `top` at most; small numbers as often as large ones."""
    return int(np.ceil(2 ** rng.uniform(0, np.log2(top))))


def _windows(rng: Rng, shape: tuple[int, ...], limits: Limits) -> tuple[tuple[int, int], ...]:
    """Kernel, stride, padding and size of the output map, each (y, x)."""
    while True:
        kernel = rng.integers(1, limits.kernel + 1, 2)
        stride = rng.integers(1, limits.stride + 1, 2)
        padding = rng.integers(0, kernel) * (rng.random() < 0.5)
        size = (np.array(shape) + 2 * padding - kernel) // stride + 1
        if size.min() >= 1 and size.max() <= limits.map_size and size.prod() <= limits.neurons:
            return tuple((int(v[0]), int(v[1])) for v in (kernel, stride, padding, size))


def _tensors(
    rng: Rng, shape: tuple[int, ...], limits: Limits
) -> dict[str, npt.NDArray[np.float32]]:
    """Weights and biases, with some empty columns and dead channels. `shape` is (out, in, ...)."""
    weight = rng.uniform(-1, 1, shape)
    density = 2 ** rng.uniform(np.log2(0.02), 0.3)
    stored = min(int(np.ceil(density * weight.size)), weight.size, limits.weights)
    weight.reshape(-1)[rng.permutation(weight.size)[stored:]] = 0
    bias = rng.normal(0, 0.5, shape[0])
    if rng.random() < 0.5:
        weight[:, rng.random(shape[1]) < 0.3] = 0
    if rng.random() < 0.5:
        dead = rng.random(shape[0]) < 0.3
        weight[dead] = 0
        bias[dead] = -1 - np.abs(bias[dead])
    weight /= max(1.0, np.sqrt(np.count_nonzero(weight) / shape[0] / 6))
    return {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}


def random_frames(network: QuantisedNetwork | Network, seed: int, count: int) -> list[Frame]:
    """`count` frames (height, width, channels) for the network: short scenes of each kind.

    Black, white, noise, slowly moving blobs, a still picture, and one whose pixels flicker by
    about a threshold.
    """
    rng = np.random.default_rng([seed, count])
    shape = network.input.frame_shape
    frames: list[Frame] = []
    while len(frames) < count:
        length = int(rng.integers(1, 6))
        frames += _scene(rng, str(rng.choice(FRAME_KINDS)), shape, length)
    return frames[:count]


def _scene(rng: Rng, kind: str, shape: tuple[int, int, int], length: int) -> list[Frame]:
    noise = rng.integers(0, PIXEL_MAX + 1, shape, np.uint8)
    if kind in ("black", "white"):
        return [np.full(shape, 0 if kind == "black" else PIXEL_MAX, np.uint8)] * length
    if kind == "noise":
        return [rng.integers(0, PIXEL_MAX + 1, shape, np.uint8) for _ in range(length)]
    if kind == "still":
        return [noise] * length
    if kind == "flicker":
        steps = rng.integers(-45, 46, (length, *shape))
        return [np.clip(noise + step, 0, PIXEL_MAX).astype(np.uint8) for step in steps]
    frames = []
    corner, speed = rng.integers(0, shape[:2]), rng.integers(-2, 3, 2)
    size, colour = rng.integers(1, 6, 2), rng.integers(1, PIXEL_MAX + 1, shape[2])
    for _ in range(length):
        frame = np.zeros(shape, np.uint8)
        y, x = np.maximum(corner, 0)
        frame[y : y + size[0], x : x + size[1]] = colour
        frames.append(frame)
        corner = corner + speed
    return frames
