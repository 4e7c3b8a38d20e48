"""Assignment of output channels to lanes so that measured loads balance.

A lane goes on to the next layer when it has done its share of this one, so a frame takes as long
as its busiest lane: what counts is, frame by frame, the largest load of a lane over all layers so
far. The loads come from a calibration trace.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .fold import Fold
from .golden import Golden
from .quantise import QuantisedLayer, QuantisedNetwork

__all__ = ["Traffic", "assign", "coarser", "lane_loads", "measure_traffic"]

Ints = npt.NDArray[np.int64]


class Traffic(NamedTuple):
    """What a network does on frames."""

    # Significant multiplications of each folded output channel in each frame, (frames, channels) a
    # layer. The cold start is left out where there is more than one frame.
    loads: list[Ints]
    # Of every frame the events into each layer, flat indices; see `Golden.fired`.
    fired: list[list[Ints]]


def measure_traffic(
    network: QuantisedNetwork, frames: list[npt.NDArray[np.uint8]], folds: list[Fold]
) -> Traffic:
    """Run consecutive frames through the golden model, maps folded like this."""
    golden = Golden(network)
    loads: list[list[Ints]] = [[] for _ in network.layers]
    fired = []
    for frame in frames:
        golden.step(frame)
        fired.append(golden.fired)
        for i, (layer, fold) in enumerate(zip(network.layers, folds, strict=True)):
            meets = _tap_events(layer, golden.delta[i] != 0, fold)
            load = np.einsum("oiyx,qiyx->oq", golden.stored[i], meets)
            loads[i].append(load.reshape(-1))
    skip = 1 if len(frames) > 1 else 0
    return Traffic([np.array(layer[skip:], np.int64) for layer in loads], fired)


def coarser(loads: Ints, fine: Fold, coarse: Fold) -> Ints:
    """Loads (frames, channels folded by `fine`) of the channels folded by a divisor of it."""
    (fy, fx), (cy, cx) = fine, coarse
    split = loads.reshape(len(loads), -1, fy // cy, cy, fx // cx, cx)
    found: Ints = split.sum(axis=(2, 4)).reshape(len(loads), -1)
    return found


def _tap_events(layer: QuantisedLayer, fired: npt.NDArray[np.bool_], fold: Fold) -> Ints:
    """How many (event, output position) pairs each kernel tap (in, ky, kx) serves, for each class
    of output positions: (classes, in, ky, kx)."""
    (py, px), (sy, sx) = layer.padding, layer.stride
    _, oh, ow = layer.out_shape
    _, _, ky, kx = layer.weight.shape
    padded = np.pad(fired, ((0, 0), (py, py), (px, px)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (ky, kx), axis=(1, 2))
    windows = windows[:, ::sy, ::sx][:, :oh, :ow]
    counts = [
        windows[:, qy :: fold[0], qx :: fold[1]].sum(axis=(1, 2), dtype=np.int64)
        for qy in range(fold[0])
        for qx in range(fold[1])
    ]
    return np.stack(counts)


def assign(
    loads: Ints, lanes: int, before: Ints | None = None, *, sweeps: int = 20
) -> list[list[int]]:
    """Channels of each lane, from loads (frames, channels): at most ceil(channels / lanes) each.

    `before` (frames, lanes) is what the lanes have to do in the layers before. Greedy by mean load
    (largest first to the least loaded lane), then exchanges between the busiest lane and the
    others for as long as the sum over frames of the largest load falls. Deterministic.
    """
    channels = loads.shape[1]
    most = -(-channels // lanes)
    if before is None:
        before = np.zeros((len(loads), lanes), np.int64)
    # Weights that the trace never met still count a little, so that they spread as well.
    mean = loads.mean(axis=0) if len(loads) else np.zeros(channels)
    members: list[list[int]] = [[] for _ in range(lanes)]
    total = before.mean(axis=0) if len(loads) else np.zeros(lanes)
    for channel in np.argsort(-mean, kind="stable"):
        free = [lane for lane in range(lanes) if len(members[lane]) < most]
        lane = min(free, key=lambda i: (total[i], len(members[i]), i))
        members[lane].append(int(channel))
        total[lane] += mean[channel]
    if len(loads):
        _exchange(loads.astype(np.float64), members, before.astype(np.float64), sweeps)
    return [sorted(group) for group in members]


def lane_loads(loads: npt.NDArray[Any], members: list[list[int]]) -> npt.NDArray[Any]:
    """Loads (frames, lanes) of the lanes that have these channels."""
    return np.stack([loads[:, group].sum(axis=1) for group in members], axis=1)


def _exchange(
    loads: npt.NDArray[np.float64],
    members: list[list[int]],
    before: npt.NDArray[np.float64],
    sweeps: int,
) -> None:
    per_lane = before + lane_loads(loads, members)
    for _ in range(sweeps * len(members)):
        cost = per_lane.max(axis=1).sum()
        # The lane that is most often (and most heavily) the slowest gives something away.
        slowest = int(
            np.bincount(
                per_lane.argmax(axis=1),
                weights=per_lane.max(axis=1) - per_lane.mean(axis=1),
                minlength=len(members),
            ).argmax()
        )
        best = (cost - 1e-9, -1, -1, -1)
        for other in range(len(members)):
            if other == slowest:
                continue
            rest = np.delete(per_lane, [slowest, other], axis=1).max(axis=1, initial=0)
            theirs = loads[:, members[other]]
            for mine in members[slowest]:
                change = loads[:, [mine]] - theirs
                new = np.maximum(per_lane[:, [slowest]] - change, per_lane[:, [other]] + change)
                costs = np.maximum(new, rest[:, None]).sum(axis=0)
                j = int(costs.argmin()) if len(costs) else 0
                if len(costs) and costs[j] < best[0]:
                    best = (float(costs[j]), other, mine, members[other][j])
        _, other, mine, theirs_channel = best
        if other < 0:
            return
        members[slowest].remove(mine)
        members[other].remove(theirs_channel)
        members[slowest].append(theirs_channel)
        members[other].append(mine)
        change_now = loads[:, mine] - loads[:, theirs_channel]
        per_lane[:, slowest] -= change_now
        per_lane[:, other] += change_now
