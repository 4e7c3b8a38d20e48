"""The whole core against the golden model, driven by the driver itself (`reticent.accelerator`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import cocotb
import numpy as np
from cocotb.task import bridge, resume

from reticent.accelerator import Accelerator
from reticent.backend import StepResult
from reticent.compiler import compile_network
from reticent.errors import UserError
from reticent.fold import FOLDS
from reticent.golden import Golden
from reticent.image import Image
from reticent.layout import Register, Space, address
from reticent.network import Dense, Flatten, InputSpec, Network
from reticent.quantise import QuantisedNetwork, quantise
from reticent.random_networks import Limits, random_frames, random_network

from .common import CONFIG, Bench, Pace, Sink, Source, beats, bench_test

LIMITS = Limits(
    input_size=min(10, CONFIG.map_rows),
    stack=CONFIG.stack,
    frame_channels=2,
    layers=min(4, CONFIG.layers),
    map_size=min(CONFIG.map_rows, CONFIG.map_columns),
    channels=3 * CONFIG.lanes,
    neurons=CONFIG.lanes * 64,
    weights=400,
    kernel=6,
    multiplier_bits=CONFIG.multiplier_bits,
    accumulator_bits=CONFIG.accumulator_bits,
)

Words = np.ndarray


class BenchTransport:
    """The driver's transport over the core's four streams, with random stalls on each."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.commands, self.pixels = (
            Source(bench, name, Pace(bench.rng)) for name in ("commands", "pixels")
        )
        self.replies, self.results = (
            Sink(bench, name, Pace(bench.rng)) for name in ("replies", "results")
        )
        self._before: Words | None = None  # the last frame; None: values must follow
        self.sends_frames = True

    def vary(self) -> None:
        """Draw new paces."""
        for stream in (self.commands, self.pixels, self.replies, self.results):
            stream.pace = Pace(self._bench.rng)

    # What the driver calls; these block, and run beside the simulation through `bridge`.

    def write(self, addresses: Words, data: Words) -> None:
        """Execute writes in order."""
        resume(self.send_writes)(zip(addresses.tolist(), data.tolist(), strict=True))

    def read(self, addresses: Words) -> Words:
        """Read words."""
        return np.array(resume(self.ask)(addresses.tolist()), np.uint32)

    def frame(self, pixels: Words, words: int) -> Words:
        """Send one frame and return its result packet."""
        return resume(self.exchange)(pixels, words)

    def close(self) -> None:
        """Nothing to let go of."""

    # The same for coroutines.

    async def send_writes(self, writes: Iterable[tuple[int, int]]) -> None:
        """Write (address, word) pairs."""
        self._before = None
        await self.commands.send(command(where, data, write=1) for where, data in writes)

    async def ask(self, addresses: list[int]) -> list[int]:
        """Read words, sending commands ahead of replies."""
        asking = cocotb.start_soon(self.commands.send(command(where) for where in addresses))
        words = await self.replies.take(len(addresses))
        await asking
        return words

    async def send_frame(self, pixels: Words) -> None:
        """Send a frame's pixels."""
        pixels, before, self._before = pixels.astype(int), self._before, pixels.astype(int)
        await self.pixels.send(beats(self._bench.rng, pixels, before, lazy=0.5))

    async def exchange(self, pixels: Words, words: int) -> Words:
        """Send a frame (unless someone else does), take its result packet."""
        sending = cocotb.start_soon(self.send_frame(pixels)) if self.sends_frames else None
        packet = [await self.results.next()]
        while not packet[-1]["last"]:
            packet.append(await self.results.next())
        if sending:
            await sending
        self._bench.check("words of the result packet", len(packet), words)
        return np.array([word["data"] for word in packet], np.uint32)

    async def restart(self) -> None:
        """What RESTART abandons is abandoned here too."""
        self.results.strict = False
        self.pixels.withdraw()
        for _ in range(int(self._bench.rng.integers(1, 4))):  # also while it initialises
            await self.send_writes([(address(Space.REGISTER, Register.RESTART), 1)])
            await self._bench.cycles(int(self._bench.rng.integers(1, 60)))
        while await self.ask([address(Space.REGISTER, Register.STATUS)]) != [0]:
            pass
        self.results.forget()


