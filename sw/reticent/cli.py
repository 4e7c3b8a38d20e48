"""The command line: `reticent COMMAND ...`. Each command is a module of `reticent.commands`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module

from . import __version__
from .errors import CommandParser, ended_by_a_line

__all__ = ["main"]

# Modules of `reticent.commands`, in the order of the help.
COMMANDS = (
    "play",
    "compile",
    "info",
    "importing",
    "plan",
    "verilog",
    "boards",
    "board",
    "asic",
    "link",
    "bench",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code.

    Also 2 for bad input, 1 for a tool or device that failed (one line on stderr each), 130 when
    interrupted.
    """
    # Set before numpy is imported: our products are small, a second thread gains nothing, and on a
    # busy machine it makes them fifty times slower.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    parser = CommandParser(
        prog="reticent",
        description="Delta-neuron accelerators: silent until changed, sparse, exact to the bit.",
        epilog="`reticent COMMAND --help` explains each command.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        import_module(f".commands.{command}", __package__).add_parser(subparsers)
    with ended_by_a_line(parser.prog) as ending:
        chosen = parser.parse_args(arguments)
        ending.code = chosen.run(chosen)
    return ending.code
