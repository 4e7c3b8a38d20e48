"""`reticent compile`: an agent becomes an image for one build."""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path

from ..config import BuildConfig
from ..errors import UserError
from ..memory import memory_table
from ..presets import find_preset
from ..quantise import DEFAULT_THRESHOLD
from .options import (
    add_build_options,
    add_threshold_option,
    asked_build,
    build_was_asked,
    check_can_write,
    chosen_agent,
)

EXAMPLES = """\
examples:
  reticent compile --game breakout -o breakout.image
  reticent compile --agent random:0.2:0 --game krull --lanes 32 -o krull.image
  reticent compile --agent agents/breakout.npz --set weight_depth=6144 -o small.image
  reticent compile --game breakout --board ulx3s -o breakout-ulx3s.image
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "compile",
        help="compile an agent to an image for a build",
        description="Quantise an agent, spread it over the lanes of a build and write the image "
        "that is loaded into the hardware. Shows what it uses of each memory.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--game", help="any ALE game (the agent's, or breakout)")
    parser.add_argument(
        "--agent",
        metavar="FILE",
        help="agent file, or random[:DENSITY[:SEED]] (the game's shipped agent)",
    )
    add_threshold_option(parser)
    add_build_options(parser)
    parser.add_argument("--board", metavar="NAME", help="for the build of this board")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="the image to write"
    )
    parser.set_defaults(run=run)


def _build(arguments: argparse.Namespace) -> BuildConfig:
    if arguments.board is None:
        return asked_build(arguments)
    if build_was_asked(arguments):
        raise UserError(
            f"--board {arguments.board} is a build of its own: leave out --lanes, --set, --config"
        )
    return find_preset(arguments.board)[1].config


def run(arguments: argparse.Namespace) -> int:
    """Compile; returns the exit code."""
    from ..backends import quantised
    from ..compiler import compile_network
    from ..image import Origin

    check_can_write("--output", arguments.output)
    config = _build(arguments)
    agent = chosen_agent(arguments, config if arguments.board else None)
    threshold = DEFAULT_THRESHOLD if arguments.threshold is None else arguments.threshold
    network = quantised(agent, threshold, config)
    image = replace(
        compile_network(network, config, list(agent.calibration)),
        origin=Origin(
            agent=agent.label,
            game=agent.game,
            actions=agent.actions,
            threshold=tuple(threshold) if isinstance(threshold, list) else threshold,
        ),
    )
    image.save(arguments.output)
    print(f"{agent.label} for build {config.hash:08x}, {config.lanes} lanes\n")
    print(memory_table(config, image.used))
    content = image.to_bytes()
    print(
        f"\n{arguments.output}: {len(content):,} bytes, "
        f"sha256 {hashlib.sha256(content).hexdigest()[:12]}"
    )
    return 0
