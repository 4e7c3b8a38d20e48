"""A run: from settings to snapshots, resumable at any time.

A run's folder holds

- `run.json`: the settings, where the first weights came from, versions;
- `checkpoint.pt`: everything that the rest of the run depends on;
- `snapshots/NAME.safetensors`: the network when it reached a waypoint of its density, and at the
  end (`final`); `first` is what it began with;
- `log.csv`, `evaluations.csv`, and TensorBoard's `events.*`.

A run is a sequence of segments. Every segment begins with new episodes and with random numbers
from (seed, segment), and ends with a checkpoint; so a run that goes on from a checkpoint equals, to
the bit, one that was never stopped, on the same machine. When it is interrupted the segment ends
early with its checkpoint, and what was learned is kept; when it is killed, all since the last
checkpoint is learned again.
"""

from __future__ import annotations

import csv
import io
import json
import platform
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch

from .. import __version__
from ..engine import FloatEngine
from ..errors import UserError
from ..network import Network, reference_network
from .distil import Distil
from .dqn import Dqn
from .evaluation import evaluate, interval
from .files import load_checkpoint, save_checkpoint, save_tensors, write_file
from .games import Games
from .learner import Advance, Learner
from .pqn import Pqn
from .qnetwork import QNetwork, Tensor, Tensors, initial_tensors
from .settings import (
    FRAME_SKIP,
    DistilSettings,
    DqnSettings,
    PqnSettings,
    Settings,
    from_json,
)

__all__ = ["Run", "Status", "snapshot_name"]

RECENT = 100  # episodes that the training score is the mean of
LOG_EVERY = 10.0  # seconds between two lines of the log
FORMAT = "reticent-training"


@dataclass(frozen=True)
class Status:
    """Where a run is."""

    frames: int
    frames_a_second: float
    score: float  # mean of the last episodes in training; nan before the first
    density: float
    loss: float
    value: float
    epsilon: float


