"""Networks from elsewhere: PyTorch modules, state dicts, `.safetensors` and `.pt` files.

All end as a checked `network.Network`. What that cannot hold is refused by name, with what would
be accepted. Nothing is ever unpickled: `.pt` files are read as tensors only.

A state dict has no structure, so a shape comes with it: that of a preset, or a description as
`Network.describe` gives it, where a layer's `name` is the part of its tensors' names before
`.weight`. One more layer type is understood there: `{"type": "batchnorm", "name": ..., "eps":
1e-5, "activation": "relu"}`, directly after a conv or dense layer with activation "identity"; it
is folded into that layer.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .arithmetic import PIXEL_MAX
from .errors import UserError
from .floatnet import dense_forward
from .network import Floats, InputSpec, Network, reference_network

__all__ = ["PRESETS", "from_module", "from_tensors", "load_shape", "load_tensors", "preset_shape"]

Tensors = Mapping[str, npt.NDArray[Any]]
Arrays = dict[str, npt.NDArray[np.float64]]

PRESETS = {"reference": lambda: reference_network(1).describe()}

ACCEPTED = (
    "accepted are Conv2d, ReLU, AvgPool2d, Flatten, Linear, Identity, and BatchNorm2d or "
    "BatchNorm1d right after Conv2d or Linear"
)
TOLERANCE = 1e-3  # of a module's largest output, between it and the network made of it


def load_tensors(path: Path | str) -> dict[str, Floats]:
    """The tensors of a `.safetensors`, `.pt` or `.pth` file, as float32.

    Raises `UserError` for a file that cannot be read or holds anything but tensors.
    """
    path = Path(path)
    readers = {".safetensors": _read_safetensors, ".pt": _read_torch, ".pth": _read_torch}
    if path.suffix not in readers:
        raise UserError(f"{path} is not a known kind of file: give {', '.join(readers)}")
    if not path.is_file():
        raise UserError(f"{path} cannot be read: there is no such file")
    tensors = readers[path.suffix](path)
    for name, tensor in tensors.items():
        if tensor.dtype.kind not in "fiu":
            raise UserError(f"{path}: tensor {name!r} has type {tensor.dtype}: give real numbers")
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def _read_safetensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    import safetensors
    from safetensors.numpy import load_file

    try:
        found: dict[str, npt.NDArray[Any]] = load_file(path)
    except (safetensors.SafetensorError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged or holds types that numpy has not ({error}): save float32"
        ) from None
    return found


def _read_torch(path: Path) -> dict[str, npt.NDArray[Any]]:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch, zipfile or its restricted reader raise
        raise UserError(
            f"{path} is damaged or holds more than tensors ({type(error).__name__}): save "
            "model.state_dict(), not the model"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}: save model.state_dict()")
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise UserError(
                f"{path}: {name!r} is a {type(value).__name__} and no tensor: save only the "
                "state dict of the network"
            )
    return _numbers(content)


def _numbers(state: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """PyTorch tensors as arrays; types that numpy has not, as bfloat16, become float32."""
    return {
        str(name): (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
        for name, tensor in state.items()
    }


def preset_shape(name: str) -> dict[str, Any]:
    """The structure of a preset."""
    if name not in PRESETS:
        raise UserError(f"there is no preset {name!r}: give {', '.join(PRESETS)}")
    return PRESETS[name]()


def load_shape(path: Path | str) -> dict[str, Any]:
    """A network's structure: the JSON object in a file."""
    try:
        shape = json.loads(Path(path).read_text())
    except OSError as error:
        raise UserError(
            f"shape {path} cannot be read ({error.strerror}): give a JSON file"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"shape {path} is not JSON ({error}): check the file") from None
    if not isinstance(shape, dict):
        raise UserError(f"shape {path} holds a {type(shape).__name__}: give a JSON object")
    return shape


