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
  known beforehand, and inputs are examined group by group. Processors add the products of two pairs
  of 16 bits in one instruction, so the columns of four events are woven into one another on the way
  (`vectors.add_products`).
* Whatever fires in a vector of neurons is written side by side without a look at each, and a table
  says how many stored weights it meets.
* The stack of frames is a list of past events: the channels of an older frame send what the newer
  ones sent one step before, so one frame is compared, and its batches of events stay as they are
  for as long as the stack holds it; only the columns that they meet move on.
* Only output positions that an event reached are examined again.
* All of a step is compiled as one function, which is called without its arguments' types being
  looked up: what numba counts references of is then looked up once, and not for each layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types
from numba.experimental import structref

from .arithmetic import PIXEL_MAX, activation_range, signed_bits
from .compiled import compiled, direct, inlined
from .errors import UserError
from .floatnet import FloatStep
from .golden import Step
from .network import InputSpec, LinearLayer, Network
from .quantise import QuantisedLayer, QuantisedNetwork, per_layer
from .vectors import (
    LANES,
    RAISED,
    add_products,
    beyond,
    choose,
    load,
    lowest,
    marks,
    minus,
    ones,
    pack,
    plus,
    scaled,
    spread,
    store,
    store_sums,
    sums,
    total,
    twin_sums,
    unlike,
    woven,
)

__all__ = ["ACCUMULATOR_BITS", "Engine", "FloatEngine"]

Array = npt.NDArray[Any]

ACCUMULATOR_BITS = 32
CACHE_LINE = 64  # bytes
PIXEL = np.dtype(np.uint8)
TOGETHER = 4  # events multiplied at once
BLOCK = 32
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
        ("groups", np.int64),  # into `groups`
        ("batches", np.int64),  # into `batch`
        ("weights", np.int64),  # into `weights`
        ("events", np.int64),  # into `address` and `delta`
        ("slot_events", np.int64),  # from one ring slot's events to the next one's
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
    repeats: bool  # the first frame is copied to the whole stack
    # Sources of batches are the ring's slots, then what fires into each other layer.
    starts: npt.NDArray[np.int64]  # (sources,) into `batch`
    event_room: int
    batch_room: int
    groups: Array  # GROUP
    marks: npt.NDArray[np.int32]  # (positions,) the place in `touched` of each output position
    order: npt.NDArray[np.int32]  # (n,) output positions, in the order of the next layer's groups
    weights: Array  # uint8 or float32, see `vectors.woven`
    steps: npt.NDArray[np.int32]  # from the column of a position to that of an input channel
    # Stored weights that an event meets, for groups of one shape: by column and age of the frame in
    # the first layer, by tap and channel in the others.
    counts: npt.NDArray[np.int32]
    multiplier: npt.NDArray[np.float64]
    levels: Array  # (256,) what a pixel of each value sends
    raised: float  # what `vectors.woven` added to each weight


