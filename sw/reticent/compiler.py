"""The compiler: quantised network + build configuration + calibration trace -> image.

Every layer is a convolution here (a dense layer has a kernel as large as its input map). The
compiler gives each output channel a slot (a place in a lane), and writes for each lane the list of
its stored weights in the order of kernel taps, with one pointer per tap; see
docs/architecture.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .balance import assign, channel_loads, lane_loads
from .config import BuildConfig
from .errors import UserError
from .image import Image, LayerMap
from .layout import CHANNELS_MAX, TAP_BITS, Register, Space, pack
from .memory import memory_table, memory_uses
from .quantise import QuantisedLayer, QuantisedNetwork

__all__ = ["compile_network"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Phases:
    """Kernel taps along one axis, ordered by phase (coordinate modulo stride), then by tap."""

    order: Ints  # kernel index of each tap, in memory order
    before: Ints  # per phase: taps of earlier phases
    taps: Ints  # per phase


def phases(kernel: int, stride: int) -> Phases:
    """Tap j of phase p is kernel index `p + j * stride`; its output lies j positions back."""
    groups = [np.arange(p, kernel, stride) for p in range(min(stride, kernel))]
    taps = np.array([len(g) for g in groups] + [0] * (stride - len(groups)), np.int64)
    return Phases(np.concatenate(groups), np.concatenate([[0], np.cumsum(taps)[:-1]]), taps)


def axis_rows(
    kernel: int, stride: int, padding: int, size: int, out: int, step: int, width: int
) -> dict[str, Ints]:
    """ROW or COLUMN entries for one layer: what an event at each coordinate reaches.

    `size` input and `out` output positions; an output position is `step` state rows from the
    next; `before` is given in units of `width` taps.
    """
    layout = phases(kernel, stride)
    position = np.arange(size) + padding
    phase, origin = position % stride, position // stride
    first = np.maximum(0, origin - out + 1)
    count = np.maximum(0, np.minimum(layout.taps[phase] - 1, origin) - first + 1)
    reaches = count > 0
    return {
        "before": layout.before[phase] * width,
        "taps": layout.taps[phase],
        "first": np.where(reaches, first, 0),
        "count": count,
        "base": np.where(reaches, origin * step, 0),
        "start": np.where(reaches, origin - first - count + 1, 0),
    }


@dataclass(frozen=True)
class Placement:
    """Which lane has which output channel.

    `groups[i][lane]` lists the channels of layer i in the order of their places in the lane;
    `per_lane[i]` places are kept in every lane. The output layer is read out in order: channel c
    is in lane `c % lanes`. Where it follows a single position, it is `local`: every lane
    multiplies the events of its own neurons for all outputs, and the outputs are the sums over
    the lanes; few outputs would otherwise keep few lanes busy.
    """

    lanes: int
    groups: list[list[list[int]]]
    per_lane: list[int]
    local: bool

    @classmethod
    def balanced(
        cls,
        network: QuantisedNetwork,
        lanes: int,
        trace: Sequence[npt.NDArray[np.uint8]],
    ) -> Placement:
        """By the loads that a trace measures, or by stored weights where there is none."""
        layers = network.layers
        loads = (
            channel_loads(network, list(trace))
            if len(trace)
            else [np.count_nonzero(layer.weight, axis=(1, 2, 3))[None] for layer in layers]
        )
        local = len(layers) > 1 and layers[-1].in_shape[1:] == (1, 1)
        outputs = list(range(layers[-1].out_shape[0]))
        groups = []
        before = np.zeros((len(loads[0]), lanes), np.int64)
        for load in loads[:-1]:
            groups.append(assign(load, lanes, before))
            before = before + lane_loads(load, groups[-1])
        groups.append([outputs if local else outputs[lane::lanes] for lane in range(lanes)])
        return cls(lanes, groups, [max(map(len, g)) for g in groups], local)

    def is_local(self, i: int) -> bool:
        """Whether layer i is local."""
        return self.local and i == len(self.groups) - 1

    def slots(self, i: int) -> Ints:
        """Slot of each output channel of layer i: place in the lane * lanes + lane."""
        found = np.zeros(1 + max(max(g, default=0) for g in self.groups[i]), np.int64)
        for lane, group in enumerate(self.groups[i]):
            found[group] = np.arange(len(group)) * self.lanes + lane
        return found

    def inputs(self, network: QuantisedNetwork, i: int) -> int:
        """Input slots that layer i's pointers distinguish, used or not."""
        if i == 0:
            return network.layers[0].in_shape[0]
        return self.per_lane[i - 1] * (1 if self.is_local(i) else self.lanes)


