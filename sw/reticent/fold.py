"""Folding: neighbouring output positions of a layer become channels of a smaller map.

A layer folded by (2, 2) has four times the channels on a map of half the height and width: channel
(c, qy, qx) at (Y, X) is channel c at (2 Y + qy, 2 X + qx). Nothing changes in what is computed, but
more channels can be shared out among the lanes, and every lane gets positions of all parities. It
costs memory: each of the channels stores the weights of its own taps.

A folded layer is a convolution again. With an input folded by `fi` and an output by `fo`,
coordinate y of input class p meets output Y of class q by the kernel index
`fi * y + p + padding - stride * (fo * Y + q)`, which depends on `y - stride * fo / fi * Y` only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .quantise import QuantisedLayer, QuantisedNetwork

__all__ = [
    "FOLDS",
    "Axis",
    "Fold",
    "axes",
    "choose_folds",
    "fold_map",
    "folded_weights",
    "unfold_map",
]

Ints = npt.NDArray[np.int64]
Fold = tuple[int, int]

FOLDS: tuple[Fold, ...] = ((1, 1), (1, 2), (2, 2))  # (y, x), coarsest first


def choose_folds(network: QuantisedNetwork, fold: Fold) -> list[Fold]:
    """The fold of each layer's output: `fold`, but 1 where the map is one position wide or high."""
    layers = network.layers
    hidden: list[Fold] = [
        (fold[0] if layer.out_shape[1] > 1 else 1, fold[1] if layer.out_shape[2] > 1 else 1)
        for layer in layers[:-1]
    ]
    return [*hidden, (1, 1)]


