"""The standard Atari evaluation, and how a policy plays it.

Gymnasium's ALE environments under `AtariPreprocessing`: the minimal action set, every action held
for 4 emulator frames, the last two of them max-pooled, 84 x 84 grey pixels, up to 30 no-ops at the
start, at most 108,000 frames. Frames are NOT stacked: whatever runs the network keeps its own
history and gets one new frame a decision.

FIRE. Games in which action 1 is FIRE (Breakout, Space Invaders, ...) may wait for it before they
go on. As in the usual evaluation, FIRE is pressed once after a reset, before the network sees its
first frame. After a lost life the next action is FIRE whatever the network answers (it still sees
every frame): the shipped agents were trained with FIRE at the start only, and a greedy Breakout
agent that has not learned to press it again would wait until the episode's time is over.

Gymnasium is imported on first use, so that importing this module costs nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from time import perf_counter
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .backend import StepResult
from .errors import UserError

__all__ = ["FRAME_SHAPE", "AtariGame", "Decision", "Policy", "game_name", "record_trace", "rollout"]

FRAME_SHAPE = (84, 84, 1)  # height, width, channels
FRAME_SKIP = 4  # emulator frames an action is held

Frame = npt.NDArray[np.uint8]


@cache
def _environments() -> dict[str, str]:
    """Gymnasium's environment for each game, by its name in snake_case."""
    import ale_py
    import gymnasium

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner among our output
    gymnasium.register_envs(ale_py)
    return {
        spec.kwargs["game"]: name
        for name, spec in gymnasium.registry.items()
        if name.startswith("ALE/")
    }


def game_name(name: str) -> str:
    """The game's name in snake_case; `SpaceInvaders`, `space_invaders` and the like are one.

    Raises `UserError` with the closest names when there is no such game.
    """

    def plain(text: str) -> str:
        return "".join(c for c in text.lower() if c.isalnum())

    games = {plain(game): game for game in _environments()}
    if plain(name) in games:
        return games[plain(name)]
    close = [games[match] for match in difflib.get_close_matches(plain(name), games)]
    remedy = f"did you mean {' or '.join(close)}?" if close else "try breakout or space_invaders"
    raise UserError(f"there is no Atari game {name!r}: {remedy}")


@dataclass(frozen=True)
class Outcome:
    """What one action led to."""

    frame: Frame  # (84, 84), the next one
    reward: float  # unclipped
    over: bool  # the episode ended, or its time did


class AtariGame:
    """One game. `actions` are the names of the minimal action set, in ALE's order.

    `sticky` is the probability that the emulator repeats the previous action in a frame;
    `noop_max` bounds the no-ops at the start (0: none).
    """

    def __init__(self, name: str, *, sticky: float = 0.0, noop_max: int = 30) -> None:
        self.name = game_name(name)
        if not 0 <= sticky < 1:
            raise UserError(f"sticky-action probability is {sticky}: give 0 to below 1")
        if noop_max < 0:
            raise UserError(f"at most {noop_max} no-ops at the start: give 0 or more")
        import gymnasium

        # The checker warns about these environments' info; grey saves converting unused colours.
        environment = gymnasium.make(
            _environments()[self.name],
            frameskip=1,
            repeat_action_probability=sticky,
            obs_type="grayscale",
            disable_env_checker=True,
        )
        self._environment = gymnasium.wrappers.AtariPreprocessing(
            environment, noop_max=noop_max, frame_skip=FRAME_SKIP
        )
        self.actions = tuple(environment.unwrapped.get_action_meanings())
        self._fire = "FIRE" in self.actions[1:2]

    def reset(self, seed: int) -> Frame:
        """Start the episode that belongs to `seed`; returns its first frame."""
        frame, info = self._environment.reset(seed=seed)
        self._lives = info["lives"]
        self._lost_life = False
        self.frames = int(info["episode_frame_number"])
        return self.step(1).frame if self._fire else frame

    def step(self, action: int) -> Outcome:
        """Hold an action for four frames. After a lost life it is FIRE instead, see above."""
        if self._fire and self._lost_life:
            action = 1
        frame, reward, terminated, truncated, info = self._environment.step(action)
        self._lost_life = info["lives"] < self._lives
        self._lives = info["lives"]
        self.frames = int(info["episode_frame_number"])  # of the emulator, no-ops included
        return Outcome(frame, float(reward), terminated or truncated)

    def close(self) -> None:
        """Release the emulator."""
        self._environment.close()


class Policy(Protocol):
    """What `rollout` asks for actions: any backend."""

    def reset(self) -> None:
        """An episode starts."""

    def step(self, frame: Frame) -> StepResult:
        """Decide on one new frame."""


@dataclass(frozen=True)
class Decision:
    """One decision and what it led to."""

    episode: int  # from 0
    first: bool  # first of its episode: the cold start
    frame: Frame  # (84, 84) uint8, what was seen
    result: StepResult | None  # None without a policy
    reward: float
    over: bool  # last of its episode
    frames: int  # emulator frames of the episode so far
    seconds: float  # that the policy took


def rollout(
    game: AtariGame, policy: Policy | None, *, seed: int, epsilon: float
) -> Iterator[Decision]:
    """Play for ever, one episode after another; the caller stops it.

    Episode k starts from `seed + k` and has its own generator for the random actions that
    replace the policy's with probability `epsilon` (always without a policy), so it does not
    depend on how the episodes before it went.
    """
    if not 0 <= epsilon <= 1:
        raise UserError(f"epsilon is {epsilon}: give a probability from 0 to 1")
    if seed < 0:
        raise UserError(f"seed is {seed}: give 0 or more")
    episode = 0
    while True:
        rng = np.random.default_rng(seed + episode)
        frame = game.reset(seed + episode)
        if policy:
            policy.reset()
        first, over = True, False
        while not over:
            start = perf_counter()
            result = policy.step(frame) if policy else None
            seconds = perf_counter() - start
            if result is None or rng.random() < epsilon:
                action = int(rng.integers(len(game.actions)))
            else:
                action = result.action
            outcome = game.step(action)
            over = outcome.over
            yield Decision(
                episode, first, frame, result, outcome.reward, over, game.frames, seconds
            )
            frame, first = outcome.frame, False
        episode += 1


def record_trace(
    name: str, policy: Policy | None, steps: int, *, seed: int = 0, epsilon: float = 0.05
) -> tuple[Frame, npt.NDArray[np.bool_]]:
    """Play `steps` decisions (at random without a policy) and return what the network saw.

    Returns the frames (steps, 84, 84) uint8 and flags (steps,): the frame starts an episode.
    The same arguments give the same trace.
    """
    game = AtariGame(name)
    decisions = list(islice(rollout(game, policy, seed=seed, epsilon=epsilon), steps))
    game.close()
    return np.stack([d.frame for d in decisions]), np.array([d.first for d in decisions])
