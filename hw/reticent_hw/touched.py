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
    Marking and reading never happen in the same phase of a frame.

    Members
    -------
    mark : positions to set; takes effect at the next cycle
    row : row to read; `columns` answers in the same cycle
    clear : clear that row
    """

    def __init__(self, config: BuildConfig):
        self._config = config
        super().__init__(
            {
                "mark": In(MarkSignature(config)),
                "row": In(index_shape(config.map_rows)),
                "columns": Out(config.map_columns),
                "clear": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        for parity, name in enumerate(("even", "odd")):
            m.submodules[name] = rows = memory.Memory(
                shape=unsigned(c.map_columns), depth=at_least_two((c.map_rows + 1) // 2), init=[]
            )
            read, write = rows.read_port(domain="comb"), rows.write_port()
            m.d.comb += write.addr.eq(read.addr)
            with m.If(self.mark.valid):
                # Of rows r and r + 1 the even one is number (r + 1) >> 1, the odd one r >> 1.
                m.d.comb += [
                    read.addr.eq((self.mark.row + (1 - parity)) >> 1),
                    write.data.eq(read.data | self.mark.mask),
                    write.en.eq((self.mark.row[0] == parity) | self.mark.second),
                ]
            with m.Else():
                m.d.comb += [
                    read.addr.eq(self.row >> 1),
                    write.data.eq(0),
                    write.en.eq(self.clear & (self.row[0] == parity)),
                ]
                with m.If(self.row[0] == parity):
                    m.d.comb += self.columns.eq(read.data)
        return m
