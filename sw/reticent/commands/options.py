"""Options that several commands share, and what is made of them."""

from __future__ import annotations

import argparse
import difflib
import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from ..agent import Agent, find_agent, load_agent
from ..atari import game_name
from ..config import BuildConfig
from ..errors import UserError
from ..quantise import DEFAULT_THRESHOLD

if TYPE_CHECKING:
    from ..link.client import Client

__all__ = [
    "LANES",
    "add_board_options",
    "add_build_options",
    "add_threshold_option",
    "asked_build",
    "build_was_asked",
    "check_can_write",
    "chosen_agent",
    "chosen_board",
    "load_build",
]

LANES = BuildConfig().lanes  # unless --lanes is given
LARGEST_BUILD = 1 << 16  # bytes of a build configuration


def add_threshold_option(parser: argparse.ArgumentParser) -> None:
    """`--threshold`: None, a number or a list."""
    parser.add_argument(
        "--threshold",
        type=_thresholds,
        metavar="T",
        help="in units of the activations; one value, or a comma list for the input and each "
        f"hidden layer ({DEFAULT_THRESHOLD})",
    )


def add_build_options(parser: argparse.ArgumentParser, lanes: int = LANES) -> None:
    """`--config`, `--lanes` (`lanes` unless given) and `--set`; `asked_build` reads them."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="a build that `reticent plan` wrote; --set still changes it",
    )
    parser.add_argument(
        "--lanes", type=int, metavar="N", help=f"multipliers of the machine ({lanes})"
    )
    parser.add_argument(
        "--set",
        type=_choice,
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=N",
        help="other choices of the build, for example weight_depth=16384; `reticent info` shows "
        "all of an image's",
    )


def add_board_options(parser: argparse.ArgumentParser) -> None:
    """`--port` and `--baud`; `chosen_board` reads them."""
    parser.add_argument(
        "--port", metavar="PATH", help="serial port of the board (the only one that answers)"
    )
    parser.add_argument(
        "--baud", type=int, metavar="N", help="bit/s of that port, as the board was built (1000000)"
    )


def chosen_board(arguments: argparse.Namespace) -> Client:
    """The board that `--port` and `--baud` name, or the only one that answers."""
    from ..link.serial_port import open_board

    if arguments.baud is not None and arguments.baud < 1:
        raise UserError(f"--baud {arguments.baud}: give the rate that the board was built for")
    return open_board(arguments.port, arguments.baud)


def asked_build(arguments: argparse.Namespace) -> BuildConfig:
    """The build that `--config`, `--lanes` and `--set` ask for."""
    choices = dict(arguments.set)
    if arguments.config is None:
        lanes = LANES if arguments.lanes is None else arguments.lanes
        return BuildConfig.for_lanes(lanes, **choices)
    if arguments.lanes is not None:
        raise UserError(
            f"--lanes {arguments.lanes} and --config {arguments.config}: the file says how many "
            "lanes there are: leave one of them out"
        )
    return load_build(arguments.config).replace(**choices)


def build_was_asked(arguments: argparse.Namespace) -> bool:
    """Whether the user said anything about the build."""
    return bool(arguments.lanes is not None or arguments.set or arguments.config)


def load_build(path: Path) -> BuildConfig:
    """Read a build configuration: JSON, an object with every choice of `BuildConfig`."""
    try:
        if path.stat().st_size > LARGEST_BUILD:
            raise UserError(f"--config {path} is no build configuration: it is too large")
        values = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"--config {path} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise UserError(
            f"--config {path} is not JSON: give a file that `reticent plan` wrote"
        ) from None
    if not isinstance(values, dict):
        raise UserError(f"--config {path} is no JSON object: give a file of `reticent plan`")
    try:
        return BuildConfig.from_dict(values)
    except UserError as error:
        raise UserError(f"--config {path}: {error}") from None


def chosen_agent(arguments: argparse.Namespace, config: BuildConfig | None = None) -> Agent:
    """The agent that `--agent` and `--game` name; the game of an agent file need not be given. What
    is shipped is chosen for `config`.
    """
    wanted, game = arguments.agent, arguments.game
    if wanted is None or wanted.split(":")[0] == "random":
        return find_agent(wanted, game_name(game or "breakout"), config)
    agent = load_agent(wanted)
    if game is not None and game_name(game) != agent.game:
        raise UserError(f"agent {agent.name} plays {agent.game}: leave out --game {game}")
    return agent


def check_can_write(option: str, path: Path | None) -> None:
    """Refuse a file that could not be written at the end of a long job. None is no file."""
    if path and (path.is_dir() or not path.parent.is_dir()):
        raise UserError(f"{option} {path} cannot be written: name a file in a folder that exists")


def _thresholds(text: str) -> float | list[float]:
    """One number, or a comma list."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number or a comma list of numbers"
        ) from None
    return values if len(values) > 1 else values[0]


def _choice(text: str) -> tuple[str, int]:
    """`name=number`, the name a field of `BuildConfig`."""
    name, _, number = text.partition("=")
    names = [field.name for field in fields(BuildConfig)]
    if name == "lanes":
        raise argparse.ArgumentTypeError("lanes are not set here: give --lanes")
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        remedy = f"did you mean {close[0]}?" if close else f"give one of {', '.join(names)}"
        raise argparse.ArgumentTypeError(f"a build has no choice {name!r}: {remedy}")
    try:
        return name, int(number)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give a whole number, for example {name}=1024"
        ) from None
