"""COBS framing: packets whose bytes are never zero, so that a zero ends a packet.

A block is its length + 1 and then that many bytes, none of them zero; a zero follows it in the
packet, unless the block has the full length of 254 or is the last one.
"""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["FULL", "CobsDecoder"]

FULL = 255  # code of a block that is not followed by a zero


class CobsDecoder(wiring.Component):
    """Takes encoded bytes, gives the packet's. One byte a cycle, never waits.

    Members
    -------
    valid, byte : an encoded byte
    out_valid, out : a byte of the packet, in the same cycle
    end : the packet ended in this cycle
    torn : it ended within a block, with `end`
    """

    def __init__(self):
        super().__init__(
            {
                "valid": In(1),
                "byte": In(8),
                "out_valid": Out(1),
                "out": Out(8),
                "end": Out(1),
                "torn": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        left = Signal(8)  # bytes of the current block that are to come
        zero = Signal()  # a zero follows the block, if another block does
        m.d.comb += [
            self.end.eq(self.valid & (self.byte == 0)),
            self.torn.eq(left != 0),
            self.out.eq(Mux(left == 0, 0, self.byte)),
            self.out_valid.eq(self.valid & (self.byte != 0) & ((left != 0) | zero)),
        ]
        with m.If(self.end):
            m.d.sync += [left.eq(0), zero.eq(0)]
        with m.Elif(self.valid & (left == 0)):
            m.d.sync += [left.eq(self.byte - 1), zero.eq(self.byte != FULL)]
        with m.Elif(self.valid):
            m.d.sync += left.eq(left - 1)
        return m