def command(where: int, data: int = 0, write: int = 0) -> dict[str, int]:
    """A command stream word."""
    lane, space = where >> 22 & 63, where >> 28
    return {"data": data, "index": where & 0x3FFFFF, "lane": lane, "space": space, "write": write}


class Player:
    """A network on the core beside its golden model."""

    def __init__(self, bench: Bench, transport: BenchTransport) -> None:
        self.bench, self.transport = bench, transport

    async def load(self, network: QuantisedNetwork | None = None) -> None:
        """Load an image: of this network, or of a random one that fits."""
        rng = self.bench.rng
        while True:
            self.number = int(rng.integers(1 << 30))
            self.network = network or random_network(self.number, LIMITS)
            trace = random_frames(self.network, self.number, int(rng.integers(3)))
            fold = [None, *FOLDS][rng.integers(1 + len(FOLDS))] if network is None else None
            try:
                self.image: Image = compile_network(self.network, CONFIG, trace, fold=fold)
                break
            except UserError:
                if network is not None:
                    raise
        self.golden = Golden(self.network)
        self.accelerator = await bridge(Accelerator)("bench", self.transport, self.image)

    def frames(self, count: int) -> list[np.ndarray]:
        """Random scenes."""
        return random_frames(self.network, int(self.bench.rng.integers(1 << 30)), count)

    async def step(self, frame: np.ndarray) -> None:
        """One frame on both; compare everything that the packet says."""
        self.transport.vary()
        self.judge(await bridge(self.accelerator.step)(frame), frame)

    def judge(self, got: StepResult, frame: np.ndarray) -> None:
        """Compare a result with the golden model's, and the counters with themselves."""
        bench, expected = self.bench, self.golden.step(frame)
        folds = [layer.fold for layer in self.image.layers]
        what = f"of network {self.number} folded {folds}"
        bench.check(f"outputs {what}", got.outputs.tolist(), expected.outputs.tolist())
        bench.check(f"events {what}", list(got.events), expected.events)
        bench.check(f"significant {what}", list(got.significant), expected.significant)
        cycles = got.cycles
        lane_cycles = sum(got.significant) + sum(cycles.lost.values())
        bench.check(f"lane-cycles {what}", CONFIG.lanes * cycles.total, lane_cycles)
        if not 0 < sum(cycles.layers) <= cycles.total:
            bench.fail(f"layers took {cycles.layers} of {cycles.total} cycles")

    async def check_accumulators(self) -> None:
        """Read all neurons back."""
        self.transport.vary()
        for i, got in enumerate(await bridge(self.accelerator.accumulators)()):
            wrong = np.argwhere(got != self.golden.acc[i])
            if len(wrong):
                place = tuple(wrong[0].tolist())
                self.bench.fail(
                    f"layer {i} of network {self.number}, neuron {place}: expected accumulator "
                    f"{self.golden.acc[i][place]}, got {got[place]} ({len(wrong)} are wrong)"
                )

    async def check_memories(self) -> None:
        """Read everything back that was loaded."""
        self.transport.vary()
        addresses, data = self.image.contents()
        got = await bridge(self.transport.read)(addresses)
        for where, word, expected in zip(addresses, got, data, strict=True):
            self.bench.check(f"word {where:#010x} of network {self.number}", word, expected)

    async def episode(self, frames: int) -> None:
        """Restart, play, compare everything."""
        self.golden.reset()
        await bridge(self.accelerator.reset)()
        for frame in self.frames(frames):
            await self.step(frame)
        await self.check_accumulators()

    async def set_thresholds(self, choose: Callable[[int], int]) -> None:
        """Change all thresholds on both."""
        counts = [choose(t) for t in self.golden.network.thresholds]
        self.golden.set_thresholds(counts)
        await bridge(self.accelerator.set_thresholds)(counts)


async def begin(dut: Any) -> Player:
    bench = await Bench.start(dut)
    return Player(bench, BenchTransport(bench))


@bench_test
async def every_network_is_exact(dut):
    """Image after image on one build; outputs, events, multiplications, accumulators."""
    player = await begin(dut)
    for _ in range(12):
        player.transport.vary()
        await player.load()
        for frames in (5, 3):
            await player.episode(frames)