class _State(NamedTuple):
    """Everything that a step changes. The values are int32 or float32.

    An event is an address (its column) and a delta; a batch is all events of a group, in the first
    layer those of one frame. Its columns are those of the newest frame's channels. A batch takes a
    multiple of `TOGETHER` places: its last ones may hold zeros, which are no events.
    """

    age: npt.NDArray[np.int64]  # (1,) steps since the reset
    frame: npt.NDArray[np.uint8]  # (pixels,) the new frame, filled up to whole vectors
    # Rings of frames; the batches of their events are among the others.
    history: npt.NDArray[np.uint8]  # (stack, whole vectors of pixels) what the pixels sent last
    past_events: npt.NDArray[np.int64]  # (stack,) how many
    past_products: npt.NDArray[np.int64]  # (stack, stack) by age: of how many multiplications
    # The new frame's events by pixel. A run is neighbours of one group.
    column: npt.NDArray[np.int32]  # (pixels,)
    change: Array  # (pixels,)
    runs: npt.NDArray[np.int32]  # (pixels, 3) group, first event, end
    cursor: npt.NDArray[np.int64]  # room for the groups of the first layer; zeros
    acc: Array  # (neurons,)
    sent: Array  # (neurons,) what each layer's outputs sent last
    touched: npt.NDArray[np.uint8]  # whether an event reached the position, 0 or 1
    batch: npt.NDArray[np.int32]  # (batches, 3) group, first event, end
    address: npt.NDArray[np.int32]  # (events,)
    delta: Array  # (events,)
    thresholds: Array  # (layers,) of each layer's inputs, as the following
    batches: npt.NDArray[np.int64]  # (sources,) how many
    report: npt.NDArray[np.int64]  # (2, layers) the following
    events: npt.NDArray[np.int64]
    significant: npt.NDArray[np.int64]
    outputs: Array  # int64 or float32


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
def _fill_up(state: _State, end: int) -> int:
    """End a batch that has events up to `end`: fill it up with zeros, return where it ends then."""
    filled = _whole(end, TOGETHER)
    for place in range(end, filled):
        state.address[place], state.delta[place] = state.address[end - 1], 0
    return filled


@inlined
def _group(plan: _Plan, state: _State, slot: int, count: Any) -> None:
    """Make the batches of ring slot `slot` of `count` runs, and count their multiplications."""
    layer, stack = plan.layers[0], np.uint64(len(state.history))
    cursor, batch, runs = state.cursor, state.batch, state.runs
    address, delta, products = state.address, state.delta, state.past_products[slot]
    column, change, counts = state.column, state.change, plan.counts
    first = last = plan.starts[slot]
    for run in range(count):
        group = runs[run, 0]
        if cursor[group] == 0:
            batch[last, 0] = group
            last += 1
        cursor[group] += runs[run, 2] - runs[run, 1]
    place = layer.events + slot * layer.slot_events
    for b in range(first, last):
        group = batch[b, 0]
        batch[b, 1], batch[b, 2] = place, place + cursor[group]
        cursor[group] = place
        place = _whole(batch[b, 2], TOGETHER)
    for age in range(stack):
        products[age] = 0
    for run in range(count):
        group, begin, end = runs[run, 0], np.uint64(runs[run, 1]), np.uint64(runs[run, 2])
        place = np.uint64(cursor[group])
        cursor[group] += runs[run, 2] - runs[run, 1]
        stored = np.uint64(plan.groups[group].counts)
        for event in range(begin, end):
            address[place], delta[place] = column[event], change[event]
            place += ONE
            meets = stored + np.uint64(column[event]) * stack
            for age in range(stack):
                products[age] += counts[meets + age]
    for b in range(first, last):
        _fill_up(state, batch[b, 2])
        cursor[batch[b, 0]] = 0
    state.batches[slot] = last - first


@inlined
def _compare(plan: _Plan, state: _State, slot: int, before: int) -> None:
    """Threshold the new frame against ring slot `before`: fill slot `slot`, list its events."""
    threshold, levels, pixels = state.thresholds[0], plan.levels, plan.pixels
    frame, sent, older = state.frame, state.history[slot], state.history[before]
    column, change, runs = state.column, state.change, state.runs
    for i in range(len(sent)):  # an assignment of the whole would take ten times as long
        sent[i] = older[i]
    events = count = np.uint64(0)
    last = -1
    for first in range(np.uint64(0), np.uint64(len(sent)), np.uint64(LANES)):
        changed = unlike(frame, older, first)
        while changed:
            i = first + lowest(changed)
            changed &= changed - np.uint32(1)
            moved = levels[frame[i]] - levels[older[i]]
            if abs(moved) <= threshold:
                continue
            sent[i] = frame[i]
            if pixels[i, 1] != last:
                last = pixels[i, 1]
                runs[count, 0], runs[count, 1] = last, events
                count += ONE
            column[events], change[events] = pixels[i, 0], moved
            events += ONE
            runs[count - ONE, 2] = events
    _group(plan, state, slot, count)
    state.past_events[slot] = events


