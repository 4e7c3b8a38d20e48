"""Agent files: what is written comes back, and nothing else is accepted."""

import io
import json
import zipfile

import numpy as np
import pytest

from reticent.agent import Agent, find_agent, load_agent, random_agent, save_agent
from reticent.errors import UserError
from reticent.network import Conv, Dense, Flatten, InputSpec, Network


@pytest.fixture
def agent():
    rng = np.random.default_rng(1)
    network = Network(
        input=InputSpec(height=6, width=5, stack=2, history="repeat"),
        layers=(
            Conv(
                name="conv",
                weight=rng.normal(size=(3, 2, 2, 2)).astype(np.float32),
                bias=rng.normal(size=3).astype(np.float32),
                stride=(2, 1),
                padding=(1, 0),
            ),
            Flatten(),
            Dense(
                name="out",
                weight=rng.normal(size=(2, 48)).astype(np.float32),
                bias=np.zeros(2, np.float32),
                activation="identity",
            ),
        ),
    )
    return Agent(
        name="small.npz",
        game="pong",
        network=network,
        actions=("NOOP", "FIRE"),
        scales=(0.02,),
        calibration=rng.integers(0, 256, (7, 6, 5), np.uint8),
        provenance="made for a test",
        score="none",
    )


@pytest.fixture
def saved(agent, tmp_path):
    path = tmp_path / "small.npz"
    save_agent(agent, path)
    return path


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path, **changes):
    """Save the file again with some members replaced (bytes) or left out (None)."""
    content = members(path) | {f"{name}.npy": data for name, data in changes.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            if data is not None:
                archive.writestr(name, data)


def npy(array, **options):
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def test_round_trip(agent, saved):
    loaded = load_agent(saved)
    assert loaded.network.describe() == agent.network.describe()
    for name, array in agent.network.arrays().items():
        np.testing.assert_array_equal(loaded.network.arrays()[name], array)
    np.testing.assert_array_equal(loaded.calibration, agent.calibration)
    for text in ("name", "game", "actions", "scales", "provenance", "score"):
        assert getattr(loaded, text) == getattr(agent, text)
    assert loaded.label == f"small.npz ({loaded.sha256[:12]})"


def test_same_agent_same_bytes(saved, tmp_path):
    save_agent(load_agent(saved), tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == saved.read_bytes()


def test_quantised_takes_the_scales_of_the_file(saved):
    agent = load_agent(saved)
    network = agent.quantised([0.5, 0.0], multiplier_bits=8)
    assert network.thresholds == (127, 0)
    assert network.layers[0].scale == 0.02
    assert network.layers[0].multiplier.max() < 256
    with pytest.raises(UserError, match="wider accumulators"):
        agent.quantised(0.0, accumulator_bits=12)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"none\.npz cannot be read \(No such file"):
        load_agent(tmp_path / "none.npz")


def test_folder(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        load_agent(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(100)])
def test_not_an_archive(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match="damaged or not an agent"):
        load_agent(tmp_path / "a.npz")


def test_truncated_anywhere(saved):
    content = saved.read_bytes()
    for length in range(0, len(content), 97):
        saved.write_bytes(content[:length])
        with pytest.raises(UserError):
            load_agent(saved)


def test_damaged_anywhere(saved):
    """A changed byte is refused, or it is one that no reader looks at."""
    content = saved.read_bytes()
    arrays = load_agent(saved).network.arrays()
    rng = np.random.default_rng(2)
    for position in rng.integers(0, len(content), 300):
        damaged = bytearray(content)
        damaged[position] ^= int(rng.integers(1, 256))
        saved.write_bytes(damaged)
        try:
            loaded = load_agent(saved)
        except UserError:
            continue
        for name, array in loaded.network.arrays().items():
            np.testing.assert_array_equal(array, arrays[name])


def test_pickles_are_never_loaded(saved):
    rewrite(saved, calibration=npy(np.array([print], object), allow_pickle=True))
    with pytest.raises(UserError, match=r"calibration\.npy has type object"):
        load_agent(saved)


def test_claimed_shape_beyond_the_data(saved):
    data = npy(np.zeros((7, 6, 5), np.uint8)).replace(b"(7, 6, 5)", b"(7777777777, 6, 5)", 1)
    rewrite(saved, calibration=data.replace(b" " * 9, b"", 1))
    with pytest.raises(UserError, match="damaged"):
        load_agent(saved)


def test_archive_that_unpacks_to_gigabytes(saved):
    with (
        zipfile.ZipFile(saved, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("bomb.npy", "w") as member,
    ):
        for _ in range(300):
            member.write(bytes(1 << 20))
    with pytest.raises(UserError, match=r"unpacks to \d+ bytes"):
        load_agent(saved)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("conv.weight", np.zeros((3, 2, 2, 2)), r"conv\.weight\.npy has type float64"),
        ("conv.weight", np.zeros((3, 5, 2, 2), np.float32), "conv: weight has shape"),
        ("conv.weight", np.full((3, 2, 2, 2), np.nan, np.float32), "not finite"),
        ("out.weight", np.zeros((2, 47), np.float32), r"out: weight has shape \(2, 47\)"),
        ("out.weight", np.zeros(96, np.float32), r"weight has shape \(96,\), expected \(out, 48\)"),
        ("calibration", np.zeros((7, 5, 6), np.uint8), r"frame has shape \(5, 6\)"),
        ("calibration", np.zeros((0, 6, 5), np.uint8), "calibration has shape"),
        ("calibration", np.zeros((7, 6, 5), np.int16), "has type int16"),
        ("meta", np.zeros(3, np.uint8), "has type uint8"),
        ("meta", np.array("[]"), "damaged"),
        ("meta", np.array("{"), "damaged"),
    ],
)
def test_wrong_member(saved, name, array, message):
    rewrite(saved, **{name: npy(array)})
    with pytest.raises(UserError, match=message):
        load_agent(saved)


