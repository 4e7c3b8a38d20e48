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
* Events are listed place by place: those of one place change the same accumulators, which are then
  read and written once for four events.
* The stack of frames is a list of past events: the channels of an older frame send what the newer
  ones sent one step before, so one frame is compared and not `stack` frames.
* Only output positions that an event reached are examined again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from numba import njit

from .arithmetic import PIXEL_MAX, activation_range, signed_bits
from .errors import UserError
from .floatnet import FloatStep
from .golden import Step
from .network import InputSpec, LinearLayer, Network
from .quantise import QuantisedLayer, QuantisedNetwork, per_layer

__all__ = ["Engine", "FloatEngine"]

F = TypeVar("F")
Array = npt.NDArray[Any]

PACKED_BELOW = 0.1  # density under which looking up addresses beats multiplying zeros (measured)
ACCUMULATOR_BITS = 32
WORD = 8  # pixels compared at once, as one 64-bit word


def _compiled(function: F) -> F:
    """Compile on the first call and keep the result on disk."""
    return njit(cache=True, error_model="numpy")(function)  # type: ignore[no-any-return]


# What the kernel knows of one layer. Offsets count items of the flat arrays of `_Plan`, `_State`.
LAYER = np.dtype(
    [
        ("in_width", np.int64),
        ("in_channels", np.int64),
        ("out_width", np.int64),
        ("out_channels", np.int64),
        ("out_positions", np.int64),
        ("kernel_height", np.int64),
        ("kernel_width", np.int64),
        ("rows", np.int64),  # into `axes`, one for each input row
        ("columns", np.int64),  # into `axes`, one for each input column
        ("weights", np.int64),  # into `weights`
        ("relative", np.int64),  # into `relative`
        ("starts", np.int64),  # into `starts`
        ("packed", np.int64),
        ("channels", np.int64),  # into `multiplier`
        ("positions", np.int64),  # into `touched`, `place`: the outputs
        ("neurons", np.int64),  # into `acc`, `sent`, `channel`, `delta`: the outputs
        # activation = clip((acc * multiplier + half) * inverse, low, high), rounded down if whole
        ("half", np.float64),
        ("inverse", np.float64),
        ("low", np.float64),
        ("high", np.float64),
        ("whole", np.int64),
    ]
)


class _Activation(NamedTuple):
    """`clip((acc * multiplier + half) * inverse, low, high)`, rounded down if whole."""

    multiplier: Array  # (out,)
    half: float
    inverse: float
    low: float
    high: float
    whole: bool


class _Plan(NamedTuple):
    """A network in the kernel's layout; nothing here changes while it runs."""

    layers: Array  # LAYER
    axes: npt.NDArray[np.int32]  # (n, 3): what `_axis` says
    weights: Array  # int8 or float32
    relative: npt.NDArray[np.int32]  # packed layers: address in the kernel row, of each weight
    starts: npt.NDArray[np.int32]  # stored weights before each (in channel, tap y, tap x)
    multiplier: npt.NDArray[np.float64]
    levels: Array  # (256,) what a pixel of each value sends


class _State(NamedTuple):
    """Everything that a step changes. The values are int32 or float32.

    An event is a channel and a delta; a place is (y, x, first event, end) of one position.
    """

    frame: npt.NDArray[np.uint8]  # (pixels,) the new frame, filled up to whole words
    history: npt.NDArray[np.uint8]  # (stack, pixels) what the pixels sent last: a ring, as the next
    pixel_place: npt.NDArray[np.int32]  # (stack, pixels, 4)
    pixel_channel: npt.NDArray[np.int32]  # (stack, pixels)
    pixel_delta: Array  # (stack, pixels)
    pixel_places: npt.NDArray[np.int64]  # (stack,) how many
    pixel_events: npt.NDArray[np.int64]  # (stack,) how many
    acc: Array  # (neurons,)
    sent: Array  # (neurons,) what each layer's outputs sent last
    touched: npt.NDArray[np.bool_]  # (positions,)
    place: npt.NDArray[np.int32]  # (positions, 4)
    channel: npt.NDArray[np.int32]  # (neurons,)
    delta: Array  # (neurons,)
    change: Array  # room for one position
    thresholds: Array  # (layers,) of each layer's inputs, as the following
    places: npt.NDArray[np.int64]
    events: npt.NDArray[np.int64]
    significant: npt.NDArray[np.int64]

    def rings(self) -> tuple[Array, ...]:
        """What is kept of every frame of the stack, a slot each."""
        return (
            self.history,
            self.pixel_place,
            self.pixel_channel,
            self.pixel_delta,
            self.pixel_places,
            self.pixel_events,
        )


