"""Frames a second of our DQN beside a plain one: the same network and the same update rule.

    python -m reticent.training.speed [GAME]

The plain one is what a single file of DQN usually is, written from the published algorithm: one
wrapped environment, stacked observations in numpy rings, `nn.Sequential` in float32, Adam, one
update of 32 transitions every 4 decisions; with one thread and with as many as PyTorch likes. Both
are past their start: every decision is followed by its share of updates. Frames a CPU-second count
the time of all threads; unlike frames a second they hardly depend on what else the machine does.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..atari import FRAME_SKIP, game_name
from ..errors import CommandParser, ended_by_a_line
from ..progress import progress_line
from .settings import preset
from .trainer import Run

__all__ = ["PlainDqn", "Speed", "compare"]

WARM = 512  # random decisions before anything is timed
REPLAY = 20_000  # decisions; its size does not change the speed
BATCH, UPDATE_EVERY, TARGET_EVERY, GAMMA, STEP = 32, 4, 1_000, 0.99, 1e-4


@dataclass(frozen=True)
class Speed:
    """Emulator frames, by the clock and by the time of all threads on the CPU."""

    a_second: float
    a_cpu_second: float


class PlainDqn:
    """DQN without anything clever. `play` makes decisions and the updates that belong to them."""

    def __init__(self, game: str, *, seed: int = 0) -> None:
        import ale_py
        import gymnasium

        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        gymnasium.register_envs(ale_py)
        name = "ALE/" + game.title().replace("_", "") + "-v5"
        environment = gymnasium.make(name, frameskip=1, repeat_action_probability=0.0)
        environment = gymnasium.wrappers.AtariPreprocessing(environment)
        self._environment: Any = gymnasium.wrappers.FrameStackObservation(environment, 4)
        self._actions = int(self._environment.action_space.n)
        torch.manual_seed(seed)
        self._network, self._target = self._make(), self._make()
        self._target.load_state_dict(self._network.state_dict())
        self._optimiser = torch.optim.Adam(self._network.parameters(), lr=STEP)
        self._rng = np.random.default_rng(seed)
        self._observations = np.zeros((REPLAY, 4, 84, 84), np.uint8)
        self._following = np.zeros((REPLAY, 4, 84, 84), np.uint8)
        self._taken = np.zeros(REPLAY, np.int64)
        self._rewards = np.zeros(REPLAY, np.float32)
        self._ends = np.zeros(REPLAY, np.float32)
        self._count = 0
        self._seen = self._environment.reset(seed=seed)[0]

    def _make(self) -> Any:
        return nn.Sequential(
            nn.Conv2d(4, 32, 8, 4),
            nn.ReLU(),
            nn.Conv2d(32, 32, 4, 2),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(1024, 512),
            nn.ReLU(),
            nn.Linear(512, self._actions),
        )

    def play(self, decisions: int, *, epsilon: float, learn: bool) -> None:
        """Make decisions; one update after every fourth if it is to `learn`."""
        for _ in range(decisions):
            if self._rng.random() < epsilon:
                action = int(self._rng.integers(self._actions))
            else:
                with torch.no_grad():
                    values = self._network(torch.from_numpy(self._seen)[None] / 255.0)
                action = int(values.argmax())
            following, reward, over, cut, _ = self._environment.step(action)
            slot = self._count % REPLAY
            self._observations[slot], self._following[slot] = self._seen, following
            self._taken[slot], self._rewards[slot] = action, np.sign(reward)
            self._ends[slot] = over
            self._seen = self._environment.reset()[0] if over or cut else following
            self._count += 1
            if learn and self._count % UPDATE_EVERY == 0:
                self._update()
            if self._count % TARGET_EVERY == 0:
                self._target.load_state_dict(self._network.state_dict())

    def _update(self) -> None:
        drawn = self._rng.integers(min(self._count, REPLAY), size=BATCH)
        observations, following, taken, rewards, ends = (
            torch.from_numpy(array[drawn])
            for array in (
                self._observations,
                self._following,
                self._taken,
                self._rewards,
                self._ends,
            )
        )
        with torch.no_grad():
            best = self._target(following / 255.0).max(dim=1).values
            wanted = rewards + GAMMA * best * (1 - ends)
        values = self._network(observations / 255.0).gather(1, taken[:, None])[:, 0]
        loss = F.smooth_l1_loss(values, wanted)
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()


def compare(
    game: str = "breakout",
    *,
    decisions: int = 2_048,
    rounds: int = 3,
    algorithms: tuple[str, ...] = ("dqn", "pqn"),
    show: Callable[[str, float], None] = lambda name, done: None,
) -> dict[str, Speed]:
    """Best frames a second, and a CPU-second, of `rounds` measurements of each, taken in turn.

    Keys are `plain, N threads` and the algorithms; ours run on one thread with their presets, DQN
    in bfloat16. `show` is told what is measured next, and the share that is done.
    """
    threads = torch.get_num_threads()
    plain = PlainDqn(game)
    plain.play(WARM, epsilon=1.0, learn=False)
    contenders: dict[str, tuple[int, Callable[[], int]]] = {}

    def play_plain() -> int:
        plain.play(decisions, epsilon=0.05, learn=True)
        return decisions

    for count in {1, threads}:
        contenders[f"plain, {count} threads"] = count, play_plain
    with tempfile.TemporaryDirectory() as folder:
        for name in algorithms:
            contenders[name] = 1, _ours(name, game, Path(folder) / name, decisions)
        best = dict.fromkeys(contenders, Speed(0.0, 0.0))
        for turn in range(rounds):
            for place, (name, (count, play)) in enumerate(contenders.items()):
                show(name, (turn + place / len(contenders)) / rounds)
                torch.set_num_threads(count)
                began, used = perf_counter(), process_time()
                frames = play() * FRAME_SKIP
                took, used = perf_counter() - began, process_time() - used
                best[name] = Speed(
                    max(best[name].a_second, frames / took),
                    max(best[name].a_cpu_second, frames / used),
                )
    torch.set_num_threads(threads)
    return best


def _ours(name: str, game: str, folder: Path, decisions: int) -> Callable[[], int]:
    settings = preset({"dqn": "published", "pqn": "fast"}[name]).changed({"game": game})
    if name == "dqn":
        settings = settings.changed(
            {
                "replay": REPLAY,
                "learning_starts": WARM,
                "segment": 1_000_000,
                "precision": "bfloat16",
                "epsilon": 0.05,
                "final_epsilon": 0.05,
            }
        )
    run = Run(folder, settings)
    algorithm = run.algorithm
    algorithm.start(0)
    for _ in range(-(-WARM // algorithm.decisions) + 1):
        algorithm.advance(last=False)

    def play() -> int:
        played = 0
        while played < decisions:
            played += algorithm.advance(last=False).decisions
        return played

    return play


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = CommandParser(
        prog="python -m reticent.training.speed",
        description="Frames a second of our training beside a plain DQN's, in one run.",
    )
    parser.add_argument("game", nargs="?", default="breakout", help="any ALE game (breakout)")
    with ended_by_a_line(parser.prog) as ending:
        game = game_name(parser.parse_args(arguments).game)
        with progress_line() as line:
            task = line.add_task("", total=1.0)
            found = compare(
                game, show=lambda name, done: line.update(task, description=name, completed=done)
            )
        for contender, speed in found.items():
            print(
                f"{contender}: {speed.a_second:,.0f} frames/s, "
                f"{speed.a_cpu_second:,.0f} frames a CPU-second"
            )
    return ending.code


if __name__ == "__main__":
    sys.exit(main())
