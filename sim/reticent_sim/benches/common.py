"""What all benches share: clock and reset, ports with their shapes, stream drivers and monitors.

Everything is keyed to the rising edge: what is read right after it was there before the edge, what
is written takes effect after it. Only where a block answers combinationally does a bench drive at
the falling edge, when everything has settled.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cocotb
import numpy as np
from amaranth import Shape
from amaranth.lib import data
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, RisingEdge
from cocotb.utils import get_sim_time

from reticent.config import BuildConfig
from reticent.layout import Space
from reticent_sim.bench import BLOCKS

__all__ = [
    "CONFIG",
    "Bench",
    "Pace",
    "Port",
    "Sink",
    "Source",
    "beats",
    "bench_test",
    "pack",
    "unpack",
]

PERIOD = 2  # simulator steps of a clock cycle
LONGEST = 200_000  # cycles of one test; far more than any takes

CONFIG = BuildConfig.from_dict(json.loads(os.environ["RETICENT_BENCH_CONFIG"]))

bench_test = cocotb.test(timeout_time=PERIOD * LONGEST, timeout_unit="step")


def pack(shape: Any, value: Any) -> int:
    """An integer, struct (dict) or array (sequence) as the bits of a port."""
    if isinstance(shape, data.Layout):
        return sum(pack(field.shape, value[key]) << field.offset for key, field in shape)
    bits = int(value) & ((1 << Shape.cast(shape).width) - 1)
    if unpack(shape, bits) != value:
        raise ValueError(f"{value} does not fit {shape}")
    return bits


def unpack(shape: Any, bits: int) -> Any:
    """The inverse of `pack`."""
    if isinstance(shape, data.Layout):
        found = {key: unpack(field.shape, bits >> field.offset) for key, field in shape}
        return list(found.values()) if isinstance(shape, data.ArrayLayout) else found
    shape = Shape.cast(shape)
    bits &= (1 << shape.width) - 1
    negative = shape.signed and bits >> (shape.width - 1)
    return bits - (1 << shape.width) if negative else bits


class Port:
    """One port, read and written in terms of its shape: integers, dicts, lists."""

    def __init__(self, handle: Any, shape: Any) -> None:
        self._handle = handle
        self.shape = shape

    def set(self, value: Any) -> None:
        """Write."""
        self._handle.value = pack(self.shape, value)

    def get(self) -> Any:
        """Read."""
        return unpack(self.shape, self.bits)

    @property
    def bits(self) -> int:
        """The value without regard to the shape."""
        return int(self._handle.value)

    @bits.setter
    def bits(self, value: int) -> None:
        self._handle.value = value


class Bench:
    """The block under test: its clock, its reset, its ports by name, and the test's randomness.

    `ports` come from the block itself, so names, signedness and fields are typed nowhere twice.
    """

    def __init__(self, dut: Any) -> None:
        component = BLOCKS[os.environ["RETICENT_BENCH_BLOCK"]](CONFIG)
        component._MustUse__used = True  # only its ports are of interest
        self.ports: dict[str, Port] = {}
        self._inputs: list[Any] = []
        for path, member, value in component.signature.flatten(component):
            name = "__".join(str(part) for part in path)
            handle = getattr(dut, name)
            self.ports[name] = Port(handle, value.shape())
            if member.flow.name == "In":
                self._inputs.append(handle)
        self._dut = dut
        self.seed = cocotb.RANDOM_SEED  # of this test; follows from $RETICENT_SEED
        self.rng = np.random.default_rng(self.seed)
        self.sinks: list[Sink] = []
        self.edge, self.middle = RisingEdge(dut.clk), FallingEdge(dut.clk)

    @classmethod
    async def start(cls, dut: Any) -> Bench:
        """Start the clock, set all inputs to zero, reset."""
        bench = cls(dut)
        Clock(dut.clk, PERIOD, unit="step").start()
        for handle in bench._inputs:
            handle.value = 0
        await bench.reset()
        return bench

    async def reset(self) -> None:
        """Through the pin; the core registers it, so that a reset ends a cycle later."""
        for sink in self.sinks:
            sink.strict = False
        if hasattr(self._dut, "rst"):
            self._dut.rst.value = 1
            await self.cycles(2)
            self._dut.rst.value = 0
        await self.cycles(2)
        for sink in self.sinks:
            sink.forget()

    async def cycles(self, count: int) -> None:
        """Wait."""
        for _ in range(count):
            await self.edge

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for an edge before which the condition holds."""
        await self.edge
        while not condition():
            await self.edge

    def __getitem__(self, name: str) -> Any:
        """Value of a port."""
        return self.ports[name].get()

    def __setitem__(self, name: str, value: Any) -> None:
        self.ports[name].set(value)

    async def load(self, space: Space, rows: Iterable[int], lane: int = 0) -> None:
        """Fill a memory over the load bus, one row (as bits) a cycle."""
        for index, row in enumerate(rows):
            self["load__valid"], self["load__space"], self["load__lane"] = 1, space, lane
            self["load__row"], self.ports["load__data"].bits = index, row
            await self.edge
        self["load__valid"] = 0

    @property
    def cycle(self) -> int:
        """Clock cycles since the simulation began, as in a waveform."""
        return get_sim_time("step") // PERIOD

    def check(self, what: str, got: Any, expected: Any) -> None:
        """Fail when the two differ."""
        if got != expected:
            self.fail(f"{what}: expected {expected}, got {got}")

    def fail(self, message: str) -> None:
        """Fail with the cycle and the seed."""
        raise AssertionError(f"cycle {self.cycle}, test seed {self.seed}: {message}")


