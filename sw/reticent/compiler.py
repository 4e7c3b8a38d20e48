"""The compiler: quantised network + build configuration + calibration trace -> image.

Every layer is a convolution here (a dense layer has a kernel as large as its input map). The
compiler may fold the maps, gives each output channel a slot (a place in a lane), and writes for
each lane the list of its stored weights in the order of kernel taps, with one pointer per tap; see
docs/architecture.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .balance import assign, coarser, lane_loads, measure_traffic
from .config import BuildConfig
from .cycles import CycleModel
from .errors import UserError
from .fold import FOLDS, Fold, axes, choose_folds, folded_weights
from .image import Image, LayerMap
from .layout import CHANNELS_MAX, TAP_BITS, Register, Space, pack
from .memory import memory_table, memory_uses
from .quantise import QuantisedNetwork

__all__ = ["compile_network"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Placement:
    """Which lane has which output channel.

    `folds[i]` is how the output of layer i is folded, and channels are those of folded maps.
    `groups[i][lane]` lists the channels of layer i in the order of their places in the lane;
    `per_lane[i]` places are kept in every lane, whole groups of neurons that are examined in the
    same cycle. The output layer is read out in order: channel c
    is in lane `c % lanes`. Where it follows a single position, it is `local`: every lane
    multiplies the events of its own neurons for all outputs, and the outputs are the sums over
    the lanes; few outputs would otherwise keep few lanes busy.
    """

    lanes: int
    folds: list[Fold]
    groups: list[list[list[int]]]
    per_lane: list[int]
    local: bool
    cost: int  # of the trace that it was balanced by: sum over frames of the largest load

    @classmethod
    def balanced(
        cls, network: QuantisedNetwork, config: BuildConfig, folds: list[Fold], loads: list[Ints]
    ) -> Placement:
        """By loads (frames, folded channels) of each layer."""
        layers, lanes, examined = network.layers, config.lanes, config.requantisers
        local = len(layers) > 1 and layers[-1].in_shape[1:] == (1, 1)
        groups = []
        before = np.zeros((len(loads[0]), lanes), np.int64)
        for load in loads[:-1]:
            groups.append(assign(load, lanes, before))
            before = before + lane_loads(load, groups[-1])
        cost = int(before.max(axis=1).sum())
        outputs = list(range(layers[-1].out_shape[0]))
        groups.append([outputs if local else outputs[lane::lanes] for lane in range(lanes)])
        per_lane = [-(-max(map(len, g)) // examined) * examined for g in groups]
        return cls(lanes, folds, groups, per_lane, local, cost)

    def is_local(self, i: int) -> bool:
        """Whether layer i is local."""
        return self.local and i == len(self.groups) - 1

    def slots(self, i: int) -> Ints:
        """Slot of each output channel of layer i: place in the lane * lanes + lane."""
        found = np.zeros(1 + max(max(g, default=0) for g in self.groups[i]), np.int64)
        for lane, group in enumerate(self.groups[i]):
            found[group] = np.arange(len(group)) * self.lanes + lane
        return found

    def input_fold(self, i: int) -> Fold:
        """How the input of layer i is folded."""
        return self.folds[i - 1] if i else (1, 1)

    def inputs(self, network: QuantisedNetwork, i: int) -> int:
        """Input slots that layer i's pointers distinguish, used or not."""
        if i == 0:
            return network.layers[0].in_shape[0]
        return self.per_lane[i - 1] * (1 if self.is_local(i) else self.lanes)


