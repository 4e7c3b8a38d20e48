"""The cycle model: clock cycles of a frame, predicted exactly, without the gateware.

What a frame costs follows from its events alone. The model keeps of every block of
`hw/reticent_hw` what decides when something happens, but no values: whether a neuron fires is
known. Each function below mirrors one block; "at t" means "in the cycle t". The tests hold the
predictions to the counters of the co-simulated core, frame by frame.

Only cycles in which something may change are looked at. Where nothing moves, the clock goes on to
the next cycle in which time itself changes something: a lane gets room or finishes, an answer or
a pixel arrives. Lanes are not stepped at all: a lane multiplies without a pause while it has
ranges, so when it becomes free follows from when ranges arrive and how long they are. With more
than one stream the order in which a lane takes them matters to the FIFOs' levels only, and is
worked out where a FIFO may be full.

One assumption is made of the host: it offers a pixel (or a whole unchanged row) in every cycle, as
the co-simulated backend does. It matters only for frames whose events overflow the event queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types
from numba.experimental import structref

from .backend import Cycles
from .compiled import compiled, inlined, kernel
from .image import Image, LayerMap
from .layout import LOST_CAUSES, Register, Space, unpack
from .vectors import (
    LANES,
    above,
    beyond,
    choose,
    equal,
    greatest,
    larger,
    load,
    lowest,
    minus,
    ones,
    plus,
    spread,
    store,
    total,
)

__all__ = ["CycleModel"]

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.int32]
Bits = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]

# Latencies of the gateware, in cycles unless stated.
PIXEL_STAGES = 4  # of the encoder, from taking a pixel until it is compared
QUEUE_LATENCY = 3  # from a push into the event queue until the event may leave it
QUEUE_MARGIN = 3  # free places below which the event queue takes no more
STAGES = 5  # of a range generator
EMPTY_ENDS = 3  # the stage that an event which reaches nothing does not enter
BROADCAST = 6  # from the offer of a range until it is in the lanes' FIFOs
ROOM = 3  # from the FIFOs' levels to the generators
SCAN_START = 6  # from the start of a pass to its first group
SCAN_LATENCY = 15  # from the issue of a group to its answer: addressing and the lanes' pass
GROUPS = 32  # groups under examination or waiting for a serialiser
FINISHES = 5  # from the last fetch of a layer until the lane may be examined
EMPTIES = 3  # the same from the last arrival of a range, where it holds no weight of the lane
GO = 1  # from the start of phase 0 until lanes may fetch
KNOWN = 3  # until it is known that a lane is at work
PIPELINE = 6 + KNOWN  # from the last fetch of a lane until it is known to be idle

RING = 64  # places of a ring that holds groups, lanes, or what is under way; a power of two
NEVER = 1 << 60
assert max(SCAN_LATENCY, GROUPS, BROADCAST * 8) < RING
assert BROADCAST < SCAN_START + 4  # when a pass begins to look, no range is under way


class _Tables(NamedTuple):
    """The image's memories, as far as they decide times."""

    layers: Ints  # (layers, LAYER fields)
    rows: Ints  # (positions, ROW fields)
    columns: Ints  # (positions, COLUMN fields)
    pointers: Words  # (pointers, lanes) of whole vectors of lanes
    # Of every neuron: its position on the folded map, channel of its lane, and lane.
    neurons: Words  # (neurons, 3)
    offsets: Ints  # (layers,) the first neuron whose events go to each layer; the first one's is 0


class _Encoder(NamedTuple):
    """The input: its pixels, and the queues of its events."""

    shape: Ints  # (4,) frames in the stack, channels, height, width
    # What fires in this frame, flat indices into the inputs of each layer, and where those of each
    # layer begin; the last one is their end.
    senders: Words  # (neurons and inputs,)
    begins: Ints  # (layers + 1,)
    fired: Bytes  # (inputs,) which of them fire: those of each stacked frame, oldest first
    frame: Bytes  # (height, width * channels)
    previous: Bytes  # and the frame before
    counts: Bytes  # (height, width * channels) events of each pixel that is still to come
    crowds: Words  # (height,) events of each row
    events: Words  # (events, 3) y, x, slot
    pushes: Words  # (events,) when each was pushed; n is in queue n % streams
    queues: Ints  # (streams, fields)
    place: Ints  # see the names below


class _Generators(NamedTuple):
    """The range generators, and what they send."""

    now: Ints  # (streams, fields) see the names below
    works: Ints  # (streams, WORKS, fields) a ring: what the events in the stages are worth
    way: Ints  # (RING, fields) a ring: ranges on their way to the lanes
    way_mask: Bits  # (RING,) and the lanes that they are for
    marks: Bytes  # (2, rows, columns) touched maps of even and of odd layers


class _Lanes(NamedTuple):
    """The lanes, and the ranges in their FIFOs.

    Arrays are as long as whole vectors; lanes that do not exist never get a range. FIFOs are rings:
    range n is in place n % places, with its arrival, phase and length, and once it
    is known to be taken as the cycle in which it was.
    """

    until: Words  # (lanes,) the last cycle for which the lane has work
    loads: Words  # (lanes,) multiplications of this frame, in ranges that arrived
    fifos: Ints  # (streams, lanes, places and APART)
    pushed: Words  # (streams, lanes) ranges that arrived
    lengths: Words  # (lanes,) stored weights of the range that has just arrived
    # Of the only stream:
    takes: Words  # (lanes,) when the lane takes the range that has just arrived
    # Of several streams, as far as it is known:
    taken: Words  # (streams, lanes) ranges that were taken
    order: Ints  # (lanes, fields) see the names below
    woken: Words  # (lanes,) when a single range last arrived at the idle lane
    snapshot: Words  # (streams, lanes) ranges that had been taken by then
    full: Ints  # (streams, FULLS, fields) a ring: ranges that fill a FIFO


class _Scanner(NamedTuple):
    """The groups of one pass, the walk through them, and the serialisers."""

    groups: Words  # (groups, 3) y, x, first channel of the lanes
    ranks: Words  # (positions,) first group of each
    fires: Bits  # (groups, channels of a group) which lanes fire
    walk: Ints  # see the names below
    finish: Ints  # (lanes,) when it may be examined; NEVER after it joined
    joins: Ints  # (RING, 2) a ring: group and lap at which lanes joined the walk
    joined: Bits  # (RING,) and which lanes
    active: Bits  # (1,) lanes that take part now
    flying: Ints  # (RING,) by the cycle of the answer: the group under examination, or -1
    flight: Bits  # (RING,) and the lanes that take part
    members: Bits  # (streams,) lanes of a stream
    serialisers: Ints  # (streams, fields)
    waiting: Bits  # (streams, RING, channels) groups for the serialiser: which lanes fired
    waiting_group: Ints  # (streams, RING) and which groups
    # Lanes whose events of a channel are still to be sent, and those of the channels after it.
    sending: Bits  # (streams, channels); the first is 0: idle


