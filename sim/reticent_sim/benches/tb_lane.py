"""A lane with memories of random contents against the plain sums that they mean."""

from collections import deque
from dataclasses import dataclass

import cocotb
import numpy as np

from reticent.arithmetic import THRESHOLD_MAX, WEIGHT_MAX, fires, requantise
from reticent.layout import Space
from reticent_hw.interfaces import row_layout
from reticent_hw.lane import (
    OFFER_LATENCY,
    ROOM_LATENCY,
    SCAN_AFTER,
    SCAN_LATENCY,
    TARGET_LATENCY,
)

from .common import CONFIG, Bench, Pace, bench_test, pack

DEPTHS = (CONFIG.state_depth_even, CONFIG.state_depth_odd)
LANE = CONFIG.lanes - 1
TAPS = 64
PHASES = 24
DELTA_MAX = 255
STREAMS = CONFIG.streams
ADDRESSES = CONFIG.requantisers  # neurons of a scan
# From an answer of `room` to the last offer that relies on it: what the FIFO's margin leaves.
ROOM_AGE = CONFIG.fifo_margin - OFFER_LATENCY - ROOM_LATENCY


def wrap(values):
    """Two's complement of the accumulator's width."""
    half = 1 << (CONFIG.accumulator_bits - 1)
    return (values + half) % (2 * half) - half


@dataclass
class Range:
    """Taps `first <= tap < end`, as in `interfaces.range_layout`."""

    first: int
    end: int
    base: int
    delta: int
    layer: int = 0


class Contents:
    """What the lane's memories hold."""

    def __init__(self, rng: np.random.Generator) -> None:
        # With a short reach the same neuron comes again after 1, 2, 3 multiplications.
        self.reach = int(rng.choice([1, 2, 4, 16, min(DEPTHS)]))
        counts = rng.choice([0, 0, 1, 1, 2, 3, 7], TAPS)
        self.start = np.concatenate([[0], np.cumsum(counts)])
        total = int(self.start[-1])
        self.weight = rng.integers(1, WEIGHT_MAX + 1, total) * rng.choice([-1, 1], total)
        self.relative = rng.integers(0, self.reach, total)
        channels = CONFIG.channel_depth
        self.bias = wrap(
            rng.integers(-(1 << 31), 1 << 31, channels) >> rng.integers(32, size=channels)
        )
        self.multiplier = rng.integers(0, 1 << CONFIG.multiplier_bits, channels)
        self.short_rows, self.short_columns = rng.random((2, channels)) < 0.3

    async def load(self, bench: Bench) -> None:
        """Load them, and something else into all other lanes."""
        tables = {
            Space.POINTER: {"start": self.start},
            Space.WEIGHT: {"weight": self.weight, "relative": self.relative},
            Space.CHANNEL: {
                "bias": self.bias,
                "multiplier": self.multiplier,
                "short_rows": self.short_rows,
                "short_columns": self.short_columns,
            },
        }
        for space, table in tables.items():
            layout = row_layout(CONFIG, space)
            rows = [
                pack(layout, dict(zip(table, values, strict=True)))
                for values in zip(*(column.tolist() for column in table.values()), strict=True)
            ]
            await bench.load(space, rows, LANE)
            for other in set(range(CONFIG.lanes)) - {LANE}:
                await bench.load(space, bench.rng.permutation(rows).tolist()[:4], other)

    def stored(self, offered: Range) -> slice:
        """The range's weights."""
        return slice(*self.start[[offered.first, offered.end]])

    def random_range(self, rng: np.random.Generator, parity: int) -> Range:
        first = int(rng.integers(TAPS + 1))
        end = min(TAPS, first + int(rng.integers(4)))
        base = int(rng.integers(self.reach - 1, DEPTHS[parity]))
        delta = int(rng.integers(1, DELTA_MAX + 1)) * int(rng.choice([-1, 1]))
        return Range(min(first, end), end, base, delta, parity)


class Neurons:
    """The neurons of both state memories, by the definition."""

    def __init__(self) -> None:
        self.acc = [np.zeros(depth, np.int64) for depth in DEPTHS]
        self.sent = [np.zeros(depth, np.int64) for depth in DEPTHS]  # 8 bits as stored

    def accumulate(self, contents: Contents, offered: Range) -> int:
        """Returns the number of multiplications."""
        parity = offered.layer
        stored = contents.stored(offered)
        rows = offered.base - contents.relative[stored]
        np.add.at(self.acc[parity], rows, contents.weight[stored] * offered.delta)
        self.acc[parity] = wrap(self.acc[parity])
        return len(rows)


