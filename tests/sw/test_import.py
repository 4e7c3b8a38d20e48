"""Importing: state dicts and modules become the same network, or are refused by name."""

import json

import numpy as np
import pytest

from reticent.agent import load_agent
from reticent.cli import main
from reticent.errors import UserError
from reticent.floatnet import dense_forward
from reticent.golden import Golden
from reticent.importer import (
    from_module,
    from_tensors,
    load_shape,
    load_tensors,
    preset_shape,
)
from reticent.network import InputSpec, reference_network
from reticent.random_networks import random_frames, random_network

SPEC = InputSpec(height=12, width=10, stack=2)
SHAPE = {
    "input": {"height": 12, "width": 10, "stack": 2},
    "layers": [
        {"type": "conv", "name": "a", "stride": [2, 2], "activation": "identity"},
        {"type": "batchnorm", "name": "norm", "eps": 0.1, "activation": "relu"},
        {"type": "flatten"},
        {"type": "dense", "name": "q", "activation": "identity"},
    ],
}


@pytest.fixture
def torch():
    found = pytest.importorskip("torch", reason="needs the `import` extra")
    found.manual_seed(1)
    return found


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    shapes = {
        "a.weight": (3, 2, 4, 4),
        "norm.weight": (3,),
        "norm.bias": (3,),
        "norm.running_mean": (3,),
        "norm.running_var": (3,),
        "q.weight": (5, 60),
        "q.bias": (5,),
    }
    found = {name: rng.random(shape).astype(np.float32) for name, shape in shapes.items()}
    return found | {"norm.num_batches_tracked": np.array(7)}


def test_a_state_dict_and_a_shape_make_a_network(tensors):
    network = from_tensors(tensors, SHAPE)
    assert [layer.name for layer in network.linear] == ["a", "q"]
    assert [layer.activation for layer in network.linear] == ["relu", "identity"]
    assert np.array_equal(network.layers[-1].weight, tensors["q.weight"])


def test_batch_norm_is_folded(tensors):
    network = from_tensors(tensors, SHAPE)
    plain = SHAPE | {"layers": [SHAPE["layers"][0], *SHAPE["layers"][2:]]}
    without = from_tensors({k: v for k, v in tensors.items() if "norm" not in k}, plain)
    x = np.random.default_rng(1).random((2, 12, 10), np.float32)
    sums = dense_forward(without, x)[0]
    gamma, beta, mean, variance = (
        tensors[f"norm.{part}"][:, None, None]
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    expected = np.maximum((sums - mean) / np.sqrt(variance + 0.1) * gamma + beta, 0)
    np.testing.assert_allclose(dense_forward(network, x)[0], expected, rtol=1e-4, atol=1e-4)


def test_absent_biases_are_zeros(tensors):
    del tensors["q.bias"], tensors["norm.weight"], tensors["norm.bias"]
    network = from_tensors(tensors, SHAPE)
    assert not network.linear[1].bias.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, s: t.pop("a.weight"), "tensor 'a.weight' is missing: there are norm.bias"),
        (lambda t, s: t.pop("norm.running_var"), "tensor 'norm.running_var' is missing"),
        (lambda t, s: t.update(value=t["q.bias"]), "no layer uses value: add their layers"),
        (
            lambda t, s: t.update({"norm.weight": np.ones(4)}),
            r"norm: a batch norm tensor has shape \(4,\), expected \(3,\) as a gives",
        ),
        (lambda t, s: s["layers"][0].update(activation="relu"), "norm: batch norm after conv"),
        (lambda t, s: s["layers"].insert(0, s["layers"].pop(1)), "batch norm after the input"),
        (lambda t, s: s["layers"].insert(0, {"type": "maxpool"}), "'maxpool' is not supported"),
        (lambda t, s: s.pop("layers"), "description is not complete"),
        (lambda t, s: s.pop("input"), "description is not complete"),
        (lambda t, s: s["layers"].insert(0, {}), "not complete .KeyError: 'type'"),
        (lambda t, s: s["layers"][0].update(dilation=2), "dilation"),
    ],
)
def test_odd_state_dicts_and_shapes_are_refused(tensors, change, message):
    shape = json.loads(json.dumps(SHAPE))
    change(tensors, shape)
    with pytest.raises(UserError, match=message):
        from_tensors(tensors, shape)


