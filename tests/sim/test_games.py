"""Real frames on the co-simulated core: exact against the golden model and a dense evaluation."""

import numpy as np
import pytest

from reticent import cli
from reticent.bench import GAMES, Trace, bench_agent, check_game, load_trace
from reticent.compiler import compile_network
from reticent.config import BuildConfig
from reticent.cycles import CycleModel
from reticent.errors import UserError
from reticent.golden import dense_reference
from reticent.image import Image
from reticent_sim.backend import sim_backend

CONFIG = BuildConfig.for_lanes(16)


@pytest.fixture(scope="module")
def agent():
    return bench_agent("breakout")


@pytest.fixture(scope="module")
def image(agent):
    return compile_network(agent.quantised(), CONFIG, agent.calibration)


def compare(agent, image, trace):
    """Run a trace; every frame must be exact and predicted."""
    device = sim_backend(CONFIG, image)
    result = check_game(
        agent, agent.quantised(), trace, {CONFIG.lanes: device}, {CONFIG.lanes: CycleModel(image)}
    )[CONFIG.lanes].to_json()
    device.close()
    assert result["difference"] is None
    assert result["mispredicted"] == 0
    # Every lane-cycle is accounted for.
    assert result["utilisation"] + sum(result["lost"].values()) == pytest.approx(1)
    return result


def test_breakout_with_an_episode_that_ends(agent, image):
    starts = np.zeros(40, np.bool_)
    starts[[0, 30]] = True
    result = compare(agent, image, Trace(agent.calibration[:40], starts))
    assert result["utilisation"] > 0.75


def test_without_thresholds_it_is_the_dense_network(agent, image):
    """T = 0 sends every change: the outputs equal a dense int8 evaluation, frame by frame."""
    network = agent.quantised().with_thresholds(0.0)
    frames = list(agent.calibration[100:124])
    device = sim_backend(CONFIG, image)
    device.set_thresholds(network.thresholds)
    for step, expected in enumerate(dense_reference(network, frames)):
        found = device.step(frames[step]).outputs
        np.testing.assert_array_equal(found, expected, f"step {step}")
    device.close()


def test_image_from_a_file_plays_the_same(agent, image, tmp_path):
    image.save(tmp_path / "x.image")
    devices = [sim_backend(CONFIG, i) for i in (image, Image.load(tmp_path / "x.image"))]
    for frame in agent.calibration[:6]:
        first, second = (device.step(frame) for device in devices)
        np.testing.assert_array_equal(first.outputs, second.outputs)
        assert first.cycles == second.cycles
    for device in devices:
        device.close()


def test_device_of_another_build_is_refused(agent):
    other = compile_network(agent.quantised(), CONFIG.replace(queue_depth=1024))
    with pytest.raises(UserError, match=r"the image is for build .* compile the image for this"):
        sim_backend(CONFIG, other)


def test_command_line_compiles_plays_and_checks(tmp_path, capsys):
    path = str(tmp_path / "breakout.image")
    assert cli.main(["compile", "-o", path]) == 0
    assert cli.main(["play", "--image", path, "--check", "--max-decisions", "12"]) == 0
    output = capsys.readouterr().out
    assert "every decision equals the golden model's, to the bit" in output
    assert "breakout on sim, 16 lanes" in output


@pytest.mark.slow
@pytest.mark.parametrize("game", GAMES)
def test_500_frames(game, tmp_path):
    agent = bench_agent(game)
    network = agent.quantised()
    trace = load_trace(game, network, steps=500, seed=0, folder=tmp_path)
    compare(agent, compile_network(network, CONFIG, agent.calibration), trace)
