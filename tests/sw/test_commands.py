"""Commands about builds and images: compile, info, verilog, and play with an image."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from reticent import cli
from reticent.agent import find_agent, load_agent
from reticent.backends import golden_model
from reticent.commands import play as play_command
from reticent.config import BuildConfig
from reticent.errors import ToolError
from reticent.image import Image
from reticent.presets import find_preset

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


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """An image of the shipped agent for 4 lanes."""
    path = tmp_path_factory.mktemp("image") / "breakout.image"
    assert reticent("compile", "--lanes", 4, "--set", "queue_depth=512", "-o", path) == 0
    return path


@pytest.fixture(scope="module")
def network():
    return find_agent(None, "breakout").quantised()


def test_compile(compiled, network):
    image = Image.load(compiled)
    assert list(compiled.parent.iterdir()) == [compiled]
    assert image.config == BuildConfig.for_lanes(4, queue_depth=512)
    assert image.network == network.digest
    assert image.thresholds == list(network.thresholds)
    assert image.origin.game == "breakout"
    assert image.origin.agent.startswith("breakout.npz (")
    assert image.origin.actions == ("NOOP", "FIRE", "RIGHT", "LEFT")
    assert image.origin.threshold == 0.01


def test_compile_for_a_board(tmp_path):
    assert reticent("compile", "--board", "ulx3s", "-o", tmp_path / "x.image") == 0
    assert Image.load(tmp_path / "x.image").config == find_preset("ulx3s")[1].config


def test_compile_prints_the_memories(capsys, tmp_path):
    arguments = ["--agent", SHIPPED, "--threshold", "0,0.01,0.02,0.01,1", "--lanes", 32]
    assert reticent("compile", *arguments, "-o", tmp_path / "x.image") == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert "32 lanes" in output.out
    assert "weights of a lane" in output.out
    assert "kbit used" in output.out
    assert "x.image: " in output.out
    image = Image.load(tmp_path / "x.image")
    assert image.origin.threshold == (0, 0.01, 0.02, 0.01, 1)
    assert image.thresholds[0] == 0
    assert image.thresholds[-1] > 10


def test_compile_refuses_with_a_table(capsys, tmp_path):
    arguments = ["--set", "weight_depth=64", "--set", "map_rows=8", "map_columns=4"]
    assert reticent("compile", *arguments, "-o", tmp_path / "x.image") == 2
    output = capsys.readouterr()
    assert output.out == ""
    first, *table = output.err.splitlines()
    assert first.startswith("reticent: the network does not fit this build: raise weight_depth to ")
    assert first.endswith(", map_rows to 20, map_columns to 20")
    assert sum(line.endswith("<-") for line in table) == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: -o/--output"),
        (["-o", "no/such/x.image"], "--output no/such/x.image cannot be written"),
        (["-o", "."], "--output . cannot be written"),
        (["-o", "x", "--game", "braekout"], "did you mean breakout"),
        (["-o", "x", "--game", "pong"], "no agent for pong is shipped"),
        (["-o", "x", "--game", "pong", "--agent", SHIPPED], "plays breakout: leave out --game"),
        (["-o", "x", "--agent", "no.npz"], "no.npz cannot be read"),
        (["-o", "x", "--agent", "random:2"], "density of a random agent is 2.0"),
        (["-o", "x", "--threshold", "-1"], "threshold -1.0 is not allowed"),
        (["-o", "x", "--lanes", "65"], "lanes is 65"),
        (["-o", "x", "--set", "wieght_depth=4"], "did you mean weight_depth?"),
        (["-o", "x", "--set", "colour=4"], "give one of lanes, streams, fifo_depth"),
        (["-o", "x", "--set", "lanes=4"], "give --lanes"),
        (["-o", "x", "--set", "stack"], "for example stack=1024"),
        (["-o", "x", "--set", "stack=many"], "for example stack=1024"),
        (["-o", "x", "--set", "stack=9"], "stack is 9: give a whole number from 1 to 8"),
        (["-o", "x", "--board", "arti"], "no board is called 'arti': give one of arty"),
        (["-o", "x", "--board", "arty", "--lanes", "2"], "--board arty is a build of its own"),
    ],
)
def test_compile_refuses(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, "compile", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_info_of_an_image(capsys, compiled):
    assert reticent("info", compiled) == 0
    text = capsys.readouterr().out
    config = BuildConfig.for_lanes(4, queue_depth=512)
    for part in (
        "breakout.image",
        "NOOP, FIRE, RIGHT, LEFT",
        f"{config.hash:08x}: 4 lanes",
        "queue_depth 512",
        "5,425,152",
        "weights of a lane",
        "version",
        "sha256",
    ):
        assert part in text
    assert max(map(len, text.splitlines())) <= 80


def test_info_of_damaged_images(capsys, compiled, tmp_path):
    path = tmp_path / "x.image"
    path.write_bytes(compiled.read_bytes()[:-1])
    assert "its checksum is wrong" in refused(capsys, "info", path)
    assert "cannot be read (No such file" in refused(capsys, "info", tmp_path / "no.image")
    assert "cannot be read (Is a directory)" in refused(capsys, "info", tmp_path)


def test_verilog(capsys, tmp_path):
    small = ["weight_depth=64", "pointer_depth=64", "queue_depth=16", "frame_depth=64"]
    assert reticent("verilog", "--lanes", 1, "--set", *small, "-o", tmp_path / "new" / "core") == 0
    output = capsys.readouterr()
    text, facts = sorted((tmp_path / "new" / "core").iterdir(), reverse=True)
    assert str(text) in output.out
    assert "module reticent_core(" in text.read_text()
    assert json.loads(facts.read_text())["config"]["queue_depth"] == 16


def test_verilog_refuses(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written (File exists)" in refused(
        capsys, "verilog", "--lanes", 1, "-o", tmp_path / "file"
    )
    assert "lanes is 0" in refused(capsys, "verilog", "--lanes", 0, "-o", tmp_path / "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.fixture
def golden_hardware(monkeypatch, network):
    """`play --image` with the golden model as hardware; returns the images that it was given."""
    images = []

    def image_backend(name, image, board=None):
        assert name == "sim"
        images.append(image)
        backend = golden_model(network.with_counts(image.thresholds))
        backend.name = name
        return backend

    monkeypatch.setattr(play_command, "image_backend", image_backend)
    return images


def test_play_an_image(capsys, compiled, golden_hardware, tmp_path):
    files = ["--json", tmp_path / "x.json", "--record", tmp_path / "x.gif"]
    arguments = ["--image", compiled, "--max-decisions", 8, "--check", *files]
    assert reticent("play", *arguments) == 0
    assert "every decision equals the golden model's" in capsys.readouterr().out
    report = json.loads((tmp_path / "x.json").read_text())
    assert report["backend"] == "sim"
    assert report["lanes"] == 4
    assert report["threshold"] == 0.01
    assert report["agent"].startswith("breakout.npz (")
    assert (tmp_path / "x.gif").exists()
    assert golden_hardware[0].to_bytes() == compiled.read_bytes()


def test_play_an_image_with_another_threshold(compiled, golden_hardware, network, tmp_path):
    path = tmp_path / "x.json"
    arguments = ["--image", compiled, "--max-decisions", 8, "--check", "--lanes", 4]
    build = ["--set", "queue_depth=512"]
    assert reticent("play", *arguments, *build, "--threshold", "0.05", "--json", path) == 0
    assert json.loads(path.read_text())["threshold"] == 0.05
    assert golden_hardware[0].thresholds == list(network.with_thresholds(0.05).thresholds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lanes", "16"], "for build .* with 4 lanes, asked for is .* with 16: compile it"),
        (["--set", "stack=2"], "for build .* asked for is"),
        (["--lanes", "4"], "leave out --config, --lanes and --set"),
        (["--game", "pong"], r"has the actions NOOP, .* \(of breakout\), pong has NOOP, FIRE"),
        (["--backend", "golden"], "backend golden runs no image: give --backend sim"),
        (["--backend", "fpga", "--port", "/dev/no"], "there is no port /dev/no"),
        (["--agent", "random"], "was compiled from breakout.npz .* agent random:0.2:0 is another"),
        (["--agent", "no.npz"], "no.npz cannot be read"),
        (["--threshold", "-0.1"], "threshold -0.1 is not allowed"),
        (["--threshold", "1,2"], "2 thresholds given: this network has 5"),
    ],
)
def test_play_refuses_an_image(capsys, compiled, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setenv("RETICENT_BUILD", str(tmp_path))
    line = refused(capsys, "play", "--image", compiled, *arguments)
    assert re.search(message, line)
    assert list(tmp_path.iterdir()) == [], "nothing was built"


def test_play_refuses_a_missing_image(capsys):
    assert "cannot read image no.image" in refused(capsys, "play", "--image", "no.image")


def test_play_refuses_an_image_without_origin(capsys, compiled, tmp_path):
    path = tmp_path / "x.image"
    dataclasses.replace(Image.load(compiled), origin=None).save(path)
    assert "names no game" in refused(capsys, "play", "--image", path)


def test_failing_hardware_is_one_line_and_code_1(capsys, compiled, monkeypatch):
    def image_backend(name, image, board=None):
        raise ToolError("co-simulation: the core did not answer")

    monkeypatch.setattr(play_command, "image_backend", image_backend)
    assert reticent("play", "--image", compiled) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "reticent: co-simulation: the core did not answer\n"


def test_failing_tool_is_one_line_and_leaves_its_words(capsys, tmp_path, monkeypatch):
    build = pytest.importorskip("reticent_sim.build")
    monkeypatch.setenv("RETICENT_BUILD", str(tmp_path))
    with pytest.raises(ToolError, match=r"sh exited with 3; what it said is in .*sh\.log"):
        build._run(["sh", "-c", "echo to one; echo to the other >&2; exit 3"], tmp_path)
    assert (tmp_path / "sh.log").read_text() == "to one\nto the other\n"


def test_link_says_what_does_not_fit(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # the recordings go there
    agent = load_agent(SHIPPED.with_name("krull-sparse10.npz"))
    few = dataclasses.replace(agent, calibration=agent.calibration[:8])  # soon compiled
    monkeypatch.setattr("reticent.link.economy.bench_agent", lambda *_: few)
    assert cli.main(["link", "--games", "krull", "--steps", "4", "--baud", "1000000"]) == 0
    out = capsys.readouterr().out
    assert "krull *   7,056" in out
    assert "* does not fit ulx3s" in out
