"""The threshold pass: examines the touched neurons of a layer and sends what changed."""

from amaranth import *
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from reticent.arithmetic import DELTA_BITS
from reticent.config import BuildConfig
from reticent.layout import Space

from .interfaces import ScanSignature, event_layout, index_shape, row_layout
from .lane import SCAN_LATENCY

__all__ = ["NeuronScanner", "group_layout"]

# Groups that may be under examination or wait for the serialiser. Examination takes
# SCAN_LATENCY + 2 cycles, so from 8 on it runs at one group a cycle.
GROUPS = 16


def group_layout(config: BuildConfig) -> data.StructLayout:
    """What neuron `k` of every lane sends: `change` counts where `fired`."""
    return data.StructLayout(
        {
            "k": range(config.channel_depth),
            "fired": unsigned(config.lanes),
            "change": data.ArrayLayout(signed(DELTA_BITS), config.lanes),
        }
    )


class NeuronScanner(wiring.Component):
    """Walks the touched positions in raster order, at each through the lanes' channels.

    One group (the same neuron address in every lane) is examined a cycle; groups in which nothing
    fired cost no more. The events leave in the order position, channel of the lane, lane: the
    order does not depend on timing. Throughput one event a cycle.

    With `local` the groups leave whole instead, one a cycle: every lane takes its own event.

    Members
    -------
    start : begin a pass over the layer `source`; one cycle
    source : LAYER row of the layer to examine; stable until `done`
    everything : examine all positions, touched or not; stable until `done`
    row, columns, clear : the layer's touched map
    scan : to the lanes; `fired` and `change` come back from each
    local : send groups, not events; stable from `start` until `done`
    events : what the neurons send
    group : what the neurons with index `k` of their lanes send
    done : the pass is over and its last event was taken
    """

    def __init__(self, config: BuildConfig):
        self._config = config
        c = config
        super().__init__(
            {
                "start": In(1),
                "source": In(row_layout(c, Space.LAYER)),
                "everything": In(1),
                "local": In(1),
                "row": Out(index_shape(c.map_rows)),
                "columns": In(c.map_columns),
                "clear": Out(1),
                "scan": Out(ScanSignature(c)),
                "fired": In(c.lanes),
                "change": In(data.ArrayLayout(signed(DELTA_BITS), c.lanes)),
                "events": Out(stream.Signature(event_layout(c))),
                "group": Out(stream.Signature(group_layout(c))),
                "done": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        source = self.source
        columns_shape = unsigned(c.map_columns)

        # Find the next row with a touched position, one row a cycle.
        searching = Signal()
        search_row = Signal(range(c.map_rows + 1))
        search_base = Signal(c.state_address_bits)
        wanted = Signal(columns_shape)
        found = Signal()
        found_columns = Signal(columns_shape)
        found_row = Signal(index_shape(c.map_rows))
        found_base = Signal(c.state_address_bits)
        take = Signal()
        m.d.comb += [
            self.row.eq(search_row),
            wanted.eq(Mux(self.everything, (1 << source.columns) - 1, self.columns)),
        ]
        with m.If(take):
            m.d.sync += found.eq(0)
        with m.If(self.start):
            m.d.sync += [
                searching.eq(1),
                search_row.eq(0),
                search_base.eq(source.state_base),
            ]
        with m.Elif(searching & (take | ~found)):
            m.d.comb += self.clear.eq(1)
            m.d.sync += [
                found.eq(wanted != 0),
                found_columns.eq(wanted),
                found_row.eq(search_row),
                found_base.eq(search_base),
                search_row.eq(search_row + 1),
                search_base.eq(search_base + source.row_stride),
                searching.eq(search_row + 1 != source.rows),
            ]

        # Issue its groups: column by column (lowest bit first), channel by channel.
        issuing = Signal()
        columns = Signal(columns_shape)
        y = Signal(index_shape(c.map_rows))
        base = Signal(c.state_address_bits)
        k = Signal(range(c.channel_depth))
        column = Signal(index_shape(c.map_columns))
        rest = Signal(columns_shape)
        credit, issue, last_channel, last = Signal(), Signal(), Signal(), Signal()
        for i in reversed(range(c.map_columns)):
            with m.If(columns[i]):
                m.d.comb += column.eq(i)
        m.d.comb += [
            rest.eq(columns & (columns - 1)),
            issue.eq(issuing & credit),
            last_channel.eq(k + 1 == source.channels),
            last.eq(issue & last_channel & (rest == 0)),
            take.eq(found & (~issuing | last)),
        ]
        with m.If(issue):
            m.d.sync += k.eq(Mux(last_channel, 0, k + 1))
            with m.If(last_channel):
                m.d.sync += columns.eq(rest)
        with m.If(take):
            m.d.sync += [
                issuing.eq(1),
                columns.eq(found_columns),
                y.eq(found_row),
                base.eq(found_base),
                k.eq(0),
            ]
        with m.Elif(last):
            m.d.sync += issuing.eq(0)

        # Address of the group, then through the lanes; the coordinates travel along.
        place = data.StructLayout({"y": y.shape(), "x": column.shape(), "k": k.shape()})
        places = [Signal(place, name=f"place_{i}") for i in range(SCAN_LATENCY + 2)]
        addressed = Signal(2)
        group_base = Signal.like(base)
        m.d.comb += [self.scan.valid.eq(addressed[1])]
        m.d.sync += [
            addressed.eq(Cat(issue, addressed[0])),
            places[0].y.eq(y),
            places[0].x.eq(column),
            places[0].k.eq(k),
            group_base.eq(base),
            *(places[i].eq(places[i - 1]) for i in range(1, len(places))),
            self.scan.row.eq(group_base + places[0].x * source.channels + places[0].k),
            self.scan.channel.eq(source.channel_base + places[0].k),
        ]

        # Groups in which something fired wait for the serialiser; the others end here.
        group = data.StructLayout(
            {
                "place": place,
                "fired": unsigned(c.lanes),
                "change": data.ArrayLayout(signed(DELTA_BITS), c.lanes),
            }
        )
        examined = Signal(SCAN_LATENCY)
        m.d.sync += examined.eq(Cat(addressed[1], examined))
        m.submodules.groups = groups = fifo.SyncFIFO(width=Shape.cast(group).width, depth=GROUPS)
        answer, head = Signal(group), Signal(group)
        answered = examined[-1]
        kept = answered & self.fired.any()
        m.d.comb += [
            answer.place.eq(places[-1]),
            answer.fired.eq(self.fired),
            answer.change.eq(self.change),
            groups.w_data.eq(answer),
            groups.w_en.eq(kept),
            head.eq(groups.r_data),
        ]
        outstanding = Signal(range(GROUPS + 1))
        popped = groups.r_en & groups.r_rdy
        m.d.comb += credit.eq(outstanding != GROUPS)
        m.d.sync += outstanding.eq(outstanding + issue - (answered & ~kept) - popped)

        # Serialise: lowest lane first.
        sending = Signal()
        current = Signal(group)
        lane = Signal(index_shape(c.lanes))
        sent, emptied = Signal(), Signal()
        remaining = Signal(c.lanes)
        for i in reversed(range(c.lanes)):
            with m.If(current.fired[i]):
                m.d.comb += lane.eq(i)
        m.d.comb += [
            remaining.eq(current.fired & (current.fired - 1)),
            self.events.valid.eq(sending & ~self.local),
            self.group.valid.eq(sending & self.local),
            self.group.p.k.eq(current.place.k),
            self.group.p.fired.eq(current.fired),
            self.group.p.change.eq(current.change),
            self.events.p.y.eq(current.place.y),
            self.events.p.x.eq(current.place.x),
            self.events.p.slot.eq(current.place.k * c.lanes + lane),
            self.events.p.delta.eq(current.change[lane]),
            sent.eq(sending & Mux(self.local, self.group.ready, self.events.ready)),
            emptied.eq(~sending | (sent & (self.local | (remaining == 0)))),
            groups.r_en.eq(emptied),
        ]
        with m.If(emptied):
            m.d.sync += [sending.eq(groups.r_rdy), current.eq(head)]
        with m.Elif(sent):
            m.d.sync += current.fired.eq(remaining)

        m.d.comb += self.done.eq(
            ~self.start & ~searching & ~found & ~issuing & (outstanding == 0) & ~sending
        )
        return m
