"""The fast engine: what `golden` and `floatnet` compute, event by event, one compiled call a step.

`Engine` equals `golden.Golden` to the bit, always. `FloatEngine` equals `floatnet.FloatDelta` up to
the order of float32 sums. Both run the same kernel.

How it is fast on one core:

* Maps lie as (y, x, channel), and the taps of a kernel in the order in which an event meets the
  outputs. So the weights that an event meets in one row of the kernel are one run of memory, and
  the accumulators that they change another one beside it.
* A layer's columns are packed (the weights that are not zero, with relative addresses) or, from
  `PACKED_BELOW` of density on, plain runs: a vector unit multiplies the zeros faster than it could
  look addresses up. They are never counted.
* Events that meet the same outputs are handled together: four at a time read and write the
  accumulators once. Groups of such inputs are known beforehand, and inputs are examined group by
  group.
* The stack of frames is a list of past events: the channels of an older frame send what the newer
  ones sent one step before, so one frame is compared and not `stack` frames.
* Only output positions that an event reached are examined again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types
from numba.experimental import structref

from .arithmetic import PIXEL_MAX, activation_range, signed_bits
from .compiled import compiled
from .errors import UserError
from .floatnet import FloatStep
from .golden import Step
from .network import InputSpec, LinearLayer, Network
from .quantise import QuantisedLayer, QuantisedNetwork, per_layer

__all__ = ["ACCUMULATOR_BITS", "Engine", "FloatEngine"]

Array = npt.NDArray[Any]

PACKED_BELOW = 0.06  # density under which looking up addresses beats multiplying zeros (measured)
ACCUMULATOR_BITS = 32
WORD = 8  # pixels compared at once, as one 64-bit word


# What the kernel knows of one layer. Offsets count items of the flat arrays of `_Plan`, `_State`.
LAYER = np.dtype(
    [
        ("in_channels", np.int64),
        ("in_positions", np.int64),
        ("taps", np.int64),  # of one input channel
        ("kernel_width", np.int64),
        ("out_width", np.int64),
        ("out_positions", np.int64),
        ("out_channels", np.int64),
        ("packed", np.int64),
        ("inputs", np.int64),  # into `inputs` and `order`
        ("groups", np.int64),  # into `groups` and `batch`
        ("weights", np.int64),  # into `weights`
        ("outputs", np.int64),  # into `outputs`
        ("starts", np.int64),  # into `starts`
        ("events", np.int64),  # into `address` and `delta`
        ("channels", np.int64),  # into `multiplier`: output channels
        ("positions", np.int64),  # into `touched`: output positions
        ("neurons", np.int64),  # into `acc` and `sent`: output neurons
        ("low", np.float64),  # of the activations
        ("high", np.float64),
        ("half", np.float64),  # added before rounding down; 0: no rounding
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
    order: npt.NDArray[np.int32]  # (n,) input positions, group by group
    groups: npt.NDArray[np.int32]  # (n, 4) first output position, rows, columns; into `counts`
    weights: Array  # int8 or float32
    counts: npt.NDArray[np.int32]  # stored weights of a column, for groups of one shape
    starts: npt.NDArray[np.int32]  # of a packed layer: weights before each (channel, tap)
    outputs: npt.NDArray[np.int32]  # of a packed layer: output channel of each weight
    multiplier: npt.NDArray[np.float64]
    levels: Array  # (256,) what a pixel of each value sends


class _State(NamedTuple):
    """Everything that a step changes. The values are int32 or float32.

    An event is an address (input position, column) and a delta; a batch is all events of a group.
    """

    frame: npt.NDArray[np.uint8]  # (pixels,) the new frame, filled up to whole words
    history: npt.NDArray[np.uint8]  # (stack, pixels) what the pixels sent last: a ring
    past_address: npt.NDArray[np.int32]  # (stack, pixels, 3) and group, of each frame: a ring
    past_delta: Array  # (stack, pixels)
    past_events: npt.NDArray[np.int64]  # (stack,) how many
    cursor: npt.NDArray[np.int64]  # room for the groups of the first layer; zeros
    acc: Array  # (neurons,)
    sent: Array  # (neurons,) what each layer's outputs sent last
    touched: npt.NDArray[np.bool_]  # (positions,)
    batch: npt.NDArray[np.int32]  # (groups, 3) group, first event, end
    address: npt.NDArray[np.int32]  # (events, 2)
    delta: Array  # (events,)
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
def _compare(machine: _Machine, slot: int, before: int) -> None:
    """Threshold the new frame against ring slot `before`: fill slot `slot` with its events."""
    plan, state = machine.plan, machine.state
    layer = plan.layers[0]
    channels, taps = layer.in_channels // len(state.history), layer.taps
    threshold, levels, inputs = state.thresholds[0], plan.levels, plan.inputs
    frame, sent, older = state.frame, state.history[slot], state.history[before]
    frame_words, older_words = frame.view(np.uint64), older.view(np.uint64)
    sent_words = sent.view(np.uint64)
    address, delta = state.past_address[slot], state.past_delta[slot]
    events = 0
    for word in range(len(frame_words)):
        sent_words[word] = older_words[word]
        if frame_words[word] == older_words[word]:
            continue
        for i in range(WORD * word, WORD * (word + 1)):
            change = levels[frame[i]] - levels[older[i]]
            if abs(change) > threshold:
                position = i // channels
                address[events, 0] = position
                address[events, 1] = i % channels * taps + inputs[position, 1]
                address[events, 2] = inputs[position, 0]
                delta[events] = change
                sent[i] = frame[i]
                events += 1
    state.past_events[slot] = events


@compiled
def _replay(machine: _Machine, slot: int) -> None:
    """Batch what all channels of the stack send when `slot` is the newest one's."""
    plan, state = machine.plan, machine.state
    layer = plan.layers[0]
    stack = len(state.history)
    channel_step = layer.in_channels // stack * layer.taps
    cursor, batch = state.cursor, state.batch
    batches = events = 0
    for past in range(stack):
        address = state.past_address[past]
        for event in range(state.past_events[past]):
            group = address[event, 2]
            if cursor[group] == 0:
                batch[batches, 0] = group
                batches += 1
            cursor[group] += 1
    for b in range(batches):
        group = batch[b, 0]
        batch[b, 1] = events
        events += cursor[group]
        batch[b, 2] = events
        cursor[group] = batch[b, 1]
    for past in range(stack):
        address, delta = state.past_address[past], state.past_delta[past]
        shift = (past - slot - 1) % stack * channel_step
        for event in range(state.past_events[past]):
            position, group = address[event, 0], address[event, 2]
            place = cursor[group]
            cursor[group] += 1
            state.address[place, 0], state.address[place, 1] = position, address[event, 1] + shift
            state.delta[place] = delta[event]
    for b in range(batches):
        cursor[batch[b, 0]] = 0
    state.batches[0] = batches
    state.events[0] = events


