"""The delta encoder against the definition of the delta rule on a stack of frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cocotb
import numpy as np

from reticent.arithmetic import THRESHOLD_MAX, fires

from .common import CONFIG, Bench, Pace, Sink, Source, beats, bench_test

EPISODES = 10
FRAMES = 8
SLACK = 12  # cycles from the last pixel until its events are queued, generously
SETTLED = 3  # cycles that settings are there before a frame begins, as in the core
STREAMS = CONFIG.streams


@dataclass
class Spec:
    """What the registers say of the input."""

    height: int
    width: int
    channels: int
    stack: int
    repeat_first: bool

    @classmethod
    def random(cls, rng: np.random.Generator) -> Spec:
        channels = int(rng.integers(1, 4))
        return cls(
            height=int(rng.integers(1, 10)),
            width=int(rng.integers(1, 14)),
            channels=channels,
            stack=int(rng.integers(1, CONFIG.stack + 1)),
            repeat_first=bool(rng.integers(2)),
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels


class Model:
    """What was sent for each frame of the stack, oldest first."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.first = spec, True
        self.sent = np.zeros((spec.stack, *spec.shape), np.int64)

    def changes(self, frame: np.ndarray, threshold: int) -> np.ndarray:
        """What all frames of the stack would send: (height, width, channels, stack)."""
        return (self._next(frame, threshold) - self.sent).transpose(1, 2, 3, 0)

    def step(self, frame: np.ndarray, threshold: int) -> list[dict[str, int]]:
        """Events of a frame, in the order of the pixels, of a pixel the oldest frame first."""
        delta = self.changes(frame, threshold)
        self.sent, self.first = self._next(frame, threshold), False
        return [
            {
                "y": y,
                "x": x,
                "slot": k * self.spec.channels + channel,
                "delta": int(delta[y, x, channel, k]),
            }
            for y, x, channel, k in np.argwhere(delta).tolist()
        ]

    def _next(self, frame: np.ndarray, threshold: int) -> np.ndarray:
        newest = np.where(fires(frame, self.sent[-1], threshold), frame, self.sent[-1])
        if self.first and self.spec.repeat_first:
            return np.broadcast_to(newest, self.sent.shape)
        return np.concatenate([self.sent[1:], newest[None]])


def random_frames(rng: np.random.Generator, spec: Spec, count: int) -> Iterator[np.ndarray]:
    """Noise, stills, single changes, drifts about a threshold, black and white."""
    frame = rng.integers(0, 256, spec.shape)
    for _ in range(count):
        kind = rng.integers(6)
        if kind == 0:
            frame = rng.integers(0, 256, spec.shape)
        elif kind in (1, 2):
            changed = rng.random(spec.shape) < 0.05
            frame = np.where(changed, rng.integers(0, 256, spec.shape), frame)
        elif kind == 3:
            frame = np.clip(frame + rng.integers(-12, 13, spec.shape), 0, 255)
        elif kind == 4 and rng.random() < 0.4:
            frame = np.full(spec.shape, rng.choice([0, 255]))
        yield frame


class Player:
    """Plays frames into the encoder and judges its events."""

    def __init__(self, bench: Bench, spec: Spec) -> None:
        self.bench, self.spec, self.model = bench, spec, Model(spec)
        self.before: np.ndarray | None = None  # the frame before; None: values must be sent
        self.threshold: int | None = None
        for name, value in vars(spec).items():
            bench[name] = value

    async def play(
        self,
        source: Source,
        sinks: list[Sink],
        frame: np.ndarray,
        threshold: int,
        lazy: float = 0.5,
    ) -> int:
        """One frame; returns the cycles from its first beat until it is `received`."""
        bench = self.bench
        if threshold != self.threshold:
            self.before = None
        bench["threshold"], self.threshold = threshold, threshold
        expected = self.model.step(frame, threshold)
        words = list(beats(bench.rng, frame, self.before, lazy))
        await bench.cycles(SETTLED)
        began, last_taken = bench.cycle, []
        watching = cocotb.start_soon(self._watch(last_taken))
        await source.send(words)
        await bench.until(lambda: bench["received"])
        spent = bench.cycle - began
        await bench.until(lambda: bench["drained"])
        await bench.cycles(3)
        watching.cancel()
        for i, sink in enumerate(sinks):  # the streams take turns
            what = f"events of {self.spec}, threshold {threshold}, stream {i}"
            bench.check(what, list(sink.taken), expected[i::STREAMS])
            sink.taken.clear()
        bench.check("pulses of last_taken", len(last_taken), 1)
        self.before = frame
        bench["next_frame"] = 1
        await bench.edge
        bench["next_frame"] = 0
        return spent

    def cycles(self, frame: np.ndarray) -> int:
        """What a frame must cost at threshold 0, if rows that are the same are sent so."""
        sent = self.model.sent
        cost = np.maximum(1, self.model.changes(frame, 0).astype(bool).sum(axis=3))
        quiet = (sent[1:] == sent[:-1]).all(axis=(0, 2, 3))
        if self.before is None:
            quiet[:] = False
        else:
            quiet &= (frame == self.before).all(axis=(1, 2))
        return int(np.where(quiet, 1, cost.sum(axis=(1, 2))).sum())

    async def _watch(self, last_taken: list[int]) -> None:
        while True:
            await self.bench.edge
            if self.bench["last_taken"]:
                last_taken.append(self.bench.cycle)
            if self.bench["received"] and not last_taken:
                self.bench.fail("received before the last pixel was taken")


