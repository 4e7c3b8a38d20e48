"""What every algorithm learns with: network, optimiser, masks, and where on its schedules it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..errors import UserError
from .games import Games
from .pruning import apply_masks, density, full_masks, magnitude_masks, scheduled_density
from .qnetwork import QNetwork, Tensor, Tensors
from .settings import Settings

__all__ = ["Advance", "Explorer", "Learner", "Player"]


@dataclass(frozen=True)
class Advance:
    """What a piece of training did."""

    decisions: int
    scores: list[float]  # of the episodes that ended in it
    loss: float  # mean; nan before the first update
    value: float  # mean value of the best action


class Learner:
    """One network under training. `frames` is how far the run is.

    A pruned weight is exactly zero from the moment when its mask is made: gradients are masked
    before each step of the optimiser and weights after it.
    """

    def __init__(
        self, settings: Settings, network: QNetwork, *, masks: Mapping[str, Tensor] | None = None
    ) -> None:
        self.settings = settings
        self.network = network
        self.masks = dict(masks) if masks else full_masks(network.weights)
        self.frames = 0
        self._parameters = network.learnable()
        if settings.algorithm == "dqn":
            self.optimiser = torch.optim.Adam(
                self._parameters, lr=settings.learning_rate, fused=True
            )
        else:
            self.optimiser = torch.optim.RAdam(self._parameters, lr=settings.learning_rate)
        apply_masks(network.tensors, self.masks)

    @property
    def masks(self) -> Tensors:
        """Which weights stay, of each layer."""
        return self._masks

    @masks.setter
    def masks(self, masks: Tensors) -> None:
        self._masks = masks
        self._pruned = {name: mask for name, mask in masks.items() if not mask.all()}

    @property
    def done(self) -> float:
        """Share of the run that is done, 0..1."""
        return min(1.0, self.frames / self.settings.frames)

    @property
    def epsilon(self) -> float:
        """Probability of a random action now."""
        s = self.settings
        fallen = min(1.0, self.done / s.exploration) if s.exploration else 1.0
        return s.epsilon + (s.final_epsilon - s.epsilon) * fallen

    @property
    def learning_rate(self) -> float:
        """Step size now."""
        s = self.settings
        return s.learning_rate + (s.final_learning_rate - s.learning_rate) * self.done

    @property
    def density(self) -> float:
        """Share of weights that are left."""
        return density(self.masks)

    def prune(self) -> None:
        """Tighten the masks to where the schedule is; called after each batch."""
        target = scheduled_density(self.settings.density, self.done)
        if target < 1:
            weights = self.network.weights
            self.masks = magnitude_masks(weights, self.masks, target, self.settings.pruning)
            apply_masks(self.network.tensors, self.masks)

    def step(self, loss: Tensor) -> None:
        """Descend: clip the gradient's norm, move, keep pruned weights at zero."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        tensors = self.network.tensors
        for name, mask in self._pruned.items():
            tensors[name].grad.mul_(mask)
        torch.nn.utils.clip_grad_norm_(self._parameters, self.settings.gradient_clip)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate
        self.optimiser.step()
        apply_masks(tensors, self._pruned)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on: tensors and plain values."""
        return {
            "tensors": {name: tensor.detach() for name, tensor in self.network.tensors.items()},
            "masks": self.masks,
            "optimiser": self.optimiser.state_dict(),
            "frames": self.frames,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`. Raises `UserError` for one of another network."""
        tensors = self.network.tensors
        given = {name: tuple(tensor.shape) for name, tensor in state["tensors"].items()}
        expected = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if given != expected or set(state["masks"]) != set(self.network.weights):
            raise UserError(f"it holds another network: {given}, expected {expected}")
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(state["tensors"][name])
        device = self.network.device
        self.masks = {name: mask.to(device) for name, mask in state["masks"].items()}
        self.optimiser.load_state_dict(state["optimiser"])
        self.frames = int(state["frames"])


class Explorer:
    """Epsilon-greedy over many games, with random actions that may last several decisions.

    `longest` above 1 draws each random action's length from a Zipf distribution (exponent 2) up
    to it; the chance to begin one is lowered so that epsilon stays the share of random decisions.
    """

    def __init__(self, games: int, actions: int, longest: int) -> None:
        self._actions = actions
        lengths = np.arange(1, longest + 1)
        self._chance = lengths**-2.0 / (lengths**-2.0).sum()
        self._mean = float(self._chance @ lengths)
        self._left = np.zeros(games, np.int64)
        self._chosen = np.zeros(games, np.int64)

    def choose(
        self, best: npt.NDArray[np.int64], epsilon: float, rng: np.random.Generator
    ) -> npt.NDArray[np.int64]:
        """Actions (games,) in place of the `best` ones."""
        count = len(best)
        # Starts per free decision s for which s * mean / (s * mean + 1 - s) is epsilon.
        start = epsilon / (epsilon + self._mean * (1 - epsilon)) if epsilon else 0.0
        begin = (self._left == 0) & (rng.random(count) < start)
        drawn = rng.integers(self._actions, size=count)
        lengths = 1 + rng.choice(len(self._chance), size=count, p=self._chance)
        self._chosen = np.where(begin, drawn, self._chosen)
        self._left = np.where(begin, lengths, self._left)
        random = self._left > 0
        self._left = np.maximum(self._left - 1, 0)
        return np.where(random, self._chosen, best)


class Player:
    """What every algorithm plays with; see `trainer.Algorithm`."""

    def __init__(self, learner: Learner, games: Games) -> None:
        self._learner = learner
        self._games = games

    def start(self, seed: int) -> None:
        """New episodes everywhere, and random numbers from `seed`."""
        self._rng = np.random.default_rng(seed)
        self._explorer = Explorer(
            self._games.count, len(self._games.actions), self._learner.settings.random_repeat
        )
        self._observations = self._games.reset(seed)
