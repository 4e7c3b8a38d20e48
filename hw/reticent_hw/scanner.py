"""The threshold pass: examines the touched neurons of a layer and sends what changed."""

from amaranth import *
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from reticent.arithmetic import DELTA_BITS
from reticent.config import BuildConfig
from reticent.layout import Space

from .bits import first_bits, lowest, product_of, several
from .interfaces import ScanSignature, at_least_two, event_layout, index_shape, row_layout
from .lane import SCAN_LATENCY

__all__ = ["EXAMINATION", "GROUPS", "NeuronScanner", "group_layout"]

# Groups that may be under examination or wait for a serialiser. Examination takes
# EXAMINATION cycles, so with some more it runs at one group a cycle.
GROUPS = 32
# From the issue of a group to its answer: addressing, to the lanes, their pass, the way back.
EXAMINATION = 5 + SCAN_LATENCY


def group_layout(config: BuildConfig) -> data.StructLayout:
    """What neuron `k` of every lane of a stream sends: `change` counts where `fired`."""
    lanes = config.lanes // config.streams
    return data.StructLayout(
        {
            "k": range(config.channel_depth),
            "fired": unsigned(lanes),
            "change": data.ArrayLayout(signed(DELTA_BITS), lanes),
        }
    )


class NeuronScanner(wiring.Component):
    """Walks the touched positions in raster order, at each through the lanes' channels.

    One group (the same `requantisers` neighbouring neuron addresses in every lane) is examined a
    cycle; groups in which nothing fired cost no more. A lane takes part as soon as it has
    `finished` the layer: it joins the walk wherever that is, and the walk goes round until every
    lane has seen every group. So the events of lanes that finish early feed all lanes while others
    still work, and no lane waits for the slowest one.

    The lanes are divided among `streams` serialisers, stream i has lanes `i * lanes / streams` and
    following. Each sends the events of its lanes, one a cycle; within a group the lowest address
    goes first, and of it the lowest lane. With `local` the groups leave an address at a time
    instead, one a cycle where something fired: every lane takes its own event.

    Members
    -------
    start : begin a pass over the layer `source`; one cycle
    source : LAYER row of the layer to examine; stable until `done`
    everything : examine all positions, touched or not; stable until `done`
    touched, row, columns : the layer's touched map: marked rows, and the columns of one
    finished : lanes whose neurons may be examined; not looked at in the first
        `lane.TARGET_LATENCY` cycles of a pass
    scan, lanes : a group, and the lanes that it is for; it reaches them in the next cycle, and
        `fired` and `change` of each address come back from each lane
    local : send groups, not events; stable from `start` until `done`
    events : of each stream, what the neurons send
    groups : of each stream, what the neurons with index `k` of their lanes send
    waiting : no lane that has finished is left to examine, others have not finished
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
                "touched": In(at_least_two(c.map_rows)),
                "row": Out(index_shape(c.map_rows)),
                "columns": In(c.map_columns),
                "finished": In(c.lanes),
                "scan": Out(ScanSignature(c)),
                "lanes": Out(c.lanes),
                "fired": In(data.ArrayLayout(c.lanes, c.requantisers)),
                "change": In(
                    data.ArrayLayout(data.ArrayLayout(signed(DELTA_BITS), c.lanes), c.requantisers)
                ),
                "events": Out(stream.Signature(event_layout(c))).array(c.streams),
                "groups": Out(stream.Signature(group_layout(c))).array(c.streams),
                "waiting": Out(1),
                "done": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        source = self.source
        lap, index = Signal(), Signal(range(c.state_depth + 1))  # of the group to be issued

        # Find the next row with a touched position; after the last one the first comes again.
        # `ahead` are the rows still to come in this lap, `fresh` is a lap's first pick.
        wanted_rows, wanted, ahead, others_ahead, following = (
            Signal(len(self.touched), name=n)
            for n in ("wanted_rows", "wanted", "ahead", "others_ahead", "following")
        )
        begun, started, fresh, take = (
            Signal(name=n) for n in ("begun", "started", "fresh", "take")
        )
        last_of_lap, none_ahead = Signal(init=1), Signal(init=1)
        picked, picked_wraps = Signal(), Signal()
        nothing_wanted = Signal()
        # Where it lies. When the place that is issued ends, which is known late, the next one is
        # taken and `found` moves up; a spare one lets the stages before depend on registers alone.
        lying = data.StructLayout(
            {
                "row": self.row.shape(),
                "offset": unsigned(c.state_address_bits),
                "columns": unsigned(c.map_columns),
                "wraps": unsigned(1),
            }
        )
        looked_up, found, spare = (Signal(lying, name=n) for n in ("looked_up", "found", "spare"))
        has_found, has_spare = Signal(), Signal()
        pick, refill, last = Signal(), Signal(), Signal()
        all_rows = first_bits(m, source.rows, c.map_rows, "all_rows")
        all_columns = Signal(c.map_columns)
        every_column = first_bits(m, source.columns, c.map_columns, "every_column")
        m.d.comb += [
            wanted.eq(Mux(self.everything, all_rows, self.touched)),
            pick.eq(started | ~picked | ~has_spare),
            following.eq(Mux(last_of_lap, wanted_rows, others_ahead)),
        ]
        m.d.sync += [
            begun.eq(self.start),
            started.eq(begun),
            wanted_rows.eq(wanted),
            nothing_wanted.eq(~self.everything & (self.touched == 0)),
            all_columns.eq(every_column),
        ]
        with m.If(pick):
            m.d.sync += [
                picked.eq(~none_ahead),
                self.row.eq(lowest(ahead)),
                picked_wraps.eq(fresh),
                fresh.eq(last_of_lap),
            ]
        m.d.comb += [
            looked_up.row.eq(self.row),
            looked_up.offset.eq(product_of(source.row_stride, self.row)),
            looked_up.columns.eq(Mux(self.everything, all_columns, self.columns)),
            looked_up.wraps.eq(picked_wraps),
        ]
        with m.If(~has_spare):
            m.d.sync += spare.eq(looked_up)
        with m.If(refill | ~has_found):
            m.d.sync += [
                found.eq(Mux(has_spare, spare, looked_up)),
                has_found.eq(has_spare | picked),
                has_spare.eq(0),
            ]
        with m.Elif(~has_spare):
            m.d.sync += has_spare.eq(picked)
        with m.If(begun):
            m.d.comb += following.eq(wanted_rows)
            m.d.sync += fresh.eq(1)
        with m.If(begun | pick):
            m.d.sync += [
                ahead.eq(following),
                others_ahead.eq(following & (following - 1)),
                last_of_lap.eq(~several(following)),
                none_ahead.eq(following == 0),
            ]
        # The next row, with its first column (the lowest bit) and the `rest`; `alone` without one.
        place = data.StructLayout(
            {
                "y": self.row.shape(),
                "base": unsigned(c.state_address_bits),
                "column": index_shape(c.map_columns),
                "rest": unsigned(c.map_columns),
                "alone": unsigned(1),
            }
        )

        def first_of(columns):
            return {
                "column": lowest(columns),
                "rest": columns & (columns - 1),
                "alone": ~several(columns),
            }

        ready, upcoming, upcoming_wraps = Signal(), Signal(place), Signal()
        with m.If(refill):
            m.d.sync += [
                ready.eq(has_found),
                upcoming_wraps.eq(found.wraps),
                upcoming.y.eq(found.row),
                upcoming.base.eq(source.state_base + found.offset),
                *(upcoming[name].eq(value) for name, value in first_of(found.columns).items()),
            ]
        with m.If(self.start | begun | started):
            m.d.sync += [has_found.eq(0), has_spare.eq(0), ready.eq(0)]

        # Issue its groups: column by column, channel by channel.
        issuing, current_place = Signal(), Signal(place)
        y, base, column, rest, alone = (
            current_place[n] for n in ("y", "base", "column", "rest", "alone")
        )
        k = Signal(range(c.channel_depth))
        last_channel, issue = Signal(), Signal()
        # Much follows from whether a group is issued in this cycle: so what decides it is known
        # before. `present`: there is one, and credit for it; `ends`: it is the last of its row.
        present, credit, ends = Signal(), Signal(), Signal()
        one_group, two_more = source.channels == c.requantisers, k + 2 * c.requantisers
        following_place = first_of(rest)
        m.d.comb += [
            last.eq(issue & ends),
            take.eq(ready & (~issuing | last)),
            refill.eq(~ready | ~issuing | last),
        ]
        with m.If(issue):
            m.d.sync += [
                k.eq(Mux(last_channel, 0, k + c.requantisers)),
                last_channel.eq(Mux(last_channel, one_group, two_more == source.channels)),
                ends.eq(
                    Mux(
                        last_channel,
                        one_group & following_place["alone"],
                        (two_more == source.channels) & alone,
                    )
                ),
            ]
        # The same for the group's index and its lap, which change with what is taken.
        wrap = ready & upcoming_wraps
        wraps_on, wraps_anew = ends & wrap, ~issuing & wrap
        m.d.sync += [
            index.eq(Mux(issue, Mux(wraps_on, 0, index + 1), Mux(wraps_anew, 0, index))),
            lap.eq(lap ^ Mux(issue, wraps_on, wraps_anew)),
        ]
        with m.If(take | (issue & last_channel)):
            # The rest is worked out first, for `take` is known late.
            m.d.sync += [
                current_place[name].eq(Mux(take, upcoming[name], value))
                for name, value in following_place.items()
            ]
        m.d.sync += present.eq(issuing & credit)
        with m.If(take):
            m.d.sync += [
                issuing.eq(1),
                present.eq(credit),
                y.eq(upcoming.y),
                base.eq(upcoming.base),
                k.eq(0),
                last_channel.eq(one_group),
                ends.eq(one_group & upcoming.alone),
            ]
        with m.Elif(last):
            m.d.sync += [issuing.eq(0), present.eq(0)]
        with m.If(self.start):
            m.d.sync += [issuing.eq(0), present.eq(0)]

        # A lane joins the walk when it has finished, and leaves where it joined, a lap later. When
        # the last one leaves, the group is still issued, for no lane: nothing long may depend on
        # who leaves.
        joining = data.StructLayout({"index": index.shape(), "lap": 1, "lanes": unsigned(c.lanes)})
        m.submodules.joins = joins = fifo.SyncFIFO(
            width=Shape.cast(joining).width, depth=at_least_two(c.lanes)
        )
        # The oldest entry is in a register, the others in the FIFO.
        entry, oldest, some_joined = Signal(joining), Signal(joining), Signal()
        joined = Signal(c.lanes, init=-1)
        active, joiners, remaining, examined = (
            Signal(c.lanes, name=n) for n in ("active", "joiners", "remaining", "examined")
        )
        leave = Signal()
        some_active, all_joined = Signal(), Signal(init=1)
        arrived, finished = Signal(c.lanes), Signal(c.lanes)
        # Whether any lane takes part or has just finished: much follows from it, so it is one bit.
        still_active, eligible = Signal(), Signal()
        m.d.comb += still_active.eq(Mux(present, examined.any(), some_active))
        m.d.sync += [
            arrived.eq(self.finished),
            finished.eq(arrived),
            some_active.eq(still_active),
            eligible.eq(still_active | (arrived & ~joined).any()),
        ]
        m.d.comb += [
            leave.eq(present & some_joined & (oldest.index == index) & (oldest.lap != lap)),
            joiners.eq(Mux(present, finished & ~joined, 0)),
            remaining.eq(active & ~Mux(leave, oldest.lanes, 0)),
            examined.eq(remaining | joiners),
            issue.eq(present & eligible),
            entry.index.eq(index),
            entry.lap.eq(lap),
            entry.lanes.eq(joiners),
            joins.w_data.eq(entry),
            joins.w_en.eq(joiners.any() & some_joined & ~(leave & ~joins.r_rdy)),
            joins.r_en.eq(leave),
        ]
        with m.If(leave | ~some_joined):
            m.d.sync += [
                some_joined.eq(joins.r_rdy | joiners.any()),
                oldest.eq(Mux(joins.r_rdy, joins.r_data, entry)),
            ]
        with m.If(present):
            m.d.sync += [
                joined.eq(joined | joiners),
                all_joined.eq((joined | joiners).all()),
                active.eq(examined),
            ]
        # After a pass nobody joins, not even where nothing was examined.
        with m.If(self.done):
            m.d.sync += [joined.eq(-1), all_joined.eq(1)]
        with m.If(self.start):
            m.d.sync += [joined.eq(0), all_joined.eq(0)]

        # Address of the group, then through the lanes; the coordinates travel along.
        travelling = data.StructLayout({"y": y.shape(), "x": column.shape(), "k": k.shape()})
        places = [Signal(travelling, name=f"place_{i}") for i in range(EXAMINATION)]
        addressed = [Signal(c.lanes, name=f"addressed_{i}") for i in range(3)]
        group_base, column_offset, group_row = (
            Signal.like(base, name=n) for n in ("group_base", "column_offset", "group_row")
        )
        issued = Signal(EXAMINATION)
        answered = issued[-1]
        m.d.comb += [self.lanes.eq(addressed[2]), self.scan.valid.eq(issued[2])]
        m.d.sync += [
            issued.eq(Cat(issue, issued)),
            # Whether it is issued is known late, and lanes are far away.
            addressed[0].eq(examined),
            addressed[1].eq(Mux(issued[0], addressed[0], 0)),
            addressed[2].eq(addressed[1]),
            places[0].y.eq(y),
            places[0].x.eq(column),
            places[0].k.eq(k),
            group_base.eq(base),
            *(places[i].eq(places[i - 1]) for i in range(1, len(places))),
            column_offset.eq(product_of(source.channels, places[0].x)),
            group_row.eq(group_base + places[0].k),
            self.scan.row.eq(group_row + column_offset),
            self.scan.channel.eq(source.channel_base + places[1].k),
            self.scan.last_row.eq(places[1].y + 1 == source.rows),
            self.scan.last_column.eq(places[1].x + 1 == source.columns),
        ]
        # Of each stream, groups in which something fired wait for its serialiser.
        count = c.lanes // c.streams
        # A group's members: the lanes' neurons of its first address, then those of its second.
        members = count * c.requantisers
        # With the lowest member that fired and the others, known before they are needed. `upper`:
        # what is sent of a local group is its second address; `whole`: then nothing else is left.
        group = data.StructLayout(
            {
                "y": y.shape(),
                "x": column.shape(),
                "k": k.shape(),
                "fired": unsigned(members),
                "change": data.ArrayLayout(signed(DELTA_BITS), members),
                "member": index_shape(members),
                "others": unsigned(members),
                "single": unsigned(1),
                "upper": unsigned(1),
                "whole": unsigned(1),
            }
        )
        arrived_fired, arrived_change = Signal.like(self.fired), Signal.like(self.change)
        m.d.sync += [arrived_fired.eq(self.fired), arrived_change.eq(self.change)]
        credits, idle = [], []
        for i in range(c.streams):
            suffix = f"_{i}" if c.streams > 1 else ""
            mine = slice(i * count, (i + 1) * count)
            m.submodules[f"groups{suffix}"] = groups = fifo.SyncFIFO(
                width=Shape.cast(group).width, depth=GROUPS
            )
            answer, head, current = (
                Signal(group, name=f"{name}{suffix}") for name in ("answer", "head", "current")
            )
            outstanding = Signal(range(GROUPS + 1), name=f"outstanding{suffix}")
            some_fired = Signal(name=f"some_fired{suffix}")
            who = Cat(fired[mine] for fired in arrived_fired)
            kept = answered & some_fired
            m.d.sync += some_fired.eq(Cat(fired[mine] for fired in self.fired).any())
            popped = groups.r_en & groups.r_rdy
            lower_fired = who[:count].any()
            upper_fired = who[count:].any() if c.requantisers > 1 else C(0)
            m.d.comb += [
                answer.y.eq(places[-1].y),
                answer.x.eq(places[-1].x),
                answer.k.eq(places[-1].k),
                answer.fired.eq(who),
                Value.cast(answer.change).eq(
                    Cat(
                        Value.cast(change[j])
                        for change in arrived_change
                        for j in range(c.lanes)[mine]
                    )
                ),
                answer.member.eq(lowest(who)),
                answer.others.eq(who & (who - 1)),
                answer.single.eq(~several(who)),
                answer.upper.eq(~lower_fired),
                answer.whole.eq(~(lower_fired & upper_fired)),
                groups.w_data.eq(answer),
                groups.w_en.eq(kept),
                head.eq(groups.r_data),
            ]
            m.d.sync += outstanding.eq(outstanding + issue - (answered & ~kept) - popped)
            credits.append(outstanding <= GROUPS - 2)  # used a cycle later, so one more may be out

            # Serialise: lowest member first.
            sending = Signal(name=f"sending{suffix}")
            member, others = current.member, current.others
            sent, emptied = Signal(name=f"sent{suffix}"), Signal(name=f"emptied{suffix}")
            events, local_groups = self.events[i], self.groups[i]
            # Slots of an address follow those of the one before.
            skip = Mux(member >= count, c.lanes - count, 0) if c.streams > 1 else 0
            m.d.comb += [
                events.valid.eq(sending & ~self.local),
                local_groups.valid.eq(sending & self.local),
                events.p.y.eq(current.y),
                events.p.x.eq(current.x),
                events.p.slot.eq(current.k * c.lanes + i * count + member + skip),
                events.p.delta.eq(current.change[member]),
                sent.eq(sending & Mux(self.local, local_groups.ready, events.ready)),
                emptied.eq(~sending | (sent & Mux(self.local, current.whole, current.single))),
                groups.r_en.eq(emptied),
            ]
            for address in range(c.requantisers):
                here = slice(address * count, (address + 1) * count)
                with m.If(current.upper == address):
                    m.d.comb += [
                        local_groups.p.k.eq(current.k + address),
                        local_groups.p.fired.eq(current.fired[here]),
                        *(
                            local_groups.p.change[j].eq(current.change[address * count + j])
                            for j in range(count)
                        ),
                    ]
            with m.If(emptied):
                m.d.sync += [sending.eq(groups.r_rdy), current.eq(head)]
            with m.Elif(sent):
                m.d.sync += [
                    others.eq(others & (others - 1)),
                    member.eq(lowest(others)),
                    current.single.eq(~several(others)),
                    current.upper.eq(1),
                    current.whole.eq(1),
                ]
            idle.append((outstanding == 0) & ~sending)

        everyone = Signal()
        m.d.comb += [
            credit.eq(Cat(credits).all()),
            everyone.eq(all_joined | nothing_wanted),
            self.waiting.eq(~self.start & ~everyone & ~some_active & Cat(idle).all()),
            self.done.eq(~self.start & everyone & ~some_active & Cat(idle).all()),
        ]
        return m
