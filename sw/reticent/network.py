"""Float networks: the description that everything starts from.

A network is a chain of layers over a map of `channels x height x width`. Accepted are `Conv`,
`AvgPool`, `Flatten` and `Dense`, each with ReLU or identity; batch norm must be folded first
(`reticent.importer` does it). `Network` checks the chain once; afterwards every part of the
project may rely on it. Layer order and memory order are PyTorch's: weights (out, in, ky, kx),
flatten in (channel, y, x).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .errors import UserError

__all__ = [
    "AvgPool",
    "Conv",
    "Dense",
    "Flatten",
    "InputSpec",
    "Layer",
    "LinearLayer",
    "Network",
    "reference_network",
]

Floats = npt.NDArray[np.float32]
Activation = Literal["relu", "identity"]
History = Literal["zeros", "repeat"]

ACTIVATIONS = ("relu", "identity")
ACCEPTED = "conv, average pooling, flatten and dense layers with ReLU or identity"
LARGEST = 1 << 26  # weights or neurons of a layer: above any device, below what hurts a host


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """The stream that a network watches.

    A frame is `height x width x channels` of uint8, real value x / 255. The network sees `stack`
    frames: its input channel `k * channels + c` is channel `c` of frame `t - (stack - 1) + k`.
    `history` says what the frames before the first one hold: zeros, or copies of the first.
    """

    height: int
    width: int
    channels: int = 1
    stack: int = 4
    history: History = "zeros"

    def __post_init__(self) -> None:
        for name in ("height", "width", "channels", "stack"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise UserError(f"input {name} is {value!r}: give a whole number of at least 1")
        if self.pixels * self.stack > LARGEST:
            raise UserError(
                f"the input has {self.pixels} pixels in {self.stack} frames: give up to {LARGEST} "
                "in all"
            )
        if self.history not in ("zeros", "repeat"):
            raise UserError(f"input history is {self.history!r}: give 'zeros' or 'repeat'")

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Shape of one frame: (height, width, channels)."""
        return self.height, self.width, self.channels

    @property
    def pixels(self) -> int:
        """Bytes of one frame."""
        return self.height * self.width * self.channels

    def check_frame(self, frame: Any) -> npt.NDArray[np.uint8]:
        """Return the frame as (height, width, channels) uint8, or refuse it with a reason."""
        frame = np.asarray(frame)
        if frame.dtype != np.uint8:
            raise UserError(f"frame has type {frame.dtype}: give uint8 pixels")
        if frame.shape == (self.height, self.width) and self.channels == 1:
            frame = frame[:, :, None]
        if frame.shape != self.frame_shape:
            raise UserError(
                f"frame has shape {frame.shape}: this network watches "
                f"{self.height} x {self.width} x {self.channels}"
            )
        return frame


@dataclass(frozen=True, kw_only=True)
class Conv:
    """Convolution. `weight` (out, in, ky, kx), `bias` (out); stride and padding are (y, x)."""

    name: str
    weight: Floats = field(repr=False)
    bias: Floats = field(repr=False)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    activation: Activation = "relu"


@dataclass(frozen=True, kw_only=True)
class AvgPool:
    """Average over windows; padding counts as zeros in the average (PyTorch's default)."""

    name: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    activation: Activation = "identity"


@dataclass(frozen=True, kw_only=True)
class Flatten:
    """(channels, height, width) to one vector, in that order."""

    name: str = "flatten"


@dataclass(frozen=True, kw_only=True)
class Dense:
    """Fully connected. `weight` (out, in), `bias` (out)."""

    name: str
    weight: Floats = field(repr=False)
    bias: Floats = field(repr=False)
    activation: Activation = "relu"


Layer = Conv | AvgPool | Flatten | Dense