# Fields of the LAYER, ROW and COLUMN rows, by position; see `layout.row_fields`.
(POINTER_BASE, TAPS, ROW_BASE, COLUMN_BASE, MAP_ROWS, MAP_COLUMNS, CHANNELS) = range(7)
LOCAL = 12
BEFORE, PHASE_TAPS, FIRST, COUNT, _, START = range(6)
# Of _Encoder.place: row and column of the next pixel; events of the current pixel that are left and
# the first stacked frame that may hold one; when the last pixel was taken, left stages 1 to 4, and
# had its last event pushed; events pushed; and when the next push is tried, NEVER after the last
# one.
ROW, COLUMN, REST, PLANE = range(4)
TAKEN, READ, ANSWERED, DECIDED, COMPARED, FINISHED, PUSHED, NEXT_PUSH = range(4, 12)
# Of _Encoder.queues: events that left, when the last one did, and the one before it; its depth.
POPPED, LAST_POP, POP_BEFORE, DEPTH = range(4)
# Of _Generators.now: which stages hold an event (bit i: stage i), which of those an event that
# reaches nothing, the place in front of them; events that came and that were begun; the first tap
# of the next range, taps of a range, from one range to the next, ranges and pairs of marked rows
# that are left. Of _Generators.works: the last five.
VALID, EMPTY, SPARE, CAME, BEGUN, FROM, SIZE, STRIDE, RANGES, PAIRS = range(10)
NO_EVENT, AN_EVENT, AN_EMPTY_EVENT = range(3)  # SPARE
FOREMOST = 1 << (STAGES - 1)
NOWHERE, STAGE_0, IN_FRONT = range(3)  # where the next event goes
# Of _Generators.way.
ARRIVAL, STREAM, BEGIN, END, PHASE = range(5)
# Of _Lanes.fifos, by bits: length, phase and arrival.
PHASE_BIT, ARRIVED_BIT = 24, 28
LENGTH_MASK, PHASE_MASK = (1 << PHASE_BIT) - 1, (1 << ARRIVED_BIT - PHASE_BIT) - 1
# Of _Lanes.order: when the next range may be taken, the stream that comes next, and the phase of
# the range that was taken last.
FREE, TURN, CURRENT_PHASE = range(3)
NO_PHASE = -1
# Of _Lanes.full: since when and until when the FIFO is full, NEVER where that is not known; the
# lane, and the range that it must take.
SINCE, UNTIL, LANE, TAKES = range(4)
# Of _Scanner.walk: when it begins, groups, the next one, its lap; how many times lanes joined and
# left, how many lanes have not joined, when the next of them finishes, and before when none does.
BEGINS, NUMBER, GROUP, LAP, JOINED, PARTED, MISSING, NEXT_FINISH, EARLIEST = range(9)
# Of _Scanner.serialisers: groups under way or waiting, whether another one may be issued; groups
# that entered and left `waiting`, whether one left in this cycle; the group that is sent, and which
# of its channels.
OUTSTANDING, CREDIT, ENTERED, LEFT, LEAVES, CURRENT, CHANNEL = range(7)
# Counters: ranges that were offered and that arrived, and when the last one will have; when the
# last ones did, and the lanes that were idle then; cycles from the first pixel to the answer.
# FULL of stream b and the one after it are the first and the end of its full ranges.
OFFERED, ARRIVED, LAST_ARRIVAL, WOKEN_AT, WOKEN, WHOLE, FULL = range(7)
NO_EVENTS, FIFO_FULL, LAYER_TAIL, SEQUENCER = range(len(LOST_CAUSES))
NOT_RUNNING = -1

WORKS = 8  # places of a ring of events; a power of two above STAGES + 1
APART = 8  # between FIFOs: at powers of two all would meet in a small part of the computer's cache
FULLS = 1024  # places of a ring of full ranges: in each lane as many as may still arrive
assert WORKS > STAGES + 1
assert FULLS >= 64 * (ROOM + BROADCAST)

ONE = np.uint64(1)
NONE = np.uint64(0)
ALL = ~NONE
# The index of the only bit that is set, by the topmost six bits of its product with this.
DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
BIT_INDEX = np.zeros(64, np.int64)
for _bit in range(64):
    BIT_INDEX[((int(DE_BRUIJN) << _bit) & (2**64 - 1)) >> 58] = _bit


@inlined
def _index(bit: Any) -> int:
    """Index of a bit."""
    return BIT_INDEX[(bit * DE_BRUIJN) >> np.uint64(58)]  # type: ignore[no-any-return]


# The encoder.


@inlined
def _pixel(p: Any) -> None:
    """A pixel goes through the encoder: it moves on when the stage ahead is free."""
    p[TAKEN] = max(p[TAKEN] + 1, p[READ])
    p[READ] = max(p[TAKEN] + 1, p[ANSWERED])
    p[ANSWERED] = max(p[READ] + 1, p[DECIDED])
    p[DECIDED] = max(p[ANSWERED] + 1, p[COMPARED])
    p[COMPARED] = max(p[DECIDED] + 1, p[FINISHED])
    p[FINISHED] = p[COMPARED]


@kernel
def _quiet_pixels(p: Any, number: int) -> None:
    """Pixels without events: after a few all stages move in every cycle."""
    few = min(PIXEL_STAGES + 1, number)
    for _ in range(few):
        _pixel(p)
    rest = number - few
    p[TAKEN] += rest
    p[READ] += rest
    p[ANSWERED] += rest
    p[DECIDED] += rest
    p[COMPARED] += rest
    p[FINISHED] += rest


@kernel
def _take_in(encoder: Any) -> None:
    """Spread the events of the input out over the map."""
    _, channels, height, width = encoder.shape
    senders, counts, crowds = encoder.senders, encoder.counts, encoder.crowds
    crowds[:] = 0
    for n in range(encoder.begins[1]):
        at = senders[n]
        encoder.fired[at] = 1
        row = at // width
        y, channel = row % height, row // height % channels
        counts[y, (at - row * width) * channels + channel] += 1
        crowds[y] += 1


@kernel
def _is_same(row: Any, previous: Any) -> bool:
    """Whether two rows are equal."""
    different = np.uint8(0)
    for x in range(len(row)):
        different |= row[x] ^ previous[x]
    return different == 0


@kernel
def _next_pixel_with_events(encoder: Any, known: bool) -> None:
    """Walk to the next pixel that has events; NEXT_PUSH is when its first one is pushed.

    Its events are pushed in the cycles after it was compared, one each. `known`: the host sends a
    row as unchanged where it is.
    """
    p, crowds = encoder.place, encoder.crowds
    height, pixels = encoder.counts.shape
    while p[ROW] < height:
        y = p[ROW]
        if crowds[y] == 0:
            if known and _is_same(encoder.frame[y], encoder.previous[y]):
                p[TAKEN] = max(p[TAKEN] + 1, p[READ])
            else:
                _quiet_pixels(p, pixels)
            p[ROW] += 1
            continue
        counts = encoder.counts[y]
        at = p[COLUMN]
        while at < pixels and counts[at] == 0:
            at += 1
        _quiet_pixels(p, at - p[COLUMN])
        if at < pixels:
            _pixel(p)
            p[COLUMN] = at + 1
            p[REST], p[PLANE] = counts[at], 0
            counts[at] = 0
            p[NEXT_PUSH] = p[COMPARED] + 1
            return
        p[ROW] += 1
        p[COLUMN] = 0
    p[NEXT_PUSH] = NEVER


