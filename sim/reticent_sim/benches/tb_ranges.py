"""The range generator with compiled tables against the definition of a convolution."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import cocotb

from reticent.compiler import compile_network
from reticent.errors import UserError
from reticent.fold import FOLDS, Axis, axes
from reticent.layout import WORD_BITS, Space
from reticent.random_networks import Limits, random_network

from .common import CONFIG, Bench, Pace, Sink, Source, bench_test, unpack

NETWORKS = 12
EVENTS = 60  # of each layer
SLACK = 12  # cycles from the last event to the end of its last range, generously
LIMITS = Limits(
    input_size=CONFIG.map_rows,
    stack=2,
    layers=CONFIG.layers,
    map_size=min(CONFIG.map_rows, CONFIG.map_columns),
    channels=8,
    neurons=CONFIG.state_depth,
    weights=400,
)


@dataclass
class Event:
    y: int
    x: int
    slot: int
    delta: int


@dataclass
class Layer:
    """A layer's axes, what its input is like, and its row of the LAYER table.

    `tests/sw/test_fold.py` holds the axes to the definition of a convolution.
    """

    y: Axis
    x: Axis
    channels: int  # of the input
    row: dict[str, int]

    def order(self) -> list[tuple[int, int]]:
        """Taps as memory holds them: y group, x group, then y tap, x tap."""
        return [
            (ty, tx)
            for rows in self.y.groups
            for columns in self.x.groups
            for ty in range(rows.start, rows.stop)
            for tx in range(columns.start, columns.stop)
        ]

    def meets(self, event: Event) -> dict[tuple[int, int], tuple[int, int]]:
        """Taps that the event meets, and their output positions."""
        return {
            (ty, tx): (oy, ox)
            for ty, oy in self.y.meets(event.y)
            for tx, ox in self.x.meets(event.x)
        }

    def taps(self, event: Event) -> dict[int, int]:
        """Pointers that the event must bring up, each with the base that makes its address right.

        A weight of lane channel k is stored with the relative address `back + n - 1 - k` of its
        tap, where `back` is how far the tap's output lies behind tap 0's.
        """
        row, n, order = self.row, self.row["channels"], self.order()
        first = row["pointer_base"] + event.slot * row["taps"]
        found = {}
        for (ty, tx), (y, x) in self.meets(event).items():
            steps = int(self.y.back[ty]) * row["columns"] + int(self.x.back[tx])
            address = row["state_base"] + (y * row["columns"] + x) * n  # of channel 0
            found[first + order.index((ty, tx))] = address + steps * n + n - 1
        return found

    def cycles(self, event: Event) -> int:
        """What an event costs: a cycle for each pair of rows of taps, or for each row where a
        column of its group is off the map."""
        rows, columns = len(self.y.meets(event.y)), len(self.x.meets(event.x))
        if not rows or not columns:
            return 0
        group = self.x.groups[self.x.group[event.x]]
        return (rows + 1) // 2 if columns == group.stop - group.start else rows


async def layers(bench: Bench) -> Iterator[Layer]:
    """The layers of random networks, folded in turns, their tables loaded."""
    for n in range(NETWORKS):
        while True:
            network = random_network(int(bench.rng.integers(1 << 30)), LIMITS)
            try:
                image = compile_network(network, CONFIG, fold=FOLDS[n % len(FOLDS)])
                break
            except UserError:  # does not fit the build
                continue
        tables = {
            space: [
                sum(int(word) << (WORD_BITS * i) for i, word in enumerate(row))
                for row in image.memories[space]
            ]
            for space in (Space.LAYER, Space.ROW, Space.COLUMN)
        }
        await bench.load(Space.ROW, tables[Space.ROW])
        await bench.load(Space.COLUMN, tables[Space.COLUMN])
        folds = [(1, 1), *(described.fold for described in image.layers)]
        for i, (layer, bits) in enumerate(zip(network.layers, tables[Space.LAYER], strict=True)):
            target = bench.ports["target"]
            row = unpack(target.shape, bits)
            if not row["local"]:  # local layers have no use for the generator
                target.bits, bench["layer"] = bits, i % 2
                fy, fx = folds[i]
                channels = layer.in_shape[0] * fy * fx
                yield Layer(*axes(layer, folds[i], folds[i + 1]), channels, row)


def random_events(bench: Bench, layer: Layer) -> list[Event]:
    rng = bench.rng
    channels, height, width = layer.channels, len(layer.y.group), len(layer.x.group)
    return [
        Event(
            y=int(rng.integers(height)),
            x=int(rng.integers(width)),
            slot=int(rng.integers(channels)),
            delta=int(rng.integers(1, 256)) * int(rng.choice([-1, 1])),
        )
        for _ in range(EVENTS)
    ]


async def watch_marks(bench: Bench, marks: deque) -> None:
    """Collect the positions of each mark."""
    while True:
        await bench.edge
        if bench["mark__valid"]:
            rows = [bench["mark__row"] + i for i in range(1 + bench["mark__second"])]
            mask = bench["mark__mask"]
            columns = [x for x in range(CONFIG.map_columns) if mask >> x & 1]
            marks.append([(y, x) for y in rows for x in columns])


def judge(bench: Bench, layer: Layer, events: list[Event], ranges: deque, marks: deque) -> None:
    """Every event brings its taps and its positions exactly once, before those of the next."""
    addresses = (1 << CONFIG.state_address_bits) - 1
    for event in events:
        expected = layer.taps(event)
        got: dict[int, int] = {}
        while len(got) < len(expected) and ranges:
            taps = ranges.popleft()
            bench.check(f"delta of {event}", taps["delta"], event.delta)
            bench.check(f"layer of {event}", taps["layer"], bench["layer"])
            bench.check(
                f"{event}: taps twice",
                [t for t in range(taps["first"], taps["end"]) if t in got],
                [],
            )
            got |= dict.fromkeys(range(taps["first"], taps["end"]), taps["base"])
        what = f"{event} of {layer.row}"
        bench.check(f"taps of {what}", sorted(got), sorted(expected))
        bench.check(
            f"addresses of {what}",
            {tap: base & addresses for tap, base in got.items()},
            {tap: base & addresses for tap, base in expected.items()},
        )
        positions = sorted(set(layer.meets(event).values()))
        touched: list[tuple[int, int]] = []
        while len(touched) < len(positions) and marks:
            touched += marks.popleft()
        bench.check(f"touched by {what}", sorted(touched), positions)
    bench.check("ranges too many", list(ranges), [])
    bench.check("marks too many", list(marks), [])


@bench_test
async def ranges_are_the_convolution(dut):
    """Random events of random layers, with random gaps before and behind."""
    bench = await Bench.start(dut)
    source, sink = Source(bench, "events", Pace(bench.rng)), Sink(bench, "ranges", Pace(bench.rng))
    marks: deque = deque()
    cocotb.start_soon(watch_marks(bench, marks))
    async for layer in layers(bench):
        source.pace, sink.pace = Pace(bench.rng), Pace(bench.rng)
        events = random_events(bench, layer)
        await source.send(vars(event) for event in events)
        await bench.until(lambda: not bench["busy"])
        await bench.cycles(2)
        judge(bench, layer, events, sink.taken, marks)


@bench_test
async def events_cost_no_more_than_they_must(dut):
    """Without gaps: a cycle for two rows of taps, one for each where the map cuts them off."""
    bench = await Bench.start(dut)
    source = Source(bench, "events", Pace(bench.rng, kind=0))
    sink = Sink(bench, "ranges", Pace(bench.rng, kind=0))
    async for layer in layers(bench):
        events = random_events(bench, layer)
        began = bench.cycle
        await source.send(vars(event) for event in events)
        await bench.until(lambda: not bench["busy"])
        spent, costs = bench.cycle - began, [layer.cycles(event) for event in events]
        # An event that reaches nothing may take the place of another one for a cycle, or not.
        if not sum(costs) <= spent <= sum(costs) + costs.count(0) + SLACK:
            bench.fail(f"{len(events)} events took {spent} cycles, expected {sum(costs)}: {layer}")
        sink.forget()