def folded_size(size: int, factor: int) -> int:
    """Positions of a folded map."""
    return -(-size // factor)


def fold_map(values: npt.NDArray[Any], fold: Fold) -> npt.NDArray[Any]:
    """(channels, h, w) -> (channels * fy * fx, ceil(h / fy), ceil(w / fx)); zeros where it ends."""
    channels, height, width = values.shape
    (fy, fx), rows, columns = fold, folded_size(height, fold[0]), folded_size(width, fold[1])
    padded = np.pad(values, ((0, 0), (0, rows * fy - height), (0, columns * fx - width)))
    split = padded.reshape(channels, rows, fy, columns, fx).transpose(0, 2, 4, 1, 3)
    return split.reshape(channels * fy * fx, rows, columns)


def unfold_map(
    values: npt.NDArray[Any], fold: Fold, shape: tuple[int, int, int]
) -> npt.NDArray[Any]:
    """The inverse of `fold_map`; `shape` is that of the result."""
    channels, height, width = shape
    (fy, fx), (rows, columns) = fold, values.shape[1:]
    joined = values.reshape(channels, fy, fx, rows, columns).transpose(0, 3, 1, 4, 2)
    return joined.reshape(channels, rows * fy, columns * fx)[:, :height, :width]


@dataclass(frozen=True)
class Axis:
    """The taps along one axis of a layer, in the order in which memory holds them.

    Taps come in groups: coordinates that differ by a multiple of the stride share one. Where an
    output position at the end of a folded map stands for fewer classes than the others, events that
    reach it have groups of their own, in which the weights of the missing classes are left out.
    """

    out: int  # folded output positions
    back: Ints  # of each tap: how many output positions it lies before the first tap's
    kernel: Ints  # (input classes, output classes, taps): kernel index, or -1
    groups: tuple[slice, ...]  # taps of each group
    group: Ints  # of each input coordinate
    first: Ints  # of each coordinate: the taps of its group that reach the map
    count: Ints
    origin: Ints  # of each coordinate: output position of a tap that lies 0 before

    @classmethod
    def of(
        cls, kernel: int, stride: int, padding: int, size: int, out: int, *, before: int, after: int
    ) -> Axis:
        """`size` input positions folded by `before`, `out` output positions folded by `after`."""
        outs = folded_size(out, after)
        present = out - after * (outs - 1)  # classes of the last output position
        # Tap m of output 0 is coordinate m - ahead.
        ahead = (before - 1 + padding) // before
        length = (kernel - 1 - padding + stride * (after - 1)) // before + ahead + 1
        step = stride * after // before if out > 1 else length
        if out > 1 and stride * after % before:
            raise ValueError(f"stride {stride} folded by {before} to {after}")

        def index(tap: int, given: int, wanted: int) -> int:
            found = before * (tap - ahead) + given + padding - stride * wanted
            return found if 0 <= found < kernel else -1

        def ends(tap: int) -> bool:
            """Whether the tap has weights of classes that the last output does not have."""
            return any(index(tap, p, q) >= 0 for p in range(before) for q in range(present, after))

        taps: list[tuple[int, int, int]] = []  # tap, steps back, classes
        groups: list[slice] = []
        known: dict[tuple[int, int], int] = {}
        rows: list[tuple[int, int, int, int]] = []
        for coordinate in range(folded_size(size, before)):
            origin, phase = divmod(coordinate + ahead, step)
            members = range(phase, length, step)
            first = max(0, origin - outs + 1)
            count = max(0, min(len(members) - 1, origin) - first + 1)
            special = count > 0 and origin - first == outs - 1 and ends(members[first])
            key = (phase, first if special else -1)
            if key not in known:
                known[key] = len(groups)
                kept = range(first, first + count) if special else range(len(members))
                begin = len(taps)
                taps += [
                    (members[j], j, present if special and j == first else after) for j in kept
                ]
                groups.append(slice(begin, len(taps)))
            rows.append((known[key], 0 if special else first, count, origin))
        table = [
            [[index(tap, p, q) if q < classes else -1 for tap, _, classes in taps]
             for q in range(after)] for p in range(before)
        ]  # fmt: skip
        group, firsts, counts, origins = np.array(rows, np.int64).T
        return cls(
            out=outs,
            back=np.array([j for _, j, _ in taps], np.int64),
            kernel=np.array(table, np.int64).reshape(before, after, len(taps)),
            groups=tuple(groups),
            group=group,
            first=firsts,
            count=counts,
            origin=origins,
        )

    @property
    def taps(self) -> int:
        """Taps of all groups."""
        return len(self.back)

    def meets(self, coordinate: int) -> list[tuple[int, int]]:
        """(tap, folded output position) of what an event at a folded coordinate meets."""
        begin = self.groups[self.group[coordinate]].start + int(self.first[coordinate])
        taps = range(begin, begin + int(self.count[coordinate]))
        return [(tap, int(self.origin[coordinate] - self.back[tap])) for tap in taps]

    def rows(self, step: int, width: int) -> dict[str, Ints]:
        """ROW or COLUMN entries: what an event at each coordinate reaches.

        An output position is `step` state rows from the next; `before` is given in units of
        `width` taps.
        """
        sizes = np.array([group.stop - group.start for group in self.groups], np.int64)
        begins = np.array([group.start for group in self.groups], np.int64)
        reaches = self.count > 0
        last = np.where(reaches, begins[self.group] + self.first + self.count - 1, 0)
        return {
            "before": begins[self.group] * width,
            "taps": sizes[self.group],
            "first": np.where(reaches, self.first, 0),
            "count": self.count,
            "base": np.where(reaches, self.origin * step, 0),
            "start": np.where(reaches, self.origin - self.back[last], 0),
        }


def axes(layer: QuantisedLayer, before: Fold, after: Fold) -> tuple[Axis, Axis]:
    """The (y, x) axes of a layer whose input and output are folded."""
    found = [
        Axis.of(
            layer.weight.shape[2 + a], layer.stride[a], layer.padding[a], layer.in_shape[1 + a],
            layer.out_shape[1 + a], before=before[a], after=after[a],
        )
        for a in range(2)
    ]  # fmt: skip
    return found[0], found[1]


def folded_weights(layer: QuantisedLayer, y: Axis, x: Axis) -> npt.NDArray[np.int8]:
    """Weights (folded out, folded in, y taps, x taps) of a layer with these axes."""
    out, channels = layer.weight.shape[:2]
    padded = np.pad(layer.weight, ((0, 0), (0, 0), (0, 1), (0, 1)))  # index -1 is zero
    (py, qy, _), (px, qx, _) = y.kernel.shape, x.kernel.shape
    found = np.zeros((out, qy, qx, channels, py, px, y.taps, x.taps), np.int8)
    for iy, oy, ix, ox in np.ndindex(py, qy, px, qx):
        rows, columns = y.kernel[iy, oy], x.kernel[ix, ox]
        found[:, oy, ox, :, iy, ix] = padded[:, :, rows[:, None], columns]
    return found.reshape(out * qy * qx, channels * py * px, y.taps, x.taps)