@kernel
def _push(encoder: Any, t: int, known: bool) -> None:
    """Push the next event at t, if its queue has room."""
    p = encoder.place
    streams = len(encoder.queues)
    _, channels, height, width = encoder.shape
    n = p[PUSHED]
    queue = encoder.queues[n % streams]
    # Room is known a cycle later: what came and went in the last cycle does not count.
    level = n // streams - queue[POPPED]
    level += queue[LAST_POP] >= t - 1
    level += queue[POP_BEFORE] == t - 1 and queue[LAST_POP] == t
    level -= n >= streams and encoder.pushes[n - streams] == t - 1
    if level > queue[DEPTH] - QUEUE_MARGIN:
        p[NEXT_PUSH] = t + 1
        return
    y, at = p[ROW], p[COLUMN] - 1
    x, channel = at // channels, at % channels
    at = ((p[PLANE] * channels + channel) * height + y) * width + x
    while not encoder.fired[at]:
        p[PLANE] += 1
        at += channels * height * width
    encoder.fired[at] = 0
    encoder.events[n, 0], encoder.events[n, 1] = y, x
    encoder.events[n, 2] = p[PLANE] * channels + channel
    encoder.pushes[n] = t
    p[PUSHED] += 1
    p[PLANE] += 1
    p[FINISHED] = t
    p[REST] -= 1
    p[NEXT_PUSH] = t + 1
    if p[REST] == 0:
        _next_pixel_with_events(encoder, known)


@inlined
def _head_at(queues: Any, pushes: Any, pushed: int, b: int) -> int:
    """From when on the next event of a queue may be taken."""
    n = queues[b, POPPED] * len(queues) + b
    at = NEVER
    if n < pushed:
        at = max(pushes[n] + QUEUE_LATENCY, queues[b, LAST_POP] + 1)
    return at


@kernel
def _crowded(queues: Any, pushed: int) -> bool:
    """Whether some queue is nearly full."""
    streams = len(queues)
    for b in range(streams):
        entered = (pushed - b + streams - 1) // streams
        if entered - queues[b, POPPED] > queues[b, DEPTH] - QUEUE_MARGIN:
            return True
    return False


# The range generators.


@inlined
def _offer(
    way: Any, way_mask: Any, count: Any, t: int, b: int, begin: int, end: int, phase: int, mask: Any
) -> None:  # fmt: skip
    """A range leaves for the lanes of `mask`."""
    at = count[OFFERED] & (RING - 1)
    way[at, ARRIVAL] = t + BROADCAST - 1
    way[at, STREAM] = b
    way[at, BEGIN] = begin
    way[at, END] = end
    way[at, PHASE] = phase
    way_mask[at] = mask
    count[LAST_ARRIVAL] = t + BROADCAST - 1
    count[OFFERED] += 1


@inlined
def _close_up(bits: int, gap: int) -> int:
    """Stages below a gap move up by one, those above it stay."""
    low = bits & (gap - 1)
    return (bits ^ low) | (low << 1)


@inlined
def _advance(
    now: Any, works: Any, b: int, room: bool, way: Any, way_mask: Any, count: Any, t: int,
    phase: int,
) -> tuple[int, bool, bool]:  # fmt: skip
    """One cycle of a generator without its input; it offers its next range if there is room.

    Returns where an event that comes in this cycle goes (STAGE_0, IN_FRONT, NOWHERE), whether
    anything moved, and whether a range waits for room.
    """
    valid, empty = now[b, VALID], now[b, EMPTY]
    moved, waits, stuck = False, False, False
    if valid & FOREMOST:
        offers = now[b, RANGES] > 0
        waits = offers and not room
        if waits:
            stuck = True
        else:
            moved = True
            stuck = now[b, RANGES] > 1 or now[b, PAIRS] > 1
            if offers:
                first = now[b, FROM]
                end = first + now[b, SIZE]
                _offer(way, way_mask, count, t, b, first, end, phase, ALL)
                now[b, RANGES] -= 1
            now[b, FROM] += now[b, STRIDE]
            if now[b, PAIRS] > 0:
                now[b, PAIRS] -= 1
    accepts = True
    if stuck:
        gap = FOREMOST >> 1
        while valid & gap:
            gap >>= 1
        if gap:
            moved = moved or (valid & (gap - 1)) != 0
            empty = _close_up(empty, gap)
            valid = _close_up(valid, gap)
        else:
            accepts = False
    elif valid:
        moved = True
        if valid & (FOREMOST >> 1):
            work = now[b, BEGUN] & (WORKS - 1)
            for i in range(FROM, PAIRS + 1):
                now[b, i] = works[b, work, i]
            now[b, BEGUN] += 1
        valid = (valid << 1) & (2 * FOREMOST - 1)
        empty <<= 1
    ends = valid & empty & (1 << EMPTY_ENDS)
    valid ^= ends
    empty ^= ends
    spare = now[b, SPARE]
    place = NOWHERE
    if not accepts:
        if spare == NO_EVENT:
            place = IN_FRONT
    elif spare != NO_EVENT:
        moved = True
        valid |= 1
        if spare == AN_EMPTY_EVENT:
            empty |= 1
        now[b, SPARE] = NO_EVENT
    else:
        place = STAGE_0
    now[b, VALID] = valid
    now[b, EMPTY] = empty
    return place, moved, waits


@inlined
def _accept(
    now: Any, works: Any, b: int, place: int, y: int, x: int, slot: int, target: Any,
    rows: Any, columns: Any, marks: Any,
) -> None:  # fmt: skip
    """An event enters a generator at a place; the positions that it touches are marked."""
    row, column = target[ROW_BASE] + y, target[COLUMN_BASE] + x
    down, across = rows[row, COUNT], columns[column, COUNT]
    event = AN_EMPTY_EVENT
    if down and across:
        event = AN_EVENT
        before, width = columns[column, FIRST], columns[column, PHASE_TAPS]
        work = now[b, CAME] & (WORKS - 1)
        now[b, CAME] += 1
        works[b, work, FROM] = (
            target[POINTER_BASE] + slot * target[TAPS] + rows[row, BEFORE]
            + rows[row, PHASE_TAPS] * columns[column, BEFORE] + rows[row, FIRST] * width + before
        )  # fmt: skip
        works[b, work, STRIDE] = width
        works[b, work, PAIRS] = (down + 1) >> 1
        if before == 0 and across == width:
            works[b, work, SIZE] = down * across
            works[b, work, RANGES] = 1
        else:
            works[b, work, SIZE] = across
            works[b, work, RANGES] = down
        top, left = rows[row, START], columns[column, START]
        for i in range(top, top + down):
            for j in range(left, left + across):
                marks[i, j] = 1
    if place == IN_FRONT:
        now[b, SPARE] = event
    else:
        now[b, VALID] |= 1
        if event == AN_EMPTY_EVENT:
            now[b, EMPTY] |= 1


# The lanes.


@inlined
def _lengths(pointers: Any, begin: int, end: int, lane: Any, mask: Any) -> Any:
    """Stored weights of a range in a vector of lanes: what they multiply, if it is for them."""
    first = load(pointers, np.uint64(begin * pointers.shape[1]) + lane)
    length = minus(load(pointers, np.uint64(end * pointers.shape[1]) + lane), first)
    return choose(np.uint32(mask >> lane), length, spread(length, 0))


