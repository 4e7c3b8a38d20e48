"""Requests: out of the bytes that arrive, those that are whole and intact."""

from amaranth import *
from amaranth.lib import crc, memory, stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out

from reticent.link.protocol import HEADER_BYTES, REQUEST_EXTRA

from .cobs import CobsDecoder

__all__ = ["RequestReceiver"]


class RequestReceiver(wiring.Component):
    """Collects a request, checks it, and holds it until it is released.

    Nothing of a request can be seen before its checksum was right. While one is held, no bytes
    are taken.

    Parameters
    ----------
    size : bytes of the longest request, before COBS; a power of two

    Members
    -------
    bytes : from the link
    held : a request is here: `kind`, `sequence`, and its payload as a stream
    payload : its bytes in order, one every three cycles
    more : bytes of the payload are left
    release : forget the request
    intact, damaged : one cycle for each packet that was, or that was damaged or too long
    """

    def __init__(self, size: int):
        self._size = size
        super().__init__(
            {
                "bytes": In(stream.Signature(8)),
                "held": Out(1),
                "kind": Out(8),
                "sequence": Out(32),
                "payload": Out(stream.Signature(8)),
                "more": Out(1),
                "release": In(1),
                "intact": Out(1),
                "damaged": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.decoder = decoder = CobsDecoder()
        m.submodules.sum = checksum = crc.Processor(CRC32_ISO_HDLC(data_width=8))
        m.submodules.buffer = buffer = memory.Memory(shape=8, depth=self._size, init=[])
        write, read = buffer.write_port(), buffer.read_port()

        count = Signal(range(self._size + 1))
        room = Signal()
        too_long = Signal()
        header = Signal(8 * HEADER_BYTES)
        stored = decoder.out_valid & room
        m.d.comb += [
            self.bytes.ready.eq(~self.held),
            decoder.valid.eq(self.bytes.valid & self.bytes.ready),
            decoder.byte.eq(self.bytes.payload),
            room.eq(count != self._size),
            checksum.data.eq(decoder.out),
            checksum.valid.eq(decoder.out_valid),
            write.addr.eq(count),
            write.data.eq(decoder.out),
            write.en.eq(stored),
            self.kind.eq(header[:8]),
            self.sequence.eq(header[8:]),
        ]
        with m.If(decoder.out_valid):
            m.d.sync += too_long.eq(too_long | ~room)
        with m.If(stored):
            m.d.sync += count.eq(count + 1)
            with m.If(count < HEADER_BYTES):
                m.d.sync += header.eq(Cat(header[8:], decoder.out))
        position = Signal(range(self._size))
        left = Signal(range(self._size + 1))  # bytes that are still in the buffer alone
        asked = Signal()
        with m.If(decoder.end):
            intact = ~decoder.torn & ~too_long & checksum.match_detected & (count >= REQUEST_EXTRA)
            m.d.comb += [
                checksum.start.eq(1),
                self.intact.eq(intact),
                # Delimiters may be repeated.
                self.damaged.eq(~intact & ((count != 0) | decoder.torn)),
            ]
            m.d.sync += [
                too_long.eq(0),
                count.eq(0),
                self.held.eq(intact),
                position.eq(HEADER_BYTES),
                left.eq(count - REQUEST_EXTRA),
            ]

        # The payload, from a register: the memory is slow to answer.
        m.d.comb += [
            self.more.eq(self.held & (self.payload.valid | (left != 0))),
            read.addr.eq(position),
        ]
        with m.If(asked):
            m.d.sync += [
                asked.eq(0),
                self.payload.valid.eq(1),
                self.payload.payload.eq(read.data),
                position.eq(position + 1),
                left.eq(left - 1),
            ]
        with m.Elif(self.held & ~self.payload.valid & (left != 0)):
            m.d.sync += asked.eq(1)
        with m.If(self.payload.valid & self.payload.ready):
            m.d.sync += self.payload.valid.eq(0)
        with m.If(self.release):
            m.d.sync += [self.held.eq(0), self.payload.valid.eq(0), asked.eq(0), left.eq(0)]
        return m
