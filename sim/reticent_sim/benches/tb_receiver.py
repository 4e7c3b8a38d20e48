"""Requests: intact ones come through whole, all others leave no trace but a count."""

from __future__ import annotations

import cocotb
from cobs import cobs

from reticent.link.protocol import REQUEST_EXTRA, Request, encode_request
from reticent_sim.bench import REQUEST_BYTES

from .common import Bench, Pace, Sink, Source, bench_test
from .tb_uart_receiver import count


async def begin(dut):
    bench = await Bench.start(dut)
    source = Source(bench, "bytes", Pace(bench.rng))
    payload = Sink(bench, "payload", Pace(bench.rng))
    payload.strict = False  # a request that is released takes its payload back
    return bench, source, payload


def content(bench, size: int) -> bytes:
    """Random bytes, with many or few zeros."""
    rng = bench.rng
    zeros = rng.random(size) < rng.choice([0.0, 0.01, 0.5])
    return bytes((rng.integers(1, 256, size) * ~zeros).astype("u1"))


async def release(bench):
    bench["release"] = 1
    await bench.edge
    bench["release"] = 0
    await bench.cycles(2)


@bench_test
async def every_length_comes_through(dut):
    """Payloads of 0 bytes to the most, with delimiters before, between, and doubled."""
    bench, source, payload = await begin(dut)
    longest = REQUEST_BYTES - REQUEST_EXTRA
    sizes = [0, 1, 2, 243, 244, 245, 246, longest - 1, longest]
    for size in sizes + bench.rng.integers(0, longest + 1, 12).tolist():
        sequence, body = int(bench.rng.integers(1 << 32)), content(bench, size)
        packet = encode_request(Request.WRITE, sequence, body)
        zeros = bytes(int(bench.rng.integers(3)))
        await source.send(zeros + packet)
        await bench.until(lambda: bench["held"])
        bench.check("kind", bench["kind"], Request.WRITE)
        bench.check("sequence", bench["sequence"], sequence)
        got = bytes(await payload.take(size))
        bench.check("payload", got, body)
        await bench.cycles(5)
        bench.check("more", (bench["more"], len(payload.taken)), (0, 0))
        await release(bench)
        bench.check("held", bench["held"], 0)


@bench_test
async def damage_is_never_held(dut):
    """Flipped bits, lost, doubled and cut bytes, packets too long and too short, noise."""
    bench, source, _ = await begin(dut)
    rng = bench.rng
    damaged = count(bench, "damaged")
    harmed = 0
    for i in range(150):
        size = int(rng.integers(0, 90))
        packet = bytearray(encode_request(Request.FRAME, i, content(bench, size)))
        at = int(rng.integers(len(packet) - 1))
        match i % 6:
            case 0:
                packet[at] ^= 1 << int(rng.integers(8))
            case 1:
                del packet[at]
            case 2:
                packet.insert(at, int(rng.integers(256)))
            case 3:
                packet[at:-1] = b""
            case 4:
                packet = bytearray(cobs.encode(content(bench, REQUEST_BYTES + 1)) + b"\0")
            case 5:
                packet = bytearray(rng.integers(0, 256, 20).astype("u1").tobytes() + b"\0")
        parts = [p for p in bytes(packet).split(b"\0") if p]
        harmed += len(parts)
        await source.send(packet)
        await bench.cycles(3)
        bench.check(f"held after harm {i % 6}", bench["held"], 0)
    bench.check("counted", len(damaged), harmed)
    await source.send(encode_request(Request.READ, 5, b"abc"))
    await bench.until(lambda: bench["held"])
    bench.check("sequence", bench["sequence"], 5)


@bench_test
async def nothing_is_taken_while_a_request_is_held(dut):
    """The next request waits at the port and comes through afterwards."""
    bench, source, payload = await begin(dut)
    packets = [(i, content(bench, int(bench.rng.integers(60)))) for i in range(12)]
    stream = b"".join(encode_request(Request.READ, i, body) for i, body in packets)
    sending = cocotb.start_soon(source.send(stream))
    for i, body in packets:
        await bench.until(lambda: bench["held"])
        await bench.cycles(int(bench.rng.integers(30)))
        bench.check("ready", bench["bytes__ready"], 0)
        bench.check("sequence", bench["sequence"], i)
        # Some of the payload may be left when the request is released.
        wanted = int(bench.rng.integers(len(body) + 1))
        got = bytes(await payload.take(wanted))
        bench.check("payload", got, body[:wanted])
        await release(bench)
        payload.taken.clear()
    await sending