class Pace:
    """Whether to hold back in a cycle: never, seldom, mostly, or now and then for long."""

    KINDS = ((0.0, 1), (0.1, 1), (0.7, 1), (0.04, 60))  # chance, longest

    def __init__(self, rng: np.random.Generator, kind: int | None = None) -> None:
        self._rng = rng
        self._chance, self._longest = self.KINDS[
            int(rng.integers(len(self.KINDS))) if kind is None else kind
        ]
        self._left = 0

    def __call__(self) -> bool:
        if self._left == 0 and self._rng.random() < self._chance:
            self._left = int(self._rng.integers(1, self._longest + 1))
        if self._left == 0:
            return False
        self._left -= 1
        return True


class Source:
    """Drives a stream into the block."""

    def __init__(self, bench: Bench, stream: str, pace: Pace) -> None:
        self._bench = bench
        self.pace = pace
        self._valid, self._payload, self._ready = (
            bench.ports[f"{stream}__{member}"] for member in ("valid", "payload", "ready")
        )

    async def send(self, words: Iterable[Any]) -> None:
        """Send words; returns when the last one was taken."""
        for word in words:
            while self.pace():
                await self._bench.edge
            self._payload.set(word)
            self._valid.set(1)
            await self._bench.until(lambda: self._ready.bits)
            self._valid.set(0)

    def withdraw(self) -> None:
        """After a reset: what was being sent is not sent any more."""
        self._valid.set(0)


class Sink:
    """Takes the words of a stream, and checks that a word waits unchanged until it is taken.

    `strict` is off while a restart may take a word back.
    """

    def __init__(self, bench: Bench, stream: str, pace: Pace) -> None:
        self._bench, self._stream = bench, stream
        self.pace = pace
        self.taken: deque[Any] = deque()
        self.strict = True
        bench.sinks.append(self)
        self._waiting: int | None = None
        self._valid, self._payload, self._ready = (
            bench.ports[f"{stream}__{member}"] for member in ("valid", "payload", "ready")
        )
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        bench, ready = self._bench, False
        while True:
            await bench.edge
            if self._valid.bits:
                word = self._payload.bits
                if self.strict and self._waiting not in (None, word):
                    bench.fail(f"{self._stream} changed {self._waiting:#x} to {word:#x} untaken")
                self._waiting = None if ready else word
                if ready:
                    self.taken.append(unpack(self._payload.shape, word))
            else:
                if self.strict and self._waiting is not None:
                    bench.fail(f"{self._stream} took {self._waiting:#x} back")
                self._waiting = None
            ready = not self.pace()
            self._ready.set(ready)

    async def next(self) -> Any:
        """Wait for a word."""
        while not self.taken:
            await self._bench.edge
        return self.taken.popleft()

    async def take(self, count: int) -> list[Any]:
        """Wait for words."""
        return [await self.next() for _ in range(count)]

    def forget(self) -> None:
        """After a reset: no word is owed any more."""
        self.taken.clear()
        self._waiting = None
        self.strict = True


def beats(
    rng: np.random.Generator, frame: np.ndarray, before: np.ndarray | None, lazy: float
) -> Iterator[dict[str, int]]:
    """A frame as words for the pixel stream.

    Where it is as the frame `before`, a random part (`lazy`) of the words says so; their values
    mean nothing. Without a frame before, all are values.
    """
    rows = frame.reshape(len(frame), -1)
    same = np.zeros(rows.shape, bool) if before is None else rows == before.reshape(rows.shape)
    for row, equal in zip(rows.tolist(), same, strict=True):
        for x, value in enumerate(row):
            if equal[x:].all() and rng.random() < lazy:
                yield {"value": int(rng.integers(256)), "same": 1, "rest": 1}
                break
            if equal[x] and rng.random() < lazy:
                yield {"value": int(rng.integers(256)), "same": 1, "rest": 0}
            else:
                yield {"value": value, "same": 0, "rest": 0}