class _Plan:
    """A placement, what follows from it for the device's memories, and how much of them it uses."""

    def __init__(
        self, network: QuantisedNetwork, config: BuildConfig, placement: Placement
    ) -> None:
        layers = network.layers
        self.placement = placement
        self.axes = [
            axes(layer, placement.input_fold(i), placement.folds[i])
            for i, layer in enumerate(layers)
        ]
        per_lane = placement.per_lane
        self.taps = [y.taps * x.taps for y, x in self.axes]
        pointers = [placement.inputs(network, i) * taps for i, taps in enumerate(self.taps)]
        self.pointer_base = np.cumsum([0, *pointers])
        self.channel_base = np.cumsum([0, *per_lane])
        self.map_rows = np.cumsum([0, *(len(y.group) for y, _ in self.axes)])
        self.map_columns = np.cumsum([0, *(len(x.group) for _, x in self.axes)])
        self.state_base, state = [], [0, 0]
        for i, (y, x) in enumerate(self.axes):
            self.state_base.append(state[i % 2])
            state[i % 2] += y.out * x.out * per_lane[i]
        self.entries = [_layer_entries(network, config, self, i) for i in range(len(layers))]
        self.used = {
            "weights of a lane": max(
                sum(len(layer[lane][0]) for layer in self.entries) for lane in range(config.lanes)
            ),
            "pointers of a lane": int(self.pointer_base[-1]) + 1,
            "neurons of a lane, even layers": state[0],
            "neurons of a lane, odd layers": state[1],
            "channels of a lane": int(self.channel_base[-1]),
            "bytes of a frame": network.input.pixels,
            "stacked frames": network.input.stack,
            "layers": len(layers),
            "input map rows, all layers": int(self.map_rows[-1]),
            "input map columns, all layers": int(self.map_columns[-1]),
            "output map rows": max(y.out for y, _ in self.axes),
            "output map columns": max(x.out for _, x in self.axes),
        }


def _plans(
    network: QuantisedNetwork, config: BuildConfig, finest: list[Fold], loads: list[Ints],
    candidates: Sequence[Fold],
) -> list[_Plan]:  # fmt: skip
    """The plans that fit among these ways to fold, coarsest first, balanced by `loads` of the
    `finest` folds; raises UserError where none fits."""
    plans: list[_Plan] = []
    refusal = None
    for candidate in candidates:
        folds = choose_folds(network, candidate)
        if any(plan.placement.folds == folds for plan in plans):
            continue
        coarse = [coarser(m, f, c) for m, f, c in zip(loads, finest, folds, strict=True)]
        try:
            plan = _Plan(network, config, Placement.balanced(network, config, folds, coarse))
            _check_fit(config, plan.used)
        except UserError as error:
            refusal = refusal or error
            continue
        plans.append(plan)
    if not plans:
        assert refusal is not None
        raise refusal
    return plans


def _predicted(
    image: Image, trace: Sequence[npt.NDArray[np.uint8]], fired: Sequence[Sequence[Ints]]
) -> int:
    """Cycles of a trace, without the cold start where there is more."""
    model = CycleModel(image)
    cycles = [model.step(frame, events).total for frame, events in zip(trace, fired, strict=True)]
    return sum(cycles[1:] or cycles)


def compile_network(
    network: QuantisedNetwork,
    config: BuildConfig,
    trace: Sequence[npt.NDArray[np.uint8]] = (),
    *,
    fold: Fold | None = None,
) -> Image:
    """Compile. `trace` is an unbroken stretch of frames that the lanes are balanced by.

    `fold` (one of `fold.FOLDS`) says how maps are folded; by default, of those that fit, the one
    with which the trace takes the fewest cycles by the cycle model. Where there is no trace, or
    where what it asks for does not fit, lanes are balanced by stored weights, and the busiest lane
    decides.
    Raises `UserError` with a table when a memory is too small, and with one line when a width is.
    """
    _check_widths(network, config)
    candidates = FOLDS if fold is None else (fold,)
    finest = choose_folds(network, FOLDS[-1])
    if len(trace):
        traffic = measure_traffic(network, list(trace), finest)
        try:
            plans = _plans(network, config, finest, traffic.loads, candidates)
        except UserError:
            pass  # equal times may put more weights into one lane than equal shares do
        else:
            images = [_write_image(network, config, plan) for plan in plans]
            if len(images) == 1:
                return images[0]
            return min(images, key=lambda image: _predicted(image, trace, traffic.fired))
    weights = [
        np.repeat(np.count_nonzero(layer.weight, axis=(1, 2, 3)), fy * fx)[None]
        for layer, (fy, fx) in zip(network.layers, finest, strict=True)
    ]
    plans = _plans(network, config, finest, weights, candidates)
    return _write_image(network, config, min(plans, key=lambda plan: plan.placement.cost))


