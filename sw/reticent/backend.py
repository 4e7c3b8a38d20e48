"""What every way of running a network has in common: float, golden, co-simulated, on a board."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Backend", "Cycles", "FrameTraffic", "LinkUse", "StepResult"]


@dataclass(frozen=True, kw_only=True)
class Cycles:
    """Clock cycles of one decision, from the device's own counters.

    `layers[i]` runs from the first cycle in which layer i may receive events until its last
    accumulator is written and the next layer begins. `total` runs from the last pixel of the frame
    (or from when its events overflow the event queue) to the answer: the sum of the layers, and
    the few cycles before the first. `busy` counts lane-cycles that multiplied, `lost` lane-cycles
    that did not, by cause: `lanes * total = busy + sum(lost)`.
    """

    layers: tuple[int, ...]
    total: int
    busy: int
    lost: dict[str, int]


class StepResult(NamedTuple):  # made several times faster than a frozen dataclass
    """One decision. Tuples have one item per layer; None where a backend cannot know."""

    outputs: npt.NDArray[Any]  # (outputs,): action values, or accumulators that rank the same
    events: tuple[int, ...]
    significant: tuple[int, ...]
    cycles: Cycles | None = None
    # The device had lost its state: this is its answer as to the first frame of an episode.
    fresh: bool = False

    @property
    def action(self) -> int:
        """The best action; the lowest index wins a tie."""
        return int(self.outputs.argmax())


@dataclass(frozen=True, kw_only=True)
class FrameTraffic:
    """What one decision moved over a link, framing, retries and all."""

    raw: int  # bytes of the frame itself
    sent: int  # bytes to the board
    received: int  # bytes from the board
    seconds: float  # from the first byte to the answer, by this computer's clock


@dataclass(frozen=True, kw_only=True)
class LinkUse:
    """What went over the link to a board."""

    board: str  # its name, and where it is
    clock: int  # Hz of its core
    baud: int  # bit/s; ten bits are a byte
    loaded: bool  # the image had to be loaded; otherwise the board held it
    frames: list[FrameTraffic]
    retries: int  # requests that were sent again
    resets: int  # times that the board was found reset, or silent, and was started anew
    damage: str | None  # why it was loaded although it claimed to hold the image


class Backend(Protocol):
    """A running network. One new frame a step; state persists from step to step."""

    name: str

    def reset(self) -> None:
        """Start an episode: forget all frames, nothing was ever sent."""

    def step(self, frame: npt.NDArray[np.uint8]) -> StepResult:
        """Send one new frame (height, width[, channels]) uint8 and return the decision."""

    def close(self) -> None:
        """Release what the backend holds."""
