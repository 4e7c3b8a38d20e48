"""A simulated board behind a pseudo-terminal, for drivers that expect a serial port."""

from __future__ import annotations

import argparse
import os
import pty
import select
import signal
import sys
import tty
from collections.abc import Sequence
from pathlib import Path

from reticent.errors import ToolError, UserError
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
    parser = argparse.ArgumentParser(
        prog="board.py",
        description="Simulate a whole board, pins and all, behind a pseudo-terminal.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ", ".join(PRESETS)
    parser.add_argument("--board", default="ulx3s", metavar="NAME", help=f"{names} (ulx3s)")
    parser.add_argument("--link", type=Path, metavar="PATH", help="make this a link to the port")
    chosen = parser.parse_args(arguments)
    try:
        hardware, preset = find_preset(chosen.board)
        board = SimBoard(
            preset.config,
            name=chosen.board,
            clock=hardware.clock_hz,
            baud=hardware.clock_hz // CYCLES_PER_BIT,
        )
    except UserError as error:
        print(f"board.py: {error}", file=sys.stderr)
        return 2
    except ToolError as error:
        print(f"board.py: {error}", file=sys.stderr)
        return 1
    # The slave side stays open here, so that drivers may come and go.
    master, slave = pty.openpty()
    tty.setraw(slave)
    path = os.ttyname(slave)
    signal.signal(signal.SIGUSR1, lambda *_: board.reset())
    try:
        if chosen.link:
            chosen.link.unlink(missing_ok=True)
            chosen.link.symlink_to(path)
        print(path, flush=True)
        serve(board, master)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f"board.py: {error.filename or path}: {error.strerror}", file=sys.stderr)
        return 2
    finally:
        if chosen.link:
            chosen.link.unlink(missing_ok=True)
        board.close()
    return 0
