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
from ..atari import AtariGame, rollout
from ..backends import ModelBackend
from ..errors import UserError
from ..network import Network
from ..quantise import DEFAULT_THRESHOLD
from .files import write_file
from .jobs import run_jobs
from .measuring import VARIANTS, Subject, load_network, make_agent, measurement, model, threshold_of

__all__ = [
    "DEFAULT_VARIANTS",
    "REFERENCE_SCORES",
    "Agreement",
    "agreement",
    "read_records",
    "rounded",
    "ship_agent",
]

KEPT_BITS = 16  # significant bits of a shipped weight: half the file, 2**-9 of int8's error

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


def rounded(network: Network) -> Network:
    """The network with its weights rounded to 16 significant bits, so that its file packs well."""
    arrays = {}
    for name, array in network.arrays().items():
        mantissa, exponent = np.frexp(array)
        kept = np.ldexp(np.rint(np.ldexp(mantissa, KEPT_BITS)), exponent - KEPT_BITS)
        arrays[name] = kept.astype(np.float32)
    return Network.from_arrays(network.describe(), arrays)


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
    measurements: Path,
    workers: int,
    frames: int,
    calibration: int,
    provenance: str,
    trained: int,
    show: Callable[[str], None],
) -> str:
    """Write `<game>[-suffix].npz`, its record in `agents.json` and the table of all.

    `trained` counts emulator frames; `frames` decisions on which actions are compared and
    `calibration` those that tune the scales. `measurements` is a folder of a study's: what is
    there already is not played again. An agent file that lies in `folder` already is
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
    if not there:
        write_file(path, agent_bytes(agent))
    subject = Subject(
        game=game, method="agent", round=0, seed=0, frames=trained, path=path.resolve()
    )
    jobs = {
        variant: measurement(
            subject, variant, threshold_of(variant), measurements, episodes=episodes
        )
        for variant in variants
    }
    run_jobs(list(jobs.values()), workers=workers, show=show)
    measured: dict[str, dict[str, Any]] = {}
    for variant, job in jobs.items():
        result = job.result()
        measured[variant] = {"score": result["mean"]}
        measured[variant] |= {key: result[key] for key in ("low", "high", "fraction")}
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
