"""What a run is to do: one flat record, read from preset files and the command line.

Presets are the TOML files beside this module. Every run writes the settings that it used into its
folder, so a run can be told apart and repeated.
"""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..atari import FRAME_SKIP
from ..errors import UserError

__all__ = [
    "ALGORITHMS",
    "FRAME_SKIP",
    "DistilSettings",
    "DqnSettings",
    "PqnSettings",
    "Settings",
    "from_json",
    "preset",
    "presets",
]

PRESETS = Path(__file__).parent / "presets"

Waypoints = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What both algorithms know. Frames are emulator frames, four for each decision.

    `density` are waypoints (share of the run, share of weights left): between two of them the
    density falls along a cubic; before the first it is 1, after the last it stays. `pruning` ranks
    weights over the whole network (`global`) or within each layer (`layer`).
    """

    game: str = "breakout"
    algorithm: str = ""
    seed: int = 0
    frames: int = 10_000_000
    environments: int = 64
    environment_threads: int = 1
    gamma: float = 0.99
    learning_rate: float = 3e-4
    final_learning_rate: float = 0.0  # reached along a line at the end of the run
    epsilon: float = 1.0
    final_epsilon: float = 0.02
    exploration: float = 0.1  # share of the run in which epsilon falls
    random_repeat: int = 1  # longest run of one random action, in decisions (Zipf-distributed)
    minibatch: int = 128
    gradient_clip: float = 10.0
    density: Waypoints = ()
    pruning: str = "global"
    precision: str = "bfloat16"
    segment: int = 1_000_000  # frames between checkpoints, see `trainer`
    evaluation: int = 2_000_000  # frames between evaluations; 0 is never
    evaluation_episodes: int = 5

    def __post_init__(self) -> None:
        waypoints = tuple((float(at), float(d)) for at, d in self.density)
        object.__setattr__(self, "density", waypoints)
        self._range("frames", 1, math.inf)
        self._range("environments", 1, 4096)
        self._range("environment_threads", 1, 1024)
        self._range("seed", 0, 2**31 - 1)
        self._range("gamma", 0, 1)
        self._range("learning_rate", 0, 1)
        self._range("final_learning_rate", 0, 1)
        self._range("epsilon", 0, 1)
        self._range("final_epsilon", 0, 1)
        self._range("exploration", 0, 1)
        self._range("random_repeat", 1, 100_000)
        self._range("minibatch", 1, 1 << 20)
        self._range("segment", 1, math.inf)
        self._range("evaluation", 0, math.inf)
        self._range("evaluation_episodes", 1, 10_000)
        if not self.gradient_clip > 0:
            raise UserError(f"gradient_clip is {self.gradient_clip}: give a number above 0")
        self._choice("pruning", ("global", "layer"))
        self._choice("precision", ("bfloat16", "float32"))
        before = (0.0, 1.0)
        for at, density in waypoints:
            if not (before[0] <= at <= 1 and 0 < density <= before[1]):
                raise UserError(
                    f"density has {at:g}:{density:g} after {before[0]:g}:{before[1]:g}: give "
                    "rising shares of the run with falling densities above 0, such as "
                    "0.3:1,0.8:0.2"
                )
            before = at, density

    def _range(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            raise UserError(f"{name} is {value}: give {low:g} to {high:g}")

    def _choice(self, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in choices:
            raise UserError(f"{name} is {value!r}: give {' or '.join(choices)}")

    def changed(self, changes: dict[str, Any]) -> Settings:
        """The same with other values; refuses names that are none of its fields."""
        kinds = {field.name: type(getattr(self, field.name)) for field in fields(self)}
        values = {}
        for name, value in changes.items():
            if name not in kinds:
                close = difflib.get_close_matches(name, kinds, n=1)
                remedy = f"did you mean {close[0]}?" if close else f"give {', '.join(kinds)}"
                raise UserError(f"{self.algorithm} has no setting {name!r}: {remedy}")
            values[name] = _as(kinds[name], name, value)
        return replace(self, **values)

    def to_json(self) -> str:
        """All of it, as JSON; `from_json` reads it back."""
        return json.dumps(asdict(self), indent=2)


def _as(kind: Any, name: str, value: Any) -> Any:
    """A value, or its text on a command line, as a field's type."""
    try:
        if kind is tuple:
            if isinstance(value, str):
                pairs = [part.split(":") for part in value.split(",") if part]
                return tuple((float(at), float(density)) for at, density in pairs)
            return tuple(tuple(pair) for pair in value)
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        if kind is int and not isinstance(value, int):
            number = float(value)
            if number != int(number):
                raise ValueError
            return int(number)
        return kind(value)
    except (ValueError, TypeError, KeyError, OverflowError):
        what: dict[Any, str] = {tuple: "waypoints such as 0.3:1,0.8:0.2", bool: "true or false"}
        raise UserError(
            f"{name} is {value!r}: give {what.get(kind, f'a value of type {kind.__name__}')}"
        ) from None