def test_the_reference_preset_fits_the_reference_network():
    network = reference_network(6, seed=2)
    again = from_tensors(network.arrays(), preset_shape("reference"))
    assert again.describe() == network.describe()
    with pytest.raises(UserError, match="no preset 'resnet': give reference"):
        preset_shape("resnet")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read .No such file"),
        ("{", "is not JSON"),
        ("[1]", "holds a list: give a JSON object"),
        (b"\xff\xfe\x00", "is not JSON"),
    ],
)
def test_odd_shape_files_are_refused(tmp_path, content, message):
    path = tmp_path / "shape.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        load_shape(path)


def test_shape_files_are_read(tmp_path):
    path = tmp_path / "shape.json"
    path.write_text(json.dumps(SHAPE))
    assert load_shape(path) == SHAPE


@pytest.mark.parametrize("name", ["weights.h5", "missing.safetensors", "missing.pt"])
def test_files_of_other_kinds_and_missing_ones_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"not a known kind|no such file"):
        load_tensors(tmp_path / name)


@pytest.mark.torch
def test_safetensors_and_torch_files_are_read(torch, tmp_path, tensors):
    from safetensors.numpy import save_file

    save_file(tensors, tmp_path / "w.safetensors")
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    state["a.weight"] = state["a.weight"].to(torch.bfloat16)
    torch.save(state, tmp_path / "w.pt")
    for file in ("w.safetensors", "w.pt"):
        found = load_tensors(tmp_path / file)
        assert set(found) == set(tensors)
        for name, array in tensors.items():
            assert found[name].dtype == np.float32
            np.testing.assert_allclose(found[name], array, rtol=1e-2)


class Unpickled:
    """Would be made by a reader that unpickles."""

    def __reduce__(self):
        return pytest.fail, ("the file was unpickled",)