def from_tensors(tensors: Tensors, description: Mapping[str, Any]) -> Network:
    """The network of a description and the tensors of a state dict.

    A missing bias counts as zeros and a missing batch norm weight as ones, as PyTorch leaves them
    out. Raises `UserError` for any other missing tensor, for one that no layer uses, and for
    anything that `Network` refuses.
    """
    arrays: Arrays = {}
    layers: list[dict[str, Any]] = []
    left = dict(tensors)

    def take(key: str, missing: npt.NDArray[np.float64] | None = None) -> npt.NDArray[np.float64]:
        if key in left:
            return np.asarray(left.pop(key), np.float64)
        if missing is None:
            raise UserError(f"tensor {key!r} is missing: there are {', '.join(sorted(tensors))}")
        return missing

    try:
        for entry in description["layers"]:
            kind, name = entry["type"], entry.get("name")
            if kind == "batchnorm":
                mean, variance = take(f"{name}.running_mean"), take(f"{name}.running_var")
                gamma = take(f"{name}.weight", np.ones_like(mean))
                beta = take(f"{name}.bias", np.zeros_like(mean))
                left.pop(f"{name}.num_batches_tracked", None)
                _fold(entry, (gamma, beta, mean, variance), layers, arrays)
                continue
            layers.append(dict(entry))
            if kind in ("conv", "dense"):
                weight = take(f"{name}.weight")
                arrays[f"{name}.weight"] = weight
                arrays[f"{name}.bias"] = take(f"{name}.bias", np.zeros(len(weight)))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"network description is not complete ({type(error).__name__}: {error}): "
            f"{json.dumps(description, default=str)[:200]}"
        ) from None
    if left:
        raise UserError(
            f"no layer uses {', '.join(sorted(left)[:5])}: add their layers to the shape, or "
            "leave the tensors out of the file"
        )
    singles = {name: array.astype(np.float32) for name, array in arrays.items()}
    return Network.from_arrays({**description, "layers": layers}, singles)


def _fold(
    entry: Mapping[str, Any],
    statistics: tuple[npt.NDArray[np.float64], ...],
    layers: list[dict[str, Any]],
    arrays: Arrays,
) -> None:
    """Fold a batch norm (weight, bias, mean, variance) into the layer before it."""
    before = layers[-1] if layers else {"type": "the input"}
    if before["type"] not in ("conv", "dense") or before.get("activation", "relu") != "identity":
        raise UserError(
            f"{entry['name']}: batch norm after {before['type']} cannot be folded: accepted is "
            "batch norm right after a conv or dense layer with activation 'identity'"
        )
    weight, bias = f"{before['name']}.weight", f"{before['name']}.bias"
    for part in statistics:
        if part.shape != arrays[bias].shape:
            raise UserError(
                f"{entry['name']}: a batch norm tensor has shape {part.shape}, expected "
                f"{arrays[bias].shape} as {before['name']} gives"
            )
    gamma, beta, mean, variance = statistics
    factor = gamma / np.sqrt(variance + entry.get("eps", 1e-5))
    arrays[weight] = (arrays[weight].T * factor).T
    arrays[bias] = (arrays[bias] - mean) * factor + beta
    before["activation"] = entry.get("activation", "identity")


def from_module(module: Any, spec: InputSpec) -> Network:
    """The network of a PyTorch module whose layers run in the order in which they were added.

    `nn.Sequential` does; any other module that does is accepted as well. It is tried: module and
    network must agree on random observations (pixels 0..1, or 0..255 where the module divides them
    itself). Layers are called as in the module, for example `features.0`.
    """
    from torch import nn

    module = copy.deepcopy(module).cpu().float().eval()
    if not list(module.children()):
        module = nn.Sequential(module)
    layers: list[dict[str, Any]] = []
    for name, child in module.named_modules(remove_duplicate=False):
        if not list(child.children()):
            _add_layer(layers, name, child)
    description = {"input": asdict(spec), "layers": layers}
    network = from_tensors(_numbers(module.state_dict()), description)
    _check_agreement(module, network)
    return network


