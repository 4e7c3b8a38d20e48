"""What a run has to say for itself: the closing table and the JSON.

The JSON has exactly these keys; null stands where a backend cannot know:

- `game` (snake_case), `backend`, `agent` (name and short hash);
- `lanes`: multipliers of the machine; `predicted`: its cycles are those of the cycle model;
- `threshold`: in real units; one number, or a list for the input and each hidden layer;
- `seed`: episode k starts from `seed + k`;
- `episodes`: `[{score, decisions, frames}]`, frames of the emulator with those before the first
  decision; the last one may have been cut short by `--max-decisions`;
- `decisions_per_second`: over the time spent in the backend (not in emulator, check, recording);
- `layers`: `[{name, dense, significant, fraction, events, cycles}]`, means per decision after the
  cold start; `events` are those that entered the layer;
- `fraction`: significant over dense multiplications of the whole network;
- `cycles`: `{mean, p99, worst, cold_start}` of a decision; the first three after the cold start,
  `cold_start` the mean over the episodes;
- `utilisation`: significant / (lanes * cycles), sums after the cold start;
- `realised_speedup`: (dense / lanes) / cycles, likewise;
- `checked`: true when every decision was compared with the golden model and was equal;
- `link`: `{board, clock, baud, loaded, damage, retries, resets, raw, sent, received, link_seconds,
  compute_seconds, seconds}` of a board: bytes of a frame, and bytes that went to and from the board
  for it, means after the cold start; the time that these bytes take at this baud rate, the time
  that the core's cycles take, and the time that passed.

The cold start is the first decision of an episode, when everything changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .atari import Decision
from .backend import LinkUse, StepResult

__all__ = ["Episode", "Setup", "Statistics"]

BITS_A_BYTE = 10  # on a serial line: start, eight data, stop


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What was run."""

    game: str
    backend: str
    agent: str
    lanes: int | None  # None where there are none
    threshold: float | Sequence[float]
    seed: int
    checked: bool  # beside the golden model, which stops at the first difference
    layers: Sequence[tuple[str, int]]  # name and dense multiplications
    predicted: bool = False  # cycles are those of the cycle model


@dataclass
class Episode:
    """One episode so far."""

    score: float = 0.0
    decisions: int = 0
    frames: int = 0


