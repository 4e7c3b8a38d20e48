"""`reticent plan`: which build to make for an agent, a game and a board."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..boards import BOARDS, Board, find_board
from ..errors import UserError
from ..progress import progress_line
from ..quantise import DEFAULT_THRESHOLD
from .options import add_threshold_option, check_can_write, chosen_agent

if TYPE_CHECKING:
    from ..plan import Candidate, Choice

EXAMPLES = """\
examples:
  reticent plan --game breakout --board ulx3s -o breakout-ulx3s.json
  reticent plan --game breakout --board arty-a7-100 --target-fps 10000 --plot front.svg
  reticent compile --game breakout --config breakout-ulx3s.json -o breakout.image

Cycles and block memories of the chosen build are exact; LUTs and multipliers are estimates, fitted
to syntheses of small builds. The clock is the goal for the board: place and route must confirm it.
"""

WIDTH = 110  # columns of the table, on a terminal or not

PURPOSES = {
    "weights": ("weight_depth",),
    "pointers": ("pointer_depth",),
    "neurons": ("state_depth_even", "state_depth_odd"),
    "queues": ("fifo_depth", "queue_depth"),
    "frames": ("frame_depth",),
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "plan",
        help="choose a build for an agent and a board",
        description="Play a game, work out what builds with other numbers of lanes, streams, "
        "requantisers and FIFO depths would need of a board and how many cycles they would take, "
        "show those that no other one beats, and write the best one's configuration.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--game", help="any ALE game (the agent's, or breakout)")
    add(
        "--agent",
        metavar="FILE",
        help="agent file, or random[:DENSITY[:SEED]] (the game's shipped agent)",
    )
    add_threshold_option(parser)
    add("--board", required=True, metavar="NAME", help=", ".join(BOARDS))
    add("--clock", type=float, metavar="MHZ", help="of the core (the goal for the board)")
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument(
        "--target-fps", type=float, metavar="N", help="the smallest that decides N times a second"
    )
    goal.add_argument("--max-lut", type=int, metavar="N", help="the fastest with at most N LUTs")
    add("--lanes", nargs="+", type=int, metavar="N", help="numbers of lanes to try")
    add("--streams", nargs="+", type=int, metavar="N", help="numbers of streams to try")
    add("--requantisers", nargs="+", type=int, metavar="N", help="of a lane, numbers to try")
    add("--fifo", nargs="+", type=int, metavar="N", help="FIFO depths to try")
    add("--steps", type=int, default=100, metavar="N", help="consecutive steps to judge by (100)")
    add("--seed", type=int, default=0, metavar="N", help="of the game (0)")
    add("-o", "--output", type=Path, metavar="FILE", help="write the build for --config")
    add("--plot", type=Path, metavar="FILE", help="draw all candidates: .png or .svg")
    add("--json", type=Path, metavar="FILE", help="write all candidates")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Plan; returns the exit code."""
    for option in ("output", "plot", "json"):
        check_can_write(f"--{option}", getattr(arguments, option))
    if arguments.plot and arguments.plot.suffix not in (".png", ".svg"):
        raise UserError(f"--plot {arguments.plot}: name a .png or an .svg")
    if arguments.steps < 2:
        raise UserError(f"{arguments.steps} steps: give at least 2, the first is the cold start")
    if arguments.seed < 0:
        raise UserError(f"seed is {arguments.seed}: give 0 or more")
    for option in ("clock", "target_fps", "max_lut"):
        value = getattr(arguments, option)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{option.replace('_', '-')} {value}: give a number above 0")
    board = find_board(arguments.board)
    clock_hz = arguments.clock * 1e6 if arguments.clock else board.clock_hz
    if arguments.plot:
        import matplotlib  # noqa: F401  a missing one is better found before the work
    from ..plan import FIFOS, LANES, REQUANTISERS, STREAMS, Explorer, choose, pareto, shapes

    tried = shapes(
        arguments.lanes or LANES,
        arguments.streams or STREAMS,
        arguments.requantisers or REQUANTISERS,
    )
    fifos = sorted(set(arguments.fifo or FIFOS))
    agent = chosen_agent(arguments)
    with progress_line() as progress:
        # To play, to compile and count, and to compile the chosen one in full.
        task = progress.add_task("", total=2 + len(tried) * (1 + len(fifos)))
        explorer = Explorer(
            agent,
            board,
            thresholds=DEFAULT_THRESHOLD if arguments.threshold is None else arguments.threshold,
            steps=arguments.steps,
            seed=arguments.seed,
            show=lambda text: progress.update(task, description=text, advance=1),
        )
        candidates = explorer.explore(tried, fifos)
        finished: list[Candidate] = []
        while True:
            choice = choose(
                candidates,
                board,
                clock_hz,
                target_fps=arguments.target_fps,
                max_luts=arguments.max_lut,
            )
            if choice.candidate in finished:
                break
            finished.append(explorer.finish(choice.candidate))
            candidates[candidates.index(choice.candidate)] = finished[-1]
    front = pareto(candidates)
    print(
        f"{agent.game}, agent {agent.label}, on {board.title} ({board.device.name}) at "
        f"{clock_hz / 1e6:g} MHz:\n{len(front)} of {len(candidates)} builds that no other one "
        "beats (~ estimates); cycles a frame after the cold start"
    )
    Console(width=WIDTH, markup=False, emoji=False).print(_table(front, clock_hz))
    print(_words(choice, clock_hz))
    if arguments.output:
        _write(arguments.output, json.dumps(choice.candidate.config.to_dict(), indent=2) + "\n")
        print(f"{arguments.output}: for `reticent compile --config {arguments.output}`")
    if arguments.json:
        report = {
            "board": board.name,
            "clock_hz": clock_hz,
            "agent": agent.label,
            "reason": choice.reason,
            "chosen": choice.candidate.to_json(clock_hz),
            "candidates": [candidate.to_json(clock_hz) for candidate in candidates],
        }
        _write(arguments.json, json.dumps(report, indent=2) + "\n")
    if arguments.plot:
        draw_front(arguments.plot, candidates, front, choice, board, clock_hz)
    return 0


