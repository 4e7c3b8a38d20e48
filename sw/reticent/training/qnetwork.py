"""The network while it learns: `Network`'s structure with PyTorch tensors.

Tensors lie in a plain dict, named and shaped as in `Network.arrays`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..arithmetic import PIXEL_MAX
from ..network import AvgPool, Conv, Flatten, Network

__all__ = ["QNetwork", "Tensor", "Tensors", "from_arrays", "greedy", "initial_tensors"]

Tensor = Any  # torch has no types for the checker here
Tensors = dict[str, Tensor]

OUTPUT_GAIN = 0.1  # first values near zero: there is nothing to unlearn


def initial_tensors(network: Network, seed: int) -> Tensors:
    """Random first weights (He) with zero biases, in the network's shapes."""
    rng = np.random.default_rng(seed)
    arrays = network.arrays()
    last = list(arrays)[-2]
    found = {}
    for name, array in arrays.items():
        values = np.zeros(array.shape)
        if name.endswith(".weight"):
            gain = OUTPUT_GAIN if name == last else 1.0
            fan_in = math.prod(array.shape[1:])
            values = rng.normal(0, gain * math.sqrt(2 / fan_in), array.shape)
        found[name] = torch.from_numpy(values.astype(np.float32))
    return found


def from_arrays(arrays: Mapping[str, Any]) -> Tensors:
    """Numpy arrays as tensors of their own."""
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


class QNetwork:
    """Weights and how to run them. `tensors` are float32 leaves that may need gradients."""

    def __init__(self, shape: Network, tensors: Mapping[str, Tensor], *, precision: str) -> None:
        self.shape = shape
        self.precision = getattr(torch, precision)
        self.tensors: Tensors = {
            name: tensor.detach().clone().float() for name, tensor in tensors.items()
        }

    @property
    def device(self) -> Any:
        """Where the tensors are."""
        return next(iter(self.tensors.values())).device

    @property
    def weights(self) -> Tensors:
        """The prunable ones: everything but the biases."""
        return {name: t for name, t in self.tensors.items() if name.endswith(".weight")}

    def learnable(self) -> list[Tensor]:
        """All tensors, ready for an optimiser."""
        return [tensor.requires_grad_() for tensor in self.tensors.values()]

    def copy_from(self, other: QNetwork) -> None:
        """Take over another network's values."""
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor.copy_(other.tensors[name])

    def __call__(self, observations: Tensor) -> Tensor:
        """Values (N, actions) float32 of uint8 observations (N, channels, height, width)."""
        tensors = {name: tensor.to(self.precision) for name, tensor in self.tensors.items()}
        x = observations.to(self.precision).mul_(1 / PIXEL_MAX)
        for layer in self.shape.layers:
            if isinstance(layer, Flatten):
                x = x.flatten(1)
                continue
            if isinstance(layer, AvgPool):
                x = F.avg_pool2d(x, layer.kernel, layer.stride, layer.padding)
            else:
                weight, bias = tensors[f"{layer.name}.weight"], tensors[f"{layer.name}.bias"]
                if isinstance(layer, Conv):
                    x = F.conv2d(x, weight, bias, layer.stride, layer.padding)
                else:
                    x = F.linear(x.flatten(1), weight, bias)
            if layer.activation == "relu":
                x = F.relu(x, inplace=True)
        return x.flatten(1).float()

    def network(self) -> Network:
        """What the rest of the project runs: a checked float32 `Network`."""
        arrays = {name: t.detach().cpu().numpy().copy() for name, t in self.tensors.items()}
        return Network.from_arrays(self.shape.describe(), arrays)


def greedy(network: QNetwork, observations: Any) -> tuple[Any, Any]:
    """Best actions (N,) int64 and their values (N,) float32, as numpy arrays."""
    with torch.no_grad():
        values = network(torch.from_numpy(observations).to(network.device)).max(dim=1)
    return values.indices.cpu().numpy(), values.values.cpu().numpy()
