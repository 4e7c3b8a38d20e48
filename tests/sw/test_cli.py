"""The command line: what it writes, where, and its exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from reticent import cli
from reticent.backends import BACKENDS
from reticent.commands import play as play_command
from reticent.play import Difference

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "agents" / "breakout.npz"


def reticent(*arguments):
    return cli.main([str(argument) for argument in arguments])


def refused(capsys, *arguments):
    """Run what must be refused; returns the one line that says why."""
    assert reticent(*arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("reticent: ")
    assert output.err.count("\n") == 1
    return output.err


def test_play_writes_all_that_was_asked_for(capsys, tmp_path):
    arguments = ["--backend", "golden", "--max-decisions", 12, "--seed", 4, "--check"]
    files = ["--json", tmp_path / "out.json", "--record", tmp_path / "out.gif"]
    assert reticent("play", *arguments, *files) == 0
    output = capsys.readouterr()
    assert "every decision equals the golden model's" in output.out
    assert output.err == ""
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["game"] == "breakout"
    assert report["backend"] == "golden"
    assert report["agent"].startswith("breakout.npz (")
    assert report["lanes"] == 16
    assert report["predicted"] is True
    assert report["cycles"]["mean"] > 0
    assert "breakout on golden, 16 lanes, cycles predicted" in output.out
    assert report["threshold"] == 0.01
    assert report["seed"] == 4
    assert report["episodes"][0]["decisions"] == 12
    assert report["checked"] is True
    with Image.open(tmp_path / "out.gif") as gif:
        assert gif.n_frames == 12


def test_play_random_agent_on_another_game(capsys, tmp_path):
    path = tmp_path / "out.json"
    arguments = ["--game", "SpaceInvaders", "--agent", "random:0.1:2", "--threshold", "0,0,0,0,0"]
    assert (
        reticent("play", *arguments, "--backend", "float", "--max-decisions", 3, "--json", path)
        == 0
    )
    assert "space_invaders on float" in capsys.readouterr().out
    report = json.loads(path.read_text())
    assert report["agent"] == "random:0.1:2"
    assert report["threshold"] == [0, 0, 0, 0, 0]
    assert report["checked"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "fpga", "--port", "/dev/no"], "there is no port /dev/no: plug the board in"),
        (["--port", "/dev/no"], "--port and --baud are for boards: give --backend fpga"),
        (["--backend", "gpu"], "no backend 'gpu'"),
        (["--game", "braekout"], "did you mean breakout"),
        (["--game", "pong"], "no agent for pong is shipped"),
        (["--game", "pong", "--agent", SHIPPED], "pong has NOOP, FIRE, RIGHT, LEFT, RIGHTFIRE"),
        (["--agent", "nothing.npz"], "nothing.npz cannot be read"),
        (["--threshold", "-1"], "threshold -1.0 is not allowed"),
        (["--threshold", "nan"], "threshold nan is not allowed"),
        (["--threshold", "much"], "'much' is not a number"),
        (["--threshold", "0.1,0.2"], "2 thresholds given: this network has 5"),
        (["--lanes", "0"], "lanes is 0"),
        (["--lanes", "four"], "invalid int value"),
        (["--episodes", "0"], "0 episodes to play"),
        (["--max-decisions", "0"], "0 decisions to play"),
        (["--seed", "-1"], "seed is -1"),
        (["--epsilon", "2"], "epsilon is 2.0"),
        (["--sticky", "1"], "sticky-action probability is 1.0"),
        (["--noop-max", "-1"], "give 0 or more"),
        (["--backend", "float", "--check"], "not for float"),
        (["--json", "no/such/folder.json"], "--json no/such/folder.json cannot be written"),
        (["--json", "."], "--json . cannot be written"),
        (["--record", "no/such/folder.gif"], "--record no/such/folder.gif cannot be written"),
        (["--record", "film.mp4"], "ends with .gif"),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_bad_input_is_one_line_and_code_2(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    backend = [] if "--backend" in arguments else ["--backend", "golden"]
    assert message in refused(capsys, "play", *backend, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_no_or_unknown_command(capsys):
    assert "COMMAND" in refused(capsys)
    assert "invalid choice: 'paly'" in refused(capsys, "paly")


def test_refusal_leaves_an_earlier_recording_alone(capsys, tmp_path):
    film = tmp_path / "film.gif"
    film.write_bytes(b"earlier")
    refused(capsys, "play", "--backend", "golden", "--episodes", "0", "--record", film)
    assert film.read_bytes() == b"earlier"


def test_difference_is_code_1(capsys, monkeypatch, tmp_path):
    def find(*arguments, **options):
        raise Difference("episode 1, step 2: layer fc1, events: expected 3, got 4")

    monkeypatch.setattr(play_command, "play_episodes", find)
    arguments = ["--backend", "golden", "--check", "--json", tmp_path / "out.json"]
    assert reticent("play", *arguments) == 1
    output = capsys.readouterr()
    assert output.err == (
        "reticent: difference in episode 1, step 2: layer fc1, events: expected 3, got 4\n"
    )
    assert not (tmp_path / "out.json").exists()


def test_interrupt_shows_the_table_so_far(capsys, monkeypatch):
    whole = play_command.play_episodes

    def interrupted(*arguments, **options):
        whole(*arguments, **options | {"max_decisions": 3})
        raise KeyboardInterrupt

    monkeypatch.setattr(play_command, "play_episodes", interrupted)
    assert reticent("play", "--backend", "golden") == 130
    assert "3 in 1 episode" in capsys.readouterr().out


def test_missing_extra_names_the_remedy(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    assert "pip install 'reticent[play]'" in refused(
        capsys, "play", "--backend", "golden", "--sticky", "0.1"
    )


def test_info(capsys):
    assert reticent("info", SHIPPED) == 0
    text = capsys.readouterr().out
    for part in ("breakout", "NOOP, FIRE, RIGHT, LEFT", "5,425,152", "98,070", "0.187", "sha256"):
        assert part in text


def test_info_of_something_else(capsys):
    assert "damaged or not an agent" in refused(capsys, "info", __file__)


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        reticent("play", "--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in BACKENDS)
    assert "examples:" in text


def run(code, *arguments):
    return subprocess.run(
        [sys.executable, "-W", "error", *code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "100"},
    )


def test_run_agent_is_the_same_command():
    arguments = ["--backend", "golden", "--max-decisions", "5"]
    done = run([ROOT / "sw" / "run_agent.py"], *arguments)
    assert done.returncode == 0
    assert done.stderr == ""  # no banner, no warnings
    assert done.stdout.startswith("breakout on golden, 16 lanes, cycles predicted; agent")


def test_start_up_imports_nothing_heavy():
    heavy = ("torch", "amaranth", "numba", "gymnasium", "ale_py", "cv2", "PIL")
    done = run(["-c", f"import sys, reticent.cli; print([m for m in {heavy} if m in sys.modules])"])
    assert done.stdout == "[]\n"


def test_playing_needs_neither_torch_nor_amaranth():
    code = (
        "import sys; from reticent.cli import main;"
        "main(['play', '--backend', 'golden', '--max-decisions', '2']);"
        "print([m for m in ('torch', 'amaranth') if m in sys.modules])"
    )
    assert run(["-c", code]).stdout.endswith("[]\n")


def test_python_m():
    done = subprocess.run(
        [sys.executable, "-m", "reticent", "info", "nothing.npz"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("reticent: nothing.npz")
