"""The cycle model: clock cycles of a frame, predicted exactly, without the gateware.

What a frame costs follows from its events alone. The model steps through the clock cycles of a
frame and keeps of every block of `hw/reticent_hw` the registers that decide when something
happens, but no values: whether a neuron fires is known. Each function below mirrors one block; "at
t" means "in the cycle t". The tests hold the predictions to the counters of the co-simulated core,
frame by frame.

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
from .fold import fold_map
from .image import Image
from .layout import LOST_CAUSES, Register, Space, unpack

__all__ = ["CycleModel"]

Ints = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint64]

STAGES = 5  # of a range generator
BROADCAST = 5  # from the offer of a range until it is in the lanes' FIFOs
ROOM = 3  # cycles from the FIFOs' levels to the generators
SCAN_START = 4  # from the start of a pass to its first group
SCAN_LATENCY = 12  # from the issue of a group to its answer: addressing and the lanes' pass
GROUPS = 32  # groups under examination or waiting for a serialiser
RING = 64  # places of a ring that holds groups; a power of two above GROUPS
FINISHES = 5  # cycles from the last fetch of a layer until the lane may be examined
GO = 1  # cycles from the start of phase 0 until lanes may fetch
KNOWN = 3  # cycles until it is known that a lane is at work
PIPELINE = 6 + KNOWN  # cycles from the last fetch of a lane until it is known to be idle
NEVER = 1 << 60


class _Tables(NamedTuple):
    """The image's memories, as far as they decide times."""

    layers: Ints  # (layers, LAYER fields)
    rows: Ints  # (positions, ROW fields)
    columns: Ints  # (positions, COLUMN fields)
    pointers: npt.NDArray[np.int32]  # (pointers, lanes)


class _Encoder(NamedTuple):
    """The input: its pixels, and the queues of its events."""

    changed: npt.NDArray[np.bool_]  # (frames, channels, height, width), oldest frame first
    same: npt.NDArray[np.bool_]  # (height,) rows that the host sends as unchanged
    busy: npt.NDArray[np.bool_]  # (height,) rows with events
    depth: int  # of one queue
    events: Ints  # (events, 3) y, x, slot
    pushes: Ints  # (events,) when each entered its queue; event n is in queue n % streams
    popped: Ints  # (streams,) events that left the queue
    last_pop: Ints  # (streams,) when the last one did
    pop_before: Ints  # (streams,) and the one before it
    place: Ints  # see the names below


class _Generators(NamedTuple):
    """The range generators: their stages, and last a spare place in front of them."""

    valid: npt.NDArray[np.bool_]  # (streams, STAGES + 1)
    work: Ints  # (streams, STAGES + 1, fields named below)


class _Lanes(NamedTuple):
    """The lanes' FIFOs and what they are doing."""

    most: int  # ranges in a FIFO that still has room
    level: Ints  # (streams, lanes) ranges in the FIFO
    oldest: Ints  # (streams, lanes) place of the next one in the ring
    length: npt.NDArray[np.int32]  # (streams, lanes, ring) stored weights of a range
    parity: npt.NDArray[np.uint8]  # (streams, lanes, ring) of the layer of a range
    until: Ints  # (lanes,) the last cycle in which the lane multiplies
    older: Ints  # (lanes,) the last cycle in which it multiplies for the layer before
    before: Ints  # (lanes,) ranges of the layer before in its FIFOs
    turn: Ints  # (lanes,) the stream that comes next
    full: Ints  # (ROOM + 1, streams) lanes without room: then .. now
    offer: Ints  # (BROADCAST, streams, 2) first, end of ranges on their way; end 0: none
    mask: Bits  # (BROADCAST, streams) and the lanes that they are for
    layer: Ints  # (BROADCAST,) and the parity of their layer