@pytest.mark.parametrize("name", ["meta", "calibration", "conv.weight", "out.bias"])
def test_missing_member(saved, name):
    rewrite(saved, **{name: None})
    with pytest.raises(UserError, match=name):
        load_agent(saved)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "reticent-image", "format 'reticent-image' version 1"),
        ("version", 2, "version 2: this program reads 'reticent-agent' version 1"),
        ("game", 3, "meta has 3 where text belongs"),
        ("actions", ["NOOP"], "1 actions are named, the network has 2"),
        ("actions", ["NOOP", 1], "meta has 1 where text belongs"),
        ("network", {"input": {}}, "network description"),
        ("network", {"input": {"height": 6, "width": 5}, "layers": [{"type": "lstm"}]}, "'lstm'"),
        ("network", [], "network description"),
        ("network", {"input": {"height": 6, "width": 5}, "layers": ["conv"]}, "damaged"),
    ],
)
def test_wrong_meta(saved, key, value, message):
    meta = json.loads(np.load(saved)["meta"].item())
    rewrite(saved, meta=npy(np.array(json.dumps(meta | {key: value}))))
    with pytest.raises(UserError, match=message):
        load_agent(saved)


def test_shipped_breakout_agent():
    agent = find_agent(None, "breakout")
    assert agent.game == "breakout"
    assert agent.actions == ("NOOP", "FIRE", "RIGHT", "LEFT")
    assert agent.calibration.shape == (200, 84, 84)
    assert agent.network.density == pytest.approx(0.2, abs=1e-3)
    assert agent.network.input.history == "zeros"


def test_no_shipped_agent():
    with pytest.raises(UserError, match=r"no agent for pong is shipped .* --agent random"):
        find_agent(None, "pong")


def test_random_agent_is_reproducible_and_pruned():
    agent = random_agent("Freeway", density=0.1, seed=3)
    again = find_agent("random:0.1:3", "freeway")
    assert agent.name == again.name == agent.label == "random:0.1:3"
    assert agent.game == "freeway"
    assert agent.actions == ("NOOP", "UP", "DOWN")
    assert agent.network.density == pytest.approx(0.1, abs=0.01)
    np.testing.assert_array_equal(agent.calibration, again.calibration)
    for name, array in agent.network.arrays().items():
        np.testing.assert_array_equal(again.network.arrays()[name], array)


@pytest.mark.parametrize("wanted", ["random:x", "random:0.2:1.5", "random:0.2:0:0"])
def test_random_agent_asked_for_wrongly(wanted):
    with pytest.raises(UserError, match="give random, random:DENSITY or random:DENSITY:SEED"):
        find_agent(wanted, "breakout")


@pytest.mark.parametrize("wanted", ["random:0", "random:1.5", "random:nan", "random:0.2:-1"])
def test_random_agent_out_of_range(wanted):
    with pytest.raises(UserError, match="of a random agent is"):
        find_agent(wanted, "breakout")