@pytest.mark.torch
def test_files_with_anything_but_tensors_are_refused(torch, tmp_path):
    path = tmp_path / "w.pt"
    for content, message in (
        ({"a": Unpickled()}, "holds more than tensors"),
        (torch.nn.Linear(2, 2), "holds more than tensors .*save model.state_dict"),
        ({"epoch": 3}, "'epoch' is a int and no tensor"),
        ([torch.zeros(2)], "holds a list: save model.state_dict"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "tensor 'a' has type complex64"),
    ):
        torch.save(content, path)
        with pytest.raises(UserError, match=message):
            load_tensors(path)
    for name in ("w.pt", "w.safetensors"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 not a file of that kind")
        with pytest.raises(UserError, match="is damaged"):
            load_tensors(tmp_path / name)


def convolutional(nn):
    return nn.Sequential(
        nn.Sequential(
            nn.Conv2d(2, 6, (3, 4), stride=(1, 2), padding=(1, 2), bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Identity(),
            nn.AvgPool2d(3, stride=2, padding=1),
        ),
        nn.Conv2d(6, 4, 3, padding="same"),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 7),
        nn.BatchNorm1d(7, affine=False),
        nn.ReLU(),
        nn.Linear(7, 3),
    )


def trained(torch, module):
    """Batch norms with statistics that matter."""
    module.train()
    with torch.no_grad():
        for _ in range(3):
            module(torch.randn(16, 2, 12, 10) * 2 + 1)
    return module


@pytest.mark.torch
def test_a_module_becomes_the_same_function(torch):
    module = trained(torch, convolutional(torch.nn))
    network = from_module(module, SPEC)
    assert module.training  # left as it was
    assert [layer.name for layer in network.linear] == ["0.0", "0.4", "1", "3", "6", "9"]
    module.eval()
    for _ in range(5):
        x = torch.rand(1, 2, 12, 10)
        expected = module(x).detach().numpy().reshape(-1)
        got = dense_forward(network, x[0].numpy())[-1].reshape(-1)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.torch
def test_state_dict_and_module_agree(torch, tmp_path):
    module = trained(torch, convolutional(torch.nn))
    network = from_module(module, SPEC)
    torch.save(module.state_dict(), tmp_path / "w.pt")
    shape = {
        "input": {"height": 12, "width": 10, "stack": 2},
        "layers": [
            {"type": "conv", "name": "0.0", "stride": [1, 2], "padding": [1, 2]}
            | {"activation": "identity"},
            {"type": "batchnorm", "name": "0.1", "activation": "relu"},
            {"type": "avgpool", "name": "0.4", "kernel": [3, 3], "stride": [2, 2]}
            | {"padding": [1, 1]},
            {"type": "conv", "name": "1", "padding": [1, 1]},
            {"type": "avgpool", "name": "3", "kernel": [2, 2], "stride": [2, 2]},
            {"type": "flatten"},
            {"type": "dense", "name": "6", "activation": "identity"},
            {"type": "batchnorm", "name": "7", "activation": "relu"},
            {"type": "dense", "name": "9", "activation": "identity"},
        ],
    }
    again = from_tensors(load_tensors(tmp_path / "w.pt"), shape)
    for one, other in zip(network.linear, again.linear, strict=True):
        assert np.array_equal(one.weight, other.weight)
        assert np.array_equal(one.bias, other.bias)


@pytest.mark.torch
def test_modules_that_run_their_layers_in_a_row_are_accepted(torch):
    class Agent(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(240, 3))

        def forward(self, x):
            return self.network(x / 255)

    network = from_module(Agent(), SPEC)
    assert network.linear[0].name == "network.1"
    assert from_module(torch.nn.Conv2d(2, 1, (12, 10)), SPEC).outputs == 1


@pytest.mark.torch
def test_modules_that_do_more_are_refused(torch):
    class Residual(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = torch.nn.Flatten(), torch.nn.Linear(240, 3)

        def forward(self, x):
            return self.other(self.one(x)) ** 2

    with pytest.raises(UserError, match="Residual does more than run its layers in a row"):
        from_module(Residual(), SPEC)

    class Wide(Residual):
        def forward(self, x):
            return self.one(x)

    with pytest.raises(UserError, match="Wide gives 240 outputs, its layers in a row give 3"):
        from_module(Wide(), SPEC)

    class Narrow(Residual):
        def forward(self, x):
            return self.other(x)

    with pytest.raises(UserError, match=r"Narrow does not run on an observation of shape \(1, 2"):
        from_module(Narrow(), SPEC)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda nn: [nn.Conv2d(2, 4, 3, dilation=2)],
            r"0 .Conv2d.: dilation=\(2, 2\) is not .*1, 1",
        ),
        (
            lambda nn: [nn.Conv2d(2, 4, 3, groups=2)],
            "groups=2 is not supported: accepted is groups=1",
        ),
        (
            lambda nn: [nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")],
            "padding_mode='reflect'",
        ),
        (lambda nn: [nn.Conv2d(2, 4, 2, padding="same")], "padding='same' with kernel .2, 2."),
        (lambda nn: [nn.AvgPool2d(2, ceil_mode=True)], "ceil_mode=True is not supported"),
        (
            lambda nn: [nn.AvgPool2d(3, padding=1, count_include_pad=False)],
            "count_include_pad=False is not supported",
        ),
        (lambda nn: [nn.AvgPool2d(2, divisor_override=3)], "divisor_override=3"),
        (lambda nn: [nn.MaxPool2d(2)], r"0 \(MaxPool2d\) is not supported: accepted are Conv2d"),
        (lambda nn: [nn.Conv2d(2, 4, 3), nn.Tanh()], r"1 \(Tanh\) is not supported"),
        (lambda nn: [nn.Conv2d(2, 4, 3), nn.LeakyReLU()], r"LeakyReLU\) is not supported"),
        (lambda nn: [nn.Flatten(0)], "start_dim=0 is not supported: accepted is start_dim=1"),
        (lambda nn: [nn.ReLU()], "ReLU on the input is not supported"),
        (
            lambda nn: [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)],
            "2: batch norm after conv cannot be folded: accepted is",
        ),
        (lambda nn: [nn.AvgPool2d(2), nn.BatchNorm2d(2)], "batch norm after avgpool"),
        (
            lambda nn: [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)],
            "track_running_stats=False",
        ),
        (lambda nn: [nn.ConvTranspose2d(2, 4, 3)], r"ConvTranspose2d\) is not supported"),
        (lambda nn: [nn.Flatten(), nn.Linear(240, 3), nn.ReLU()], "the last layer has ReLU"),
        (lambda nn: [nn.Flatten(), nn.Linear(241, 3)], r"expected \(out, 240\)"),
    ],
)
def test_unsupported_layers_are_refused_by_name(torch, make, message):
    with pytest.raises(UserError, match=message):
        from_module(torch.nn.Sequential(*make(torch.nn)), SPEC)