def _words(choice: Choice, clock_hz: float) -> str:
    """The choice and its reason."""
    chosen = choice.candidate
    config, area = chosen.config, chosen.area
    return (
        f"Chosen: {config.lanes} lanes, {config.streams} stream(s), {config.requantisers} "
        f"requantiser(s) a lane, FIFO {config.fifo_depth}: "
        f"{choice.reason}.\n{clock_hz / chosen.cycles:,.0f} decisions a second, "
        f"{area.blocks:,} block RAMs, about {area.luts:,} LUTs and {area.multipliers:,} multipliers"
    )


def _table(front: Sequence[Candidate], clock_hz: float) -> Table:
    """One line a candidate."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    columns = (
        *(
            "lanes",
            "streams",
            "requan-\ntisers",
            "FIFO",
            "cycles",
            "p99",
            "decisions\na second",
            "utili-\nsation",
        ),
        *("multi-\npliers ~", "LUTs ~"),
        "block RAMs: weights+\npointers+neurons+\nqueues+frames+other",
        "fits",
    )
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for candidate in sorted(front, key=lambda c: -c.cycles):
        config, area = candidate.config, candidate.area
        parts = "+".join(str(count) for count in _blocks_by_purpose(candidate))
        table.add_row(
            *(str(n) for n in (config.lanes, config.streams, config.requantisers)),
            str(config.fifo_depth),
            f"{candidate.cycles:,.0f}",
            f"{candidate.p99:,}",
            f"{clock_hz / candidate.cycles:,.0f}",
            f"{candidate.utilisation:.3f}",
            f"{area.multipliers:,}",
            f"{area.luts:,}",
            f"{parts} = {area.blocks}",
            "no" if candidate.lacks else "yes",
        )
    return table


def _blocks_by_purpose(candidate: Candidate) -> list[int]:
    """Block memories of each of `PURPOSES`, then of all others."""
    from ..memory import memory_uses

    purpose = {choice: name for name, choices in PURPOSES.items() for choice in choices}
    counts = dict.fromkeys([*PURPOSES, "other"], 0)
    for use in memory_uses(candidate.config, {}):
        counts[purpose.get(use.choice, "other")] += candidate.area.rams.get(use.name, 0)
    return list(counts.values())


def draw_front(
    path: Path,
    candidates: Sequence[Candidate],
    front: Sequence[Candidate],
    choice: Choice,
    board: Board,
    clock_hz: float,
) -> None:
    """Decisions a second over block memories and over LUTs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes: Any = figure.subplots(1, 2, sharey=True)
    kinds = {
        "does not fit": [c for c in candidates if c.lacks],
        "fits": [c for c in candidates if not c.lacks],
    }
    views: tuple[tuple[Any, str, Callable[[Candidate], int], int], ...] = (
        (axes[0], "block RAMs", lambda c: c.area.blocks, board.device.rams),
        (axes[1], "LUTs (estimate)", lambda c: c.area.luts, board.device.luts),
    )
    for axis, label, cost, there in views:
        for (name, group), colour in zip(kinds.items(), ("lightgrey", "tab:blue"), strict=True):
            speeds = [clock_hz / c.cycles for c in group]
            axis.scatter([cost(c) for c in group], speeds, 22, colour, label=name)
        best = sorted((c for c in front if not c.lacks), key=cost)
        edge = [c for i, c in enumerate(best) if all(c.cycles < b.cycles for b in best[:i])]
        xs = [cost(c) for c in edge]
        axis.plot(xs, [clock_hz / c.cycles for c in edge], "tab:blue", linewidth=1)
        for c in edge:
            axis.annotate(
                f"{c.config.lanes}",
                (cost(c), clock_hz / c.cycles),
                textcoords="offset points",
                xytext=(5, -10),
                fontsize=8,
            )
        chosen = choice.candidate
        axis.scatter(
            [cost(chosen)],
            [clock_hz / chosen.cycles],
            130,
            facecolors="none",
            edgecolors="tab:red",
            linewidths=1.8,
            label=f"chosen: {chosen.config.lanes} lanes, FIFO {chosen.config.fifo_depth}",
        )
        axis.axvline(there, color="black", linestyle=":", linewidth=1, label=f"of {board.name}")
        axis.set_xlabel(label)
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"decisions a second at {clock_hz / 1e6:g} MHz")
    axes[0].set_ylim(bottom=0)
    axes[0].legend(fontsize=8, loc="lower right")
    figure.suptitle(f"Builds on {board.title}; numbers are lanes")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    figure.savefig(part, format=path.suffix[1:], dpi=150)
    os.replace(part, path)


def _write(path: Path, text: str) -> None:
    """Write a whole file or none."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text)
    os.replace(part, path)
