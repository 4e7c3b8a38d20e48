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
from .lane import STATE_LATENCY

__all__ = ["PROBE_LATENCY", "HostPort"]

# Cycles from a row's number to the lanes' `state`: to the lanes and back, a register at either end.
PROBE_LATENCY = 2 + STATE_LATENCY


class HostPort(wiring.Component):
    """Executes commands: one write a cycle, one read every `PROBE_LATENCY + 4`
    cycles.

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
    probe_row, probe_parity, state : a row of every lane's state, `PROBE_LATENCY` cycles later
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
            accept.eq(pending & (self.free | always) & ~reading & ~answered),
            self.commands.ready.eq(~pending | accept),
        ]
        write, accepted = Signal(), Signal.like(command)
        m.d.sync += write.eq(accept & command.write)
        with m.If(accept):
            m.d.sync += accepted.eq(command)
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

        # Rows of the memories: words are collected, the last one stores the row.
        words = -(-len(self.load.data) // WORD_BITS)
        collected = Signal(words * WORD_BITS)
        m.d.sync += self.load.valid.eq(0)
        m.d.comb += self.load.data.eq(collected)
        spaces = [s for s in Space if s not in (Space.REGISTER, Space.STATE_EVEN, Space.STATE_ODD)]
        with m.If(write):
            m.d.sync += [self.load.space.eq(accepted.space), self.load.lane.eq(accepted.lane)]
            for space in spaces:
                bits = word_index_bits(c, space)
                with m.If(accepted.space == space):
                    word = accepted.index[:bits] if bits else C(0, 1)
                    m.d.sync += [
                        collected.word_select(word, WORD_BITS).eq(accepted.data),
                        self.load.row.eq(accepted.index >> bits),
                        self.load.valid.eq(word == row_words(c, space) - 1),
                    ]

        # Reads. A state row has the accumulator in word 0, `sent` in word 1.
        constants = {
            Register.ID: DEVICE_ID,
            Register.VERSION: DEVICE_VERSION,
            Register.BUILD_HASH: c.hash,
            Register.STATUS: Cat(~self.free & ~self.initialising, self.initialising),
        }
        # In steps, so that neither the registers nor the lanes are a wide choice at once: the row
        # goes to the lanes and comes back `PROBE_LATENCY` cycles later, then a lane is chosen.
        value, register_value = Signal(WORD_BITS), Signal(WORD_BITS)
        step = Signal(PROBE_LATENCY + 2)
        from_state, of_register = Signal(), Signal()
        known = max(Register) + c.layers  # registers are numbered below
        number = accepted.index[: known.bit_length()]
        m.d.comb += [
            self.probe_row.eq(accepted.index >> word_index_bits(c, Space.STATE_EVEN)),
            self.probe_parity.eq(accepted.space == Space.STATE_ODD),
        ]
        with m.If(step[-1]):
            m.d.sync += reading.eq(0)
        with m.If(accept & ~command.write):
            m.d.sync += reading.eq(1)
        m.d.sync += [
            step.eq(Cat(accept & ~command.write, step)),
            from_state.eq(
                (accepted.space == Space.STATE_EVEN) | (accepted.space == Space.STATE_ODD)
            ),
            of_register.eq(
                (accepted.space == Space.REGISTER) & (accepted.index[len(number) :] == 0)
            ),
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
        selected = Signal(row_layout(c, Space.STATE_EVEN))
        picked = Signal.like(selected)
        with m.Switch(accepted.lane):
            for i, state in enumerate(self.state):
                with m.Case(i):
                    m.d.comb += picked.eq(state)
        m.d.sync += selected.eq(picked)
        sign_extended = Signal(signed(WORD_BITS))
        m.d.comb += sign_extended.eq(selected.acc)
        with m.If(step[-1]):
            m.d.sync += [
                answered.eq(1),
                value.eq(
                    Mux(
                        from_state,
                        Mux(accepted.index[0], selected.sent, sign_extended.as_unsigned()),
                        Mux(of_register, register_value, 0),
                    )
                ),
            ]
        m.d.comb += [self.replies.valid.eq(answered), self.replies.p.eq(value)]
        with m.If(answered & self.replies.ready):
            m.d.sync += answered.eq(0)
        return m