@compiled
def _multiply(machine: _Machine, i: int) -> None:
    """Add the products of layer i's events to its accumulators, and count them."""
    plan, state = machine.plan, machine.state
    layer = plan.layers[i]
    out, out_width, kernel_width = layer.out_channels, layer.out_width, layer.kernel_width
    packed, first_group, first_event = layer.packed, layer.groups, layer.events
    first_start, first_weight, first_output = layer.starts, layer.weights, layer.outputs
    first_position, first_neuron = layer.positions, layer.neurons
    groups, counts, weights = plan.groups, plan.counts, plan.weights
    starts, outputs = plan.starts, plan.outputs
    acc, touched, batch = state.acc, state.touched, state.batch
    address, delta = state.address, state.delta
    products = 0
    # Addresses in inner loops are unsigned: the compiler then knows that none counts from the end.
    for b in range(first_group, first_group + state.batches[i]):
        group = first_group + batch[b, 0]
        begin, end = first_event + batch[b, 1], first_event + batch[b, 2]
        columns, first_count = groups[group, 2], groups[group, 3]
        for event in range(begin, end):
            products += counts[np.uint64(first_count + address[event, 1])]
        for row in range(groups[group, 1]):
            position = groups[group, 0] + row * out_width
            for k in range(first_position + position, first_position + position + columns):
                touched[k] = True
            tap = row * kernel_width
            if packed:
                for event in range(begin, end):
                    for column in range(columns):
                        start = first_start + address[event, 1] + tap + column
                        base = np.uint64(first_neuron + (position + column) * out)
                        for k in range(starts[start], starts[start + 1]):
                            output = np.uint64(outputs[first_output + k])
                            acc[base + output] += delta[event] * weights[first_weight + k]
                continue
            base, length = np.uint64(first_neuron + position * out), np.uint64(columns * out)
            first = first_weight + tap * out
            event = begin
            while event + 4 <= end:
                w0 = np.uint64(first + address[event, 1] * out)
                w1 = np.uint64(first + address[event + 1, 1] * out)
                w2 = np.uint64(first + address[event + 2, 1] * out)
                w3 = np.uint64(first + address[event + 3, 1] * out)
                d0, d1, d2, d3 = delta[event], delta[event + 1], delta[event + 2], delta[event + 3]
                for k in range(length):
                    acc[base + k] += (
                        d0 * weights[w0 + k]
                        + d1 * weights[w1 + k]
                        + d2 * weights[w2 + k]
                        + d3 * weights[w3 + k]
                    )
                event += 4
            while event < end:
                w0, d0 = np.uint64(first + address[event, 1] * out), delta[event]
                for k in range(length):
                    acc[base + k] += d0 * weights[w0 + k]
                event += 1
    state.significant[i] = products