def compile_network(
    network: QuantisedNetwork,
    config: BuildConfig,
    trace: Sequence[npt.NDArray[np.uint8]] = (),
) -> Image:
    """Compile. `trace` is an unbroken stretch of frames that the lanes are balanced by.

    Raises `UserError` with a table when a memory is too small, and with one line when a width is.
    """
    layers = network.layers
    _check_widths(network, config)
    placement = Placement.balanced(network, config.lanes, trace)
    per_lane = placement.per_lane

    def taps(i: int) -> int:
        return layers[i].weight.shape[2] * layers[i].weight.shape[3]

    pointers = [placement.inputs(network, i) * taps(i) for i in range(len(layers))]
    pointer_base = np.cumsum([0, *pointers])
    channel_base = np.cumsum([0, *per_lane])
    map_rows = np.cumsum([0, *(layer.in_shape[1] for layer in layers)])
    map_columns = np.cumsum([0, *(layer.in_shape[2] for layer in layers)])
    state_base, state_used = [], [0, 0]
    for i, layer in enumerate(layers):
        state_base.append(state_used[i % 2])
        state_used[i % 2] += layer.out_shape[1] * layer.out_shape[2] * per_lane[i]
    entries = [_layer_entries(network, config, placement, i) for i in range(len(layers))]
    weights = [sum(len(layer[lane][0]) for layer in entries) for lane in range(config.lanes)]

    used = {
        "weights of a lane": max(weights),
        "pointers of a lane": int(pointer_base[-1]) + 1,
        "neurons of a lane, even layers": state_used[0],
        "neurons of a lane, odd layers": state_used[1],
        "channels of a lane": int(channel_base[-1]),
        "bytes of a frame": network.input.pixels,
        "stacked frames": network.input.stack,
        "layers": len(layers),
        "input map rows, all layers": int(map_rows[-1]),
        "input map columns, all layers": int(map_columns[-1]),
        "output map rows": max(layer.out_shape[1] for layer in layers),
        "output map columns": max(layer.out_shape[2] for layer in layers),
    }
    _check_fit(config, used)

    table: dict[str, list[int]] = {}
    rows: list[dict[str, Ints]] = []
    columns: list[dict[str, Ints]] = []
    maps = []
    for i, layer in enumerate(layers):
        _, _, ky, kx = layer.weight.shape
        _, oh, ow = layer.out_shape
        n = per_lane[i]
        row = axis_rows(ky, layer.stride[0], layer.padding[0], layer.in_shape[1], oh, ow * n, kx)
        # Relative addresses count down from channel n - 1 of tap 0's position.
        row["base"] = np.where(row["count"] > 0, row["base"] + state_base[i] + n - 1, 0)
        rows.append(row)
        columns.append(
            axis_rows(kx, layer.stride[1], layer.padding[1], layer.in_shape[2], ow, n, 1)
        )
        values = {
            "pointer_base": int(pointer_base[i]),
            "taps": ky * kx,
            "row_base": int(map_rows[i]),
            "column_base": int(map_columns[i]),
            "rows": oh,
            "columns": ow,
            "channels": n,
            "row_stride": ow * n,
            "state_base": state_base[i],
            "channel_base": int(channel_base[i]),
            "shift": layer.shift,
            "signed": int(layer.signed),
            "local": int(placement.is_local(i)),
        }
        for name, value in values.items():
            table.setdefault(name, []).append(value)
        maps.append(
            LayerMap(
                name=layer.name,
                dense=layer.dense_multiplications,
                weights=int(np.count_nonzero(layer.weight)),
                shape=layer.out_shape,
                slots=tuple(int(s) for s in placement.slots(i)),
                local=placement.is_local(i),
                channels=n,
                state_base=state_base[i],
                scale=layer.scale,
            )
        )

    spec = network.input
    registers: dict[int, int] = {
        Register.LAYERS: len(layers),
        Register.OUTPUTS: network.layers[-1].out_shape[0],
        Register.HEIGHT: spec.height,
        Register.WIDTH: spec.width,
        Register.CHANNELS: spec.channels,
        Register.STACK: spec.stack,
        Register.REPEAT_FIRST: int(spec.history == "repeat"),
    }
    thresholds = {Register.THRESHOLD + i: t for i, t in enumerate(network.thresholds)}
    return Image(
        config=config,
        registers={int(k): int(v) for k, v in (registers | thresholds).items()},
        layers=tuple(maps),
        frame_shape=spec.frame_shape,
        memories={
            Space.LAYER: pack(config, Space.LAYER, table),
            Space.ROW: pack(config, Space.ROW, _joined(rows)),
            Space.COLUMN: pack(config, Space.COLUMN, _joined(columns)),
            **_lane_memories(network, config, placement, entries),
        },
        used=used,
        network=network.digest,
    )