class _Scanner(NamedTuple):
    """The groups of one pass, and the walk through them."""

    groups: Ints  # (groups, 3) y, x, k
    fires: Bits  # (groups,) which lanes fire
    joins: Ints  # (lanes, 2) a ring: group and lap at which lanes joined the walk
    joined: Bits  # (lanes,) and which lanes
    active: Bits  # (1,) lanes that take part now
    place: Ints  # see the names below
    flight: Bits  # (RING,) by the cycle of the answer: lanes that are examined
    flying: Ints  # (RING,) their group, or -1
    outstanding: Ints  # (streams,)
    spare: npt.NDArray[np.bool_]  # (streams,) whether another group may be issued
    waiting: Bits  # (streams, RING) groups for the serialiser: which lanes fired
    group: Ints  # (streams, RING)
    ring: Ints  # (streams, 2) groups that entered and left `waiting`
    sending: Bits  # (streams,) lanes whose events are still to be sent; 0: idle
    current: Ints  # (streams,) their group
    popped: Ints  # (streams,) groups that went to the serialiser in this cycle


# Fields of the LAYER, ROW and COLUMN rows, by position; see `layout.row_fields`.
(POINTER_BASE, TAPS, ROW_BASE, COLUMN_BASE, MAP_ROWS, MAP_COLUMNS, CHANNELS) = range(7)
LOCAL = 12
BEFORE, PHASE_TAPS, FIRST, COUNT, _, START = range(6)
# Of _Encoder.place: row and column of the next pixel; events of the current one that are left and
# the first stacked frame that may hold one; when the last pixel was taken, left stages 1, 2 and 3,
# and had its last event pushed; events pushed; and when the next push is tried, NEVER after the
# last one.
(ROW, COLUMN, REST, PLANE, TAKEN, READ, DECIDED, COMPARED, FINISHED, PUSHED, NEXT_PUSH) = range(11)
# Of _Generators.work: the first tap of the next range, taps of a range, from one range to the
# next, ranges and pairs of marked rows that are left.
FROM, SIZE, STRIDE, RANGES, PAIRS = range(5)
# Of _Scanner.place: when the pass began, the next group, its lap, how many times lanes joined and
# left, how many lanes have not joined.
STARTED, GROUP, LAP, JOINED, LEFT, MISSING = range(6)
NO_EVENT, FIFO_FULL, LAYER_TAIL, SEQUENCER = range(len(LOST_CAUSES))

ONE = np.uint64(1)
NONE = np.uint64(0)
ALL = ~NONE


@compiled
def _pixel(p: Any) -> None:
    """A pixel goes through the encoder: it moves on when the stage ahead is free."""
    p[TAKEN] = max(p[TAKEN] + 1, p[READ])
    p[READ] = max(p[TAKEN] + 1, p[DECIDED])
    p[DECIDED] = max(p[READ] + 1, p[COMPARED])
    p[COMPARED] = max(p[DECIDED] + 1, p[FINISHED])
    p[FINISHED] = p[COMPARED]


@compiled
def _next_pixel_with_events(encoder: Any) -> None:
    """Walk to the next pixel that has events; NEXT_PUSH is when its first one is pushed.

    Its events are pushed in the cycles after it was compared, one each.
    """
    p = encoder.place
    planes, channels, height, width = encoder.changed.shape
    while p[ROW] < height:
        y = p[ROW]
        if not encoder.busy[y]:
            if encoder.same[y]:
                p[TAKEN] = max(p[TAKEN] + 1, p[READ])
            else:
                # After a few pixels all stages move in every cycle.
                few = min(4, width * channels)
                for _ in range(few):
                    _pixel(p)
                rest = width * channels - few
                p[TAKEN] += rest
                p[READ] += rest
                p[DECIDED] += rest
                p[COMPARED] += rest
                p[FINISHED] += rest
            p[ROW] += 1
            continue
        while p[COLUMN] < width * channels:
            x, channel = p[COLUMN] // channels, p[COLUMN] % channels
            count = 0
            for plane in range(planes):
                count += encoder.changed[plane, channel, y, x]
            _pixel(p)
            p[COLUMN] += 1
            if count:
                p[REST], p[PLANE] = count, 0
                p[NEXT_PUSH] = p[COMPARED] + 1
                return
        p[COLUMN] = 0
        p[ROW] += 1
    p[NEXT_PUSH] = NEVER


