"""`reticent play`: whole episodes of an Atari game on a backend."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from ..agent import Agent, find_agent
from ..atari import FRAME_SHAPE, AtariGame
from ..backends import BACKENDS, make_backend, make_model, quantised
from ..config import BuildConfig
from ..errors import UserError
from ..play import Checker, Difference, Progress, Watcher, play_episodes
from ..quantise import DEFAULT_THRESHOLD
from ..report import Setup, Statistics

EXAMPLES = """\
examples:
  reticent play --game breakout --backend golden
  reticent play --game breakout --backend sim --lanes 16 --check --max-decisions 500
  reticent play --game SpaceInvaders --agent random:0.2:0 --backend golden --threshold 0
  reticent play --record breakout.gif --max-decisions 300 --json breakout.json

backends:
  float    the float delta network: the published counting
  golden   the quantised delta network in software, equal to the gateware to the bit
  sim      the gateware itself, in co-simulation: also counts clock cycles
  fpga     the gateware on a board: not in this version

Exit code 0: played; 1: --check found a difference; 2: bad input; 130: interrupted.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "play",
        help="play an Atari game and count every multiplication",
        description="Play whole episodes under the standard Atari evaluation (frame skip 4, "
        "84x84 grey, no-op starts, minimal action set) and report what the network did.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--game", default="breakout", help="any ALE game, breakout or SpaceInvaders (breakout)")
    add("--backend", default="sim", metavar="NAME", help=f"{', '.join(BACKENDS)} (sim)")
    add(
        "--agent",
        metavar="FILE",
        help="agent file, or random[:DENSITY[:SEED]] for a pruned random network "
        "(the game's shipped agent)",
    )
    add(
        "--threshold",
        type=_thresholds,
        default=DEFAULT_THRESHOLD,
        metavar="T",
        help="in units of the activations; one value, or a comma list for the input and each "
        f"hidden layer ({DEFAULT_THRESHOLD})",
    )
    add("--lanes", type=int, default=16, metavar="N", help="multipliers of the machine (16)")
    add("--episodes", type=int, default=1, metavar="N", help="whole episodes to play (1)")
    add("--max-decisions", type=int, metavar="N", help="stop after N decisions in all")
    add("--seed", type=int, default=0, metavar="N", help="of episode 0; episode k has N + k (0)")
    add("--epsilon", type=float, default=0.01, metavar="P", help="random actions (0.01)")
    add("--sticky", type=float, default=0.0, metavar="P", help="repeated actions (0)")
    add("--noop-max", type=int, default=30, metavar="N", help="no-ops at the start, at most (30)")
    add("--check", action="store_true", help="compare every decision with the golden model")
    add("--json", type=Path, metavar="FILE", help="write the report, see reticent.report")
    add("--record", type=Path, metavar="FILE.gif", help="record the frames and all events")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Play; returns the exit code."""
    _check_files(arguments)
    if arguments.check and arguments.backend == "float":
        raise UserError("--check compares with the integers of the golden model: not for float")
    console = Console()
    with ExitStack() as stack:
        game = AtariGame(arguments.game, sticky=arguments.sticky, noop_max=arguments.noop_max)
        stack.callback(game.close)
        agent = find_agent(arguments.agent, game.name)
        _check_agent(agent, game)
        config = BuildConfig.for_lanes(arguments.lanes)
        backend = make_backend(arguments.backend, agent, arguments.threshold, config)
        stack.callback(backend.close)

        statistics = Statistics(
            Setup(
                game=game.name,
                backend=backend.name,
                agent=agent.label,
                lanes=config.lanes if backend.name == "sim" else None,
                threshold=arguments.threshold,
                seed=arguments.seed,
                checked=arguments.check,
                layers=[
                    (layer.name, layer.dense_multiplications) for layer in agent.network.linear
                ],
            )
        )
        watchers: list[Watcher] = [statistics]
        checker = None
        if arguments.check:
            checker = Checker(quantised(agent, arguments.threshold, config), backend)
            watchers.append(checker)
        if arguments.record:
            from ..recording import Recorder

            kind = "float" if backend.name == "float" else "golden"
            model = make_model(kind, agent, arguments.threshold, config)
            watchers.append(
                stack.enter_context(Recorder(arguments.record, statistics.setup, model))
            )
        watchers.append(stack.enter_context(Progress(console, statistics)))

        code = 0
        try:
            play_episodes(
                game,
                backend,
                watchers,
                seed=arguments.seed,
                epsilon=arguments.epsilon,
                episodes=arguments.episodes,
                max_decisions=arguments.max_decisions,
            )
            if checker:
                checker.finish()
        except Difference as difference:
            print(f"reticent: difference in {difference}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            code = 130
    console.print(statistics.table())
    if arguments.json:
        try:
            arguments.json.write_text(json.dumps(statistics.to_json(), indent=2) + "\n")
        except OSError as error:
            raise UserError(
                f"--json {arguments.json} cannot be written ({error.strerror}): name another file"
            ) from None
    return code


def _thresholds(text: str) -> float | list[float]:
    """One number, or a comma list."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number or a comma list of numbers"
        ) from None
    return values if len(values) > 1 else values[0]


def _check_files(arguments: argparse.Namespace) -> None:
    """Refuse files that could not be written at the end of a long game."""
    for option, path in (("--json", arguments.json), ("--record", arguments.record)):
        if path and (path.is_dir() or not path.parent.is_dir()):
            raise UserError(
                f"{option} {path} cannot be written: name a file in a folder that exists"
            )


def _check_agent(agent: Agent, game: AtariGame) -> None:
    """Refuse a network that does not fit the game."""
    if agent.network.input.frame_shape != FRAME_SHAPE:
        raise UserError(
            f"agent {agent.name} watches frames of {agent.network.input.frame_shape}: "
            f"Atari games give {FRAME_SHAPE}"
        )
    if agent.actions != game.actions:
        raise UserError(
            f"agent {agent.name} has the actions {', '.join(agent.actions)} (of {agent.game}), "
            f"{game.name} has {', '.join(game.actions)}: give an agent for {game.name}, "
            "or --agent random"
        )