@inlined
def _land_alone(
    pointers: Any, begin: int, end: int, mask: Any, earliest: int, most: int, until: Any,
    loads: Any, lengths: Any, takes: Any, pushed: Any, fifos: Any,
) -> tuple[int, int]:  # fmt: skip
    """A range of the only stream arrives; lanes without any of it drop it.

    Ranges are taken in order: each as soon as the lane has done everything before. Returns how many
    lanes were idle, and until when a FIFO is full (below 0: none).
    """
    places = np.uint64(fifos.shape[1] - APART - 1)
    wakes, filled = 0, -1
    for lane in range(np.uint64(0), np.uint64(len(until)), np.uint64(LANES)):
        length, before = _lengths(pointers, begin, end, lane, mask), load(until, lane)
        some, soonest = beyond(length, np.int32(0)), spread(before, earliest)
        take = larger(before, soonest)
        after = choose(some, plus(take, length), before)
        wakes += ones(some & above(soonest, before))
        late = np.uint32(some & above(after, spread(before, earliest + most - 1)))
        store(until, lane, after)
        store(loads, lane, plus(load(loads, lane), length))
        store(takes, lane, take)
        # A range that is dropped leaves its place to the next one.
        for here in range(lane, min(lane + np.uint64(LANES), np.uint64(len(fifos)))):
            fifos[here, np.uint64(pushed[here]) & places] = takes[here]
        n = load(pushed, lane)
        store(pushed, lane, plus(n, choose(some, spread(n, 1), spread(n, 0))))
        while late:  # else the lane is not as far behind as ranges that it must take
            here = lane + lowest(late)
            late &= late - np.uint32(1)
            taken = fifos[here, np.uint64(pushed[here] - 1 - most) & places]
            if taken > filled:
                filled = taken
    return wakes, filled


@inlined
def _land(
    pointers: Any, begin: int, end: int, mask: Any, stamp: int, earliest: int, most: int,
    until: Any, loads: Any, lengths: Any, pushed: Any, taken: Any, fifos: Any, woken: Any,
    snapshot: Any,
) -> tuple[Any, Any]:  # fmt: skip
    """A range of one of several streams arrives; lanes without any of it drop it.

    Returns the lanes that were idle, and those whose FIFO may be full, or has no place left for
    what is not known to be taken.
    """
    places = np.uint64(fifos.shape[1] - APART - 1)
    wakes, crowded = NONE, NONE
    arrival = stamp >> ARRIVED_BIT
    for lane in range(np.uint64(0), np.uint64(len(until)), np.uint64(LANES)):
        length, before = _lengths(pointers, begin, end, lane, mask), load(until, lane)
        some, soonest = beyond(length, np.int32(0)), spread(before, earliest)
        after = choose(some, plus(larger(before, soonest), length), before)
        store(until, lane, after)
        store(loads, lane, plus(load(loads, lane), length))
        store(lengths, lane, length)
        for here in range(lane, min(lane + np.uint64(LANES), np.uint64(len(fifos)))):
            fifos[here, np.uint64(pushed[here]) & places] = stamp + lengths[here]
        n = load(pushed, lane)
        store(pushed, lane, plus(n, choose(some, spread(n, 1), spread(n, 0))))
        # No lane has more ranges to take than cycles of work, nor than came since it was idle.
        known = load(taken, lane)
        late = above(after, spread(before, earliest + most - 1))
        late &= above(minus(n, larger(known, load(snapshot, lane))), spread(n, most - 1))
        late |= above(minus(n, known), spread(n, fifos.shape[1] - APART - 3))
        crowded |= np.uint64(np.uint32(some & late)) << lane
        # Two that meet an idle lane at once: the order matters.
        idle, last = np.uint32(some & above(soonest, before)), load(woken, lane)
        now = spread(last, arrival)
        both = np.uint32(some & ~idle & equal(last, now))
        store(woken, lane, choose(idle, now, choose(both, spread(last, -1), last)))
        wakes |= np.uint64(idle) << lane
    return wakes, crowded


@inlined
def _snapshot(wakes: Any, pushed: Any, mine: int, snapshot: Any) -> None:
    """Keep how many ranges came before the one that wakes lanes; `mine`: it is one of them."""
    for lane in range(np.uint64(0), np.uint64(len(pushed)), np.uint64(LANES)):
        n = load(pushed, lane)
        before = minus(n, spread(n, mine))
        store(snapshot, lane, choose(np.uint32(wakes >> lane), before, load(snapshot, lane)))


@kernel
def _take_turns(
    lanes: Any, t: int, pushed: Any, taken: Any, fifos: Any, order: Any, woken: Any,
    snapshot: Any,
) -> None:  # fmt: skip
    """Work out which ranges some lanes take up to t, and when; that replaces them in the FIFOs.

    A lane takes the layer before first, then the streams in turns. If it was idle in between and
    then met a single range, what was before does not matter: then `taken` alone tells of it.
    """
    # Unsigned: the compiler then knows that no index counts from the end.
    streams, places = np.uint64(len(pushed)), np.uint64(fifos.shape[2] - APART - 1)
    while lanes:
        bit = lanes & (~lanes + ONE)
        lanes ^= bit
        here = np.uint64(_index(bit))
        at: Any = order[here, FREE]
        turn: Any = np.uint64(order[here, TURN])
        current: Any = order[here, CURRENT_PHASE]
        if at <= woken[here] < t - ROOM - 2:
            at, current = np.int64(woken[here]) + 1, NO_PHASE
            for other in range(streams):
                taken[other, here] = snapshot[other, here]
        while at <= t:
            chosen = turn
            n: Any = np.uint64(taken[chosen, here])
            found = fifos[chosen, here, n & places]
            known = n < np.uint64(pushed[chosen, here]) and found >> ARRIVED_BIT < at
            # No range that waits or is to come has an older phase than one that was taken.
            if not known or (found >> PHASE_BIT) & PHASE_MASK != current:
                oldest, first = NEVER, NEVER
                b: Any = turn
                for _ in range(streams):
                    n = np.uint64(taken[b, here])
                    if n < np.uint64(pushed[b, here]):
                        head = fifos[b, here, n & places]
                        phase = (head >> PHASE_BIT) & PHASE_MASK
                        first = min(first, head >> ARRIVED_BIT)
                        if phase < oldest and head >> ARRIVED_BIT < at:
                            chosen, oldest, found = b, phase, head
                    b += ONE
                    if b == streams:
                        b = NONE
                if first == NEVER:
                    break
                if oldest == NEVER:
                    at = first + 1
                    continue
                current = oldest
                n = np.uint64(taken[chosen, here])
            fifos[chosen, here, n & places] = at
            taken[chosen, here] += 1
            at += found & LENGTH_MASK
            order[here, FREE] = at
            turn = chosen + ONE
            if turn == streams:
                turn = NONE
        order[here, TURN] = turn
        order[here, CURRENT_PHASE] = current


@inlined
def _fills(full: Any, count: Any, b: int, since: int, until: int, lane: int, takes: int) -> None:
    """Note that a range fills a FIFO of stream b."""
    at = count[FULL + 2 * b + 1] & (FULLS - 1)
    full[b, at, SINCE] = since
    full[b, at, UNTIL] = until
    full[b, at, LANE] = lane
    full[b, at, TAKES] = takes
    count[FULL + 2 * b + 1] += 1


