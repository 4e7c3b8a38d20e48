"""Float network to integers: int8 weights, uint8 activations, thresholds in counts.

The rules are the arithmetic contract's (`reticent.arithmetic`): one scale per output channel (one
for the whole output layer, so that the arg-max of the accumulators is the arg-max of the
outputs), a bias in accumulator counts, and per channel a multiplier `m` and per layer a shift `r`
with `activation = clip((acc * m + (1 << (r - 1))) >> r)`. A channel whose accumulator could
overflow gets a coarser scale: dense layers of unpruned networks need one, pruned ones do not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .arithmetic import (
    PIXEL_MAX,
    THRESHOLD_MAX,
    WEIGHT_MAX,
    activation_range,
    signed_bits,
    threshold_counts,
)
from .errors import UserError
from .floatnet import dense_forward, observe
from .network import InputSpec, LinearLayer, Network

__all__ = [
    "DEFAULT_THRESHOLD",
    "QuantisedLayer",
    "QuantisedNetwork",
    "activation_scales",
    "quantise",
]

DEFAULT_THRESHOLD = 0.01  # in units of the float network's activations, as published
NARROWEST = 32  # least integer that a channel's largest weight becomes

Thresholds = float | Sequence[float]


@dataclass(frozen=True, kw_only=True)
class QuantisedLayer:
    """One layer in integers; always a convolution (see `network.LinearLayer`)."""

    name: str
    weight: npt.NDArray[np.int8] = field(repr=False)  # (out, in, ky, kx)
    bias: npt.NDArray[np.int64] = field(repr=False)  # (out,), accumulator counts
    multiplier: npt.NDArray[np.int64] = field(repr=False)  # (out,), unsigned; zeros in the last
    shift: int  # r, at least 1
    signed: bool  # identity activation: int8; otherwise ReLU: uint8
    threshold: int  # T_q on this layer's activations, 0..255; unused in the last layer
    scale: float  # real value of one activation count (of one accumulator count in the last)
    stride: tuple[int, int]
    padding: tuple[int, int]
    in_shape: tuple[int, int, int]  # (channels, height, width)
    out_shape: tuple[int, int, int]
    dense_multiplications: int

    @property
    def accumulator_bound(self) -> int:
        """No accumulator's magnitude ever exceeds this: max over outputs of sum|w|*255 + |bias|.

        It also holds between two events of one frame, when some inputs are new and some are old.
        """
        return int(_bounds(self.weight, self.bias).max())


@dataclass(frozen=True, kw_only=True)
class QuantisedNetwork:
    """The integer network that golden model, fast engine, compiler and hardware all run."""

    input: InputSpec
    input_threshold: int  # T_q on pixels
    layers: tuple[QuantisedLayer, ...]

    @property
    def thresholds(self) -> tuple[int, ...]:
        """T_q of the input and of every hidden layer, in the order of the data."""
        return (self.input_threshold, *(layer.threshold for layer in self.layers[:-1]))

    @property
    def dense_multiplications(self) -> int:
        """Multiplications of one dense evaluation."""
        return sum(layer.dense_multiplications for layer in self.layers)

    @property
    def stored_weights(self) -> int:
        """Weights that are not zero, hence stored."""
        return sum(int(np.count_nonzero(layer.weight)) for layer in self.layers)

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the results, except the thresholds, which may change."""
        facts: list[dict[str, Any]] = [asdict(self.input)]
        found = hashlib.sha256()
        for layer in self.layers:
            facts.append(
                {
                    "shape": layer.weight.shape,
                    "stride": layer.stride,
                    "padding": layer.padding,
                    "shift": layer.shift,
                    "signed": layer.signed,
                }
            )
            for values in (layer.weight, layer.bias, layer.multiplier):
                found.update(np.ascontiguousarray(values, "<i8").tobytes())
        found.update(json.dumps(facts).encode())
        return found.hexdigest()

    def with_counts(self, thresholds: Sequence[int]) -> QuantisedNetwork:
        """The same network with other thresholds, in counts (input first, then hidden layers)."""
        check_counts(thresholds, len(self.layers))
        hidden = [
            replace(layer, threshold=int(t))
            for layer, t in zip(self.layers, [*thresholds[1:], 0], strict=True)
        ]
        return replace(self, input_threshold=int(thresholds[0]), layers=tuple(hidden))

    def with_thresholds(self, thresholds: Thresholds) -> QuantisedNetwork:
        """The same network with other thresholds in real units: one for all, or one per layer."""
        values = per_layer(thresholds, len(self.layers))
        scales = [1 / PIXEL_MAX, *(layer.scale for layer in self.layers[:-1])]
        return self.with_counts(
            [threshold_counts(t, s) for t, s in zip(values, scales, strict=True)]
        )


def check_counts(thresholds: Sequence[int], layers: int) -> None:
    """Refuse thresholds in counts that are not one for the input and each hidden layer, 0..255."""
    if len(thresholds) != layers:
        raise UserError(
            f"{len(thresholds)} thresholds given: this network has {layers} "
            "(the input and every hidden layer)"
        )
    for value in thresholds:
        if not 0 <= value <= THRESHOLD_MAX:
            raise UserError(f"threshold of {value} counts: give 0 to {THRESHOLD_MAX}")


def per_layer(thresholds: Thresholds, count: int) -> list[float]:
    """Spread one threshold over the input and the hidden layers, or check a list of them."""
    if isinstance(thresholds, int | float):
        values = [float(thresholds)] * count
    else:
        values = [float(t) for t in thresholds]
    if len(values) != count:
        raise UserError(
            f"{len(values)} thresholds given: this network has {count} "
            "(the input and every hidden layer)"
        )
    for value in values:
        if not (value >= 0 and np.isfinite(value)):
            raise UserError(f"threshold {value} is not allowed: give 0 (send every change) or more")
    return values


