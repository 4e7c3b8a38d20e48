"""Playing with real backends: watchers, the check, backends by name."""

import io

import numpy as np
import pytest
from rich.console import Console

from reticent.agent import find_agent, random_agent
from reticent.atari import AtariGame
from reticent.backend import StepResult
from reticent.backends import make_backend, make_model, quantised
from reticent.config import BuildConfig
from reticent.errors import UserError
from reticent.golden import Golden
from reticent.play import Checker, Difference, Progress, play_episodes
from reticent.report import Setup, Statistics


@pytest.fixture(scope="module")
def agent():
    return find_agent(None, "breakout")


@pytest.fixture
def game():
    game = AtariGame("breakout")
    yield game
    game.close()


def play(game, backend, *watchers, **options):
    play_episodes(game, backend, watchers, **{"seed": 0, "epsilon": 0.0, "episodes": 1} | options)


class Collector(list):
    add = list.append


class Tampered:
    """The golden model with one thing wrong from some decision on."""

    name = "tampered"

    def __init__(self, network, at, *, events=0, significant=0, output=0, accumulator=None):
        self.golden = Golden(network)
        self.at, self.events, self.significant = at, events, significant
        self.output, self.accumulator = output, accumulator

    def reset(self):
        self.golden.reset()
        self.taken = 0

    def step(self, frame):
        step = self.golden.step(frame)
        self.taken += 1
        outputs, events, significant = step.outputs.copy(), step.events, step.significant
        if self.taken >= self.at:
            events[1] += self.events
            significant[3] += self.significant
            outputs[2] += self.output
        return StepResult(outputs=outputs, events=tuple(events), significant=tuple(significant))

    def accumulators(self):
        found = [acc.copy() for acc in self.golden.acc]
        if self.accumulator:
            found[1][self.accumulator] += 5
        return found

    def close(self):
        """Nothing is held."""


def test_stops_after_the_decisions_asked_for(agent, game):
    decisions = Collector()
    play(game, make_model("golden", agent, 0.01, BuildConfig()), decisions, max_decisions=7)
    assert len(decisions) == 7
    assert [d.first for d in decisions] == [True] + [False] * 6
    assert all(len(d.result.events) == 5 for d in decisions)


def test_stops_after_the_episodes_asked_for(game):
    agent = random_agent("breakout")
    decisions = Collector()
    backend = make_model("golden", agent, 0.01, BuildConfig())
    play(game, backend, decisions, episodes=2, epsilon=0.5)
    assert [d.episode for d in decisions if d.over] == [0, 1]
    assert decisions[-1].over


def test_golden_backend_is_the_golden_model(agent, game):
    decisions = Collector()
    backend = make_backend("golden", agent, [0.02, 0.0, 0.1, 0.05, 0.01], BuildConfig())
    play(game, backend, decisions, max_decisions=5)
    golden = Golden(backend.model.network)
    for decision in decisions:
        expected = golden.step(decision.frame)
        np.testing.assert_array_equal(decision.result.outputs, expected.outputs)
        assert list(decision.result.events) == expected.events
        assert list(decision.result.significant) == expected.significant
    for got, expected in zip(backend.accumulators(), golden.acc, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_float_and_golden_count_alike(agent, game):
    """Same rule, other arithmetic: the pixels' events agree, all together nearly."""
    counts = {}
    for name in ("float", "golden"):
        decisions = Collector()
        # Ten counts and a half: no pixel difference lies on the threshold.
        backend = make_backend(name, agent, [10.5 / 255, 0.01, 0.01, 0.01, 0.01], BuildConfig())
        play(game, backend, decisions, max_decisions=3, epsilon=1.0)
        counts[name] = np.array([d.result.events for d in decisions])
    np.testing.assert_array_equal(counts["float"][:, 0], counts["golden"][:, 0])
    np.testing.assert_allclose(counts["float"][0].sum(), counts["golden"][0].sum(), rtol=0.1)


@pytest.mark.parametrize(
    ("name", "thresholds", "message"),
    [
        ("fpga", 0.01, "backend fpga needs a board: give --port"),
        ("flot", 0.01, "no backend 'flot': give one of float, golden, sim, fpga"),
        ("golden", -0.5, "threshold -0.5 is not allowed"),
        ("float", -0.5, "threshold -0.5 is not allowed"),
        ("golden", [0.1, 0.1], "2 thresholds given: this network has 5"),
    ],
)
def test_no_such_backend(agent, name, thresholds, message):
    with pytest.raises(UserError, match=message):
        make_backend(name, agent, thresholds, BuildConfig())


@pytest.mark.parametrize("options", [{"episodes": 0}, {"max_decisions": 0}])
def test_nothing_to_play(game, options):
    with pytest.raises(UserError, match="to play: give at least 1"):
        play(game, None, **options)


def check(agent, game, *, decisions=4, **tampering):
    network = quantised(agent, 0.01, BuildConfig())
    backend = Tampered(network, **tampering)
    checker = Checker(network, backend)
    play(game, backend, checker, max_decisions=decisions)
    checker.finish()


def test_check_accepts_what_is_equal(agent, game):
    check(agent, game, at=99)


@pytest.mark.parametrize(
    ("tampering", "message"),
    [
        ({"events": 1}, r"^episode 1, step 3: layer conv2, events: expected (\d+), got \d+$"),
        ({"significant": -2}, r"^episode 1, step 3: layer fc1, multiplications: expected"),
        ({"output": 4}, r"^episode 1, step 3: layer out, neuron 2: expected -?\d+, got -?\d+$"),
        (
            {"output": 4, "accumulator": (3, 5, 6)},
            r"neuron 2: .*; first accumulator: layer conv2, neuron \(3, 5, 6\) .*: expected",
        ),
    ],
)
def test_check_finds_a_difference(agent, game, tampering, message):
    with pytest.raises(Difference, match=message):
        check(agent, game, at=3, **tampering)


def test_check_compares_accumulators_at_the_end(agent, game):
    with pytest.raises(Difference, match=r"^episode 1, step 4: layer conv2, neuron \(0, 0, 1\)"):
        check(agent, game, at=99, accumulator=(0, 0, 1))


def test_check_without_accumulators(agent, game):
    network = quantised(agent, 0.01, BuildConfig())
    backend = make_model("golden", agent, 0.01, BuildConfig())

    class Plain:
        name, reset, step = "plain", backend.reset, staticmethod(backend.step)

    checker = Checker(network, Plain)
    play(game, Plain, checker, max_decisions=3)
    checker.finish()


@pytest.mark.parametrize("terminal", [True, False])
def test_progress(game, terminal):
    agent = random_agent("breakout")
    statistics = Statistics(
        Setup(
            game="breakout",
            backend="golden",
            agent="a",
            lanes=None,
            threshold=0.0,
            seed=0,
            checked=False,
            layers=[("all", 1000)],
        )
    )
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120)
    with Progress(console, statistics) as progress:
        play(
            game,
            make_model("golden", agent, 0.01, BuildConfig()),
            statistics,
            progress,
            epsilon=0.5,
        )
    episode = statistics.episodes[0]
    kept = f"episode 1  score {episode.score:g}  decisions {episode.decisions}  frames"
    assert kept in output.getvalue()
    assert ("multiplications (" in output.getvalue()) == terminal