@_compiled
def _compare(plan: _Plan, state: _State, slot: int, before: int) -> None:
    """Threshold the new frame against ring slot `before`: fill slot `slot` with its events."""
    layer = plan.layers[0]
    width, channels = layer.in_width, layer.in_channels // len(state.history)
    threshold, levels = state.thresholds[0], plan.levels
    frame, sent, older = state.frame, state.history[slot], state.history[before]
    frame_words, older_words = frame.view(np.uint64), older.view(np.uint64)
    sent_words = sent.view(np.uint64)
    place, channel = state.pixel_place[slot], state.pixel_channel[slot]
    delta = state.pixel_delta[slot]
    places = events = 0
    last = -1
    for word in range(len(frame_words)):
        sent_words[word] = older_words[word]
        if frame_words[word] == older_words[word]:
            continue
        for i in range(WORD * word, WORD * (word + 1)):
            change = levels[frame[i]] - levels[older[i]]
            if abs(change) > threshold:
                position = i // channels
                if position != last:
                    place[places, 0], place[places, 1] = position // width, position % width
                    place[places, 2] = events
                    places += 1
                    last = position
                sent[i] = frame[i]
                channel[events] = i % channels
                delta[events] = change
                events += 1
                place[places - 1, 3] = events
    state.pixel_places[slot] = places
    state.pixel_events[slot] = events


@_compiled
def _multiply(
    plan: _Plan,
    state: _State,
    i: int | np.int64,
    place: Any,
    channel: Any,
    delta: Any,
    shift: int | np.int64,
) -> int:
    """Add the events' products to layer i's accumulators; return how many there were.

    `shift` is added to the events' channels.
    """
    layer = plan.layers[i]
    out, out_width, kernel_width = layer.out_channels, layer.out_width, layer.kernel_width
    taps = layer.kernel_height * kernel_width
    first_row, first_column, first_start = layer.rows, layer.columns, layer.starts
    first_position, first_neuron = layer.positions, layer.neurons
    first_weight, first_relative = layer.weights, layer.relative
    packed = layer.packed
    axes, starts, weights, relative = plan.axes, plan.starts, plan.weights, plan.relative
    acc, touched = state.acc, state.touched
    products = 0
    for p in range(len(place)):
        row, column = first_row + place[p, 0], first_column + place[p, 1]
        begin, end = place[p, 2], place[p, 3]
        first_y, tap_y, count_y = axes[row, 0], axes[row, 1], axes[row, 2]
        first_x, tap_x, count_x = axes[column, 0], axes[column, 1], axes[column, 2]
        for j in range(count_y):
            position = (first_y + j) * out_width + first_x
            for k in range(count_x):
                touched[first_position + position + k] = True
            # The tap of an event is first_tap + channel * taps.
            first_tap = shift * taps + (tap_y + j) * kernel_width + tap_x
            for event in range(begin, end):
                start = first_start + first_tap + channel[event] * taps
                products += starts[start + count_x] - starts[start]
            # Addresses are unsigned: the compiler then knows that none counts from the end.
            if packed:
                base = np.uint64(first_neuron + (position - tap_x) * out)
                for event in range(begin, end):
                    start = first_start + first_tap + channel[event] * taps
                    w0 = np.uint64(first_weight + starts[start])
                    r0 = np.uint64(first_relative + starts[start])
                    d0 = delta[event]
                    for k in range(np.uint64(starts[start + count_x] - starts[start])):
                        acc[base + np.uint64(relative[r0 + k])] += d0 * weights[w0 + k]
                continue
            base, run = np.uint64(first_neuron + position * out), np.uint64(count_x * out)
            first, step = first_weight + first_tap * out, taps * out
            event = begin
            while event + 4 <= end:
                w0 = np.uint64(first + channel[event] * step)
                w1 = np.uint64(first + channel[event + 1] * step)
                w2 = np.uint64(first + channel[event + 2] * step)
                w3 = np.uint64(first + channel[event + 3] * step)
                d0, d1, d2, d3 = delta[event], delta[event + 1], delta[event + 2], delta[event + 3]
                for k in range(run):
                    acc[base + k] += (
                        d0 * weights[w0 + k]
                        + d1 * weights[w1 + k]
                        + d2 * weights[w2 + k]
                        + d3 * weights[w3 + k]
                    )
                event += 4
            while event < end:
                w0, d0 = np.uint64(first + channel[event] * step), delta[event]
                for k in range(run):
                    acc[base + k] += d0 * weights[w0 + k]
                event += 1
    return products


