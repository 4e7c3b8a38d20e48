"""What a frame does to a netlist, and which frames are looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reticent.quantise import QuantisedNetwork

__all__ = ["Activity", "Frame", "Turn", "turns"]

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Activity:
    """What happens in a number of clock cycles: seen in `sampled` of them and scaled up, or, where
    that is 0, expected.

    By path below the core ("lane_0/parts/weights/memory/rows/macro_0_0"): `changes` of the first
    output of every cell (of a clock gate: of its enable), `reads` and `writes` of every macro, and
    `ticks` of every clock gate.
    """

    cycles: int
    sampled: int
    changes: Mapping[str, float]
    reads: Mapping[str, float]
    writes: Mapping[str, float]
    ticks: Mapping[str, float]


@dataclass(frozen=True)
class Frame:
    """A frame that is reported."""

    threshold: float  # real units
    anew: bool  # the first frame after a reset: everything is computed
    significant: int
    activity: Activity  # its transfer included


class Turn(NamedTuple):
    """A frame in its turn: `number` counts those of a threshold from 0."""

    threshold: float
    number: int
    pixels: Pixels
    anew: bool
    shown: bool


def turns(
    network: QuantisedNetwork, frames: Sequence[Pixels], thresholds: Sequence[float]
) -> Iterator[Turn]:
    """The first frame from a reset; then, for each threshold (real units), all frames: those that
    fill the stack anew are not shown, the others are.

    So the same frames are compared. The device goes on from one threshold to the next.
    """
    for turn, threshold in enumerate(thresholds):
        for i, frame in enumerate(frames):
            anew = turn == 0 and i == 0
            yield Turn(threshold, i, frame, anew, anew or i >= network.input.stack)