def activation_scales(network: Network, frames: Iterable[npt.NDArray[np.uint8]]) -> list[float]:
    """Real value of one activation count for each hidden layer, from calibration frames.

    The largest activation that the frames produce becomes 255 (127 for identity layers).
    `frames` is one unbroken stretch: (height, width[, channels]) uint8 in playing order.
    """
    peaks = np.zeros(len(network.linear) - 1)
    seen = False
    for observation in observe(network.input, frames):
        seen = True
        activations = dense_forward(network, observation)[:-1]
        peaks = np.maximum(peaks, [float(np.abs(a).max()) for a in activations])
    if not seen:
        raise UserError("no calibration frames: give at least one")
    top = [activation_range(layer.activation == "identity")[1] for layer in network.linear[:-1]]
    # A layer that never fired gets a harmless scale; its outputs stay zero either way.
    return [float(p / t) if p > 0 else 1 / t for p, t in zip(peaks, top, strict=True)]


def quantise(
    network: Network,
    scales: Sequence[float],
    *,
    thresholds: Thresholds = DEFAULT_THRESHOLD,
    multiplier_bits: int = 16,
    accumulator_bits: int = 24,
) -> QuantisedNetwork:
    """Quantise. `scales` are `activation_scales`, `thresholds` are in real units.

    Weights take as much of int8 as `accumulator_bits` leaves them. Raises `UserError` when an
    accumulator could overflow even with a largest weight of `NARROWEST`.
    """
    if len(scales) != len(network.linear) - 1:
        raise UserError(
            f"{len(scales)} activation scales given, the network has "
            f"{len(network.linear) - 1} hidden layers"
        )
    values = per_layer(thresholds, len(network.linear))
    layers: list[QuantisedLayer] = []
    scale_in = 1 / PIXEL_MAX
    for index, layer in enumerate(network.linear):
        last = index == len(network.linear) - 1
        scale_out = 0.0 if last else float(scales[index])
        quantised = _quantise_layer(
            layer, scale_in, scale_out, last, multiplier_bits, accumulator_bits
        )
        if not last:
            quantised = replace(quantised, threshold=threshold_counts(values[index + 1], scale_out))
        bits = signed_bits(quantised.accumulator_bound)
        if bits > accumulator_bits:
            raise UserError(
                f"{layer.name}: an accumulator may need {bits} bits and has {accumulator_bits}, "
                "more than coarser weights could mend: build with wider accumulators, or prune or "
                "clip its weights"
            )
        layers.append(quantised)
        scale_in = scale_out
    return QuantisedNetwork(
        input=network.input,
        input_threshold=threshold_counts(values[0], 1 / PIXEL_MAX),
        layers=tuple(layers),
    )


def _bounds(
    weight: npt.NDArray[np.signedinteger[Any]], bias: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Largest magnitude that each output's accumulator can have (see `accumulator_bound`)."""
    return np.abs(weight.astype(np.int64)).sum(axis=(1, 2, 3)) * PIXEL_MAX + np.abs(bias)


def _quantise_layer(
    layer: LinearLayer,
    scale_in: float,
    scale_out: float,
    last: bool,
    multiplier_bits: int,
    accumulator_bits: int,
) -> QuantisedLayer:
    weight = layer.weight.astype(np.float64)
    peak = np.abs(weight).max(axis=(1, 2, 3))
    if last:
        peak = np.full_like(peak, peak.max())
    peak[peak == 0] = 1.0
    # Pooling weights are all equal: the integer 1 is exact and keeps accumulators small.
    top = np.full_like(peak, 1 if layer.pool else WEIGHT_MAX)
    room = (1 << (accumulator_bits - 1)) - 1
    while True:
        scale_w = peak / top
        integers = np.rint(weight / scale_w[:, None, None, None]).astype(np.int8)
        bias = np.rint(layer.bias / (scale_in * scale_w)).astype(np.int64)
        bounds = _bounds(integers, bias)
        if last:
            bounds[:] = bounds.max()
        fitting = np.floor(top * (room / np.maximum(bounds, 1)))
        narrowed = np.where(bounds > room, np.minimum(top - 1, fitting), top)
        if (narrowed == top).all() or (narrowed < NARROWEST).any():
            break
        top = narrowed
    multiplier, shift = np.zeros(len(peak), np.int64), 1
    if not last:
        multiplier, shift = _multipliers(scale_in * scale_w / scale_out, multiplier_bits)
    return QuantisedLayer(
        name=layer.name,
        weight=integers,
        bias=bias,
        multiplier=multiplier,
        shift=shift,
        signed=layer.activation == "identity",
        threshold=0,
        scale=float(scale_in * scale_w[0]) if last else scale_out,
        stride=layer.stride,
        padding=layer.padding,
        in_shape=layer.in_shape,
        out_shape=layer.out_shape,
        dense_multiplications=layer.dense_multiplications,
    )


def _multipliers(
    factors: npt.NDArray[np.float64], bits: int, largest_shift: int = 31
) -> tuple[npt.NDArray[np.int64], int]:
    """`factors` as m / 2**r with one r for all: the largest r with which every m fits `bits`."""
    top = (1 << bits) - 1
    for shift in range(largest_shift, 0, -1):
        multiplier = np.rint(factors * 2.0**shift)
        if multiplier.max() <= top:
            return multiplier.astype(np.int64), shift
    raise UserError(
        f"a scale factor of {factors.max():.3g} between two layers is too large to requantise: "
        "check the activation scales"
    )