@compiled
def _push(encoder: Any, t: int) -> None:
    """Push the next event at t, if its queue has room."""
    p = encoder.place
    streams = len(encoder.popped)
    channels = encoder.changed.shape[1]
    n = p[PUSHED]
    queue = n % streams
    # Room is known a cycle later: what came and went in the last cycle does not count.
    level = n // streams - encoder.popped[queue]
    level += encoder.last_pop[queue] >= t - 1
    level += encoder.pop_before[queue] == t - 1 and encoder.last_pop[queue] == t
    level -= n >= streams and encoder.pushes[n - streams] == t - 1
    if level > encoder.depth - 3:
        p[NEXT_PUSH] = t + 1
        return
    at = p[COLUMN] - 1
    y, x, channel = p[ROW], at // channels, at % channels
    while not encoder.changed[p[PLANE], channel, y, x]:
        p[PLANE] += 1
    encoder.events[n, 0], encoder.events[n, 1] = y, x
    encoder.events[n, 2] = p[PLANE] * channels + channel
    encoder.pushes[n] = t
    p[PUSHED] += 1
    p[PLANE] += 1
    p[FINISHED] = t
    p[REST] -= 1
    p[NEXT_PUSH] = t + 1
    if p[REST] == 0:
        _next_pixel_with_events(encoder)


@compiled
def _head_at(encoder: Any, queue: int) -> int:
    """From when on the queue's next event may be taken."""
    n = encoder.popped[queue] * len(encoder.popped) + queue
    if n >= encoder.place[PUSHED]:
        return NEVER
    return max(encoder.pushes[n] + 2, encoder.last_pop[queue] + 1)


@compiled
def _crowded(encoder: Any) -> bool:
    """Whether some queue is nearly full."""
    streams = len(encoder.popped)
    for queue in range(streams):
        entered = (encoder.place[PUSHED] - queue + streams - 1) // streams
        if entered - encoder.popped[queue] >= encoder.depth - 2:
            return True
    return False


@compiled
def _accept(work: Any, y: int, x: int, slot: int, target: Any, tables: Any, marks: Any) -> None:
    """An event enters a generator.

    Fills stage 0 with what stage 3 will work through, SIZE 0 where the event reaches no output
    position, and marks the positions that it touches.
    """
    row = tables.rows[target[ROW_BASE] + y]
    column = tables.columns[target[COLUMN_BASE] + x]
    if row[COUNT] == 0 or column[COUNT] == 0:
        work[SIZE] = 0
        return
    whole = column[FIRST] == 0 and column[COUNT] == column[PHASE_TAPS]
    work[FROM] = (
        target[POINTER_BASE] + slot * target[TAPS] + row[BEFORE]
        + row[PHASE_TAPS] * column[BEFORE] + row[FIRST] * column[PHASE_TAPS] + column[FIRST]
    )  # fmt: skip
    work[STRIDE] = column[PHASE_TAPS]
    work[SIZE] = row[COUNT] * column[COUNT] if whole else column[COUNT]
    work[RANGES] = 1 if whole else row[COUNT]
    work[PAIRS] = (row[COUNT] + 1) // 2
    for i in range(row[COUNT]):
        for j in range(column[COUNT]):
            marks[row[START] + i, column[START] + j] = True


@compiled
def _broadcast(lanes: Any, parity: int, tables: Any) -> bool:
    """Ranges come nearer; the foremost enter the FIFOs of lanes with weights there.

    Returns whether any is on its way.
    """
    some = False
    streams, count = lanes.level.shape
    ring = lanes.length.shape[2]
    for b in range(streams):
        end = lanes.offer[0, b, 1]
        if end:
            some = True
            first, mask = tables.pointers[lanes.offer[0, b, 0]], lanes.mask[0, b]
            last = tables.pointers[end]
            for lane in range(count):
                length = last[lane] - first[lane]
                if length and (mask >> np.uint64(lane)) & ONE:
                    at = (lanes.oldest[b, lane] + lanes.level[b, lane]) & (ring - 1)
                    lanes.length[b, lane, at] = length
                    lanes.parity[b, lane, at] = lanes.layer[0]
                    lanes.level[b, lane] += 1
                    if lanes.layer[0] != parity:
                        lanes.before[lane] += 1
                    if lanes.level[b, lane] == lanes.most + 1:
                        lanes.full[ROOM, b] += 1
        for i in range(BROADCAST - 1):
            some |= lanes.offer[i + 1, b, 1] != 0
            lanes.offer[i, b, 0] = lanes.offer[i + 1, b, 0]
            lanes.offer[i, b, 1] = lanes.offer[i + 1, b, 1]
            lanes.mask[i, b] = lanes.mask[i + 1, b]
    for i in range(BROADCAST - 1):
        lanes.layer[i] = lanes.layer[i + 1]
    return some


