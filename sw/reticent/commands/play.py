"""`reticent play`: whole episodes of an Atari game on a backend."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rich.console import Console

from ..agent import Agent, find_agent
from ..atari import FRAME_SHAPE, AtariGame
from ..backend import Backend
from ..backends import (
    BACKENDS,
    HARDWARE,
    ModelBackend,
    PredictingBackend,
    golden_model,
    image_backend,
    make_backend,
    make_model,
    quantised,
)
from ..compiler import compile_network
from ..config import BuildConfig
from ..errors import UserError
from ..image import Image
from ..play import Checker, Difference, Progress, Watcher, play_episodes
from ..quantise import DEFAULT_THRESHOLD, QuantisedNetwork
from ..report import Setup, Statistics
from .options import (
    add_board_options,
    add_build_options,
    add_threshold_option,
    asked_build,
    build_was_asked,
    check_can_write,
    chosen_board,
)

if TYPE_CHECKING:
    from ..link.client import Client
    from ..link.transport import BoardAccelerator

EXAMPLES = """\
examples:
  reticent play --game breakout --backend golden
  reticent play --game breakout --backend sim --lanes 16 --check --max-decisions 500
  reticent play --game SpaceInvaders --agent random:0.2:0 --backend golden --threshold 0
  reticent play --record breakout.gif --max-decisions 300 --json breakout.json
  reticent play --image breakout.image --max-decisions 500
  reticent play --backend fpga --port /dev/ttyUSB1

backends:
  float    the float delta network: the published counting
  golden   the quantised delta network in software, equal to the gateware to the bit, with the
           clock cycles that the build would take, predicted exactly
  sim      the gateware itself, in co-simulation: also counts clock cycles
  fpga     the gateware on a board; the build is the board's own

Exit code 0: played; 1: --check found a difference, or the hardware failed; 2: bad input;
130: interrupted.
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
        "--image",
        type=Path,
        metavar="FILE",
        help="play this image, made by `reticent compile`, instead of compiling the agent",
    )
    add_threshold_option(parser)
    add_build_options(parser)
    add_board_options(parser)
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


@dataclass(frozen=True)
class Player:
    """What plays: a backend, and the facts that reports and checks need of it."""

    backend: Backend
    agent: str  # label
    threshold: float | Sequence[float]
    lanes: int | None  # None where there are none
    layers: list[tuple[str, int]]  # name and dense multiplications
    # What it computes, and a software model of it to look into; None where nobody asks.
    network: QuantisedNetwork | None
    model: ModelBackend | None
    predicted: bool = False  # cycles are those of the cycle model


def run(arguments: argparse.Namespace) -> int:
    """Play; returns the exit code."""
    check_can_write("--json", arguments.json)
    check_can_write("--record", arguments.record)
    if arguments.check and arguments.backend == "float":
        raise UserError("--check compares with the integers of the golden model: not for float")
    if arguments.backend != "fpga" and (arguments.port or arguments.baud):
        raise UserError("--port and --baud are for boards: give --backend fpga")
    console = Console()
    with ExitStack() as stack:
        game = AtariGame(arguments.game, sticky=arguments.sticky, noop_max=arguments.noop_max)
        stack.callback(game.close)
        player = (_image_player if arguments.image else _agent_player)(arguments, game)
        backend = player.backend
        stack.callback(backend.close)

        statistics = Statistics(
            Setup(
                game=game.name,
                backend=backend.name,
                agent=player.agent,
                lanes=player.lanes,
                threshold=player.threshold,
                seed=arguments.seed,
                checked=arguments.check,
                layers=player.layers,
                predicted=player.predicted,
            )
        )
        watchers: list[Watcher] = [statistics]
        checker = None
        if arguments.check:
            assert player.network is not None
            checker = Checker(player.network, backend)
            watchers.append(checker)
        if arguments.record:
            from ..recording import Recorder

            assert player.model is not None
            recorder = Recorder(arguments.record, statistics.setup, player.model)
            watchers.append(stack.enter_context(recorder))
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
        if backend.name == "fpga":
            statistics.link = cast("BoardAccelerator", backend).link_use()
    console.print(statistics.table())
    if arguments.json:
        try:
            arguments.json.write_text(json.dumps(statistics.to_json(), indent=2) + "\n")
        except OSError as error:
            raise UserError(
                f"--json {arguments.json} cannot be written ({error.strerror}): name another file"
            ) from None
    return code


