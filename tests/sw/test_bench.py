"""The figures: on cores that are made up, so that every number is known."""

import dataclasses
import json
import math

import numpy as np
import pytest

from reticent import bench, cli
from reticent.agent import random_agent
from reticent.backend import Cycles, StepResult
from reticent.bench import Trace, check_game, load_trace, measure_speeds, run_bench, summary
from reticent.commands.bench import WIDTH, report_text
from reticent.golden import Golden
from reticent.layout import LOST_CAUSES

STEPS = 6


@pytest.fixture(scope="module")
def agent():
    return random_agent("pong", 0.1)


@pytest.fixture(scope="module")
def network(agent):
    return agent.quantised()


@pytest.fixture(scope="module")
def trace(agent):
    starts = np.zeros(STEPS, np.bool_)
    starts[[0, 4]] = True
    return Trace(agent.calibration[:STEPS], starts)


class Core:
    """The golden model with a clock: each layer takes a fixed number of cycles."""

    name = "made up"
    LAYER, SPARE = 1000, 50

    def __init__(self, network, lanes, *, wrong_at=None, drift=0):
        self.golden, self.lanes = Golden(network), lanes
        self.wrong_at, self.drift = wrong_at, drift
        self.resets = self.steps = 0

    def reset(self):
        self.golden.reset()
        self.resets += 1

    def step(self, frame):
        step = self.golden.step(frame)
        events = list(step.events)
        events[2] += self.steps == self.wrong_at
        self.steps += 1
        layers = len(step.events)
        total = layers * self.LAYER + self.SPARE
        busy = sum(step.significant)
        lost = dict.fromkeys(LOST_CAUSES, 0) | {LOST_CAUSES[0]: self.lanes * total - busy}
        cycles = Cycles(layers=(self.LAYER,) * layers, total=total, busy=busy, lost=lost)
        return StepResult(
            outputs=step.outputs,
            events=tuple(events),
            significant=tuple(step.significant),
            cycles=cycles,
        )

    def accumulators(self):
        return [acc + self.drift for acc in self.golden.acc]

    def close(self):
        pass


class Prediction:
    """A cycle model that knows the made-up clock, or not."""

    def __init__(self, network, lanes, *, right=True):
        self.core, self.right = Core(network, lanes), right

    def reset(self):
        self.core.reset()

    def step(self, frame, fired):
        predicted = self.core.step(frame).cycles
        self.busiest = predicted.busy / self.core.lanes
        self.waits = np.zeros((len(self.core.golden.network.layers), len(LOST_CAUSES)), np.int64)
        self.waits[1] = list(predicted.lost.values())
        for given, events in zip(fired, self.core.golden.fired, strict=True):
            np.testing.assert_array_equal(np.sort(given), events)  # in any order
        return predicted if self.right else dataclasses.replace(predicted, total=1)


def check(agent, network, trace, cores, *, right=True, **options):
    models = {lanes: Prediction(network, lanes, right=right) for lanes in cores}
    return check_game(agent, network, trace, cores, models, **options)


def test_figures_of_an_exact_core(agent, network, trace):
    advanced = []
    core = Core(network, 64)
    found = check(agent, network, trace, {64: core}, seed=3, advance=lambda: advanced.append(1))
    assert list(found) == [64]
    report = found[64].to_json()
    assert (report["checked"], report["difference"], report["mispredicted"]) == (True, None, 0)
    assert len(advanced) == STEPS
    assert core.resets == 2

    golden, warm = Golden(network), []
    for frame, start in zip(trace.frames, trace.starts, strict=True):
        if start:
            golden.reset()
        step = golden.step(frame)
        if not start:
            warm.append(step.significant)
    total = len(network.layers) * Core.LAYER + Core.SPARE
    significant = np.mean(warm, axis=0)
    assert report["game"] == "pong"
    assert report["seed"] == 3
    assert report["cycles"] == {"mean": total, "p99": total, "worst": total, "cold_start": total}
    assert report["utilisation"] == pytest.approx(significant.sum() / (64 * total))
    assert report["realised_speedup"] * report["fraction"] == pytest.approx(report["utilisation"])
    assert [layer["significant"] for layer in report["layers"]] == pytest.approx(significant)
    assert report["lost"][LOST_CAUSES[0]] == pytest.approx(1 - report["utilisation"])
    waits = report["waits"]
    assert waits[LOST_CAUSES[0]] == pytest.approx(1 - report["utilisation"])
    assert waits["input"] == waits["outputs"] == 0
    assert report["bound"] == pytest.approx(1)  # all lanes have the same to do
    json.dumps(report)


