"""The link between a byte stream and a core that this bench plays: requests are executed once."""

from __future__ import annotations

from collections import deque

import cocotb
import numpy as np

from reticent.layout import Space, address
from reticent.link.pixels import decode_frame, encode_frame, split_frame
from reticent.link.protocol import (
    FINAL,
    LINK_WORDS,
    REPLY_EXTRA,
    REQUEST_EXTRA,
    Hello,
    LinkWord,
    Reply,
    Request,
    Status,
    check_runs,
    digest,
    encode_request,
    link_address,
    parse_reply,
    read_payload,
    write_runs,
)
from reticent_sim.bench import REPLY_BYTES, REQUEST_BYTES, UART

from .common import CONFIG, Bench, Pace, Sink, Source, bench_test
from .tb_replier import packet

PATIENCE = 1 << 10  # cycles, as the block is built


class Host:
    """Sends requests, takes replies; the core's streams are answered by `core`."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.source = Source(bench, "received", Pace(bench.rng))
        self.sink = Sink(bench, "sent", Pace(bench.rng))
        self.commands = Sink(bench, "commands", Pace(bench.rng))
        self.pixels = Sink(bench, "pixels", Pace(bench.rng))
        self.replies = Source(bench, "replies", Pace(bench.rng))
        self.results = Source(bench, "results", Pace(bench.rng))
        self.memory: dict[int, int] = {}
        self.writes: list[tuple[int, int]] = []
        self.sequence = int(bench.rng.integers(1 << 32))
        cocotb.start_soon(self.core())

    async def core(self) -> None:
        """Executes commands on a dictionary."""
        while True:
            command = await self.commands.next()
            where = address(command["space"], command["index"], command["lane"])
            if command["write"]:
                self.memory[where] = command["data"]
                self.writes.append((where, command["data"]))
            else:
                await self.replies.send([self.memory.get(where, 0)])

    def vary(self) -> None:
        """Other stalls on every stream."""
        for end in (self.source, self.sink, self.commands, self.pixels, self.replies, self.results):
            end.pace = Pace(self.bench.rng)

    async def reply(self) -> Reply:
        found = parse_reply(await packet(self.bench, self.sink))
        if found is None:
            self.bench.fail("a damaged reply")
        return found

    async def ask(self, kind: int, payload: bytes = b"", *, sequence: int | None = None) -> Reply:
        """A request and its reply; by default with the next sequence number."""
        if sequence is None:
            self.sequence = sequence = self.sequence + 1 & 0xFFFFFFFF
        await self.source.send(encode_request(kind, sequence, payload))
        reply = await self.reply()
        self.bench.check("reply's kind, sequence", reply[:2], (kind, sequence))
        return reply

    async def good(self, kind: int, payload: bytes = b"") -> bytes:
        reply = await self.ask(kind, payload)
        self.bench.check("status", Status(reply.status), Status.OK)
        return reply.payload

    async def hello(self) -> Hello:
        words = np.frombuffer(await self.good(Request.HELLO), "<u4").tolist()
        self.bench.check("words", len(words), LINK_WORDS)
        return Hello.from_words(words)

    async def word(self, word: int) -> int:
        payload = read_payload(link_address(word), 1)
        return int.from_bytes(await self.good(Request.READ, payload), "little")


async def begin(dut) -> Host:
    return Host(await Bench.start(dut))


@bench_test
async def it_says_what_it_is(dut):
    host = await begin(dut)
    hello = await host.hello()
    check = host.bench.check
    check("config", hello.config, CONFIG)
    check("name", hello.name, "bench")
    check("clock, baud", (hello.clock, hello.baud), UART)
    check("buffers", (hello.request_bytes, hello.reply_bytes), (REQUEST_BYTES, REPLY_BYTES))
    # A simulation goes on from test to test, and resets do not clear the boot count.
    check("booted", hello.boot > 0, True)
    check("tag", hello.tag, bytes(16))
    check("received", hello.counters["received"], 1)
    check("session", host.bench["session"], 1)


@bench_test
async def words_are_written_and_read(dut):
    """Runs of all widths over several requests; the digest says what the core took."""
    host = await begin(dut)
    await host.hello()
    rng = host.bench.rng
    for _ in range(6):
        host.vary()
        starts = rng.integers(0, 1 << 20, 6)
        lengths = rng.integers(1, 60, 6)
        lane, space = rng.integers(0, 60, 6), rng.integers(0, 9, 6)
        runs = [address(int(s), np.arange(i, i + n), int(lane))
                for s, i, n, lane in zip(space, starts, lengths, lane, strict=True)]  # fmt: skip
        addresses = np.concatenate(runs).astype(np.uint32)
        tops = np.concatenate([np.full(n, 1 << 8 * int(rng.integers(1, 5))) for n in lengths])
        data = (rng.integers(0, 1 << 32, len(tops)) % tops).astype(np.uint32)
        host.writes.clear()
        at = 0
        for payload, count in write_runs(addresses, data, REQUEST_BYTES - REQUEST_EXTRA):
            reply = await host.good(Request.WRITE, payload)
            expected = digest(addresses[at : at + count], data[at : at + count])
            host.bench.check("digest", int.from_bytes(reply, "little"), expected)
            at += count
        wanted = list(zip(addresses.tolist(), data.tolist(), strict=True))
        host.bench.check("writes", host.writes, wanted)
        for run in runs:
            words = await host.good(Request.READ, read_payload(int(run[0]), len(run)))
            expected = [host.memory[int(a)] for a in run]
            host.bench.check("words", np.frombuffer(words, "<u4").tolist(), expected)
        # One wrong word, and the digest of what is read tells.
        for _ in range(2):
            at = 0
            held = np.array([host.memory[int(a)] for a in addresses], np.uint32)
            for payload, count in check_runs(addresses, 40, int(rng.integers(1, 99))):
                reply = await host.good(Request.CHECK, payload)
                expected = digest(addresses[at : at + count], held[at : at + count])
                host.bench.check("checked", int.from_bytes(reply, "little"), expected)
                at += count
            host.bench.check("words checked", at, len(addresses))
            host.memory[int(rng.choice(addresses))] ^= 1 << int(rng.integers(32))


@bench_test
async def a_request_is_executed_once(dut):
    """Repeated it is answered from memory; older and later ones are dropped and counted."""
    host = await begin(dut)
    await host.hello()
    rng = host.bench.rng
    repeats = strays = 0
    for value in range(12):
        host.vary()
        where = np.array([address(Space.REGISTER, 16)], np.uint32)
        ((payload, _),) = write_runs(where, np.array([value], np.uint32), 99)
        host.writes.clear()
        first = await host.ask(Request.WRITE, payload)
        for _ in range(int(rng.integers(3))):
            again = await host.ask(Request.WRITE, payload, sequence=host.sequence)
            host.bench.check("reply", again, first)
            repeats += 1
        if rng.random() < 0.5:
            off = int(rng.choice([-2, -3, 2, 3, 1000, 1 << 31]))
            stray = encode_request(Request.WRITE, host.sequence + off & 0xFFFFFFFF, payload)
            await host.source.send(stray)
            strays += 1
        host.bench.check("writes", host.writes, [(int(where[0]), value)])
    host.bench.check("repeated", await host.word(LinkWord.REPEATED), repeats)
    host.bench.check("stray", await host.word(LinkWord.STRAY), strays)


@bench_test
async def frames_become_pixels(dut):
    """Values, skips, rests of rows, in several parts; the result comes back."""
    host = await begin(dut)
    await host.hello()
    rng = host.bench.rng
    rows, width = 13, 70
    before = None
    for step in range(7):
        host.vary()
        colours = int(rng.choice([1, 2, 256]))  # few make runs of equal bytes
        frame = rng.integers(0, colours, (rows, width)).astype(np.uint8)
        if before is not None:
            keep = rng.random((rows, 1)) < 0.5 if step % 2 else rng.random(frame.shape) < 0.9
            frame = np.where(keep, before, frame)
        tokens = encode_frame(frame, before)
        host.bench.check(
            "code", decode_frame(b"".join(tokens), frame.shape, before).tolist(), frame.tolist()
        )
        *parts, last = split_frame(tokens, int(rng.integers(200, REQUEST_BYTES - 20)))
        for part in parts:
            host.bench.check("reply", await host.good(Request.FRAME, bytes([0]) + part), b"")
        answer = rng.integers(0, 1 << 32, int(rng.integers(1, 30))).tolist()
        sending = cocotb.start_soon(
            host.results.send(
                {"data": word, "last": i == len(answer) - 1} for i, word in enumerate(answer)
            )
        )
        reply = await host.good(Request.FRAME, bytes([FINAL]) + last)
        await sending
        host.bench.check("result", np.frombuffer(reply, "<u4").tolist(), answer)
        got, at = [], 0
        old = before.reshape(-1).tolist() if before is not None else []
        while host.pixels.taken:
            pixel = host.pixels.taken.popleft()
            if pixel["same"] and pixel["rest"]:
                count = width - at % width
            else:
                count = 1
            got += old[at : at + count] if pixel["same"] else [pixel["value"]]
            at += count
        host.bench.check("pixels", got, frame.reshape(-1).tolist())
        before = frame


@bench_test
async def a_reset_is_not_missed(dut):
    """Whatever went on: nothing is executed before HELLO, and the boot count is up."""
    host = await begin(dut)
    before = (await host.hello()).boot
    for boot in range(before, before + 4):
        hello = await host.hello()
        host.bench.check("boot", hello.boot, boot)
        where = np.array([address(Space.REGISTER, 16)], np.uint32)
        ((payload, _),) = write_runs(where, where, 99)
        host.writes.clear()
        # Reset in the middle of a request.
        sending = cocotb.start_soon(
            host.source.send(encode_request(Request.WRITE, host.sequence + 1 & 0xFFFFFFFF, payload))
        )
        await host.bench.cycles(int(host.bench.rng.integers(1, 15)))
        sending.cancel()
        host.source.withdraw()
        await host.bench.reset()
        await host.source.send(b"\0")
        reply = await host.ask(Request.WRITE, payload)
        host.bench.check("status", reply.status, Status.NO_SESSION)
        host.bench.check("writes", host.writes, [])


@bench_test
async def the_tag_tells_what_the_memories_hold(dut):
    """Written by the host; cleared when a memory is written, kept when a register is."""
    host = await begin(dut)
    await host.hello()
    rng = host.bench.rng
    for space, keeps in ((Space.REGISTER, True), (Space.WEIGHT, False), (Space.POINTER, False)):
        tag = rng.integers(1, 1 << 32, 4).astype(np.uint32)
        where = np.array([link_address(LinkWord.TAG + i) for i in range(4)], np.uint32)
        ((payload, _),) = write_runs(where, tag, 99)
        await host.good(Request.WRITE, payload)
        host.bench.check("core's commands", len(host.commands.taken), 0)
        ask = read_payload(int(where[0]), 4)
        got = np.frombuffer(await host.good(Request.READ, ask), "<u4").tolist()
        host.bench.check("tag", got, tag.tolist())
        ((payload, _),) = write_runs(np.array([address(space, 3)], np.uint32), tag[:1], 99)
        await host.good(Request.WRITE, payload)
        got = np.frombuffer(await host.good(Request.READ, ask), "<u4").tolist()
        host.bench.check("tag afterwards", got, tag.tolist() if keeps else [0] * 4)


@bench_test
async def a_stuck_core_is_reset(dut):
    """No answer in time: the driver is told, the core and the session are reset."""
    host = await begin(dut)
    before = (await host.hello()).boot
    resets = []

    async def watch():
        while True:
            await host.bench.edge
            if host.bench["core_reset"]:
                resets.append(host.bench.cycle)

    cocotb.start_soon(watch())
    where = np.array([address(Space.REGISTER, 16)], np.uint32)
    ((write, _),) = write_runs(where, where, 99)
    frame = bytes([FINAL, 0x80, 7])
    for number, (kind, payload) in enumerate(
        [(Request.WRITE, write), (Request.FRAME, frame), (Request.FRAME, frame)]
    ):
        await host.hello()
        stuck = number == 0 or number == 2
        held = host.commands if kind == Request.WRITE else host.pixels
        host.commands.strict = host.pixels.strict = False
        held.pace = (lambda: True) if stuck else Pace(host.bench.rng, kind=0)
        await host.bench.cycles(2)
        began = host.bench.cycle
        reply = await host.ask(kind, payload)
        host.bench.check("status", reply.status, Status.NO_ANSWER)
        if not PATIENCE <= host.bench.cycle - began < 2 * PATIENCE + 4000:
            host.bench.fail(f"patience ended after {host.bench.cycle - began} cycles")
        host.bench.check("resets", len(resets), number + 1)
        host.bench.check("session", host.bench["session"], 0)
        held.pace = Pace(host.bench.rng, kind=0)
        reply = await host.ask(kind, payload)
        host.bench.check("status", reply.status, Status.NO_SESSION)
    hello = await host.hello()
    host.bench.check("boot", hello.boot, before + 3)
    host.bench.check("stuck", hello.counters["stuck"], 3)


@bench_test
async def bad_requests_are_refused(dut):
    """Unknown kinds, payloads that end too early, replies that are too long; then all goes on."""
    host = await begin(dut)
    await host.hello()
    where = np.array([address(Space.WEIGHT, 1)], np.uint32)
    ((write, _),) = write_runs(where, where, 99)
    cases = deque(
        [
            (0, b"", Status.UNKNOWN),
            (6, b"abc", Status.UNKNOWN),
            (Request.READ, read_payload(0, 1)[:-1], Status.MALFORMED),
            (Request.READ, b"", Status.MALFORMED),
            (Request.CHECK, b"", Status.MALFORMED),
            (Request.CHECK, read_payload(0, 1) + b"a", Status.MALFORMED),
            (Request.FRAME, b"", Status.MALFORMED),
            (Request.FRAME, bytes([0, 0x83, 1, 2]), Status.MALFORMED),
            (Request.FRAME, bytes([0, 0xC3]), Status.MALFORMED),
            *((Request.WRITE, write[:n], Status.MALFORMED) for n in range(1, len(write))),
            (Request.WRITE, write[:4] + b"\5\1\0" + bytes(5), Status.MALFORMED),
            (Request.READ, read_payload(0, (REPLY_BYTES - REPLY_EXTRA) // 4 + 1), Status.TOO_LONG),
        ]
    )
    for kind, payload, status in cases:
        host.pixels.taken.clear()
        reply = await host.ask(kind, payload)
        host.bench.check(f"{kind} {payload.hex()}", Status(reply.status), status)
        host.bench.check("payload", reply.payload, b"")
    host.memory[address(Space.REGISTER, 3)] = 77
    words = await host.good(Request.READ, read_payload(address(Space.REGISTER, 3), 1))
    host.bench.check("word", int.from_bytes(words, "little"), 77)
    most = (REPLY_BYTES - REPLY_EXTRA) // 4
    words = await host.good(Request.READ, read_payload(0, most))
    host.bench.check("words", len(words), 4 * most)