@kernel
def _note_full(
    b: int, crowded: Any, arrival: int, running: bool, most: int, pushed: Any, taken: Any,
    fifos: Any, order: Any, woken: Any, snapshot: Any, full: Any, count: Any,
) -> None:  # fmt: skip
    """Note which of the `crowded` lanes have a full FIFO of stream b since a range arrived."""
    if running:
        _take_turns(crowded, arrival, pushed, taken, fifos, order, woken, snapshot)
    while crowded:
        bit = crowded & (~crowded + ONE)
        crowded ^= bit
        lane = _index(bit)
        takes = pushed[b, lane] - 1 - most
        if taken[b, lane] <= takes:
            _fills(full, count, b, arrival, NEVER, lane, takes)


@inlined
def _arrive(
    t: int, go: int, most: int, pointers: Any, until: Any, loads: Any, pushed: Any, taken: Any,
    fifos: Any, order: Any, woken: Any, lengths: Any, takes: Any, snapshot: Any,
    full: Any, way: Any, way_mask: Any, count: Any,
) -> None:  # fmt: skip
    """Ranges that were under way before t arrive. Lanes take them from `go` on."""
    running = go < NEVER
    while count[ARRIVED] < count[OFFERED] and way[count[ARRIVED] & (RING - 1), ARRIVAL] < t:
        at = count[ARRIVED] & (RING - 1)
        count[ARRIVED] += 1
        arrival, b, mask = way[at, ARRIVAL], way[at, STREAM], way_mask[at]
        begin, end = way[at, BEGIN], way[at, END]
        # Before the frame runs, lanes take nothing: their times count from its start.
        earliest = max(arrival + 1, go) if running else 0
        if len(pushed) == 1:
            woke, filled = _land_alone(
                pointers, begin, end, mask, earliest, most, until, loads, lengths, takes, pushed[0],
                fifos[0],
            )  # fmt: skip
            if filled > (arrival if running else -1):
                _fills(full, count, 0, arrival, filled, 0, 0)
        else:
            stamp = (arrival << ARRIVED_BIT) | (way[at, PHASE] << PHASE_BIT)
            wakes, crowded = _land(
                pointers, begin, end, mask, stamp, earliest, most, until, loads, lengths, pushed[b],
                taken[b], fifos[b], woken, snapshot[b],
            )  # fmt: skip
            woke = ones(np.uint32(wakes)) + ones(np.uint32(wakes >> np.uint64(32)))
            if wakes:
                for other in range(len(pushed)):
                    mine = 1 if other == b else 0
                    _snapshot(wakes, pushed[other], mine, snapshot[other])
            if crowded:
                _note_full(
                    b, crowded, arrival, running, most, pushed, taken, fifos, order, woken,
                    snapshot, full, count,
                )  # fmt: skip
        if count[WOKEN_AT] != arrival:
            count[WOKEN_AT] = arrival
            count[WOKEN] = 0
        count[WOKEN] += woke


@kernel
def _run(
    t: int, until: Any, pushed: Any, fifos: Any, order: Any, full: Any, count: Any
) -> None:  # fmt: skip
    """Lanes take ranges from t on."""
    for lane in range(len(until)):
        until[lane] = until[lane] + t if until[lane] else -PIPELINE - 1
    for lane in range(len(order)):
        order[lane, FREE] = t
        order[lane, CURRENT_PHASE] = NO_PHASE
    if len(pushed) == 1:
        for lane in range(len(order)):
            for n in range(pushed[0, lane]):
                fifos[0, lane, n] += t
        for at in range(count[FULL], count[FULL + 1]):
            full[0, at & (FULLS - 1), UNTIL] += t


@inlined
def _full_until(
    b: int, t: int, running: bool, pushed: Any, taken: Any, fifos: Any, order: Any,
    woken: Any, snapshot: Any, full: Any, count: Any,
) -> int:  # fmt: skip
    """Until when a FIFO of stream b seems full to a range that is offered at t; 0: none does.

    NEVER where that is not known yet.
    """
    first, seen, found = FULL + 2 * b, t - ROOM - 1, 0
    while found == 0 and count[first] < count[first + 1]:
        at = count[first] & (FULLS - 1)
        if full[b, at, SINCE] > seen:
            break
        if running and full[b, at, UNTIL] == NEVER:
            lane, takes = full[b, at, LANE], full[b, at, TAKES]
            bit = ONE << np.uint64(lane)
            _take_turns(bit, seen, pushed, taken, fifos, order, woken, snapshot)
            places = fifos.shape[2] - APART
            if pushed[b, lane] - takes >= places:
                full[b, at, UNTIL] = 0  # its place was taken since: that is long ago
            elif taken[b, lane] > takes:
                found_at = fifos[b, lane, takes & (places - 1)]
                full[b, at, UNTIL] = found_at if found_at < 1 << ARRIVED_BIT else 0
        if not running:
            found = NEVER
        elif full[b, at, UNTIL] > seen:
            found = full[b, at, UNTIL]
        else:
            count[first] += 1
    return found


@inlined
def _busy(t: int, until: Any, loads: Any, count: Any) -> int:
    """Lane-cycles that multiplied up to t; everything that arrived up to t has been taken in."""
    busy = 0
    for lane in range(np.uint64(0), np.uint64(len(until)), np.uint64(LANES)):
        ahead = minus(load(until, lane), spread(load(until, lane), t))
        busy += total(minus(load(loads, lane), larger(ahead, spread(ahead, 0))))
    if count[WOKEN_AT] == t:
        busy += count[WOKEN]
    return busy


@inlined
def _latest(until: Any) -> int:
    """When the last lane has done all of its work."""
    latest = load(until, np.uint64(0))
    for lane in range(np.uint64(LANES), np.uint64(len(until)), np.uint64(LANES)):
        latest = larger(latest, load(until, lane))
    return greatest(latest)


# The scanner.


@kernel
def _begin_pass(
    t: int, source: Any, everything: bool, senders: Any, neurons: Any, marks: Any, arrived: int,
    scanner: Any,
) -> None:  # fmt: skip
    """List the groups of a pass over `source` that begins at t, and which of its `neurons` fire.
    The last range has or will have `arrived`.

    A neuron that fires lies at a position that is examined.
    """
    rows, columns, channels = source[MAP_ROWS], source[MAP_COLUMNS], source[CHANNELS]
    groups, ranks, fires, walk = scanner.groups, scanner.ranks, scanner.fires, scanner.walk
    together = fires.shape[1]
    number = 0
    for y in range(rows):
        for x in range(columns):
            if everything or marks[y, x]:
                ranks[y * columns + x] = number
                for k in range(0, channels, together):
                    groups[number, 0], groups[number, 1], groups[number, 2] = y, x, k
                    for i in range(together):
                        fires[number, i] = NONE
                    number += 1
    for neuron in senders:
        k = neurons[neuron, 1]
        group = ranks[neurons[neuron, 0]] + k // together
        fires[group, k % together] |= ONE << np.uint64(neurons[neuron, 2])
    scanner.flying[:] = -1
    scanner.serialisers[:] = 0
    scanner.serialisers[:, CREDIT] = 1
    scanner.sending[:] = NONE
    scanner.active[0] = NONE
    walk[:] = 0
    walk[BEGINS], walk[NUMBER] = t + SCAN_START, number
    walk[MISSING], walk[NEXT_FINISH] = len(scanner.finish), -NEVER
    walk[EARLIEST] = arrived + EMPTIES


