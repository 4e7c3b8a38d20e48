"""Planning: builds that hold the network, a front that nothing beats, a choice with a reason."""

import json
from dataclasses import replace

import pytest

from reticent import cli
from reticent.agent import random_agent
from reticent.area import Area
from reticent.boards import find_board
from reticent.commands.options import load_build
from reticent.commands.plan import draw_front
from reticent.compiler import compile_network
from reticent.config import BuildConfig
from reticent.cycles import CycleModel
from reticent.engine import Engine
from reticent.errors import UserError
from reticent.plan import Candidate, Explorer, Shape, choose, pareto, shapes

BOARD = find_board("ulx3s")
MHZ = 1e6


def candidate(cycles, luts, blocks=10, *, lanes=4, p99=None, lacks=()):
    return Candidate(
        config=BuildConfig(lanes=lanes),
        area=Area(rams={"weights": blocks}, luts=luts, multipliers=lanes),
        cycles=cycles,
        p99=p99 or 2 * cycles,
        worst=3 * cycles,
        utilisation=0.5,
        lacks=lacks,
    )


SLOW, MIDDLE, FAST = candidate(900, 100), candidate(400, 200), candidate(100, 400)
HUGE = candidate(50, 99999, lacks=("99,999 of 83,640 LUTs",))
BEATEN = candidate(450, 300)
ALL = [HUGE, FAST, BEATEN, SLOW, MIDDLE]


def test_the_front_is_what_no_other_one_beats():
    assert pareto(ALL) == [HUGE, FAST, MIDDLE, SLOW]
    assert pareto([SLOW, replace(SLOW, worst=1)]) == [SLOW]


def test_without_a_goal_the_fastest_that_fits_is_chosen():
    choice = choose(ALL, BOARD, MHZ)
    assert choice.candidate == FAST
    assert choice.reason == "the fastest of the 4 builds that fit ulx3s"


def test_within_some_luts_the_fastest_is_chosen():
    choice = choose(ALL, BOARD, MHZ, max_luts=300)
    assert choice.candidate == MIDDLE
    assert "with at most 300 LUTs" in choice.reason


def test_for_a_rate_the_smallest_is_chosen_by_99_of_100_frames():
    # The mean of the slow one would do, its 99th percentile would not.
    assert choose(ALL, BOARD, MHZ, target_fps=1000).candidate == MIDDLE
    assert choose(ALL, BOARD, MHZ, target_fps=500).candidate == SLOW


@pytest.mark.parametrize(
    ("candidates", "goal", "message"),
    [
        ([HUGE], {}, "no build fits ulx3s: the nearest, with 4 lanes, needs 99,999 of 83,640 LUTs"),
        (ALL, {"max_luts": 50}, "the smallest build takes about 100 LUTs"),
        (ALL, {"target_fps": 6000}, "the fastest build that fits ulx3s decides 5,000 times"),
    ],
)
def test_what_cannot_be_met_is_refused(candidates, goal, message):
    with pytest.raises(UserError, match=message):
        choose(candidates, BOARD, MHZ, **goal)


def test_streams_that_do_not_divide_the_lanes_are_left_out():
    pairs = [(2, 1), (2, 2), (4, 1), (4, 2), (4, 4)]
    assert shapes([4, 2], [1, 2, 4], [2, 1]) == [(n, s, r) for n, s in pairs for r in (1, 2)]
    with pytest.raises(UserError, match="streams that divide"):
        shapes([3], [2], [1])


@pytest.fixture(scope="module")
def agent():
    return random_agent("pong", 0.02)


def test_a_finished_candidate_holds_the_network_and_predicts_it(agent):
    explorer = Explorer(agent, BOARD, thresholds=0.01, steps=12, seed=0)
    small, large = explorer.explore([Shape(4, 1, 1), Shape(8, 1, 2)], [16])
    assert (small.config.lanes, large.config.lanes) == (4, 8)
    assert small.cycles > large.cycles
    assert 0 < large.utilisation < small.utilisation <= 1
    assert not small.lacks
    found = explorer.finish(small)
    network = agent.quantised()
    image = compile_network(network, found.config, list(agent.calibration))
    engine, model = Engine(network), CycleModel(image)
    totals = []
    for _, frame, _ in explorer._trace:
        engine.step(frame)
        totals.append(model.step(frame, engine.fired).total)
    assert found.cycles == pytest.approx(sum(totals[1:]) / 11)
    assert found.worst == max(totals[1:])


def test_plan_command_writes_a_build_that_compiles(tmp_path, capsys):
    build, report = tmp_path / "build.json", tmp_path / "all.json"
    agent = ["--agent", "random:0.02:0", "--game", "pong"]
    shape = ["--lanes", "4", "--streams", "1", "--requantisers", "2"]
    grid = [*shape, "--fifo", "16", "--steps", "8"]
    files = ["-o", str(build), "--json", str(report)]
    assert cli.main(["plan", *agent, "--board", "ulx3s", *grid, *files]) == 0
    text = capsys.readouterr().out
    assert "Chosen: 4 lanes, 1 stream(s), 2 requantiser(s) a lane, FIFO 16: the fastest" in text
    found = json.loads(report.read_text())
    assert found["chosen"]["config"] == load_build(build).to_dict()
    image = tmp_path / "x.image"
    assert cli.main(["compile", *agent, "-o", str(image), "--config", str(build)]) == 0
    assert image.exists()


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_front_is_drawn(ending, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"front.{ending}"
    choice = choose(ALL, BOARD, MHZ)
    draw_front(path, ALL, pareto(ALL), choice, BOARD, MHZ)
    begin = {"png": b"\x89PNG", "svg": b"<?xml"}[ending]
    assert path.read_bytes().startswith(begin)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--board", "ulx4s"], "no board is called 'ulx4s'"),
        (["--board", "arty", "--steps", "1"], "1 steps: give at least 2"),
        (["--board", "arty", "--clock", "0"], "--clock 0.0: give a number above 0"),
        (["--board", "arty", "--target-fps", "-1"], "--target-fps -1.0"),
        (["--board", "arty", "--plot", "x.pdf"], "--plot x.pdf: name a .png or an .svg"),
        (["--board", "arty", "-o", "no/such/file"], "--output no/such/file cannot be written"),
        (["--board", "arty", "--max-lut", "9", "--target-fps", "9"], "not allowed with"),
    ],
)
def test_plan_command_refuses(arguments, message, capsys):
    assert cli.main(["plan", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "is not JSON"),
        ("[1]", "is no JSON object"),
        ('{"lanes": 4}', "unknown or missing"),
        ("[" * 10_000, "is not JSON"),
        (" " * 70_000, "too large"),
    ],
)
def test_damaged_build_configurations_are_refused(text, message, tmp_path):
    path = tmp_path / "build.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_build(path)
    with pytest.raises(UserError, match="cannot be read"):
        load_build(tmp_path / "none.json")


def test_lanes_and_a_build_configuration_contradict_each_other(tmp_path, capsys):
    path = tmp_path / "build.json"
    path.write_text(json.dumps(BuildConfig(lanes=4).to_dict()))
    assert cli.main(["verilog", "--config", str(path), "--lanes", "8", "-o", str(tmp_path)]) == 2
    assert "leave one of them out" in capsys.readouterr().err
