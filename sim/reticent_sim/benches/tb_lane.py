"""A lane with memories of random contents against the plain sums that they mean."""

from dataclasses import dataclass

import cocotb
import numpy as np

from reticent.arithmetic import THRESHOLD_MAX, WEIGHT_MAX, fires, requantise
from reticent.layout import Space
from reticent_hw.interfaces import row_layout
from reticent_hw.lane import SCAN_LATENCY

from .common import CONFIG, Bench, Pace, bench_test, pack

DEPTHS = (CONFIG.state_depth_even, CONFIG.state_depth_odd)
LANE = CONFIG.lanes - 1
TAPS = 64
PHASES = 16
DELTA_MAX = 255


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

    async def load(self, bench: Bench) -> None:
        """Load them, and something else into all other lanes."""
        tables = {
            Space.POINTER: {"start": self.start},
            Space.WEIGHT: {"weight": self.weight, "relative": self.relative},
            Space.CHANNEL: {"bias": self.bias, "multiplier": self.multiplier},
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

    def random_range(self, rng: np.random.Generator, depth: int) -> Range:
        first = int(rng.integers(TAPS + 1))
        end = min(TAPS, first + int(rng.integers(4)))
        base = int(rng.integers(self.reach - 1, depth))
        delta = int(rng.integers(1, DELTA_MAX + 1)) * int(rng.choice([-1, 1]))
        return Range(min(first, end), end, base, delta)


class Neurons:
    """The neurons of both state memories, by the definition."""

    def __init__(self) -> None:
        self.acc = [np.zeros(depth, np.int64) for depth in DEPTHS]
        self.sent = [np.zeros(depth, np.int64) for depth in DEPTHS]  # 8 bits as stored

    def accumulate(self, contents: Contents, parity: int, offered: Range) -> int:
        """Returns the number of multiplications."""
        stored = contents.stored(offered)
        rows = offered.base - contents.relative[stored]
        np.add.at(self.acc[parity], rows, contents.weight[stored] * offered.delta)
        self.acc[parity] = wrap(self.acc[parity])
        return len(rows)


async def offer(bench: Bench, ranges: list[Range], pace: Pace) -> None:
    """Offer the ranges while there is room; `room` belongs to the cycle of the offer."""
    for offered in ranges:
        while True:
            await bench.middle
            go = not pace() and bool(bench["room"])
            bench["offer"] = go
            if go:
                bench["range"] = vars(offered)
                break
    await bench.middle
    bench["offer"] = 0


async def count_multiplications(bench: Bench, cycles: list[int]) -> None:
    """Note the cycles in which the lane multiplies."""
    while True:
        await bench.edge
        if bench["multiplies"]:
            cycles.append(bench.cycle)


async def drained(bench: Bench) -> None:
    """Until nothing is in flight: `busy` follows an offer one cycle later."""
    await bench.cycles(1)
    await bench.until(lambda: not bench["busy"])


async def initialise(bench: Bench, contents: Contents, neurons: Neurons, parity: int) -> None:
    """Set every neuron of one memory to the bias of some channel, one a cycle."""
    bench["target"] = 1 - parity
    for row, channel in enumerate(bench.rng.integers(CONFIG.channel_depth, size=DEPTHS[parity])):
        bench["scan__initialise"], bench["scan__row"] = 1, row
        bench["scan__channel"] = channel
        neurons.acc[parity][row], neurons.sent[parity][row] = contents.bias[channel], 0
        await bench.edge
    bench["scan__initialise"] = 0
    await bench.cycles(2)


async def examine(bench: Bench, contents: Contents, neurons: Neurons, parity: int) -> None:
    """A threshold pass over some neurons in random order, with random gaps."""
    rng = bench.rng
    shift, signed = int(rng.integers(1, 32)), bool(rng.integers(2))
    threshold = int(rng.choice([0, 1, 20, THRESHOLD_MAX]))
    bench["shift"], bench["is_signed"], bench["threshold"] = shift, signed, threshold
    rows = rng.permutation(DEPTHS[parity])[: rng.integers(DEPTHS[parity])].tolist()
    pace = Pace(rng)
    expected = [None] * SCAN_LATENCY  # of the requests of the last cycles, oldest first
    while rows or any(expected):
        request = None
        if rows and not pace():
            row, channel = rows.pop(), int(rng.integers(CONFIG.channel_depth))
            bench["scan__row"], bench["scan__channel"] = row, channel
            acc, sent = neurons.acc[parity][row], neurons.sent[parity][row]
            before = sent - 256 if signed and sent > 127 else sent
            activation = requantise(acc, contents.multiplier[channel], shift, signed)
            request = (row, int(activation - before), bool(fires(activation, before, threshold)))
            if request[2]:
                neurons.sent[parity][row] = activation & 0xFF
        bench["scan__valid"] = request is not None
        await bench.middle
        answer = expected.pop(0)
        if answer is None:
            bench.check("fired without a request", bench["fired"], 0)
        else:
            row, change, fired = answer
            got = (bench["change"], bool(bench["fired"]))
            bench.check(f"row {row}: (change, fired)", got, (change, fired))
        expected.append(request)
        await bench.edge
    bench["scan__valid"] = 0
    await bench.cycles(2)


async def compare(bench: Bench, neurons: Neurons, parity: int) -> None:
    """Read every row of one memory through the scan side."""
    bench["target"] = 1 - parity
    for row in range(DEPTHS[parity] + 1):
        bench["scan__row"] = min(row, DEPTHS[parity] - 1)
        await bench.middle
        if row:  # the row of the cycle before
            acc, sent = neurons.acc[parity][row - 1], neurons.sent[parity][row - 1]
            expected = {"acc": int(acc), "sent": int(sent)}
            bench.check(f"memory {parity}, row {row - 1}", bench["state"], expected)
        await bench.edge


async def begin(dut) -> tuple[Bench, Contents, Neurons]:
    bench = await Bench.start(dut)
    bench["index"] = LANE
    contents, neurons = Contents(bench.rng), Neurons()
    await contents.load(bench)
    for parity in range(2):
        await initialise(bench, contents, neurons, parity)
    return bench, contents, neurons


@bench_test
async def accumulates_while_it_is_scanned(dut):
    """One memory accumulates, the other one is examined, in turns; at last both are read."""
    bench, contents, neurons = await begin(dut)
    multiplications: list[int] = []
    cocotb.start_soon(count_multiplications(bench, multiplications))
    expected = 0
    for phase in range(PHASES):
        parity = phase % 2
        bench["target"] = parity
        count = int(bench.rng.integers(200))
        ranges = [contents.random_range(bench.rng, DEPTHS[parity]) for _ in range(count)]
        expected += sum(neurons.accumulate(contents, parity, r) for r in ranges)
        offering = cocotb.start_soon(offer(bench, ranges, Pace(bench.rng)))
        await examine(bench, contents, neurons, 1 - parity)
        await offering
        await drained(bench)
        bench.check(f"multiplications up to phase {phase}", len(multiplications), expected)
        if bench.rng.random() < 0.3:
            await compare(bench, neurons, parity)
    for parity in range(2):
        await compare(bench, neurons, parity)


@bench_test
async def same_neuron_at_every_distance(dut):
    """One neuron again after 1, 2, 3 and 4 multiplications, all without a gap between."""
    bench, contents, neurons = await begin(dut)
    tap = int(np.argmax(np.diff(contents.start) == 1))  # a tap with one weight
    relative = int(contents.relative[contents.start[tap]])
    bench["target"] = 0
    for distance in range(1, 5):
        ranges = [Range(tap, tap + 1, relative + i % distance, 255 - i) for i in range(40)]
        for r in ranges:
            neurons.accumulate(contents, 0, r)
        await offer(bench, ranges, Pace(bench.rng, kind=0))
        await drained(bench)
    await compare(bench, neurons, 0)


@bench_test
async def one_multiplication_a_cycle(dut):
    """Between ranges there is no bubble, and ranges without a weight cost nothing."""
    bench, contents, neurons = await begin(dut)
    counts = np.diff(contents.start)
    full, empty = np.flatnonzero(counts >= 3), np.flatnonzero(counts == 0)
    bench["target"] = 1
    ranges = []
    for _ in range(100):
        taps = [
            int(bench.rng.choice(full)),
            *bench.rng.choice(empty, bench.rng.integers(3)).tolist(),
        ]
        ranges += [Range(t, t + 1, DEPTHS[1] - 1, 3) for t in taps]
    cycles: list[int] = []
    cocotb.start_soon(count_multiplications(bench, cycles))
    expected = sum(neurons.accumulate(contents, 1, r) for r in ranges)
    await offer(bench, ranges, Pace(bench.rng, kind=0))
    await drained(bench)
    bench.check("multiplications", len(cycles), expected)
    bench.check("cycles from the first to the last", cycles[-1] - cycles[0] + 1, expected)
    await compare(bench, neurons, 1)


@bench_test
async def reset_drops_what_is_in_flight(dut):
    """After a reset in the middle of the work the lane is idle, and exact once initialised."""
    bench, contents, neurons = await begin(dut)
    for _ in range(5):
        bench["target"] = 0
        ranges = [contents.random_range(bench.rng, DEPTHS[0]) for _ in range(100)]
        offering = cocotb.start_soon(offer(bench, ranges, Pace(bench.rng, kind=0)))
        await bench.cycles(int(bench.rng.integers(3, 100)))
        offering.cancel()
        bench["offer"] = 0
        await bench.reset()
        bench.check("busy after a reset", bench["busy"], 0)
        await initialise(bench, contents, neurons, 0)
        bench["target"] = 0
        for r in ranges:
            neurons.accumulate(contents, 0, r)
        await offer(bench, ranges, Pace(bench.rng))
        await drained(bench)
        await compare(bench, neurons, 0)
