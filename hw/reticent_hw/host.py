"""The command port: registers, loading of memories, reading of neurons."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from reticent.config import BuildConfig
from reticent.layout import (
    DEVICE_ID,
    DEVICE_VERSION,
    THRESHOLD_BITS,
    WORD_BITS,
    Register,
    Space,
    row_words,
    word_index_bits,
)

from .interfaces import LoadSignature, command_stream, row_layout

__all__ = ["HostPort"]


class HostPort(wiring.Component):
    """Executes commands: one write a cycle, one read every five cycles.

    While a frame is being worked on only restarts and register reads are taken; everything else
    waits. Registers, spaces and lanes that do not exist read as zero, writes to them do nothing;
    whether a memory has a row is not checked.

    Members
    -------
    commands, replies : see `layout.Space` and `layout.Register`
    load : rows to the memories
    settings... : the network's registers, stable
    thresholds : T_q on the input of each layer; `changed` marks those that are being written
    restart : abandon everything and initialise; one cycle
    executing : a command takes effect, or will before the next frame; the first pixel of a frame
        waits for it
    free : no frame is in progress, and the neurons are initialised
    probe_row, probe_parity, state : a row of every lane's state, two cycles later
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
        state = row_layout(c, Space.STATE_EVEN)
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
                "probe_row": Out(c.state_address_bits),
                "probe_parity": Out(1),
                "state": In(state).array(c.lanes),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        # The command is registered, so that nothing combinational joins the streams.
        pending, command = Signal(), Signal(self.commands.payload.shape())
        is_register = command.space == Space.REGISTER
        is_state = (command.space == Space.STATE_EVEN) | (command.space == Space.STATE_ODD)

        reading, answered = Signal(), Signal()
        allowed, accept = Signal(), Signal()
        with m.If(self.commands.ready):
            m.d.sync += [pending.eq(self.commands.valid), command.eq(self.commands.p)]
        m.d.comb += [
            allowed.eq(
                self.free
                | (is_register & ~command.write)
                | (is_register & command.write & (command.index == Register.RESTART))
            ),
            accept.eq(pending & allowed & ~reading & ~answered),
            self.commands.ready.eq(~pending | accept),
        ]
        m.d.comb += self.executing.eq(accept | reading | self.restart | (pending & self.free))
        write = accept & command.write

        # Registers.
        m.d.sync += [self.restart.eq(0), self.changed.eq(0)]
        with m.If(write & is_register):
            with m.Switch(command.index):
                with m.Case(Register.RESTART):
                    m.d.sync += self.restart.eq(1)
                for register in self.settings:
                    with m.Case(register):
                        m.d.sync += getattr(self, register.name.lower()).eq(command.data)
                for i, threshold in enumerate(self.thresholds):
                    with m.Case(Register.THRESHOLD + i):
                        m.d.sync += [threshold.eq(command.data), self.changed[i].eq(1)]

        # Rows of the memories: words are collected, the last one stores the row.
        words = -(-len(self.load.data) // WORD_BITS)
        collected = Signal(words * WORD_BITS)
        m.d.sync += self.load.valid.eq(0)
        m.d.comb += self.load.data.eq(collected)
        spaces = [s for s in Space if s not in (Space.REGISTER, Space.STATE_EVEN, Space.STATE_ODD)]
        with m.If(write):
            m.d.sync += [self.load.space.eq(command.space), self.load.lane.eq(command.lane)]
            for space in spaces:
                bits = word_index_bits(c, space)
                with m.If(command.space == space):
                    word = command.index[:bits] if bits else C(0, 1)
                    m.d.sync += [
                        collected.word_select(word, WORD_BITS).eq(command.data),
                        self.load.row.eq(command.index >> bits),
                        self.load.valid.eq(word == row_words(c, space) - 1),
                    ]

        # Reads. A state row has the accumulator in word 0, `sent` in word 1.
        constants = {
            Register.ID: DEVICE_ID,
            Register.VERSION: DEVICE_VERSION,
            Register.BUILD_HASH: c.hash,
            Register.STATUS: Cat(~self.free & ~self.initialising, self.initialising),
        }
        # In three steps, so that neither the registers nor the lanes are a wide choice at once.
        value, register_value = Signal(WORD_BITS), Signal(WORD_BITS)
        step = Signal(3)
        from_state, of_register, second = Signal(), Signal(), Signal()
        lane, index = Signal.like(command.lane), Signal.like(command.index)
        m.d.comb += [
            self.probe_row.eq(command.index >> word_index_bits(c, Space.STATE_EVEN)),
            self.probe_parity.eq(command.space == Space.STATE_ODD),
            reading.eq(step.any()),
        ]
        m.d.sync += [
            step.eq(Cat(accept & ~command.write, step)),
            register_value.eq(0),
        ]
        with m.If(accept):
            m.d.sync += [
                from_state.eq(is_state),
                of_register.eq(is_register),
                lane.eq(command.lane),
                index.eq(command.index),
                second.eq(command.index[0]),
            ]
        with m.Switch(index):
            for register, constant in constants.items():
                with m.Case(register):
                    m.d.sync += register_value.eq(constant)
            for register in self.settings:
                with m.Case(register):
                    m.d.sync += register_value.eq(getattr(self, register.name.lower()))
            for i, threshold in enumerate(self.thresholds):
                with m.Case(Register.THRESHOLD + i):
                    m.d.sync += register_value.eq(threshold)
        selected = Signal(row_layout(c, Space.STATE_EVEN))
        picked = Signal.like(selected)
        with m.Switch(lane):
            for i, state in enumerate(self.state):
                with m.Case(i):
                    m.d.comb += picked.eq(state)
        m.d.sync += selected.eq(picked)
        sign_extended = Signal(signed(WORD_BITS))
        m.d.comb += sign_extended.eq(selected.acc)
        with m.If(step[2]):
            m.d.sync += [
                answered.eq(1),
                value.eq(
                    Mux(
                        from_state,
                        Mux(second, selected.sent, sign_extended.as_unsigned()),
                        Mux(of_register, register_value, 0),
                    )
                ),
            ]
        m.d.comb += [self.replies.valid.eq(answered), self.replies.p.eq(value)]
        with m.If(answered & self.replies.ready):
            m.d.sync += answered.eq(0)
        return m
