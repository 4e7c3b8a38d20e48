"""What every way of running a network has in common: float, golden, co-simulated, on a board."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Backend", "Cycles", "StepResult"]


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


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """One decision. Tuples have one item per layer; None where a backend cannot know."""

    outputs: npt.NDArray[Any]  # (outputs,): action values, or accumulators that rank the same
    events: tuple[int, ...]
    significant: tuple[int, ...]
    cycles: Cycles | None = None

    @property
    def action(self) -> int:
        """The best action; the lowest index wins a tie."""
        return int(self.outputs.argmax())


class Backend(Protocol):
    """A running network. One new frame a step; state persists from step to step."""

    name: str

    def reset(self) -> None:
        """Start an episode: forget all frames, nothing was ever sent."""

    def step(self, frame: npt.NDArray[np.uint8]) -> StepResult:
        """Send one new frame (height, width[, channels]) uint8 and return the decision."""

    def close(self) -> None:
        """Release what the backend holds."""
