"""The past decisions that DQN learns from, in files of the run's folder.

Frames are kept once and stacked when drawn. The files are rings with room for one segment more
than is ever drawn from: what a run writes after its last checkpoint overwrites nothing that the
checkpoint's window holds, so a killed run finds its replay as it was.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UserError

__all__ = ["Replay", "Sample"]


@dataclass(frozen=True)
class Sample:
    """Transitions, one an item."""

    observations: npt.NDArray[np.uint8]  # (N, stack, height, width)
    actions: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float32]
    following: npt.NDArray[np.uint8]  # observations after the decisions
    ends: npt.NDArray[np.bool_]


class Replay:
    """A ring of `steps + spare` steps of `games` games, of which the last `steps` are drawn from.

    `shape` is that of an observation (stack, height, width). `position` counts the steps written
    so far; setting it back to an earlier value, up to `spare` steps ago, forgets what came after.
    """

    def __init__(
        self, folder: Path, *, steps: int, spare: int, games: int, shape: tuple[int, int, int]
    ) -> None:
        self._stack = shape[0]
        self._steps = steps
        self._games = games
        slots = steps + spare + self._stack
        self._slots = slots
        self._arrays: dict[str, Any] = {}
        for name, kind, item in (
            ("frames", np.uint8, shape[1:]),
            ("ages", np.int32, ()),  # decisions since the episode began
            ("actions", np.int16, ()),
            ("rewards", np.float32, ()),
            ("ends", np.bool_, ()),
            ("whole", np.bool_, ()),  # the next step follows this one
        ):
            self._arrays[name] = _ring(folder / f"{name}.ring", kind, (slots, games, *item))
        self.position = 0

    @property
    def size(self) -> int:
        """Transitions that may be drawn, about: those at the ends of segments are counted too."""
        return max(0, min(self._steps, self.position - 1)) * self._games

    def add(
        self,
        frames: npt.NDArray[np.uint8],
        ages: npt.NDArray[np.int64],
        actions: npt.NDArray[np.int64],
        rewards: npt.NDArray[np.float32],
        ends: npt.NDArray[np.bool_],
        *,
        last: bool,
    ) -> None:
        """Write one step: the newest frames (games, height, width) and what was done on them.

        `last`: the next step written does not follow this one.
        """
        slot = self.position % self._slots
        values = {
            "frames": frames,
            "ages": ages,
            "actions": actions,
            "rewards": rewards,
            "ends": ends,
            "whole": not last,
        }
        for name, value in values.items():
            self._arrays[name][slot] = value
        self.position += 1

    def draw(self, count: int, rng: np.random.Generator) -> Sample:
        """`count` transitions, uniformly."""
        newest = self.position - 1  # has no follower yet
        oldest = max(0, newest - self._steps)
        steps = np.empty(0, np.int64)
        games = np.empty(0, np.int64)
        while len(steps) < count:
            missing = count - len(steps)
            drawn = rng.integers(oldest, newest, size=missing)
            which = rng.integers(self._games, size=missing)
            whole = self._arrays["whole"][drawn % self._slots, which]
            steps = np.concatenate([steps, drawn[whole]])
            games = np.concatenate([games, which[whole]])
        slots = steps % self._slots
        return Sample(
            observations=self._stacks(steps, games),
            actions=self._arrays["actions"][slots, games].astype(np.int64),
            rewards=self._arrays["rewards"][slots, games],
            following=self._stacks(steps + 1, games),
            ends=self._arrays["ends"][slots, games],
        )

    def flush(self) -> None:
        """Have everything on disk."""
        for array in self._arrays.values():
            array.flush()

    def _stacks(
        self, steps: npt.NDArray[np.int64], games: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.uint8]:
        ages = self._arrays["ages"][steps % self._slots, games]
        back = np.arange(self._stack - 1, -1, -1)
        frames = self._arrays["frames"][(steps[:, None] - back) % self._slots, games[:, None]]
        frames[back > ages[:, None]] = 0  # before the episode
        stacks: npt.NDArray[np.uint8] = frames
        return stacks


def _ring(path: Path, kind: type, shape: tuple[int, ...]) -> Any:
    """A file as an array; its whole room is taken at once, so that writing cannot fail later."""
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if path.exists() else "w+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
            if os.fstat(file.fileno()).st_size != size:
                raise UserError(f"{path} is of another size: remove it and start the run again")
        return np.memmap(path, kind, "r+", shape=shape)
    except OSError as error:
        raise UserError(
            f"replay {path} needs {size / 1e9:.2f} GB ({error.strerror}): make room, or set "
            "replay to fewer decisions"
        ) from None
