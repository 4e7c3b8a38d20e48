"""Policy distillation: a network that is pruned imitates what it was before (no rewards).

The student plays; for every observation that it meets, a frozen teacher, the network that the run
began with, says how good each action is. The loss is the Kullback-Leibler divergence from the
softmax of the teacher's values over a low temperature to that of the student's (Rusu et al.,
Policy Distillation, ICLR 2016), times the squared temperature, so that its gradient does not grow
as the temperature falls. Values come out right but for a shift that is the same for all actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .games import Games
from .learner import Advance, Learner, Player
from .qnetwork import QNetwork, Tensor, greedy
from .settings import FRAME_SKIP, DistilSettings

__all__ = ["Distil", "divergence"]


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The loss of values (N, actions): a scalar, 0 where they differ by a shift a row."""
    wanted = F.log_softmax(teacher / temperature, dim=1)
    found = F.log_softmax(student / temperature, dim=1)
    return F.kl_div(found, wanted, reduction="batchmean", log_target=True) * temperature**2


class Distil(Player):
    """The algorithm; see `trainer.Algorithm`."""

    def __init__(
        self,
        settings: DistilSettings,
        learner: Learner,
        games: Games,
        teacher: Mapping[str, Tensor],
    ) -> None:
        super().__init__(learner, games)
        self._settings = settings
        network = learner.network
        self._teacher = QNetwork(
            network.shape,
            {name: tensor.to(network.device) for name, tensor in teacher.items()},
            precision="float32",
        )
        shape = network.shape.linear[0].in_shape
        self._seen = np.empty((settings.steps, games.count, *shape), np.uint8)

    @property
    def decisions(self) -> int:
        """Decisions of one `advance`."""
        return self._settings.steps * self._games.count

    def advance(self, *, last: bool) -> Advance:
        """Play some steps, then learn from what was seen."""
        scores: list[float] = []
        values = []
        for t in range(self._settings.steps):
            best, value = greedy(self._learner.network, self._observations)
            values.append(value.mean())
            self._seen[t] = self._observations
            step = self._games.step(self._explorer.choose(best, self._learner.epsilon, self._rng))
            scores += step.scores
            self._observations = step.observations
        return Advance(self.decisions, scores, self._learn(), float(np.mean(values)))

    def state(self) -> dict[str, Any]:
        """Nothing besides the learner: segments begin anew."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""

    def close(self) -> None:
        """Nothing is held."""

    def _learn(self) -> float:
        settings, learner = self._settings, self._learner
        seen = torch.from_numpy(self._seen.reshape(-1, *self._seen.shape[2:]))
        seen = seen.to(learner.network.device)
        with torch.no_grad():
            wanted = torch.cat([self._teacher(part) for part in seen.split(settings.minibatch)])
        losses = []
        for _ in range(settings.epochs):
            order = torch.from_numpy(self._rng.permutation(len(seen))).to(seen.device)
            for chosen in order.split(settings.minibatch):
                found = learner.network(seen[chosen])
                loss = divergence(found, wanted[chosen], settings.temperature)
                learner.step(loss)
                losses.append(loss.detach())
        learner.frames += len(seen) * FRAME_SKIP
        learner.prune()
        return float(torch.stack(losses).mean())
