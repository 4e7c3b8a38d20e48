"""The published study again: scores and multiplications over rounds, games and thresholds.

A study looks at networks (`Subject`), plays whole episodes of each in four arithmetics and with
the thresholds of a sweep, and keeps one row for each in `results.csv`. Every measurement is a job
of its own.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..agent import load_agent
from ..errors import ToolError, UserError
from ..quantise import DEFAULT_THRESHOLD
from .files import write_file
from .jobs import Job
from .lottery import Lottery, gradual_settings
from .measuring import VARIANTS, Subject, measurement, threshold_of
from .settings import Settings, from_json
from .shipping import read_records
from .trainer import Run, snapshot_name

__all__ = [
    "GAMES",
    "SWEEP",
    "find_subjects",
    "jobs_for",
    "rows_of",
    "training_jobs",
    "write_csv",
]

GAMES = ("breakout", "space_invaders", "robotank", "enduro", "krull", "freeway")
SWEEP = (0.001, 0.005, 0.01, 0.05)


def find_subjects(sources: Sequence[Path]) -> list[Subject]:
    """Networks in run folders, lottery folders and agent files.

    A lottery gives the end of every finished round, any other run its snapshots. Raises `UserError`
    for a source that is none of them.
    """
    found: list[Subject] = []
    for source in sources:
        if source.suffix == ".npz":
            found.append(_agent(source))
        elif (source / "lottery.json").exists():
            found += _rounds(source)
        elif (source / "run.json").exists():
            found += _snapshots(source)
        else:
            raise UserError(f"{source} is no run, lottery or agent file: name one that is")
    if not found:
        raise UserError("nothing to study: no source has a finished network yet")
    return found


def _agent(path: Path) -> Subject:
    """An agent file; the record that shipping left beside it tells what its training saw."""
    agent = load_agent(path)
    record = read_records(path.parent).get(path.name, {})
    known = record.get("sha256") == agent.sha256
    frames = int(record["trained_frames"]) if known else -1
    return Subject(game=agent.game, method="agent", round=0, seed=0, frames=frames, path=path)


def _rounds(folder: Path) -> list[Subject]:
    facts = _facts(folder / "lottery.json")
    found = []
    for number in range(int(facts["rounds"]) + 1):
        path = folder / f"round-{number:02}" / "snapshots" / "final.safetensors"
        if path.exists():
            settings = facts["settings"]
            found.append(
                Subject(
                    game=settings["game"],
                    method="lottery",
                    round=number,
                    seed=settings["seed"],
                    frames=settings["frames"],
                    path=path,
                )
            )
    return found


def _snapshots(folder: Path) -> list[Subject]:
    settings = _facts(folder / "run.json")["settings"]
    places = {snapshot_name(density): at for at, density in settings["density"]}
    if not places or min(density for _, density in settings["density"]) == 1:
        places["final"] = 1.0
    found = []
    for number, (name, at) in enumerate(places.items()):
        path = folder / "snapshots" / f"{name}.safetensors"
        if path.exists():
            found.append(
                Subject(
                    game=settings["game"],
                    method="gradual",
                    round=number,
                    seed=settings["seed"],
                    frames=round(at * settings["frames"]),
                    path=path,
                )
            )
    return found


def _facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text())
        facts["settings"]["game"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): leave its folder out") from None
    return dict(facts)


def training_jobs(
    settings: Sequence[Settings],
    folder: Path,
    *,
    method: str,
    rounds: int,
    rate: float,
    device: str,
) -> list[Job]:
    """One job for each of the settings: a whole lottery, or a run with gradual pruning."""
    found = []
    for each in settings:
        name = f"{each.game}-{method}-{each.seed}"
        place = folder / name
        arguments = (str(place), each.to_json(), method, rounds, rate, device)
        found.append(Job(name, place, train_job, arguments))
    return found


def train_job(
    folder: str, settings: str, method: str, rounds: int, rate: float, device: str
) -> dict[str, Any]:
    """Train, as a job; goes on where an earlier try was stopped."""
    asked = from_json(settings, "settings of a job")
    place = Path(folder)
    if method == "lottery":
        finished = Lottery(place, asked, rounds=rounds, rate=rate, device=device).train()
    else:
        finished = Run(place, gradual_settings(asked, rounds, rate), device=device).train()
    if not finished:
        raise ToolError("interrupted")
    return {"finished": True}


def jobs_for(
    subjects: Sequence[Subject],
    folder: Path,
    *,
    episodes: int,
    seed: int,
    threshold: float = DEFAULT_THRESHOLD,
    sweep: Sequence[float] = SWEEP,
    sweep_games: Sequence[str] = (),
) -> list[tuple[Subject, str, float, Job]]:
    """All measurements: each subject in the four arithmetics, and float delta over the sweep.

    The sweep is for the first and the sparsest subject of each of `sweep_games`.
    """
    wanted: dict[tuple[str, str, float], tuple[Subject, str, float]] = {}

    def want(subject: Subject, variant: str, value: float) -> None:
        wanted.setdefault((subject.label, variant, value), (subject, variant, value))

    for subject in subjects:
        for variant in VARIANTS:
            want(subject, variant, threshold_of(variant, threshold))
    for game in sweep_games:
        of_game = [subject for subject in subjects if subject.game == game]
        for subject in of_game[:1] + of_game[-1:]:
            for value in sweep:
                want(subject, "float delta", value)
    found = []
    for subject, variant, value in wanted.values():
        job = measurement(subject, variant, value, folder, episodes=episodes, seed=seed)
        found.append((subject, variant, value, job))
    return found


def rows_of(measurements: Sequence[tuple[Subject, str, float, Job]]) -> list[dict[str, Any]]:
    """One flat row a measurement, in the order given."""
    rows = []
    for subject, variant, threshold, job in measurements:
        result = job.result()
        row: dict[str, Any] = {
            "game": subject.game,
            "method": subject.method,
            "seed": subject.seed,
            "round": subject.round,
            "network": subject.path.stem,
            "frames": subject.frames,
            "density": result["density"],
            "variant": variant,
            "threshold": threshold,
            "episodes": len(result["scores"]),
            "score": result["mean"],
            "low": result["low"],
            "high": result["high"],
            "decisions": result["decisions"],
            "fraction": result["fraction"],
        }
        for i, (dense, significant, events, neurons) in enumerate(
            zip(*(result[k] for k in ("dense", "significant", "events", "neurons")), strict=True)
        ):
            row |= {
                f"dense_{i}": dense,
                f"significant_{i}": significant,
                f"events_{i}": events,
                f"event_fraction_{i}": events / neurons,
            }
        rows.append(row)
    return rows


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows; all have the same keys."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, text.getvalue())
