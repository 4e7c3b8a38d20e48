"""`reticent boards`, `bitstream`, `program`: designs for boards."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from math import isfinite
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..errors import ToolError, UserError
from ..presets import PRESETS
from .options import load_build

WIDTH = 144  # columns of the tables, on a terminal or not
BUNDLE_ONLY = 3  # exit code: synthesised, but no bitstream was made

EXAMPLES = """\
examples:
  reticent boards
  reticent bitstream ulx3s
  reticent bitstream arty --toolchain vivado
  reticent plan --game breakout --board ulx3s -o build.json
  reticent bitstream ulx3s --config build.json --clock 50
  reticent program ulx3s

Exit code 0: a bitstream that reaches its clock; 1: a tool failed, or the clock was not reached;
2: bad input; 3: no place and route for this device here, but everything to build it elsewhere.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the commands."""
    listing = subparsers.add_parser(
        "boards",
        help="list the boards, what fits them, and what is needed to build for them",
        description="List the boards: device, lanes, clock, link, what the design takes, which "
        "tools build it and whether they are here.",
    )
    listing.add_argument("--memories", metavar="BOARD", help="show how each memory is built")
    listing.set_defaults(run=run_boards)

    build = subparsers.add_parser(
        "bitstream",
        help="build the complete design for a board",
        description="Build core, link, clock and pins for a board, and report area and timing.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    build.add_argument("board", metavar="BOARD", help=", ".join(PRESETS))
    build.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="build configuration, as `reticent plan` writes it (the board's preset)",
    )
    build.add_argument(
        "--clock", type=float, metavar="MHZ", help="of core and link (`reticent boards` lists it)"
    )
    build.add_argument("--toolchain", metavar="NAME", help="trellis, vivado or xray (what is here)")
    build.add_argument("--seed", type=int, default=3, metavar="N", help="of place and route (3)")
    build.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="folder to build in (build/boards/BOARD)"
    )
    build.set_defaults(run=run_bitstream)

    load = subparsers.add_parser(
        "program",
        help="load a bitstream into a board",
        description="Load the bitstream that `bitstream` made into a board, until power-off.",
    )
    load.add_argument("board", metavar="BOARD", help=", ".join(PRESETS))
    load.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="where it was built (build/boards/BOARD)"
    )
    load.set_defaults(run=run_program)


def _folder(arguments: argparse.Namespace) -> Path:
    return arguments.output or Path("build") / "boards" / arguments.board


def run_boards(arguments: argparse.Namespace) -> int:
    """Print the table; returns the exit code."""
    from reticent_hw.boards.build import toolchains
    from reticent_hw.boards.catalog import target
    from reticent_hw.boards.fit import fit, memories_of_target

    console = Console(width=WIDTH)
    if arguments.memories:
        chosen = target(arguments.memories)
        shapes = memories_of_target(chosen)
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for heading in ("rows", "bits", "copies", "blocks", "shapes", "LUTs"):
            table.add_column(heading, justify="right")
        for shape, cut in fit(chosen).cuts.items():
            columns = [f"{bits} of {s.rows}x{s.bits}" for s, bits in cut.columns]
            summary = ", ".join(f"{columns.count(c)} x {c}" for c in dict.fromkeys(columns))
            copies = shapes.count(shape)
            table.add_row(
                f"{shape.rows:,}",
                str(shape.bits),
                str(copies),
                f"{copies * cut.blocks}",
                summary,
                f"{copies * cut.luts:,}",
            )
        console.print(table)
        return 0
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("board", "device", "lanes", "weights", "MHz", "Mbaud"):
        table.add_column(heading)
    for heading in ("blocks", "LUTs", "fits", "tools"):
        table.add_column(heading)
    for name, preset in PRESETS.items():
        chosen, config = target(name), preset.config
        board = chosen.board
        found = fit(chosen)
        tools = ", ".join(
            f"{chain.name.lower()} {'is here' if chain.present else 'is not here'}"
            for chain in toolchains(chosen)
        )
        luts = found.memory_luts + found.logic_luts
        table.add_row(
            name,
            board.device.name,
            str(config.lanes),
            f"{config.lanes * config.weight_depth:,}",
            f"{board.clock_hz / 1e6:g}",
            f"{preset.baud / 1e6:g}",
            f"{found.blocks} of {board.device.rams}",
            f"{luts:,} of {found.luts:,}",
            "yes" if found.fits else "no",
            tools,
        )
    console.print(table)
    console.print("LUTs: exact for memories, an estimate for logic. Serial ports: 8N1.")
    return 0


def run_bitstream(arguments: argparse.Namespace) -> int:
    """Build; returns the exit code."""
    from reticent_hw.boards.build import (
        SERIES7_INSTALL,
        bitstream,
        chosen_toolchain,
        missing_tools,
        synthesise_only,
        toolchains,
    )
    from reticent_hw.boards.catalog import target

    chosen = target(arguments.board)
    if arguments.config is not None:
        preset = replace(chosen.preset, config=load_build(arguments.config))
        chosen = replace(chosen, preset=preset)
    if arguments.clock is not None:
        hertz = round(arguments.clock * 1e6) if isfinite(arguments.clock) else 0
        if hertz <= 0:
            raise UserError(f"--clock {arguments.clock:g}: give MHz above 0")
        chosen = replace(chosen, board=replace(chosen.board, clock_hz=hertz))
    folder = _folder(arguments)
    chain = chosen_toolchain(chosen, arguments.toolchain)
    console = Console()
    errors = Console(stderr=True)
    with errors.status(f"building for {chosen.board.name}") as status:

        def say(what: str) -> None:
            status.update(f"building for {chosen.board.name}: {what}")

        try:
            if chain is not None:
                report = bitstream(chosen, chain, folder, say, seed=arguments.seed)
            elif chosen.board.device.family == "ecp5":
                missing = ", ".join(missing_tools(toolchains(chosen)[0]))
                raise UserError(f"{missing} not found: pip install 'reticent[boards]'")
            else:
                used = synthesise_only(chosen, folder, say)
        except OSError as error:
            raise UserError(
                f"{folder} cannot be written ({error.strerror}): give another folder with -o"
            ) from None
    if chain is None:
        print(f"{chosen.board.name}: {chosen.board.device.name}, after synthesis with Yosys\n")
        for name, (count, there) in used.items():
            print(f"  {name:16}{count:8,} of {there:8,}  {count / there:6.1%}")
        print(f"\n{folder}: everything to build it elsewhere; {folder / 'README.txt'} says how")
        print(f"reticent: no bitstream for {chosen.board.name}: {SERIES7_INSTALL}", file=sys.stderr)
        return BUNDLE_ONLY
    console.print(report.text(), highlight=False)
    console.print(f"\n{folder / 'reticent.bit'}", highlight=False)
    if not report.clocks:
        raise ToolError(
            f"{chosen.board.name}: {chain.name} says nothing about its timing in {folder}: read "
            "its reports before you use the bitstream"
        )
    if not report.met:
        raise ToolError(
            f"{chosen.board.name}: the clock was not reached: try another --seed, or a slower "
            "--clock"
        )
    return 0


def run_program(arguments: argparse.Namespace) -> int:
    """Load; returns the exit code."""
    from reticent_hw.boards.build import program
    from reticent_hw.boards.catalog import target

    program(target(arguments.board), _folder(arguments) / "reticent.bit")
    return 0
