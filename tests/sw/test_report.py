"""Statistics from hand-made decisions, and the JSON's keys."""

import dataclasses
import json

import numpy as np
import pytest
from rich.console import Console

from reticent.atari import Decision
from reticent.backend import Cycles, StepResult
from reticent.report import Setup, Statistics

KEYS = [
    "game",
    "backend",
    "agent",
    "lanes",
    "predicted",
    "threshold",
    "seed",
    "episodes",
    "decisions_per_second",
    "layers",
    "fraction",
    "cycles",
    "utilisation",
    "realised_speedup",
    "checked",
    "link",
]


def setup(**changes):
    values = {
        "game": "pong",
        "backend": "sim",
        "agent": "random:0.2:0",
        "lanes": 4,
        "threshold": 0.01,
        "seed": 3,
        "checked": True,
        "layers": [("conv", 1000), ("out", 100)],
    }
    return Setup(**values | changes)


def decision(significant, total=None, *, episode=0, first=False, over=False, reward=0.0, frames=4):
    cycles = None
    if total is not None:
        layers = (total - 20, 10)
        busy = sum(significant)
        cycles = Cycles(
            layers=layers,
            total=total,
            busy=busy,
            lost={"tail": 10, "no event": 4 * total - busy - 10},
        )
    result = StepResult(outputs=np.zeros(2), events=(2, 4), significant=significant, cycles=cycles)
    return Decision(episode, first, np.zeros((84, 84)), result, reward, over, frames, 0.25)


@pytest.fixture
def statistics():
    statistics = Statistics(setup())
    for taken in (
        decision((500, 50), 1000, first=True),
        decision((100, 10), 50, reward=2, frames=8),
        decision((200, 20), 70, reward=-0.5, over=True, frames=12),
        decision((700, 70), 2000, first=True, episode=1),
        decision((300, 60), 120, episode=1, frames=9),
    ):
        statistics.add(taken)
    return statistics


def test_json(statistics):
    report = statistics.to_json()
    assert list(report) == KEYS
    assert report == json.loads(json.dumps(report))
    assert report["episodes"] == [
        {"score": 1.5, "decisions": 3, "frames": 12},
        {"score": 0.0, "decisions": 2, "frames": 9},
    ]
    assert report["decisions_per_second"] == 4
    assert report["layers"] == [
        {
            "name": "conv",
            "dense": 1000,
            "significant": 200,
            "fraction": 0.2,
            "events": 2,
            "cycles": 60,
        },
        {
            "name": "out",
            "dense": 100,
            "significant": 30,
            "fraction": 0.3,
            "events": 4,
            "cycles": 10,
        },
    ]
    assert report["fraction"] == pytest.approx(690 / 3300)
    assert report["cycles"] == {"mean": 80, "p99": 120, "worst": 120, "cold_start": 1500}
    # Both over sums, and without the cold starts.
    assert report["utilisation"] == pytest.approx(690 / (4 * 240))
    assert report["realised_speedup"] == pytest.approx((3300 / 4) / 240)
    assert report["checked"] is True
    assert report["predicted"] is False


def test_predicted_cycles_are_called_so(statistics):
    statistics.setup = dataclasses.replace(statistics.setup, predicted=True)
    console = Console(width=100, record=True)
    console.print(statistics.table())
    assert "4 lanes, cycles predicted" in console.export_text()


def test_waits(statistics):
    assert statistics.waits() == pytest.approx({"no event": 240 / 960, "tail": 30 / 960})


def test_unknown_is_null():
    statistics = Statistics(setup(backend="float", lanes=None, threshold=[0, 0.5], checked=False))
    statistics.add(decision((5, 5), first=True))
    statistics.add(decision((1, 2)))
    report = statistics.to_json()
    assert report["threshold"] == [0, 0.5]
    assert report["cycles"] == {"mean": None, "p99": None, "worst": None, "cold_start": None}
    assert [layer["cycles"] for layer in report["layers"]] == [None, None]
    assert report["lanes"] is report["utilisation"] is report["realised_speedup"] is None
    assert report["fraction"] == pytest.approx(3 / 1100)
    assert report["checked"] is False


@pytest.mark.parametrize("cold", [0, 1])
def test_nothing_after_the_cold_start(cold):
    statistics = Statistics(setup())
    for _ in range(cold):
        statistics.add(decision((5, 5), 100, first=True))
    report = statistics.to_json()
    assert list(report) == KEYS
    assert report["fraction"] is report["utilisation"] is report["cycles"]["mean"] is None
    assert report["layers"][0]["significant"] is None
    assert report["cycles"]["cold_start"] == (100 if cold else None)
    assert report["checked"] is bool(cold)
    assert printed(statistics)


def printed(statistics):
    console = Console(width=100)
    with console.capture() as capture:
        console.print(statistics.table())
    return capture.get()


def test_table(statistics):
    text = printed(statistics)
    lines = [line.split() for line in text.splitlines()]
    assert "pong on sim, 4 lanes; agent random:0.2:0; threshold 0.01" in text
    assert ["conv", "1,000", "200", "0.2000", "2", "60"] in lines
    assert ["all", "1,100", "230", "0.2091", "6", "80"] in lines
    assert "score              1.5, 0 (mean 0.8)" in text
    assert "decisions          5 in 2 episodes" in text
    assert "mean 80, p99 120, worst 120; cold start 1,500" in text
    assert "0.719 of 4 lanes" in text
    assert "no event 25.0%, tail 3.1%" in text
    assert "3.4 of 4.8 possible, over 4 multipliers dense" in text
    assert "every decision equals the golden model's" in text
