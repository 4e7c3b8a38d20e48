"""`reticent bench`: the project's figures, measured in one run."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..errors import UserError
from ..progress import progress_line
from .options import check_can_write

EXAMPLES = """\
examples:
  reticent bench
  reticent bench --games breakout krull --lanes 8 16 32 --steps 100 --json bench.json
  reticent bench --percent 10.7 --lanes 16

A run that was interrupted goes on where it was, unless a source has changed.
All but the times is the same on every machine. Exit code 0: every frame was exact and
predicted; 1: one was not.
"""

BAUD, BITS_A_BYTE = 1_000_000, 10  # of a serial link: start, eight data, stop
LANES = [8, 16, 32, 64]
WIDTH = 108  # columns of the tables, on a terminal or not


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "bench",
        help="measure the project's figures: exactness, cycles, speed",
        description="Record games, send the recordings through the co-simulated core, the "
        "golden model and the cycle model, compare every frame, and print cycles, utilisation "
        "and speed-up. Then time each way of running the network on the first game.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--games", nargs="+", metavar="GAME", help="any ALE games (the six of the figures)")
    add("--lanes", nargs="+", type=int, default=LANES, metavar="N", help="builds (8 16 32 64)")
    add(
        "--percent",
        nargs="+",
        metavar="P",
        help="of the weights that the agents have: two rounds of pruning (20 10.7)",
    )
    add("--steps", type=int, default=500, metavar="N", help="consecutive steps of a game (500)")
    add("--seed", type=int, default=0, metavar="N", help="of the recorded games (0)")
    add("--json", type=Path, metavar="FILE", help="write all numbers")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; returns the exit code."""
    check_can_write("--json", arguments.json)
    if arguments.steps < 2:
        raise UserError(f"{arguments.steps} steps: give at least 2, the first is the cold start")
    if arguments.seed < 0:
        raise UserError(f"seed is {arguments.seed}: give 0 or more")
    from ..atari import game_name
    from ..bench import GAMES, ROUNDS, run_bench

    percents = list(dict.fromkeys(arguments.percent or ROUNDS))
    for percent in percents:
        if percent not in ROUNDS:
            raise UserError(f"percent is {percent!r}: give one of {', '.join(ROUNDS)}")

    with progress_line() as progress:
        task = progress.add_task("")
        report = run_bench(
            list(dict.fromkeys(game_name(game) for game in arguments.games or GAMES)),
            list(dict.fromkeys(arguments.lanes)),
            steps=arguments.steps,
            seed=arguments.seed,
            percents=percents,
            show=lambda text, total: progress.update(
                task, description=text, total=total, advance=1
            ),
        )
    print(report_text(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    results = report["results"]
    return 0 if all(r["checked"] and not r["mispredicted"] for r in results) else 1


def report_text(report: dict[str, Any]) -> str:
    """What `bench.run_bench` found, as plain text."""
    console = Console(file=io.StringIO(), width=WIDTH, record=True, markup=False, emoji=False)
    results, speeds = report["results"], report["speeds"]
    first = [
        result
        for result in results
        if (result["game"], result["percent"]) == (speeds["game"], speeds["percent"])
    ]
    agents = dict.fromkeys(f"{result['game']} {result['agent']}" for result in results)
    console.print(
        f"reticent {report['version']}: {report['steps']} consecutive steps of each game, seed "
        f"{report['seed']}, threshold {report['threshold']}\n\n"
        "Cycles a frame after the cold start, and the speed-up over as many multipliers that do\n"
        "all dense multiplications (utilisation = speed-up x fraction):"
    )
    console.print(_games(results, report["utilisation"]))
    console.print(
        "Lane-cycles without a multiplication, in %, by cause; those of the first phase and the "
        "last one\napart, as the cycle model splits what the core counts. And a bound: the "
        "utilisation if each frame\ntook as long as the lane with the most multiplications in it:"
    )
    console.print(_losses(results))
    console.print(
        f"Cycles in which each layer received events, {speeds['game']} with {speeds['percent']} % "
        "of the weights,\nand its multiplications by lane; a lane that is behind does them later, "
        "beside those of the next\nlayer:"
    )
    console.print(_layers(first))
    console.print(
        "Latency from the last pixel to the answer at "
        f"{speeds['modelled_hz'] / 1e6:g} MHz, and the frame's transfer before it\nat {BAUD:,} "
        "baud: whole, and as the link sends it (skipping what did not change; packets left out):"
    )
    console.print(_latencies(results, speeds["modelled_hz"]))
    energy = report["energy"]
    console.print(
        f"Energy of a frame, {energy['game']}, in nJ: an estimate, 45 nm, from exact counts; "
        "docs/energy.md"
    )
    for build in energy["builds"][:1]:
        console.print(_energy(build))
    console.print(f"Decisions a second, {speeds['game']}, one core, medians of interleaved turns:")
    console.print(_speeds(speeds))
    console.print(
        f"Cycles without the gateware, {speeds['game']}: frames a second of the cycle model, given "
        "their events,\nbeside the co-simulated core:"
    )
    console.print(_predictions(speeds["predicted"]))
    console.print("Agents: " + ", ".join(agents))
    differences = [result for result in results if not result["checked"]]
    for result in differences:
        console.print(
            f"NOT EXACT: {result['game']}, {result['lanes']} lanes: {result['difference']}"
        )
    frames = report["steps"] * len(results)
    if not differences:
        console.print(
            f"Exact: {frames:,} frames equal the golden model in outputs "
            "and in events and\nmultiplications of each layer, and so do all accumulators at the "
            "end of each game"
        )
    mispredicted = sum(result["mispredicted"] for result in results)
    console.print(
        f"The cycle model predicts the cycles of all {frames:,} frames"
        if not mispredicted
        else f"NOT PREDICTED by the cycle model: {mispredicted:,} of {frames:,} frames"
    )
    console.print(f"Measured in {report['seconds'] / 60:,.0f} minutes")
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())


def _table(*columns: str, left: int = 1) -> Table:
    """A table; its first `left` columns hold text, the others numbers."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for i, heading in enumerate(columns):
        table.add_column(heading, justify="left" if i < left else "right", no_wrap=True)
    return table


def _games(
    results: list[dict[str, Any]], figures: dict[str, dict[str, dict[str, float | None]]]
) -> Table:
    """One line a game with each share of the weights on each build."""
    table = _table(
        *("lanes", "game", "weights", "fraction", "cycles", "p99", "worst", "cold"),
        *("utilisation", "speed-up", "exact"),
        left=2,
    )
    for percent, builds in figures.items():
        for lanes, means in builds.items():
            shown = [r for r in results if (r["percent"], r["lanes"]) == (percent, int(lanes))]
            for result in shown:
                cycles = result["cycles"]
                table.add_row(
                    *_what(result),
                    _number(result["fraction"], 4),
                    *(_number(cycles[key]) for key in ("mean", "p99", "worst", "cold_start")),
                    _number(result["utilisation"], 3),
                    _number(result["realised_speedup"], 1),
                    "yes" if result["checked"] else "NO",
                )
            for name, key in (("geometric mean", "geometric_mean"), ("worst", "worst")):
                mean = _number(means[key], 3)
                table.add_row(lanes, name, f"{percent}%", *[""] * 5, mean)
            table.add_section()
    return table


def _what(result: dict[str, Any]) -> tuple[str, str, str]:
    """Build, game and share of the weights."""
    return str(result["lanes"]), result["game"], f"{result['percent']}%"


def _by_build(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As in the first table: by share of the weights, then by build."""
    shares = list(dict.fromkeys(result["percent"] for result in results))
    return sorted(results, key=lambda r: (shares.index(r["percent"]), r["lanes"]))


def _losses(results: list[dict[str, Any]]) -> Table:
    """One line a game on each build, one column a cause."""
    causes = list(results[0]["waits"])
    table = _table("lanes", "game", "weights", *causes, "utilisation", "bound", left=2)
    for result in _by_build(results):
        table.add_row(
            *_what(result),
            *(_number(100 * result["waits"][cause], 1) for cause in causes),
            _number(result["utilisation"], 3),
            _number(result["bound"], 3),
        )
    return table


def _layers(results: list[dict[str, Any]]) -> Table:
    """One line a layer, one column a build."""
    columns = [f"{what}\n{r['lanes']} lanes" for r in results for what in ("cycles", "by lane")]
    table = _table("layer", "events", "significant", *columns)
    for layers in zip(*(result["layers"] for result in results), strict=True):
        table.add_row(
            layers[0]["name"],
            _number(layers[0]["events"]),
            _number(layers[0]["significant"]),
            *(
                text
                for layer, result in zip(layers, results, strict=True)
                for text in (
                    _number(layer["cycles"]),
                    _number(layer["significant"] / result["lanes"]),
                )
            ),
        )
    return table


def _latencies(results: list[dict[str, Any]], clock_hz: float) -> Table:
    """One line a game on each build. The cycles are those of the first table."""
    table = _table(
        *("lanes", "game", "weights", "mean\nus", "p99\nus", "worst\nus", "bytes\nwhole"),
        *("bytes\nsent", "transfer, ms\nwhole", "transfer, ms\nsent"),
        left=2,
    )
    for result in _by_build(results):
        cycles, sizes = result["cycles"], result["frame_bytes"]
        times = (cycles[key] for key in ("mean", "p99", "worst"))
        moved = (sizes["whole"], sizes["sent"])
        table.add_row(
            *_what(result),
            *(_number(None if t is None else 1e6 * t / clock_hz, 1) for t in times),
            *(_number(count) for count in moved),
            *(_number(1e3 * count * BITS_A_BYTE / BAUD, 2) for count in moved),
        )
    return table


def _energy(build: dict[str, Any]) -> Table:
    """One line a layer: the delta-sparse machine by purpose, and a dense one with as many lanes."""
    layers = build["layers"]
    purposes = list(layers[0]["sparse"])
    lanes = f"{build['lanes']} lanes"
    table = _table("layer", *purposes, f"sparse,\n{lanes}", f"dense,\n{lanes}", "dense /\nsparse")

    def row(name: str, sparse: Mapping[str, float], dense: float) -> None:
        total = sum(sparse.values())
        parts = (_number(sparse[purpose] / 1e3, 1) for purpose in purposes)
        ratio = _number(dense / total if total else None, 1)
        table.add_row(name, *parts, _number(total / 1e3, 1), _number(dense / 1e3, 1), ratio)

    for layer in layers:
        row(layer["name"], layer["sparse"], sum(layer["dense"].values()))
    table.add_section()
    sums = {purpose: sum(layer["sparse"][purpose] for layer in layers) for purpose in purposes}
    row("all", sums, build["dense"])
    return table


def _speeds(speeds: dict[str, Any]) -> Table:
    """One line a way of running the network; the ratio is over the fastest dense one."""
    found = speeds["decisions_per_second"]
    labels = {
        "sim": f"sim: the core in co-simulation, {speeds['lanes']} lanes",
        "golden": "golden: the int8 delta network, fast engine",
        "float": "float: the float32 delta network, fast engine",
    }
    dense = found["dense"]
    fastest = max(dense.values(), default=None)
    modelled = {
        f"modelled, not measured: {lanes} lanes at {speeds['modelled_hz'] / 1e6:g} MHz": speed
        for lanes, speed in speeds["modelled"].items()
    }
    table = _table("", "decisions/s", "x fastest dense")
    for name, speed in ({labels[k]: found[k] for k in labels} | dense | modelled).items():
        table.add_row(name, _number(speed), _number(speed / fastest, 2) if fastest else "-")
    for runtime, extra in (("PyTorch", "import"), ("ONNX Runtime", "compare")):
        if not any(name.startswith(runtime) for name in dense):
            table.add_row(f"{runtime}: not installed (pip install 'reticent[{extra}]')", "-", "-")
    return table


def _predictions(speeds: Mapping[str, Mapping[str, float]]) -> Table:
    """One line a build: how much faster the cycle model is than co-simulation."""
    table = _table("lanes", "co-simulation", "cycle model", "times faster")
    for lanes, found in speeds.items():
        sim, model = found["sim"], found["model"]
        table.add_row(lanes, _number(sim), _number(model), _number(model / sim, 1))
    return table


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