@inlined
def _next_channel(b: int, serialisers: Any, sending: Any) -> None:
    """Where nothing of a channel is left, a serialiser goes on with the next one that has any."""
    for _ in range(1, sending.shape[1]):
        if sending[b, 0] == NONE:
            for k in range(1, sending.shape[1]):
                sending[b, k - 1] = sending[b, k]
            sending[b, sending.shape[1] - 1] = NONE
            serialisers[b, CHANNEL] += 1


@inlined
def _next_group(b: int, serialisers: Any, waiting: Any, waiting_group: Any, sending: Any) -> bool:
    """A serialiser that has nothing left takes the next group; returns whether there is one."""
    found = sending[b, 0] == NONE and serialisers[b, LEFT] < serialisers[b, ENTERED]
    serialisers[b, LEAVES] = found
    if found:
        at = serialisers[b, LEFT] & (RING - 1)
        for k in range(sending.shape[1]):
            sending[b, k] = waiting[b, at, k]
        serialisers[b, CURRENT] = waiting_group[b, at]
        serialisers[b, CHANNEL] = 0
        serialisers[b, LEFT] += 1
        _next_channel(b, serialisers, sending)
    return found


@kernel
def _join(t: int, until: Any, scanner: Any) -> Any:
    """Lanes that have finished the layer before, and have not joined the walk."""
    finish, walk = scanner.finish, scanner.walk
    if walk[NEXT_FINISH] == -NEVER:
        # No range of the new layer has come yet.
        for lane in range(len(finish)):
            finish[lane] = max(until[lane] + FINISHES, walk[EARLIEST])
    joiners, soonest = NONE, NEVER
    for lane in range(len(finish)):
        if finish[lane] <= t:
            joiners |= ONE << np.uint64(lane)
            finish[lane] = NEVER
            walk[MISSING] -= 1
        soonest = min(soonest, finish[lane])
    walk[NEXT_FINISH] = soonest
    return joiners


@inlined
def _walk(
    t: int, until: Any, scanner: Any, walk: Any, active: Any, fires: Any, flying: Any, flight: Any,
    members: Any, serialisers: Any, waiting: Any, waiting_group: Any,
) -> bool:  # fmt: skip
    """One cycle of the walk, and the answer to an earlier group; returns whether anything moved."""
    streams = len(serialisers)
    moved, issued = False, False
    credit = walk[NUMBER] > 0 and t >= walk[BEGINS]
    for b in range(streams):
        if not serialisers[b, CREDIT]:
            credit = False
        # Known a cycle later.
        spare = serialisers[b, OUTSTANDING] <= GROUPS - 2
        if spare != serialisers[b, CREDIT]:
            serialisers[b, CREDIT] = spare
            moved = True
    if credit:
        issued = active[0] != NONE
        if walk[PARTED] < walk[JOINED]:
            oldest = walk[PARTED] & (RING - 1)
            if scanner.joins[oldest, 0] == walk[GROUP] and scanner.joins[oldest, 1] != walk[LAP]:
                active[0] &= ~scanner.joined[oldest]
                walk[PARTED] += 1
        if t >= walk[NEXT_FINISH]:
            joiners = _join(t, until, scanner)
            if joiners:
                issued = True
                active[0] |= joiners
                newest = walk[JOINED] & (RING - 1)
                scanner.joins[newest, 0], scanner.joins[newest, 1] = walk[GROUP], walk[LAP]
                scanner.joined[newest] = joiners
                walk[JOINED] += 1
        if issued:
            arrives = (t + SCAN_LATENCY) & (RING - 1)
            flying[arrives] = walk[GROUP]
            flight[arrives] = active[0]
            walk[GROUP] += 1
            if walk[GROUP] == walk[NUMBER]:
                walk[GROUP], walk[LAP] = 0, 1 - walk[LAP]
    at = t & (RING - 1)
    answered = flying[at]
    for b in range(streams):
        serialisers[b, OUTSTANDING] += issued - serialisers[b, LEAVES]
        if answered >= 0:
            entry = serialisers[b, ENTERED] & (RING - 1)
            any_fired = NONE
            for k in range(fires.shape[1]):
                fired = fires[answered, k] & flight[at] & members[b]
                waiting[b, entry, k] = fired
                any_fired |= fired
            if any_fired:
                waiting_group[b, entry] = answered
                serialisers[b, ENTERED] += 1
            else:
                serialisers[b, OUTSTANDING] -= 1
    flying[at] = -1
    return moved or issued or answered >= 0


@kernel
def _next_answer(t: int, flying: Any) -> int:
    """When the next group after t is answered."""
    for ahead in range(1, SCAN_LATENCY + 1):
        if flying[(t + ahead) & (RING - 1)] >= 0:
            return t + ahead
    return NEVER


# The sequencer.


