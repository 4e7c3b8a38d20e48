"""Which output positions of a layer were touched: one bit a position."""

from amaranth import *
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from reticent.config import BuildConfig

from .interfaces import MarkSignature, at_least_two, index_shape

__all__ = ["TouchedMap"]


class TouchedMap(wiring.Component):
    """A bitmap of `map_rows x map_columns` positions, in distributed memory.

    Even and odd rows lie in two memories, so that two neighbouring rows are marked in one cycle.
    A register says which rows hold a mark at all, so that clearing takes one cycle and whoever
    reads skips empty rows. Marking and reading never happen in the same phase of a frame.

    Members
    -------
    mark : positions to set; takes effect two cycles later
    rows : rows that were marked
    row : row to read; `columns` answers in the same cycle
    clear : clear the map; takes effect at the next cycle, and wins over a `mark` of the cycle
        before
    """

    def __init__(self, config: BuildConfig):
        self._config = config
        super().__init__(
            {
                "mark": In(MarkSignature(config)),
                "rows": Out(at_least_two(config.map_rows)),
                "row": In(index_shape(config.map_rows)),
                "columns": Out(config.map_columns),
                "clear": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        marked = Signal(len(self.rows))
        mask = Signal(c.map_columns)
        m.d.comb += self.rows.eq(marked)
        m.d.sync += mask.eq(self.mark.mask)
        for parity, name in enumerate(("even", "odd")):
            m.submodules[name] = rows = memory.Memory(
                shape=unsigned(c.map_columns), depth=at_least_two((c.map_rows + 1) // 2), init=[]
            )
            read, write = rows.read_port(domain="comb"), rows.write_port()
            before = Signal(c.map_columns, name=f"before_{name}")
            marks, marked_row = Signal(name=f"marks_{name}"), Signal.like(read.addr)
            m.d.sync += [
                # Of rows r and r + 1 the even one is number (r + 1) >> 1, the odd one r >> 1.
                marked_row.eq((self.mark.row + (1 - parity)) >> 1),
                marks.eq(self.mark.valid & ((self.mark.row[0] == parity) | self.mark.second)),
            ]
            m.d.comb += [
                read.addr.eq(Mux(marks, marked_row, self.row >> 1)),
                before.eq(Mux(marked[parity::2].bit_select(read.addr, 1), read.data, 0)),
                write.addr.eq(read.addr),
                write.data.eq(before | mask),
                write.en.eq(marks),
            ]
            for i in range(parity, len(marked), 2):
                with m.If(marks & (marked_row == i // 2)):
                    m.d.sync += marked[i].eq(1)
            with m.If((self.row[0] == parity) & marked.bit_select(self.row, 1)):
                m.d.comb += self.columns.eq(read.data)
        with m.If(self.clear):
            m.d.sync += marked.eq(0)
        return m
