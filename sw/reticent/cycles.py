"""The cycle model: clock cycles of a frame, predicted exactly, without the gateware.

What a frame costs follows from its events alone: their order is fixed by the machine (raster,
channel of the lane, lane), so the times at which things happen obey simple recurrences. Each
function below mirrors one block of `hw/reticent_hw`, register by register; times are numbers of
cycles from the first pixel, and "at t" means "in the cycle t". The tests hold the predictions to
the counters of the co-simulated core, frame by frame.

One assumption is made of the host: it offers a pixel (or a whole unchanged row) in every cycle, as
the co-simulated backend does. It matters only for frames whose events overflow the event queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .backend import Cycles
from .compiled import compiled
from .image import Image
from .layout import LOST_CAUSES, Register, Space, unpack

__all__ = ["CycleModel"]

Ints = npt.NDArray[np.int64]

SCAN_LATENCY = 6  # from the issue of a group to its answer: addressing and the lanes' pass
GROUPS = 16  # groups under examination or waiting for the serialiser
PIPELINE = 4  # cycles from the last fetch of a lane until it is idle


class _Tables(NamedTuple):
    """The image's memories, as far as they decide times."""

    layers: Ints  # (layers, LAYER fields)
    rows: Ints  # (positions, ROW fields)
    columns: Ints  # (positions, COLUMN fields)
    pointers: Ints  # (pointers, lanes)


class _Lanes(NamedTuple):
    """What the lanes are doing. Times of the future are known: lanes never stall."""

    depth: int  # of the FIFOs
    free: Ints  # (lanes,) next cycle in which a range may leave the FIFO
    pushed: Ints  # (lanes,) ranges that entered the FIFO in this phase
    last_push: Ints  # (lanes,) cycle in which the last one was offered
    popped: Ints  # (lanes, ring) when ranges left the FIFO; a ring of a power of two >= depth + 2
    length: Ints  # (lanes, ring) and how many weights they hold
    clock: Ints  # see the names below


# Fields of the LAYER, ROW and COLUMN rows, by position; see `layout.row_fields`.
(POINTER_BASE, TAPS, ROW_BASE, COLUMN_BASE, MAP_ROWS, MAP_COLUMNS, CHANNELS) = range(7)
LOCAL = 12
BEFORE, PHASE_TAPS, FIRST, COUNT, _, START = range(6)
# Of _Lanes.clock: the last cycle in which a lane is busy, the last one in which an event is in the
# generator, idle lane-cycles while a range waited for room, multiplications.
LANES_END, FLOW_END, BLOCKED, BUSY = range(4)


@compiled
def _idle(lanes: Any, begin: int, end: int) -> int:
    """Idle lane-cycles from `begin` to before `end`; everything before `end` must be settled."""
    count, ring = lanes.popped.shape
    idle = 0
    for lane in range(count):
        idle += end - begin
        for i in range(lanes.pushed[lane] - 1, max(-1, lanes.pushed[lane] - ring - 1), -1):
            starts = lanes.popped[lane, i & (ring - 1)] + 1
            ends = starts + lanes.length[lane, i & (ring - 1)]
            if ends <= begin:
                break
            idle -= max(0, min(ends, end) - max(starts, begin))
    return idle


@compiled
def _offer(lanes: Any, wish: int, first: int, end: int, mask: Any, pointers: Any) -> int:
    """Offer taps first..end to the lanes of `mask`, at `wish` or when there is room. When it was.

    A lane has room while its FIFO holds at most depth - 2 ranges; a range that is offered at t is
    counted from t + 2 on, one that leaves at t until t.
    """
    count, ring = lanes.popped.shape
    t = wish
    waiting = True
    while waiting:
        waiting = False
        for lane in range(count):
            held = lanes.pushed[lane]
            if lanes.last_push[lane] >= t - 1:
                held -= 1
            if held > lanes.depth - 2:
                possible = lanes.popped[lane, (held - lanes.depth + 1) & (ring - 1)] + 1
                if possible > t:
                    t = possible
                    waiting = True
    if t > wish:
        lanes.clock[BLOCKED] += _idle(lanes, wish, t)
    for lane in range(count):
        if not mask[lane]:
            continue
        length = pointers[end, lane] - pointers[first, lane]
        if length == 0:
            lanes.clock[LANES_END] = max(lanes.clock[LANES_END], t + 1)
            continue
        leaves = max(t + 2, lanes.free[lane])
        at = lanes.pushed[lane] & (ring - 1)
        lanes.popped[lane, at] = leaves
        lanes.length[lane, at] = length
        lanes.pushed[lane] += 1
        lanes.last_push[lane] = t
        lanes.free[lane] = leaves + length
        lanes.clock[BUSY] += length
        lanes.clock[LANES_END] = max(lanes.clock[LANES_END], leaves + length + PIPELINE)
    return t