@compiled
def _fetch(lanes: Any, t: int, parity: int) -> int:
    """Lanes that are free take their next range; returns how many multiply at t."""
    streams, count = lanes.level.shape
    ring = lanes.length.shape[2]
    busy = 0
    for lane in range(count):
        if lanes.until[lane] >= t:
            busy += 1
            if lanes.until[lane] > t:
                continue
        older = lanes.before[lane] > 0
        for i in range(streams):
            b = lanes.turn[lane] + i
            if b >= streams:
                b -= streams
            at = lanes.oldest[b, lane]
            if not lanes.level[b, lane] or (older and lanes.parity[b, lane, at] == parity):
                continue
            lanes.oldest[b, lane] = (at + 1) & (ring - 1)
            if lanes.level[b, lane] == lanes.most + 1:
                lanes.full[ROOM, b] -= 1
            lanes.level[b, lane] -= 1
            lanes.until[lane] = t + lanes.length[b, lane, at]
            if older:
                lanes.before[lane] -= 1
                lanes.older[lane] = lanes.until[lane]
            lanes.turn[lane] = b + 1 if b + 1 < streams else 0
            break
    return busy


@compiled
def _begin_pass(
    scanner: Any, lanes: Any, t: int, source: Any, touched: Any, everything: bool, fired: Any,
    slots: Any,
) -> int:  # fmt: skip
    """List the groups of a pass over `source` that begins at t; returns how many there are.

    `fired` (channels, rows, columns), `slots` (channels,). All ranges in the FIFOs now belong to
    the layer before the target.
    """
    streams, count = lanes.level.shape
    rows, columns, channels = source[MAP_ROWS], source[MAP_COLUMNS], source[CHANNELS]
    number = 0
    for y in range(rows):
        for x in range(columns):
            if not (everything or touched[y, x]):
                continue
            for k in range(channels):
                scanner.groups[number, 0], scanner.groups[number, 1] = y, x
                scanner.groups[number, 2] = k
                scanner.fires[number] = NONE
                number += 1
    # A neuron that fires lies at a position that is examined.
    place = np.full((rows, columns), -1, np.int64)
    for n in range(0, number, channels):
        place[scanner.groups[n, 0], scanner.groups[n, 1]] = n
    for channel in range(fired.shape[0]):
        k, lane = slots[channel] // count, slots[channel] % count
        bit = ONE << np.uint64(lane)
        for y in range(rows):
            for x in range(columns):
                if fired[channel, y, x]:
                    scanner.fires[place[y, x] + k] |= bit
    scanner.flying[:] = -1
    scanner.outstanding[:] = 0
    scanner.spare[:] = True
    scanner.ring[:] = 0
    scanner.sending[:] = NONE
    scanner.active[0] = NONE
    scanner.place[:] = 0
    scanner.place[STARTED] = t
    scanner.place[MISSING] = count
    for lane in range(count):
        before = 0
        for b in range(streams):
            before += lanes.level[b, lane]
        lanes.before[lane] = before
        lanes.older[lane] = lanes.until[lane]
    return number


@compiled
def _lowest(bits: Any) -> int:
    """Index of the lowest set bit."""
    lane = 0
    while not (bits >> np.uint64(lane)) & ONE:
        lane += 1
    return lane