async def toggle(bench: Bench) -> None:
    """Random `enable`."""
    while True:
        pace = Pace(bench.rng)
        for _ in range(int(bench.rng.integers(1, 300))):
            bench["enable"] = not pace()
            await bench.edge


def event_sinks(bench: Bench, kind: int | None = None) -> list[Sink]:
    """A sink for each stream."""
    return [Sink(bench, f"events__{i}", Pace(bench.rng, kind)) for i in range(STREAMS)]


def some_threshold(rng: np.random.Generator) -> int:
    return int(rng.choice([0, 1, 10, THRESHOLD_MAX, rng.integers(THRESHOLD_MAX)]))


@bench_test
async def events_are_those_of_the_stack(dut):
    """Episodes of random inputs, stalls on both sides, thresholds changed between frames."""
    bench = await Bench.start(dut)
    source, sinks = Source(bench, "pixels", Pace(bench.rng)), event_sinks(bench)
    cocotb.start_soon(toggle(bench))
    for _ in range(EPISODES):
        await bench.reset()
        player = Player(bench, Spec.random(bench.rng))
        threshold = some_threshold(bench.rng)
        for frame in random_frames(bench.rng, player.spec, FRAMES):
            for stream in (source, *sinks):
                stream.pace = Pace(bench.rng)
            if bench.rng.random() < 0.2:
                threshold = some_threshold(bench.rng)
            await player.play(source, sinks, frame, threshold)


@bench_test
async def every_threshold(dut):
    """One pixel of each change around each threshold."""
    bench = await Bench.start(dut)
    bench["enable"] = 1
    source = Source(bench, "pixels", Pace(bench.rng, kind=0))
    sinks = event_sinks(bench, kind=0)
    spec = Spec(height=1, width=12, channels=1, stack=1, repeat_first=False)
    player = Player(bench, spec)
    for threshold in range(THRESHOLD_MAX + 1):
        before = player.model.sent[-1]
        change = threshold + bench.rng.integers(-1, 2, spec.shape)
        up = np.where(bench.rng.integers(2, size=spec.shape), before + change, before - change)
        await player.play(source, sinks, np.clip(up, 0, 255), threshold)


@bench_test
async def full_queue_makes_the_frame_wait(dut):
    """As in the core, events are taken once the frame is complete or the queue `crowded`."""
    bench = await Bench.start(dut)
    bench["enable"] = 1
    waiting = [True]
    pace = Pace(bench.rng)

    def hold() -> bool:
        if bench["crowded"] or bench["received"]:
            waiting[0] = False
        return waiting[0] or pace()

    source, sinks = Source(bench, "pixels", Pace(bench.rng, kind=0)), event_sinks(bench)
    for sink in sinks:
        sink.pace = hold
    player = Player(
        bench, Spec(height=6, width=8, channels=1, stack=CONFIG.stack, repeat_first=True)
    )
    for _ in range(12):
        waiting[0], pace = True, Pace(bench.rng)
        frame = bench.rng.integers(0, 256, player.spec.shape)
        await player.play(source, sinks, frame, threshold=int(bench.rng.choice([0, 200])))


@bench_test
async def cycles_of_a_frame(dut):
    """A cycle for each pixel, one for each further event of it, one for a quiet row."""
    bench = await Bench.start(dut)
    bench["enable"] = 1
    source = Source(bench, "pixels", Pace(bench.rng, kind=0))
    sinks = event_sinks(bench, kind=0)
    for _ in range(4):
        await bench.reset()
        player = Player(bench, Spec.random(bench.rng))
        frames = list(random_frames(bench.rng, player.spec, 10))
        frames += frames[-1:] * (CONFIG.stack + 1)  # comes to rest
        for frame in frames:
            expected = player.cycles(frame)
            spent = await player.play(source, sinks, frame, threshold=0, lazy=1)
            if not expected <= spent <= expected + SLACK:
                bench.fail(f"{player.spec}: a frame took {spent} cycles, expected {expected}")
        bench.check("cycles at rest", expected, player.spec.height)


@bench_test
async def reset_in_the_middle_of_a_frame(dut):
    bench = await Bench.start(dut)
    bench["enable"] = 1
    source, sinks = Source(bench, "pixels", Pace(bench.rng)), event_sinks(bench)
    for _ in range(6):
        player = Player(bench, Spec.random(bench.rng))
        for frame in random_frames(bench.rng, player.spec, 2):
            await player.play(source, sinks, frame, 5)
        running = cocotb.start_soon(
            player.play(source, sinks, bench.rng.integers(0, 256, player.spec.shape), 5)
        )
        await bench.cycles(int(bench.rng.integers(1, player.model.sent[0].size + 5)))
        running.cancel()
        source.withdraw()
        bench["next_frame"] = 0
        await bench.reset()
        player = Player(bench, Spec.random(bench.rng))
        for frame in random_frames(bench.rng, player.spec, 3):
            await player.play(source, sinks, frame, 0)
        await bench.reset()