@_compiled
def _fire(plan: _Plan, state: _State, i: int, everywhere: bool) -> None:
    """Examine layer i's outputs where touched (or everywhere) and list the events they send."""
    layer = plan.layers[i]
    out, out_width = layer.out_channels, layer.out_width
    half, inverse, low, high = layer.half, layer.inverse, layer.low, layer.high
    whole, threshold = layer.whole, state.thresholds[i + 1]
    first_position, first_neuron = layer.positions, layer.neurons
    first_channel = np.uint64(layer.channels)
    multiplier, acc, sent, change = plan.multiplier, state.acc, state.sent, state.change
    touched, place, channel, delta = state.touched, state.place, state.channel, state.delta
    nothing = 0 * threshold
    places, events = first_position, first_neuron
    for position in range(layer.out_positions):
        if not (everywhere or touched[first_position + position]):
            continue
        touched[first_position + position] = False
        base = np.uint64(first_neuron + position * out)
        fired = 0
        for c in range(np.uint64(out)):
            # Exact for integers: every product is below 2**53 and `inverse` is a power of two.
            value = (acc[base + c] * multiplier[first_channel + c] + half) * inverse
            value = value if value > low else low
            value = value if value < high else high
            value = np.floor(value) if whole else value
            change[c] = value - sent[base + c]
            fires = abs(change[c]) > threshold
            change[c] = change[c] if fires else nothing
            sent[base + c] = value if fires else sent[base + c]
            fired += fires
        if fired == 0:
            continue
        place[places, 0], place[places, 1] = position // out_width, position % out_width
        place[places, 2] = events - first_neuron
        for c in range(np.uint64(out)):
            # No branch, which would often be guessed wrong: what did not fire is written over.
            channel[events], delta[events] = c, change[c]
            events += change[c] != 0
        place[places, 3] = events - first_neuron
        places += 1
    state.places[i + 1] = places - first_position
    state.events[i + 1] = events - first_neuron


PLAN_FIELDS = len(_Plan._fields)