@compiled
def _activate(acc: Any, multiplier: Any, half: Any, low: Any, high: Any) -> Any:
    """An accumulator's activation; exact for integers, which all have less than 53 bits."""
    x = acc * multiplier + half
    x = x if x > low else low
    x = x if x < high else high
    return np.floor(x) if half != 0 else x


@compiled
def _fire(machine: _Machine, i: int, everywhere: bool) -> None:
    """Examine layer i's inputs where touched (or everywhere) and batch the events they send."""
    plan, state = machine.plan, machine.state
    layer, before = plan.layers[i], plan.layers[i - 1]
    taps, first_input = layer.taps, layer.inputs
    first_group, first_event = layer.groups, layer.events
    channels, first_channel = before.out_channels, np.uint64(before.channels)
    first_position, first_neuron = before.positions, before.neurons
    low, high, half, threshold = before.low, before.high, before.half, state.thresholds[i]
    nothing = 0 * threshold
    inputs, order, multiplier = plan.inputs, plan.order, plan.multiplier
    acc, sent, touched = state.acc, state.sent, state.touched
    batch, address, delta = state.batch, state.address, state.delta
    batches, events, last = first_group - 1, first_event, -1
    for n in range(first_input, first_input + layer.in_positions):
        position = order[n]
        if not (everywhere or touched[first_position + position]):
            continue
        touched[first_position + position] = False
        base, begin = np.uint64(first_neuron + position * channels), np.uint64(events)
        count = 0
        for c in range(np.uint64(channels)):
            x = _activate(acc[base + c], multiplier[first_channel + c], half, low, high)
            change = x - sent[base + c]
            fires = abs(change) > threshold
            delta[begin + c] = change if fires else nothing
            count += fires
        if count == 0:
            continue
        for c in range(np.uint64(channels)):
            # No branch, which would often be guessed wrong: what did not fire is written over.
            change = delta[begin + c]
            address[events, 1], delta[events] = c, change
            events += change != 0
        group, tap = inputs[first_input + position, 0], inputs[first_input + position, 1]
        if group != last:
            last = group
            batches += 1
            batch[batches, 0], batch[batches, 1] = group, begin - np.uint64(first_event)
        batch[batches, 2] = events - first_event
        for event in range(begin, np.uint64(events)):
            channel = np.uint64(address[event, 1])
            sent[base + channel] = _activate(
                acc[base + channel], multiplier[first_channel + channel], half, low, high
            )
            address[event, 0], address[event, 1] = position, address[event, 1] * taps + tap
    state.batches[i] = batches + 1 - first_group
    state.events[i] = events - first_event


@compiled
def _step(machine: _Machine, slot: int, everywhere: bool, copies: bool) -> None:
    """One frame through all layers.

    `slot` of the ring takes the new frame, `everywhere` examines all neurons, `copies` makes the
    older frames copies of this one.
    """
    plan, state = machine.plan, machine.state
    stack = len(state.history)
    for past in range(stack if copies else 1):
        _compare(machine, (slot + past) % stack, (slot - 1) % stack)
    _replay(machine, slot)
    for i in range(len(plan.layers)):
        if i > 0:
            _fire(machine, i, everywhere)
        _multiply(machine, i)


def _tap_order(kernel: int, stride: int) -> list[int]:
    """Kernel coordinates by phase; within a phase descending, because the outputs then ascend."""
    return sorted(range(kernel), key=lambda k: (k % stride, -k))


