"""The core: everything between the command, pixel and result streams."""

import operator
from functools import reduce

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from reticent.config import BuildConfig

from .bits import sum_of
from .counters import Counters
from .encoder import DeltaEncoder
from .host import HostPort
from .interfaces import LOAD_CHAIN, LoadSignature, command_stream, pixel_stream, result_stream
from .lane import Lane
from .ranges import RangeGenerator
from .scanner import NeuronScanner
from .sequencer import Sequencer
from .touched import TouchedMap

__all__ = ["Core"]


def either(values):
    """Bitwise OR of values."""
    return reduce(operator.or_, values)


def scan_value(scan):
    """A scan without `valid`, as one value."""
    return Cat(scan.row, scan.channel, scan.initialise, scan.last_row, scan.last_column)


class Core(wiring.Component):
    """The accelerator.

    One clock, one reset. Load an image over `commands`, then send frames pixel by pixel and take
    one result packet for each. A frame takes one cycle a pixel to receive, or one cycle for a row
    in which nothing moved; the result follows after the cycles that its counters state.

    Members
    -------
    commands : writes and reads of registers and memories (`reticent.layout`)
    replies : one word for each read command, in order
    pixels : frames, in the order y, x, channel (`interfaces.PixelLayout`)
    results : one packet a frame (`reticent.layout.ResultLayout`), `last` with its last word
    """

    def __init__(self, config: BuildConfig):
        self.config = config
        super().__init__(
            {
                "commands": In(command_stream),
                "replies": Out(stream.Signature(unsigned(32))),
                "pixels": In(pixel_stream),
                "results": Out(result_stream),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self.config

        host = HostPort(c)
        sequencer = Sequencer(c)
        encoder = DeltaEncoder(c)
        generators = [RangeGenerator(c) for _ in range(c.streams)]
        scanner = NeuronScanner(c)
        counters = Counters(c)
        maps = [[TouchedMap(c) for _ in range(c.streams)] for _ in range(2)]
        lanes = [Lane(c) for _ in range(c.lanes)]

        # A restart resets everything but what the host has set.
        restart = ResetInserter(host.restart)
        m.submodules.host = host
        m.submodules.sequencer = restart(sequencer)
        m.submodules.encoder = restart(encoder)
        for i, generator in enumerate(generators):
            m.submodules[f"generator_{i}"] = restart(generator)
            for name, half in zip(("even", "odd"), maps, strict=True):
                m.submodules[f"touched_{name}_{i}"] = restart(half[i])
        m.submodules.scanner = restart(scanner)
        # The lanes are far away: a restart takes its time to reach them, and what they say until
        # then is not counted.
        restarting, uncounted = Signal(2, init=-1), Signal(init=1)
        m.d.sync += [
            restarting.eq(Cat(host.restart, restarting[0])),
            uncounted.eq(host.restart | restarting.any()),
        ]
        m.submodules.counters = ResetInserter(uncounted)(counters)
        for i, lane in enumerate(lanes):
            if hasattr(platform, "share"):
                m.submodules[f"lane_{i}"] = platform.share("reticent_lane", lane)
            else:
                m.submodules[f"lane_{i}"] = lane
            m.d.comb += lane.restart.eq(restarting[0])
            m.d.comb += lane.index.eq(i)

        connect(m, flipped(self.commands), host.commands)
        connect(m, flipped(self.replies), host.replies)
        connect(m, flipped(self.pixels), encoder.pixels)
        connect(m, flipped(self.results), sequencer.results)
        for memory_owner in (sequencer, *generators):
            m.d.comb += [
                getattr(memory_owner.load, name).eq(getattr(host.load, name))
                for name in host.load.signature.members
            ]
        bus = host.load
        for i in range(LOAD_CHAIN):
            before, bus = bus, LoadSignature(c, of_lane=True).create(path=("load", str(i)))
            m.d.sync += [getattr(bus, n).eq(getattr(before, n)) for n in bus.signature.members]
            for lane in lanes[i::LOAD_CHAIN]:
                m.d.comb += [
                    getattr(lane.load, n).eq(getattr(bus, n)) for n in bus.signature.members
                ]

        # Frames.
        m.d.comb += [
            encoder.height.eq(host.height),
            encoder.width.eq(host.width),
            encoder.channels.eq(host.channels),
            encoder.stack.eq(host.stack),
            encoder.repeat_first.eq(host.repeat_first),
            encoder.threshold.eq(host.thresholds[0]),
            encoder.next_frame.eq(sequencer.next_frame),
        ]
        # Registered: a pixel waits for a command that was taken in the cycle before.
        m.d.sync += encoder.enable.eq(
            sequencer.receive
            & ~host.executing
            & ~host.restart
            & ~(self.commands.valid & self.commands.ready)
        )
        in_frame = Signal()
        with m.If(self.pixels.valid & self.pixels.ready):
            m.d.sync += in_frame.eq(1)
        with m.If(sequencer.next_frame | host.restart):
            m.d.sync += in_frame.eq(0)

        # What lanes say is registered where it arrives, then put together. Until a lane that is
        # offered a range is known to be `busy`, the offers themselves say so.
        room = Signal(c.streams)
        rooms, busy = Signal(c.streams * c.lanes), Signal(c.lanes)
        lanes_busy, offering, on_the_way = Signal(), Signal(), Signal(3)
        states = [Signal.like(lane.state, name=f"state_{i}") for i, lane in enumerate(lanes)]
        m.d.sync += [
            rooms.eq(Cat(lane.room[i] for i in range(c.streams) for lane in lanes)),
            *(has.eq(rooms[i * c.lanes : (i + 1) * c.lanes].all()) for i, has in enumerate(room)),
            busy.eq(Cat(lane.busy for lane in lanes)),
            lanes_busy.eq(busy.any()),
            on_the_way.eq(Cat(offering, on_the_way)),
            *(state.eq(lane.state) for state, lane in zip(states, lanes, strict=True)),
        ]

        for i, answer in enumerate(host.answers):
            told = C(0, len(answer))
            for lane in lanes[i * LOAD_CHAIN : (i + 1) * LOAD_CHAIN]:
                told, before = Signal.like(lane.answer, name=f"told_{i}"), told
                m.d.sync += told.eq(lane.answer | before)
            m.d.comb += answer.eq(told)

        # Sequencer.
        m.d.comb += [
            sequencer.layers.eq(host.layers),
            sequencer.outputs.eq(host.outputs),
            sequencer.in_frame.eq(in_frame),
            sequencer.frame_ready.eq(encoder.received | encoder.crowded),
            sequencer.source_done.eq(Cat(encoder.drained, scanner.done)),
            sequencer.waiting.eq(scanner.waiting),
            sequencer.flowing.eq(Cat(generator.busy for generator in generators).any()),
            sequencer.lanes_busy.eq(lanes_busy | offering | on_the_way.any()),
            sequencer.last_taken.eq(encoder.last_taken),
            sequencer.changed.eq(host.changed),
            host.initialising.eq(~sequencer.idle & ~in_frame),
        ]

        # A frame begins with its first pixel, and ends the host's freedom at once.
        m.d.sync += host.free.eq(
            sequencer.idle & ~in_frame & ~host.restart & ~(self.pixels.valid & self.pixels.ready)
        )

        # What the host reads.
        m.d.comb += host.layer_row.eq(sequencer.source)
        with m.Switch(host.load.copy):
            for i, generator in enumerate(generators):
                with m.Case(i):
                    m.d.comb += [
                        host.row_row.eq(generator.row),
                        host.column_row.eq(generator.column),
                    ]

        # Events: from the encoder in phase 0, from the scanner in all others. Their ranges go to
        # all lanes at once. In a local layer the range is the one tap of neuron k, it goes to the
        # lanes of the stream, and each lane brings its own change.
        # All a cycle late, which is long before the first event, group or range.
        from_encoder, local, reads = Signal(), Signal(), Signal()
        local_first, local_end = (
            Signal(c.pointer_address_bits, name=n) for n in ("local_first", "local_end")
        )
        local_base = Signal(c.base_bits)
        m.d.sync += [
            local_first.eq(sequencer.target.pointer_base),
            local_end.eq(sequencer.target.pointer_base + 1),
            local_base.eq(sequencer.target.state_base + sequencer.target.channels - 1),
            local.eq(sequencer.running & sequencer.target.local),
            from_encoder.eq(sequencer.phase == 0),
            reads.eq(host.free),
        ]
        m.d.comb += scanner.local.eq(local)
        blocked, accepted, offers = [], [], []
        per_stream = c.lanes // c.streams
        for i, generator in enumerate(generators):
            group = scanner.groups[i]
            ranges = Signal.like(generator.ranges.p, name=f"ranges_{i}")
            for source, chosen in ((encoder, from_encoder), (scanner, ~from_encoder)):
                with m.If(chosen):
                    m.d.comb += [
                        generator.events.valid.eq(source.events[i].valid),
                        generator.events.payload.eq(source.events[i].payload),
                        source.events[i].ready.eq(generator.events.ready),
                    ]
            m.d.comb += [
                generator.target.eq(sequencer.target),
                generator.layer.eq(sequencer.parity),
                generator.ranges.ready.eq(room[i]),
                group.ready.eq(room[i]),
                ranges.eq(generator.ranges.p),
            ]
            with m.If(local):
                m.d.comb += [
                    ranges.layer.eq(sequencer.parity),
                    ranges.first.eq(local_first + group.p.k),
                    ranges.end.eq(local_end + group.p.k),
                    ranges.base.eq(local_base),
                ]
            with m.If(reads):
                m.d.comb += ranges.first.eq(host.load.row)
            # The broadcast is registered, and so is what is local to a lane: nothing but wires lies
            # between these registers and the lanes.
            common = Signal.like(ranges, name=f"common_{i}")
            for_all = generator.ranges.valid & room[i] & ~host.restart
            m.d.sync += common.eq(ranges)
            for j, lane in enumerate(lanes):
                own = j - i * per_stream
                offer = Signal(name=f"offer_{i}_{j}")
                m.d.comb += [lane.range[i].eq(common), lane.offer[i].eq(offer)]
                m.d.sync += offer.eq(for_all)
                offers.append(offer)
                if 0 <= own < per_stream:
                    delta = Signal.like(ranges.delta, name=f"delta_{j}")
                    mine = group.valid & room[i] & group.p.fired[own] & ~host.restart
                    m.d.sync += [
                        offer.eq(for_all | mine),
                        delta.eq(Mux(group.valid, group.p.change[own], ranges.delta)),
                    ]
                    m.d.comb += lane.range[i].delta.eq(delta)
            blocked.append((generator.ranges.valid | group.valid) & ~room[i])
            accepted.append(generator.events.valid & generator.events.ready)
            # Counted a cycle later than other events: so many at once take long to add.
            together = Signal(range(per_stream + 1), name=f"together_{i}")
            m.d.sync += together.eq(Mux(group.valid & room[i], sum_of(group.p.fired), 0))
            accepted.append(together)
        m.d.comb += [sequencer.blocked.eq(Cat(blocked).any()), offering.eq(Cat(offers).any())]

        # The threshold pass; the sequencer uses its path to the lanes when none runs.
        m.d.comb += [
            scanner.start.eq(sequencer.start),
            scanner.source.eq(sequencer.source),
            scanner.everything.eq(sequencer.everything),
            scanner.finished.eq(Cat(lane.finished for lane in lanes)),
            *(
                fired.eq(Cat(lane.fired[address] for lane in lanes))
                for address, fired in enumerate(scanner.fired)
            ),
        ]
        threshold = Signal.like(host.thresholds[0])
        with m.Switch(sequencer.phase):
            for i in range(c.layers):
                with m.Case(i):
                    m.d.sync += threshold.eq(host.thresholds[i])
        scan, scanned_lanes = Signal.like(scan_value(scanner.scan)), Signal(c.lanes)
        m.d.sync += [
            scan.eq(Mux(sequencer.running, scan_value(scanner.scan), scan_value(sequencer.scan))),
            scanned_lanes.eq(Mux(host.restart, 0, scanner.lanes)),
        ]
        for i, lane in enumerate(lanes):
            m.d.comb += [
                scan_value(lane.scan).eq(scan),
                lane.go.eq(sequencer.running),
                lane.target.eq(sequencer.parity),
                lane.scan.valid.eq(scanned_lanes[i]),
                lane.shift.eq(sequencer.source.shift),
                lane.is_signed.eq(sequencer.source.signed),
                lane.threshold.eq(threshold),
                *(
                    change[i].eq(lane.change[address])
                    for address, change in enumerate(scanner.change)
                ),
                sequencer.state[i].eq(states[i].acc),
            ]

        # The maps of the layer that receives events are marked, the others are read. Outputs are
        # never examined: what they marked would be left for the next frame.
        rows, columns = Signal.like(scanner.touched), Signal.like(scanner.columns)
        for parity, half in enumerate(maps):
            for generator, touched in zip(generators, half, strict=True):
                m.d.comb += [
                    touched.row.eq(scanner.row),
                    touched.clear.eq(sequencer.clear[parity]),
                    touched.mark.row.eq(generator.mark.row),
                    touched.mark.second.eq(generator.mark.second),
                    touched.mark.mask.eq(generator.mark.mask),
                    touched.mark.valid.eq(
                        generator.mark.valid & (sequencer.parity == parity) & ~sequencer.last_phase
                    ),
                ]
            with m.If(sequencer.parity != parity):
                m.d.comb += [
                    rows.eq(either(touched.rows for touched in half)),
                    columns.eq(either(touched.columns for touched in half)),
                ]
        m.d.comb += [scanner.touched.eq(rows), scanner.columns.eq(columns)]

        # A cycle late, which is long before the next frame.
        m.d.sync += counters.clear.eq(sequencer.next_frame)
        m.d.comb += [
            counters.counting.eq(sequencer.counting),
            counters.phase.eq(sequencer.running),
            counters.store.eq(sequencer.store),
            counters.layer.eq(sequencer.phase),
            counters.events.eq(sum_of(accepted)),
            counters.multiplies.eq(Cat(lane.multiplies for lane in lanes)),
            counters.parities.eq(Cat(lane.layer for lane in lanes)),
            counters.cause.eq(sequencer.cause),
            counters.read_layer.eq(sequencer.read_layer),
            sequencer.counts.eq(counters.counts),
            sequencer.total.eq(counters.total),
            sequencer.lost.eq(counters.lost),
        ]
        return m