@_compiled
def _step(slot: int, everywhere: bool, copies: bool, *arrays: Any) -> None:
    """One frame through all layers. `arrays` are plan and state: loose, they cost less to pass.

    `slot` of the ring takes the new frame, `everywhere` examines all neurons, `copies` makes the
    older frames copies of this one.
    """
    plan, state = _Plan(*arrays[:PLAN_FIELDS]), _State(*arrays[PLAN_FIELDS:])
    stack = len(state.history)
    _compare(plan, state, slot, (slot - 1) % stack)
    state.events[0] = state.significant[0] = 0
    zero = np.int64(0)  # typed as a variable, so that `_multiply` is compiled only once
    for k in range(stack):
        past = slot if copies else (slot + 1 + k) % stack
        place = state.pixel_place[past, : state.pixel_places[past]]
        channel, delta = state.pixel_channel[past], state.pixel_delta[past]
        shift = k * (plan.layers[0].in_channels // stack)
        state.significant[0] += _multiply(plan, state, zero, place, channel, delta, shift)
        state.events[0] += state.pixel_events[past]
    for i in range(1, len(plan.layers)):
        _fire(plan, state, i - 1, everywhere)
        before = plan.layers[i - 1]
        place = state.place[before.positions : before.positions + state.places[i]]
        channel, delta = state.channel[before.neurons :], state.delta[before.neurons :]
        state.significant[i] = _multiply(plan, state, i, place, channel, delta, zero)


def _tap_order(kernel: int, stride: int) -> list[int]:
    """Kernel coordinates by phase; within a phase descending, because the outputs then ascend."""
    return sorted(range(kernel), key=lambda k: (k % stride, -k))


def _axis(
    size: int, order: list[int], stride: int, padding: int, outputs: int
) -> npt.NDArray[np.int32]:
    """What an event meets at each input coordinate of one axis: (size, 3) int32.

    First output, place of its tap in `order`, number of outputs; each next output is one place on.
    """
    axis = np.zeros((size, 3), np.int32)
    for x in range(size):
        taps = {o: x + padding - o * stride for o in range(outputs)}
        met = [o for o, tap in taps.items() if 0 <= tap < len(order)]
        if met:
            axis[x] = met[0], order.index(taps[met[0]]), len(met)
    return axis


def _build_plan(
    layers: Sequence[LinearLayer | QuantisedLayer],
    activations: Sequence[_Activation],
    levels: Array,
) -> _Plan:
    """Lay the network out as the module's docstring says."""
    table = np.zeros(len(layers), LAYER)
    flat: dict[str, list[Array]] = {
        "axes": [np.zeros((0, 3), np.int32)],
        "weights": [np.zeros(0, layers[0].weight.dtype)],
        "relative": [np.zeros(0, np.int32)],
        "starts": [np.zeros(0, np.int32)],
        "multiplier": [np.zeros(0)],
    }

    def append(name: str, items: Array) -> int:
        """Put items at the end of a flat array and return where they start."""
        start = sum(len(part) for part in flat[name])
        flat[name].append(items.astype(flat[name][0].dtype))
        return start

    positions = neurons = 0
    for entry, layer, activation in zip(table, layers, activations, strict=True):
        inputs, in_height, in_width = layer.in_shape
        out, out_height, out_width = layer.out_shape
        kernel_height, kernel_width = layer.weight.shape[2:]
        order_y = _tap_order(kernel_height, layer.stride[0])
        order_x = _tap_order(kernel_width, layer.stride[1])
        rows = _axis(in_height, order_y, layer.stride[0], layer.padding[0], out_height)
        columns = _axis(in_width, order_x, layer.stride[1], layer.padding[1], out_width)
        weights = layer.weight.transpose(1, 2, 3, 0)[:, order_y][:, :, order_x]
        stored = weights != 0
        if stored.mean() < PACKED_BELOW:
            entry["packed"] = True
            entry["weights"] = append("weights", weights[stored])
            entry["relative"] = append(
                "relative", np.nonzero(stored.reshape(-1, kernel_width * out))[1]
            )
        else:
            entry["weights"] = append("weights", weights.reshape(-1))
        entry["starts"] = append("starts", np.concatenate([[0], np.cumsum(stored.sum(axis=3))]))
        entry["rows"], entry["columns"] = append("axes", rows), append("axes", columns)
        entry["channels"] = append("multiplier", activation.multiplier)
        for name in ("half", "inverse", "low", "high", "whole"):
            entry[name] = getattr(activation, name)
        entry["in_width"], entry["in_channels"] = in_width, inputs
        entry["out_width"], entry["out_channels"] = out_width, out
        entry["out_positions"] = out_height * out_width
        entry["kernel_height"], entry["kernel_width"] = kernel_height, kernel_width
        entry["positions"], entry["neurons"] = positions, neurons
        positions += out_height * out_width
        neurons += out_height * out_width * out
    return _Plan(layers=table, levels=levels, **{k: np.concatenate(v) for k, v in flat.items()})


def _build_state(spec: InputSpec, plan: _Plan) -> _State:
    """Room for one running network."""
    kind = plan.levels.dtype
    filled = -(-spec.pixels // WORD) * WORD
    layers = len(plan.layers)
    positions = int(plan.layers["out_positions"].sum())
    neurons = int((plan.layers["out_positions"] * plan.layers["out_channels"]).sum())
    return _State(
        frame=np.zeros(filled, np.uint8),
        history=np.zeros((spec.stack, filled), np.uint8),
        pixel_place=np.zeros((spec.stack, spec.pixels, 4), np.int32),
        pixel_channel=np.zeros((spec.stack, spec.pixels), np.int32),
        pixel_delta=np.zeros((spec.stack, spec.pixels), kind),
        pixel_places=np.zeros(spec.stack, np.int64),
        pixel_events=np.zeros(spec.stack, np.int64),
        acc=np.zeros(neurons, kind),
        sent=np.zeros(neurons, kind),
        touched=np.zeros(positions, np.bool_),
        place=np.zeros((positions, 4), np.int32),
        channel=np.zeros(neurons, np.int32),
        delta=np.zeros(neurons, kind),
        change=np.zeros(plan.layers["out_channels"].max(), kind),
        thresholds=np.zeros(layers, kind),
        places=np.zeros(layers, np.int64),
        events=np.zeros(layers, np.int64),
        significant=np.zeros(layers, np.int64),
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
        self._shapes = [layer.out_shape for layer in layers]
        self._plan = _build_plan(layers, activations, levels)
        self._state = _build_state(spec, self._plan)
        positions = [height * width for _, height, width in self._shapes]
        self._biases = np.concatenate(
            [np.tile(layer.bias, n) for layer, n in zip(layers, positions, strict=True)]
        )
        self._outputs = self._state.acc[self._plan.layers["neurons"][-1] :]
        self.reset()

    def reset(self) -> None:
        """Start an episode: nothing was ever sent, accumulators hold their biases."""
        state = self._state
        state.acc[:] = self._biases
        state.sent[:] = 0
        state.history[:] = 0
        self._age = 0  # steps since the reset
        self._forget_events()
        self._everywhere = True

    def _forget_events(self) -> None:
        """Empty the ring: the older frames have nothing new to send."""
        self._state.pixel_places[:] = 0
        self._state.pixel_events[:] = 0

    def _advance(self, frame: npt.NDArray[np.uint8]) -> tuple[list[int], list[int]]:
        """One step; returns events and significant multiplications of each layer."""
        state, slot = self._state, self._slot(self._age)
        repeat = self._spec.history == "repeat"
        state.frame[: self._spec.pixels] = self._spec.check_frame(frame).reshape(-1)
        if repeat and self._age == 1:
            self._forget_events()  # the copies of the first frame were sent together with it
        copies = repeat and self._age == 0
        _step(slot, self._everywhere, copies, *self._plan, *state)
        if copies:
            for ring in state.rings():
                ring[:] = ring[slot]
        self._age += 1
        self._everywhere = False
        return state.events.tolist(), state.significant.tolist()

    def _slot(self, step: int) -> int:
        """Where the ring keeps the frame of a step."""
        return step % self._spec.stack

    @property
    def acc(self) -> list[Array]:
        """Accumulators of each layer, (out, h, w)."""
        return self._maps(self._state.acc)

    @property
    def sent(self) -> list[Array]:
        """What each layer's inputs last sent, (in, h, w)."""
        pixels = self._plan.levels[self._state.history[:, : self._spec.pixels]]
        return self._inputs(pixels, self._state.sent)

    @property
    def delta(self) -> list[Array]:
        """The last step's events of each layer's inputs, (in, h, w)."""
        state, spec, layers = self._state, self._spec, self._plan.layers
        pixels = np.zeros((spec.stack, spec.pixels), state.delta.dtype)
        hidden = np.zeros_like(state.delta)
        for slot in range(spec.stack):
            place = state.pixel_place[slot, : state.pixel_places[slot]]
            for y, x, begin, end in place.tolist():
                first = (y * spec.width + x) * spec.channels
                where = first + state.pixel_channel[slot, begin:end]
                pixels[slot, where] = state.pixel_delta[slot, begin:end]
        for i, layer in enumerate(layers[:-1]):
            start = layer["neurons"]
            place = state.place[layer["positions"] :][: state.places[i + 1]]
            for y, x, begin, end in place.tolist():
                first = start + (y * layer["out_width"] + x) * layer["out_channels"]
                where = first + state.channel[start + begin : start + end]
                hidden[where] = state.delta[start + begin : start + end]
        return self._inputs(pixels, hidden)

    def _inputs(self, pixels: Array, neurons: Array) -> list[Array]:
        """Pixels (slot, pixel) and flat neurons as maps of each layer's inputs."""
        oldest_first = np.roll(pixels, -self._slot(self._age), axis=0)
        maps = oldest_first.reshape(-1, *self._spec.frame_shape).transpose(0, 3, 1, 2)
        return [maps.reshape(-1, *maps.shape[2:]), *self._maps(neurons)[:-1]]

    def _maps(self, neurons: Array) -> list[Array]:
        """Flat neurons as (out, h, w) of each layer; copies."""
        ends = np.cumsum([np.prod(shape) for shape in self._shapes])
        return [
            part.reshape(height, width, out).transpose(2, 0, 1).copy()
            for part, (out, height, width) in zip(
                np.split(neurons, ends[:-1]), self._shapes, strict=True
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
            half, inverse = 2.0 ** (layer.shift - 1), 2.0**-layer.shift
            activations.append(_Activation(layer.multiplier, half, inverse, low, high, True))
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
            activations.append(_Activation(one, 0.0, 1.0, low, np.inf, False))
        levels = np.arange(PIXEL_MAX + 1, dtype=np.float32) / np.float32(PIXEL_MAX)
        super().__init__(network.input, network.linear, activations, levels)
        self.network = network
        self.set_thresholds(thresholds)

    def set_thresholds(self, thresholds: float | Sequence[float]) -> None:
        """Change thresholds between two frames."""
        self._state.thresholds[:] = per_layer(thresholds, len(self._shapes))
        self._everywhere = True

    def step(self, frame: npt.NDArray[np.uint8]) -> FloatStep:
        """Advance by one new frame (height, width[, channels]) uint8."""
        events, significant = self._advance(frame)
        return FloatStep(self._outputs.copy(), events, significant)