@compiled
def _advance(valid: Any, work: Any, room: bool, offer: Any) -> tuple[int, bool, bool]:
    """One cycle of a generator without its input.

    Writes the range that it offers, if any. Returns the place for an event that comes in this
    cycle (-1: none), whether anything moved, and whether a range waits for room.
    """
    last = STAGES - 1
    offers = valid[last] and work[last, RANGES] > 0
    moves = valid[last] and (not offers or room)
    moved = moves
    free = not valid[last] or (moves and work[last, RANGES] <= 1 and work[last, PAIRS] <= 1)
    if moves:
        if offers:
            offer[0] = work[last, FROM]
            offer[1] = work[last, FROM] + work[last, SIZE]
        work[last, FROM] += work[last, STRIDE]
        work[last, RANGES] = max(0, work[last, RANGES] - 1)
        work[last, PAIRS] = max(0, work[last, PAIRS] - 1)
    for i in range(last, 0, -1):
        # Before the last stage but one an event that reaches nothing ends.
        if free:
            moved |= valid[i - 1]
            valid[i] = valid[i - 1] and (i != last - 1 or work[i - 1, SIZE] > 0)
            for j in range(PAIRS + 1):
                work[i, j] = work[i - 1, j]
        free = free or not valid[i - 1]
    place = -1
    if not free:
        place = -1 if valid[STAGES] else STAGES
    elif valid[STAGES]:
        moved = True
        valid[STAGES] = False
        for j in range(PAIRS + 1):
            work[0, j] = work[STAGES, j]
    else:
        place = 0
        valid[0] = False
    return place, moved, offers and not room


@compiled
def _serialise(
    scanner: Any, b: int, local: bool, entry: int, room: bool, lanes: Any, generators: Any,
    target: Any, tables: Any, marks: Any,
) -> bool:  # fmt: skip
    """One cycle of a serialiser: an event to its generator, or a local group to its lanes.

    Returns whether a local group waits for room.
    """
    count = lanes.level.shape[1]
    emptied = scanner.sending[b] == NONE
    blocked = False
    if not emptied:
        y, x, k = scanner.groups[scanner.current[b]]
        if local:
            blocked = not room
            if room:
                lanes.offer[BROADCAST - 1, b, 0] = target[POINTER_BASE] + k
                lanes.offer[BROADCAST - 1, b, 1] = target[POINTER_BASE] + k + 1
                lanes.mask[BROADCAST - 1, b] = scanner.sending[b]
                scanner.sending[b] = NONE
        elif entry >= 0:
            lane = _lowest(scanner.sending[b])
            slot = k * count + lane
            generators.valid[b, entry] = True
            _accept(generators.work[b, entry], y, x, slot, target, tables, marks)
            scanner.sending[b] ^= ONE << np.uint64(lane)
        emptied = scanner.sending[b] == NONE
    scanner.popped[b] = 0
    if emptied and scanner.ring[b, 1] < scanner.ring[b, 0]:
        at = scanner.ring[b, 1] & (RING - 1)
        scanner.sending[b] = scanner.waiting[b, at]
        scanner.current[b] = scanner.group[b, at]
        scanner.ring[b, 1] += 1
        scanner.popped[b] = 1
    return blocked


