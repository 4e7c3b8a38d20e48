"""Many copies of one game for training, on ALE's native vector environment.

As in `reticent.atari`: minimal actions, frame skip 4, 84 x 84 grey, FIRE at the start and forced
after a lost life. Stacks hold zeros before the first frame (`history` "zeros").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..atari import AtariGame

__all__ = ["Games", "Transition"]


@dataclass(frozen=True)
class Transition:
    """What one decision in every game led to."""

    observations: npt.NDArray[np.uint8]  # (N, 4, 84, 84), the next ones
    actions: npt.NDArray[np.int64]  # (N,), as taken: FIRE where it was forced
    rewards: npt.NDArray[np.float32]  # (N,), unclipped
    ends: npt.NDArray[np.bool_]  # (N,), a life or the episode ended: nothing follows for learning
    over: npt.NDArray[np.bool_]  # (N,), the episode ended: the observation is the next one's first
    scores: list[float]  # of the episodes that ended


class Games:
    """`count` copies of a game. The same seed and actions give the same transitions."""

    def __init__(self, game: str, count: int, *, threads: int) -> None:
        import ale_py
        from ale_py.vector_env import AtariVectorEnv
        from gymnasium.vector import AutoresetMode

        single = AtariGame(game)
        single.close()
        self.name, self.actions = single.name, single.actions
        self._fire = "FIRE" in self.actions[1:2]
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._environments: Any = AtariVectorEnv(
            self.name,
            count,
            num_threads=min(threads, count),
            autoreset_mode=AutoresetMode.SAME_STEP,
            reward_clipping=False,
        )
        self.count = count

    def reset(self, seed: int) -> npt.NDArray[np.uint8]:
        """Start new episodes everywhere; returns observations (N, 4, 84, 84)."""
        observations, info = self._environments.reset(seed=seed)
        self._lives = np.array(info["lives"])
        self._lost = np.zeros(self.count, bool)
        self._scores = np.zeros(self.count)
        return np.asarray(observations)

    def step(self, actions: npt.NDArray[np.int64]) -> Transition:
        """Take one decision in every game."""
        self.send(actions)
        return self.receive()

    def send(self, actions: npt.NDArray[np.int64]) -> None:
        """Begin to take one decision in every game; the emulators run in threads of their own."""
        self._actions = np.where(self._lost, 1, actions) if self._fire else actions
        self._environments.send(self._actions)

    def receive(self) -> Transition:
        """Wait for what the last `send` led to."""
        observations, rewards, terminated, truncated, info = self._environments.recv()
        over = np.asarray(terminated) | np.asarray(truncated)
        lives = np.array(info["lives"])
        self._lost = (lives < self._lives) & ~over
        self._lives = lives
        self._scores += rewards
        scores = self._scores[over].tolist()
        self._scores[over] = 0
        return Transition(
            np.asarray(observations),
            self._actions,
            np.asarray(rewards, np.float32),
            over | self._lost,
            over,
            scores,
        )

    def close(self) -> None:
        """Release the emulators."""
        self._environments.close()
