"""Jobs, the study's report, shipping, and the command lines of training."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="needs the `train` extra")

from reticent.agent import load_agent, random_agent, save_agent  # noqa: E402
from reticent.errors import ToolError, UserError  # noqa: E402
from reticent.network import reference_network  # noqa: E402
from reticent.training import commands, jobs, measuring, shipping, speed, study  # noqa: E402
from reticent.training.files import save_tensors  # noqa: E402
from reticent.training.qnetwork import from_arrays  # noqa: E402

LAYERS = range(5)


def flaky(place, failures, how):
    """A job that fails so many times, then returns how often it ran."""
    calls = Path(place) / "calls"
    calls.parent.mkdir(parents=True, exist_ok=True)
    with calls.open("a") as file:
        file.write("x")
    ran = len(calls.read_text())
    if ran <= failures:
        if how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        raise UserError("bad input") if how == "user" else RuntimeError("bad luck")
    return {"ran": ran}


def make_jobs(folder, *plans):
    return [
        jobs.Job(f"job{k}", folder / f"job{k}", flaky, (str(folder / f"job{k}"), *plan))
        for k, plan in enumerate(plans)
    ]


def engines():
    return ["local", pytest.param("ray", marks=pytest.mark.filterwarnings("ignore"))]


@pytest.mark.parametrize("engine", engines())
def test_jobs_are_tried_again_and_done_once(tmp_path, engine, monkeypatch):
    if engine == "ray":
        pytest.importorskip("ray", reason="needs the `ray` extra")
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where `flaky` is
    wanted = make_jobs(tmp_path, (0, "raises"), (2, "raises"), (0, "raises"), (9, "user"))
    said = []
    with pytest.raises(ToolError, match="1 of 4 jobs failed, first job3: bad input"):
        jobs.run_jobs(wanted, engine=engine, workers=2, show=said.append)
    assert [job.finished for job in wanted] == [True, True, True, False]
    assert [job.result()["ran"] for job in wanted[:3]] == [1, 3, 1]
    assert (tmp_path / "job3" / "calls").read_text() == "x"  # bad input is not tried again
    assert "job1: tried again after bad luck" in said
    jobs.run_jobs(wanted[:3], engine=engine, workers=2)
    assert (tmp_path / "job0" / "calls").read_text() == "x"


def test_a_killed_worker_costs_only_its_own_job(tmp_path):
    wanted = make_jobs(tmp_path, (1, "dies"), (0, "raises"))
    jobs.run_jobs(wanted, workers=1)
    assert [job.result()["ran"] for job in wanted] == [2, 1]


def test_a_job_that_keeps_failing_is_named(tmp_path):
    wanted = make_jobs(tmp_path, (9, "raises"), (0, "raises"))
    with pytest.raises(ToolError, match=r"first job0: bad luck\. What finished is kept"):
        jobs.run_jobs(wanted, attempts=2)
    assert wanted[1].finished
    assert (tmp_path / "job0" / "calls").read_text() == "xx"


ENDLESS = """
import os, signal, sys, time
from pathlib import Path
from reticent.training.jobs import Job, run_jobs

def endless(place):
    wanted = []
    signal.signal(signal.SIGTERM, lambda *_: wanted.append(1))
    (Path(place) / f"pid-{os.getpid()}").touch()
    while not wanted:
        time.sleep(0.05)
    time.sleep(0.3)
    (Path(place) / f"kept-{os.getpid()}").touch()

if __name__ == "__main__":
    # What starts in the background of a shell ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    place = Path(sys.argv[1])
    run_jobs([Job(k, place / k, endless, (str(place),)) for k in "ab"], workers=2)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_process_that_gave_out_the_jobs(tmp_path, how):
    """However that ends; and each may end its job in good order."""
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)

    def seen(what):
        return {int(p.name.split("-")[1]) for p in tmp_path.glob(f"{what}-*")}

    def wait_for(condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], stderr=subprocess.PIPE, text=True
    ) as giver:
        try:
            wait_for(lambda: len(seen("pid")) == 2)
            giver.send_signal(how)
            _, errors = giver.communicate(timeout=60)
        finally:
            giver.kill()
    if how == signal.SIGKILL:
        assert giver.returncode == -signal.SIGKILL
        wait_for(lambda: len(seen("kept")) == 2)
    else:  # it waited for them
        assert errors.splitlines()[-1] == "KeyboardInterrupt"
    assert seen("kept") == seen("pid")
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in seen("pid")))
    assert not list(tmp_path.glob("*/done.json"))


def test_bad_choices_of_jobs_are_refused(tmp_path):
    with pytest.raises(UserError, match="no engine 'slurm': give local or ray"):
        jobs.run_jobs(make_jobs(tmp_path, (0, "raises")), engine="slurm")
    with pytest.raises(UserError, match="0 workers"):
        jobs.run_jobs(make_jobs(tmp_path, (0, "raises")), workers=0)


