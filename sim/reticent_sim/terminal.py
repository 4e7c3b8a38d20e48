"""A simulated board behind a pseudo-terminal, for drivers that expect a serial port."""

from __future__ import annotations

import argparse
import os
import pty
import select
import signal
import tty
from collections.abc import Sequence
from pathlib import Path

from reticent.errors import CommandParser, UserError, ended_by_a_line
from reticent.presets import PRESETS, find_preset

from .board import SimBoard

__all__ = ["main", "serve"]

# A fast adapter: a bit for every four clock cycles. The fewer cycles go by, the faster it is.
CYCLES_PER_BIT = 4
SLICE = 200_000  # cycles between two looks at the terminal

EXAMPLES = """\
examples:
  python sim/board.py --board ulx3s
  python sim/board.py --board arty --link build/board

Then, in another shell, with the path that it printed:
  python sw/run_agent.py --backend fpga --port PATH
  python sw/board.py --port PATH

SIGUSR1 presses its reset button; Ctrl-C ends it.
"""


def serve(board: SimBoard, master: int) -> None:
    """Pass bytes between a terminal's master side and a board until interrupted."""
    while True:
        if select.select([master], [], [], None)[0]:
            board.send(os.read(master, 65536))
        while True:
            data = board.run(SLICE)
            while data:
                data = data[os.write(master, data) :]
            if select.select([master], [], [], 0)[0]:
                break
            if board.quiet:
                break


def main(arguments: Sequence[str]) -> int:
    """Run until interrupted; the first line on stdout is the path of the serial port."""
    parser = CommandParser(
        prog="board.py",
        description="Simulate a whole board, pins and all, behind a pseudo-terminal.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ", ".join(PRESETS)
    parser.add_argument("--board", default="ulx3s", metavar="NAME", help=f"{names} (ulx3s)")
    parser.add_argument("--link", type=Path, metavar="PATH", help="make this a link to the port")
    with ended_by_a_line(parser.prog) as ending:
        chosen = parser.parse_args(arguments)
        hardware, preset = find_preset(chosen.board)
        board = SimBoard(
            preset.config,
            name=chosen.board,
            clock=hardware.clock_hz,
            baud=hardware.clock_hz // CYCLES_PER_BIT,
        )
        signal.signal(signal.SIGUSR1, lambda *_: board.reset())
        try:
            _offer(board, chosen.link)
        finally:
            board.close()
    return ending.code


def _offer(board: SimBoard, link: Path | None) -> None:
    """Open a port for a board, say its path, and serve until interrupted."""
    # The slave side stays open here, so that drivers may come and go.
    master, slave = pty.openpty()
    tty.setraw(slave)
    path = os.ttyname(slave)
    try:
        if link:
            link.unlink(missing_ok=True)
            link.symlink_to(path)
        print(path, flush=True)
        serve(board, master)
    except OSError as error:
        where = error.filename2 or error.filename or path  # the second one is the link's
        raise UserError(f"{where}: {error.strerror}") from None
    finally:
        if link:
            link.unlink(missing_ok=True)