def _joined(tables: Sequence[dict[str, Ints]]) -> dict[str, Ints]:
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def _tap_order(layer: QuantisedLayer) -> tuple[Ints, Ints]:
    """(y, x) of the kernel's taps in memory order: y phase, x phase, then y tap, x tap."""
    _, _, ky, kx = layer.weight.shape
    (sy, sx), found = layer.stride, []
    for py in range(min(sy, ky)):
        for px in range(min(sx, kx)):
            found += [(y, x) for y in range(py, ky, sy) for x in range(px, kx, sx)]
    y, x = np.array(found, np.int64).T
    return y, x


def _layer_entries(
    network: QuantisedNetwork, config: BuildConfig, placement: Placement, i: int
) -> list[tuple[Ints, Ints, Ints]]:
    """For each lane: stored weights and relative addresses in memory order, weights per tap."""
    layer = network.layers[i]
    n = placement.per_lane[i]
    y, x = _tap_order(layer)
    back = (y // layer.stride[0] * layer.out_shape[2] + x // layer.stride[1]) * n
    if back.max() + n > 1 << config.relative_bits:
        raise UserError(
            f"{layer.name}: a relative address needs {int(back.max() + n - 1).bit_length()} bits "
            f"and has {config.relative_bits}: raise relative_bits, or use more lanes"
        )
    found = []
    for lane, group in enumerate(placement.groups[i]):
        # The lane's weights as (input slot, tap, channel of the lane).
        mine = np.zeros((placement.inputs(network, i), len(y), len(group)), np.int64)
        weight = layer.weight[group][:, :, y, x].transpose(1, 2, 0)
        if placement.is_local(i):
            own = placement.groups[i - 1][lane]
            mine[: len(own)] = weight[own]
        else:
            mine[placement.slots(i - 1) if i else slice(None)] = weight
        stored = mine != 0
        relative = np.broadcast_to(back[:, None] + (n - 1 - np.arange(len(group))), mine.shape)
        found.append((mine[stored], relative[stored], stored.sum(axis=2).reshape(-1)))
    return found


def _lane_memories(
    network: QuantisedNetwork,
    config: BuildConfig,
    placement: Placement,
    entries: list[list[tuple[Ints, Ints, Ints]]],
) -> dict[Space, Ints]:
    """POINTER, WEIGHT and CHANNEL rows: (lanes, rows, words), padded to the fullest lane."""
    found: dict[Space, list[Ints]] = {Space.POINTER: [], Space.WEIGHT: [], Space.CHANNEL: []}
    for lane in range(config.lanes):
        weight = np.concatenate([layer[lane][0] for layer in entries])
        relative = np.concatenate([layer[lane][1] for layer in entries])
        taps = np.concatenate([layer[lane][2] for layer in entries])
        found[Space.POINTER].append(
            pack(config, Space.POINTER, {"start": np.concatenate([[0], np.cumsum(taps)])})
        )
        found[Space.WEIGHT].append(
            pack(config, Space.WEIGHT, {"weight": weight, "relative": relative})
        )
        bias: list[Ints] = []
        multiplier: list[Ints] = []
        for i, layer in enumerate(network.layers):
            group = placement.groups[i][lane]
            spare = np.zeros(placement.per_lane[i] - len(group), np.int64)  # never fires
            # The sum over the lanes of a local layer contains the bias once.
            once = 0 if placement.is_local(i) and lane else 1
            bias += [layer.bias[group] * once, spare]
            multiplier += [layer.multiplier[group], spare]
        channels = {"bias": np.concatenate(bias), "multiplier": np.concatenate(multiplier)}
        found[Space.CHANNEL].append(pack(config, Space.CHANNEL, channels))
    return {space: _stack_padded(rows) for space, rows in found.items()}


def _stack_padded(rows: list[Ints]) -> Ints:
    depth = max(len(r) for r in rows)
    return np.stack([np.pad(r, ((0, depth - len(r)), (0, 0))) for r in rows])


def _check_fit(config: BuildConfig, used: Mapping[str, int]) -> None:
    """Raise the memory table, and what to change, unless everything fits."""
    needed: dict[str, int] = {}
    for use in memory_uses(config, used):
        if use.used is not None and use.used > use.built:
            needed[use.choice] = max(use.used, needed.get(use.choice, 0))
    if needed:
        remedy = ", ".join(f"{choice} to {rows}" for choice, rows in needed.items())
        raise UserError(
            f"the network does not fit this build: raise {remedy}\n{memory_table(config, used)}"
        )


def _check_widths(network: QuantisedNetwork, config: BuildConfig) -> None:
    spec = network.input
    if spec.channels > CHANNELS_MAX:
        raise UserError(f"a frame has {spec.channels} channels: give up to {CHANNELS_MAX}")
    inputs = spec.channels * spec.stack
    if inputs > 1 << config.slot_bits:
        raise UserError(
            f"the network has {inputs} input channels and this build distinguishes "
            f"{1 << config.slot_bits}: raise channel_depth to {-(-inputs // config.lanes)}"
        )
    for layer in network.layers:
        bound = layer.accumulator_bound
        if bound >= 1 << (config.accumulator_bits - 1):
            raise UserError(
                f"{layer.name}: an accumulator may reach {bound}, which needs "
                f"{bound.bit_length() + 1} bits; this build has {config.accumulator_bits}: raise "
                "accumulator_bits, or quantise to smaller weights"
            )
        if layer.multiplier.max(initial=0) >= 1 << config.multiplier_bits:
            raise UserError(
                f"{layer.name}: multiplier {layer.multiplier.max()} needs more than this build's "
                f"{config.multiplier_bits} bits: quantise with multiplier_bits="
                f"{config.multiplier_bits}"
            )
        if not 1 <= layer.shift <= 31:
            raise UserError(f"{layer.name}: shift {layer.shift} is outside 1..31")
        for kernel, stride in zip(layer.weight.shape[2:], layer.stride, strict=True):
            if -(-kernel // stride) >= 1 << TAP_BITS:
                raise UserError(
                    f"{layer.name}: kernel {kernel} with stride {stride} has more than "
                    f"{(1 << TAP_BITS) - 1} taps a phase, the most that the hardware's tables hold"
                )
