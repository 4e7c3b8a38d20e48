"""Exact counts: events, multiplications and cycles of each layer, and where cycles were lost."""

from amaranth import *
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from reticent.config import BuildConfig
from reticent.layout import LOST_CAUSES, WORD_BITS

from .interfaces import at_least_two, index_shape

__all__ = ["Counters", "sum_of"]

COUNTS = data.StructLayout({"events": WORD_BITS, "significant": WORD_BITS, "cycles": WORD_BITS})


def sum_of(values):
    """Sum of values (or of the bits of one), as a tree: few levels, no wider than needed."""
    values = list(values)
    if len(values) == 1:
        return values[0]
    return sum_of(values[: len(values) // 2]) + sum_of(values[len(values) // 2 :])


class Counters(wiring.Component):
    """Counts of one frame.

    In every cycle of `counting` each lane either multiplies or is lost to the `cause` of that
    cycle, so `lanes * total = significant + sum(lost)` holds exactly.

    Members
    -------
    clear : begin a frame
    counting : the frame's clock runs
    phase, layer : a layer is being worked on, and which; `store` ends it
    events : how many events enter the layer
    multiplies : lanes that multiply
    cause : index into `layout.LOST_CAUSES` for the lanes that do not
    total, lost : results; settled 3 cycles after `counting` ended
    read_layer, counts : a finished layer's counts, one cycle later
    """

    def __init__(self, config: BuildConfig):
        self._config = config
        c = config
        super().__init__(
            {
                "clear": In(1),
                "counting": In(1),
                "phase": In(1),
                "store": In(1),
                "layer": In(index_shape(c.layers)),
                "events": In(range(c.lanes + 1)),
                "multiplies": In(c.lanes),
                "cause": In(range(len(LOST_CAUSES))),
                "total": Out(WORD_BITS),
                "lost": Out(data.ArrayLayout(unsigned(WORD_BITS), len(LOST_CAUSES))),
                "read_layer": In(index_shape(c.layers)),
                "counts": Out(COUNTS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        m.submodules.layers = layers = memory.Memory(
            shape=COUNTS, depth=at_least_two(c.layers), init=[]
        )
        write, read = layers.write_port(), layers.read_port()
        counts = Signal(COUNTS)

        busy = Signal(range(c.lanes + 1))
        idle = Signal(range(c.lanes + 1))
        cause = Signal.like(self.cause)
        counted = Signal()
        m.d.sync += [
            busy.eq(sum_of(self.multiplies)),
            cause.eq(self.cause),
            counted.eq(self.counting),
        ]
        m.d.comb += [
            idle.eq(c.lanes - busy),
            write.addr.eq(self.layer),
            write.data.eq(counts),
            # The cycle that stores belongs to the layer.
            write.data.cycles.eq(counts.cycles + 1),
            write.en.eq(self.store),
            read.addr.eq(self.read_layer),
            self.counts.eq(read.data),
        ]
        m.d.sync += counts.significant.eq(counts.significant + busy)
        with m.If(counted):
            m.d.sync += [
                self.total.eq(self.total + 1),
                self.lost[cause].eq(self.lost[cause] + idle),
            ]
        with m.If(self.phase):
            m.d.sync += [
                counts.cycles.eq(counts.cycles + 1),
                counts.events.eq(counts.events + self.events),
            ]
        with m.If(self.store):
            m.d.sync += counts.eq(0)
        with m.If(self.clear):
            m.d.sync += [counts.eq(0), self.total.eq(0), self.lost.eq(0)]
        return m
