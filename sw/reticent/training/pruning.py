"""Magnitude pruning: which weights stay.

A mask is a bool tensor in the weight's shape, True where the weight stays. Biases are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .qnetwork import Tensor, Tensors

__all__ = ["apply_masks", "density", "full_masks", "magnitude_masks", "scheduled_density"]


def full_masks(weights: Mapping[str, Tensor]) -> Tensors:
    """Masks that prune nothing but what is zero already."""
    return {name: weight.detach() != 0 for name, weight in weights.items()}


def density(masks: Mapping[str, Tensor]) -> float:
    """Share of weights that stay."""
    kept = sum(int(mask.sum()) for mask in masks.values())
    return kept / sum(mask.numel() for mask in masks.values())


def magnitude_masks(
    weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], target: float, scope: str
) -> Tensors:
    """Tighten `masks` to `target` (share of all weights): the smallest magnitudes go.

    `scope` ranks all weights together (`global`) or each layer's apart (`layer`). What was pruned
    stays pruned; where fewer than the target are left nothing changes. Ties go by position.
    """
    groups = [list(weights)] if scope == "global" else [[name] for name in weights]
    found = {}
    for names in groups:
        # Pruned weights rank below every other, zeros that were trained included.
        ranks = torch.cat(
            [
                torch.where(masks[name], weights[name].detach().abs(), -1.0).flatten()
                for name in names
            ]
        )
        kept = torch.cat([masks[name].flatten() for name in names])
        count = min(round(target * ranks.numel()), int(kept.sum()))
        stay = torch.zeros_like(kept)
        stay[torch.sort(ranks, descending=True, stable=True).indices[:count]] = True
        parts = stay.split([weights[name].numel() for name in names])
        for name, part in zip(names, parts, strict=True):
            found[name] = part.reshape(weights[name].shape)
    return found


def scheduled_density(waypoints: Sequence[tuple[float, float]], done: float) -> float:
    """Density after a share `done` of the run: 1 first, cubic between waypoints, then the last."""
    before: tuple[float, float] = (0.0, 1.0)
    for at, target in waypoints:
        if done < at:
            left = (at - done) / (at - before[0])
            return target + (before[1] - target) * left**3
        before = at, target
    return before[1]


def apply_masks(tensors: Mapping[str, Any], masks: Mapping[str, Tensor]) -> None:
    """Make every pruned weight exactly zero, in place."""
    with torch.no_grad():
        for name, mask in masks.items():
            tensors[name].mul_(mask)
