"""Parallelised Q-learning: many games, no replay, no target network, lambda returns.

A batch is `steps` decisions of every game. Its targets are Peng's Q(lambda) with the values that
the acting network gave; the network then learns them in a few epochs of minibatches.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .games import Games
from .learner import Advance, Learner, Player
from .qnetwork import QNetwork, greedy
from .settings import FRAME_SKIP, PqnSettings

__all__ = ["Pqn", "lambda_returns"]

Floats = npt.NDArray[np.float32]


def lambda_returns(
    rewards: Floats, ends: npt.NDArray[np.bool_], values: Floats, gamma: float, trace: float
) -> Floats:
    """Targets (steps, games) of Q(lambda).

    `rewards` and `ends` (steps, games) belong to the decisions; `values` (steps + 1, games) are
    the best actions' values of the observations before each decision and after the last.
    """
    returns = np.empty_like(rewards)
    following = values[-1]
    for t in range(len(rewards) - 1, -1, -1):
        mixed = trace * following + (1 - trace) * values[t + 1]
        following = rewards[t] + gamma * np.where(ends[t], np.float32(0), mixed)
        returns[t] = following
    return returns


class _Batch:
    """Room for one batch."""

    def __init__(self, steps: int, games: int, shape: tuple[int, ...]) -> None:
        self.observations = np.empty((steps, games, *shape), np.uint8)
        self.actions = np.empty((steps, games), np.int64)
        self.rewards = np.empty((steps, games), np.float32)
        self.ends = np.empty((steps, games), np.bool_)
        self.values = np.empty((steps + 1, games), np.float32)
        self.shuffle = np.random.default_rng(0)  # for the order of the minibatches


class Pqn(Player):
    """The algorithm; see `trainer.Algorithm`.

    With `overlap` a second thread learns while the games go on with the weights from before that
    learning; which weights act is the same on every machine.
    """

    def __init__(self, settings: PqnSettings, learner: Learner, games: Games) -> None:
        super().__init__(learner, games)
        self._settings = settings
        # The acting network's own copy; without overlap it is the learning one.
        network = learner.network
        self._acting = network
        self._pool: ThreadPoolExecutor | None = None
        if settings.overlap:
            self._acting = QNetwork(network.shape, network.tensors, precision=settings.precision)
            self._pool = ThreadPoolExecutor(1, initializer=lambda: torch.set_num_threads(1))
        self._waiting: _Batch | None = None  # collected, not learned
        shape = network.shape.linear[0].in_shape
        self._batches = [
            _Batch(settings.steps, settings.environments, shape)
            for _ in range(1 + bool(self._pool))
        ]

    @property
    def decisions(self) -> int:
        """Decisions of one `advance`."""
        return self._settings.steps * self._games.count

    def advance(self, *, last: bool) -> Advance:
        """Collect one batch and learn from one; with `last` nothing stays to be learned."""
        epsilon = self._learner.epsilon
        batch, self._batches = self._batches[0], self._batches[::-1]
        loss = float("nan")
        if self._pool is None:
            scores = self._collect(batch, epsilon)
        else:
            # Nothing runs between two calls, so nothing depends on which thread is quicker.
            self._acting.copy_from(self._learner.network)
            learning = self._pool.submit(self._learn, self._waiting) if self._waiting else None
            scores = self._collect(batch, epsilon)
            if learning:
                loss = learning.result()
        self._waiting = batch
        if last or self._pool is None:
            loss = self._learn(batch)
            self._waiting = None
        return Advance(self.decisions, scores, loss, float(batch.values.mean()))

    def close(self) -> None:
        """End the second thread."""
        if self._pool:
            self._pool.shutdown()

    def state(self) -> dict[str, Any]:
        """Nothing besides the learner: segments begin anew."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""

    def _collect(self, batch: _Batch, epsilon: float) -> list[float]:
        scores: list[float] = []
        for t in range(self._settings.steps):
            best, batch.values[t] = greedy(self._acting, self._observations)
            chosen = self._explorer.choose(best, epsilon, self._rng)
            batch.observations[t] = self._observations
            step = self._games.step(chosen)
            batch.actions[t] = step.actions
            batch.rewards[t] = np.sign(step.rewards)
            batch.ends[t] = step.ends
            scores += step.scores
            self._observations = step.observations
        batch.shuffle = self._rng.spawn(1)[0]
        _, batch.values[-1] = greedy(self._acting, self._observations)
        return scores

    def _learn(self, batch: _Batch) -> float:
        settings, learner = self._settings, self._learner
        targets = lambda_returns(
            batch.rewards, batch.ends, batch.values, settings.gamma, settings.trace
        )
        device = learner.network.device
        # The batch moves to the device once, not in every epoch.
        observations, actions, wanted = (
            torch.from_numpy(array.reshape(-1, *array.shape[2:])).to(device)
            for array in (batch.observations, batch.actions, targets)
        )
        losses = []
        for _ in range(settings.epochs):
            order = torch.from_numpy(batch.shuffle.permutation(len(wanted))).to(device)
            for chosen in order.split(settings.minibatch):
                seen, taken = observations[chosen], actions[chosen]
                values = learner.network(seen).gather(1, taken[:, None])[:, 0]
                loss = (values - wanted[chosen]).square().mean() / 2
                learner.step(loss)
                losses.append(loss.detach())
        learner.frames += len(wanted) * FRAME_SKIP
        learner.prune()
        return float(torch.stack(losses).mean())
