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
    mark : positions to set; takes effect at the next cycle
    rows : rows that were marked
    row : row to read; `columns` answers in the same cycle
    clear : clear the map; takes effect at the next cycle, and wins over `mark`
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
        m.d.comb += self.rows.eq(marked)
        for parity, name in enumerate(("even", "odd")):
            m.submodules[name] = rows = memory.Memory(
                shape=unsigned(c.map_columns), depth=at_least_two((c.map_rows + 1) // 2), init=[]
            )
            read, write = rows.read_port(domain="comb"), rows.write_port()
            before = Signal(c.map_columns, name=f"before_{name}")
            mine = Signal(name=f"mine_{name}")
            row = Signal(len(self.row) + 1, name=f"row_{name}")
            m.d.comb += [
                # Of rows r and r + 1 the even one is number (r + 1) >> 1, the odd one r >> 1.
                row.eq(
                    Mux(
                        self.mark.valid,
                        ((self.mark.row + (1 - parity)) >> 1 << 1) + parity,
                        self.row,
                    )
                ),
                read.addr.eq(row >> 1),
                before.eq(Mux(marked.bit_select(row, 1), read.data, 0)),
                mine.eq((self.mark.row[0] == parity) | self.mark.second),
                write.addr.eq(row >> 1),
                write.data.eq(before | self.mark.mask),
                write.en.eq(self.mark.valid & mine),
            ]
            with m.If(write.en):
                m.d.sync += marked.bit_select(row, 1).eq(1)
            with m.If(self.row[0] == parity):
                m.d.comb += self.columns.eq(before)
        with m.If(self.clear):
            m.d.sync += marked.eq(0)
        return m