@pytest.fixture(scope="module")
def agent_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("agents") / "random.npz"
    save_agent(random_agent("breakout", 0.2, 0), path)
    return path


def test_a_study_of_an_agent_makes_its_report(tmp_path, agent_file, capsys):
    arguments = [
        str(agent_file),
        "--output",
        str(tmp_path),
        "--episodes",
        "1",
        "--sweep",
        "breakout",
    ]
    assert commands.study(arguments) == 0
    printed = capsys.readouterr()
    assert printed.err.count(": done") == 7
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["variant"], float(row["threshold"])) for row in rows} == {
        ("float dense", 0.0),
        ("int8 dense", 0.0),
        ("int8 delta", 0.01),
        *(("float delta", threshold) for threshold in study.SWEEP),
    }
    for row in rows:
        assert float(row["low"]) <= float(row["score"]) <= float(row["high"])
        dense, significant = (
            sum(float(row[f"{what}_{i}"]) for i in LAYERS) for what in ("dense", "significant")
        )
        assert dense == 5_425_152
        assert float(row["fraction"]) == pytest.approx(significant / dense)
    swept = {float(r["threshold"]): float(r["fraction"]) for r in rows if "delta" in r["variant"]}
    assert swept[0.001] > swept[0.05]
    page = (tmp_path / "report.html").read_text()
    for text in ("3,276,800", "1,327,104", "294,912", "524,288", "512 n", "small-scale study"):
        assert text in page
    saved = 1 / swept[0.01]
    for text in ("Breakout, agent random", f"{saved:.1f}", "0.018 to 0.009", "56 to 111"):
        assert f"<td>{text}</td>" in page
    assert page.count("data:image/svg+xml;base64") == 3
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} == {
        ".csv",
        ".html",
        ".png",
        ".svg",
    }
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "measurements").glob("*/*")}
    assert commands.study(arguments) == 0  # nothing is measured twice
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "measurements").glob("*/*")}
    assert "done" not in capsys.readouterr().err


