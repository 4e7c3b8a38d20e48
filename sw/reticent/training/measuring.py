"""One measurement: whole episodes of one network in one arithmetic, as a job that is done once.

The study and the table of shipped agents take their scores from here, so what one has measured the
other finds.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..agent import Agent, agent_bytes, load_agent
from ..atari import AtariGame, record_trace
from ..backends import ModelBackend
from ..calibrate import tune_scales
from ..engine import Engine, FloatEngine
from ..importer import from_tensors, load_tensors, preset_shape
from ..network import Network
from ..quantise import DEFAULT_THRESHOLD
from .evaluation import SEED, evaluate, interval
from .jobs import Job

__all__ = [
    "VARIANTS",
    "Subject",
    "load_network",
    "make_agent",
    "measurement",
    "model",
    "threshold_of",
]

CALIBRATION_FRAMES, CALIBRATION_SEED = 200, 1
# Stretches of so many frames are taken for calibration, one out of so many that are played: games
# that grow dark, or faster, have other activations late in an episode.
STRETCH, SPREAD = 50, 8

VARIANTS = ("float dense", "float delta", "int8 dense", "int8 delta")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One network of a study."""

    game: str
    method: str  # lottery, gradual or agent
    round: int  # of the lottery; for gradual the place among its snapshots
    seed: int
    frames: int  # that its own training saw, an agent's in all; -1 where nothing tells
    path: Path  # .safetensors or .npz

    @property
    def label(self) -> str:
        """Short and unique in a study."""
        return f"{self.game}-{self.method}-{self.seed}-{self.round:02}-{self.path.stem}"


def load_network(path: Path) -> Network:
    """The network in a file of weights of the reference shape, or in an agent file."""
    if path.suffix == ".npz":
        return load_agent(path).network
    tensors = load_tensors(path)
    return from_tensors(tensors, preset_shape("reference"))


def make_agent(
    network: Network,
    game: str,
    name: str,
    *,
    provenance: str,
    score: str,
    calibration: int = CALIBRATION_FRAMES,
) -> Agent:
    """Calibrate on so many frames of the float delta network's own play, in stretches."""
    emulator = AtariGame(game)
    emulator.close()
    policy = ModelBackend("float", FloatEngine(network, DEFAULT_THRESHOLD))
    played, _ = record_trace(game, policy, calibration * SPREAD, seed=CALIBRATION_SEED)
    frames = played[np.arange(len(played)) // STRETCH % SPREAD == 0][:calibration]
    return Agent(
        name=name,
        game=emulator.name,
        network=network,
        actions=emulator.actions,
        scales=tuple(tune_scales(network, frames)),
        calibration=frames,
        provenance=provenance,
        score=score,
    )


def threshold_of(variant: str, threshold: float = DEFAULT_THRESHOLD) -> float:
    """The threshold that one of the `VARIANTS` applies; the dense ones send every change."""
    return threshold if variant.endswith("delta") else 0.0


def model(agent: Agent, variant: str, threshold: float = DEFAULT_THRESHOLD) -> Engine | FloatEngine:
    """How one of the `VARIANTS` computes."""
    applied = threshold_of(variant, threshold)
    if variant.startswith("float"):
        return FloatEngine(agent.network, applied)
    return Engine(agent.quantised(applied))


def measure(
    path: str, game: str, variant: str, threshold: float, episodes: int, seed: int
) -> dict[str, Any]:
    """One measurement, as a job: whole episodes of one network in one arithmetic."""
    source = Path(path)
    network = load_network(source)
    runs: Engine | FloatEngine
    if variant.startswith("float"):
        runs = FloatEngine(network, threshold)
    elif source.suffix == ".npz":
        runs = model(load_agent(source), variant, threshold)
    else:
        calibrated = make_agent(network, game, source.name, provenance="", score="")
        runs = model(calibrated, variant, threshold)
    result = evaluate(runs, game, episodes, seed=seed)
    low, high = interval(result.scores)
    return {
        "density": network.density,
        "low": low,
        "high": high,
        **asdict(result),
        "mean": result.mean,
        "fraction": result.fraction,
    }


def measurement(
    subject: Subject,
    variant: str,
    threshold: float,
    folder: Path,
    *,
    episodes: int,
    seed: int = SEED,
) -> Job:
    """The job that measures one of the `VARIANTS` of a network, below `folder`."""
    content = subject.path.read_bytes()
    if subject.path.suffix == ".npz":  # what is said about an agent's score does not play
        content = agent_bytes(replace(load_agent(subject.path), score=""))
    digest = hashlib.sha256(content).hexdigest()[:8]
    name = f"{subject.label}-{digest}-{variant.replace(' ', '-')}-{threshold:g}-{episodes}-{seed}"
    arguments = (str(subject.path), subject.game, variant, threshold, episodes, seed)
    return Job(name, folder / name, measure, arguments)
