"""The fast engine: what `golden` and `floatnet` compute, event by event, one compiled call a step.

`Engine` equals `golden.Golden` to the bit, always. `FloatEngine` equals `floatnet.FloatDelta` up to
the order of float32 sums. Both run the same kernel.

How it is fast on one core:

* Maps lie as (y, x, channel), and the taps of a kernel phase by phase, in the order in which an
  event meets the outputs. So the weights that an event meets are one run of memory (one for each
  row of taps where columns fall off the map), and the accumulators that they change lie alike.
* Weights that are zero are multiplied like all others (but never counted): a vector unit does that
  faster than it could look addresses up, even where only one weight in a hundred is not zero.
* Events that meet the same outputs are handled together, four at a time: groups of such inputs are
  known beforehand, and inputs are examined group by group. Most changes are small, so that the sum
  of four products fits 16 bits, of which a vector holds twice as many as of 32; where it might not
  fit, each product is added alone.
* The stack of frames is a list of past events: the channels of an older frame send what the newer
  ones sent one step before, so one frame is compared and not `stack` frames.
* Only output positions that an event reached are examined again.
* All of a step is compiled as one function: what numba counts references of is then looked up once,
  and not for each layer, which would take a tenth of a step.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types
from numba.experimental import structref

from .arithmetic import PIXEL_MAX, WEIGHT_MAX, activation_range, signed_bits
from .compiled import compiled, inlined
from .errors import UserError
from .floatnet import FloatStep
from .golden import Step
from .network import InputSpec, LinearLayer, Network
from .quantise import QuantisedLayer, QuantisedNetwork, per_layer
from .vectors import (
    LANES,
    beyond,
    choose,
    load,
    lowest,
    marks,
    minus,
    plus,
    scaled,
    store,
    times,
    unlike,
)

__all__ = ["ACCUMULATOR_BITS", "Engine", "FloatEngine"]

Array = npt.NDArray[Any]

ACCUMULATOR_BITS = 32
CACHE_LINE = 64  # bytes
PIXEL = np.dtype(np.uint8)
TOGETHER = 4  # events multiplied at once
BLOCK = 16  # events of a pass over their outputs: few enough that the processor knows their pages
ONE, TWO, THREE, FOUR = (np.uint64(n) for n in (1, 2, 3, TOGETHER))


# What the kernel knows of one layer. Offsets count items of the flat arrays of `_Plan`, `_State`.
LAYER = np.dtype(
    [
        ("in_channels", np.int64),
        ("in_positions", np.int64),
        ("taps", np.int64),  # of one input channel
        ("out_width", np.int64),
        ("out_positions", np.int64),
        ("out_channels", np.int64),
        ("pitch", np.int64),  # places that the output channels of a position take: whole vectors
        ("inputs", np.int64),  # into `inputs`
        ("places", np.int64),  # into `places`
        ("groups", np.int64),  # into `groups` and `batch`
        ("weights", np.int64),  # into `weights`
        ("events", np.int64),  # into `address` and `delta`
        ("channels", np.int64),  # into `multiplier`: output channels
        ("positions", np.int64),  # into `marks`: output positions
        ("touched", np.int64),  # into `touched` and `order`: output positions, whole vectors
        ("neurons", np.int64),  # into `acc` and `sent`: output neurons
        ("low", np.float64),  # of the activations
        ("high", np.float64),
        ("half", np.float64),  # added before rounding down; 0: no rounding
    ]
)

# The outputs that all inputs of a group meet: a window of the map.
GROUP = np.dtype(
    [
        ("position", np.int64),  # of its first output
        ("rows", np.int64),
        ("columns", np.int64),
        ("step", np.int64),  # taps from one row of outputs to the next
        ("counts", np.int64),  # into `counts`
    ]
)


class _Activation(NamedTuple):
    """`clip(acc * multiplier + half, low, high)`, rounded down if half is not 0."""

    multiplier: Array  # (out,)
    low: float
    high: float
    half: float


class _Plan(NamedTuple):
    """A network in the kernel's layout; nothing here changes while it runs.

    A group is all input positions of a layer that meet the same outputs. A column is the weights
    that an event meets, named after its first tap: `channel * taps + tap`.
    """

    layers: Array  # LAYER
    inputs: npt.NDArray[np.int32]  # (n, 2) group and first tap of an input position
    places: npt.NDArray[np.int32]  # the input position of a group and a first tap
    pixels: npt.NDArray[np.int32]  # (pixels, 2) column and group of a pixel of the oldest frame
    groups: Array  # GROUP
    marks: npt.NDArray[np.int32]  # (positions,) the place in `touched` of each output position
    order: npt.NDArray[np.int32]  # (n,) output positions, in the order of the next layer's groups
    weights: Array  # int8 or float32
    counts: npt.NDArray[np.int32]  # stored weights of a column, for groups of one shape
    multiplier: npt.NDArray[np.float64]
    levels: Array  # (256,) what a pixel of each value sends
    limit: float  # sum of four absolute changes up to which their products fit `vectors.load`


class _State(NamedTuple):
    """Everything that a step changes. The values are int32 or float32.

    An event is an address (its column) and a delta; a batch is all events of a group. A batch takes
    a multiple of `TOGETHER` places: its last ones may hold zeros, which are no events.
    """

    frame: npt.NDArray[np.uint8]  # (pixels,) the new frame, filled up to whole vectors
    history: npt.NDArray[np.uint8]  # (stack, pixels) what the pixels sent last: a ring
    past_address: npt.NDArray[np.int32]  # (stack, pixels, 2) and group, of each frame: a ring
    past_delta: Array  # (stack, pixels)
    past_events: npt.NDArray[np.int64]  # (stack,) how many
    cursor: npt.NDArray[np.int64]  # room for the groups of the first layer; zeros
    acc: Array  # (neurons,)
    sent: Array  # (neurons,) what each layer's outputs sent last
    touched: npt.NDArray[np.uint8]  # whether an event reached the position, 0 or 1
    batch: npt.NDArray[np.int32]  # (groups, 3) group, first event, end
    address: npt.NDArray[np.int32]  # (events,)
    delta: Array  # (events,)
    changes: Array  # room for a vector of changes
    thresholds: Array  # (layers,) of each layer's inputs, as the following
    batches: npt.NDArray[np.int64]  # how many
    events: npt.NDArray[np.int64]
    significant: npt.NDArray[np.int64]


@structref.register
class _MachineType(types.StructRef):  # type: ignore[misc]
    """The compiler's type of a `_Machine`."""


