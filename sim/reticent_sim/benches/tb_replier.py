"""Replies: checksum and COBS right for every content, sent again as they were."""

from __future__ import annotations

from reticent.link.protocol import CRC_BYTES, decode
from reticent_sim.bench import REPLY_BYTES

from .common import Bench, Pace, Sink, Source, bench_test
from .tb_receiver import content


async def pulse(bench, port):
    bench[port] = 1
    await bench.edge
    bench[port] = 0
    await bench.edge


async def packet(bench, sink) -> bytes:
    """Take bytes up to the delimiter."""
    found = bytearray()
    while (byte := await sink.next()) != 0:
        found.append(byte)
    return bytes(found)


@bench_test
async def every_content_is_sealed(dut):
    """All lengths, blocks that end at 254 bytes, stalls on both sides; and once more on demand."""
    bench = await Bench.start(dut)
    source = Source(bench, "content", Pace(bench.rng))
    sink = Sink(bench, "bytes", Pace(bench.rng))
    longest = REPLY_BYTES - CRC_BYTES
    sizes = [6, 7, 249, 250, 251, 253, 254, 255, 508, longest]
    for size in sizes + bench.rng.integers(6, longest + 1, 12).tolist():
        body = content(bench, size)
        source.pace, sink.pace = Pace(bench.rng), Pace(bench.rng)
        await pulse(bench, "begin")
        await source.send(body)
        await bench.until(lambda: bench["content__ready"])
        await pulse(bench, "finish")
        sent = await packet(bench, sink)
        bench.check(f"content of {size} bytes", decode(sent), body)
        bench.check("overflow", bench["overflow"], 0)
        for _ in range(int(bench.rng.integers(3))):
            await bench.until(lambda: not bench["busy"])
            await bench.cycles(int(bench.rng.integers(4)))
            await pulse(bench, "again")
            bench.check("again", await packet(bench, sink), sent)
        await bench.until(lambda: not bench["busy"])


@bench_test
async def too_much_is_noticed(dut):
    bench = await Bench.start(dut)
    source = Source(bench, "content", Pace(bench.rng))
    sink = Sink(bench, "bytes", Pace(bench.rng, kind=0))
    await pulse(bench, "begin")
    await source.send(content(bench, REPLY_BYTES - CRC_BYTES + 1))
    await bench.cycles(2)
    bench.check("overflow", bench["overflow"], 1)
    await pulse(bench, "begin")
    bench.check("overflow", bench["overflow"], 0)
    await source.send(b"shorter")
    await bench.edge
    await pulse(bench, "finish")
    bench.check("content", decode(await packet(bench, sink)), b"shorter")
