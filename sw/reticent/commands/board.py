"""`reticent board`: what is attached, loading, resetting, counters, a self-test."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import ToolError, UserError
from ..image import Image
from ..layout import Register, Space, address
from .options import add_board_options, chosen_board

if TYPE_CHECKING:
    from ..link.client import Client

NETWORKS = 3  # of one self-test

EXAMPLES = """\
examples:
  python sw/board.py                            # the boards that answer
  python sw/board.py --port /dev/ttyUSB1 info   # one of them, its build and counters
  python sw/board.py load breakout.image
  python sw/board.py reset                      # forget all frames; the image stays
  python sw/board.py test                       # play a random network, compare every answer
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "board",
        help="show, load, reset and test a board",
        description="Show the boards that answer on the serial ports, or do something with one.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "action",
        nargs="?",
        default="list",
        choices=("list", "info", "load", "reset", "test"),
        help="what to do (list)",
    )
    parser.add_argument("image", nargs="?", type=Path, metavar="IMAGE", help="the file to load")
    add_board_options(parser)
    parser.add_argument(
        "--frames", type=int, default=40, metavar="N", help="frames of each test network (40)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the first test network (0)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    if (arguments.action == "load") != (arguments.image is not None):
        raise UserError("an image is for `load`: give `board.py load FILE`")
    if arguments.frames < 1:
        raise UserError(f"--frames {arguments.frames}: give at least 1")
    console = Console()
    if arguments.action == "list":
        return show_all(arguments, console)
    image = Image.load(arguments.image) if arguments.image else None
    with closing(chosen_board(arguments)) as board:
        if image is not None:
            load(board, image, console)
        elif arguments.action == "info":
            console.print(description(board))
        elif arguments.action == "reset":
            reset(board, console)
        else:
            self_test(board, arguments.seed, arguments.frames, console)
    return 0


def show_all(arguments: argparse.Namespace, console: Console) -> int:
    """A line for each port; 1 when no board answers."""
    from ..link.serial_port import BAUD, ask, ports

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("port", "board", "build", "lanes", "MHz", "image"):
        table.add_column(heading)
    found = 0
    for port in [arguments.port] if arguments.port else ports():
        try:
            hello = ask(port, arguments.baud or BAUD)
        except (UserError, ToolError) as error:
            table.add_row(port, Text(str(error), style="dim"))
            continue
        found += 1
        table.add_row(
            port,
            hello.name,
            f"{hello.config.hash:08x}",
            str(hello.config.lanes),
            f"{hello.clock / 1e6:g}",
            hello.tag.hex()[:12] if any(hello.tag) else "none",
        )
    if table.row_count:
        console.print(table)
    else:
        console.print("this computer has no serial port")
    return 0 if found else 1


def description(board: Client) -> Table:
    """Everything that a board says about itself."""
    hello = board.hello
    assert hello is not None
    facts = Table.grid(padding=(0, 2))
    config = hello.config
    choices = ", ".join(f"{k} {v}" for k, v in config.to_dict().items() if k != "lanes")
    for name, value in (
        ("board", f"{hello.name} at {board.port}"),
        ("clock", f"{hello.clock / 1e6:g} MHz"),
        ("link", f"{hello.baud:,} baud; {hello.request_bytes} and {hello.reply_bytes} bytes"),
        ("build", f"{config.hash:08x}: {config.lanes} lanes"),
        ("", choices),
        ("image", hello.tag.hex() if any(hello.tag) else "none"),
        ("resets", f"{hello.boot} since power-up"),
        ("counters", ", ".join(f"{k} {v:,}" for k, v in hello.counters.items())),
    ):
        facts.add_row(Text(name, style="dim"), value)
    return facts


def load(board: Client, image: Image, console: Console) -> None:
    """Make the board hold an image, every word of it verified."""
    from ..link.transport import BoardAccelerator, LinkTransport, load_progress

    with load_progress() as progress:
        accelerator = BoardAccelerator("fpga", LinkTransport(board, progress), image)
    did = "loaded and read back" if accelerator.loaded else "the board held it already, read back"
    if damage := accelerator.link_use().damage:
        did += f"; {damage} before"
    traffic = board.traffic
    console.print(
        f"{image.tag.hex()[:12]}: {did}; {traffic.bytes_sent:,} bytes in {traffic.seconds:.1f} s",
        highlight=False,
    )


def reset(board: Client, console: Console) -> None:
    """Forget all frames, as at the start of an episode."""
    from ..link.transport import LinkTransport

    restart = np.array([address(Space.REGISTER, Register.RESTART)], np.uint32)
    LinkTransport(board).write(restart, np.array([1], np.uint32))
    console.print("the board begins anew with the next frame")


def self_test(board: Client, seed: int, frames: int, console: Console) -> None:
    """Play random networks that fit the board; every answer and accumulator must be right."""
    from ..compiler import compile_network
    from ..golden import Golden
    from ..link.transport import BoardAccelerator, LinkTransport, load_progress
    from ..random_networks import random_frames, random_network

    hello = board.hello
    assert hello is not None
    done = 0
    while done < NETWORKS:
        network = random_network(seed)
        scene = random_frames(network, seed, frames)
        try:
            image = compile_network(network, hello.config, scene[:3])
        except UserError:  # it does not fit this board
            seed += 1
            continue
        with load_progress() as progress:
            device = BoardAccelerator("fpga", LinkTransport(board, progress), image)
        golden = Golden(network)
        for step, frame in enumerate(scene):
            got, expected = device.step(frame), golden.step(frame)
            where = f"self-test, network {seed}, step {step}"
            if got.fresh:
                raise ToolError(f"{where}: the board was reset meanwhile; test again")
            if (
                got.outputs.tolist() != list(expected.outputs)
                or list(got.events) != list(expected.events)
                or list(got.significant) != list(expected.significant)
            ):
                raise ToolError(
                    f"{where}: the board answered {got.outputs.tolist()}, right is "
                    f"{list(expected.outputs)}: its design or its timing is broken"
                )
        for i, acc in enumerate(device.accumulators()):
            if not np.array_equal(acc, golden.acc[i]):
                raise ToolError(f"self-test, network {seed}: accumulators of layer {i} are wrong")
        console.print(f"network {seed}: {frames} frames and all accumulators right")
        done, seed = done + 1, seed + 1
