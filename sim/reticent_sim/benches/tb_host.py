"""The command port: registers, memories, replies in order, and who may run when."""

from __future__ import annotations

import zlib
from collections import deque
from dataclasses import dataclass

import cocotb
import numpy as np

from reticent.layout import (
    COPY_SHIFT,
    DEVICE_ID,
    DEVICE_VERSION,
    INDEX_BITS,
    LOADED,
    SPACE_SHIFT,
    WORD_BITS,
    Register,
    Space,
    row_fields,
    row_words,
    word_index_bits,
)
from reticent_hw.host import ANSWER_LATENCY, READ_CYCLES
from reticent_hw.interfaces import LOAD_CHAIN

from .common import CONFIG, Bench, Pace, Sink, Source, bench_test

COMMANDS = 1200
EFFECT = 3  # cycles from the decision about a command until its effect is seen
ROWS = 16  # of each memory that commands go to
LANES = range(1 << (SPACE_SHIFT - 22))  # as an address names them: most do not exist
WORD = (1 << WORD_BITS) - 1

STATES = (Space.STATE_EVEN, Space.STATE_ODD)
TABLES = {Space.LAYER: "layer_row", Space.ROW: "row_row", Space.COLUMN: "column_row"}
SETTINGS = {  # and their widths
    Register.LAYERS: CONFIG.layers.bit_length(),
    Register.OUTPUTS: (CONFIG.channel_depth * CONFIG.lanes).bit_length(),
    Register.HEIGHT: CONFIG.position_bits + 1,
    Register.WIDTH: CONFIG.position_bits + 1,
    Register.CHANNELS: 8,
    Register.STACK: CONFIG.stack.bit_length(),
    Register.REPEAT_FIRST: 1,
} | {Register.THRESHOLD + i: 8 for i in range(CONFIG.layers)}
CONSTANTS = {
    Register.ID: DEVICE_ID,
    Register.VERSION: DEVICE_VERSION,
    Register.BUILD_HASH: CONFIG.hash,
}


@dataclass
class Command:
    space: int
    index: int
    lane: int = 0
    data: int = 0
    write: int = 0

    def waits(self) -> bool:
        """Whether it waits while a frame is being worked on."""
        if self.space != Space.REGISTER:
            return True
        return bool(self.write) and self.index != Register.RESTART


