"""The command lines of `sw/train.py`, `sw/lottery.py`, `sw/study.py` and `sw/ship.py`."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import INTERRUPTED, CommandParser, UserError, ended_by_a_line

if TYPE_CHECKING:
    from .settings import Settings
    from .trainer import Status

__all__ = ["lottery", "ship", "study", "train"]

STUDY_FOLDER = Path("runs/study")
MEASUREMENTS = "measurements"  # within a study's folder

TRAIN_EXAMPLES = """\
examples:
  python sw/train.py --game breakout
  python sw/train.py --game enduro --set density=0.3:1,0.7:0.2,0.95:0.107
  python sw/train.py --game breakout --from runs/a/snapshots/final.safetensors --run runs/b
  python sw/train.py --game pong --algorithm dqn --set replay=200000
  python sw/train.py --game enduro --algorithm distil --from agents/enduro-dense.npz

Interrupt it when you like; the same command goes on. Watch it: tensorboard --logdir runs
"""

LOTTERY_EXAMPLES = """\
examples:
  python sw/lottery.py --game breakout --rounds 10 --rate 0.2
  python sw/lottery.py --game breakout --rounds 10 --rate 0.2 --set pruning=layer
  python sw/lottery.py --game breakout --method gradual --frames 20000000

lottery: train, prune by magnitude, set the rest back to its initial values, train again, ...
gradual: prune while training goes on, through the densities that the rounds would have; one run
instead of eleven. Interrupt it when you like; the same command goes on.
"""

STUDY_EXAMPLES = """\
examples:
  python sw/study.py runs/breakout-lottery runs/enduro agents/breakout.npz
  python sw/study.py --train --games breakout enduro --seeds 0 1 --frames 2000000 --workers 2
  python sw/study.py --train --engine ray --workers 64 --games breakout space_invaders robotank
      enduro krull freeway --seeds 0 1 2 3 4 --frames 40000000

Looks at finished runs, lotteries and agents; with --train it trains them first (games x seeds).
Every training and every measurement is a job that is done once: the same command goes on.
"""

SHIP_EXAMPLES = """\
examples:
  python sw/ship.py runs/enduro/snapshots/density-0.200.safetensors --game enduro
  python sw/ship.py runs/enduro/snapshots/density-0.107.safetensors --game enduro --suffix sparse