def _axis(
    size: int, order: list[int], stride: int, padding: int, outputs: int
) -> list[tuple[int, int, int]]:
    """What each input coordinate of one axis meets: first output, number of outputs, first tap.

    Taps are numbered by their place in `order`: each next output is met with the next tap.
    """
    axis = []
    for x in range(size):
        taps = {o: x + padding - o * stride for o in range(outputs)}
        met = [o for o, tap in taps.items() if 0 <= tap < len(order)]
        axis.append((met[0], len(met), order.index(taps[met[0]])) if met else (0, 0, 0))
    return axis


def _window_sums(counts: Array, rows: int, columns: int) -> Array:
    """Sums of (channel, y, x) over the window of so many rows and columns from each (y, x) on."""
    padded = np.pad(counts, ((0, 0), (0, rows), (0, columns)))
    total = np.zeros_like(counts)
    for y in range(rows):
        for x in range(columns):
            total += padded[:, y:, x:][:, : counts.shape[1], : counts.shape[2]]
    return total


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
        return {name: np.concatenate(parts) for name, parts in self.parts.items()}


def _build_plan(
    layers: Sequence[LinearLayer | QuantisedLayer],
    activations: Sequence[_Activation],
    levels: Array,
) -> _Plan:
    """Lay the network out as the module's docstring says."""
    table = np.zeros(len(layers), LAYER)
    flat = _Flat(
        inputs=np.int32,
        order=np.int32,
        groups=np.int32,
        weights=layers[0].weight.dtype,
        counts=np.int32,
        starts=np.int32,
        outputs=np.int32,
        multiplier=np.float64,
    )
    events = positions = neurons = 0
    for entry, layer, activation in zip(table, layers, activations, strict=True):
        channels, in_height, in_width = layer.in_shape
        out, out_height, out_width = layer.out_shape
        kernel_height, kernel_width = layer.weight.shape[2:]
        order_y = _tap_order(kernel_height, layer.stride[0])
        order_x = _tap_order(kernel_width, layer.stride[1])

        weights = layer.weight.transpose(1, 2, 3, 0)[:, order_y][:, :, order_x]
        stored = weights != 0
        entry["packed"] = packed = stored.mean() < PACKED_BELOW
        entry["weights"] = flat.append("weights", weights[stored] if packed else weights.ravel())
        entry["outputs"] = flat.append("outputs", np.nonzero(stored)[3] if packed else [])
        counts = stored.sum(axis=3)
        entry["starts"] = flat.append("starts", np.append(0, np.cumsum(counts)) if packed else [])

        numbers: dict[tuple[int, int, int], int] = {}
        inputs = [
            (
                numbers.setdefault((y * out_width + x, rows, columns), len(numbers)),
                tap_y * kernel_width + tap_x,
            )
            for y, rows, tap_y in _axis(
                in_height, order_y, layer.stride[0], layer.padding[0], out_height
            )
            for x, columns, tap_x in _axis(
                in_width, order_x, layer.stride[1], layer.padding[1], out_width
            )
        ]
        entry["inputs"] = flat.append("inputs", inputs)
        flat.append("order", np.argsort([group for group, _ in inputs], kind="stable"))
        shapes = {
            shape: flat.append("counts", _window_sums(counts, *shape).ravel())
            for shape in dict.fromkeys((rows, columns) for _, rows, columns in numbers)
        }
        entry["groups"] = flat.append("groups", [(*key, shapes[key[1:]]) for key in numbers])

        entry["channels"] = flat.append("multiplier", activation.multiplier)
        for name in ("low", "high", "half"):
            entry[name] = getattr(activation, name)
        entry["in_channels"], entry["in_positions"] = channels, in_height * in_width
        entry["taps"], entry["kernel_width"] = kernel_height * kernel_width, kernel_width
        entry["out_channels"], entry["out_width"] = out, out_width
        entry["out_positions"] = out_height * out_width
        entry["events"], entry["positions"], entry["neurons"] = events, positions, neurons
        events += channels * in_height * in_width
        positions += out_height * out_width
        neurons += out_height * out_width * out
    return _Plan(layers=table, levels=levels, **flat.join())