class Model:
    """What commands must do: replies, rows on the load bus, pulses."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.settings = dict.fromkeys(SETTINGS, 0)
        self.words: dict[int, int] = {}  # of the row that is being collected
        self.replies: list[int] = []
        self.loads: list[tuple[int, int, int, int]] = []  # space, lane, row, bits
        self.restarts = 0
        self.changed = [0] * CONFIG.layers
        self.salt = int(rng.integers(1 << 30))

    def row(self, space: int, lane: int, copy: int, row: int) -> int:
        """The bits of a row of a memory: random ones that follow from its place."""
        width = sum(bits for _, bits, _ in row_fields(CONFIG, Space(space)))
        lane = 0 if space in TABLES else lane
        place = f"{self.salt} {space} {lane} {copy} {row} "
        words = [zlib.crc32(f"{place}{i}".encode()) for i in range(4)]
        return sum(word << 32 * i for i, word in enumerate(words)) & ((1 << width) - 1)

    def execute(self, command: Command) -> None:
        """One command by the definition."""
        if command.write:
            self._write(command)
        elif command.space == Space.REGISTER:
            known = CONSTANTS | self.settings
            self.replies.append(known.get(command.index, 0))
        else:
            self.replies.append(self._word(command))

    def _word(self, command: Command) -> int:
        space, lane = command.space, command.lane
        if space not in (*LOADED, *STATES) or (space not in TABLES and lane >= CONFIG.lanes):
            return 0
        copy, index = divmod(command.index, 1 << COPY_SHIFT)
        row, word = divmod(index, 1 << word_index_bits(CONFIG, Space(space)))
        bits = self.row(space, lane, copy % max(2, CONFIG.streams), row)
        if space in STATES:
            width = CONFIG.accumulator_bits
            acc, sent = bits & (1 << width) - 1, bits >> width
            return sent if word else (acc | -(acc >> width - 1) << width) & WORD
        return bits >> WORD_BITS * word & WORD

    def _write(self, command: Command) -> None:
        index, data = command.index, command.data
        if command.space == Space.REGISTER:
            self.restarts += index == Register.RESTART
            if index in self.settings:
                self.settings[index] = data & ((1 << SETTINGS[index]) - 1)
            if 0 <= index - Register.THRESHOLD < CONFIG.layers:
                self.changed[index - Register.THRESHOLD] += 1
        elif command.space in LOADED:
            row, word = divmod(index, 1 << word_index_bits(CONFIG, command.space))
            self.words[word] = data
            if word == row_words(CONFIG, command.space) - 1:
                bits = sum(value << (WORD_BITS * i) for i, value in self.words.items())
                width = sum(bits for _, bits, _ in row_fields(CONFIG, command.space))
                self.loads.append((command.space, command.lane, row, bits & ((1 << width) - 1)))
                self.words.clear()


class Monitor:
    """Everything around the port: memories, `free`, and what leaves on load bus and pulses."""

    def __init__(self, bench: Bench, model: Model) -> None:
        self.bench, self.model = bench, model
        self.loads: list[tuple[int, int, int, int]] = []
        self.restarts = 0
        self.changed = [0] * CONFIG.layers
        self.free = lambda: True
        self.was_free: deque[bool] = deque([True] * EFFECT, maxlen=EFFECT)
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        bench, model = self.bench, self.model
        widths = {s: sum(bits for _, bits, _ in row_fields(CONFIG, s)) for s in LOADED}
        reads = deque([(0, 0, 0, 0)] * (ANSWER_LATENCY - 1))
        while True:
            await bench.edge
            if bench["load__valid"]:
                space, bits = bench["load__space"], bench["load__data"]
                bits &= (1 << widths[space]) - 1
                self.loads.append((space, bench["load__lane"], bench["load__row"], bits))
            self.restarts += bench["restart"]
            changed = bench["changed"]
            for i in range(CONFIG.layers):
                self.changed[i] += changed >> i & 1
            # What leaves now was decided EFFECT - 1 cycles before.
            if (bench["load__valid"] or changed) and not self.was_free[0]:
                bench.fail("a write took effect in the middle of a frame")
            # The row stands there ANSWER_LATENCY cycles later.
            reads.append(tuple(bench[f"load__{m}"] for m in ("space", "lane", "copy", "row")))
            space, lane, copy, row = reads.popleft()
            for table, name in TABLES.items():
                bench.ports[name].bits = model.row(table, 0, copy, row)
            for i, first in enumerate(range(0, CONFIG.lanes, LOAD_CHAIN)):
                here = lane in range(first, min(first + LOAD_CHAIN, CONFIG.lanes))
                here = here and space >= Space.POINTER and space in set(Space)
                bench[f"answers__{i}"] = model.row(space, lane, copy, row) if here else 0
            free = self.free()
            bench["free"] = free
            self.was_free.append(free)

    def check(self) -> None:
        """Compare with the model."""
        bench, model = self.bench, self.model
        bench.check("rows loaded", self.loads, model.loads)
        bench.check("restarts", self.restarts, model.restarts)
        bench.check("thresholds changed", self.changed, model.changed)
        for register, value in model.settings.items():
            i = register - Register.THRESHOLD
            name = f"thresholds__{i}" if i >= 0 else Register(register).name.lower()
            bench.check(name, bench[name], value)


def random_command(rng: np.random.Generator) -> list[Command]:
    """One command, or the writes of one row with something else between them."""
    kind = rng.integers(8)
    data, lane = int(rng.integers(WORD + 1)), int(rng.choice(LANES))
    register = int(rng.choice([*Register, *SETTINGS, 7, Register.THRESHOLD + CONFIG.layers, 999]))
    if kind < 2:  # STATUS depends on the moment: it has a test of its own
        register = 7 if register == Register.STATUS else register
        return [Command(Space.REGISTER, register)]
    if kind < 4:
        return [Command(Space.REGISTER, register, data=data, write=1)]
    if kind == 4:
        space = int(rng.choice([*LOADED, *STATES]))
        lane = int(rng.choice([lane, rng.integers(CONFIG.lanes)]))
        index = int(rng.integers(1 << int(rng.integers(1, INDEX_BITS + 1))))
        return [Command(space, index, lane)]
    if kind == 5:  # nothing to read or to write there
        space, write = rng.choice([[9, 0], [15, 1], [Space.STATE_ODD, 1], [14, 0]])
        return [Command(int(space), int(rng.integers(ROWS)), lane, data, int(write))]
    space = Space(int(rng.choice(LOADED)))
    row = int(rng.integers(ROWS)) << word_index_bits(CONFIG, space)
    found = []
    for word in range(row_words(CONFIG, space)):
        data = int(rng.integers(WORD + 1))
        if rng.random() < 0.2:
            found += [Command(Space.REGISTER, int(Register.ID))]
            found += [Command(Space.REGISTER, int(Register.WIDTH), data=data, write=1)]
        found.append(Command(space, row + word, lane, data, write=1))
    return found


@bench_test
async def commands_do_what_the_layout_says(dut):
    """Random commands, with frames (not `free`) coming and going and stalls on both streams."""
    bench = await Bench.start(dut)
    model = Model(bench.rng)
    monitor = Monitor(bench, model)
    busy = Pace(bench.rng, kind=3)
    monitor.free = lambda: not busy()
    source = Source(bench, "commands", Pace(bench.rng))
    replies = Sink(bench, "replies", Pace(bench.rng))
    sent = 0
    while sent < COMMANDS:
        commands = random_command(bench.rng)
        sent += len(commands)
        if bench.rng.random() < 0.05:
            source.pace, replies.pace = Pace(bench.rng), Pace(bench.rng)
        for command in commands:
            model.execute(command)
        await source.send(vars(command) for command in commands)
    got = await replies.take(len(model.replies))
    await bench.cycles(100)  # a write may still wait
    for i, (value, expected) in enumerate(zip(got, model.replies, strict=True)):
        bench.check(f"reply {i}", value, expected)
    bench.check("replies too many", list(replies.taken), [])
    monitor.check()


@bench_test
async def only_restarts_and_register_reads_run_in_a_frame(dut):
    bench = await Bench.start(dut)
    model = Model(bench.rng)
    monitor = Monitor(bench, model)
    source = Source(bench, "commands", Pace(bench.rng, kind=0))
    replies = Sink(bench, "replies", Pace(bench.rng, kind=0))
    monitor.free = lambda: False
    at_once = [
        Command(Space.REGISTER, Register.BUILD_HASH),
        Command(Space.REGISTER, Register.RESTART, write=1),
        Command(Space.REGISTER, Register.WIDTH),
    ]
    for command in at_once:
        model.execute(command)
    await source.send(vars(command) for command in at_once)
    await bench.cycles(READ_CYCLES + 2)
    bench.check("replies in a frame", list(replies.taken), model.replies)
    bench.check("restarts in a frame", monitor.restarts, 1)
    later = [
        Command(Space.REGISTER, Register.WIDTH, data=5, write=1),
        Command(Space.REGISTER, Register.THRESHOLD, data=9, write=1),
        Command(Space.CHANNEL, 0, data=77, write=1),
        Command(Space.STATE_EVEN, 3),
    ]
    for command in later:
        monitor.free = lambda: False
        await bench.cycles(2)
        replies.taken.clear()
        sending = cocotb.start_soon(source.send([vars(command)]))
        await bench.cycles(40)
        monitor.check()  # nothing happened
        bench.check("replies in a frame", list(replies.taken), [])
        bench.check("executing in a frame", bench["executing"], 0)
        model.execute(command)
        monitor.free = lambda: True
        await sending
        await bench.cycles(READ_CYCLES + 2)
        monitor.check()
    bench.check("the state's reply", list(replies.taken), model.replies[-1:])


@bench_test
async def status_says_what_goes_on(dut):
    """Bit 0: a frame is being worked on; bit 1: initialising."""
    bench = await Bench.start(dut)
    source = Source(bench, "commands", Pace(bench.rng, kind=0))
    replies = Sink(bench, "replies", Pace(bench.rng, kind=0))
    for free, initialising, expected in ((1, 0, 0), (0, 0, 1), (0, 1, 2)):
        bench["free"], bench["initialising"] = free, initialising
        await source.send([vars(Command(Space.REGISTER, Register.STATUS))])
        bench.check(f"status, free {free}", await replies.next(), expected)


@bench_test
async def writes_take_one_cycle_and_reads_some(dut):
    bench = await Bench.start(dut)
    bench["free"] = 1
    source = Source(bench, "commands", Pace(bench.rng, kind=0))
    replies = Sink(bench, "replies", Pace(bench.rng, kind=0))
    for write, cycles in ((1, 1), (0, READ_CYCLES)):
        began = bench.cycle
        await source.send([vars(Command(Space.REGISTER, Register.WIDTH, 0, 5, write))] * 50)
        if not write:
            await replies.take(50)
        spent = bench.cycle - began
        if not 50 * cycles <= spent <= 50 * cycles + 5:
            bench.fail(f"50 commands (write {write}) took {spent} cycles, expected {50 * cycles}")


@bench_test
async def a_frame_waits_for_a_command_that_waits_for_its_turn(dut):
    """A write behind a read whose reply is not taken is `executing` until it has taken effect."""
    bench = await Bench.start(dut)
    bench["free"] = 1
    source = Source(bench, "commands", Pace(bench.rng, kind=0))
    held = [True]
    replies = Sink(bench, "replies", lambda: held[0])
    read = Command(Space.REGISTER, Register.ID)
    write = Command(Space.REGISTER, Register.THRESHOLD, data=77, write=1)
    await source.send([vars(read), vars(write)])
    for _ in range(20):
        await bench.edge
        bench.check("executing", bench["executing"], 1)
        bench.check("threshold", bench["thresholds__0"], 0)
    held[0] = False
    bench.check("ID", await replies.next(), DEVICE_ID)
    await bench.until(lambda: not bench["executing"])
    await bench.edge
    bench.check("threshold", bench["thresholds__0"], 77)
