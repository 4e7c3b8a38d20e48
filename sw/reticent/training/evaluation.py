"""What a network scores over whole episodes, and what it multiplies meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..atari import AtariGame, rollout
from ..backends import ModelBackend
from ..engine import Engine, FloatEngine
from ..errors import UserError

__all__ = ["EPSILON", "SEED", "Evaluation", "evaluate", "interval"]

SEED = 1_000_000  # of the first episode; apart from those that training plays
EPSILON = 0.01  # random decisions while evaluating: without any, one game is played again and again


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Whole episodes of one network. Counts leave out each episode's first decision."""

    scores: tuple[float, ...]
    decisions: int
    dense: tuple[int, ...]  # multiplications of one dense evaluation, of each layer
    significant: tuple[float, ...]  # mean a decision, of each layer
    events: tuple[float, ...]  # mean a decision, that entered each layer
    neurons: tuple[int, ...]  # inputs of each layer

    @property
    def mean(self) -> float:
        """Mean score."""
        return float(np.mean(self.scores))

    @property
    def fraction(self) -> float:
        """Significant over dense multiplications."""
        return sum(self.significant) / sum(self.dense)


def interval(scores: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean score: percentiles of 10,000 bootstrap means, deterministic."""
    values = np.asarray(scores, np.float64)
    drawn = np.random.default_rng(seed).integers(len(values), size=(10_000, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def evaluate(
    model: Engine | FloatEngine,
    game: str,
    episodes: int,
    *,
    seed: int = SEED,
    epsilon: float = EPSILON,
    sticky: float = 0.0,
) -> Evaluation:
    """Play `episodes` whole episodes; the same arguments give the same result.

    Episode k starts from `seed + k`, so networks that are compared meet the same starts. A float
    network without thresholds plays as the dense one (up to the order of float32 sums).
    """
    if episodes < 1:
        raise UserError(f"{episodes} episodes to play: give at least 1")
    emulator = AtariGame(game, sticky=sticky)
    layers = model.network.linear if isinstance(model, FloatEngine) else model.network.layers
    significant = np.zeros(len(layers), np.int64)
    events = np.zeros(len(layers), np.int64)
    scores: list[float] = []
    score, decisions = 0.0, 0
    try:
        backend = ModelBackend("evaluated", model)
        for decision in rollout(emulator, backend, seed=seed, epsilon=epsilon):
            assert decision.result is not None
            score += decision.reward
            if not decision.first:
                decisions += 1
                significant += decision.result.significant
                events += decision.result.events
            if decision.over:
                scores.append(score)
                score = 0.0
                if len(scores) == episodes:
                    break
    finally:
        emulator.close()
    return Evaluation(
        scores=tuple(scores),
        decisions=decisions,
        dense=tuple(layer.dense_multiplications for layer in layers),
        significant=_means(significant, decisions),
        events=_means(events, decisions),
        neurons=tuple(int(np.prod(layer.in_shape)) for layer in layers),
    )


def _means(totals: npt.NDArray[np.int64], count: int) -> tuple[float, ...]:
    return tuple(float(total) / max(1, count) for total in totals)
