"""Exact counts: events, multiplications and cycles of each layer, and where cycles were lost."""

from amaranth import *
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from reticent.config import BuildConfig
from reticent.layout import LOST_CAUSES, WORD_BITS

from .bits import sum_of
from .interfaces import at_least_two, index_shape

__all__ = ["COUNTS", "Counters"]

COUNTS = data.StructLayout({"events": WORD_BITS, "significant": WORD_BITS, "cycles": WORD_BITS})


class Counters(wiring.Component):
    """Counts of one frame.

    In every cycle of `counting` each lane either multiplies or is lost to the `cause` of that
    cycle, so `lanes * total = significant + sum(lost)` holds exactly. Events and cycles count for
    the layer that receives events, multiplications for the layer that they belong to: that one or
    the one before.

    Members
    -------
    clear : begin a frame
    counting : the frame's clock runs
    phase, layer : a layer receives events, and which; `store` ends it
    events : how many events enter the layer
    multiplies, parities : lanes that multiply, each for a layer of this parity
    cause : index into `layout.LOST_CAUSES` for the lanes that do not
    total, lost : results; settled 4 cycles after `counting` ended
    read_layer, counts : a finished layer's counts, one cycle later; multiplications of the last
        two layers are there 3 cycles after the last `store`, those of idle lanes
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
                "parities": In(c.lanes),
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
        depth = at_least_two(c.layers)
        received = data.StructLayout({"events": WORD_BITS, "cycles": WORD_BITS})
        m.submodules.layers = layers = memory.Memory(shape=received, depth=depth, init=[])
        m.submodules.products = products = memory.Memory(
            shape=unsigned(WORD_BITS), depth=depth, init=[]
        )
        write, read = layers.write_port(), layers.read_port()
        write_products, read_products = products.write_port(), products.read_port()
        counts = Signal(received)

        lanes = range(c.lanes + 1)
        busy = [Signal(lanes, name=f"busy_{name}") for name in ("even", "odd")]
        idle = Signal(lanes)
        # What the lanes say comes from afar, so it is registered before it is added.
        multiplies, parities = Signal.like(self.multiplies), Signal.like(self.parities)
        causes = [Signal.like(self.cause, name=f"cause_{i}") for i in range(2)]
        cause = causes[-1]
        counting = Signal(2)
        counted = counting[-1]
        m.d.sync += [
            multiplies.eq(self.multiplies),
            parities.eq(self.parities),
            busy[0].eq(sum_of(multiplies & ~parities)),
            busy[1].eq(sum_of(multiplies & parities)),
            causes[0].eq(self.cause),
            causes[1].eq(causes[0]),
            counting.eq(Cat(self.counting, counting)),
        ]
        m.d.comb += [
            idle.eq(c.lanes - busy[0] - busy[1]),
            write.addr.eq(self.layer),
            write.data.eq(counts),
            # The cycle that stores belongs to the layer.
            write.data.cycles.eq(counts.cycles + 1),
            write.en.eq(self.store),
            read.addr.eq(self.read_layer),
            read_products.addr.eq(self.read_layer),
            self.counts.events.eq(read.data.events),
            self.counts.cycles.eq(read.data.cycles),
            self.counts.significant.eq(read_products.data),
        ]
        with m.If(counted):
            m.d.sync += [
                self.total.eq(self.total + 1),
                self.lost[cause].eq(self.lost[cause] + idle),
            ]
        events = Signal.like(self.events)
        m.d.sync += [events.eq(self.events), counts.events.eq(counts.events + events)]
        with m.If(self.phase):
            m.d.sync += counts.cycles.eq(counts.cycles + 1)
        with m.If(self.store):
            m.d.sync += counts.eq(0)

        # When a layer has received its last event, the multiplications of the layer before are
        # over. Those of the last layer are over at its own end; so both are written, in turn.
        sums = Signal(data.ArrayLayout(unsigned(WORD_BITS), 2))
        stored = Signal(2)
        over = Signal.like(self.layer)
        m.d.sync += [
            stored.eq(Cat(self.store, stored[0])),
            over.eq(Mux(self.store, self.layer - 1, over + 1)),
            *(sums[i].eq(sums[i] + busy[i]) for i in range(2)),
        ]
        m.d.comb += [
            write_products.addr.eq(over),
            write_products.data.eq(sums[over[0]]),
            write_products.en.eq(stored.any()),
        ]
        with m.If(stored[0]):
            m.d.sync += sums[over[0]].eq(0)
        with m.If(self.clear):
            m.d.sync += [counts.eq(0), sums.eq(0), self.total.eq(0), self.lost.eq(0)]
        return m