class Statistics:
    """Collects decisions and reports on them."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.episodes: list[Episode] = []
        self.seconds = 0.0
        self.link: LinkUse | None = None
        self._cold: list[StepResult] = []
        self._warm: list[StepResult] = []

    def add(self, decision: Decision) -> None:
        """Count one decision of a backend."""
        assert decision.result is not None
        if decision.first:
            self.episodes.append(Episode())
        episode = self.episodes[-1]
        episode.score += decision.reward
        episode.decisions += 1
        episode.frames = decision.frames
        self.seconds += decision.seconds
        (self._cold if decision.first else self._warm).append(decision.result)

    @property
    def decisions(self) -> int:
        """Decisions of all episodes."""
        return len(self._cold) + len(self._warm)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, with the keys that the module's docstring lists."""
        setup, lanes = self.setup, self.setup.lanes
        dense = [count for _, count in setup.layers]
        cycles = [r.cycles for r in self._warm if r.cycles]
        totals = [c.total for c in cycles]
        cold_totals = [r.cycles.total for r in self._cold if r.cycles]
        significant = _column_means([r.significant for r in self._warm], len(dense))
        events = _column_means([r.events for r in self._warm], len(dense))
        layer_cycles = _column_means([c.layers for c in cycles], len(dense))
        fraction = _mean([sum(r.significant) / sum(dense) for r in self._warm])

        speedup = utilisation = None
        if lanes and totals:
            speedup = sum(dense) * len(totals) / lanes / sum(totals)
            utilisation = sum(sum(r.significant) for r in self._warm) / (lanes * sum(totals))
        return {
            "game": setup.game,
            "backend": setup.backend,
            "agent": setup.agent,
            "lanes": lanes,
            "predicted": setup.predicted,
            "threshold": setup.threshold,
            "seed": setup.seed,
            "episodes": [asdict(episode) for episode in self.episodes],
            "decisions_per_second": self.decisions / self.seconds if self.seconds else None,
            "layers": [
                {
                    "name": name,
                    "dense": count,
                    "significant": done,
                    "fraction": None if done is None else done / count,
                    "events": sent,
                    "cycles": spent,
                }
                for (name, count), done, sent, spent in zip(
                    setup.layers, significant, events, layer_cycles, strict=True
                )
            ],
            "fraction": fraction,
            "cycles": {
                "mean": _mean(totals),
                "p99": int(np.percentile(totals, 99, method="higher")) if totals else None,
                "worst": max(totals, default=None),
                "cold_start": _mean(cold_totals),
            },
            "utilisation": utilisation,
            "realised_speedup": speedup,
            "checked": setup.checked and self.decisions > 0,
            "link": self._link(_mean(totals)),
        }

    def _link(self, cycles: float | None) -> dict[str, Any] | None:
        """The link's part of the report; the first frame of all is a cold start."""
        use = self.link
        if use is None:
            return None
        frames = use.frames[1:]
        sent = _mean([frame.sent for frame in frames])
        received = _mean([frame.received for frame in frames])
        moved = None if sent is None or received is None else sent + received
        return {
            "board": use.board,
            "clock": use.clock,
            "baud": use.baud,
            "loaded": use.loaded,
            "damage": use.damage,
            "retries": use.retries,
            "resets": use.resets,
            "raw": _mean([frame.raw for frame in frames]),
            "sent": sent,
            "received": received,
            "link_seconds": None if moved is None else moved * BITS_A_BYTE / use.baud,
            "compute_seconds": None if cycles is None else cycles / use.clock,
            "seconds": _mean([frame.seconds for frame in frames]),
        }

    def waits(self) -> dict[str, float]:
        """Share of lane-cycles without a multiplication, by cause, after the cold start."""
        lost: Counter[str] = Counter()
        available = 0
        for cycles in (r.cycles for r in self._warm if r.cycles):
            lost.update(cycles.lost)
            available += cycles.busy + sum(cycles.lost.values())
        return {cause: count / available for cause, count in lost.most_common()}

    def table(self) -> RenderableType:
        """The closing table for a terminal."""
        report = self.to_json()
        layers = Table(box=SIMPLE_HEAD)
        layers.add_column("layer")
        for heading in ("dense", "significant", "fraction", "events", "cycles"):
            layers.add_column(heading, justify="right")
        rows = report["layers"]
        for row in rows:
            layers.add_row(
                row["name"],
                _number(row["dense"]),
                _number(row["significant"]),
                _number(row["fraction"], 4),
                _number(row["events"]),
                _number(row["cycles"]),
            )
        layers.add_section()
        layers.add_row(
            "all",
            *(_number(_total(rows, key)) for key in ("dense", "significant")),
            _number(report["fraction"], 4),
            _number(_total(rows, "events")),
            _number(report["cycles"]["mean"]),
        )
        facts = Table.grid(padding=(0, 2))
        for name, value in self._facts(report):
            facts.add_row(Text(name, style="dim"), value)
        return Group(Text(_title(report)), layers, facts)

    def _facts(self, report: dict[str, Any]) -> list[tuple[str, str]]:
        scores = [episode.score for episode in self.episodes]
        shown = ", ".join(f"{score:g}" for score in scores)
        mean = f" (mean {np.mean(scores):.1f})" if len(scores) > 1 else ""
        facts = [
            ("score", f"{shown or 'none'}{mean}"),
            ("decisions", f"{self.decisions:,} in {_count(len(scores), 'episode')}"),
            ("speed", f"{_number(report['decisions_per_second'])} decisions/s, backend alone"),
        ]
        if report["cycles"]["mean"] is not None:
            mean, p99, worst, cold = (_number(count) for count in report["cycles"].values())
            lanes, fraction = report["lanes"], report["fraction"]
            limit = f" of {1 / fraction:.1f} possible" if fraction else ""
            waits = ", ".join(f"{cause} {share:.1%}" for cause, share in self.waits().items())
            cycles = f"mean {mean}, p99 {p99}, worst {worst}; cold start {cold}"
            speedup = f"{report['realised_speedup']:.1f}{limit}, over {lanes} multipliers dense"
            facts += [
                ("cycles a frame", cycles),
                ("utilisation", f"{report['utilisation']:.3f} of {lanes} lanes"),
                ("lanes wait", waits),
                ("realised speed-up", speedup),
            ]
        link = report["link"]
        if link:
            state = "loaded" if link["loaded"] else "held the image already"
            state += f", for {link['damage']}" if link["damage"] else ""
            times = (link["link_seconds"], link["compute_seconds"], link["seconds"])
            wire, compute, passed = (_number(t and 1e3 * t, 3) for t in times)
            moved = (
                f"{_number(link['sent'])} sent for {_number(link['raw'])}, "
                f"{_number(link['received'])} received"
            )
            spent = (
                f"{wire} ms of link at {link['baud']:,} baud, {compute} ms of compute; "
                f"{passed} ms passed"
            )
            facts += [
                ("board", f"{link['board']}, {link['clock'] / 1e6:g} MHz; {state}"),
                ("bytes a frame", moved),
                ("time a frame", spent),
            ]
            if link["retries"] or link["resets"]:
                facts.append(
                    ("trouble", f"{link['retries']} retries, {link['resets']} resets of the board")
                )
        if report["checked"]:
            facts.append(("checked", "every decision equals the golden model's, to the bit"))
        return facts


def _title(report: dict[str, Any]) -> str:
    thresholds = np.atleast_1d(report["threshold"])
    where = report["backend"] + (f", {report['lanes']} lanes" if report["lanes"] else "")
    where += ", cycles predicted" if report["predicted"] else ""
    return (
        f"{report['game']} on {where}; agent {report['agent']}; "
        f"threshold {', '.join(f'{t:g}' for t in thresholds)}\n"
        "Means per decision, after the cold start:"
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _column_means(rows: Sequence[Sequence[int]], columns: int) -> list[float | None]:
    """Mean of each column; None where no row was recorded."""
    return np.mean(rows, axis=0).tolist() if rows else [None] * columns


def _total(rows: Sequence[dict[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows]
    return None if None in values else sum(values)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
