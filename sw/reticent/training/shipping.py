"""From trained weights to an agent that is shipped: calibrated, measured, described."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..agent import Agent, agent_bytes, load_agent
from ..atari import AtariGame, record_trace, rollout
from ..backends import ModelBackend
from ..calibrate import tune_scales
from ..engine import Engine, FloatEngine
from ..errors import UserError
from ..importer import from_tensors, load_tensors, preset_shape
from ..network import Network
from ..quantise import DEFAULT_THRESHOLD
from .evaluation import evaluate, interval
from .files import write_file

__all__ = [
    "DEFAULT_VARIANTS",
    "REFERENCE_SCORES",
    "VARIANTS",
    "Agreement",
    "agreement",
    "load_network",
    "make_agent",
    "model",
    "read_records",
    "rounded",
    "ship_agent",
]

CALIBRATION_FRAMES, CALIBRATION_SEED = 200, 1
KEPT_BITS = 16  # significant bits of a shipped weight: half the file, 2**-9 of int8's error

VARIANTS = ("float dense", "float delta", "int8 dense", "int8 delta")
DEFAULT_VARIANTS = ("float dense", "float delta", "int8 delta")

# Of a random player and a human one, as commonly published with DQN.
REFERENCE_SCORES = {
    "breakout": (1.7, 30.5),
    "space_invaders": (148, 1669),
    "robotank": (2.2, 11.9),
    "enduro": (0, 860),
    "krull": (1598, 2666),
    "freeway": (0, 29.6),
}

HEAD = """\
# Agents

`run_agent.py --game G` plays `G.npz`; name another with `--agent agents/FILE`. Scores are means of
whole episodes with their 95 % bootstrap interval (epsilon 0.01, no sticky actions, up to 30 no-ops,
FIRE after lost lives); thresholds 0.01; fraction: significant over dense multiplications of int8
delta. Agreement: int8 delta chooses float delta's action on the same frames, without the quarter
where the float network's best two values are closest (on all frames). Made by `sw/ship.py`.

| file | trained, frames | density | float dense | float delta | int8 delta | episodes | random | \
human | fraction | agreement | sha256 |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


def load_network(path: Path) -> Network:
    """The network in a file of weights of the reference shape, or in an agent file."""
    if path.suffix == ".npz":
        return load_agent(path).network
    tensors = load_tensors(path)
    return from_tensors(tensors, preset_shape("reference"))


def rounded(network: Network) -> Network:
    """The network with its weights rounded to 16 significant bits, so that its file packs well."""
    arrays = {}
    for name, array in network.arrays().items():
        mantissa, exponent = np.frexp(array)
        kept = np.ldexp(np.rint(np.ldexp(mantissa, KEPT_BITS)), exponent - KEPT_BITS)
        arrays[name] = kept.astype(np.float32)
    return Network.from_arrays(network.describe(), arrays)


def make_agent(
    network: Network,
    game: str,
    name: str,
    *,
    provenance: str,
    score: str,
    calibration: int = CALIBRATION_FRAMES,
) -> Agent:
    """Calibrate on a stretch of the float delta network's own play, of so many frames."""
    emulator = AtariGame(game)
    emulator.close()
    policy = ModelBackend("float", FloatEngine(network, DEFAULT_THRESHOLD))
    frames, starts = record_trace(game, policy, calibration, seed=CALIBRATION_SEED)
    frames = frames[starts.cumsum() == 1]
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


def model(agent: Agent, variant: str, threshold: float = DEFAULT_THRESHOLD) -> Engine | FloatEngine:
    """How one of the `VARIANTS` computes; the dense ones send every change."""
    applied = threshold if variant.endswith("delta") else 0.0
    if variant.startswith("float"):
        return FloatEngine(agent.network, applied)
    return Engine(agent.quantised(applied))


@dataclass(frozen=True)
class Agreement:
    """How often int8 delta chooses float delta's action on the same frames."""

    frames: int
    all: float
    clear: float  # without the quarter in which the float network's best two are closest


def agreement(
    agent: Agent, frames: int, *, seed: int = 2_000_000, threshold: float = DEFAULT_THRESHOLD
) -> Agreement:
    """Measure it along the float delta network's play; other frames than calibration's."""
    reference = ModelBackend("float", model(agent, "float delta", threshold))
    other = ModelBackend("golden", model(agent, "int8 delta", threshold))
    emulator = AtariGame(agent.game)
    same: list[bool] = []
    gaps: list[float] = []
    for decision in islice(rollout(emulator, reference, seed=seed, epsilon=0.01), frames):
        assert decision.result is not None
        if decision.first:
            other.reset()
        wanted: npt.NDArray[np.float64] = np.asarray(decision.result.outputs, np.float64)
        same.append(int(np.argmax(wanted)) == other.step(decision.frame).action)
        second, first = np.sort(wanted)[-2:]
        gaps.append(float(first - second))
    emulator.close()
    agreed = np.array(same)
    clear = np.array(gaps) > np.quantile(gaps, 0.25)
    return Agreement(len(same), float(agreed.mean()), float(agreed[clear].mean()))


