"""A register between two streams."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["StreamRegister"]


class StreamRegister(wiring.Component):
    """Holds one word, so that no signal passes from one side to the other within a cycle.

    Throughput one word every other cycle, latency one cycle.

    Members
    -------
    before, behind : the stream, in and out; `before.ready` says that no word is held
    """

    def __init__(self, shape):
        super().__init__(
            {"before": In(stream.Signature(shape)), "behind": Out(stream.Signature(shape))}
        )

    def elaborate(self, platform):
        m = Module()
        before, behind = self.before, self.behind
        m.d.comb += before.ready.eq(~behind.valid)
        with m.If(before.ready & before.valid):
            m.d.sync += [behind.valid.eq(1), behind.payload.eq(before.payload)]
        with m.Elif(behind.ready):
            m.d.sync += behind.valid.eq(0)
        return m