@kernel
def _frame(
    tables: Any, encoder: Any, generators: Any, lanes: Any, scanner: Any, count: Any, cycles: Any,
    lost: Any, most: int, everything: bool,
) -> tuple[int, int]:  # fmt: skip
    """Run one frame; `everything`: it is sent whole, and all neurons are examined.

    Writes `cycles` of each layer and `lost` lane-cycles in its phase by cause; returns total and
    busy cycles.
    """
    pointers, rows, columns = tables.pointers, tables.rows, tables.columns
    queues, pushes, events, place = encoder.queues, encoder.pushes, encoder.events, encoder.place
    now, works, way, way_mask = (
        generators.now,
        generators.works,
        generators.way,
        generators.way_mask,
    )
    until, pushed, taken, fifos = lanes.until, lanes.pushed, lanes.taken, lanes.fifos
    order, full = lanes.order, lanes.full
    woken, snapshot = lanes.woken, lanes.snapshot
    loads, lengths, takes = lanes.loads, lanes.lengths, lanes.takes
    walk, active, sending = scanner.walk, scanner.active, scanner.sending
    serialisers, waiting, waiting_group = (
        scanner.serialisers, scanner.waiting, scanner.waiting_group
    )  # fmt: skip
    fires, flying, flight = scanner.fires, scanner.flying, scanner.flight
    groups, members = scanner.groups, scanner.members

    last = len(tables.layers) - 1
    streams, lane_count = len(now), len(order)
    place[:] = 0
    place[TAKEN : FINISHED + 1] = -1
    for b in range(streams):
        queues[b, POPPED] = 0
        queues[b, LAST_POP] = queues[b, POP_BEFORE] = -3
    now[:] = 0
    until[:] = 0
    loads[:] = 0
    pushed[:] = 0
    taken[:] = 0
    woken[:] = -2
    snapshot[:] = 0
    if streams == 1:
        fifos[:] = -1
    generators.marks[:] = 0
    count[:] = 0
    count[LAST_ARRIVAL] = -2
    lost[:] = 0
    _take_in(encoder)
    _next_pixel_with_events(encoder, not everything)

    t, phase = 0, 0
    target = tables.layers[0]
    marks = generators.marks[0]
    local = False
    starts, running, first_cycle, settled = False, False, False, False
    began, phase_began, go = 0, 0, NEVER
    cause, counted, since, busy_before = NOT_RUNNING, 0, 0, 0
    while True:
        _arrive(
            t, go, most, pointers, until, loads, pushed, taken, fifos, order, woken, lengths,
            takes, snapshot, full, way, way_mask, count,
        )  # fmt: skip
        if starts:
            running, starts, go = True, False, t + GO
            _run(go, until, pushed, fifos, order, full, count)
        # What the registers say at the beginning of this cycle.
        flowing = False
        for b in range(streams):
            flowing = flowing or now[b, VALID] != 0
        ready, source_done, scan_waits, received = False, False, False, False
        if phase == 0:
            received = place[NEXT_PUSH] == NEVER and t > max(place[TAKEN], place[FINISHED])
            ready = not running and (received or _crowded(queues, place[PUSHED]))
            if received:
                popped = 0
                for b in range(streams):
                    popped += queues[b, POPPED]
                source_done = popped == place[PUSHED]
        elif not first_cycle and active[0] == NONE:
            quiet = True
            for b in range(streams):
                quiet = quiet and serialisers[b, OUTSTANDING] == 0 and sending[b, 0] == NONE
            everyone = walk[NUMBER] == 0 or walk[MISSING] == 0
            source_done = quiet and everyone
            scan_waits = quiet and not everyone

        # From the source to the lanes. `soon`: when something changes if nothing moves.
        moved, blocked = False, False
        soon = NEVER
        for b in range(streams):
            filled = 0
            if now[b, VALID] & FOREMOST or (local and sending[b, 0] != NONE):
                filled = _full_until(
                    b, t, running, pushed, taken, fifos, order, woken, snapshot, full, count
                )
            room = filled == 0
            entry, moves, waits = _advance(now, works, b, room, way, way_mask, count, t, phase)
            moved = moved or moves
            event, y, x, slot = False, 0, 0, 0
            if phase == 0:
                if entry != NOWHERE:
                    head = _head_at(queues, pushes, place[PUSHED], b)
                    if head <= t:
                        n = queues[b, POPPED] * streams + b
                        event, y, x, slot = True, events[n, 0], events[n, 1], events[n, 2]
                        queues[b, POPPED] += 1
                        queues[b, POP_BEFORE] = queues[b, LAST_POP]
                        queues[b, LAST_POP] = t
                    else:
                        soon = min(soon, head)
            else:
                if sending[b, 0] != NONE:
                    group = serialisers[b, CURRENT]
                    channel = groups[group, 2] + serialisers[b, CHANNEL]
                    if local:
                        waits = waits or not room
                        if room:
                            moved = True
                            tap = target[POINTER_BASE] + channel
                            _offer(way, way_mask, count, t, b, tap, tap + 1, phase, sending[b, 0])
                            sending[b, 0] = NONE
                    elif entry != NOWHERE:
                        bit = sending[b, 0] & (~sending[b, 0] + ONE)
                        sending[b, 0] ^= bit
                        event, y, x = True, groups[group, 0], groups[group, 1]
                        slot = channel * lane_count + _index(bit)
                    _next_channel(b, serialisers, sending)
                if _next_group(b, serialisers, waiting, waiting_group, sending):
                    moved = True
            if event:
                moved = True
                _accept(now, works, b, entry, y, x, slot, target, rows, columns, marks)
            if waits:
                blocked = True
                soon = min(soon, t + 1 if filled == NEVER and running else filled + ROOM + 1)
        if phase > 0 and _walk(
            t, until, scanner, walk, active, fires, flying, flight, members, serialisers, waiting,
            waiting_group,
        ):  # fmt: skip
            moved = True

        # The counters.
        if running:
            reason = NO_EVENTS
            if blocked:
                reason = FIFO_FULL
            elif not flowing and (source_done or scan_waits):
                reason = LAYER_TAIL
            if reason != cause or phase != counted:
                if cause != NOT_RUNNING:
                    busy = _busy(t - 1, until, loads, count) if t - 1 > go else 0
                    lost[counted, cause] += lane_count * (t - since) - (busy - busy_before)
                    busy_before = busy
                cause, since, counted = reason, t, phase
        if place[NEXT_PUSH] <= t:
            moved = True
            _push(encoder, t, not everything)

        # The sequencer.
        if not running:
            if ready:
                first_cycle, moved = True, True
                began = phase_began = t + 1
                starts = True
        elif settled:
            cycles[phase] = t + 1 - phase_began
            phase_began = t + 1
            if phase == last:
                break
            source = tables.layers[phase]
            phase += 1
            target = tables.layers[phase]
            local = target[LOCAL] != 0
            senders = encoder.senders[encoder.begins[phase] : encoder.begins[phase + 1]]
            neurons = tables.neurons[tables.offsets[phase] :]
            _begin_pass(
                t + 1, source, everything, senders, neurons, marks, count[LAST_ARRIVAL], scanner
            )
            marks = generators.marks[phase & 1]
            marks[:] = 0
            first_cycle, settled, moved = True, False, True
        else:
            settled = False
            if not first_cycle and source_done and not flowing:
                settled = True
                if phase == last:
                    done = count[LAST_ARRIVAL]
                    if t > done:  # all ranges have arrived
                        done = max(done + KNOWN, _latest(until) + PIPELINE)
                    if t <= done:
                        settled, soon = False, done + 1
            moved = moved or settled or first_cycle
            first_cycle = False

        if moved:
            t += 1
            continue
        if phase == 0:
            soon = min(soon, place[NEXT_PUSH])
            if place[NEXT_PUSH] == NEVER and not received:
                soon = min(soon, max(place[TAKEN], place[FINISHED]) + 1)
        else:
            if t < walk[BEGINS]:
                soon = min(soon, walk[BEGINS])
            elif walk[MISSING] and t < walk[NEXT_FINISH]:
                soon = min(soon, walk[NEXT_FINISH])
            soon = min(soon, _next_answer(t, flying))
        t = max(t + 1, soon)

    if streams > 1:  # whose turn it is in the next frame
        everyone = ALL >> np.uint64(64 - lane_count)
        _take_turns(everyone, NEVER - 1, pushed, taken, fifos, order, woken, snapshot)
    count[WHOLE] = t + 1
    cycles_all, busy = t + 1 - began, _busy(t, until, loads, count)
    lost[counted, cause] += lane_count * (t + 1 - since) - (busy - busy_before)
    early = began - (place[TAKEN] + 1)  # from the last pixel to phase 0
    if early > 0:
        cycles_all += early
        lost[0, SEQUENCER] += lane_count * early
    return cycles_all, busy


@structref.register
class _MachineType(types.StructRef):  # type: ignore[misc]
    """The compiler's type of a `_Machine`."""


class _Machine(structref.StructRefProxy):  # type: ignore[misc]
    """All arrays as one reference: passing each would cost a tenth of a frame."""


structref.define_proxy(
    _Machine,
    _MachineType,
    ["tables", "encoder", "generators", "lanes", "scanner", "count", "cycles", "lost"],
)


@compiled
def _bind(
    tables: Any, encoder: Any, generators: Any, lanes: Any, scanner: Any, count: Any, cycles: Any,
    lost: Any,
) -> Any:  # fmt: skip
    """Compiled only because the compiler keeps the result on disk."""
    return _Machine(tables, encoder, generators, lanes, scanner, count, cycles, lost)


@compiled
def _run_frame(machine: Any, most: int, everything: bool) -> tuple[int, int]:
    """`_frame` of a machine."""
    return _frame(
        machine.tables, machine.encoder, machine.generators, machine.lanes, machine.scanner,
        machine.count, machine.cycles, machine.lost, most, everything,
    )  # fmt: skip