@bench_test
async def thresholds_change_between_frames(dut):
    """Raised, lowered, to the limits; neurons that nothing touches must answer to it."""
    player = await begin(dut)
    rng = player.bench.rng
    changes = [
        lambda t: max(0, t - int(rng.integers(1, 10))),
        lambda t: min(255, t + int(rng.integers(1, 60))),
        lambda t: 0,
        lambda t: 255,
        lambda t: t,
        lambda t: int(rng.choice([t, rng.integers(256)])),
    ]
    for _ in range(3):
        await player.load()
        for i in rng.permutation(2 * len(changes)).tolist():
            for frame in player.frames(int(rng.integers(1, 3))):
                await player.step(frame)
            await player.set_thresholds(changes[i % len(changes)])
            await player.step(player.frames(1)[0])
        await player.check_accumulators()


@bench_test
async def memories_are_read_back(dut):
    """Before, between and after frames, which it does not disturb; and what is written is seen."""
    player = await begin(dut)
    rng = player.bench.rng
    for _ in range(3):
        await player.load()
        await player.check_memories()
        for frame in player.frames(3):
            await player.step(frame)
        await player.check_memories()
        for frame in player.frames(2):
            await player.step(frame)
        await player.check_accumulators()
    addresses, data = player.image.contents()
    firsts = np.unique(addresses >> 28, return_index=True)[1]
    for at in firsts[1:].tolist():  # all but LAYER: which rows come last does not matter here
        place, word = int(addresses[at]), int(data[at]) ^ 1 << int(rng.integers(3))
        rest = [
            (int(a), int(d))
            for a, d in zip(addresses[at + 1 : at + 4], data[at + 1 : at + 4], strict=True)
        ]
        await player.transport.send_writes([(place, word), *rest])
        player.bench.check(f"{place:#010x}", await player.transport.ask([place]), [word])


async def abandon(player: Player) -> None:
    """Play a frame, then send another one and lose interest at some moment of it."""
    bench, transport = player.bench, player.transport
    began = bench.cycle
    await player.step(player.frames(1)[0])
    longest = bench.cycle - began
    frame = player.frames(1)[0]
    sending = cocotb.start_soon(transport.send_frame(frame.reshape(len(frame), -1)))
    await bench.cycles(int(bench.rng.integers(1, longest + 1)))
    sending.cancel()
    transport.pixels.withdraw()


@bench_test
async def restart_at_any_moment(dut):
    """RESTART in the middle of a frame, at a random point of its pixels, layers or results."""
    player = await begin(dut)
    for _ in range(4):
        await player.load()
        for _ in range(5):
            await abandon(player)
            await player.transport.restart()
            player.golden.reset()
            for frame in player.frames(2):
                await player.step(frame)
        await player.check_accumulators()


@bench_test
async def reset_at_any_moment(dut):
    """The same through the pin; the image is loaded anew."""
    player = await begin(dut)
    for _ in range(8):
        await player.load()
        await abandon(player)
        await player.bench.reset()
        await player.load(player.network)
        await player.episode(2)


@bench_test
async def commands_wait_for_the_end_of_a_frame(dut):
    """Thresholds written and neurons read in a frame wait for its end; registers answer at once."""
    player = await begin(dut)
    bench, transport = player.bench, player.transport
    for _ in range(6):
        await player.load()
        await player.step(player.frames(1)[0])
        transport.vary()
        frame = player.frames(1)[0]
        transport.commands.pace = transport.replies.pace = Pace(bench.rng, kind=0)
        stepping = cocotb.start_soon(bridge(player.accelerator.step)(frame))
        await bench.until(lambda: bench["pixels__valid"] and bench["pixels__ready"])
        await bench.cycles(int(bench.rng.integers(20)))
        registers = [Register.STATUS, Register.THRESHOLD]
        status, threshold = await transport.ask([address(Space.REGISTER, r) for r in registers])
        bench.check("the frame is over", stepping.done(), False)
        bench.check("status in a frame", status, 1)
        bench.check("threshold", threshold, player.golden.network.input_threshold)
        # These wait: the frame is answered with the old thresholds, and before the reading is.
        reading = cocotb.start_soon(bridge(player.accelerator.accumulators)())
        player.judge(await stepping, frame)
        for i, got in enumerate(await reading):
            bench.check(f"accumulators {i}", got.tolist(), player.golden.acc[i].tolist())
        stepping = cocotb.start_soon(bridge(player.accelerator.step)(frame))
        await bench.until(lambda: bench["pixels__valid"] and bench["pixels__ready"])
        counts = [int(t) for t in bench.rng.integers(0, 40, len(player.network.layers))]
        writing = cocotb.start_soon(bridge(player.accelerator.set_thresholds)(counts))
        player.judge(await stepping, frame)
        await writing
        player.golden.set_thresholds(counts)
        for frame in player.frames(2):
            await player.step(frame)
        await player.check_accumulators()