"""


def _parser(program: str, description: str, examples: str) -> argparse.ArgumentParser:
    return CommandParser(
        prog=program,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def train(arguments: Sequence[str] | None = None) -> int:
    """`sw/train.py`; returns the exit code."""
    parser = _parser(
        "train.py",
        "Train the reference network on an Atari game, pruning it meanwhile if asked.",
        TRAIN_EXAMPLES,
    )
    _add_settings(parser)
    _add_run(parser, "GAME-ALGORITHM-SEED")
    return _guarded(parser, arguments, _train)


def lottery(arguments: Sequence[str] | None = None) -> int:
    """`sw/lottery.py`; returns the exit code."""
    parser = _parser(
        "lottery.py", "Prune the reference network in rounds and train each.", LOTTERY_EXAMPLES
    )
    _add_settings(parser)
    add = parser.add_argument
    add("--rounds", type=int, default=10, metavar="M", help="of pruning, after the dense one (10)")
    add(
        "--rate", type=float, default=0.2, metavar="P", help="pruned of what is left, a round (0.2)"
    )
    add("--method", choices=("lottery", "gradual"), default="lottery", help="see below (lottery)")
    _add_run(parser, "GAME-METHOD-SEED")
    return _guarded(parser, arguments, _lottery)


def study(arguments: Sequence[str] | None = None) -> int:
    """`sw/study.py`; returns the exit code."""
    parser = _parser(
        "study.py",
        "Scores and multiplications over pruning rounds: CSV, figures and one HTML page.",
        STUDY_EXAMPLES,
    )
    add = parser.add_argument
    add("sources", nargs="*", type=Path, help="folders of runs and lotteries, agent files")
    add("--output", type=Path, default=STUDY_FOLDER, metavar="FOLDER", help=f"({STUDY_FOLDER})")
    add("--episodes", type=int, default=30, metavar="N", help="of each measurement (30)")
    add("--threshold", type=float, default=0.01, metavar="T", help="of the delta networks (0.01)")
    add(
        "--sweep",
        nargs="*",
        default=["krull", "space_invaders"],
        metavar="GAME",
        help="games for the sweep of thresholds (krull space_invaders)",
    )
    add("--evaluation-seed", type=int, default=1_000_000, metavar="N", help="(1000000)")
    add("--engine", choices=("local", "ray"), default="local", help="what runs the jobs (local)")
    add("--workers", type=int, default=1, metavar="N", help="jobs at once (1)")
    training = parser.add_argument_group("training")
    add = training.add_argument
    add("--train", action="store_true", help="train first")
    add("--games", nargs="+", metavar="GAME", help="(the six of the published study)")
    add("--seeds", nargs="+", type=int, default=[0], metavar="N", help="(0)")
    add("--method", choices=("lottery", "gradual"), default="lottery", help="(lottery)")
    add("--rounds", type=int, default=10, metavar="M", help="(10)")
    add("--rate", type=float, default=0.2, metavar="P", help="(0.2)")
    _add_settings(training, game=False)
    return _guarded(parser, arguments, _study)


def ship(arguments: Sequence[str] | None = None) -> int:
    """`sw/ship.py`; returns the exit code."""
    parser = _parser(
        "ship.py",
        "Make an agent file of trained weights: calibrate, measure over whole episodes, describe.",
        SHIP_EXAMPLES,
    )
    add = parser.add_argument
    add(
        "weights",
        type=Path,
        help=".safetensors of a run's snapshots, or an agent .npz to measure again",
    )
    add("--game", required=True, help="that it plays")
    add("--suffix", default="", metavar="TEXT", help="the file is GAME-TEXT.npz, not GAME.npz")
    add("--folder", type=Path, default=Path("agents"), help="where to write (agents)")
    add("--episodes", type=int, default=30, metavar="N", help="of each arithmetic (30)")
    add(
        "--output",
        type=Path,
        default=STUDY_FOLDER,
        metavar="FOLDER",
        help=f"of the study whose measurements are taken and added to ({STUDY_FOLDER})",
    )
    add("--workers", type=int, default=1, metavar="N", help="measurements at once (1)")
    add(
        "--variants",
        nargs="+",
        metavar="NAME",
        help="of the arithmetics, such as 'int8 delta' (float dense, float delta, int8 delta)",
    )
    add("--frames", type=int, default=4000, metavar="N", help="to compare actions on (4000)")
    add(
        "--calibration",
        type=int,
        default=200,
        metavar="N",
        help="frames that tune the activation scales; take more where int8 disagrees (200)",
    )
    add("--provenance", required=True, metavar="TEXT", help="how it was trained")
    add("--trained", type=float, required=True, metavar="N", help="emulator frames of training")
    return _guarded(parser, arguments, _ship)


def _add_settings(parser: Any, *, game: bool = True) -> None:
    """Options that `_settings` reads."""
    add = parser.add_argument
    if game:
        add("--game", required=True, help="any ALE game, for example breakout")
        add("--seed", type=int, help="of everything random (0)")
    add(
        "--algorithm",
        choices=("pqn", "dqn", "distil"),
        help="pqn: parallelised Q-learning without replay, "
        "several times quicker; dqn: as published; distil: imitate the network of --from while "
        "pruning it (pqn)",
    )
    add(
        "--preset",
        metavar="NAME",
        help="settings to begin with: fast, published, distil or a .toml file "
        "(fast for pqn, published for dqn, distil for distil)",
    )
    add("--frames", help="emulator frames, four a decision")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting; run.json in a run's folder shows all of them",
    )
    add("--device", default="cpu", help="cpu, or cuda for one GPU (cpu)")


def _add_run(parser: argparse.ArgumentParser, default: str) -> None:
    add = parser.add_argument
    add("--run", type=Path, metavar="FOLDER", help=f"where everything goes (runs/{default})")
    add(
        "--from",
        dest="start",
        type=Path,
        metavar="FILE",
        help="begin with these weights: .safetensors, .pt or an agent's .npz",
    )


def _settings(arguments: argparse.Namespace, game: str, seed: int | None) -> Settings:
    """The settings that the options of `_add_settings` ask for."""
    from ..atari import game_name
    from .settings import preset

    usual = {"pqn": "fast", "dqn": "published", "distil": "distil"}[arguments.algorithm or "pqn"]
    settings = preset(arguments.preset or usual)
    if arguments.algorithm not in (None, settings.algorithm):
        raise UserError(
            f"preset {arguments.preset} is for {settings.algorithm}: leave out --algorithm "
            f"{arguments.algorithm}"
        )
    changes: dict[str, Any] = {"game": game_name(game)}
    for name, value in (("frames", arguments.frames), ("seed", seed)):
        if value is not None:
            changes[name] = value
    for text in arguments.set:
        name, separator, value = text.partition("=")
        if not separator:
            raise UserError(f"--set {text}: give NAME=VALUE")
        changes[name] = value
    return settings.changed(changes)


def _start(path: Path | None) -> tuple[dict[str, Any] | None, str]:
    """Tensors of a file of weights or an agent, and what to call them."""
    if path is None:
        return None, ""
    from ..agent import load_agent
    from ..importer import load_tensors
    from .qnetwork import from_arrays

    arrays = load_agent(path).network.arrays() if path.suffix == ".npz" else load_tensors(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return from_arrays(arrays), f"{path.name} {digest[:12]}"


def _check_device(name: str) -> None:
    import torch

    if name == "cpu" or (name.startswith("cuda") and torch.cuda.is_available()):
        return
    raise UserError(f"device {name}: this machine gives torch none; give --device cpu")


def _train(arguments: argparse.Namespace) -> int:
    from .trainer import Run

    _check_device(arguments.device)
    settings = _settings(arguments, arguments.game, arguments.seed)
    folder = arguments.run or Path(f"runs/{settings.game}-{settings.algorithm}-{settings.seed}")
    start, origin = _start(arguments.start)
    run = Run(folder, settings, start=start, origin=origin, device=arguments.device)
    with _Line(settings.frames) as line:
        finished = run.train(lambda status: line.show(settings.game, status))
    return _report(finished, folder)


def _lottery(arguments: argparse.Namespace) -> int:
    from .lottery import Lottery, gradual_settings
    from .trainer import Run

    _check_device(arguments.device)
    settings = _settings(arguments, arguments.game, arguments.seed)
    method = arguments.method
    folder = arguments.run or Path(f"runs/{settings.game}-{method}-{settings.seed}")
    start, origin = _start(arguments.start)
    with _Line(settings.frames) as line:
        if method == "gradual":
            settings = gradual_settings(settings, arguments.rounds, arguments.rate)
            run = Run(folder, settings, start=start, origin=origin, device=arguments.device)
            finished = run.train(lambda status: line.show(settings.game, status))
        else:
            rounds = Lottery(
                folder,
                settings,
                rounds=arguments.rounds,
                rate=arguments.rate,
                start=start,
                origin=origin,
                device=arguments.device,
            )
            finished = rounds.train(
                lambda number, status: line.show(f"{settings.game} round {number}", status)
            )
    return _report(finished, folder)


def _report(finished: bool, folder: Path) -> int:
    if finished:
        print(f"finished: {folder}")
        return 0
    print(f"stopped; the same command goes on with {folder}", file=sys.stderr)
    return INTERRUPTED


class _Line:
    """One line that follows a run; where the output is no terminal, a line every 10 minutes."""

    SELDOM = 600.0

    def __init__(self, frames: int) -> None:
        from rich.progress import TimeRemainingColumn

        from ..progress import progress_line

        self._progress = progress_line(TimeRemainingColumn(), "{task.fields[text]}")
        self._frames = frames
        self._task = self._progress.add_task("", total=frames, text="")
        self._name = ""
        self._written = 0.0

    def __enter__(self) -> _Line:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def show(self, name: str, status: Status) -> None:
        """Say where the run called `name` is."""
        from time import monotonic

        text = (
            f"{status.frames / 1e6:.2f}M of {self._frames / 1e6:g}M frames  "
            f"{status.frames_a_second:,.0f}/s  score {status.score:.1f}  "
            f"density {status.density:.3f}"
        )
        if name != self._name:
            self._name = name
            self._progress.reset(self._task, total=self._frames)
        self._progress.update(self._task, description=name, completed=status.frames, text=text)
        if self._progress.disable and monotonic() - self._written > self.SELDOM:
            self._written = monotonic()
            print(f"{name}: {text}", flush=True)


def _study(arguments: argparse.Namespace) -> int:
    from ..atari import game_name
    from .jobs import run_jobs
    from .report import write_report
    from .study import GAMES, find_subjects, jobs_for, rows_of, training_jobs, write_csv

    output: Path = arguments.output
    sources: list[Path] = list(arguments.sources)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    if not (arguments.train or sources):
        raise UserError("nothing to study: name runs, lotteries or agents, or give --train")
    if arguments.train:
        _check_device(arguments.device)
        games = [game_name(game) for game in arguments.games or GAMES]
        settings = {
            (game, seed): _settings(arguments, game, seed)
            for game in games
            for seed in arguments.seeds
        }
        trained = training_jobs(
            list(settings.values()),
            output / "runs",
            method=arguments.method,
            rounds=arguments.rounds,
            rate=arguments.rate,
            device=arguments.device,
        )
        run_jobs(trained, engine=arguments.engine, workers=arguments.workers, show=say)
        sources += [job.folder for job in trained]
    elif arguments.games:
        raise UserError("--games are what --train trains: give --train, or leave them out")
    measurements = jobs_for(
        find_subjects(sources),
        output / MEASUREMENTS,
        episodes=arguments.episodes,
        seed=arguments.evaluation_seed,
        threshold=arguments.threshold,
        sweep_games=[game_name(game) for game in arguments.sweep],
    )
    run_jobs(
        [job for *_, job in measurements],
        engine=arguments.engine,
        workers=arguments.workers,
        show=say,
    )
    rows = rows_of(measurements)
    write_csv(rows, output / "results.csv")
    page = write_report(rows, output, threshold=arguments.threshold)
    print(f"{len(rows)} measurements: {output / 'results.csv'} and {page}")
    return 0


def _ship(arguments: argparse.Namespace) -> int:
    from ..atari import game_name
    from .shipping import DEFAULT_VARIANTS, ship_agent

    if not arguments.folder.is_dir():
        raise UserError(f"--folder {arguments.folder} is no folder: name one that exists")
    line = ship_agent(
        arguments.weights,
        game_name(arguments.game),
        arguments.folder,
        suffix=arguments.suffix,
        variants=tuple(arguments.variants or DEFAULT_VARIANTS),
        episodes=arguments.episodes,
        measurements=arguments.output / MEASUREMENTS,
        workers=arguments.workers,
        frames=arguments.frames,
        calibration=arguments.calibration,
        provenance=arguments.provenance,
        trained=int(arguments.trained),
        show=lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(line)
    return 0


def _guarded(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    action: Callable[[argparse.Namespace], int],
) -> int:
    """Parse and run; returns the exit code."""
    # Set before numpy and torch are imported: more threads collapse when anything else runs.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    with ended_by_a_line(parser.prog, extra="train") as ending:
        ending.code = action(parser.parse_args(arguments))
    return ending.code