@pytest.mark.torch
def test_subclasses_are_refused(torch):
    class Scaled(torch.nn.Linear):
        pass

    with pytest.raises(UserError, match=r"1 \(Scaled\) is not supported"):
        from_module(torch.nn.Sequential(torch.nn.Flatten(), Scaled(240, 3)), SPEC)


def dense_in_torch(torch, network, stacked):
    """The quantised network without deltas, in whole numbers held by float64."""
    x = torch.from_numpy(stacked.astype(np.float64))[None]
    for layer in network.layers:
        sums = torch.nn.functional.conv2d(
            x,
            torch.from_numpy(layer.weight.astype(np.float64)),
            torch.from_numpy(layer.bias.astype(np.float64)),
            stride=layer.stride,
            padding=layer.padding,
        )
        multiplier = torch.from_numpy(layer.multiplier.astype(np.float64))[:, None, None]
        low, high = (-128, 127) if layer.signed else (0, 255)
        x = torch.floor(sums * multiplier / 2**layer.shift + 0.5).clamp(low, high)
    return sums.reshape(-1).to(torch.int64).numpy()


@pytest.mark.torch
@pytest.mark.parametrize("seed", range(50))
def test_threshold_zero_equals_a_dense_evaluation_by_torch(torch, seed):
    network = random_network(seed)
    network = network.with_counts([0] * len(network.layers))
    golden = Golden(network)
    spec, frames = network.input, random_frames(network, seed, 6)
    older = np.zeros_like(frames[0]) if spec.history == "zeros" else frames[0]
    history = [older] * spec.stack
    for frame in frames:
        history = [*history[1:], frame]
        stacked = np.concatenate([f.transpose(2, 0, 1) for f in history])
        assert np.array_equal(golden.step(frame).outputs, dense_in_torch(torch, network, stacked))


@pytest.mark.torch
def test_the_command_writes_an_agent(torch, tmp_path, capsys):
    network = reference_network(4, seed=1, density=0.2)
    weights, output = tmp_path / "w.pt", tmp_path / "mine.npz"
    torch.save({k: torch.from_numpy(v) for k, v in network.arrays().items()}, weights)
    arguments = ["--preset", "reference", "--frames", "20", "-o", str(output)]
    command = ["import", str(weights), *arguments]
    assert main([*command, "--game", "breakout", "--history", "repeat"]) == 0
    assert "imported from w.pt" in capsys.readouterr().out
    agent = load_agent(output)
    assert agent.game == "breakout"
    assert agent.network.input.history == "repeat"
    assert len(agent.calibration) == 20
    for name, array in network.arrays().items():
        assert np.array_equal(agent.network.arrays()[name], array)

    output.unlink()
    assert main([*command, "--game", "pong"]) == 2
    assert "has 4 outputs, pong has the actions NOOP" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "reference", "-o", "no/such/folder.npz"], "folder that exists"),
        (["--preset", "reference", "--frames", "0", "-o", "x.npz"], "--frames is 0"),
        (["-o", "x.npz"], "--preset --shape is required"),
        (["--preset", "reference", "-o", "x.npz"], "weights.bin is not a known kind of file"),
        (["--shape", "none.json", "-o", "x.npz"], "none.json cannot be read"),
    ],
)
def test_the_command_refuses_bad_input_on_one_line(
    arguments, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["import", "weights.bin", "--game", "breakout", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x.npz").exists()