@compiled
def _walk(scanner: Any, lanes: Any, t: int, number: int) -> None:
    """One cycle of the walk through `number` groups, and the answer to an earlier group."""
    streams, count = lanes.level.shape
    per_stream = count // streams
    p = scanner.place
    issued = False
    credit = number > 0 and t >= p[STARTED] + SCAN_START
    for b in range(streams):
        credit = credit and scanner.spare[b]
        # Known a cycle later.
        scanner.spare[b] = scanner.outstanding[b] <= GROUPS - 2
    if credit:
        took_part = scanner.active[0] != NONE
        oldest = p[LEFT] % count
        if (
            p[LEFT] < p[JOINED]
            and scanner.joins[oldest, 0] == p[GROUP]
            and scanner.joins[oldest, 1] != p[LAP]
        ):
            scanner.active[0] &= ~scanner.joined[oldest]
            p[LEFT] += 1
        if p[MISSING] > 0:
            joiners = NONE
            for lane in range(count):
                if lanes.before[lane] == 0 and t >= lanes.older[lane] + FINISHES:
                    joiners |= ONE << np.uint64(lane)
                    lanes.before[lane] = -1
                    p[MISSING] -= 1
            if joiners:
                took_part = True
                scanner.active[0] |= joiners
                newest = p[JOINED] % count
                scanner.joins[newest, 0], scanner.joins[newest, 1] = p[GROUP], p[LAP]
                scanner.joined[newest] = joiners
                p[JOINED] += 1
        if took_part:
            issued = True
            arrives = (t + SCAN_LATENCY) & (RING - 1)
            scanner.flying[arrives] = p[GROUP]
            scanner.flight[arrives] = scanner.active[0]
            p[GROUP] += 1
            if p[GROUP] == number:
                p[GROUP], p[LAP] = 0, 1 - p[LAP]
    at = t & (RING - 1)
    answered = scanner.flying[at]
    for b in range(streams):
        scanner.outstanding[b] += issued - scanner.popped[b]
        if answered < 0:
            continue
        fires = scanner.fires[answered] & scanner.flight[at]
        fires &= (ALL >> np.uint64(64 - per_stream)) << np.uint64(b * per_stream)
        if fires:
            entry = scanner.ring[b, 0] & (RING - 1)
            scanner.waiting[b, entry] = fires
            scanner.group[b, entry] = answered
            scanner.ring[b, 0] += 1
        else:
            scanner.outstanding[b] -= 1
    scanner.flying[at] = -1