class Algorithm(Protocol):
    """What a run needs of an algorithm.

    A segment is `start`, `advance` again and again, the last time with `last`, and `state`.
    """

    @property
    def decisions(self) -> int:
        """Decisions, of all games together, of one `advance`."""

    def start(self, seed: int) -> None:
        """Begin a segment: new episodes, and random numbers from `seed`."""

    def advance(self, *, last: bool) -> Advance:
        """Train a little; with `last` nothing is pending afterwards."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs besides the learner."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""

    def close(self) -> None:
        """Release what it holds."""


def snapshot_name(density: float) -> str:
    """Name of the snapshot at a waypoint: `density-0.107`."""
    return f"density-{density:.3f}"


class Run:
    """One run in its folder. `train` does it, or the rest of it.

    `start` are tensors to begin with instead of random ones (`origin` says what they are);
    `masks` say what is pruned from the beginning. A folder that holds a run already goes on with
    it and must be given the same settings.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        *,
        start: Mapping[str, Tensor] | None = None,
        masks: Mapping[str, Tensor] | None = None,
        origin: str = "",
        shape: Network | None = None,
        device: str = "cpu",
    ) -> None:
        if isinstance(settings, DistilSettings) and not start:
            raise UserError("distil imitates the network that it begins with: give --from FILE")
        torch.set_num_threads(1)  # more collapse as soon as anything else runs
        self.folder, self.settings = folder, settings
        facts = {
            "format": FORMAT,
            "settings": json.loads(settings.to_json()),
            "origin": origin or f"random weights, seed {settings.seed}",
            "versions": {
                "reticent": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
        try:
            (folder / "snapshots").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"run folder {folder} cannot be made ({error.strerror}): name another"
            ) from None
        self._claim(facts)
        self._games = Games(
            settings.game, settings.environments, threads=settings.environment_threads
        )
        actions = len(self._games.actions)
        shape = shape or reference_network(actions)
        if shape.outputs != actions:
            raise UserError(
                f"the network has {shape.outputs} outputs, {settings.game} has {actions} actions: "
                "start from a network of this game"
            )
        first = dict(start) if start else initial_tensors(shape, settings.seed)
        _check_shapes(shape, first, origin)
        network = QNetwork(
            shape,
            {name: tensor.to(device) for name, tensor in first.items()},
            precision=settings.precision,
        )
        self.learner = Learner(settings, network, masks=masks)
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._segment = 0
        self._seconds = 0.0
        self.algorithm = self._make_algorithm(first)
        if self.checkpoint.exists():
            self._load()
        else:
            save_tensors(folder / "snapshots" / "first.safetensors", network.tensors)

    @property
    def checkpoint(self) -> Path:
        """The file that the run goes on from."""
        return self.folder / "checkpoint.pt"

    @property
    def finished(self) -> bool:
        """Nothing is left to do."""
        return self.learner.frames >= self.settings.frames

    @property
    def score(self) -> float:
        """Mean score of the last episodes in training; nan before the first."""
        return float(np.mean(self._recent)) if self._recent else float("nan")

    def train(self, show: Callable[[Status], None] | None = None) -> bool:
        """Train until the run is finished (True) or interrupted (False)."""
        from torch.utils.tensorboard import SummaryWriter

        stop = threading.Event()
        with _interrupts(stop), SummaryWriter(str(self.folder)) as writer:
            try:
                while not self.finished and not stop.is_set():
                    self._train_segment(stop, writer, show or (lambda status: None))
            finally:
                self.algorithm.close()
                self._games.close()
        return self.finished

    def _train_segment(
        self, stop: threading.Event, writer: Any, show: Callable[[Status], None]
    ) -> None:
        settings, learner, algorithm = self.settings, self.learner, self.algorithm
        numbers = np.random.SeedSequence([settings.seed, self._segment])
        algorithm.start(int(numbers.generate_state(1)[0]) >> 1)
        first = played = learner.frames
        end = min(settings.frames, first + settings.segment)
        began = logged = monotonic()
        last = False
        while not last:
            last = stop.is_set() or played + algorithm.decisions * FRAME_SKIP >= end
            before = learner.frames
            progress = algorithm.advance(last=last)
            played += progress.decisions * FRAME_SKIP
            self._recent.extend(progress.scores)
            self._keep_waypoints(before)
            if monotonic() - logged >= LOG_EVERY:
                logged = monotonic()
                status = Status(
                    frames=learner.frames,
                    frames_a_second=(played - first) / (logged - began),
                    score=self.score,
                    density=learner.density,
                    loss=progress.loss,
                    value=progress.value,
                    epsilon=learner.epsilon,
                )
                self._log(status, writer, self._seconds + logged - began)
                show(status)
        self._segment += 1
        self._seconds += monotonic() - began
        self._save()
        if self.finished:
            self._snapshot("final")
        every = settings.evaluation
        passed = every and (self.finished or learner.frames // every > first // every)
        if passed and not stop.is_set():
            self._evaluate(writer)

    def _keep_waypoints(self, before: int) -> None:
        """Snapshot where the run passed a waypoint since `before` frames."""
        for at, density in self.settings.density:
            frame = at * self.settings.frames
            if before < frame <= self.learner.frames:
                self._snapshot(snapshot_name(density))

    def _snapshot(self, name: str) -> None:
        save_tensors(
            self.folder / "snapshots" / f"{name}.safetensors", self.learner.network.tensors
        )

    def _evaluate(self, writer: Any) -> None:
        settings = self.settings
        engine = FloatEngine(self.learner.network.network(), 0.0)
        result = evaluate(engine, settings.game, settings.evaluation_episodes)
        low, high = interval(result.scores)
        writer.add_scalar("evaluation/score", result.mean, self.learner.frames)
        _append(
            self.folder / "evaluations.csv",
            {
                "frames": self.learner.frames,
                "density": round(self.learner.density, 5),
                "episodes": len(result.scores),
                "score": round(result.mean, 3),
                "low": round(low, 3),
                "high": round(high, 3),
            },
        )

    def _log(self, status: Status, writer: Any, seconds: float) -> None:
        row = {
            "frames": status.frames,
            "seconds": round(seconds, 1),
            "score": round(status.score, 3),
            "density": round(status.density, 5),
            "loss": round(status.loss, 6),
            "value": round(status.value, 4),
            "epsilon": round(status.epsilon, 4),
            "frames_a_second": round(status.frames_a_second, 1),
        }
        _append(self.folder / "log.csv", row)
        for name, value in row.items():
            if name not in ("frames", "seconds"):
                writer.add_scalar(f"training/{name}", value, status.frames)

    def _save(self) -> None:
        save_checkpoint(
            self.checkpoint,
            {
                "format": FORMAT,
                "settings": self.settings.to_json(),
                "learner": self.learner.state(),
                "algorithm": self.algorithm.state(),
                "segment": self._segment,
                "seconds": self._seconds,
                "recent": list(self._recent),
            },
        )

    def _load(self) -> None:
        content = load_checkpoint(self.checkpoint)
        try:
            if content["format"] != FORMAT:
                raise UserError("it is none of ours")
            self.learner.load(content["learner"])
            self.algorithm.load(content["algorithm"])
            self._segment = int(content["segment"])
            self._seconds = float(content["seconds"])
            self._recent.extend(float(score) for score in content["recent"])
        except UserError as error:
            raise UserError(f"checkpoint {self.checkpoint}: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"checkpoint {self.checkpoint} is not complete ({type(error).__name__}: {error}): "
                "take another, or remove it and start again"
            ) from None

    def _claim(self, facts: dict[str, Any]) -> None:
        """Write what the run is; refuse a folder that holds another run."""
        path = self.folder / "run.json"
        if not path.exists():
            write_file(path, json.dumps(facts, indent=2) + "\n")
            return
        try:
            found = json.loads(path.read_text())
            there = from_json(json.dumps(found["settings"]), str(path))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}): name another folder") from None
        if there != self.settings or found.get("origin") != facts["origin"]:
            mine, its = facts["settings"], found["settings"]
            differs = [name for name in mine if mine[name] != its.get(name)] or ["origin"]
            raise UserError(
                f"{self.folder} holds a run with another {', '.join(differs)}: give the same "
                "settings to go on with it, or another --run folder"
            )

    def _make_algorithm(self, first: Tensors) -> Algorithm:
        if isinstance(self.settings, PqnSettings):
            return Pqn(self.settings, self.learner, self._games)
        if isinstance(self.settings, DistilSettings):
            return Distil(self.settings, self.learner, self._games, first)
        assert isinstance(self.settings, DqnSettings)
        return Dqn(self.settings, self.learner, self._games, self.folder / "replay")


def _check_shapes(shape: Network, tensors: Tensors, origin: str) -> None:
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    expected = {name: array.shape for name, array in shape.arrays().items()}
    if given != expected:
        raise UserError(f"{origin} holds another network: {given}, expected {expected}")


def _append(path: Path, row: dict[str, Any]) -> None:
    """Add a line to a CSV file; the first one brings the heading."""
    text = io.StringIO()
    writer = csv.DictWriter(text, row, lineterminator="\n")
    if not path.exists():
        writer.writeheader()
    writer.writerow(row)
    try:
        with path.open("a") as file:
            file.write(text.getvalue())
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): make room and give the same command "
            "again, it goes on from the last checkpoint"
        ) from None


@contextmanager
def _interrupts(stop: threading.Event) -> Iterator[None]:
    """Meanwhile SIGINT and SIGTERM set `stop`; a second one interrupts at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
