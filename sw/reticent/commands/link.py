"""`reticent link`: what games cost on the link to a board."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..errors import UserError
from ..progress import progress_line

RATES = (1_000_000, 3_000_000)

EXAMPLES = """\
examples:
  reticent link
  reticent link --board arty --games breakout krull --steps 100 --baud 1000000 12000000
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "link",
        help="measure what games cost on the link to a board",
        description="Send recorded games through the link's frame code and the cycle model: bytes "
        "a frame, time on the wire and in the core, decisions a second. What a USB adapter and the "
        "computer add is not in it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--board", default="ulx3s", metavar="NAME", help="whose build and clock (ulx3s)")
    add("--games", nargs="+", metavar="GAME", help="any ALE games (the six of the figures)")
    add("--steps", type=int, default=500, metavar="N", help="consecutive steps of a game (500)")
    add("--seed", type=int, default=0, metavar="N", help="of the recorded games (0)")
    add("--baud", type=int, nargs="+", default=RATES, metavar="N", help="bit/s (1000000 3000000)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; returns the exit code."""
    from ..atari import game_name
    from ..bench import GAMES
    from ..link.economy import measure
    from ..presets import find_preset

    if arguments.steps < 2:
        raise UserError(f"{arguments.steps} steps: give at least 2, the first is the cold start")
    if min(arguments.baud) < 1:
        raise UserError(f"--baud {min(arguments.baud)}: give bits a second")
    board, preset = find_preset(arguments.board)
    games = [game_name(game) for game in arguments.games or GAMES]
    console = Console(width=100)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("game")
    for heading in ("raw", "sent", "received", "core ms"):
        table.add_column(heading, justify="right")
    for baud in arguments.baud:
        table.add_column(f"ms at {baud / 1e6:g}M", justify="right")
        table.add_column("a second", justify="right")
    missing = False
    with progress_line() as progress:
        for game in progress.track(games, description="games"):
            found = measure(
                game,
                board,
                preset,
                steps=arguments.steps,
                seed=arguments.seed,
                folder=Path("build/traces"),
            )
            missing |= not found.fits
            row = [f"{found.raw:,}", f"{found.sent:,.0f}", f"{found.received:,.0f}"]
            row.append(f"{1e3 * found.compute_seconds:.3f}")
            for baud in arguments.baud:
                row += [f"{1e3 * found.link_seconds(baud):.2f}", f"{found.decisions(baud):,.0f}"]
            table.add_row(game if found.fits else f"{game} *", *row)
    console.print(
        f"{board.name}, {preset.config.lanes} lanes at {board.clock_hz / 1e6:g} MHz; bytes"
    )
    console.print(
        "and ms of link and core a decision, means after the cold start; decisions a second"
    )
    console.print(table)
    if missing:
        console.print(f"* does not fit {board.name}: as with deeper memories in the same lanes")
    return 0