@compiled
def _frame(
    tables: Any, encoder: Any, generators: Any, lanes: Any, scanner: Any, fired: Any,
    offsets: Any, slots: Any, everything: bool, marks: Any, cycles: Any, lost: Any,
) -> tuple[int, int]:  # fmt: skip
    """Step through one frame.

    `fired[offsets[i] : offsets[i + 1]]` says which inputs of layer i fire, `slots[i]` where the
    outputs of layer i are, `marks` (2, rows, columns) is the touched maps of even and odd layers.
    Writes `cycles` of each layer and `lost` lane-cycles by cause; returns total and busy cycles.
    """
    last = len(tables.layers) - 1
    streams, count = lanes.level.shape
    lanes.until[:] = -PIPELINE - 1
    lanes.before[:] = 0
    lanes.offer[:] = 0
    lanes.full[:] = 0
    generators.valid[:] = False
    marks[:] = False
    place = encoder.place
    _next_pixel_with_events(encoder)

    t, phase, parity, groups = 0, 0, 0, 0
    began, busy = 0, 0  # first cycle of phase 0; lane-cycles that multiplied
    running, first_cycle, settled, local = False, False, False, False
    target = tables.layers[0]
    lanes_until = -1  # the last cycle in which lanes are known to be busy
    while True:
        # What the registers say at the beginning of this cycle.
        flowing = False
        for b in range(streams):
            for i in range(STAGES):
                flowing |= generators.valid[b, i]
        frame_ready, scan_waits = False, False
        if phase == 0:
            received = place[NEXT_PUSH] == NEVER and t > max(place[TAKEN], place[FINISHED])
            frame_ready = received or _crowded(encoder)
            popped = 0
            for b in range(streams):
                popped += encoder.popped[b]
            source_done = received and popped == place[PUSHED]
        else:
            idle = scanner.active[0] == NONE
            for b in range(streams):
                idle = idle and scanner.outstanding[b] == 0 and scanner.sending[b] == NONE
            everyone = groups == 0 or scanner.place[MISSING] == 0
            source_done = not first_cycle and everyone and idle
            scan_waits = not first_cycle and not everyone and idle
        lanes_busy = phase == last and t <= lanes_until

        # From the source to the lanes.
        moved, blocked = False, False
        for b in range(streams):
            room = lanes.full[0, b] == 0
            for i in range(ROOM):
                moved |= lanes.full[i, b] != lanes.full[i + 1, b]
                lanes.full[i, b] = lanes.full[i + 1, b]
            lanes.offer[BROADCAST - 1, b, 1] = 0
            lanes.mask[BROADCAST - 1, b] = ALL
            entry, moves, waits = _advance(
                generators.valid[b], generators.work[b], room, lanes.offer[BROADCAST - 1, b]
            )
            moved |= moves
            if phase > 0:
                waits |= _serialise(
                    scanner, b, local, entry, room, lanes, generators, target, tables,
                    marks[parity],
                )  # fmt: skip
            elif entry >= 0 and _head_at(encoder, b) <= t:
                y, x, slot = encoder.events[encoder.popped[b] * streams + b]
                _accept(generators.work[b, entry], y, x, slot, target, tables, marks[parity])
                generators.valid[b, entry] = True
                encoder.popped[b] += 1
                encoder.pop_before[b] = encoder.last_pop[b]
                encoder.last_pop[b] = t
                moved = True
            blocked |= waits
        if phase > 0:
            _walk(scanner, lanes, t, groups)

        # The lanes, and the frame's clock.
        if running:
            multiply = _fetch(lanes, t, parity) if t >= began + GO else 0
            if phase == last:
                for lane in range(count):
                    lanes_until = max(lanes_until, lanes.until[lane] + PIPELINE)
            busy += multiply
            cycles[phase] += 1
            if blocked:
                lost[FIFO_FULL] += count - multiply
            elif not flowing and (source_done or scan_waits):
                lost[LAYER_TAIL] += count - multiply
            else:
                lost[NO_EVENT] += count - multiply
        lanes.layer[BROADCAST - 1] = parity
        if _broadcast(lanes, parity, tables):
            moved = True
            lanes_until = max(lanes_until, t + KNOWN)
        if place[NEXT_PUSH] <= t:
            moved = True
            _push(encoder, t)

        # The sequencer.
        if not running:
            if frame_ready:
                running, first_cycle, moved = True, True, True
                began = t + 1
        elif settled:
            if phase == last:
                total = t + 1 - began
                early = began - (place[TAKEN] + 1)  # from the last pixel to phase 0
                if early > 0:
                    total += early
                    lost[SEQUENCER] += count * early
                return total, busy
            source = tables.layers[phase]
            phase += 1
            target = tables.layers[phase]
            local = target[LOCAL] != 0
            groups = _begin_pass(
                scanner, lanes, t + 1, source, marks[parity], everything,
                fired[offsets[phase] : offsets[phase + 1]].reshape(
                    (-1, source[MAP_ROWS], source[MAP_COLUMNS])
                ),
                slots[phase - 1],
            )  # fmt: skip
            parity ^= 1
            marks[parity] = False
            first_cycle, settled = True, False
        else:
            settled = not first_cycle and source_done and not flowing and not lanes_busy
            first_cycle = False

        t += 1
        if not running and not moved:
            # Nothing moves before the encoder does, or the frame is complete.
            soon = place[NEXT_PUSH]
            if soon == NEVER:
                soon = max(place[TAKEN], place[FINISHED]) + 1
            for b in range(streams):
                soon = min(soon, max(t, _head_at(encoder, b)))
            t = max(t, soon)


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

        pointers = table(Space.POINTER)[:, :, 0].T
        self._tables = _Tables(
            layers=table(Space.LAYER),
            rows=table(Space.ROW),
            columns=table(Space.COLUMN),
            pointers=np.ascontiguousarray(pointers, np.int32),
        )
        height, width, channels = image.frame_shape
        stack = image.registers[int(Register.STACK)]
        self._planes = (stack, channels, height, width)
        events = stack * channels * height * width
        streams, lanes = config.streams, config.lanes
        self._encoder = _Encoder(
            changed=np.zeros(self._planes, np.bool_),
            same=np.zeros(height, np.bool_),
            busy=np.zeros(height, np.bool_),
            depth=config.queue_depth // streams,
            events=np.zeros((events, 3), np.int64),
            pushes=np.zeros(events, np.int64),
            popped=np.zeros(streams, np.int64),
            last_pop=np.zeros(streams, np.int64),
            pop_before=np.zeros(streams, np.int64),
            place=np.zeros(NEXT_PUSH + 1, np.int64),
        )
        self._generators = _Generators(
            valid=np.zeros((streams, STAGES + 1), np.bool_),
            work=np.zeros((streams, STAGES + 1, PAIRS + 1), np.int64),
        )
        ring = 1 << (config.fifo_depth + 1).bit_length()
        self._lanes = _Lanes(
            most=config.fifo_depth - config.fifo_margin,
            level=np.zeros((streams, lanes), np.int64),
            oldest=np.zeros((streams, lanes), np.int64),
            length=np.zeros((streams, lanes, ring), np.int32),
            parity=np.zeros((streams, lanes, ring), np.uint8),
            until=np.zeros(lanes, np.int64),
            older=np.zeros(lanes, np.int64),
            before=np.zeros(lanes, np.int64),
            turn=np.zeros(lanes, np.int64),
            full=np.zeros((ROOM + 1, streams), np.int64),
            offer=np.zeros((BROADCAST, streams, 2), np.int64),
            mask=np.zeros((BROADCAST, streams), np.uint64),
            layer=np.zeros(BROADCAST, np.int64),
        )
        groups = max(layer.folded[1] * layer.folded[2] * layer.channels for layer in image.layers)
        self._scanner = _Scanner(
            groups=np.zeros((groups, 3), np.int64),
            fires=np.zeros(groups, np.uint64),
            joins=np.zeros((lanes, 2), np.int64),
            joined=np.zeros(lanes, np.uint64),
            active=np.zeros(1, np.uint64),
            place=np.zeros(MISSING + 1, np.int64),
            flight=np.zeros(RING, np.uint64),
            flying=np.zeros(RING, np.int64),
            outstanding=np.zeros(streams, np.int64),
            spare=np.ones(streams, np.bool_),
            waiting=np.zeros((streams, RING), np.uint64),
            group=np.zeros((streams, RING), np.int64),
            ring=np.zeros((streams, 2), np.int64),
            sending=np.zeros(streams, np.uint64),
            current=np.zeros(streams, np.int64),
            popped=np.zeros(streams, np.int64),
        )
        shapes = [layer.folded for layer in image.layers]
        self._marks = np.zeros((2, max(s[1] for s in shapes), max(s[2] for s in shapes)), np.bool_)
        self._offsets = np.cumsum([0, events, *(int(np.prod(s)) for s in shapes[:-1])])
        self._slots = tuple(np.array(layer.slots, np.int64) for layer in image.layers)
        self.reset()

    def reset(self) -> None:
        """The next frame examines every neuron, and is sent whole."""
        self._fresh = True
        self._previous: npt.NDArray[np.uint8] | None = None
        self._lanes.turn[:] = 0

    def step(self, frame: npt.NDArray[np.uint8], deltas: Sequence[npt.NDArray[Any]]) -> Cycles:
        """Cycles of one frame (height, width[, channels]) with its events.

        `deltas[i]` (channels, height, width) are the events into layer i, as `Golden.delta` and
        `Engine.delta` give them after the same frame.
        """
        image, encoder = self.image, self._encoder
        frame = frame.reshape(image.frame_shape)
        encoder.same[:] = False
        if self._previous is not None:
            encoder.same[:] = (frame == self._previous).all(axis=(1, 2))
        self._previous = frame.copy()
        np.not_equal(deltas[0].reshape(self._planes), 0, out=encoder.changed)
        encoder.busy[:] = encoder.changed.any(axis=(0, 1, 3))
        encoder.popped[:] = 0
        encoder.last_pop[:] = -3
        encoder.pop_before[:] = -3
        encoder.place[:] = 0
        encoder.place[[TAKEN, READ, DECIDED, COMPARED, FINISHED]] = -1

        parts = [encoder.changed.reshape(-1)]
        for layer, delta in zip(image.layers, deltas[1:], strict=False):
            parts.append(fold_map(delta != 0, layer.fold).reshape(-1))
        fired = np.concatenate(parts)
        cycles = np.zeros(len(image.layers), np.int64)
        lost = np.zeros(len(LOST_CAUSES), np.int64)
        total, busy = _frame(
            self._tables, encoder, self._generators, self._lanes, self._scanner, fired,
            self._offsets, self._slots, self._fresh, self._marks, cycles, lost,
        )  # fmt: skip
        self._fresh = False
        return Cycles(
            layers=tuple(cycles.tolist()),
            total=total,
            busy=busy,
            lost=dict(zip(LOST_CAUSES, lost.tolist(), strict=True)),
        )