class CycleModel:
    """Predicts the counters of a device that runs `image`.

    Feed it the events of every frame in order (`step`); `reset` where the device restarts or all
    thresholds are written.
    """

    def __init__(self, image: Image) -> None:
        self.image = image
        config = image.config
        streams, lanes = config.streams, config.lanes

        def table(space: Space) -> Ints:
            fields = unpack(config, space, image.memories[space])
            return np.stack(list(fields.values()), axis=-1)

        def ints(*shape: int) -> npt.NDArray[np.int32]:
            return np.zeros(shape, np.int32)

        height, width, channels = image.frame_shape
        stack = image.registers[int(Register.STACK)]
        events = stack * channels * height * width
        inputs = events + sum(int(np.prod(layer.shape)) for layer in image.layers[:-1])
        places = [_neurons(layer, lanes) for layer in image.layers[:-1]]
        whole = -(-lanes // LANES) * LANES  # of the lanes' vectors
        pointers = np.pad(table(Space.POINTER)[:, :, 0].T, ((0, 0), (0, whole - lanes)))
        tables = _Tables(
            layers=table(Space.LAYER),
            rows=table(Space.ROW),
            columns=table(Space.COLUMN),
            pointers=pointers.astype(np.int32, order="C"),
            neurons=np.concatenate(places or [np.zeros((0, 3), np.int64)]).astype(np.int32),
            offsets=np.cumsum([0, 0, *map(len, places)]),
        )
        self._encoder = encoder = _Encoder(
            shape=np.array([stack, channels, height, width], np.int64),
            senders=ints(inputs),
            begins=np.zeros(len(image.layers) + 1, np.int64),
            fired=np.zeros(events, np.uint8),
            frame=np.zeros((height, width * channels), np.uint8),
            previous=np.zeros((height, width * channels), np.uint8),
            counts=np.zeros((height, width * channels), np.uint8),
            crowds=ints(height),
            events=ints(events, 3),
            pushes=ints(events),
            queues=np.zeros((streams, DEPTH + 1), np.int64),
            place=np.zeros(NEXT_PUSH + 1, np.int64),
        )
        self._encoder.queues[:, DEPTH] = config.queue_depth // streams
        folded = [layer.folded for layer in image.layers]
        rows, columns = (max(shape[axis] for shape in folded) for axis in (1, 2))
        generators = _Generators(
            now=np.zeros((streams, PAIRS + 1), np.int64),
            works=np.zeros((streams, WORKS, PAIRS + 1), np.int64),
            way=np.zeros((RING, PHASE + 1), np.int64),
            way_mask=np.zeros(RING, np.uint64),
            marks=np.zeros((2, rows, columns), np.uint8),
        )
        # With several streams what a lane takes is worked out later: there is room for more.
        depth = 1 << config.fifo_depth.bit_length() + (streams > 1)
        self._most = config.fifo_depth - config.fifo_margin  # ranges in a FIFO that still has room
        self._lanes = state = _Lanes(
            until=ints(whole),
            loads=ints(whole),
            fifos=np.zeros((streams, lanes, depth + APART), np.int64),
            pushed=ints(streams, whole),
            lengths=ints(whole),
            takes=ints(whole),
            taken=ints(streams, whole),
            order=np.zeros((lanes, CURRENT_PHASE + 1), np.int64),
            woken=ints(whole),
            snapshot=ints(streams, whole),
            full=np.zeros((streams, FULLS, TAKES + 1), np.int64),
        )
        groups = max(
            shape[1] * shape[2] * layer.channels
            for shape, layer in zip(folded, image.layers, strict=True)
        )
        per_stream = lanes // streams
        scanner = _Scanner(
            groups=ints(groups, 3),
            ranks=ints(rows * columns),
            fires=np.zeros((groups, config.requantisers), np.uint64),
            walk=np.zeros(EARLIEST + 1, np.int64),
            finish=np.zeros(lanes, np.int64),
            joins=np.zeros((RING, 2), np.int64),
            joined=np.zeros(RING, np.uint64),
            active=np.zeros(1, np.uint64),
            flying=np.zeros(RING, np.int64),
            flight=np.zeros(RING, np.uint64),
            members=np.array(
                [((1 << per_stream) - 1) << (b * per_stream) for b in range(streams)], np.uint64
            ),
            serialisers=np.zeros((streams, CHANNEL + 1), np.int64),
            waiting=np.zeros((streams, RING, config.requantisers), np.uint64),
            waiting_group=np.zeros((streams, RING), np.int64),
            sending=np.zeros((streams, config.requantisers), np.uint64),
        )
        self._cycles = np.zeros(len(image.layers), np.int64)
        self._lost = np.zeros((len(image.layers), len(LOST_CAUSES)), np.int64)
        self._count = np.zeros(FULL + 2 * streams, np.int64)
        self._machine = _bind(
            tables, encoder, generators, state, scanner, self._count, self._cycles, self._lost,
        )  # fmt: skip
        self.reset()

    def reset(self) -> None:
        """The next frame examines every neuron, and is sent whole."""
        self._fresh = True
        self._lanes.order[:] = 0

    @property
    def busiest(self) -> int:
        """Multiplications of the lane that had most of them in the last frame: with this placement
        no frame with these events takes fewer cycles."""
        return int(self._lanes.loads.max())

    @property
    def whole(self) -> int:
        """Cycles of the last frame from its first pixel to its answer."""
        return int(self._count[WHOLE])

    @property
    def waits(self) -> Ints:
        """Lane-cycles lost in the last frame, by phase and cause: (layers, `LOST_CAUSES`).

        The device counts the causes of all phases together.
        """
        return self._lost.copy()

    def compile(self) -> None:
        """Compile the model now, so that no frame is timed with it; it starts as after `reset`."""
        silent = [np.zeros(0, np.int32) for _ in self.image.layers]
        self.step(np.zeros(self.image.frame_shape, np.uint8), silent)
        self.reset()

    def step(self, frame: npt.NDArray[np.uint8], fired: Sequence[npt.NDArray[Any]]) -> Cycles:
        """Cycles of one frame (height, width[, channels]) with its events.

        `fired[i]` are the events into layer i, in any order: flat indices into (channels, height,
        width), as `Golden.fired` and `Engine.fired` give them after the same frame.
        """
        encoder = self._encoder
        encoder.previous[:] = encoder.frame
        encoder.frame[:] = frame.reshape(encoder.frame.shape)
        end = 0
        for i, part in enumerate(fired):
            begin, end = end, end + len(part)
            encoder.senders[begin:end] = part
            encoder.begins[i + 1] = end
        total, busy = _run_frame(self._machine, self._most, self._fresh)
        self._fresh = False
        return Cycles(
            layers=tuple(self._cycles.tolist()),
            total=total,
            busy=busy,
            lost=dict(zip(LOST_CAUSES, self._lost.sum(axis=0).tolist(), strict=True)),
        )


def _neurons(layer: LayerMap, lanes: int) -> npt.NDArray[np.int64]:
    """Of each neuron of a layer: position on the folded map, channel of its lane, lane."""
    (fy, fx), (_, _, columns) = layer.fold, layer.folded
    channel, y, x = np.indices(layer.shape).reshape(3, -1)
    slot = np.array(layer.slots, np.int64)[(channel * fy + y % fy) * fx + x % fx]
    return np.stack([y // fy * columns + x // fx, slot // lanes, slot % lanes], axis=-1)