@dataclass(frozen=True, kw_only=True)
class LinearLayer:
    """A layer as the machine sees it: always a convolution.

    A dense layer is a convolution whose kernel covers its whole input map and whose output map is
    one position; average pooling is a depthwise one (`pool` marks it, its weights are exact ones
    times `1 / (ky * kx)`).
    """

    name: str
    weight: Floats = field(repr=False)  # (out, in, ky, kx)
    bias: Floats = field(repr=False)  # (out,)
    stride: tuple[int, int]
    padding: tuple[int, int]
    activation: Activation
    in_shape: tuple[int, int, int]  # (channels, height, width)
    out_shape: tuple[int, int, int]
    pool: bool = False

    @property
    def dense_multiplications(self) -> int:
        """What a dense layer would do: `out_h * out_w * out_ch * k_h * k_w * in_ch`.

        A pooling layer multiplies each channel with its own kernel only.
        """
        _, inp, ky, kx = self.weight.shape
        return int(np.prod(self.out_shape)) * ky * kx * (1 if self.pool else inp)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A checked chain of layers. Iterating over `linear` gives the machine's view of it."""

    input: InputSpec
    layers: tuple[Layer, ...]
    linear: tuple[LinearLayer, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "linear", tuple(_lower(self.input, self.layers)))

    @property
    def outputs(self) -> int:
        """Number of outputs (actions)."""
        return self.linear[-1].out_shape[0]

    @property
    def density(self) -> float:
        """Fraction of weights that are not zero (biases and pooling apart)."""
        weights = [layer.weight for layer in self.linear if not layer.pool]
        return sum(np.count_nonzero(w) for w in weights) / max(1, sum(w.size for w in weights))

    def describe(self) -> dict[str, Any]:
        """The structure without the weights, as plain JSON types; `from_arrays` reads it back."""
        layers: list[dict[str, Any]] = []
        for layer in self.layers:
            entry: dict[str, Any] = {"type": type(layer).__name__.lower(), "name": layer.name}
            for key in ("kernel", "stride", "padding"):
                if hasattr(layer, key):
                    entry[key] = list(getattr(layer, key))
            if not isinstance(layer, Flatten):
                entry["activation"] = layer.activation
            layers.append(entry)
        i = self.input
        return {
            "input": {
                "height": i.height,
                "width": i.width,
                "channels": i.channels,
                "stack": i.stack,
                "history": i.history,
            },
            "layers": layers,
        }

    def arrays(self) -> dict[str, Floats]:
        """The weights and biases, named `<layer>.weight` and `<layer>.bias`."""
        found: dict[str, Floats] = {}
        for layer in self.layers:
            if isinstance(layer, Conv | Dense):
                found[f"{layer.name}.weight"] = layer.weight
                found[f"{layer.name}.bias"] = layer.bias
        return found

    @classmethod
    def from_arrays(cls, description: dict[str, Any], arrays: dict[str, Any]) -> Network:
        """Build a network from `describe()` and `arrays()`; refuses what it does not know."""
        try:
            return cls(
                input=InputSpec(**description["input"]),
                layers=tuple(_layer(entry, arrays) for entry in description["layers"]),
            )
        except (KeyError, TypeError) as error:
            raise UserError(
                f"network description is not complete ({error}): {json.dumps(description)[:200]}"
            ) from None


def _layer(entry: dict[str, Any], arrays: dict[str, Any]) -> Layer:
    entry = dict(entry)
    kind = entry.pop("type")
    for key in ("kernel", "stride", "padding"):
        if key in entry:
            entry[key] = tuple(int(v) for v in entry[key])
    if kind == "flatten":
        return Flatten(**entry)
    if kind == "avgpool":
        return AvgPool(**entry)
    if kind not in ("conv", "dense"):
        raise UserError(f"layer type {kind!r} is not supported: accepted are {ACCEPTED}")
    tensors = {}
    for part in ("weight", "bias"):
        key = f"{entry['name']}.{part}"
        if key not in arrays:
            raise UserError(f"tensor {key!r} is missing: the file has {sorted(arrays)}")
        tensors[part] = np.asarray(arrays[key], np.float32)
    linear = Conv if kind == "conv" else Dense
    return linear(weight=tensors["weight"], bias=tensors["bias"], **entry)


def _pair(name: str, what: str, value: Any, low: int) -> tuple[int, int]:
    """Two whole numbers (y, x), as plain integers."""
    numbers = value if isinstance(value, tuple | list) else ()
    if len(numbers) != 2 or not all(isinstance(v, int | np.integer) and v >= low for v in numbers):
        raise UserError(f"{name}: {what} is {value!r}: give two whole numbers of at least {low}")
    return int(numbers[0]), int(numbers[1])