def test_core_that_differs_is_named_and_stopped(agent, network, trace):
    cores = {8: Core(network, 8, wrong_at=2), 16: Core(network, 16)}
    found = check(agent, network, trace, cores)
    name = network.layers[2].name
    assert found[8].difference.startswith(f"step 2: layer {name}, events: expected ")
    assert found[8].to_json()["checked"] is False
    assert cores[8].steps == 3
    assert found[16].difference is None
    assert cores[16].steps == STEPS


def test_core_that_differs_at_once_has_no_figures(agent, network, trace):
    found = check(agent, network, trace, {8: Core(network, 8, wrong_at=0)})
    report = found[8].to_json()
    assert report["utilisation"] is None
    assert summary([report], 8) == {"geometric_mean": None, "worst": None}


def test_wrong_predictions_are_counted(agent, network, trace):
    found = check(agent, network, trace, {8: Core(network, 8)}, right=False)
    report = found[8].to_json()
    assert (report["checked"], report["mispredicted"]) == (True, STEPS)


def test_accumulators_are_compared_at_the_end(agent, network, trace):
    found = check(agent, network, trace, {8: Core(network, 8, drift=1)})
    first = network.layers[0].name
    assert f"step {STEPS - 1}: layer {first}, neuron (0, 0, 0)" in found[8].difference


def test_summary():
    results = [{"lanes": 8, "utilisation": u} for u in (0.5, 0.9, 0.6)]
    results.append({"lanes": 16, "utilisation": 0.1})
    assert summary(results, 8) == {
        "geometric_mean": pytest.approx(math.cbrt(0.5 * 0.9 * 0.6)),
        "worst": 0.5,
    }


def test_trace_is_played_once(network, tmp_path, monkeypatch):
    arguments = {"steps": 4, "folder": tmp_path / "traces"}
    first = load_trace("pong", network, seed=0, **arguments)
    assert first.frames.shape == (4, 84, 84)
    assert first.starts.tolist() == [True, False, False, False]
    other = load_trace("pong", network, seed=1, **arguments)
    assert len(list((tmp_path / "traces").iterdir())) == 2
    assert not np.array_equal(first.frames, other.frames)

    monkeypatch.setattr(bench, "record_trace", None)
    again = load_trace("pong", network, seed=0, **arguments)
    np.testing.assert_array_equal(again.frames, first.frames)
    np.testing.assert_array_equal(again.starts, first.starts)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a file", b"\x93NUMPY"])
def test_half_a_trace_is_played_again(network, tmp_path, content):
    first = load_trace("pong", network, steps=3, seed=0, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)
    again = load_trace("pong", network, steps=3, seed=0, folder=tmp_path)
    np.testing.assert_array_equal(again.frames, first.frames)


def test_contenders_take_turns_and_start_over_with_episodes(monkeypatch):
    monkeypatch.setattr(bench, "TURN", 2)
    monkeypatch.setattr(bench, "WARM_UP", 1)
    clock = iter(range(1000))
    monkeypatch.setattr(bench, "process_time", lambda: next(clock))
    starts = np.array([True, False, False, True, False, False])
    log = []
    speeds = measure_speeds(
        {"a": lambda t: log.append(f"a{t}"), "b": lambda t: log.append(f"b{t}")},
        lambda: log.append("reset"),
        Trace(np.zeros((6, 1, 1), np.uint8), starts),
    )
    assert log[:4] == ["reset", "a0", "b0", "reset"]
    turns = "a0 a1 b0 b1 a2 b2 reset a3 a4 b3 b4 a5 b5".split()
    assert log[4:] == turns
    # Four turns of one tick each, in which one decision counts: the first of two does not.
    assert speeds == {"a": 1, "b": 1}
    monkeypatch.setattr(bench, "TURN", 3)
    speeds = measure_speeds({"a": lambda t: None}, lambda: None, Trace(np.zeros((6, 1, 1)), starts))
    assert speeds == {"a": 2}  # two of three in a tick


