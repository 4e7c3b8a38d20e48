"""Iterative magnitude pruning: train, prune, rewind, train again; and gradual pruning beside it.

Round 0 trains every weight. Each later round prunes a share of the weights that are left, by the
magnitude that the round before trained them to, sets the rest back to their initial values and
trains again. Biases are kept, and set back too. Every round is a `trainer.Run` in its own folder,
`round-00`, `round-01`, ...; `lottery.json` says what is done. All rounds begin with the same
weights and each has its own random numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..importer import load_tensors
from ..network import Network
from .files import load_checkpoint, write_file
from .pruning import density, magnitude_masks
from .qnetwork import Tensor, Tensors, from_arrays
from .settings import Settings
from .trainer import Run, Status

__all__ = ["Lottery", "gradual_settings", "round_density"]

GRADUAL_SHARE = (0.4, 0.95)  # of the run, between which the density falls
METHOD = "iterative magnitude pruning, weights set back to their initial values"


def round_density(number: int, rate: float) -> float:
    """Share of weights left in a round."""
    return (1 - rate) ** number


class Lottery:
    """All rounds in a folder; goes on where it was stopped.

    `start` are the initial weights instead of random ones (`origin` names them).
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        *,
        rounds: int = 10,
        rate: float = 0.2,
        start: Mapping[str, Tensor] | None = None,
        origin: str = "",
        shape: Network | None = None,
        device: str = "cpu",
    ) -> None:
        if rounds < 0:
            raise UserError(f"{rounds} rounds: give 0 or more")
        if not 0 < rate < 1:
            raise UserError(f"rate is {rate}: give a share between 0 and 1, such as 0.2")
        if settings.algorithm == "distil":
            raise UserError("a lottery learns from rewards: give --algorithm pqn or dqn")
        if settings.density:
            raise UserError("density is set by the rounds: leave it out, or use --method gradual")
        self.folder, self.settings = folder, settings
        self.rounds, self.rate = rounds, rate
        self._start, self._origin, self._shape = start, origin, shape
        self._device = device
        facts = {
            "method": METHOD,
            "rounds": rounds,
            "rate": rate,
            "scope": settings.pruning,
            "seeds": [self._settings(number).seed for number in range(rounds + 1)],
            "densities": [round_density(number, rate) for number in range(rounds + 1)],
            "origin": origin or f"random weights, seed {settings.seed}",
            "settings": json.loads(settings.to_json()),
        }
        path = folder / "lottery.json"
        text = json.dumps(facts, indent=2) + "\n"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if path.exists() and path.read_text() != text:
                raise UserError(
                    f"{folder} holds a lottery with other settings (see {path.name} in it): give "
                    "the same ones to go on, or another --run folder"
                )
        except OSError as error:
            raise UserError(f"{folder} cannot be used ({error.strerror}): name another") from None
        write_file(path, text)

    def round_folder(self, number: int) -> Path:
        """Where a round is."""
        return self.folder / f"round-{number:02}"

    def run_round(self, number: int) -> Run:
        """The run of a round, ready to train; the rounds before it must be finished."""
        start, masks, origin = self._start, None, self._origin
        if number:
            first = self.round_folder(0) / "snapshots" / "first.safetensors"
            start = from_arrays(load_tensors(first))
            masks = self._masks_after(number - 1)
            origin = f"the initial weights of round 0, {density(masks):.4f} of them left"
        return Run(
            self.round_folder(number),
            self._settings(number),
            start=start,
            masks=masks,
            origin=origin,
            shape=self._shape,
            device=self._device,
        )

    def train(self, show: Callable[[int, Status], None] | None = None) -> bool:
        """Train all rounds, or those that are left; False when interrupted."""
        for number in range(self.rounds + 1):
            run = self.run_round(number)
            report = None if show is None else _numbered(show, number)
            if not run.train(report):
                return False
        return True

    def _settings(self, number: int) -> Settings:
        """Other games and other random actions in each round."""
        return replace(self.settings, seed=self.settings.seed + 1000 * number)

    def _masks_after(self, number: int) -> Tensors:
        """What stays after a finished round."""
        path = self.round_folder(number) / "checkpoint.pt"
        content = load_checkpoint(path)
        try:
            learner: dict[str, Any] = content["learner"]
            masks, tensors = learner["masks"], learner["tensors"]
            left = density(masks) * (1 - self.rate)
            weights = {name: tensors[name] for name in masks}
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"checkpoint {path} is not complete ({error}): remove {path.parent} to train the "
                "round again"
            ) from None
        return magnitude_masks(weights, masks, left, self.settings.pruning)


def _numbered(show: Callable[[int, Status], None], number: int) -> Callable[[Status], None]:
    return lambda status: show(number, status)


def gradual_settings(settings: Settings, rounds: int, rate: float) -> Settings:
    """The settings with waypoints at a lottery's densities; they must have none yet."""
    if settings.density:
        raise UserError("density is set by --rounds and --rate: leave it out")
    begin, end = GRADUAL_SHARE
    waypoints = tuple(
        (begin + (end - begin) * number / max(1, rounds), round_density(number, rate))
        for number in range(rounds + 1)
    )
    return replace(settings, density=waypoints)