def _lower(spec: InputSpec, layers: Sequence[Layer]) -> list[LinearLayer]:
    shape = (spec.stack * spec.channels, spec.height, spec.width)
    flat = False
    lowered: list[LinearLayer] = []
    names: set[str] = set()
    for layer in layers:
        if not isinstance(layer, Conv | AvgPool | Flatten | Dense):
            raise UserError(
                f"layer {type(layer).__name__} is not supported: accepted are {ACCEPTED}"
            )
        if isinstance(layer, Flatten):
            flat = True
            continue
        name = layer.name
        if name in names:
            raise UserError(f"two layers are called {name!r}: give each its own name")
        names.add(name)
        if layer.activation not in ACTIVATIONS:
            raise UserError(
                f"{name}: activation {layer.activation!r} is not supported: "
                f"accepted are {', '.join(ACTIVATIONS)}"
            )
        # Everything about the shape is settled before an array of that shape is made.
        if isinstance(layer, Dense):
            if not flat and shape[1:] != (1, 1):
                raise UserError(f"{name}: a dense layer after a map needs a flatten before it")
            inputs = math.prod(shape)
            if layer.weight.ndim != 2 or layer.weight.shape[1] != inputs:
                raise UserError(
                    f"{name}: weight has shape {layer.weight.shape}, expected (out, {inputs})"
                )
            out, kernel = layer.weight.shape[0], shape[1:]
            stride, padding = kernel, (0, 0)
        else:
            if flat:
                raise UserError(f"{name}: a {type(layer).__name__} after flatten has no map")
            stride = _pair(name, "stride", layer.stride, 1)
            padding = _pair(name, "padding", layer.padding, 0)
            if isinstance(layer, AvgPool):
                out, kernel = shape[0], _pair(name, "kernel", layer.kernel, 1)
            else:
                if layer.weight.ndim != 4 or layer.weight.shape[1] != shape[0]:
                    raise UserError(
                        f"{name}: weight has shape {layer.weight.shape}, expected "
                        f"(out, {shape[0]}, ky, kx)"
                    )
                out, kernel = layer.weight.shape[0], layer.weight.shape[2:]
        size = [(shape[1 + i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in range(2)]
        if min(size) < 1 or any(padding[i] >= kernel[i] for i in range(2)):
            raise UserError(
                f"{name}: kernel {kernel} with padding {padding} does not fit a map of "
                f"{shape[1]} x {shape[2]}: give a kernel above the padding and up to the padded map"
            )
        out_shape = (out, size[0], size[1])
        for what, number in (
            ("weights, zeros included", math.prod((out, shape[0], *kernel))),
            ("outputs", math.prod(out_shape)),
        ):
            if not 1 <= number <= LARGEST:
                raise UserError(f"{name}: it has {number} {what}: give 1 to {LARGEST}")
        if isinstance(layer, AvgPool):
            weight = np.zeros((out, out, *kernel), np.float32)
            weight[np.arange(out), np.arange(out)] = 1 / math.prod(kernel)
            bias = np.zeros(out, np.float32)
        else:
            weight, bias = layer.weight.reshape(out, shape[0], *kernel), layer.bias
        if bias.shape != (out,):
            raise UserError(f"{name}: bias has shape {bias.shape}, expected {(out,)}")
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise UserError(f"{name}: weights or biases are not finite numbers")
        lowered.append(
            LinearLayer(
                name=name,
                weight=np.ascontiguousarray(weight, np.float32),
                bias=np.ascontiguousarray(bias, np.float32),
                stride=stride,
                padding=padding,
                activation=layer.activation,
                in_shape=shape,
                out_shape=out_shape,
                pool=isinstance(layer, AvgPool),
            )
        )
        shape = out_shape
    if not lowered:
        raise UserError("the network has no layer with weights")
    if shape[1:] != (1, 1):
        raise UserError(
            f"the last layer gives a map of {shape[1]} x {shape[2]}: end with a dense layer "
            "(or a convolution that leaves one position)"
        )
    if lowered[-1].activation != "identity":
        raise UserError(
            f"{lowered[-1].name}: the last layer has ReLU; its accumulators are the answer, "
            "so give it activation 'identity'"
        )
    return lowered


def reference_network(
    actions: int, *, seed: int = 0, density: float = 1.0, history: History = "zeros"
) -> Network:
    """The published agent (Sci Rep 13, 20865 (2023)) with random weights (He), pruned at random.

    84x84x4 -> conv 32 8x8/4 -> conv 32 4x4/2 -> conv 64 3x3/2 -> dense 512 -> dense `actions`.
    """
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> Floats:
        fan_in = int(np.prod(shape[1:])) * density
        values = rng.normal(0, np.sqrt(2 / fan_in), shape)
        values[rng.random(shape) >= density] = 0
        return values.astype(np.float32)

    def bias(count: int) -> Floats:
        return rng.normal(0, 0.02, count).astype(np.float32)

    def conv(name: str, stride: int, *shape: int) -> Conv:
        return Conv(name=name, weight=weight(*shape), bias=bias(shape[0]), stride=(stride, stride))

    return Network(
        input=InputSpec(height=84, width=84, stack=4, history=history),
        layers=(
            conv("conv1", 4, 32, 4, 8, 8),
            conv("conv2", 2, 32, 32, 4, 4),
            conv("conv3", 2, 64, 32, 3, 3),
            Flatten(),
            Dense(name="fc1", weight=weight(512, 1024), bias=bias(512)),
            Dense(
                name="out", weight=weight(actions, 512), bias=bias(actions), activation="identity"
            ),
        ),
    )