def _build_state(spec: InputSpec, plan: _Plan) -> _State:
    """Room for one running network."""
    kind = plan.levels.dtype
    filled = -(-spec.pixels // WORD) * WORD
    count = len(plan.layers)
    events = int((plan.layers["in_positions"] * plan.layers["in_channels"]).sum())
    positions = int(plan.layers["out_positions"].sum())
    neurons = int((plan.layers["out_positions"] * plan.layers["out_channels"]).sum())
    return _State(
        frame=np.zeros(filled, np.uint8),
        history=np.zeros((spec.stack, filled), np.uint8),
        past_address=np.zeros((spec.stack, spec.pixels, 3), np.int32),
        past_delta=np.zeros((spec.stack, spec.pixels), kind),
        past_events=np.zeros(spec.stack, np.int64),
        cursor=np.zeros(len(plan.groups), np.int64),
        acc=np.zeros(neurons, kind),
        sent=np.zeros(neurons, kind),
        touched=np.zeros(positions, np.bool_),
        batch=np.zeros((len(plan.groups), 3), np.int32),
        address=np.zeros((events, 2), np.int32),
        delta=np.zeros(events, kind),
        thresholds=np.zeros(count, kind),
        batches=np.zeros(count, np.int64),
        events=np.zeros(count, np.int64),
        significant=np.zeros(count, np.int64),
    )


class _Delta:
    """What both engines share: layout, state and one step."""

    def __init__(
        self,
        spec: InputSpec,
        layers: Sequence[LinearLayer | QuantisedLayer],
        activations: Sequence[_Activation],
        levels: Array,
    ) -> None:
        self._spec = spec
        self._in_shapes = [layer.in_shape for layer in layers]
        self._out_shapes = [layer.out_shape for layer in layers]
        self._plan = _build_plan(layers, activations, levels)
        self._state = _build_state(spec, self._plan)
        self._machine = _bind(self._plan, self._state)
        self._pixels = self._state.frame[: spec.pixels].reshape(spec.frame_shape)
        positions = [height * width for _, height, width in self._out_shapes]
        self._biases = np.concatenate(
            [np.tile(layer.bias, n) for layer, n in zip(layers, positions, strict=True)]
        )
        self._outputs = self._state.acc[self._plan.layers["neurons"][-1] :]
        self.reset()

    def reset(self) -> None:
        """Start an episode: nothing was ever sent, accumulators hold their biases."""
        state = self._state
        state.acc[:] = self._biases
        for array in (state.sent, state.history, state.past_events, state.events):
            array[...] = 0
        self._age = 0  # steps since the reset
        self._everywhere = True

    def _advance(self, frame: npt.NDArray[np.uint8]) -> tuple[list[int], list[int]]:
        """One step; returns events and significant multiplications of each layer."""
        state, spec = self._state, self._spec
        self._pixels[:] = spec.check_frame(frame)
        copies = spec.history == "repeat" and self._age == 0
        if spec.history == "repeat" and self._age == 1:
            state.past_events[:] = 0  # the copies of the first frame sent together with it
        _step(self._machine, self._age % spec.stack, self._everywhere, copies)
        self._age += 1
        self._everywhere = False
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
        state = self._state
        found = []
        for i, (layer, shape) in enumerate(zip(self._plan.layers, self._in_shapes, strict=True)):
            events = slice(layer["events"], layer["events"] + state.events[i])
            position, column = state.address[events].T
            delta = np.zeros((layer["in_channels"], layer["in_positions"]), state.delta.dtype)
            delta[column // layer["taps"], position] = state.delta[events]
            found.append(delta.reshape(shape))
        return found

    def _maps(self, neurons: Array) -> list[Array]:
        """Flat output neurons as (out, h, w) of each layer; copies."""
        ends = np.cumsum([np.prod(shape) for shape in self._out_shapes])
        return [
            part.reshape(height, width, out).transpose(2, 0, 1).copy()
            for part, (out, height, width) in zip(
                np.split(neurons, ends[:-1]), self._out_shapes, strict=True
            )
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
        super().__init__(network.input, network.layers, activations, levels)
        self.network = network
        self.set_thresholds(network.thresholds)

    def set_thresholds(self, counts: Sequence[int]) -> None:
        """Change thresholds between two frames, in counts (input first, then hidden layers)."""
        self.network = self.network.with_counts(counts)
        self._state.thresholds[:] = self.network.thresholds
        self._everywhere = True

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
        super().__init__(network.input, network.linear, activations, levels)
        self.network = network
        self.set_thresholds(thresholds)

    def set_thresholds(self, thresholds: float | Sequence[float]) -> None:
        """Change thresholds between two frames."""
        self._state.thresholds[:] = per_layer(thresholds, len(self._out_shapes))
        self._everywhere = True

    def step(self, frame: npt.NDArray[np.uint8]) -> FloatStep:
        """Advance by one new frame (height, width[, channels]) uint8."""
        events, significant = self._advance(frame)
        return FloatStep(self._outputs.copy(), events, significant)