def _add_layer(layers: list[dict[str, Any]], name: str, module: Any) -> None:
    """Describe one PyTorch layer; subclasses are refused, they may compute something else."""
    from torch import nn

    kind, where = type(module), f"{name} ({type(module).__name__})"

    def only(**accepted: Any) -> None:
        for option, value in accepted.items():
            if getattr(module, option) != value:
                raise UserError(
                    f"{where}: {option}={getattr(module, option)!r} is not supported: "
                    f"accepted is {option}={value!r}"
                )

    layer: dict[str, Any] = {"name": name, "activation": "identity"}
    if kind is nn.Identity:
        return
    if kind is nn.ReLU:
        before = next((entry for entry in reversed(layers) if entry["type"] != "flatten"), None)
        if before is None:
            raise UserError(f"{where}: ReLU on the input is not supported: remove it")
        before["activation"] = "relu"
        return
    if kind is nn.Flatten:
        only(start_dim=1, end_dim=-1)
        layer = {"type": "flatten", "name": name}
    elif kind is nn.Linear:
        layer["type"] = "dense"
    elif kind is nn.Conv2d:
        only(dilation=(1, 1), groups=1, padding_mode="zeros")
        layer |= {"type": "conv", "stride": module.stride, "padding": _padding(where, module)}
    elif kind is nn.AvgPool2d:
        only(ceil_mode=False, divisor_override=None)
        kernel, stride, padding = (
            value if isinstance(value, tuple) else (value, value)
            for value in (module.kernel_size, module.stride, module.padding)
        )
        if padding != (0, 0):
            only(count_include_pad=True)
        layer |= {"type": "avgpool", "kernel": kernel, "stride": stride, "padding": padding}
    elif kind in (nn.BatchNorm1d, nn.BatchNorm2d):
        only(track_running_stats=True)
        layer |= {"type": "batchnorm", "eps": module.eps}
    else:
        raise UserError(f"{where} is not supported: {ACCEPTED}")
    layers.append(layer)


def _padding(where: str, conv: Any) -> tuple[int, int]:
    """A Conv2d's padding in numbers."""
    if conv.padding == "valid":
        return 0, 0
    if conv.padding != "same":
        y, x = conv.padding
        return y, x
    if any(kernel % 2 == 0 for kernel in conv.kernel_size):
        raise UserError(
            f"{where}: padding='same' with kernel {conv.kernel_size} is not the same on both "
            "sides: accepted are odd kernels, or padding in numbers"
        )
    return conv.kernel_size[0] // 2, conv.kernel_size[1] // 2


def _check_agreement(module: Any, network: Network) -> None:
    """Refuse a module that computes anything else than the network made of it."""
    import torch

    rng = np.random.default_rng(0)
    shape = network.linear[0].in_shape
    errors = []
    for range_ in (1, PIXEL_MAX):
        error = 0.0
        for _ in range(3):
            observation = rng.random(shape, np.float32)
            expected = dense_forward(network, observation)[-1].reshape(-1)
            try:
                with torch.no_grad():
                    got = module(torch.from_numpy(observation * np.float32(range_))[None])
                    outputs = got.numpy().reshape(-1)
            except Exception as failure:  # whatever the module's own code raises
                raise UserError(
                    f"{type(module).__name__} does not run on an observation of shape "
                    f"{(1, *shape)} ({str(failure)[:100]}): check the input given with it"
                ) from None
            if outputs.shape != expected.shape:
                raise UserError(
                    f"{type(module).__name__} gives {len(outputs)} outputs, its layers in a row "
                    f"give {len(expected)}: give the layers as an nn.Sequential"
                )
            largest = max(np.abs(expected).max(), 1e-6)
            error = max(error, float(np.abs(outputs - expected).max() / largest))
        errors.append(error)
    if not min(errors) < TOLERANCE:
        raise UserError(
            f"{type(module).__name__} does more than run its layers in a row (outputs differ by "
            f"{min(errors):.2g} of the largest): give the layers as an nn.Sequential"
        )