class _Machine(structref.StructRefProxy):  # type: ignore[misc]
    """Plan and state as one reference: passing all arrays would cost a tenth of a step."""


structref.define_proxy(_Machine, _MachineType, ["plan", "state"])


@compiled
def _bind(plan: _Plan, state: _State) -> _Machine:
    """Compiled only because the compiler keeps the result on disk."""
    return _Machine(plan, state)


@compiled
def _whole(count: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return (count + unit - 1) // unit * unit


@inlined
def _compare(plan: _Plan, state: _State, slot: int, before: int) -> None:
    """Threshold the new frame against ring slot `before`: fill slot `slot` with its events."""
    threshold, levels, pixels = state.thresholds[0], plan.levels, plan.pixels
    frame, sent, older = state.frame, state.history[slot], state.history[before]
    address, delta = state.past_address[slot], state.past_delta[slot]
    for i in range(len(sent)):  # an assignment of the whole would take ten times as long
        sent[i] = older[i]
    events = np.uint64(0)
    for first in range(np.uint64(0), np.uint64(len(frame)), np.uint64(LANES)):
        changed = unlike(frame, older, first)
        while changed:
            i = first + lowest(changed)
            changed &= changed - np.uint32(1)
            change = levels[frame[i]] - levels[older[i]]
            if abs(change) > threshold:
                address[events, 0], address[events, 1] = pixels[i, 0], pixels[i, 1]
                delta[events] = change
                sent[i] = frame[i]
                events += ONE
    state.past_events[slot] = events


@inlined
def _fill_up(state: _State, end: int) -> int:
    """End a batch that has events up to `end`: fill it up with zeros, return where it ends then."""
    filled = _whole(end, TOGETHER)
    for place in range(end, filled):
        state.address[place], state.delta[place] = state.address[end - 1], 0
    return filled


@inlined
def _replay(plan: _Plan, state: _State, slot: int) -> None:
    """Batch what all channels of the stack send when `slot` is the newest one's."""
    layer = plan.layers[0]
    stack = len(state.history)
    channel_step = layer.in_channels // stack * layer.taps
    cursor, batch = state.cursor, state.batch
    batches = events = 0
    for past in range(stack):
        address = state.past_address[past]
        for event in range(state.past_events[past]):
            group = address[event, 1]
            if cursor[group] == 0:
                batch[batches, 0] = group
                batches += 1
            cursor[group] += 1
        events += state.past_events[past]
    state.batches[0] = batches
    state.events[0] = events
    place = 0
    for b in range(batches):
        group = batch[b, 0]
        batch[b, 1] = place
        batch[b, 2] = place + cursor[group]
        cursor[group] = place
        place = _whole(batch[b, 2], TOGETHER)
    for past in range(stack):
        address, delta = state.past_address[past], state.past_delta[past]
        shift = (past - slot - 1) % stack * channel_step
        for event in range(state.past_events[past]):
            group = address[event, 1]
            place = cursor[group]
            cursor[group] += 1
            state.address[place] = address[event, 0] + shift
            state.delta[place] = delta[event]
    for b in range(batches):
        _fill_up(state, batch[b, 2])
        cursor[batch[b, 0]] = 0


@inlined
def _multiply(plan: _Plan, state: _State, i: int) -> None:
    """Add the products of layer i's events to its accumulators, and count them."""
    layer = plan.layers[i]
    counts, places, touched = plan.counts, plan.marks, state.touched
    address, delta, batch = state.address, state.delta, state.batch
    products = 0
    # Addresses in inner loops are unsigned: the compiler then knows that none counts from the end.
    for b in range(layer.groups, layer.groups + state.batches[i]):
        group = plan.groups[layer.groups + batch[b, 0]]
        begin, end = layer.events + batch[b, 1], layer.events + batch[b, 2]
        for event in range(begin, end):
            products += counts[np.uint64(group.counts + address[event])]
        first = layer.positions + group.position
        for row in range(group.rows):
            for column in range(group.columns):
                touched[places[first + row * layer.out_width + column]] = 1
        base = layer.neurons + group.position * layer.pitch
        for k in range(begin, end, BLOCK):
            last = min(k + BLOCK, end)
            _add_products(
                state.acc, plan.weights, address, delta, plan.limit, layer, group, base, k, last
            )
    state.significant[i] = products


@inlined
def _four(weights: Any, address: Any, delta: Any, event: Any, weight: Any, pitch: Any) -> Any:
    """The sum of the products of four events with vectors of their columns."""
    w0 = weight + np.uint64(address[event]) * pitch
    w1 = weight + np.uint64(address[event + ONE]) * pitch
    w2 = weight + np.uint64(address[event + TWO]) * pitch
    w3 = weight + np.uint64(address[event + THREE]) * pitch
    total = times(load(weights, w0), delta[event])
    total = plus(total, times(load(weights, w1), delta[event + ONE]))
    total = plus(total, times(load(weights, w2), delta[event + TWO]))
    return plus(total, times(load(weights, w3), delta[event + THREE]))


@inlined
def _add_products(
    acc: Any,
    weights: Any,
    address: Any,
    delta: Any,
    limit: Any,
    layer: Any,
    group: Any,
    base: Any,
    begin: Any,
    end: Any,
) -> None:
    """Add the products of the events from `begin` to `end`, all of one batch."""
    pitch = np.uint64(layer.pitch)
    first, last, lanes = np.uint64(begin), np.uint64(end), np.uint64(LANES)
    largest = 0 * abs(delta[first])
    for event in range(first, last, FOUR):
        size = abs(delta[event]) + abs(delta[event + ONE])
        size += abs(delta[event + TWO]) + abs(delta[event + THREE])
        largest = max(largest, size)
    narrow = largest <= limit  # the products of four fit the narrow type together
    length = np.uint64(group.columns) * pitch
    for row in range(np.uint64(group.rows)):
        neuron = np.uint64(base) + row * np.uint64(layer.out_width) * pitch
        weight = np.uint64(layer.weights) + row * np.uint64(group.step) * pitch
        k = np.uint64(0)
        while k < length:
            total = load(acc, neuron + k)
            if not narrow:
                for event in range(first, last):
                    column = weight + np.uint64(address[event]) * pitch + k
                    total = plus(total, times(load(weights, column), delta[event]))
                store(acc, neuron + k, total)
                k += lanes
                continue
            if k + lanes == length:
                for event in range(first, last, FOUR):
                    total = plus(total, _four(weights, address, delta, event, weight + k, pitch))
                store(acc, neuron + k, total)
                break
            # Two vectors at once: half the addresses to work out.
            other = load(acc, neuron + k + lanes)
            for event in range(first, last, FOUR):
                total = plus(total, _four(weights, address, delta, event, weight + k, pitch))
                at = weight + k + lanes
                other = plus(other, _four(weights, address, delta, event, at, pitch))
            store(acc, neuron + k, total)
            store(acc, neuron + k + lanes, other)
            k += lanes + lanes


@inlined
def _fire(plan: _Plan, state: _State, i: int) -> None:
    """Examine layer i's inputs where touched and batch the events that they send."""
    layer, before = plan.layers[i], plan.layers[i - 1]
    taps, first_channel = layer.taps, np.uint64(before.channels)
    low, high, half, threshold = before.low, before.high, before.half, state.thresholds[i]
    pitch = np.uint64(before.pitch)
    multiplier, acc, sent, changes = plan.multiplier, state.acc, state.sent, state.changes
    batch, address, delta, touched = state.batch, state.address, state.delta, state.touched
    batches, last, count, place = layer.groups - 1, -1, 0, layer.events
    first_mark, positions = np.uint64(before.touched), np.uint64(before.out_positions)
    for mark in range(first_mark, first_mark + positions, np.uint64(LANES)):
        reached = marks(touched, mark)
        while reached:
            n = mark + lowest(reached)
            reached &= reached - np.uint32(1)
            touched[n] = 0
            position = plan.order[n]
            group, column = plan.inputs[layer.inputs + position]
            if group != last and place > layer.events:
                place = _fill_up(state, place)
            begin, end = place, np.uint64(place)
            neuron = np.uint64(before.neurons + position * before.pitch)
            for c in range(np.uint64(0), pitch, np.uint64(LANES)):
                factors = load(multiplier, first_channel + c)
                new = scaled(load(acc, neuron + c), factors, half, low, high)
                old = load(sent, neuron + c)
                change = minus(new, old)
                fired = beyond(change, threshold)
                if fired == 0:
                    continue
                store(sent, neuron + c, choose(fired, new, old))
                store(changes, np.uint64(0), change)
                while fired:
                    channel = lowest(fired)
                    fired &= fired - np.uint32(1)
                    address[end] = column + np.int64(c + channel) * taps
                    delta[end] = changes[channel]
                    end += ONE
            place = np.int64(end)
            if place == begin:
                continue
            count += place - begin
            if group != last:
                last = group
                batches += 1
                batch[batches, 0], batch[batches, 1] = group, begin - layer.events
            batch[batches, 2] = place - layer.events
    if place > layer.events:
        _fill_up(state, place)
    state.batches[i] = batches + 1 - layer.groups
    state.events[i] = count


@compiled
def _step(machine: _Machine, slot: int, copies: bool) -> None:
    """One frame through all layers.

    `slot` of the ring takes the new frame; `copies` makes the older frames copies of this one.
    """
    plan, state = machine.plan, machine.state
    stack = len(state.history)
    for past in range(stack if copies else 1):
        _compare(plan, state, (slot + past) % stack, (slot - 1) % stack)
    _replay(plan, state, slot)
    for i in range(len(plan.layers)):
        if i > 0:
            _fire(plan, state, i)
        _multiply(plan, state, i)


@compiled
def _list_events(machine: _Machine, fired: npt.NDArray[np.int32], values: Array) -> None:
    """Flat indices of the inputs that sent in the last step, layer after layer, and what."""
    plan, state = machine.plan, machine.state
    batch, address = state.batch, state.address
    count = 0
    for i in range(len(plan.layers)):
        layer = plan.layers[i]
        for b in range(layer.groups, layer.groups + state.batches[i]):
            first = layer.places + batch[b, 0] * layer.taps
            for event in range(layer.events + batch[b, 1], layer.events + batch[b, 2]):
                channel = address[event] // layer.taps
                place = plan.places[first + address[event] - channel * layer.taps]
                fired[count] = channel * layer.in_positions + place
                values[count] = state.delta[event]
                count += 1


class _Met(NamedTuple):
    """What an input coordinate meets on one axis of a kernel, whose taps are sorted by phase."""

    first: int  # output
    outputs: int  # how many, each with the next tap
    before: int  # taps of the phases before
    taps: int  # of this phase
    tap: int  # within the phase, that meets the first output


def _axis(size: int, kernel: int, stride: int, padding: int, outputs: int) -> list[_Met]:
    """What each input coordinate of one axis meets.

    The taps of a phase descend in the kernel, because the outputs then ascend.
    """
    axis = []
    for x in range(padding, size + padding):
        phase, last = x % stride, x // stride
        taps = len(range(phase, kernel, stride))
        first = max(0, last - taps + 1)
        axis.append(
            _Met(
                first=first,
                outputs=max(0, min(last, outputs - 1) - first + 1),
                before=sum(len(range(p, kernel, stride)) for p in range(phase)),
                taps=taps,
                tap=first - (last - taps + 1),
            )
        )
    return axis


def _tap_order(kernel: tuple[int, ...], stride: tuple[int, int]) -> tuple[list[int], list[int]]:
    """Kernel rows and columns of all taps: phase by phase, each with the outputs ascending."""
    rows, columns = (
        [range(k)[phase::s][::-1] for phase in range(s)]
        for k, s in zip(kernel, stride, strict=True)
    )
    taps = [(y, x) for ys in rows for xs in columns for y in ys for x in xs]
    return [y for y, _ in taps], [x for _, x in taps]


def _window_sums(counts: Array, rows: int, columns: int, step: int) -> Array:
    """Of (channel, tap), the sums over the windows that begin at each tap."""
    total = np.zeros_like(counts)
    for row in range(rows):
        for tap in range(row * step, min(row * step + columns, counts.shape[1])):
            total[:, : counts.shape[1] - tap] += counts[:, tap:]
    return total


def _zeros(shape: int | tuple[int, ...], kind: npt.DTypeLike) -> Array:
    """Zeros that begin with a cache line: vectors that straddle two lines take twice as long."""
    kind = np.dtype(kind)
    size = int(np.prod(shape)) * kind.itemsize
    room = np.zeros(size + CACHE_LINE, np.uint8)
    return room[-room.ctypes.data % CACHE_LINE :][:size].view(kind).reshape(shape)


class _Flat:
    """Arrays that grow: parts of all layers, one after the other."""

    def __init__(self, **kinds: Any) -> None:
        self.kinds = kinds
        self.parts: dict[str, list[Array]] = {name: [] for name in kinds}

    def append(self, name: str, items: Any) -> int:
        """Put items at the end and return where they start."""
        start = sum(len(part) for part in self.parts[name])
        self.parts[name].append(np.asarray(items, self.kinds[name]))
        return start

    def join(self) -> dict[str, Array]:
        """The arrays."""
        joined = {}
        for name, parts in self.parts.items():
            shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
            joined[name] = np.concatenate(parts, out=_zeros(shape, parts[0].dtype))
        return joined


def _append_marks(flat: _Flat, entry: Any, order: Array) -> None:
    """Give a layer's output positions their places in `_State.touched`: in this order."""
    entry["touched"] = flat.append("order", np.pad(order, (0, -len(order) % LANES)))
    entry["positions"] = flat.append("marks", entry["touched"] + np.argsort(order))


def _build_plan(
    stack: int,
    layers: Sequence[LinearLayer | QuantisedLayer],
    activations: Sequence[_Activation],
    levels: Array,
    limit: float,
) -> _Plan:
    """Lay the network out as the module's docstring says."""
    table = np.zeros(len(layers), LAYER)
    flat = _Flat(
        inputs=np.int32,
        places=np.int32,
        pixels=np.int32,
        groups=GROUP,
        marks=np.int32,
        order=np.int32,
        weights=layers[0].weight.dtype,
        counts=np.int32,
        multiplier=np.float64,
    )
    events = neurons = 0
    for i, (layer, activation) in enumerate(zip(layers, activations, strict=True)):
        entry = table[i]
        channels, in_height, in_width = layer.in_shape
        out, out_height, out_width = layer.out_shape
        kernel_y, kernel_x = layer.weight.shape[2:]
        order_y, order_x = _tap_order((kernel_y, kernel_x), layer.stride)
        pitch = _whole(out, LANES)
        weights = np.pad(layer.weight, ((0, pitch - out), (0, 0), (0, 0), (0, 0)))
        weights = weights.transpose(1, 2, 3, 0)[:, order_y, order_x]
        entry["weights"] = flat.append("weights", weights.ravel())
        counts = (weights != 0).sum(axis=2)

        numbers: dict[tuple[int, int, int, int], int] = {}
        inputs: list[tuple[int, int]] = []
        for y in _axis(in_height, kernel_y, layer.stride[0], layer.padding[0], out_height):
            for x in _axis(in_width, kernel_x, layer.stride[1], layer.padding[1], out_width):
                window = (y.first * out_width + x.first, y.outputs, x.outputs, x.taps)
                tap = y.before * kernel_x + y.taps * x.before + y.tap * x.taps + x.tap
                if not (y.outputs and x.outputs):
                    window, tap = (len(inputs), 0, 0, 0), 0  # it meets nothing: a group of its own
                group = numbers.setdefault(window, len(numbers))
                inputs.append((group, tap))
        entry["inputs"] = flat.append("inputs", inputs)
        places = np.zeros((len(numbers), kernel_y * kernel_x), np.int32)
        places[tuple(np.transpose(inputs))] = np.arange(len(inputs))
        entry["places"] = flat.append("places", places.ravel())
        if i > 0:
            order = np.argsort([group for group, _ in inputs], kind="stable")
            _append_marks(flat, table[i - 1], order)
        else:
            of_channel = range(0, channels // stack * kernel_y * kernel_x, kernel_y * kernel_x)
            flat.append("pixels", [(c + tap, group) for group, tap in inputs for c in of_channel])
        sums = {
            shape: flat.append("counts", _window_sums(counts, *shape).ravel())
            for shape in dict.fromkeys(window[1:] for window in numbers)
        }
        groups = [(*window, sums[window[1:]]) for window in numbers]
        entry["groups"] = flat.append("groups", np.array(groups, GROUP))

        # Without a multiplier, what fills the last vector up stays zero.
        multiplier = np.pad(activation.multiplier, (0, pitch - out))
        entry["channels"] = flat.append("multiplier", multiplier)
        for name in ("low", "high", "half"):
            entry[name] = getattr(activation, name)
        entry["in_channels"], entry["in_positions"] = channels, in_height * in_width
        entry["taps"], entry["out_width"] = kernel_y * kernel_x, out_width
        entry["out_channels"], entry["pitch"] = out, pitch
        entry["out_positions"] = out_height * out_width
        entry["events"], entry["neurons"] = events, neurons
        events += _whole(channels * in_height * in_width, TOGETHER) + TOGETHER * len(groups)
        neurons += out_height * out_width * pitch
    _append_marks(flat, table[-1], np.arange(table[-1]["out_positions"]))
    return _Plan(layers=table, levels=levels, limit=limit, **flat.join())


def _build_state(spec: InputSpec, plan: _Plan) -> _State:
    """Room for one running network."""
    kind = plan.levels.dtype
    filled = _whole(spec.pixels, LANES)
    layers = plan.layers
    count, groups = len(layers), len(plan.groups)
    events = int((layers["in_positions"] * layers["in_channels"]).sum())
    neurons = int((layers["out_positions"] * layers["pitch"]).sum())
    return _State(
        frame=_zeros(filled, np.uint8),
        history=_zeros((spec.stack, filled), np.uint8),
        past_address=_zeros((spec.stack, spec.pixels, 2), np.int32),
        past_delta=_zeros((spec.stack, spec.pixels), kind),
        past_events=_zeros(spec.stack, np.int64),
        cursor=_zeros(groups, np.int64),
        acc=_zeros(neurons, kind),
        sent=_zeros(neurons, kind),
        touched=_zeros(len(plan.order), np.uint8),
        batch=_zeros((groups, 3), np.int32),
        address=_zeros(events + TOGETHER * (groups + count), np.int32),
        delta=_zeros(events + TOGETHER * (groups + count), kind),
        changes=_zeros(LANES, kind),
        thresholds=_zeros(count, kind),
        batches=_zeros(count, np.int64),
        events=_zeros(count, np.int64),
        significant=_zeros(count, np.int64),
    )


class _Delta:
    """What both engines share: layout, state and one step."""

    def __init__(
        self,
        spec: InputSpec,
        layers: Sequence[LinearLayer | QuantisedLayer],
        activations: Sequence[_Activation],
        levels: Array,
        limit: float,
    ) -> None:
        self._spec = spec
        self._in_shapes = [layer.in_shape for layer in layers]
        self._out_shapes = [layer.out_shape for layer in layers]
        self._plan = _build_plan(spec.stack, layers, activations, levels, limit)
        self._state = _build_state(spec, self._plan)
        self._machine = _bind(self._plan, self._state)
        # As frames mostly come: without an axis of one channel.
        shape = spec.frame_shape if spec.channels > 1 else spec.frame_shape[:2]
        self._pixels = self._state.frame[: spec.pixels].reshape(shape)
        self._biases = np.concatenate(
            [
                np.tile(np.pad(layer.bias, (0, entry["pitch"] - len(layer.bias))), count)
                for layer, entry in zip(layers, self._plan.layers, strict=True)
                for count in [entry["out_positions"]]
            ]
        )
        last = self._plan.layers[-1]
        self._outputs = self._state.acc[last["neurons"] :][: last["out_channels"]]
        self.reset()

    def reset(self) -> None:
        """Start an episode: nothing was ever sent, accumulators hold their biases."""
        state = self._state
        state.acc[:] = self._biases
        for array in (state.sent, state.history, state.past_events, state.events):
            array[...] = 0
        self._age = 0  # steps since the reset
        self._examine_all()

    def _examine_all(self) -> None:
        """The next step examines all neurons."""
        self._state.touched[self._plan.marks] = 1

    def _advance(self, frame: npt.NDArray[np.uint8]) -> tuple[list[int], list[int]]:
        """One step; returns events and significant multiplications of each layer."""
        state, spec = self._state, self._spec
        pixels = self._pixels
        if type(frame) is not np.ndarray or frame.dtype is not PIXEL or frame.shape != pixels.shape:
            frame = spec.check_frame(frame).reshape(pixels.shape)
        pixels[...] = frame
        copies = spec.history == "repeat" and self._age == 0
        if spec.history == "repeat" and self._age == 1:
            state.past_events[:] = 0  # the copies of the first frame sent together with it
        _step(self._machine, self._age % spec.stack, copies)
        self._age += 1
        return state.events.tolist(), state.significant.tolist()

    @property
    def acc(self) -> list[Array]:
        """Accumulators of each layer, (out, h, w)."""
        return self._maps(self._state.acc)

    @property
    def sent(self) -> list[Array]:
        """What each layer's inputs last sent, (in, h, w)."""
        spec = self._spec
        oldest_first = np.roll(self._state.history, -self._age % spec.stack, axis=0)
        frames = self._plan.levels[oldest_first[:, : spec.pixels]]
        stacked = frames.reshape(-1, *spec.frame_shape).transpose(0, 3, 1, 2)
        return [stacked.reshape(-1, *stacked.shape[2:]), *self._maps(self._state.sent)[:-1]]

    @property
    def delta(self) -> list[Array]:
        """The last step's events of each layer's inputs, (in, h, w)."""
        found = []
        fired, values = self._list_events()
        for shape, where, value in zip(self._in_shapes, fired, values, strict=True):
            delta = np.zeros(shape, value.dtype)
            delta.reshape(-1)[where] = value
            found.append(delta)
        return found

    @property
    def fired(self) -> list[npt.NDArray[np.int32]]:
        """Which of each layer's inputs sent in the last step: flat indices into (in, h, w)."""
        return self._list_events()[0]

    def _list_events(self) -> tuple[list[Array], list[Array]]:
        """The last step's events of each layer: flat indices of inputs, and what they sent."""
        ends = np.cumsum(self._state.events)
        fired = np.empty(ends[-1], np.int32)
        values = np.empty(ends[-1], self._state.delta.dtype)
        _list_events(self._machine, fired, values)
        parts = [slice(*part) for part in itertools.pairwise([0, *ends.tolist()])]
        return [fired[part] for part in parts], [values[part] for part in parts]

    def _maps(self, neurons: Array) -> list[Array]:
        """Flat output neurons as (out, h, w) of each layer; copies."""
        return [
            neurons[layer["neurons"] :][: height * width * layer["pitch"]]
            .reshape(height, width, layer["pitch"])
            .transpose(2, 0, 1)[:out]
            .copy()
            for layer, (out, height, width) in zip(self._plan.layers, self._out_shapes, strict=True)
        ]


class Engine(_Delta):
    """`golden.Golden` quickly: the same results to the bit, from the same interface.

    Raises `UserError` when an accumulator could need more than 32 bits.
    """

    def __init__(self, network: QuantisedNetwork) -> None:
        for layer in network.layers:
            bits = signed_bits(layer.accumulator_bound)
            if bits > ACCUMULATOR_BITS:
                raise UserError(
                    f"{layer.name}: an accumulator may need {bits} bits and the engine has "
                    f"{ACCUMULATOR_BITS}: clip its weights or its bias"
                )
        activations = []
        for layer in network.layers:
            low, high = activation_range(layer.signed)
            multiplier = layer.multiplier * 2.0**-layer.shift
            activations.append(_Activation(multiplier, low, high, half=0.5))
        levels = np.arange(PIXEL_MAX + 1, dtype=np.int32)
        limit = np.iinfo(np.int16).max // WEIGHT_MAX
        super().__init__(network.input, network.layers, activations, levels, limit)
        self.network = network
        self.set_thresholds(network.thresholds)

    def set_thresholds(self, counts: Sequence[int]) -> None:
        """Change thresholds between two frames, in counts (input first, then hidden layers)."""
        self.network = self.network.with_counts(counts)
        self._state.thresholds[:] = self.network.thresholds
        self._examine_all()

    def step(self, frame: npt.NDArray[np.uint8]) -> Step:
        """Advance by one new frame (height, width[, channels]) uint8."""
        events, significant = self._advance(frame)
        return Step(self._outputs.astype(np.int64), events, significant)


class FloatEngine(_Delta):
    """`floatnet.FloatDelta` quickly, fed with frames: the same up to the order of float32 sums.

    `thresholds` are in real units: one for all, or one for the input and each hidden layer.
    """

    def __init__(self, network: Network, thresholds: float | Sequence[float]) -> None:
        activations = []
        for layer in network.linear:
            low = 0.0 if layer.activation == "relu" else -np.inf
            one = np.ones(layer.out_shape[0])
            activations.append(_Activation(one, low, np.inf, half=0.0))
        levels = np.arange(PIXEL_MAX + 1, dtype=np.float32) / np.float32(PIXEL_MAX)
        super().__init__(network.input, network.linear, activations, levels, np.inf)
        self.network = network
        self.set_thresholds(thresholds)

    def set_thresholds(self, thresholds: float | Sequence[float]) -> None:
        """Change thresholds between two frames."""
        self._state.thresholds[:] = per_layer(thresholds, len(self._out_shapes))
        self._examine_all()

    def step(self, frame: npt.NDArray[np.uint8]) -> FloatStep:
        """Advance by one new frame (height, width[, channels]) uint8."""
        events, significant = self._advance(frame)
        return FloatStep(self._outputs.copy(), events, significant)