@inlined
def _multiply(plan: _Plan, state: _State, i: int, source: int, shift: int) -> None:
    """Add the products of a source's batches to layer i's accumulators, with columns `shift` on."""
    layer = plan.layers[i]
    places, touched, batch, delta = plan.marks, state.touched, state.batch, state.delta
    width = np.uint64(layer.out_width)
    # Addresses in inner loops are unsigned: the compiler then knows that none counts from the end.
    start = plan.starts[source]
    for b in range(start, start + state.batches[source]):
        group = plan.groups[layer.groups + batch[b, 0]]
        begin, end = batch[b, 1], batch[b, 2]
        moved = 0 * delta[0]
        for event in range(np.uint64(begin), np.uint64(end)):
            moved += delta[event]
        first, columns = np.uint64(layer.positions + group.position), np.uint64(group.columns)
        for _ in range(group.rows):
            for column in range(columns):
                touched[np.uint64(places[first + column])] = 1
            first += width
        raised = plan.raised * moved  # so much more than the products are those of raised weights
        for k in range(begin, end, BLOCK):
            last = min(k + BLOCK, end)
            _add_products(
                state.acc, plan.weights, state.address, delta, layer, group, shift, k, last, raised
            )
            raised = 0 * raised


@inlined
def _add_products(
    acc: Any,
    weights: Any,
    address: Any,
    delta: Any,
    layer: Any,
    group: Any,
    shift: Any,
    begin: Any,
    end: Any,
    raised: Any,
) -> None:
    """Add the products of the events from `begin` to `end`, all of one batch, less `raised`."""
    pitch = np.uint64(layer.pitch)
    first, last, lanes = np.uint64(begin), np.uint64(end), np.uint64(LANES)
    length = np.uint64(group.columns) * pitch
    base = np.uint64(layer.neurons + group.position * layer.pitch)
    start = np.uint64(layer.weights + shift * layer.pitch)
    for row in range(np.uint64(group.rows)):
        neuron = base + row * np.uint64(layer.out_width) * pitch
        weight = start + row * np.uint64(group.step) * pitch
        k = np.uint64(0)
        # Two vectors at once: half the addresses to work out.
        while k + lanes < length:
            both = twin_sums(acc, neuron + k, raised)
            for event in range(first, last, FOUR):
                at = weight + k
                a = at + np.uint64(address[event]) * pitch
                b = at + np.uint64(address[event + ONE]) * pitch
                c = at + np.uint64(address[event + TWO]) * pitch
                d = at + np.uint64(address[event + THREE]) * pitch
                both = add_products(both, weights, a, b, c, d, delta, event)
            store_sums(acc, neuron + k, both)
            k += lanes + lanes
        if k < length:
            alone = sums(acc, neuron + k, raised)
            for event in range(first, last, FOUR):
                at = weight + k
                a = at + np.uint64(address[event]) * pitch
                b = at + np.uint64(address[event + ONE]) * pitch
                c = at + np.uint64(address[event + TWO]) * pitch
                d = at + np.uint64(address[event + THREE]) * pitch
                alone = add_products(alone, weights, a, b, c, d, delta, event)
            store_sums(acc, neuron + k, alone)