def _write_image(network: QuantisedNetwork, config: BuildConfig, plan: _Plan) -> Image:
    """The image of a plan."""
    layers, placement = network.layers, plan.placement

    table: dict[str, list[int]] = {}
    rows: list[dict[str, Ints]] = []
    columns: list[dict[str, Ints]] = []
    maps = []
    for i, layer in enumerate(layers):
        y, x = plan.axes[i]
        n = placement.per_lane[i]
        row, column = y.rows(x.out * n, x.taps), x.rows(n, 1)
        # Relative addresses count down from channel n - 1 of tap 0's position.
        row["base"] = np.where(row["count"] > 0, row["base"] + plan.state_base[i] + n - 1, 0)
        rows.append(row)
        columns.append(column)
        values = {
            "pointer_base": int(plan.pointer_base[i]),
            "taps": plan.taps[i],
            "row_base": int(plan.map_rows[i]),
            "column_base": int(plan.map_columns[i]),
            "rows": y.out,
            "columns": x.out,
            "channels": n,
            "row_stride": x.out * n,
            "state_base": plan.state_base[i],
            "channel_base": int(plan.channel_base[i]),
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
                fold=placement.folds[i],
                slots=tuple(int(s) for s in placement.slots(i)),
                local=placement.is_local(i),
                channels=n,
                state_base=plan.state_base[i],
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
            **_lane_memories(network, config, plan),
        },
        used=plan.used,
        network=network.digest,
    )


def _joined(tables: Sequence[dict[str, Ints]]) -> dict[str, Ints]:
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def _layer_entries(
    network: QuantisedNetwork, config: BuildConfig, plan: _Plan, i: int
) -> list[tuple[Ints, Ints, Ints]]:
    """For each lane: stored weights and relative addresses in memory order, weights per tap."""
    layer, placement = network.layers[i], plan.placement
    n = placement.per_lane[i]
    y, x = plan.axes[i]
    # Taps in memory order: y group, x group, then y tap, x tap.
    pairs = [
        (ty, tx)
        for rows in y.groups
        for columns in x.groups
        for ty in range(rows.start, rows.stop)
        for tx in range(columns.start, columns.stop)
    ]
    ty, tx = np.array(pairs, np.int64).reshape(-1, 2).T
    back = (y.back[ty] * x.out + x.back[tx]) * n
    if back.max(initial=0) + n > 1 << config.relative_bits:
        raise UserError(
            f"{layer.name}: a relative address needs {int(back.max() + n - 1).bit_length()} bits "
            f"and has {config.relative_bits}: raise relative_bits, or use more lanes"
        )
    folded = folded_weights(layer, y, x)
    found = []
    for lane, group in enumerate(placement.groups[i]):
        # The lane's weights as (input slot, tap, channel of the lane).
        mine = np.zeros((placement.inputs(network, i), len(ty), len(group)), np.int64)
        weight = folded[group][:, :, ty, tx].transpose(1, 2, 0)
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
    network: QuantisedNetwork, config: BuildConfig, plan: _Plan
) -> dict[Space, Ints]:
    """POINTER, WEIGHT and CHANNEL rows: (lanes, rows, words), padded to the fullest lane."""
    placement = plan.placement
    found: dict[Space, list[Ints]] = {Space.POINTER: [], Space.WEIGHT: [], Space.CHANNEL: []}
    for lane in range(config.lanes):
        weight, relative, taps = (
            np.concatenate([layer[lane][j] for layer in plan.entries]) for j in range(3)
        )
        found[Space.POINTER].append(
            pack(config, Space.POINTER, {"start": np.concatenate([[0], np.cumsum(taps)])})
        )
        found[Space.WEIGHT].append(
            pack(config, Space.WEIGHT, {"weight": weight, "relative": relative})
        )
        channels: dict[str, list[Ints]] = {}
        for i, layer in enumerate(network.layers):
            group = np.array(placement.groups[i][lane], np.int64)
            fold = placement.folds[i]
            channel, classes = np.divmod(group, fold[0] * fold[1])
            qy, qx = np.divmod(classes, fold[1])
            # The sum over the lanes of a local layer contains the bias once.
            once = 0 if placement.is_local(i) and lane else 1
            spare = np.zeros(placement.per_lane[i] - len(group), np.int64)  # never fires
            _, height, width = layer.out_shape
            values = {
                "bias": layer.bias[channel] * once,
                "multiplier": layer.multiplier[channel],
                "short_rows": qy > (height - 1) % fold[0],
                "short_columns": qx > (width - 1) % fold[1],
            }
            for name, value in values.items():
                channels.setdefault(name, []).append(np.concatenate([value, spare]))
        joined = {name: np.concatenate(parts) for name, parts in channels.items()}
        found[Space.CHANNEL].append(pack(config, Space.CHANNEL, joined))
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
