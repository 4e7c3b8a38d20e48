"""Replies: checksum, COBS, and a copy that can be sent again."""

from amaranth import *
from amaranth.lib import crc, memory, stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out

from reticent.link.protocol import CRC_BYTES, DELIMITER

from .cobs import FULL

__all__ = ["Replier", "encoded_bytes"]


def encoded_bytes(size: int) -> int:
    """Bytes of a packet of `size` bytes after COBS, at most; without the delimiter."""
    return size + size // (FULL - 1) + 1


class Replier(wiring.Component):
    """Takes the bytes of a reply, adds the checksum, and sends it when it is complete.

    COBS is applied on the way into the memory: a block's length is written when the block ends.

    Parameters
    ----------
    size : bytes of the longest reply, before COBS

    Members
    -------
    begin : start a new reply, forget the old one
    content : its bytes without the checksum; a byte takes one cycle, seldom two
    overflow : more bytes came than fit; they were dropped. Until `begin`
    finish : the content is complete: seal the reply and send it; only while `content.ready`
    again : send the last reply again; only when not `busy`
    busy : sealing or sending
    bytes : to the link
    """

    def __init__(self, size: int):
        self._size = size
        super().__init__(
            {
                "begin": In(1),
                "content": In(stream.Signature(8)),
                "overflow": Out(1),
                "finish": In(1),
                "again": In(1),
                "busy": Out(1),
                "bytes": Out(stream.Signature(8)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.sum = checksum = crc.Processor(CRC32_ISO_HDLC(data_width=8))
        depth = encoded_bytes(self._size)
        m.submodules.buffer = buffer = memory.Memory(shape=8, depth=depth, init=[])
        write, read = buffer.write_port(), buffer.read_port()

        left = Signal(range(self._size + 1))  # bytes of content that still fit
        code, at = Signal(range(depth + 1)), Signal(range(depth + 1))
        run = Signal(8, init=1)  # code of the open block
        byte, put = Signal(8), Signal()
        full = Signal()  # run == FULL
        close = Signal()
        sealing = Signal()
        sums_left = Signal(range(CRC_BYTES + 1))
        sum_bytes = Signal(8 * CRC_BYTES)
        content = Signal()
        m.d.comb += [
            self.content.ready.eq(~self.busy & ~full),
            content.eq(self.content.valid & self.content.ready & (left != 0)),
            checksum.start.eq(self.begin),
            checksum.valid.eq(content),
            checksum.data.eq(self.content.payload),
            byte.eq(Mux(sealing, sum_bytes[:8], self.content.payload)),
            put.eq(content | (sealing & (sums_left != 0) & ~full)),
            close.eq(full | (put & (byte == 0)) | (sealing & (sums_left == 0))),
            write.addr.eq(Mux(close, code, at)),
            write.data.eq(Mux(close, run, byte)),
            write.en.eq(put | close),
        ]
        with m.If(self.content.valid & self.content.ready & (left == 0)):
            m.d.sync += self.overflow.eq(1)
        with m.If(content):
            m.d.sync += left.eq(left - 1)
        with m.If(close):
            m.d.sync += [run.eq(1), full.eq(0), code.eq(at), at.eq(at + 1)]
        with m.Elif(put):
            m.d.sync += [run.eq(run + 1), full.eq(run == FULL - 1), at.eq(at + 1)]

        sending = Signal()
        position, length = Signal(range(depth + 1)), Signal(range(depth + 1))
        fetched, last = Signal(), Signal()
        m.d.comb += self.busy.eq(sealing | sending)
        with m.If(self.finish):
            m.d.sync += [sealing.eq(1), sums_left.eq(CRC_BYTES), sum_bytes.eq(checksum.crc)]
        with m.If(sealing & put):
            m.d.sync += [sums_left.eq(sums_left - 1), sum_bytes.eq(sum_bytes >> 8)]
        with m.If(sealing & (sums_left == 0) & ~full):
            m.d.sync += [sealing.eq(0), sending.eq(1), length.eq(at)]
        with m.If(self.begin):
            m.d.sync += [
                left.eq(self._size - CRC_BYTES),
                code.eq(0),
                at.eq(1),
                run.eq(1),
                full.eq(0),
                self.overflow.eq(0),
            ]

        # Send: the memory's bytes, then the delimiter; from a register, for the memory is slow.
        m.d.comb += read.addr.eq(position)
        with m.If(self.again):
            m.d.sync += sending.eq(1)
        with m.If(fetched):
            m.d.sync += [
                fetched.eq(0),
                self.bytes.valid.eq(1),
                self.bytes.payload.eq(Mux(last, DELIMITER, read.data)),
                position.eq(position + 1),
            ]
        with m.Elif(sending & ~self.bytes.valid):
            m.d.sync += [fetched.eq(1), last.eq(position == length)]
        with m.If(self.bytes.valid & self.bytes.ready):
            m.d.sync += self.bytes.valid.eq(0)
            with m.If(last):
                m.d.sync += [sending.eq(0), position.eq(0)]
        return m