@inlined
def _fire(plan: _Plan, state: _State, i: int, source: int) -> None:
    """Examine layer i's inputs where touched and batch the events that they send."""
    layer, before = plan.layers[i], plan.layers[i - 1]
    first_channel = np.uint64(before.channels)
    low, high, half, threshold = before.low, before.high, before.half, state.thresholds[i]
    pitch = np.uint64(before.pitch)
    multiplier, acc, sent = plan.multiplier, state.acc, state.sent
    batch, address, delta, touched = state.batch, state.address, state.delta, state.touched
    counts, nothing = plan.counts, spread(load(plan.counts, np.uint64(0)), 0)
    batches, last, count, place = layer.batches - 1, -1, 0, layer.events
    products, stored = nothing, 0
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
            if group != last:
                stored = plan.groups[layer.groups + group].counts
            begin, end = place, np.uint64(place)
            neuron = np.uint64(before.neurons + position * before.pitch)
            meets = np.uint64(stored + column * before.pitch)
            for c in range(np.uint64(0), pitch, np.uint64(LANES)):
                factors = load(multiplier, first_channel + c)
                new = scaled(load(acc, neuron + c), factors, half, low, high)
                old = load(sent, neuron + c)
                change = minus(new, old)
                fired = beyond(change, threshold)
                store(sent, neuron + c, choose(fired, new, old))
                products = plus(products, choose(fired, load(counts, meets + c), nothing))
                steps = load(plan.steps, first_channel + c)
                pack(address, end, fired, plus(steps, spread(steps, column)))
                pack(delta, end, fired, change)
                end += np.uint64(ones(fired))
            place = np.int64(end)
            if place == begin:
                continue
            count += place - begin
            if group != last:
                last = group
                batches += 1
                batch[batches, 0], batch[batches, 1] = group, begin
            batch[batches, 2] = place
    if place > layer.events:
        _fill_up(state, place)
    state.batches[source] = batches + 1 - layer.batches
    state.events[i] = count
    state.significant[i] = total(products)