def test_subjects_of_runs_and_lotteries(tmp_path):
    settings = {"game": "breakout", "seed": 3, "frames": 1000, "density": [[0.5, 1.0], [1.0, 0.2]]}
    network = from_arrays(reference_network(4).arrays())
    run, lottery, empty = (tmp_path / name for name in ("run", "lottery", "empty"))
    for name in ("density-1.000", "density-0.200", "final"):
        (run / "snapshots").mkdir(parents=True, exist_ok=True)
        save_tensors(run / "snapshots" / f"{name}.safetensors", network)
    (run / "run.json").write_text(json.dumps({"settings": settings}))
    for number in (0, 1):
        place = lottery / f"round-{number:02}" / "snapshots"
        place.mkdir(parents=True)
        save_tensors(place / "final.safetensors", network)
    facts = {"settings": settings | {"density": []}, "rounds": 2}
    (lottery / "lottery.json").write_text(json.dumps(facts))
    found = study.find_subjects([run, lottery])
    assert [(s.method, s.round, s.frames, s.path.stem) for s in found] == [
        ("gradual", 0, 500, "density-1.000"),
        ("gradual", 1, 1000, "density-0.200"),
        ("lottery", 0, 1000, "final"),
        ("lottery", 1, 1000, "final"),
    ]
    assert len({subject.label for subject in found}) == 4
    empty.mkdir()
    with pytest.raises(UserError, match="is no run, lottery or agent file"):
        study.find_subjects([empty])
    (run / "run.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        study.find_subjects([run])


def test_shipping_writes_agent_record_and_table(tmp_path, capsys):
    weights = tmp_path / "final.safetensors"
    save_tensors(weights, from_arrays(reference_network(4, seed=1, density=0.3).arrays()))
    arguments = [
        str(weights),
        "--game",
        "Breakout",
        "--suffix",
        "small",
        "--folder",
        str(tmp_path),
        "--episodes",
        "2",
        "--frames",
        "200",
        "--provenance",
        "not at all",
        "--trained",
        "1e6",
        "--output",
        str(tmp_path / "study"),
    ]
    assert commands.ship(arguments) == 0
    assert "float delta" in capsys.readouterr().out
    agent = load_agent(tmp_path / "breakout-small.npz")
    assert agent.game == "breakout"
    assert agent.provenance == "not at all"
    assert "int8 delta" in agent.score
    kept = reference_network(4, seed=1, density=0.3).arrays()
    for name, array in agent.network.arrays().items():
        np.testing.assert_allclose(array, kept[name], rtol=2.0**-15)
        np.testing.assert_array_equal(array == 0, kept[name] == 0)
    record = json.loads((tmp_path / "agents.json").read_text())["breakout-small.npz"]
    assert record["sha256"] == agent.sha256
    assert set(record["measured"]) == set(shipping.DEFAULT_VARIANTS)
    assert 0 <= record["agreement"]["all"] <= 1
    table = (tmp_path / "README.md").read_text()
    assert f"| breakout-small.npz | 1.0 M | {agent.network.density:.3f} |" in table
    assert agent.sha256[:12] in table
    (subject,) = study.find_subjects([tmp_path / "breakout-small.npz"])
    assert subject.frames == 1_000_000  # as the record says
    content = (tmp_path / "breakout-small.npz").read_bytes()
    again = [str(tmp_path / "breakout-small.npz"), *arguments[1:], "--variants", "int8 dense"]
    assert commands.ship(again) == 0  # measured again, not written again
    assert (tmp_path / "breakout-small.npz").read_bytes() == content
    record = json.loads((tmp_path / "agents.json").read_text())["breakout-small.npz"]
    assert set(record["measured"]) == {"int8 dense"}
    # A study of it finds what shipping measured, although the file has its score since.
    (measured,) = (tmp_path / "study" / "measurements").glob("*-int8-dense-*")
    wanted = study.jobs_for([subject], measured.parent, episodes=2, seed=1_000_000)
    assert [job.finished for *_, job in wanted] == [True, True, True, True]
    capsys.readouterr()
    assert commands.ship([*arguments, "--variants", "int4"]) == 2
    assert "no arithmetic 'int4'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (commands.train, ["--game", "brekout"], "did you mean breakout"),
        (commands.train, ["--game", "pong", "--algorithm", "ppo"], "invalid choice: 'ppo'"),
        (commands.train, ["--game", "pong", "--set", "gamma"], "give NAME=VALUE"),
        (commands.train, ["--game", "pong", "--set", "gama=1"], "did you mean gamma"),
        (commands.train, ["--game", "pong", "--device", "tpu"], "device tpu"),
        (commands.train, ["--game", "pong", "--from", "none.pt"], "no such file"),
        (commands.train, ["--game", "pong", "--preset", "none"], "there is no preset"),
        (
            commands.train,
            ["--game", "pong", "--preset", "fast", "--algorithm", "dqn"],
            "preset fast is for pqn",
        ),
        (commands.lottery, ["--game", "pong", "--rate", "1"], "rate is 1"),
        (commands.lottery, ["--game", "pong", "--rounds", "-1"], "-1 rounds"),
        (commands.study, [], "nothing to study"),
        (commands.study, ["none.npz"], "none.npz cannot be read"),
        (commands.study, ["runs", "--games", "pong"], "give --train"),
    ],
)
def test_bad_command_lines_end_on_one_line(
    command, arguments, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert command(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_training_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = [
        "--game",
        "Breakout",
        "--frames",
        "512",
        "--set",
        "environments=4",
        "steps=8",
        "minibatch=32",
        "evaluation=0",
    ]
    assert commands.train(common) == 0
    assert "finished: runs/breakout-pqn-0" in capsys.readouterr().out
    first = "runs/breakout-pqn-0/snapshots/final.safetensors"
    assert commands.train([*common, "--from", first, "--run", "more"]) == 0
    assert "final.safetensors" in json.loads(Path("more/run.json").read_text())["origin"]
    assert commands.lottery([*common, "--rounds", "1"]) == 0
    assert Path("runs/breakout-lottery-0/round-01/checkpoint.pt").exists()
    assert commands.lottery([*common, "--method", "gradual", "--rounds", "2"]) == 0
    assert Path("runs/breakout-gradual-0/snapshots/density-0.640.safetensors").exists()


def test_speeds_of_ours_and_a_plain_one():
    threads = torch.get_num_threads()
    said = []
    found = speed.compare(
        "breakout",
        decisions=16,
        rounds=1,
        algorithms=("dqn",),
        show=lambda name, done: said.append((name, done)),
    )
    assert said == [(name, place / len(found)) for place, name in enumerate(found)]
    assert set(found) == {"plain, 1 threads", f"plain, {threads} threads", "dqn"}
    for each in found.values():
        assert 0 < each.a_second < 1e6
        assert 0 < each.a_cpu_second < 1e6
    assert torch.get_num_threads() == threads


def test_the_speed_of_an_unknown_game_is_refused(capsys):
    assert speed.main(["brakeout"]) == 2
    assert "did you mean breakout?" in capsys.readouterr().err


@pytest.mark.slow
def test_a_whole_small_study(tmp_path):
    """Trains two games, measures every round, makes the report; a second call does nothing."""
    arguments = [
        "--train",
        "--games",
        "breakout",
        "freeway",
        "--rounds",
        "1",
        "--frames",
        "4096",
        "--episodes",
        "1",
        "--sweep",
        "--workers",
        "2",
        "--output",
        str(tmp_path),
        "--set",
        "evaluation=0",
        "environments=8",
    ]
    assert commands.study(arguments) == 0
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * len(measuring.VARIANTS)
    densities = sorted({round(float(row["density"]), 2) for row in rows})
    assert densities == [0.8, 1.0]