@compiled
def _event(
    lanes: Any, stage: Any, ready: int, y: int, x: int, slot: int, layer: int, tables: Any,
    touched: Any, everyone: Any,
) -> int:  # fmt: skip
    """Send an event, available at `ready`, through the range generator. When it was taken.

    `stage[i]` is the cycle in which the last event left (or leaves) stage i of the generator.
    """
    target = tables.layers[layer]
    row = tables.rows[target[ROW_BASE] + y]
    column = tables.columns[target[COLUMN_BASE] + x]
    taken = max(ready, stage[0])
    stage[0] = max(taken + 1, stage[1])
    if row[COUNT] == 0 or column[COUNT] == 0:
        # It vanishes on its way from stage 1 to stage 2.
        stage[1] = max(stage[0] + 1, stage[2])
        lanes.clock[FLOW_END] = max(lanes.clock[FLOW_END], stage[1])
        return taken
    stage[1] = max(stage[0] + 1, stage[2])
    stage[2] = max(stage[1] + 1, stage[3])
    t = stage[2] + 1
    whole = column[FIRST] == 0 and column[COUNT] == column[PHASE_TAPS]
    first = (
        target[POINTER_BASE] + slot * target[TAPS] + row[BEFORE]
        + row[PHASE_TAPS] * column[BEFORE] + row[FIRST] * column[PHASE_TAPS] + column[FIRST]
    )  # fmt: skip
    ranges, size = (1, row[COUNT] * column[COUNT]) if whole else (row[COUNT], column[COUNT])
    steps = max(ranges, (row[COUNT] + 1) // 2)
    for step in range(steps):
        if step < ranges:
            t = _offer(lanes, t, first, first + size, everyone, tables.pointers)
            first += column[PHASE_TAPS]
        if step + 1 < steps:
            t += 1
    stage[3] = t
    lanes.clock[FLOW_END] = max(lanes.clock[FLOW_END], t)
    # Marks count for positions that exist: the tables keep them on the map.
    for i in range(row[COUNT]):
        for j in range(column[COUNT]):
            touched[row[START] + i, column[START] + j] = True
    return taken


@compiled
def _take(
    lanes: Any, stage: Any, n: int, events: Any, pushes: Any, taken: Any, start: int, tables: Any,
    touched: Any, everyone: Any,
) -> int:  # fmt: skip
    """Take event n of the queue into layer 0; returns n + 1."""
    ready = max(pushes[n] + 2, start)
    if n:
        ready = max(ready, taken[n - 1] + 1)
    y, x, slot = events[n]
    taken[n] = _event(lanes, stage, ready, y, x, slot, 0, tables, touched, everyone)
    return n + 1


@compiled
def _input_phase(
    lanes: Any, stage: Any, deltas: Any, same: Any, queue_depth: int, tables: Any, touched: Any,
    everyone: Any,
) -> tuple[int, int, int]:  # fmt: skip
    """Receive a frame and send its events into layer 0.

    `deltas` (height, width, channels, frames) are the events, oldest frame first; `same` marks
    rows that the host sends as unchanged. Returns the first cycle of the phase, the last one in
    which the source has something left, and the cycle in which the last pixel is taken.
    """
    height, width, channels, frames = deltas.shape
    total = np.count_nonzero(deltas)
    events = np.zeros((total, 3), np.int64)
    pushes, taken = np.zeros(total, np.int64), np.zeros(total, np.int64)
    crowd = queue_depth - 2
    start = -1  # first cycle of the phase, when known
    sent = 0  # events that went through the generator
    pushed = 0
    accepted, compared, finished = -1, -1, -1  # of the last pixel: taken, moved on, last push
    for y in range(height):
        if same[y] and not deltas[y].any():
            accepted = max(accepted + 1, compared)
            continue
        for x in range(width):
            for channel in range(channels):
                accepted = max(accepted + 1, compared)
                compared = max(accepted + 1, finished)
                finished = compared
                for frame in range(frames):
                    if deltas[y, x, channel, frame] == 0:
                        continue
                    finished += 1
                    # Room in the queue depends on the events that were taken from it.
                    if pushed >= queue_depth:
                        if start < 0:
                            start = pushes[crowd - 1] + 2
                        while sent <= pushed - queue_depth:
                            sent = _take(
                                lanes, stage, sent, events, pushes, taken, start, tables, touched,
                                everyone,
                            )  # fmt: skip
                        finished = max(finished, taken[pushed - queue_depth] + 1)
                    events[pushed] = y, x, frame * channels + channel
                    pushes[pushed] = finished
                    pushed += 1
    received = max(accepted, finished) + 1
    if start < 0:
        start = received + 1
        if total >= crowd:
            start = min(start, pushes[crowd - 1] + 2)
    while sent < total:
        sent = _take(lanes, stage, sent, events, pushes, taken, start, tables, touched, everyone)
    last = received - 1
    if total:
        last = max(last, taken[total - 1])
    return start, last, accepted


@compiled
def _scan_phase(
    lanes: Any, stage: Any, begin: int, deltas: Any, touched: Any, layer: int, tables: Any,
    marks: Any, everyone: Any,
) -> int:  # fmt: skip
    """Examine the touched neurons of the layer before and send their events into `layer`.

    `deltas` (channel of the lane, lane, rows, columns). Returns the last cycle in which the
    source has something left.
    """
    target = tables.layers[layer]
    source = tables.layers[layer - 1]
    releases = np.zeros(GROUPS, np.int64)  # of groups that hold a credit
    holding = 0
    search = begin + 1
    issued = -1  # the last issue
    handed = -1  # the last event (or local group) of the group before was taken
    last = search
    count = deltas.shape[1]
    fired = np.zeros(count, np.bool_)
    for y in range(source[MAP_ROWS]):
        if not touched[y, : source[MAP_COLUMNS]].any():
            last = max(last, search)
            search += 1
            continue
        take = max(search + 1, issued)
        last = max(last, take)
        search = take
        issued = take
        for x in range(source[MAP_COLUMNS]):
            if not touched[y, x]:
                continue
            for k in range(source[CHANNELS]):
                t = issued + 1
                while True:
                    kept, soonest = 0, -1
                    for i in range(holding):
                        if releases[i] >= t:
                            releases[kept] = releases[i]
                            kept += 1
                            if soonest < 0 or releases[i] < soonest:
                                soonest = releases[i]
                    holding = kept
                    if holding < GROUPS:
                        break
                    t = soonest + 1
                issued = t
                some = False
                for lane in range(count):
                    fired[lane] = deltas[k, lane, y, x] != 0
                    some |= fired[lane]
                release = issued + SCAN_LATENCY
                if some:
                    release = max(release + 1, handed)
                    t = release + 1
                    if target[LOCAL]:
                        first = target[POINTER_BASE] + k
                        handed = _offer(lanes, t, first, first + 1, fired, tables.pointers)
                    else:
                        for lane in range(count):
                            if fired[lane]:
                                slot = k * count + lane
                                handed = _event(
                                    lanes, stage, t, y, x, slot, layer, tables, marks, everyone
                                )
                                t = handed + 1
                    last = max(last, handed)
                releases[holding] = release
                holding += 1
                last = max(last, release)
    return last


@compiled
def _begin_phase(lanes: Any, stage: Any) -> None:
    """All lanes and the generator are empty."""
    lanes.pushed[:] = 0
    lanes.last_push[:] = -2
    lanes.free[:] = 0
    lanes.clock[LANES_END] = -1
    lanes.clock[FLOW_END] = -1
    stage[:] = 0


@compiled
def _end_phase(lanes: Any, begin: int, source_last: int) -> tuple[int, int]:
    """Last cycle of the phase, and the idle lane-cycles of its tail."""
    tail = max(source_last, lanes.clock[FLOW_END]) + 1
    end = max(begin + 1, tail, lanes.clock[LANES_END] + 1) + 1
    return end, _idle(lanes, max(tail, begin), end + 1)


class CycleModel:
    """Predicts the counters of a device that runs `image`.

    Feed it the events of every frame in order (`step`); `reset` where the device restarts or all
    thresholds are written.
    """

    def __init__(self, image: Image) -> None:
        self.image = image
        config = image.config

        def table(space: Space) -> Ints:
            fields = unpack(config, space, image.memories[space])
            return np.stack(list(fields.values()), axis=-1)

        self._tables = _Tables(
            layers=table(Space.LAYER),
            rows=table(Space.ROW),
            columns=table(Space.COLUMN),
            pointers=np.ascontiguousarray(table(Space.POINTER)[:, :, 0].T),
        )
        self._stack = image.registers[int(Register.STACK)]
        ring = (config.lanes, 1 << (config.fifo_depth + 1).bit_length())
        self._lanes = _Lanes(
            depth=config.fifo_depth,
            free=np.zeros(config.lanes, np.int64),
            pushed=np.zeros(config.lanes, np.int64),
            last_push=np.zeros(config.lanes, np.int64),
            popped=np.zeros(ring, np.int64),
            length=np.zeros(ring, np.int64),
            clock=np.zeros(4, np.int64),
        )
        self._everyone = np.ones(config.lanes, np.bool_)
        self.reset()

    def reset(self) -> None:
        """The next frame examines every neuron, and is sent whole."""
        self._fresh = True
        self._previous: npt.NDArray[np.uint8] | None = None

    def step(self, frame: npt.NDArray[np.uint8], deltas: Sequence[npt.NDArray[Any]]) -> Cycles:
        """Cycles of one frame (height, width[, channels]) with its events.

        `deltas[i]` (channels, height, width) are the events into layer i, as `Golden.delta` and
        `Engine.delta` give them after the same frame.
        """
        image, tables, lanes, everyone = self.image, self._tables, self._lanes, self._everyone
        frame = frame.reshape(image.frame_shape)
        same = np.zeros(len(frame), np.bool_)
        if self._previous is not None:
            same = (frame == self._previous).all(axis=(1, 2))
        self._previous = frame.copy()

        stage = np.zeros(4, np.int64)
        lanes.clock[:] = 0
        cycles, tails = [], 0
        count = image.config.lanes
        begin, first_counted = 0, 0
        touched = np.zeros((0, 0), np.bool_)
        for i, layer in enumerate(image.layers):
            _begin_phase(lanes, stage)
            marks = np.zeros(layer.shape[1:], np.bool_)
            if i == 0:
                stacked = deltas[0].reshape(self._stack, -1, *image.frame_shape[:2])
                begin, last, accepted = _input_phase(
                    lanes,
                    stage,
                    np.ascontiguousarray(stacked.transpose(2, 3, 1, 0)),
                    same,
                    image.config.queue_depth,
                    tables,
                    marks,
                    everyone,
                )
                first_counted = min(begin, accepted + 1)
            else:
                source = image.layers[i - 1]
                by_slot = np.zeros((source.channels * count, *source.shape[1:]), np.int64)
                by_slot[list(source.slots)] = deltas[i]
                last = _scan_phase(
                    lanes,
                    stage,
                    begin,
                    by_slot.reshape(source.channels, count, *source.shape[1:]),
                    touched | self._fresh,
                    i,
                    tables,
                    marks,
                    everyone,
                )
            end, tail = _end_phase(lanes, begin, last)
            cycles.append(end - begin + 1)
            tails += tail
            begin, touched = end + 1, marks
        self._fresh = False

        total = begin - first_counted
        busy, blocked = int(lanes.clock[BUSY]), int(lanes.clock[BLOCKED])
        waiting = (total - sum(cycles)) * count
        lost = (count * sum(cycles) - busy - blocked - tails, blocked, tails, waiting)
        return Cycles(
            layers=tuple(cycles),
            total=total,
            busy=busy,
            lost=dict(zip(LOST_CAUSES, lost, strict=True)),
        )