def report(**changes):
    """A report of two games on two builds."""
    layers = [
        {
            "name": name,
            "dense": 1000,
            "significant": 10.0,
            "fraction": 0.01,
            "events": 5.0,
            "cycles": 2.0,
        }
        for name in ("conv1", "out")
    ]
    results = [
        {
            "game": game,
            "percent": "20",
            "agent": "random:0.2:0",
            "lanes": lanes,
            "fraction": 0.01,
            "cycles": {"mean": 1234.4, "p99": 23456, "worst": 34567, "cold_start": 45678.0},
            "utilisation": 0.625,
            "realised_speedup": 62.5,
            "checked": True,
            "difference": None,
            "mispredicted": 0,
            "bound": 0.75,
            "lost": {LOST_CAUSES[0]: 0.25, LOST_CAUSES[-1]: 0.125},
            "waits": {"input": 0.03, "no event": 0.2, "fifo full": 0.0, "outputs": 0.145},
            "frame_bytes": {"whole": 7056, "sent": 43.2},
            "layers": layers,
        }
        | changes
        for game in ("breakout", "space_invaders")
        for lanes in (16, 32)
    ]
    return {
        "version": "9.9",
        "steps": 500,
        "seed": 0,
        "threshold": 0.01,
        "results": results,
        "seconds": 150.0,
        "utilisation": {"20": {str(lanes): summary(results, lanes) for lanes in (16, 32)}},
        "energy": {
            "game": "space_invaders",
            "builds": [
                {
                    "lanes": 16,
                    "layers": [
                        {
                            "name": name,
                            "sparse": {"arithmetic": 1000.0, "weights": 3000.0},
                            "dense": {"arithmetic": 40000.0, "weights": 60000.0},
                        }
                        for name in ("conv1", "out")
                    ],
                    "sparse": 8000.0,
                    "dense": 200000.0,
                }
            ],
        },
        "speeds": {
            "game": "breakout",
            "percent": "20",
            "lanes": 16,
            "decisions_per_second": {
                "sim": 60.0,
                "golden": 6000.0,
                "float": 3000.0,
                "dense": {"PyTorch 2.0, dense float32": 500.0, "ONNX Runtime 1, int8": 1000.0},
            },
            "predicted": {"16": {"sim": 100.0, "model": 5250.0}},
            "modelled_hz": 100_000_000,
            "modelled": {"16": 20000.0, "32": 40000.0},
        },
    }


def line(text, *words):
    """The cells of the one line that begins with these words."""
    (found,) = (x.split() for x in text.splitlines() if x.split()[: len(words)] == [*words])
    return found[len(words) :]


def test_report_text():
    text = report_text(report())
    assert max(map(len, text.splitlines())) <= WIDTH
    lines = text.splitlines()
    assert all(x == x.rstrip() for x in lines)
    main = [x.split() for x in lines if x.strip().startswith("32  ")]
    cells = "0.0100 1,234 23,456 34,567 45,678 0.625 62.5 yes".split()
    assert ["32", "space_invaders", "20%", *cells] in main
    assert ["32", "geometric", "mean", "20%", "0.625"] in main
    lost = ["3.0", "20.0", "0.0", "14.5"]
    assert ["32", "space_invaders", "20%", *lost, "0.625", "0.750"] in main
    assert ["conv1", *"5 10 2 1 2 0".split()] in [x.split() for x in lines]
    assert ["conv1", *"1.0 3.0 4.0 100.0 25.0".split()] in [x.split() for x in lines]
    latency = "12.3 234.6 345.7 7,056 43 70.56 0.43".split()
    assert ["32", "space_invaders", "20%", *latency] in main
    assert line(text, "golden:")[-2:] == ["6,000", "6.00"]
    assert line(text, "ONNX", "Runtime", "1,", "int8") == ["1,000", "1.00"]
    assert (
        line(text, "modelled,", "not", "measured:", "32") == "lanes at 100 MHz 40,000 40.00".split()
    )
    assert ["all", *"2.0 6.0 8.0 200.0 25.0".split()] in [x.split() for x in lines]
    assert line(text, "16", "100") == "5,250 52.5".split()
    assert "Exact: 2,000 frames equal the golden model" in text
    assert "The cycle model predicts the cycles of all 2,000 frames" in text
    assert "NOT" not in text
    assert "Measured in 2 minutes" in text


def test_report_text_of_a_core_that_differs():
    text = report_text(report(checked=False, difference="step 3: layer out"))
    assert "NOT EXACT: space_invaders, 32 lanes: step 3: layer out" in text
    assert "Exact:" not in text


def test_report_text_of_wrong_predictions():
    text = report_text(report(mispredicted=3))
    assert "NOT PREDICTED by the cycle model: 12 of 2,000 frames" in text


def test_report_text_without_other_runtimes_and_without_figures():
    empty = report(utilisation=None, realised_speedup=None, fraction=None)
    empty["speeds"]["decisions_per_second"]["dense"] = {}
    text = report_text(empty)
    assert "PyTorch: not installed (pip install 'reticent[import]')" in text
    assert "ONNX Runtime: not installed (pip install 'reticent[compare]')" in text
    assert line(text, "sim:")[-2:] == ["60", "-"]


SMALL = "--games breakout --lanes 4 --steps 3 --percent 20".split()


