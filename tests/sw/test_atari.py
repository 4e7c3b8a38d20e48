"""The evaluation: game names, determinism, FIRE, and what a policy is given."""

from itertools import islice

import numpy as np
import pytest

from reticent.atari import AtariGame, game_name, record_trace, rollout
from reticent.backend import StepResult
from reticent.errors import UserError


class Constant:
    """Always the same action."""

    def __init__(self, action, actions):
        self.outputs = np.arange(actions) == action
        self.resets = 0

    def reset(self):
        self.resets += 1

    def step(self, frame):
        assert frame.shape == (84, 84)
        assert frame.dtype == np.uint8
        return StepResult(outputs=self.outputs, events=(), significant=())


@pytest.mark.parametrize(
    "name", ["SpaceInvaders", "space_invaders", "spaceinvaders", "Space Invaders", "SPACE-INVADERS"]
)
def test_game_names(name):
    assert game_name(name) == "space_invaders"


def test_unknown_game_names_the_closest():
    with pytest.raises(UserError, match="no Atari game 'braekout': did you mean breakout"):
        game_name("braekout")
    with pytest.raises(UserError, match="no Atari game '': try breakout"):
        game_name("")


@pytest.mark.parametrize(
    ("name", "count"),
    [("breakout", 4), ("space_invaders", 6), ("robotank", 18), ("enduro", 9), ("krull", 18)],
)
def test_minimal_action_sets(name, count):
    game = AtariGame(name)
    assert len(game.actions) == count
    assert game.actions[:2] == ("NOOP", "FIRE")
    game.close()


def test_trace_depends_only_on_its_arguments():
    frames, resets = record_trace("breakout", None, 80, seed=5)
    again, _ = record_trace("breakout", None, 80, seed=5)
    other, _ = record_trace("breakout", None, 80, seed=6)
    assert frames.shape == (80, 84, 84)
    assert frames.dtype == np.uint8
    assert resets[0]
    np.testing.assert_array_equal(frames, again)
    assert (frames != other).any()


def test_episode_does_not_depend_on_those_before():
    game = AtariGame("breakout")
    policy = Constant(2, 4)
    decisions = list(islice(rollout(game, policy, seed=1, epsilon=0.1), 400))
    second = [d for d in decisions if d.episode == 1]
    assert policy.resets == decisions[-1].episode + 1
    alone = list(islice(rollout(game, None, seed=2, epsilon=0.1), 1))
    game.close()
    assert second[0].first
    np.testing.assert_array_equal(second[0].frame, alone[0].frame)


def test_fire_is_pressed_for_a_policy_that_never_does():
    """Without it Breakout waits for ever; with it five balls are lost soon."""
    game = AtariGame("breakout")
    decisions = []
    for decision in islice(rollout(game, Constant(0, 4), seed=0, epsilon=0.0), 1000):
        decisions.append(decision)
        if decision.over:
            break
    game.close()
    assert decisions[-1].over
    assert 60 < len(decisions) < 500
    # Four frames a decision, four of FIRE and up to thirty no-ops; the last one may be cut short.
    assert 4 * len(decisions) < decisions[-1].frames <= 4 * len(decisions) + 34
    assert [d.first for d in decisions] == [True] + [False] * (len(decisions) - 1)


def test_no_fire_where_the_game_has_none():
    game = AtariGame("freeway", noop_max=0)
    game.reset(0)
    assert game.frames == 0
    game.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"sticky": -0.1}, "sticky-action probability is -0.1"), ({"noop_max": -1}, "give 0 or more")],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        AtariGame("breakout", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"seed": -1, "epsilon": 0.0}, "seed is -1"), ({"seed": 0, "epsilon": 1.5}, "epsilon is 1.5")],
)
def test_play_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        next(rollout(AtariGame("breakout"), None, **options))
