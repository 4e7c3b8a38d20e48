"""The threshold pass: which neurons it examines, in which order, and that no event is lost."""

from collections import deque
from dataclasses import dataclass, field

import cocotb
import numpy as np

from reticent_hw.lane import SCAN_LATENCY

from .common import CONFIG, Bench, Pace, Sink, bench_test

LANES = CONFIG.lanes
PASSES = 24


@dataclass
class Layer:
    """The layer under examination: its neurons' answers, its touched map, what was asked."""

    source: dict[str, int]
    fired: np.ndarray  # (rows, columns, channels, lanes)
    change: np.ndarray
    touched: np.ndarray  # (map rows, map columns)
    everything: bool
    local: bool
    asked: list[int] = field(default_factory=list)  # state rows

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Layer":
        rows = int(rng.integers(1, CONFIG.map_rows + 1))
        columns = int(rng.integers(1, CONFIG.map_columns + 1))
        most = min(CONFIG.state_depth // (rows * columns), CONFIG.channel_depth, 6)
        channels = int(rng.integers(1, most + 1))
        size = rows * columns * channels
        source = {
            "rows": rows,
            "columns": columns,
            "channels": channels,
            "row_stride": columns * channels,
            "state_base": int(rng.integers(CONFIG.state_depth - size + 1)),
            "channel_base": int(rng.integers(CONFIG.channel_depth - channels + 1)),
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
        """State rows in raster order, channel by channel."""
        positions = np.flatnonzero(self.examined)[:, None] * self.source["channels"]
        rows = positions + np.arange(self.source["channels"]) + self.source["state_base"]
        return rows.reshape(-1).tolist()

    def expected_sent(self) -> list[dict]:
        """Events in the order position, channel of the lane, lane; if local, whole groups."""
        fired = self.fired & self.examined[:, :, None, None]
        if self.local:
            return [
                {"k": k, "fired": fired[y, x, k].tolist(), "change": self.change[y, x, k].tolist()}
                for y, x, k in np.argwhere(fired.any(axis=3)).tolist()
            ]
        return [
            {"y": y, "x": x, "slot": k * LANES + lane, "delta": int(self.change[y, x, k, lane])}
            for y, x, k, lane in np.argwhere(fired).tolist()
        ]

    def answer(self, row: int) -> tuple[int, list[int]]:
        """What the lanes say to a state row."""
        position, k = divmod(row - self.source["state_base"], self.source["channels"])
        y, x = divmod(position, self.source["columns"])
        fired = sum(int(f) << lane for lane, f in enumerate(self.fired[y, x, k]))
        return fired, self.change[y, x, k].tolist()


class Lanes:
    """Models of lanes and touched map around the scanner."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.layer = bench, Layer.random(bench.rng)
        cocotb.start_soon(self._answer())
        cocotb.start_soon(self._show_map())

    async def _answer(self) -> None:
        """`fired` and `change`, SCAN_LATENCY cycles after the request; noise without one."""
        bench = self.bench
        answers: deque[tuple[int, list[int]]] = deque([(0, [0] * LANES)] * (SCAN_LATENCY - 1))
        while True:
            await bench.edge
            if bench["scan__valid"]:
                row, source = bench["scan__row"], self.layer.source
                k = (row - source["state_base"]) % source["channels"]
                channel = source["channel_base"] + k
                bench.check(f"channel of row {row}", bench["scan__channel"], channel)
                self.layer.asked.append(row)
                answers.append(self.layer.answer(row))
            else:
                answers.append((0, bench.rng.integers(-256, 256, LANES).tolist()))
            bench["fired"], bench["change"] = answers.popleft()

    async def _show_map(self) -> None:
        bench = self.bench
        while True:
            await bench.middle
            row = bench["row"]
            columns = self.layer.touched[row] if row < CONFIG.map_rows else []
            bench["columns"] = sum(int(bit) << x for x, bit in enumerate(columns))
            await bench.edge
            if bench["clear"]:
                self.layer.touched[row] = False


class Player:
    """Runs passes and judges them."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.lanes = bench, Lanes(bench)
        self.events, self.groups = (
            Sink(bench, name, Pace(bench.rng)) for name in ("events", "group")
        )

    async def play(self, layer: Layer, pace: int | None = None) -> int:
        """One pass; returns the cycles from `start` to `done`."""
        bench = self.bench
        self.events.pace, self.groups.pace = Pace(bench.rng, pace), Pace(bench.rng, pace)
        rows, sent = layer.expected_rows(), layer.expected_sent()
        self.lanes.layer = layer
        source = dict.fromkeys(dict(bench.ports["source"].shape), 0)
        bench["source"] = source | layer.source
        bench["everything"], bench["local"] = layer.everything, layer.local
        bench["start"] = 1
        began = bench.cycle
        await bench.edge
        bench["start"] = 0
        bench.check("done when it starts", bench["done"], 0)
        await bench.until(lambda: bench["done"])
        spent = bench.cycle - began
        await bench.cycles(3)
        bench.check(f"state rows asked of {layer.source}", layer.asked, rows)
        got = list(self.events.taken)
        if layer.local:
            bench.check("events of a local pass", got, [])
            got = [self._unpack(group) for group in self.groups.taken]
        else:
            bench.check("groups of a pass that is not local", list(self.groups.taken), [])
        bench.check(f"sent by {layer.source}", got, sent)
        bench.check("positions left on the map", np.argwhere(layer.touched).tolist(), [])
        bench.check("done", bench["done"], 1)
        self.events.taken.clear()
        self.groups.taken.clear()
        return spent

    @staticmethod
    def _unpack(group: dict) -> dict:
        """With `fired` as one truth value for each lane."""
        return group | {"fired": [bool(group["fired"] >> lane & 1) for lane in range(LANES)]}


@bench_test
async def examines_what_was_touched_in_order(dut):
    player = Player(await Bench.start(dut))
    for _ in range(PASSES):
        await player.play(Layer.random(player.bench.rng))


@bench_test
async def everything_fires_into_long_stalls(dut):
    """More groups wait than there is room for: credit must hold the examination back."""
    player = Player(await Bench.start(dut))
    rng = player.bench.rng
    for density in (1.0, 0.3, 1.0, 0.3):
        layer = Layer.random(rng)
        layer.everything = True
        layer.fired[:] = rng.random(layer.fired.shape) < density
        await player.play(layer, pace=3)


@bench_test
async def silent_groups_cost_one_cycle(dut):
    """Where nothing fires, a pass takes a cycle for each group and a few for each row."""
    player = Player(await Bench.start(dut))
    for _ in range(8):
        layer = Layer.random(player.bench.rng)
        layer.fired[:] = False
        groups, rows = len(layer.expected_rows()), layer.source["rows"]
        spent = await player.play(layer, pace=0)
        most = max(groups, rows) + rows + SCAN_LATENCY + 6
        if not groups <= spent <= most:
            player.bench.fail(f"{groups} groups took {spent} cycles, expected at most {most}")


@bench_test
async def one_event_or_group_a_cycle(dut):
    """Where everything fires, events leave without a gap; so do the groups of a local pass."""
    player = Player(await Bench.start(dut))
    for local in (False, True) * 3:
        layer = Layer.random(player.bench.rng)
        layer.everything, layer.local = True, local
        layer.fired[:] = True
        words, rows = len(layer.expected_sent()), layer.source["rows"]
        spent = await player.play(layer, pace=0)
        most = words + rows + 2 * SCAN_LATENCY + 6
        if not words <= spent <= most:
            player.bench.fail(f"{words} words took {spent} cycles, expected at most {most}")


@bench_test
async def reset_in_the_middle_of_a_pass(dut):
    player = Player(await Bench.start(dut))
    bench = player.bench
    for _ in range(8):
        layer = Layer.random(bench.rng)
        layer.everything = True
        running = cocotb.start_soon(player.play(layer))
        await bench.cycles(int(bench.rng.integers(2, 40)))
        running.cancel()
        bench["start"] = 0
        await bench.reset()
        bench.check("done after a reset", bench["done"], 1)
        await player.play(Layer.random(bench.rng))