@pytest.fixture
def made_up_cores(monkeypatch, tmp_path):
    """`reticent bench` on made-up cores, in its own folder."""
    monkeypatch.setenv("RETICENT_BUILD", str(tmp_path))
    networks = {}

    def compile_network(network, config, trace):
        networks[config.lanes] = network
        return config

    monkeypatch.setattr(bench, "compile_network", compile_network)
    monkeypatch.setattr(
        bench, "image_backend", lambda name, config: Core(networks[config.lanes], config.lanes)
    )
    monkeypatch.setattr(
        bench, "CycleModel", lambda config: Prediction(networks[config.lanes], config.lanes)
    )
    monkeypatch.setattr("reticent_sim.build.library", lambda config: None)
    return networks


def test_bench_in_small(made_up_cores):
    shown = []
    found = run_bench(
        ["breakout", "pong"], [4, 8], steps=3, seed=1, show=lambda *what: shown.append(what)
    )
    assert [(r["game"], r["lanes"]) for r in found["results"]] == [
        ("breakout", 4),
        ("breakout", 8),
        ("pong", 4),
        ("pong", 8),
    ]
    assert found["results"][0]["agent"].startswith("breakout.npz (")
    assert found["results"][2]["agent"] == "random:0.2:0"
    assert set(found["utilisation"]["20"]) == {"4", "8"}
    speeds = found["speeds"]["decisions_per_second"]
    assert set(speeds) == {"sim", "golden", "float", "dense"}
    assert min(speeds["sim"], speeds["golden"], speeds["float"], *speeds["dense"].values()) > 0
    assert found["speeds"]["modelled"].keys() == {"4", "8"}
    predicted = found["speeds"]["predicted"]
    assert predicted.keys() == {"4", "8"}
    assert min(speed for build in predicted.values() for speed in build.values()) > 0
    # The progress bar ends full.
    assert {total for _, total in shown} == {len(shown)}
    assert report_text(json.loads(json.dumps(found)))


def test_bench_of_both_rounds_goes_on_where_it_was_interrupted(made_up_cores, monkeypatch):
    def bench_both():
        return run_bench(["breakout", "pong"], [4], steps=3, seed=1, percents=["20", "10.7"])

    checked = []

    def check_or_stop(agent, *arguments, **options):
        checked.append(agent.label)
        if len(checked) == 4:
            raise KeyboardInterrupt
        return check_game(agent, *arguments, **options)

    monkeypatch.setattr(bench, "check_game", check_or_stop)
    with pytest.raises(KeyboardInterrupt):
        bench_both()
    found = bench_both()
    assert [(r["percent"], r["game"]) for r in found["results"]] == [
        ("20", "breakout"),
        ("20", "pong"),
        ("10.7", "breakout"),
        ("10.7", "pong"),
    ]
    assert all(result["checked"] and not result["mispredicted"] for result in found["results"])
    assert set(found["utilisation"]) == {"20", "10.7"}
    # What the first run had found was not done again, and is forgotten now.
    assert len(checked) == 5
    assert checked[4] == checked[3] == "random:0.107:0"
    bench_both()
    assert len(checked) == 9


def test_bench_command(made_up_cores, tmp_path, capsys):
    path = tmp_path / "x.json"
    arguments = ["--games", "Breakout", "--lanes", "4", "--steps", "3", "--json", str(path)]
    arguments += ["--percent", "20"]
    assert cli.main(["bench", *arguments]) == 0
    assert "Exact: 3 frames" in capsys.readouterr().out
    assert json.loads(path.read_text())["results"][0]["checked"] is True


def test_bench_command_fails_when_a_core_differs(made_up_cores, monkeypatch, capsys):
    monkeypatch.setattr(
        bench, "image_backend", lambda name, c: Core(made_up_cores[c.lanes], c.lanes, wrong_at=1)
    )
    assert cli.main(["bench", *SMALL]) == 1
    assert "NOT EXACT: breakout, 4 lanes: step 1" in capsys.readouterr().out


def test_bench_command_fails_when_a_prediction_is_wrong(made_up_cores, monkeypatch, capsys):
    monkeypatch.setattr(
        bench, "CycleModel", lambda c: Prediction(made_up_cores[c.lanes], c.lanes, right=False)
    )
    assert cli.main(["bench", *SMALL]) == 1
    assert "NOT PREDICTED by the cycle model: 3 of 3 frames" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "1"], "1 steps: give at least 2"),
        (["--seed", "-1"], "seed is -1"),
        (["--games", "braekout"], "did you mean breakout"),
        (["--lanes", "0"], "lanes is 0"),
        (["--percent", "30"], "percent is '30': give one of 20, 10.7"),
        (["--json", "no/such/folder.json"], "--json no/such/folder.json cannot be written"),
    ],
)
def test_bench_command_refuses(capsys, arguments, message):
    assert cli.main(["bench", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err
    assert output.err.count("\n") == 1
