"""The command port: registers, loading of memories, reading of memories and neurons."""

import operator
from functools import reduce

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from reticent.config import BuildConfig
from reticent.layout import (
    COPY_SHIFT,
    DEVICE_ID,
    DEVICE_VERSION,
    LOADED,
    THRESHOLD_BITS,
    WORD_BITS,
    Register,
    Space,
    row_words,
    word_index_bits,
)

from .interfaces import LOAD_CHAIN, LoadSignature, answer_bits, command_stream, row_layout

__all__ = ["ANSWER_LATENCY", "READ_CYCLES", "HostPort"]

ANSWER_LATENCY = 7 + LOAD_CHAIN  # cycles from a row on the load bus to the answer
READ_CYCLES = ANSWER_LATENCY + 5  # from the acceptance of a read to that of the next command


class HostPort(wiring.Component):
    """Executes commands: one write a cycle, one read every `READ_CYCLES` cycles.

    While a frame is being worked on only restarts and register reads are taken; everything else
    waits. Registers, spaces and lanes that do not exist read as zero, writes to them do nothing;
    whether a memory has a row is not checked.

    Members
    -------
    commands, replies : see `layout.Space` and `layout.Register`
    load : rows to the memories, and the row that is read
    settings... : the network's registers, stable
    thresholds : T_q on the input of each layer; `changed` marks those that are being written
    restart : abandon everything and initialise; one cycle
    executing : a command takes effect, or will before the next frame; the first pixel of a frame
        waits for it
    free : no frame is in progress, and the neurons are initialised
    layer_row, row_row, column_row, answers : the row that `load` names, in the tables and in each
        `LOAD_CHAIN` lanes (zero in all but one), `ANSWER_LATENCY` cycles later
    """

    def __init__(self, config: BuildConfig):
        self._config = config
        c = config
        self.settings = {
            Register.LAYERS: range(c.layers + 1),
            Register.OUTPUTS: range(c.channel_depth * c.lanes + 1),
            Register.HEIGHT: unsigned(c.position_bits + 1),
            Register.WIDTH: unsigned(c.position_bits + 1),
            Register.CHANNELS: unsigned(8),
            Register.STACK: range(c.stack + 1),
            Register.REPEAT_FIRST: unsigned(1),
        }
        super().__init__(
            {
                "commands": In(command_stream),
                "replies": Out(stream.Signature(unsigned(WORD_BITS))),
                "load": Out(LoadSignature(c)),
                **{r.name.lower(): Out(shape) for r, shape in self.settings.items()},
                "thresholds": Out(THRESHOLD_BITS).array(c.layers),
                "changed": Out(c.layers),
                "restart": Out(1),
                "executing": Out(1),
                "free": In(1),
                "initialising": In(1),
                "layer_row": In(row_layout(c, Space.LAYER)),
                "row_row": In(row_layout(c, Space.ROW)),
                "column_row": In(row_layout(c, Space.COLUMN)),
                "answers": In(answer_bits(c)).array(-(-c.lanes // LOAD_CHAIN)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        # The command is registered, so that nothing combinational joins the streams, and with it
        # what is needed to accept it. It takes effect a cycle after it was accepted.
        pending, command = Signal(), Signal(self.commands.payload.shape())
        always, accept, reading, answered = (
            Signal(name=n) for n in ("always", "accept", "reading", "answered")
        )
        incoming = self.commands.p
        with m.If(self.commands.ready):
            m.d.sync += [
                pending.eq(self.commands.valid),
                command.eq(incoming),
                always.eq(
                    (incoming.space == Space.REGISTER)
                    & (~incoming.write | (incoming.index == Register.RESTART))
                ),
            ]
        m.d.comb += [
            accept.eq(pending & ((self.free & ~self.restart) | always) & ~reading & ~answered),
            self.commands.ready.eq(~pending | accept),
        ]
        write, accepted = Signal(), Signal.like(command)
        # Of what was accepted: the row, which of its words, whether it is of a memory that is
        # loaded, and whether it is a row's last word.
        words = -(-len(self.load.data) // WORD_BITS)
        row, word = Signal.like(self.load.row), Signal(range(max(2, words)))
        loads, completes = Signal(), Signal()
        m.d.sync += write.eq(accept & command.write)
        with m.If(accept):
            m.d.sync += [accepted.eq(command), loads.eq(0), completes.eq(0)]
            for space in [*LOADED, Space.STATE_EVEN, Space.STATE_ODD]:
                bits, count = word_index_bits(c, space), row_words(c, space)
                index = command.index[:bits] if bits else C(0, 1)
                with m.If(command.space == space):
                    m.d.sync += [row.eq(command.index[bits:COPY_SHIFT]), word.eq(index)]
                    if space in LOADED:
                        m.d.sync += [loads.eq(1), completes.eq(index == count - 1)]
        m.d.comb += self.executing.eq(
            accept | write | reading | self.restart | (pending & self.free)
        )

        # Registers: each has its own select, decoded in the cycle before.
        def selects(register: int) -> Signal:
            chosen = Signal(name=f"select_{register}")
            m.d.sync += chosen.eq(
                accept
                & command.write
                & (command.space == Space.REGISTER)
                & (command.index == register)
            )
            return chosen

        m.d.comb += self.restart.eq(selects(Register.RESTART))
        for register in self.settings:
            with m.If(selects(register)):
                m.d.sync += getattr(self, register.name.lower()).eq(accepted.data)
        m.d.sync += self.changed.eq(0)
        for i, threshold in enumerate(self.thresholds):
            with m.If(selects(Register.THRESHOLD + i)):
                m.d.sync += [threshold.eq(accepted.data), self.changed[i].eq(1)]

        # The way to the memories: words are collected, the last one stores the row. A read leaves
        # its row there until it is answered.
        collected = Signal(words * WORD_BITS)
        m.d.comb += self.load.data.eq(collected)
        m.d.sync += [
            self.load.valid.eq(write & completes),
            self.load.space.eq(accepted.space),
            self.load.lane.eq(accepted.lane),
            self.load.row.eq(row),
            self.load.copy.eq(accepted.index[COPY_SHIFT:]),
        ]
        with m.If(write & loads):
            m.d.sync += collected.word_select(word, WORD_BITS).eq(accepted.data)

        # Reads.
        constants = {
            Register.ID: DEVICE_ID,
            Register.VERSION: DEVICE_VERSION,
            Register.BUILD_HASH: c.hash,
            Register.STATUS: Cat(~self.free & ~self.initialising, self.initialising),
        }
        # In steps, so that neither the registers nor the lanes are a wide choice at once: the row
        # goes to its memory and comes back `ANSWER_LATENCY` cycles later, joins those of the other
        # lanes, then a word is chosen.
        value, register_value = Signal(WORD_BITS), Signal(WORD_BITS)
        step = Signal(ANSWER_LATENCY + 3)
        of_register = Signal()
        known = max(Register) + c.layers  # registers are numbered below
        number = accepted.index[: known.bit_length()]
        with m.If(step[-1]):
            m.d.sync += reading.eq(0)
        with m.If(accept & ~command.write):
            m.d.sync += reading.eq(1)
        m.d.sync += [
            step.eq(Cat(accept & ~command.write, step)),
            of_register.eq(accepted.index[len(number) :] == 0),
            register_value.eq(0),
        ]
        with m.Switch(number):
            for register, constant in constants.items():
                with m.Case(register):
                    m.d.sync += register_value.eq(constant)
            for register in self.settings:
                with m.Case(register):
                    m.d.sync += register_value.eq(getattr(self, register.name.lower()))
            for i, threshold in enumerate(self.thresholds):
                with m.Case(Register.THRESHOLD + i):
                    m.d.sync += register_value.eq(threshold)
        from_lane = Signal(len(self.answers[0]))
        m.d.sync += from_lane.eq(reduce(operator.or_, self.answers))
        state = Signal(row_layout(c, Space.STATE_EVEN))
        accumulator = Signal(signed(WORD_BITS))
        m.d.comb += [state.eq(from_lane[: state.shape().size]), accumulator.eq(state.acc)]
        neuron = Cat(accumulator, state.sent)  # a word for each
        sources = {
            Space.LAYER: Value.cast(self.layer_row),
            Space.ROW: Value.cast(self.row_row),
            Space.COLUMN: Value.cast(self.column_row),
            **dict.fromkeys((Space.POINTER, Space.WEIGHT, Space.CHANNEL), from_lane),
            **dict.fromkeys((Space.STATE_EVEN, Space.STATE_ODD), neuron),
        }
        chosen = Signal(WORD_BITS)
        with m.Switch(accepted.space):
            with m.Case(Space.REGISTER):
                m.d.comb += chosen.eq(Mux(of_register, register_value, 0))
            for space, source in sources.items():
                with m.Case(space), m.Switch(word):
                    for i in range(row_words(c, space)):
                        with m.Case(i):
                            m.d.comb += chosen.eq(source[i * WORD_BITS : (i + 1) * WORD_BITS])
        with m.If(step[-1]):
            m.d.sync += [answered.eq(1), value.eq(chosen)]
        m.d.comb += [self.replies.valid.eq(answered), self.replies.p.eq(value)]
        with m.If(answered & self.replies.ready):
            m.d.sync += answered.eq(0)
        return m