def shared_out(rng: np.random.Generator, ranges: list[Range]) -> list[list[Range]]:
    """Each range on one of the buses."""
    buses: list[list[Range]] = [[] for _ in range(STREAMS)]
    for offered, bus in zip(ranges, rng.integers(STREAMS, size=len(ranges)), strict=True):
        buses[bus].append(offered)
    return buses


async def offer(bench: Bench, buses: list[list[Range]], kind: int | None = None) -> None:
    """Offer each bus its ranges while it has room, as seen ROOM_AGE cycles before.

    All buses go on independently, each with random gaps.
    """
    rooms = deque([0] * ROOM_AGE)
    waiting = [list(reversed(ranges)) for ranges in buses]
    paces = [Pace(bench.rng, kind) for _ in buses]
    nothing = vars(Range(0, 0, 0, 0))
    while any(waiting):
        await bench.middle
        rooms.append(bench["room"])
        room, valid, words = rooms.popleft(), 0, [nothing] * STREAMS
        for i, (ranges, pace) in enumerate(zip(waiting, paces, strict=True)):
            if ranges and room >> i & 1 and not pace():
                words[i] = vars(ranges.pop())
                valid |= 1 << i
        bench["offer"], bench["range"] = valid, words
    await bench.middle
    bench["offer"] = 0
    await bench.edge


async def watch_multiplications(bench: Bench, seen: list[tuple[int, int]]) -> None:
    """Note the cycles in which the lane multiplies, and for which parity."""
    while True:
        await bench.edge
        if bench["multiplies"]:
            seen.append((bench.cycle, bench["layer"]))


async def drained(bench: Bench) -> None:
    """Until nothing is in flight: `busy` follows an offer two cycles later."""
    await bench.cycles(SCAN_LATENCY)
    await bench.until(lambda: not bench["busy"])


async def finished(bench: Bench) -> None:
    """From the cycle in which the target changes until `finished`; then the earliest scan."""
    await bench.cycles(TARGET_LATENCY)
    while True:
        await bench.middle
        if bench["finished"]:
            break
        await bench.edge
    await bench.cycles(SCAN_AFTER)


