"""The threshold pass: every lane is asked every touched neuron once, after it has finished, and no
event is lost."""

from collections import deque
from dataclasses import dataclass, field

import cocotb
import numpy as np

from reticent_hw.lane import SCAN_AFTER, SCAN_LATENCY, TARGET_LATENCY
from reticent_hw.scanner import EXAMINATION

from .common import CONFIG, Bench, Pace, Sink, bench_test

LANES = CONFIG.lanes
STREAMS = CONFIG.streams
PER_STREAM = LANES // STREAMS
ADDRESSES = CONFIG.requantisers  # of a group
ALL = (1 << LANES) - 1
PASSES = 24
WAY = 1  # cycles from the scanner to the lanes
SLACK = 2 * EXAMINATION + 20  # cycles that beginning and end of a pass may take


def whole(row: int) -> int:
    """The first row of a group."""
    return row - row % ADDRESSES


@dataclass
class Layer:
    """The layer under examination: its neurons' answers, its touched map, what was asked."""

    source: dict[str, int]
    fired: np.ndarray  # (rows, columns, channels, lanes)
    change: np.ndarray
    touched: np.ndarray  # (map rows, map columns)
    everything: bool
    local: bool
    asked: list[tuple[int, int]] = field(default_factory=list)  # first state row, lanes

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Layer":
        rows = int(rng.integers(1, CONFIG.map_rows + 1))
        columns = int(rng.integers(1, CONFIG.map_columns + 1))
        most = min(CONFIG.state_depth // (rows * columns), CONFIG.channel_depth, 6)
        channels = int(rng.integers(1, most // ADDRESSES + 1)) * ADDRESSES
        size = rows * columns * channels
        source = {
            "rows": rows,
            "columns": columns,
            "channels": channels,
            "row_stride": columns * channels,
            "state_base": whole(int(rng.integers(CONFIG.state_depth - size + 1))),
            "channel_base": whole(int(rng.integers(CONFIG.channel_depth - channels + 1))),
        }
        shape = (rows, columns, channels, LANES)
        touched = np.zeros((CONFIG.map_rows, CONFIG.map_columns), bool)
        touched[:rows, :columns] = rng.random((rows, columns)) < rng.choice([0, 0.1, 0.5, 1])
        return cls(
            source=source,
            fired=rng.random(shape) < rng.choice([0, 0.05, 0.5, 1]),
            change=rng.integers(-255, 256, shape),
            touched=touched,
            everything=bool(rng.random() < 0.3),
            local=bool(rng.random() < 0.3),
        )

    @property
    def examined(self) -> np.ndarray:
        """Positions to examine."""
        touched = self.touched[: self.source["rows"], : self.source["columns"]]
        return touched | self.everything

    def expected_rows(self) -> list[int]:
        """First state rows of the groups in raster order."""
        positions = np.flatnonzero(self.examined)[:, None] * self.source["channels"]
        groups = np.arange(0, self.source["channels"], ADDRESSES)
        rows = positions + groups + self.source["state_base"]
        return rows.reshape(-1).tolist()

    def sent(self, stream: int) -> list[dict]:
        """What a stream must bring: the events of the groups in the order in which they were asked,
        of a group the lowest address first, of it the lowest lane; if local, whole addresses."""
        found: list[dict] = []
        own = slice(stream * PER_STREAM, (stream + 1) * PER_STREAM)
        for row, lanes in (
            (first + i, lanes) for first, lanes in self.asked for i in range(ADDRESSES)
        ):
            y, x, k = self.place(row)
            fired, change = self.answer(row, lanes)
            fired = (fired >> own.start) & ((1 << PER_STREAM) - 1)
            if self.local and fired:
                found.append({"k": k, "fired": fired, "change": change[own]})
            elif fired:
                found += [
                    {"y": y, "x": x, "slot": k * LANES + lane, "delta": change[lane]}
                    for lane in range(own.start, own.stop)
                    if fired >> (lane - own.start) & 1
                ]
        return found

    def place(self, row: int) -> tuple[int, int, int]:
        """(y, x, k) of a state row."""
        position, k = divmod(row - self.source["state_base"], self.source["channels"])
        return *divmod(position, self.source["columns"]), k

    def answer(self, row: int, lanes: int) -> tuple[int, list[int]]:
        """What these lanes say to a state row."""
        place = self.place(row)
        fired = sum(int(f) << lane for lane, f in enumerate(self.fired[place]))
        return fired & lanes, self.change[place].tolist()


class Lanes:
    """Models of lanes and touched map around the scanner.

    `finish` lists the lanes that have not finished, with the cycles of the pass at which they do.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench, self.layer = bench, Layer.random(bench.rng)
        self.finish = [0] * LANES
        self.since = [0] * LANES  # cycle in which a lane was first shown as finished
        self.began = 0
        cocotb.start_soon(self._finish())
        cocotb.start_soon(self._answer())
        cocotb.start_soon(self._show_map())

    def begin(self, layer: Layer, finish: list[int]) -> None:
        """A pass begins in this cycle."""
        self.layer, self.finish, self.began = layer, finish, self.bench.cycle
        self.bench["touched"] = sum(int(r) << y for y, r in enumerate(layer.touched.any(axis=1)))

    async def _finish(self) -> None:
        """What `finished` says in the first cycles of a pass means nothing."""
        bench = self.bench
        while True:
            await bench.edge
            spent = bench.cycle - self.began
            if spent < TARGET_LATENCY:
                bench["finished"] = int(bench.rng.integers(ALL + 1))
                continue
            for lane in range(LANES):
                if spent == max(TARGET_LATENCY, self.finish[lane]):
                    self.since[lane] = bench.cycle
            bench["finished"] = sum((spent >= at) << i for i, at in enumerate(self.finish))

    async def _answer(self) -> None:
        """`fired` and `change`, SCAN_LATENCY cycles after the request came; noise without one."""
        bench = self.bench
        nothing = [(0, [0] * LANES)] * ADDRESSES
        answers = deque([nothing] * (WAY + SCAN_LATENCY - 1))
        while True:
            await bench.edge
            lanes = bench["lanes"]
            if lanes:
                bench.check("scan where lanes are named", bench["scan__valid"], 1)
                row, source = bench["scan__row"], self.layer.source
                y, x, k = self.layer.place(row)
                channel = source["channel_base"] + k
                bench.check(f"channel of row {row}", bench["scan__channel"], channel)
                ends = (bench["scan__last_row"], bench["scan__last_column"])
                expected = (int(y + 1 == source["rows"]), int(x + 1 == source["columns"]))
                bench.check(f"last row and column at {y, x} of {source}", ends, expected)
                for lane in range(LANES):
                    # Two cycles: the edge after the cycle of the request is one later.
                    early = bench.cycle - 1 + WAY < self.since[lane] + SCAN_AFTER
                    if lanes >> lane & 1 and (early or not self.finished >> lane & 1):
                        bench.fail(f"lane {lane} is examined before it has finished")
                self.layer.asked.append((row, lanes))
                answers.append([self.layer.answer(row + i, lanes) for i in range(ADDRESSES)])
            else:
                noise = bench.rng.integers(-256, 256, (ADDRESSES, LANES)).tolist()
                answers.append([(0, change) for change in noise])
            fired, change = zip(*answers.popleft(), strict=True)
            bench["fired"], bench["change"] = list(fired), list(change)

    @property
    def finished(self) -> int:
        """Lanes that have finished."""
        spent = self.bench.cycle - self.began
        return sum((spent >= max(TARGET_LATENCY, at)) << i for i, at in enumerate(self.finish))

    async def _show_map(self) -> None:
        bench = self.bench
        while True:
            await bench.middle
            row = bench["row"]
            columns = self.layer.touched[row] if row < CONFIG.map_rows else []
            bench["columns"] = sum(int(bit) << x for x, bit in enumerate(columns))


class Player:
    """Runs passes and judges them."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.lanes = bench, Lanes(bench)
        self.events, self.groups = (
            [Sink(bench, f"{name}__{i}", Pace(bench.rng)) for i in range(STREAMS)]
            for name in ("events", "groups")
        )

    def begin(self, layer: Layer, finish: list[int], pace: int | None = None) -> None:
        """Set a pass up, and start it."""
        bench = self.bench
        for sink in self.events + self.groups:
            sink.pace = Pace(bench.rng, pace)
        source = dict.fromkeys(dict(bench.ports["source"].shape), 0)
        bench["source"] = source | layer.source
        bench["everything"], bench["local"] = layer.everything, layer.local
        bench["start"] = 1
        self.lanes.begin(layer, finish)

    async def play(
        self, layer: Layer, finish: list[int] | None = None, pace: int | None = None
    ) -> int:
        """One pass; returns the cycles from `start` to `done`.

        `finish`: after how many cycles each lane finishes, at once unless given.
        """
        bench = self.bench
        self.begin(layer, finish or [0] * LANES, pace)
        began = bench.cycle
        await bench.edge
        bench["start"] = 0
        bench.check("done when it starts", bench["done"], 0)
        await bench.until(lambda: bench["done"])
        spent = bench.cycle - began
        await bench.cycles(3)
        self.judge(layer)
        bench.check("(done, waiting)", (bench["done"], bench["waiting"]), (1, 0))
        return spent

    def judge(self, layer: Layer) -> None:
        """What was asked and sent in a pass that is over."""
        bench, rows = self.bench, layer.expected_rows()
        for lane in range(LANES):
            asked = [row for row, lanes in layer.asked if lanes >> lane & 1]
            # Every group once, in raster order; the walk may have begun anywhere.
            begin = rows.index(asked[0]) if asked and asked[0] in rows else 0
            expected = rows[begin:] + rows[:begin]
            bench.check(f"rows asked of lane {lane}, {layer.source}", asked, expected)
        self.judge_sent(layer)

    def judge_sent(self, layer: Layer) -> None:
        """What was sent for what was asked."""
        bench = self.bench
        for i, (events, groups) in enumerate(zip(self.events, self.groups, strict=True)):
            used, unused = (groups, events) if layer.local else (events, groups)
            bench.check(f"sent by stream {i}, {layer.source}", list(used.taken), layer.sent(i))
            bench.check(f"on the other port of stream {i}", list(unused.taken), [])
            used.taken.clear()


def some_finish(rng: np.random.Generator, groups: int) -> list[int]:
    """At once, all together later, spread over a walk or two, or one very late."""
    kind = rng.integers(4)
    if kind == 0:
        return [0] * LANES
    if kind == 1:
        return [int(rng.integers(60))] * LANES
    finish = rng.integers(0, rng.integers(1, 2 * groups + 12), LANES)
    if kind == 2:
        finish[rng.integers(LANES)] = 3 * groups + 40
    return finish.tolist()


@bench_test
async def every_lane_is_asked_every_group_once(dut):
    """Lanes finish at random times and in random order."""
    player = Player(await Bench.start(dut))
    rng = player.bench.rng
    for _ in range(PASSES):
        layer = Layer.random(rng)
        await player.play(layer, some_finish(rng, len(layer.expected_rows())))


@bench_test
async def one_group_and_none(dut):
    """The walk goes round a single group; without any, no lane needs to finish."""
    player = Player(await Bench.start(dut))
    rng = player.bench.rng
    for n in range(24):
        layer = Layer.random(rng)
        layer.source |= {
            "channels": ADDRESSES,
            "row_stride": layer.source["columns"] * ADDRESSES,
        }
        layer.everything = False
        layer.touched[:] = False
        if n % 2:
            layer.touched[
                rng.integers(layer.source["rows"]), rng.integers(layer.source["columns"])
            ] = True
            await player.play(layer, some_finish(rng, 4))
        else:
            spent = await player.play(layer, [1 << 30] * LANES)
            player.bench.check("cycles of a pass over nothing", spent <= SLACK, True)


@bench_test
async def nothing_is_examined_between_passes(dut):
    """Whatever its inputs say before a pass begins, also after a pass over nothing or a reset."""
    player = Player(await Bench.start(dut))
    bench, rng = player.bench, player.bench.rng
    for n in range(12):
        if n % 3:
            layer = Layer.random(rng)
            layer.everything = False
            layer.touched &= n % 3 == 2
            await player.play(layer)
        else:
            await bench.reset()
        bench["everything"], bench["touched"] = 1, int(rng.integers(1 << CONFIG.map_rows))
        source = dict.fromkeys(dict(bench.ports["source"].shape), 0)
        bench["source"] = source | Layer.random(rng).source
        bench["finished"] = ALL
        for _ in range(SLACK):
            bench.check("lanes that are asked between passes", bench["lanes"], 0)
            await bench.edge


@bench_test
async def it_waits_for_lanes_that_work(dut):
    """Batch by batch: what has finished is examined and sent, then it is `waiting`, not `done`."""
    player = Player(await Bench.start(dut))
    bench, rng = player.bench, player.bench.rng
    never = 1 << 30
    for _ in range(12):
        layer = Layer.random(rng)
        layer.touched[0, 0] = True
        order = rng.permutation(LANES).tolist()
        player.begin(layer, [never] * LANES)
        await bench.edge
        bench["start"] = 0
        groups = len(layer.expected_rows())
        while order:
            for lane in [order.pop() for _ in range(min(len(order), int(rng.integers(1, 3))))]:
                player.lanes.finish[lane] = bench.cycle - player.lanes.began + TARGET_LATENCY
            await bench.cycles(SLACK)
            await bench.until(lambda: bench["waiting"] or bench["done"])
            bench.check("done", bench["done"], int(not order))
            for lane in set(range(LANES)) - set(order):
                asked = sum(lanes >> lane & 1 for _, lanes in layer.asked)
                bench.check(f"groups asked of lane {lane}", asked, groups)
            sinks = player.groups if layer.local else player.events
            taken = [len(sink.taken) for sink in sinks]
            bench.check("sent", taken, [len(layer.sent(i)) for i in range(STREAMS)])
        player.judge(layer)


@bench_test
async def everything_fires_into_long_stalls(dut):
    """More groups wait than there is room for: credit must hold the examination back."""
    player = Player(await Bench.start(dut))
    rng = player.bench.rng
    for density in (1.0, 0.3, 1.0, 0.3):
        layer = Layer.random(rng)
        layer.everything = True
        layer.fired[:] = rng.random(layer.fired.shape) < density
        await player.play(layer, some_finish(rng, len(layer.expected_rows())), pace=3)


@bench_test
async def silent_groups_cost_one_cycle(dut):
    """Where nothing fires, a pass takes a cycle for each group and one more for each row."""
    player = Player(await Bench.start(dut))
    for _ in range(8):
        layer = Layer.random(player.bench.rng)
        layer.fired[:] = False
        groups, rows = len(layer.expected_rows()), layer.source["rows"]
        spent = await player.play(layer, pace=0)
        player.bench.check("groups examined", len(layer.asked), groups)
        most = groups + rows + SLACK
        if not groups <= spent <= most:
            player.bench.fail(f"{groups} groups took {spent} cycles, expected at most {most}")


@bench_test
async def walk_goes_round_no_further_than_it_must(dut):
    """Lanes that join in the first lap are done with a lap after the last of them joined."""
    player = Player(await Bench.start(dut))
    rng = player.bench.rng
    for _ in range(8):
        layer = Layer.random(rng)
        layer.everything = True
        layer.fired[:] = False
        groups = len(layer.expected_rows())
        finish = rng.integers(0, groups, LANES)
        finish[0] = 0
        spent = await player.play(layer, finish.tolist(), pace=0)
        most = int(finish.max()) + groups + 2 * layer.source["rows"] + SLACK
        if spent > most:
            player.bench.fail(f"{groups} groups took {spent} cycles, expected at most {most}")


@bench_test
async def one_event_or_group_a_cycle(dut):
    """Where everything fires, events of each stream leave without a gap; so do the groups of a
    local pass."""
    player = Player(await Bench.start(dut))
    for local in (False, True) * 3:
        layer = Layer.random(player.bench.rng)
        layer.everything, layer.local = True, local
        layer.fired[:] = True
        words = len(layer.expected_rows()) * ADDRESSES * (1 if local else PER_STREAM)
        spent = await player.play(layer, pace=0)
        most = words + layer.source["rows"] + SLACK
        if not words <= spent <= most:
            player.bench.fail(f"{words} words took {spent} cycles, expected at most {most}")


@bench_test
async def reset_in_the_middle_of_a_pass(dut):
    player = Player(await Bench.start(dut))
    bench, rng = player.bench, player.bench.rng
    for _ in range(8):
        layer = Layer.random(rng)
        layer.everything = True
        running = cocotb.start_soon(player.play(layer, some_finish(rng, 20)))
        await bench.cycles(int(rng.integers(2, 40)))
        running.cancel()
        bench["start"] = bench["everything"] = bench["touched"] = 0
        await bench.reset()
        bench.check("done after a reset", bench["done"], 1)
        await player.play(Layer.random(rng), some_finish(rng, 20))