def ship_agent(
    weights: Path,
    game: str,
    folder: Path,
    *,
    suffix: str,
    variants: tuple[str, ...],
    episodes: int,
    frames: int,
    calibration: int,
    provenance: str,
    trained: int,
    show: Callable[[str], None],
) -> str:
    """Write `<game>[-suffix].npz`, its record in `agents.json` and the table of all.

    `trained` counts emulator frames; `frames` decisions on which actions are compared and
    `calibration` those that tune the scales. An agent file that lies in `folder` already is
    measured and recorded, and stays as it is. Returns what was found on one line.
    """
    unknown = set(variants) - set(VARIANTS)
    if unknown:
        raise UserError(f"there is no arithmetic {unknown.pop()!r}: give {', '.join(VARIANTS)}")
    there = weights.suffix == ".npz" and weights.resolve().parent == folder.resolve()
    path = weights if there else folder / (f"{game}-{suffix}.npz" if suffix else f"{game}.npz")
    if there:
        agent = load_agent(path)
    else:
        network = rounded(load_network(weights))
        agent = make_agent(
            network, game, path.name, provenance=provenance, score="", calibration=calibration
        )
    agent.quantised()  # refuses what no device could hold
    same = agreement(agent, frames)
    show(f"{path.name}: agreement {same.all:.3f}, {same.clear:.4f} without near-ties")
    measured: dict[str, dict[str, Any]] = {}
    for variant in variants:
        result = evaluate(model(agent, variant), game, episodes)
        low, high = interval(result.scores)
        measured[variant] = {
            "score": result.mean,
            "low": low,
            "high": high,
            "fraction": result.fraction,
        }
        show(f"{path.name}: {variant} {result.mean:.1f} [{low:.1f}, {high:.1f}]")
    texts = [f"{v} {m['score']:.1f} [{m['low']:.1f}, {m['high']:.1f}]" for v, m in measured.items()]
    score = (
        f"{'; '.join(texts)}: mean and 95 % bootstrap interval over {episodes} whole episodes, "
        "epsilon 0.01, FIRE after lost lives"
    )
    if not there:
        write_file(path, agent_bytes(replace(agent, score=score)))
    records = read_records(folder)
    records[path.name] = {
        "game": game,
        "trained_frames": trained,
        "density": agent.network.density,
        "episodes": episodes,
        "measured": measured,
        "agreement": asdict(same),
        "sha256": load_agent(path).sha256,
        "provenance": provenance,
    }
    write_file(folder / "agents.json", json.dumps(dict(sorted(records.items())), indent=2) + "\n")
    write_file(folder / "README.md", table(records))
    return f"{path}: {score}"


def read_records(folder: Path) -> dict[str, Any]:
    """What `agents.json` in a folder says; nothing if there is none."""
    path = folder / "agents.json"
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}): remove it and ship the agents again"
        ) from None


def table(records: dict[str, Any]) -> str:
    """The folder's README: one line an agent."""
    lines = [HEAD]
    for name, record in sorted(records.items()):
        measured = record["measured"]
        scores = [
            f"{m['score']:,.1f} [{m['low']:,.1f}, {m['high']:,.1f}]" if m else "-"
            for m in (measured.get(v) for v in DEFAULT_VARIANTS)
        ]
        random, human = REFERENCE_SCORES.get(record["game"], ("-", "-"))
        fraction = measured.get("int8 delta", {}).get("fraction")
        same = record["agreement"]
        lines.append(
            f"| {name} | {record['trained_frames'] / 1e6:.1f} M | {record['density']:.3f} | "
            f"{' | '.join(scores)} | {record['episodes']} | {random} | {human} | "
            f"{'-' if fraction is None else f'{fraction:.4f}'} | {same['clear']:.4f} "
            f"({same['all']:.3f}) | `{record['sha256'][:12]}` |"
        )
    lines += ["", "How each was trained:", ""]
    lines += [f"- {name}: {record['provenance']}" for name, record in sorted(records.items())]
    return "\n".join(lines) + "\n"