@inlined
def _source(plan: _Plan, state: _State, source: int) -> tuple[int, int]:
    """The layer that a source's batches are for, and by how much its columns are shifted."""
    stack, layer = len(state.history), plan.layers[0]
    if source >= stack:
        return source - stack + 1, 0
    newer = (state.age[0] - 1 - source) % stack
    return 0, (stack - 1 - newer) * (layer.in_channels // stack * layer.taps)


@compiled
def _step(machine: _Machine, frame: npt.NDArray[np.uint8]) -> None:
    """One frame (rows, bytes of a row) through all layers."""
    plan, state = machine.plan, machine.state
    age, stack = state.age[0], len(state.history)
    copies = plan.repeats and age == 0
    if plan.repeats and age == 1:  # the copies of the first frame sent together with it
        for past in range(stack):
            state.batches[past] = state.past_events[past] = 0
            state.past_products[past, :] = 0
    pixels, mine = frame.reshape(frame.size), state.frame
    for i in range(len(pixels)):
        mine[i] = pixels[i]
    for past in range(stack if copies else 1):
        _compare(plan, state, (age + past) % stack, (age - 1) % stack)
    state.age[0] += 1
    state.events[0] = state.significant[0] = 0
    for source in range(len(plan.starts)):
        i, shift = _source(plan, state, source)
        if i > 0:
            _fire(plan, state, i, source)
        else:
            state.events[0] += state.past_events[source]
            state.significant[0] += state.past_products[source, (age - source) % stack]
        _multiply(plan, state, i, source, shift)
    layer = plan.layers[len(plan.layers) - 1]
    for k in range(len(state.outputs)):
        state.outputs[k] = state.acc[layer.neurons + k]


@compiled
def _list_events(machine: _Machine, fired: npt.NDArray[np.int32], values: Array) -> None:
    """Flat indices of the inputs that sent in the last step, layer after layer, and what."""
    plan, state = machine.plan, machine.state
    count = 0
    for source in range(len(plan.starts)):
        i, shift = _source(plan, state, source)
        layer, start = plan.layers[i], plan.starts[source]
        for b in range(start, start + state.batches[source]):
            group, begin, end = state.batch[b]
            for event in range(begin, end):
                channel, tap = divmod(state.address[event] + shift, layer.taps)
                place = plan.places[layer.places + group * layer.taps + tap]
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
    spec: InputSpec,
    layers: Sequence[LinearLayer | QuantisedLayer],
    activations: Sequence[_Activation],
    levels: Array,
    raised: float,
) -> _Plan:
    """Lay the network out as the module's docstring says."""
    stack = spec.stack
    table = np.zeros(len(layers), LAYER)
    flat = _Flat(
        inputs=np.int32,
        places=np.int32,
        pixels=np.int32,
        groups=GROUP,
        marks=np.int32,
        order=np.int32,
        weights=np.uint8 if levels.dtype.kind == "i" else np.float32,
        steps=np.int32,
        counts=np.int32,
        multiplier=np.float64,
    )
    events = batches = neurons = 0
    starts: list[int] = []
    for i, (layer, activation) in enumerate(zip(layers, activations, strict=True)):
        entry = table[i]
        channels, in_height, in_width = layer.in_shape
        out, out_height, out_width = layer.out_shape
        kernel_y, kernel_x = layer.weight.shape[2:]
        order_y, order_x = _tap_order((kernel_y, kernel_x), layer.stride)
        pitch = _whole(out, LANES)
        # An odd number of taps: the columns of neighbouring channels then lie in all parts of the
        # processor's cache.
        taps = kernel_y * kernel_x | 1
        columns = layer.weight.transpose(1, 2, 3, 0)[:, order_y, order_x]
        weights = np.pad(columns, ((0, 0), (0, taps - columns.shape[1]), (0, pitch - out)))
        entry["weights"] = flat.append("weights", woven(weights).ravel())
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
        places = np.zeros((len(numbers), taps), np.int32)
        places[tuple(np.transpose(inputs))] = np.arange(len(inputs))
        entry["places"] = flat.append("places", places.ravel())
        if i > 0:
            order = np.argsort([group for group, _ in inputs], kind="stable")
            _append_marks(flat, table[i - 1], order)
            flat.append("steps", np.arange(table[i - 1]["pitch"]) * taps)
        else:
            of_channel = range(0, channels // stack * taps, taps)
            flat.append("pixels", [(c + tap, group) for group, tap in inputs for c in of_channel])
        offsets = {}
        for shape in dict.fromkeys(window[1:] for window in numbers):
            stored = _window_sums(counts, *shape)
            if i > 0:
                stored = np.pad(stored, ((0, table[i - 1]["pitch"] - channels), (0, 0))).T
            else:
                stored = stored.reshape(stack, -1)[::-1].T
            offsets[shape] = flat.append("counts", stored.ravel())
        groups = [(*window, offsets[window[1:]]) for window in numbers]
        entry["groups"] = flat.append("groups", np.array(groups, GROUP))

        # Without a multiplier, what fills the last vector up stays zero.
        multiplier = np.pad(activation.multiplier, (0, pitch - out))
        entry["channels"] = flat.append("multiplier", multiplier)
        for name in ("low", "high", "half"):
            entry[name] = getattr(activation, name)
        entry["in_channels"], entry["in_positions"] = channels, in_height * in_width
        entry["taps"], entry["out_width"] = taps, out_width
        entry["out_channels"], entry["pitch"] = out, pitch
        entry["out_positions"] = out_height * out_width
        entry["events"], entry["batches"], entry["neurons"] = events, batches, neurons
        sources = stack if i == 0 else 1
        room = _whole(channels // sources * in_height * in_width, TOGETHER)
        entry["slot_events"] = room + TOGETHER * len(groups)
        events += entry["slot_events"] * sources
        starts += range(batches, batches + sources * len(groups), len(groups))
        batches += sources * len(groups)
        neurons += out_height * out_width * pitch
    _append_marks(flat, table[-1], np.arange(table[-1]["out_positions"]))
    flat.append("steps", np.zeros(table[-1]["pitch"]))  # the answers go nowhere
    return _Plan(
        layers=table,
        levels=levels,
        raised=raised,
        repeats=spec.history == "repeat",
        starts=np.array(starts, np.int64),
        event_room=events + LANES,
        batch_room=batches,
        **flat.join(),
    )


def _build_state(spec: InputSpec, plan: _Plan) -> _State:
    """Room for one running network."""
    kind = plan.levels.dtype
    change = np.int16 if kind.kind == "i" else kind
    layers = plan.layers
    count, sources = len(layers), len(plan.starts)
    neurons = int((layers["out_positions"] * layers["pitch"]).sum())
    filled = _whole(spec.pixels, LANES)
    report = _zeros((2, count), np.int64)
    return _State(
        age=_zeros(1, np.int64),
        frame=_zeros(filled, np.uint8),
        history=_zeros((spec.stack, filled), np.uint8),
        past_events=_zeros(spec.stack, np.int64),
        past_products=_zeros((spec.stack, spec.stack), np.int64),
        column=_zeros(spec.pixels, np.int32),
        change=_zeros(spec.pixels, change),
        runs=_zeros((spec.pixels, 3), np.int32),
        cursor=_zeros(len(plan.groups), np.int64),
        acc=_zeros(neurons, kind),
        sent=_zeros(neurons, kind),
        touched=_zeros(len(plan.order), np.uint8),
        batch=_zeros((plan.batch_room, 3), np.int32),
        address=_zeros(plan.event_room, np.int32),
        delta=_zeros(plan.event_room, change),
        thresholds=_zeros(count, kind),
        batches=_zeros(sources, np.int64),
        report=report,
        events=report[0],
        significant=report[1],
        outputs=_zeros(layers[-1]["out_channels"], np.int64 if kind.kind == "i" else kind),
    )


class _Delta:
    """What both engines share: layout, state and one step."""

    def __init__(
        self,
        spec: InputSpec,
        layers: Sequence[LinearLayer | QuantisedLayer],
        activations: Sequence[_Activation],
        levels: Array,
        raised: float,
    ) -> None:
        self._spec = spec
        self._in_shapes = [layer.in_shape for layer in layers]
        self._out_shapes = [layer.out_shape for layer in layers]
        self._plan = _build_plan(spec, layers, activations, levels, raised)
        self._state = _build_state(spec, self._plan)
        self._machine = _bind(self._plan, self._state)
        self._report, self._outputs = self._state.report, self._state.outputs
        self._shape = (spec.height, spec.width * spec.channels)
        frame = np.zeros(self._shape, np.uint8)
        self._step = direct(_step, self._machine, frame)
        self._biases = np.concatenate(
            [
                np.tile(np.pad(layer.bias, (0, entry["pitch"] - len(layer.bias))), count)
                for layer, entry in zip(layers, self._plan.layers, strict=True)
                for count in [entry["out_positions"]]
            ]
        )
        self.reset()

    def reset(self) -> None:
        """Start an episode: nothing was ever sent, accumulators hold their biases."""
        state = self._state
        state.acc[:] = self._biases
        for array in (
            state.sent, state.history, state.past_events, state.past_products, state.batches,
            state.report, state.age,
        ):  # fmt: skip
            array[...] = 0
        self._examine_all()

    def _examine_all(self) -> None:
        """The next step examines all neurons."""
        self._state.touched[self._plan.marks] = 1

    def _advance(self, frame: npt.NDArray[np.uint8]) -> tuple[list[int], list[int]]:
        """One step; returns events and significant multiplications of each layer."""
        if type(frame) is not np.ndarray or frame.dtype is not PIXEL or frame.shape != self._shape:
            frame = self._spec.check_frame(frame).reshape(self._shape)
        if not frame.flags.c_contiguous:
            frame = np.ascontiguousarray(frame)
        self._step(self._machine, frame)
        events, significant = self._report.tolist()
        return events, significant

    @property
    def acc(self) -> list[Array]:
        """Accumulators of each layer, (out, h, w)."""
        return self._maps(self._state.acc)

    @property
    def sent(self) -> list[Array]:
        """What each layer's inputs last sent, (in, h, w)."""
        spec = self._spec
        oldest_first = np.roll(self._state.history, -self._state.age[0] % spec.stack, axis=0)
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
        super().__init__(network.input, network.layers, activations, levels, RAISED)
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
        return Step(self._outputs.copy(), events, significant)


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
        super().__init__(network.input, network.linear, activations, levels, 0.0)
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