def _agent_player(arguments: argparse.Namespace, game: AtariGame) -> Player:
    """An agent on the backend that was asked for."""
    board = chosen_board(arguments) if arguments.backend == "fpga" else None
    config = _board_build(board, arguments) if board else asked_build(arguments)
    agent = find_agent(arguments.agent, game.name, config if board else None)
    _check_game(
        f"agent {agent.name}", agent.game, agent.actions, agent.network.input.frame_shape, game
    )
    threshold = DEFAULT_THRESHOLD if arguments.threshold is None else arguments.threshold
    predicting = None
    if arguments.backend == "golden":
        predicting = _predicting(agent, threshold, config)
    backend = predicting or make_backend(arguments.backend, agent, threshold, config, board)
    kind = "float" if backend.name == "float" else "golden"
    return Player(
        backend=backend,
        agent=agent.label,
        threshold=threshold,
        lanes=config.lanes if predicting or backend.name in HARDWARE else None,
        layers=[(layer.name, layer.dense_multiplications) for layer in agent.network.linear],
        network=quantised(agent, threshold, config) if arguments.check else None,
        model=make_model(kind, agent, threshold, config) if arguments.record else None,
        predicted=predicting is not None,
    )


def _predicting(
    agent: Agent, threshold: float | Sequence[float], config: BuildConfig
) -> PredictingBackend | None:
    """The golden model with the cycles of a build; None where the network does not fit it."""
    network = quantised(agent, threshold, config)
    try:
        image = compile_network(network, config, list(agent.calibration))
    except UserError as error:
        reason = str(error).splitlines()[0]
        print(f"reticent: cycles are not predicted: {reason}", file=sys.stderr)
        return None
    return PredictingBackend(network, image)


def _board_build(board: Client, arguments: argparse.Namespace) -> BuildConfig:
    """The board's build, which what was asked for must not contradict."""
    assert board.hello is not None
    config = board.hello.config
    if build_was_asked(arguments) and asked_build(arguments) != config:
        raise UserError(
            f"the board is build {config.hash:08x} with {config.lanes} lanes: leave out --config, "
            "--lanes and --set, or build it anew"
        )
    return config


def _image_player(arguments: argparse.Namespace, game: AtariGame) -> Player:
    """An image on the hardware that was asked for. Its agent is needed for checks only."""
    image = Image.load(arguments.image)
    config, origin = image.config, image.origin
    name = f"image {arguments.image}"
    if origin is None:
        raise UserError(f"{name} names no game: make one with `reticent compile`")
    if build_was_asked(arguments) and asked_build(arguments) != config:
        raise UserError(
            f"{name} is for build {config.hash:08x} with {config.lanes} lanes, asked for is "
            f"{asked_build(arguments).hash:08x} with {asked_build(arguments).lanes}: "
            "compile it for that build, or leave out --config, --lanes and --set"
        )
    _check_game(name, origin.game, origin.actions, image.frame_shape, game)
    if arguments.threshold is not None:
        image = image.with_thresholds(arguments.threshold)
    network = None
    if arguments.agent or arguments.check or arguments.record:
        agent = find_agent(arguments.agent, game.name)
        network = quantised(agent, DEFAULT_THRESHOLD, config).with_counts(image.thresholds)
        if network.digest != image.network:
            raise UserError(
                f"{name} was compiled from {origin.agent}, agent {agent.label} is another "
                "network: give --agent with that one"
            )
    board = chosen_board(arguments) if arguments.backend == "fpga" else None
    backend = image_backend(arguments.backend, image, board)
    return Player(
        backend=backend,
        agent=origin.agent,
        threshold=origin.threshold if arguments.threshold is None else arguments.threshold,
        lanes=config.lanes,
        layers=[(layer.name, layer.dense) for layer in image.layers],
        network=network,
        model=golden_model(network) if network and arguments.record else None,
    )


def _check_game(
    what: str,
    plays: str,
    actions: tuple[str, ...],
    frame_shape: tuple[int, int, int],
    game: AtariGame,
) -> None:
    """Refuse an agent or image that does not fit the game."""
    if frame_shape != FRAME_SHAPE:
        raise UserError(f"{what} watches frames of {frame_shape}: Atari games give {FRAME_SHAPE}")
    if actions != game.actions:
        raise UserError(
            f"{what} has the actions {', '.join(actions)} (of {plays}), {game.name} has "
            f"{', '.join(game.actions)}: give one for {game.name}, or --agent random"
        )