@bench_test
async def a_frame_waits_for_commands_before_it(dut):
    """A threshold that was accepted before the first pixel holds for that frame, although a reply
    before it is not taken for long."""
    player = await begin(dut)
    bench, transport = player.bench, player.transport
    await player.load()
    await player.set_thresholds(lambda t: 0)
    await player.step(player.frames(1)[0])
    held = [True]
    transport.replies.pace = lambda: held[0]
    await transport.commands.send([command(address(Space.REGISTER, Register.ID))])
    counts = [90] + [0] * (len(player.network.layers) - 1)
    player.golden.set_thresholds(counts)
    await transport.send_writes([(address(Space.REGISTER, Register.THRESHOLD), 90)])
    frame = player.frames(1)[0]
    stepping = cocotb.start_soon(bridge(player.accelerator.step)(frame))
    await bench.cycles(100)
    held[0] = False
    player.judge(await stepping, frame)


@bench_test
async def frames_queue_up_before_the_core(dut):
    """The pixels of many frames wait at the port; every frame still gets its own packet."""
    player = await begin(dut)
    for _ in range(3):
        await player.load()
        frames, transport = player.frames(8), player.transport
        transport.vary()
        transport.sends_frames = False

        async def send(frames=frames, transport=transport):
            for frame in frames:
                await transport.send_frame(frame.reshape(len(frame), -1))

        sending = cocotb.start_soon(send())
        for frame in frames:
            player.judge(await bridge(player.accelerator.step)(frame), frame)
        await sending
        transport.sends_frames = True
        await player.check_accumulators()


@bench_test
async def unknown_addresses_do_no_harm(dut):
    """They read as zero, and writing to them changes nothing."""
    player = await begin(dut)
    await player.load()
    await player.step(player.frames(1)[0])
    lane = CONFIG.lanes
    unknown = [
        address(Space.REGISTER, 7),
        address(Space.REGISTER, Register.THRESHOLD + CONFIG.layers),
        address(9, 0),
        address(15, 3),
        *(address(space, 0, lane) for space in (Space.POINTER, Space.WEIGHT, Space.CHANNEL)),
        address(Space.STATE_EVEN, 0, lane),
        address(Space.STATE_ODD, 1, 63),
    ]
    read_only = [address(Space.REGISTER, r) for r in (Register.ID, Register.STATUS)]
    read_only += [address(Space.STATE_EVEN, 0), address(Space.STATE_ODD, 0)]
    await player.transport.send_writes((where, 0xFFFFFFFF) for where in unknown + read_only)
    player.bench.check("unknown", await player.transport.ask(unknown), [0] * len(unknown))
    await player.check_accumulators()
    for frame in player.frames(3):
        await player.step(frame)


@bench_test
async def as_many_outputs_as_channels(dut):
    """One layer whose outputs fill every channel of every lane."""
    player = await begin(dut)
    outputs = CONFIG.lanes * CONFIG.channel_depth
    rng = player.bench.rng
    dense = Dense(
        name="out",
        weight=rng.normal(size=(outputs, 4)).astype(np.float32),
        bias=rng.normal(size=outputs).astype(np.float32),
        activation="identity",
    )
    spec = InputSpec(height=2, width=2, stack=1)
    await player.load(quantise(Network(input=spec, layers=(Flatten(), dense)), [], thresholds=0))
    await player.episode(4)
