"""A serial port: 8 data bits, no parity, one stop bit."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from reticent.errors import UserError

__all__ = ["CYCLES_LEAST", "UartReceiver", "UartTransmitter", "bit_step"]

FRACTION = 16  # bits of the phase within a bit
CYCLES_LEAST = 4  # clock cycles of a bit: fewer would not find its middle
DATA_BITS = 8


def bit_step(clock: int, baud: int) -> int:
    """Phase that a clock cycle advances, in units of 2**-FRACTION bits.

    The phase is fractional, so any rate up to `clock / CYCLES_LEAST` is met within 0.1 %; an edge
    is off by at most one clock cycle.
    """
    if not 300 <= baud <= clock // CYCLES_LEAST:
        raise UserError(
            f"{baud:,} baud from a clock of {clock:,} Hz: give 300 to {clock // CYCLES_LEAST:,}"
        )
    return round((baud << FRACTION) / clock)


class UartReceiver(wiring.Component):
    """Bytes from a pin. Each bit is sampled once, in its middle.

    Members
    -------
    rx : the pin, asynchronous
    bytes : what arrived; a byte that is not taken before the next one ends is lost
    lost, broken : one cycle for each byte that was lost, or had no stop bit (it is dropped)
    """

    def __init__(self, clock: int, baud: int):
        self._step = bit_step(clock, baud)
        super().__init__(
            {
                "rx": In(1, init=1),
                "bytes": Out(stream.Signature(8)),
                "lost": Out(1),
                "broken": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # Synchronised, and one cycle longer to see the edge.
        samples = Signal(3, init=0b111)
        m.d.sync += samples.eq(Cat(samples[1:], self.rx))
        level = samples[1]

        phase = Signal(FRACTION + 1)
        middle = phase[FRACTION]  # the phase has passed the middle of the bit
        shift = Signal(DATA_BITS)
        left = Signal(range(DATA_BITS + 2))
        with m.If(self.bytes.valid & self.bytes.ready):
            m.d.sync += self.bytes.valid.eq(0)
        with m.If(left == 0):
            # A start bit begins; its middle is half a bit away.
            m.d.sync += phase.eq((1 << (FRACTION - 1)) + self._step)
            with m.If(~level):
                m.d.sync += left.eq(DATA_BITS + 2)
        with m.Else():
            m.d.sync += phase.eq(phase[:FRACTION] + self._step)
            with m.If(middle):
                m.d.sync += left.eq(left - 1)
                with m.If(left == DATA_BITS + 2):
                    with m.If(level):  # a glitch, no start bit
                        m.d.sync += left.eq(0)
                with m.Elif(left == 1):
                    with m.If(~level):
                        m.d.comb += self.broken.eq(1)
                    with m.Else():
                        m.d.comb += self.lost.eq(self.bytes.valid & ~self.bytes.ready)
                        m.d.sync += [self.bytes.valid.eq(1), self.bytes.payload.eq(shift)]
                with m.Else():
                    m.d.sync += shift.eq(Cat(shift[1:], level))
        return m


class UartTransmitter(wiring.Component):
    """Bytes to a pin, without a gap between them.

    Members
    -------
    bytes : what to send
    tx : the pin, a register
    idle : nothing is being sent
    """

    def __init__(self, clock: int, baud: int):
        self._step = bit_step(clock, baud)
        super().__init__({"bytes": In(stream.Signature(8)), "tx": Out(1, init=1), "idle": Out(1)})

    def elaborate(self, platform):
        m = Module()
        phase = Signal(FRACTION + 1)
        over = phase[FRACTION]  # the current bit has been on the pin for its time
        shift = Signal(DATA_BITS + 1)  # what follows the bit on the pin
        left = Signal(range(DATA_BITS + 3))
        last = (left == 1) & over
        m.d.comb += [self.bytes.ready.eq((left == 0) | last), self.idle.eq(left == 0)]
        with m.If(left != 0):
            m.d.sync += phase.eq(phase[:FRACTION] + self._step)
            with m.If(over):
                m.d.sync += [left.eq(left - 1), self.tx.eq(shift[0]), shift.eq(Cat(shift[1:], 1))]
        with m.If(self.bytes.valid & self.bytes.ready):
            m.d.sync += [
                self.tx.eq(0),
                shift.eq(Cat(self.bytes.payload, 1)),
                left.eq(DATA_BITS + 2),
            ]
            with m.If(left == 0):
                m.d.sync += phase.eq(self._step)
        return m