@dataclass(frozen=True, kw_only=True)
class PqnSettings(Settings):
    """Parallelised Q-learning: no replay, no target network, lambda returns."""

    algorithm: str = "pqn"
    steps: int = 32  # decisions of each environment in one batch
    epochs: int = 2
    trace: float = 0.65  # lambda
    overlap: bool = False  # collect the next batch, with the weights before, while learning

    def __post_init__(self) -> None:
        super().__post_init__()
        self._choice("algorithm", ("pqn",))
        self._range("steps", 1, 100_000)
        self._range("epochs", 1, 100)
        self._range("trace", 0, 1)
        if self.steps * self.environments % self.minibatch:
            raise UserError(
                f"minibatch is {self.minibatch}: give a divisor of steps x environments = "
                f"{self.steps * self.environments}"
            )


@dataclass(frozen=True, kw_only=True)
class DqnSettings(Settings):
    """DQN: replay, target network, Huber loss."""

    algorithm: str = "dqn"
    environments: int = 4
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-4
    final_epsilon: float = 0.01
    minibatch: int = 32
    replay: int = 1_000_000  # decisions
    learning_starts: int = 80_000  # decisions
    update_every: int = 4  # decisions between two updates
    target_every: int = 1_000  # decisions between two copies to the target network

    def __post_init__(self) -> None:
        super().__post_init__()
        self._choice("algorithm", ("dqn",))
        self._range("replay", self.minibatch, 1 << 26)
        self._range("learning_starts", self.minibatch, self.replay)
        self._range("update_every", 1, 1 << 20)
        self._range("target_every", 1, 1 << 30)


@dataclass(frozen=True, kw_only=True)
class DistilSettings(Settings):
    """Distillation: the network imitates what it was when the run began."""

    algorithm: str = "distil"
    environments: int = 32
    steps: int = 32  # decisions of each environment in one batch
    epochs: int = 2
    temperature: float = 0.02  # differences of values much below it count as ties

    def __post_init__(self) -> None:
        super().__post_init__()
        self._choice("algorithm", ("distil",))
        self._range("steps", 1, 100_000)
        self._range("epochs", 1, 100)
        self._range("temperature", 1e-6, 1e6)


ALGORITHMS: dict[str, type[Settings]] = {
    "pqn": PqnSettings,
    "dqn": DqnSettings,
    "distil": DistilSettings,
}


def presets() -> list[str]:
    """Names of the preset files."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def preset(name: str) -> Settings:
    """The settings of a preset: a name from `presets`, or the path of a TOML file."""
    path = Path(name) if name.endswith(".toml") else PRESETS / f"{name}.toml"
    try:
        content = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"there is no preset {name!r}: give {', '.join(presets())} or a .toml file"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"preset {path} cannot be read ({error}): check the file") from None
    return _settings(str(path), content)


def from_json(text: str, where: str) -> Settings:
    """Settings that `Settings.to_json` wrote; `where` begins the message of an error."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error}): start a new run") from None
    return _settings(where, content)


def _settings(where: str, content: Any) -> Settings:
    if not isinstance(content, dict) or content.get("algorithm") not in ALGORITHMS:
        raise UserError(f"{where} names no algorithm: give {' or '.join(ALGORITHMS)}")
    return ALGORITHMS[content["algorithm"]]().changed(content)
