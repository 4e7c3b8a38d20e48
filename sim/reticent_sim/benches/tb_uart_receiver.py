"""The serial receiver: characters at its rate and a little off it, glitches, breaks."""

from __future__ import annotations

import cocotb

from reticent_sim.bench import UART

from .common import Bench, Pace, Sink, bench_test

BIT = UART[0] / UART[1]  # cycles


class Line:
    """Drives the pin; a bit lasts `BIT * rate` cycles, wherever that falls between two edges."""

    def __init__(self, bench: Bench, rate: float = 1.0) -> None:
        self._bench, self._bit = bench, BIT * rate
        self._owed = 0.0

    async def level(self, value: int, bits: float = 1) -> None:
        self._bench["rx"] = value
        self._owed += self._bit * bits
        whole = int(self._owed)
        self._owed -= whole
        await self._bench.cycles(whole)

    async def send(self, byte: int, stop: int = 1) -> None:
        await self.level(0)
        for i in range(8):
            await self.level(byte >> i & 1)
        await self.level(stop)


async def begin(dut):
    bench = Bench(dut)
    bench = await Bench.start(dut)
    bench["rx"] = 1
    await bench.cycles(40)
    return bench


def count(bench, port):
    """A list that grows by one for each cycle in which `port` is set."""
    seen = []

    async def watch():
        while True:
            await bench.edge
            if bench[port]:
                seen.append(bench.cycle)

    cocotb.start_soon(watch())
    return seen


@bench_test
async def characters_at_any_tolerable_rate(dut):
    """2.5 % off, back to back or with pauses; nothing is lost, nothing added."""
    bench = await begin(dut)
    sink = Sink(bench, "bytes", Pace(bench.rng, kind=1))
    lost, broken = count(bench, "lost"), count(bench, "broken")
    for rate in (1.0, 0.975, 1.025):
        line = Line(bench, rate)
        sent = bench.rng.integers(0, 256, 150).tolist()
        for byte in sent:
            await line.send(byte)
            if bench.rng.random() < 0.2:
                await line.level(1, bench.rng.random() * 5)
        await line.level(1, 2)
        bench.check(f"bytes at rate {rate}", list(sink.taken), sent)
        sink.taken.clear()
    bench.check("lost, broken", (lost, broken), ([], []))


@bench_test
async def a_byte_that_is_not_taken_is_lost_and_counted(dut):
    bench = await begin(dut)
    lost = count(bench, "lost")
    line = Line(bench)
    for byte in (1, 2, 3):
        await line.send(byte)
    await line.level(1, 2)
    bench.check("lost", len(lost), 2)
    sink = Sink(bench, "bytes", Pace(bench.rng, kind=0))
    await line.send(4)
    await line.level(1, 2)
    bench.check("bytes", list(sink.taken), [3, 4])


@bench_test
async def glitches_and_breaks(dut):
    """A short pulse is no start bit; a character without a stop bit is dropped and counted."""
    bench = await begin(dut)
    sink = Sink(bench, "bytes", Pace(bench.rng, kind=0))
    broken = count(bench, "broken")
    line = Line(bench)
    await line.level(0, 0.25)
    await line.level(1, 3)
    await line.send(0x5A)
    await line.send(0xFF, stop=0)
    await line.level(1, 12)
    await line.send(0xC3)
    await line.level(1, 2)
    bench.check("bytes", list(sink.taken), [0x5A, 0xC3])
    bench.check("broken", len(broken), 1)
