"""The serial transmitter: the length of every bit, no gaps, a line that rests high."""

from __future__ import annotations

import cocotb

from reticent_sim.bench import UART

from .common import Bench, Pace, Source, bench_test

BIT = UART[0] / UART[1]


@bench_test
async def bits_have_their_length(dut):
    """Read back in the middle of each bit; over a long run the rate is exact."""
    bench = await Bench.start(dut)
    bench.check("resting level", bench["tx"], 1)
    sent = bench.rng.integers(0, 256, 200).tolist()
    source = Source(bench, "bytes", Pace(bench.rng, kind=0))
    sending = cocotb.start_soon(source.send(sent))
    await bench.until(lambda: bench["tx"] == 0)
    began = bench.cycle
    for i, byte in enumerate(sent):
        for bit in range(10):
            due = began + round((10 * i + bit + 0.5) * BIT)
            await bench.cycles(due - bench.cycle)
            expected = 0 if bit == 0 else 1 if bit == 9 else byte >> (bit - 1) & 1
            bench.check(f"byte {i}, bit {bit}", bench["tx"], expected)
    await sending
    await bench.cycles(20)
    bench.check("idle at the end", (bench["idle"], bench["tx"]), (1, 1))


@bench_test
async def bytes_now_and_then(dut):
    """Whatever the pauses between bytes, each is whole."""
    bench = await Bench.start(dut)
    for byte in bench.rng.integers(0, 256, 40).tolist():
        bench["bytes__payload"], bench["bytes__valid"] = byte, 1
        await bench.until(lambda: bench["bytes__ready"])
        bench["bytes__valid"] = 0
        await bench.until(lambda: bench["tx"] == 0)
        began = bench.cycle
        got = 0
        for bit in range(1, 9):
            await bench.cycles(began + round((bit + 0.5) * BIT) - bench.cycle)
            got |= bench["tx"] << (bit - 1)
        bench.check("byte", got, byte)
        await bench.cycles(int(bench.rng.integers(int(BIT), 40)))
