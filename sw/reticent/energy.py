"""An estimate of the energy of a frame: exact counts times published energies of operations.

Counted are multiplications, additions, and accesses of each memory by its size and width, layer by
layer, for the delta-sparse machine and for a dense one with as many lanes. Nothing is measured:
clocks, wires, leakage and the input's transfer are left out on both sides. docs/energy.md says
what is counted and why.

The energies are those of M. Horowitz, "Computing's energy problem (and what we can do about it)",
ISSCC 2014, figure 1.1.9: a 45 nm process at 0.9 V. What lies between its rows is scaled as its rows
scale: adders with their width, multipliers with the product of the widths, memories with the width
of an access and with the square root of their size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from .arithmetic import DELTA_BITS
from .config import BuildConfig
from .engine import Engine
from .layout import Space, row_fields
from .quantise import QuantisedLayer, QuantisedNetwork

__all__ = [
    "PURPOSES",
    "LayerCounter",
    "Tally",
    "add_pj",
    "frame_energy",
    "memory_pj",
    "multiply_pj",
]

# Horowitz, ISSCC 2014, figure 1.1.9, 45 nm, 0.9 V.
ADD_PJ, ADD_BITS = 0.1, 32  # integer addition
MULTIPLY_PJ, MULTIPLY_BITS = 0.2, 8  # integer multiplication, 8 x 8 bits
MEMORY_PJ, MEMORY_BITS, MEMORY_BYTES = 10.0, 64, 8 * 1024  # cache access, 64 bits of 8 KB

ACTIVATION_BITS = 8

PURPOSES = ("arithmetic", "weights", "accumulators", "addressing", "thresholds")

Deltas = Sequence[npt.NDArray[Any]]


def add_pj(bits: int) -> float:
    """Energy of an addition, in pJ."""
    return ADD_PJ * bits / ADD_BITS


def multiply_pj(one: int, other: int) -> float:
    """Energy of a multiplication of such widths, in pJ."""
    return MULTIPLY_PJ * one * other / MULTIPLY_BITS**2


def memory_pj(rows: float, row_bits: int) -> float:
    """Energy of one access of a whole row, read or written, in pJ."""
    size = rows * row_bits / 8
    return MEMORY_PJ * row_bits / MEMORY_BITS * sqrt(size / MEMORY_BYTES)


@dataclass
class Tally:
    """Energy of one layer in pJ by purpose, for both machines."""

    sparse: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PURPOSES, 0.0))
    dense: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PURPOSES, 0.0))


def frame_energy(
    network: QuantisedNetwork,
    config: BuildConfig,
    frames: Iterable[npt.NDArray[np.uint8]],
    starts: Iterable[bool],
) -> dict[str, Any]:
    """Mean energy of a frame after the cold start, in pJ, as plain JSON types.

    `layers` has an entry for each layer, with `sparse` and `dense` by purpose; `sparse` and `dense`
    of the whole frame are sums. `starts` marks the frames that begin an episode.
    """
    engine = Engine(network)
    counters = [LayerCounter(layer) for layer in network.layers]
    counted = 0
    totals = np.zeros((len(counters), 4))
    for frame, first in zip(frames, starts, strict=True):
        if first:
            engine.reset()
        step = engine.step(frame)
        if first:
            continue
        counted += 1
        for i, (counter, delta) in enumerate(zip(counters, engine.delta, strict=True)):
            ranges, touched = counter.count(delta)
            totals[i] += step.events[i], step.significant[i], ranges, touched
    tallies = _tallies(network, config, totals / max(1, counted))
    layers = [
        {"name": layer.name, "sparse": tally.sparse, "dense": tally.dense}
        for layer, tally in zip(network.layers, tallies, strict=True)
    ]
    return {
        "frames": counted,
        "lanes": config.lanes,
        "layers": layers,
        "sparse": sum(sum(tally.sparse.values()) for tally in tallies),
        "dense": sum(sum(tally.dense.values()) for tally in tallies),
    }


class LayerCounter:
    """Counts what the events of a frame cause in one layer."""

    def __init__(self, layer: QuantisedLayer) -> None:
        (_, height, width), (_, out_height, out_width) = layer.in_shape, layer.out_shape
        kernel = layer.weight.shape[2:]
        self._rows = _met(height, kernel[0], layer.stride[0], layer.padding[0], out_height)
        self._columns = _met(width, kernel[1], layer.stride[1], layer.padding[1], out_width)
        # Runs of taps for each input position: one where no column falls off the map, else one a
        # row of taps; none where nothing is met.
        met_rows, met_columns = self._rows.sum(axis=1), self._columns.sum(axis=1)
        phase = (np.arange(width) + layer.padding[1]) % layer.stride[1]
        whole = met_columns == np.array([len(range(p, kernel[1], layer.stride[1])) for p in phase])
        runs = np.where(whole[None, :], np.minimum(met_rows, 1)[:, None], met_rows[:, None])
        self._runs = np.where(met_columns[None, :] > 0, runs, 0)

    def count(self, delta: npt.NDArray[Any]) -> tuple[int, int]:
        """Runs that the events (in, h, w) address, and output positions that they touch."""
        fired = delta != 0
        runs = int((fired.sum(axis=0) * self._runs).sum())
        positions = fired.any(axis=0)
        touched = self._rows.T.astype(np.int64) @ positions @ self._columns.astype(np.int64) > 0
        return runs, int(touched.sum())


def _met(size: int, kernel: int, stride: int, padding: int, outputs: int) -> npt.NDArray[np.bool_]:
    """Whether input coordinate i (rows) meets output o (columns) on one axis."""
    tap = np.arange(size)[:, None] + padding - stride * np.arange(outputs)[None, :]
    return (tap >= 0) & (tap < kernel)


def _bits(config: BuildConfig, space: Space) -> int:
    return sum(bits for _, bits, _ in row_fields(config, space))


def _tallies(
    network: QuantisedNetwork, config: BuildConfig, totals: npt.NDArray[np.float64]
) -> list[Tally]:
    """Counts (layers, [events, multiplications, runs, touched positions]) times energies."""
    c = config
    weight = memory_pj(c.weight_depth, _bits(c, Space.WEIGHT))
    pointer = memory_pj(c.pointer_depth, _bits(c, Space.POINTER))
    tables = memory_pj(c.map_depth, _bits(c, Space.ROW)) + memory_pj(
        c.map_depth, _bits(c, Space.COLUMN)
    )
    channel = memory_pj(c.channel_depth // c.requantisers, _bits(c, Space.CHANNEL))
    product = multiply_pj(c.weight_bits, DELTA_BITS) + add_pj(c.accumulator_bits)
    examine = multiply_pj(c.accumulator_bits, c.multiplier_bits) + 2 * add_pj(DELTA_BITS)
    dense_weights = sum(layer.weight.size for layer in network.layers) / c.lanes
    dense_weight = memory_pj(dense_weights, c.weight_bits)
    # A dense machine keeps two layers' activations, spread over its lanes.
    widest = max(int(np.prod(layer.in_shape)) for layer in network.layers)
    dense_activation = memory_pj(2 * widest, ACTIVATION_BITS)

    tallies = []
    counts = totals.tolist()
    for i, (layer, (events, multiplications, runs, touched)) in enumerate(
        zip(network.layers, counts, strict=True)
    ):
        space = Space.STATE_ODD if i % 2 else Space.STATE_EVEN
        depth = c.state_depth_odd if i % 2 else c.state_depth_even
        state = memory_pj(depth // c.requantisers, _bits(c, space))
        channels, height, width = layer.out_shape
        last = i == len(network.layers) - 1
        examined = 0.0 if last else touched * channels
        sent = 0.0 if last else counts[i + 1][0]
        tally = Tally()
        tally.sparse["arithmetic"] = multiplications * product
        tally.sparse["weights"] = multiplications * weight
        tally.sparse["accumulators"] = multiplications * 2 * state
        tally.sparse["addressing"] = events * tables + runs * c.lanes * 2 * pointer
        tally.sparse["thresholds"] = examined * (examine + state + channel) + sent * state
        if i == 0:
            spec = network.input
            history = memory_pj(c.frame_depth, ACTIVATION_BITS * spec.stack)
            tally.sparse["thresholds"] += spec.pixels * (2 * history + add_pj(DELTA_BITS))
            tally.dense["thresholds"] += spec.pixels * dense_activation
        dense, neurons = layer.dense_multiplications, channels * height * width
        tally.dense["arithmetic"] = dense * product
        tally.dense["weights"] = dense * dense_weight
        # Accumulators stay in registers; an activation is read once for all lanes.
        tally.dense["accumulators"] = dense / c.lanes * dense_activation
        tally.dense["thresholds"] += 0.0 if last else neurons * (examine + dense_activation)
        tallies.append(tally)
    return tallies
