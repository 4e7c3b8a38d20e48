"""The command lines of `sw/train.py`, `sw/lottery.py` and `sw/study.py`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import ToolError, UserError

__all__ = ["train"]

TRAIN_EXAMPLES = """\
examples:
  python sw/train.py --game breakout
  python sw/train.py --game enduro --set density=0.3:1,0.7:0.2,0.95:0.107
  python sw/train.py --game breakout --from runs/a/snapshots/final.safetensors --run runs/b
  python sw/train.py --game pong --algorithm dqn

The same command goes on with a run that was stopped. Watch it: tensorboard --logdir runs
"""


def train(arguments: Sequence[str] | None = None) -> int:
    """`sw/train.py`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="train.py",
        description="Train the reference network on an Atari game, pruning it meanwhile if asked.",
        epilog=TRAIN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_settings(parser)
    add = parser.add_argument
    add("--run", type=Path, metavar="FOLDER", help="the run's folder (runs/GAME-ALGORITHM-SEED)")
    add(
        "--from",
        dest="start",
        type=Path,
        metavar="FILE",
        help="begin with these weights: .safetensors, .pt or an agent .npz",
    )
    add("--device", default="cpu", help="cpu, or cuda for one GPU (cpu)")
    return guarded("train.py", lambda: _train(parser.parse_args(arguments)))


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Options that `asked_settings` reads."""
    add = parser.add_argument
    add("--game", required=True, help="any ALE game, for example breakout")
    add(
        "--algorithm",
        choices=("pqn", "dqn"),
        default="pqn",
        help="pqn: parallelised Q-learning "
        "without replay, several times quicker; dqn: as published (pqn)",
    )
    add(
        "--preset",
        metavar="NAME",
        help="settings to begin with: fast, published or a .toml file "
        "(fast for pqn, published for dqn)",
    )
    add("--frames", help="emulator frames, four a decision")
    add("--seed", type=int, help="of everything random (0)")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting; run.json in a run's folder shows all of them",
    )


def asked_settings(arguments: argparse.Namespace) -> Any:
    """The settings that the options of `add_settings` ask for."""
    from ..atari import game_name
    from .settings import preset

    name = arguments.preset or {"pqn": "fast", "dqn": "published"}[arguments.algorithm]
    changes: dict[str, Any] = {"game": game_name(arguments.game)}
    for what in ("frames", "seed"):
        if getattr(arguments, what) is not None:
            changes[what] = getattr(arguments, what)
    for text in arguments.set:
        key, separator, value = text.partition("=")
        if not separator:
            raise UserError(f"--set {text}: give NAME=VALUE")
        changes[key] = value
    settings = preset(name)
    if arguments.preset is None and settings.algorithm != arguments.algorithm:
        raise UserError(f"preset {name} is for {settings.algorithm}: leave out --algorithm")
    return settings.changed(changes)


def load_start(path: Path) -> tuple[dict[str, Any], str]:
    """Tensors of a file of weights or an agent, and what to call them."""
    import hashlib

    import torch

    from ..agent import load_agent
    from ..importer import load_tensors

    arrays = load_agent(path).network.arrays() if path.suffix == ".npz" else load_tensors(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {n: torch.from_numpy(a.copy()) for n, a in arrays.items()}, f"{path.name} {digest[:12]}"


def guarded(program: str, action: Callable[[], int]) -> int:
    """Run a command; errors become one line and an exit code."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        return action()
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except ToolError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _train(arguments: argparse.Namespace) -> int:
    from .trainer import Run

    settings = asked_settings(arguments)
    folder = arguments.run or Path("runs") / f"{settings.game}-{settings.algorithm}-{settings.seed}"
    start, origin = load_start(arguments.start) if arguments.start else (None, "")
    run = Run(folder, settings, start=start, origin=origin, device=arguments.device)
    finished = run.train(lambda s: print(s, flush=True))
    return 0 if finished else 130