def random_channel(rng: np.random.Generator) -> int:
    """The first channel of a scan."""
    return int(rng.integers(CONFIG.channel_depth // ADDRESSES)) * ADDRESSES


async def initialise(bench: Bench, contents: Contents, neurons: Neurons, parity: int) -> None:
    """Set every neuron of one memory to the bias of some channel, one a cycle."""
    bench["target"] = 1 - parity
    for row in range(DEPTHS[parity]):
        channel = random_channel(bench.rng) + row % ADDRESSES  # of the same bank
        bench["scan__initialise"], bench["scan__row"] = 1, row
        bench["scan__channel"] = channel
        neurons.acc[parity][row], neurons.sent[parity][row] = contents.bias[channel], 0
        await bench.edge
    bench["scan__initialise"] = 0
    await bench.cycles(SCAN_LATENCY)


async def examine(
    bench: Bench, contents: Contents, neurons: Neurons, parity: int, first: list[int]
) -> None:
    """A threshold pass over some neurons in random order, those of `first` before all others."""
    rng = bench.rng
    shift, signed = int(rng.integers(1, 32)), bool(rng.integers(2))
    threshold = int(rng.choice([0, 1, 20, THRESHOLD_MAX]))
    bench["shift"], bench["is_signed"], bench["threshold"] = shift, signed, threshold
    groups = rng.permutation(np.arange(0, DEPTHS[parity], ADDRESSES))
    first = list(dict.fromkeys(row - row % ADDRESSES for row in first))
    rows = [row for row in groups[: rng.integers(len(groups))].tolist() if row not in first]
    rows += first[::-1]
    pace = Pace(rng)
    expected = [None] * SCAN_LATENCY  # of the requests of the last cycles, oldest first
    while rows or any(expected):
        request = None
        if rows and not pace():
            row, channel = rows.pop(), random_channel(rng)
            last_row, last_column = rng.integers(2, size=2).tolist()
            bench["scan__row"], bench["scan__channel"] = row, channel
            bench["scan__last_row"], bench["scan__last_column"] = last_row, last_column
            changes, fired = [], []
            for i in range(ADDRESSES):
                acc, sent = neurons.acc[parity][row + i], neurons.sent[parity][row + i]
                before = sent - 256 if signed and sent > 127 else sent
                missing = last_row and contents.short_rows[channel + i]
                missing |= last_column and contents.short_columns[channel + i]
                multiplier = 0 if missing else contents.multiplier[channel + i]
                activation = requantise(acc, multiplier, shift, signed)
                changes.append(int(activation - before))
                fired.append(bool(fires(activation, before, threshold)))
                if fired[-1]:
                    neurons.sent[parity][row + i] = activation & 0xFF
            request = (row, changes, sum(one << i for i, one in enumerate(fired)))
        bench["scan__valid"] = request is not None
        await bench.middle
        answer = expected.pop(0)
        if answer is None:
            bench.check("fired without a request", bench["fired"], 0)
        else:
            row, change, fired = answer
            got = (bench["change"], bench["fired"])
            bench.check(f"row {row}: (change, fired)", got, (change, fired))
        expected.append(request)
        await bench.edge
    bench["scan__valid"] = 0
    await bench.cycles(2)


async def compare(bench: Bench, neurons: Neurons, parity: int) -> None:
    """Read every row of one memory through the scan side."""
    bench["target"] = 1 - parity
    for row in range(DEPTHS[parity]):
        bench["scan__row"] = row
        await bench.cycles(SCAN_LATENCY)
        expected = {"acc": int(neurons.acc[parity][row]), "sent": int(neurons.sent[parity][row])}
        bench.check(f"memory {parity}, row {row}", bench["state"], expected)


async def begin(dut) -> tuple[Bench, Contents, Neurons]:
    bench = await Bench.start(dut)
    bench["index"] = LANE
    contents, neurons = Contents(bench.rng), Neurons()
    await contents.load(bench)
    for parity in range(2):
        await initialise(bench, contents, neurons, parity)
    return bench, contents, neurons


@bench_test
async def layers_follow_each_other(dut):
    """Ranges of a layer wait behind those of the layer before, which is examined as soon as it is
    `finished`: every sum must be there, and nothing of the new layer may come before."""
    bench, contents, neurons = await begin(dut)
    rng = bench.rng
    seen: list[tuple[int, int]] = []
    cocotb.start_soon(watch_multiplications(bench, seen))
    bench["go"] = 1
    expected: list[int] = []
    recent: list[int] = []
    for phase in range(PHASES):
        parity = phase % 2
        bench["target"] = parity
        count = int(rng.choice([0, 3, rng.integers(20), rng.integers(150)]))
        ranges = [contents.random_range(rng, parity) for _ in range(count)]
        offering = cocotb.start_soon(offer(bench, shared_out(rng, ranges)))
        if phase:
            await finished(bench)
            await examine(bench, contents, neurons, 1 - parity, recent)
        await offering
        for r in ranges:
            expected += [parity] * neurons.accumulate(contents, r)
        # What was multiplied last is examined first: it is the last to arrive in memory.
        touched = [r.base - contents.relative[contents.stored(r)] for r in ranges[: -1 - 9 : -1]]
        recent = list(dict.fromkeys(int(row) for rows in touched for row in rows[::-1]))
        if rng.random() < 0.2:
            await drained(bench)
        await bench.cycles(int(rng.integers(1, 4)))
    await drained(bench)
    bench.check("layers of the multiplications", [parity for _, parity in seen], expected)
    for parity in range(2):
        await compare(bench, neurons, parity)


@bench_test
async def same_neuron_at_every_distance(dut):
    """One neuron again after 1, 2, 3 and 4 multiplications, all without a gap between."""
    bench, contents, neurons = await begin(dut)
    tap = int(np.argmax(np.diff(contents.start) == 1))  # a tap with one weight
    relative = int(contents.relative[contents.start[tap]])
    bench["target"], bench["go"] = 0, 1
    for distance in range(1, 5):
        ranges = [Range(tap, tap + 1, relative + i % distance, 255 - i) for i in range(40)]
        for r in ranges:
            neurons.accumulate(contents, r)
        await offer(bench, [ranges[i::STREAMS] for i in range(STREAMS)], kind=0)
        await drained(bench)
    await compare(bench, neurons, 0)


@bench_test
async def same_row_in_both_memories(dut):
    """Sums are forwarded within a layer, never from one to the other."""
    bench, contents, neurons = await begin(dut)
    tap = int(np.argmax(np.diff(contents.start) == 1))
    relative = int(contents.relative[contents.start[tap]])
    bench["go"] = 1
    for phase in range(28):
        bench["target"] = phase % 2
        waiting = cocotb.start_soon(finished(bench))
        count = int(bench.rng.integers(1, 5))
        ranges = [Range(tap, tap + 1, relative, 9 * phase - i, phase % 2) for i in range(count)]
        for r in ranges:
            neurons.accumulate(contents, r)
        await offer(bench, shared_out(bench.rng, ranges), kind=0)
        await waiting
    await drained(bench)
    for parity in range(2):
        await compare(bench, neurons, parity)


@bench_test
async def ranges_wait_until_it_goes(dut):
    """Without `go` nothing is fetched; with it, everything that waited."""
    bench, contents, neurons = await begin(dut)
    seen: list[tuple[int, int]] = []
    cocotb.start_soon(watch_multiplications(bench, seen))
    bench["target"] = 0
    for _ in range(6):
        seen.clear()
        bench["go"] = 0
        # As many as have room, should they all hold weights and share a bus.
        count = int(bench.rng.integers(1, CONFIG.fifo_depth - CONFIG.fifo_margin + 1))
        ranges = [contents.random_range(bench.rng, 0) for _ in range(count)]
        expected = sum(neurons.accumulate(contents, r) for r in ranges)
        await offer(bench, shared_out(bench.rng, ranges))
        await bench.cycles(int(bench.rng.integers(20)))
        bench.check("multiplications before it goes", len(seen), 0)
        bench["go"] = 1
        await drained(bench)
        await bench.edge
        bench.check("multiplications", len(seen), expected)
    await compare(bench, neurons, 0)


@bench_test
async def one_multiplication_a_cycle(dut):
    """Between ranges there is no bubble, and ranges without a weight cost nothing."""
    bench, contents, neurons = await begin(dut)
    counts = np.diff(contents.start)
    full, empty = np.flatnonzero(counts >= 3), np.flatnonzero(counts == 0)
    bench["target"], bench["go"] = 1, 1
    ranges = []
    for _ in range(100):
        taps = [
            int(bench.rng.choice(full)),
            *bench.rng.choice(empty, bench.rng.integers(3)).tolist(),
        ]
        ranges += [Range(t, t + 1, DEPTHS[1] - 1, 3, 1) for t in taps]
    seen: list[tuple[int, int]] = []
    cocotb.start_soon(watch_multiplications(bench, seen))
    expected = sum(neurons.accumulate(contents, r) for r in ranges)
    await offer(bench, shared_out(bench.rng, ranges), kind=0)
    await drained(bench)
    bench.check("multiplications", len(seen), expected)
    bench.check("cycles from the first to the last", seen[-1][0] - seen[0][0] + 1, expected)
    await compare(bench, neurons, 1)


@bench_test
async def reset_drops_what_is_in_flight(dut):
    """After a reset in the middle of the work the lane is idle, and exact once initialised."""
    bench, contents, neurons = await begin(dut)
    bench["go"] = 1
    for _ in range(5):
        bench["target"] = 0
        ranges = [contents.random_range(bench.rng, 0) for _ in range(100)]
        offering = cocotb.start_soon(offer(bench, shared_out(bench.rng, ranges), kind=0))
        await bench.cycles(int(bench.rng.integers(3, 60)))
        offering.cancel()
        bench["offer"] = 0
        await bench.reset()
        bench.check("busy after a reset", bench["busy"], 0)
        await initialise(bench, contents, neurons, 0)
        bench["target"] = 0
        for r in ranges:
            neurons.accumulate(contents, r)
        await offer(bench, shared_out(bench.rng, ranges))
        await drained(bench)
        await compare(bench, neurons, 0)
