"""From an event to the runs of kernel taps that it meets, and the output positions it touches."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from reticent.config import BuildConfig
from reticent.layout import TAP_BITS, Space

from .bits import product_of
from .interfaces import LoadSignature, MarkSignature, event_layout, range_layout, row_layout
from .memory import LoadedMemory

__all__ = ["RangeGenerator"]


class RangeGenerator(wiring.Component):
    """Events in, tap ranges out.

    The taps of an event form a rectangle in (y tap, x tap). Where no column of it falls off the
    map, the rectangle is one range; otherwise each of its rows is. Two rows of touched output
    positions are marked a cycle. An event takes one cycle in the middle of the map for kernels of
    up to two taps a phase, at most one cycle for each row of taps anywhere. Latency 5 cycles.

    Members
    -------
    target, layer : LAYER row and parity of the layer that receives the events; stable while `busy`
    events : the events
    ranges : the ranges; one is transferred to all lanes at once
    mark : output positions that this event touches
    busy : an event is in flight
    row, column : rows of the tables that the load bus named two cycles ago; while not `busy`
    """

    def __init__(self, config: BuildConfig):
        self._config = config
        super().__init__(
            {
                "load": In(LoadSignature(config)),
                "target": In(row_layout(config, Space.LAYER)),
                "layer": In(1),
                "events": In(stream.Signature(event_layout(config))),
                "ranges": Out(stream.Signature(range_layout(config))),
                "mark": Out(MarkSignature(config)),
                "busy": Out(1),
                "row": Out(row_layout(config, Space.ROW)),
                "column": Out(row_layout(config, Space.COLUMN)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        pointer = c.pointer_address_bits

        for name, space in (("rows", Space.ROW), ("columns", Space.COLUMN)):
            m.submodules[name] = table = LoadedMemory(c, space, c.map_depth)
            wiring.connect(m, wiring.flipped(self.load), table.load)
            if space == Space.ROW:
                row_port = table.read_port()
            else:
                column_port = table.read_port()

        # Five stages; a stage moves when the next one is free.
        valid = [Signal(name=f"valid_{i}") for i in range(5)]
        # The last one is kept as it is, else synthesis makes the others wait for each other.
        free = [Signal(name=f"free_{i}", attrs={"keep": int(i == 4)}) for i in range(5)]
        for i in range(4):
            m.d.comb += free[i].eq(~Cat(valid[i:4]).all() | free[4])
            with m.If(free[i + 1]):
                m.d.sync += valid[i + 1].eq(valid[i])

        # Stage 0: a place for two events, so that `ready` is a register.
        event, spare = Signal(event_layout(c)), Signal(event_layout(c))
        spared, accept = Signal(), Signal()
        m.d.comb += [self.events.ready.eq(~spared), accept.eq(self.events.valid & ~spared)]
        with m.If(free[0]):
            m.d.sync += [
                event.eq(Mux(spared, spare, self.events.p)),
                valid[0].eq(spared | accept),
                spared.eq(0),
            ]
        with m.Elif(accept):
            m.d.sync += [spare.eq(self.events.p), spared.eq(1)]

        # Stage 1: look the coordinates up.
        delta = [Signal.like(event.delta, name=f"delta_{i}") for i in range(3)]
        half = c.slot_bits // 2
        slot_taps_low, slot_taps_high = (
            Signal(pointer, name=f"slot_taps_{name}") for name in ("low", "high")
        )
        m.d.comb += [
            row_port.addr.eq(Mux(valid[0], self.target.row_base + event.y, self.load.row)),
            row_port.en.eq(free[1]),
            column_port.addr.eq(Mux(valid[0], self.target.column_base + event.x, self.load.row)),
            column_port.en.eq(free[1]),
        ]
        with m.If(free[1]):
            m.d.sync += [
                slot_taps_low.eq(product_of(self.target.taps, event.slot[:half])),
                slot_taps_high.eq(product_of(self.target.taps, event.slot[half:])),
                delta[0].eq(event.delta),
            ]

        # Stage 2: the tables' rows, registered because block RAM is slow to answer.
        row, column = self.row, self.column
        slot_taps = Signal(pointer)
        with m.If(free[2]):
            m.d.sync += [
                row.eq(row_port.data),
                column.eq(column_port.data),
                slot_taps.eq(slot_taps_low + (slot_taps_high << half)),
                delta[1].eq(delta[0]),
            ]

        # Stage 3: products.
        whole = Signal()
        phase, inside, size = Signal(pointer), Signal(2 * TAP_BITS), Signal(2 * TAP_BITS)
        base = Signal(c.base_bits)
        origin = Signal(pointer)
        step, repeats, pairs = Signal(TAP_BITS), Signal(TAP_BITS), Signal(TAP_BITS)
        start, mask = Signal.like(row.start), Signal(c.map_columns)
        odd = Signal()
        m.d.comb += whole.eq((column.first == 0) & (column.count == column.taps))
        with m.If(free[3]):
            m.d.sync += [
                origin.eq(self.target.pointer_base + slot_taps + row.before),
                phase.eq(product_of(column.before, row.taps)),
                inside.eq(product_of(column.taps, row.first) + column.first),
                size.eq(Mux(whole, product_of(column.taps, row.count), column.count)),
                step.eq(column.taps),
                repeats.eq(Mux(whole, 1, row.count)),
                pairs.eq((row.count + 1) >> 1),
                odd.eq(row.count[0]),
                base.eq(row.base + column.base),
                start.eq(row.start),
                mask.eq(((1 << column.count) - 1) << column.start),
                delta[2].eq(delta[1]),
            ]
            # An event that reaches no output position ends here.
            with m.If((row.count == 0) | (column.count == 0)):
                m.d.sync += valid[3].eq(0)

        # Stage 4: one range and one pair of rows a cycle.
        first, length, stride = Signal(pointer), Signal.like(size), Signal.like(step)
        ranges_left, pairs_left = Signal(TAP_BITS), Signal(TAP_BITS)
        last_single = Signal()
        mark_row, mark_mask = Signal.like(start), Signal.like(mask)
        range_base, range_delta = Signal.like(base), Signal.like(event.delta)
        offered, moves = Signal(), Signal()
        # What the counters say, in registers: all stages depend on it.
        has_range, has_pair, finishes = Signal(), Signal(), Signal()
        m.d.comb += [
            self.ranges.p.first.eq(first),
            self.ranges.p.end.eq(first + length),
            self.ranges.p.base.eq(range_base),
            self.ranges.p.delta.eq(range_delta),
            self.ranges.p.layer.eq(self.layer),
            offered.eq(valid[4] & has_range),
            self.ranges.valid.eq(offered),
            moves.eq(valid[4] & (~offered | self.ranges.ready)),
            free[4].eq(~valid[4] | (moves & finishes)),
            self.mark.valid.eq(moves & has_pair),
            self.mark.row.eq(mark_row),
            self.mark.second.eq(~((pairs_left == 1) & last_single)),
            self.mark.mask.eq(mark_mask),
            self.busy.eq(Cat(valid).any()),  # the spare event is never alone
        ]
        with m.If(moves):
            m.d.sync += [
                first.eq(first + stride),
                mark_row.eq(mark_row + 2),
                ranges_left.eq(Mux(ranges_left == 0, 0, ranges_left - 1)),
                pairs_left.eq(Mux(pairs_left == 0, 0, pairs_left - 1)),
                has_range.eq(ranges_left > 1),
                has_pair.eq(pairs_left > 1),
                finishes.eq((ranges_left <= 2) & (pairs_left <= 2)),
            ]
        with m.If(free[4]):
            m.d.sync += [
                first.eq(origin + phase + inside),
                length.eq(size),
                stride.eq(step),
                ranges_left.eq(repeats),
                pairs_left.eq(pairs),
                has_range.eq(repeats != 0),
                has_pair.eq(pairs != 0),
                finishes.eq((repeats <= 1) & (pairs <= 1)),
                last_single.eq(odd),
                mark_row.eq(start),
                mark_mask.eq(mask),
                range_base.eq(base),
                range_delta.eq(delta[2]),
            ]
        return m
