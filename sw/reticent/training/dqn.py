"""DQN as published: replay, target network, Huber loss, epsilon-greedy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .games import Games
from .learner import Advance, Learner, Player
from .qnetwork import QNetwork, greedy
from .replay import Replay
from .settings import FRAME_SKIP, DqnSettings

__all__ = ["Dqn"]

STEPS = 64  # of every game in one call of `advance`


class Dqn(Player):
    """The algorithm; see `trainer.Algorithm`. Its replay lies in `folder`."""

    def __init__(self, settings: DqnSettings, learner: Learner, games: Games, folder: Path) -> None:
        super().__init__(learner, games)
        self._settings = settings
        network = learner.network
        self._target = QNetwork(network.shape, network.tensors, precision=settings.precision)
        channels, height, width = network.shape.linear[0].in_shape
        segment = settings.segment // (FRAME_SKIP * games.count)
        self._replay = Replay(
            folder,
            steps=-(-settings.replay // games.count),
            spare=segment + STEPS,
            games=games.count,
            shape=(channels, height, width),
        )
        self._decisions = 0
        self._due = 0.0  # updates

    @property
    def decisions(self) -> int:
        """Decisions of one `advance`."""
        return STEPS * self._games.count

    def start(self, seed: int) -> None:
        """New episodes everywhere, and random numbers from `seed`."""
        super().start(seed)
        self._ages = np.zeros(self._games.count, np.int64)

    def advance(self, *, last: bool) -> Advance:
        """Play some steps and update as often as they ask for; `last` ends the segment."""
        settings, learner = self._settings, self._learner
        count = self._games.count
        scores: list[float] = []
        losses, values = [], []
        for step in range(STEPS):
            best, value = greedy(learner.network, self._observations)
            values.append(value.mean())
            # Until there is enough to learn from everything is random.
            filling = self._decisions < settings.learning_starts
            chosen = self._explorer.choose(best, 1.0 if filling else learner.epsilon, self._rng)
            frames = self._observations[:, -1].copy()
            self._games.send(chosen)
            # The games go on in their own threads while the network learns.
            while self._due >= 1:
                self._due -= 1
                losses.append(self._update())
            taken = self._games.receive()
            self._replay.add(
                frames,
                self._ages,
                taken.actions,
                np.sign(taken.rewards),
                taken.ends,
                last=last and step == STEPS - 1,
            )
            self._observations = taken.observations
            self._ages = np.where(taken.over, 0, self._ages + 1)
            scores += taken.scores
            before = self._decisions
            self._decisions += count
            learner.frames += count * FRAME_SKIP
            if not filling:
                self._due += count / settings.update_every
            if before // settings.target_every != self._decisions // settings.target_every:
                self._target.copy_from(learner.network)
        learner.prune()
        loss = float(torch.stack(losses).mean()) if losses else float("nan")
        return Advance(self.decisions, scores, loss, float(np.mean(values)))

    def close(self) -> None:
        """Nothing is held."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs besides the learner; the replay is on disk afterwards."""
        self._replay.flush()
        return {
            "target": {name: t.detach() for name, t in self._target.tensors.items()},
            "position": self._replay.position,
            "decisions": self._decisions,
            "due": self._due,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        with torch.no_grad():
            for name, tensor in self._target.tensors.items():
                tensor.copy_(state["target"][name])
        self._replay.position = int(state["position"])
        self._decisions = int(state["decisions"])
        self._due = float(state["due"])

    def _update(self) -> Any:
        settings, network = self._settings, self._learner.network
        sample = self._replay.draw(settings.minibatch, self._rng)
        device = network.device
        observations, following, actions, rewards, ends = (
            torch.from_numpy(array).to(device)
            for array in (
                sample.observations,
                sample.following,
                sample.actions,
                sample.rewards,
                sample.ends,
            )
        )
        with torch.no_grad():
            best = self._target(following).max(dim=1).values
            wanted = rewards + settings.gamma * best * ~ends
        values = network(observations).gather(1, actions[:, None])[:, 0]
        loss = F.smooth_l1_loss(values, wanted)
        self._learner.step(loss)
        return loss.detach()
