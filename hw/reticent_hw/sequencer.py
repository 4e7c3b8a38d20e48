"""The layer sequencer: initialises neurons, runs the layers of a frame, sends the result."""

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from reticent.config import BuildConfig
from reticent.layout import LOST_CAUSES, WORD_BITS, Space

from .bits import sum_of
from .counters import COUNTS
from .interfaces import LoadSignature, ScanSignature, index_shape, result_stream, row_layout
from .lane import STATE_LATENCY
from .memory import LoadedMemory

__all__ = ["PROBE_LATENCY", "Sequencer"]

# Cycles from `scan.row` to the lanes' `state`: to the lanes and back, a register at either end.
PROBE_LATENCY = 2 + STATE_LATENCY


class Sequencer(wiring.Component):
    """Works through the LAYER table once a frame.

    Phase i feeds layer i: its events come from the input encoder (i = 0) or from the threshold
    pass over layer i - 1. A phase ends when its source and the range generators are empty; the
    next one starts 2 cycles later, and each lane goes on to it when it has done its own work. The
    last phase ends when all lanes are empty too. Phase 0 starts when the frame is complete, or when
    the event queue is full; while a frame arrives its first events already go to the lanes and wait
    there. After the last phase the result packet goes out (`layout.ResultLayout`), one word every
    one to six cycles.

    After a reset all neurons are set to their biases first: one row of all lanes a cycle.

    Members
    -------
    layers, outputs : of the network
    in_frame : a pixel of this frame has been taken
    frame_ready : the frame's events are complete, or the queue is full
    source_done : [0] the encoder's queue, [1] the scanner: has nothing left in this phase
    waiting : the scanner waits for lanes that have not finished the layer before
    flowing : an event or a range is in flight between source and lanes
    blocked : a range waits because a lane has no room
    lanes_busy : some lane works
    last_taken : the last pixel of the frame is taken
    last_phase : the output layer receives events
    phase, source, target : the layer that receives events, the LAYER row before it, and its own;
        between frames `source` is the row that the load bus named three cycles ago
    parity : the lanes' `target`; the threshold pass and `scan` have the other state memory
    running : a frame is worked on; from a register, for lanes fetch by it
    start, everything : to the scanner
    touched : layers whose neurons must all be examined (after a threshold was changed)
    scan : to the lanes while no threshold pass runs; between frames neuron, parameters and parity
        are those that the load bus names
    clear : to the touched maps of even and of odd layers
    idle : waits for a frame or its end
    state : the lanes' accumulators, `PROBE_LATENCY` cycles after `scan.row`
    """

    def __init__(self, config: BuildConfig):
        self._config = config
        c = config
        layer_index = range(c.layers + 1)
        super().__init__(
            {
                "load": In(LoadSignature(c)),
                "layers": In(layer_index),
                "outputs": In(range(c.channel_depth * c.lanes + 1)),
                "in_frame": In(1),
                "frame_ready": In(1),
                "source_done": In(2),
                "waiting": In(1),
                "flowing": In(1),
                "blocked": In(1),
                "lanes_busy": In(1),
                "last_taken": In(1),
                "receive": Out(1),
                "next_frame": Out(1),
                "phase": Out(layer_index),
                "last_phase": Out(1),
                "running": Out(1),
                "source": Out(row_layout(c, Space.LAYER)),
                "target": Out(row_layout(c, Space.LAYER)),
                "parity": Out(1),
                "start": Out(1),
                "everything": Out(1),
                "changed": In(c.layers),
                "scan": Out(ScanSignature(c)),
                "clear": Out(2),
                "idle": Out(1),
                "state": In(data.ArrayLayout(signed(c.accumulator_bits), c.lanes)),
                "counting": Out(1),
                "store": Out(1),
                "cause": Out(range(len(LOST_CAUSES))),
                "read_layer": Out(index_shape(c.layers)),
                "counts": In(COUNTS),
                "total": In(32),
                "lost": In(data.ArrayLayout(unsigned(32), len(LOST_CAUSES))),
                "results": Out(result_stream),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config

        m.submodules.table = table = LoadedMemory(c, Space.LAYER, c.layers)
        wiring.connect(m, wiring.flipped(self.load), table.load)
        port = table.read_port()
        upcoming = Signal.like(self.phase)  # `port.data` is this layer's row, one cycle later
        m.d.comb += port.addr.eq(upcoming)

        # All neurons of layer i must be examined: after a reset, or when its threshold changed.
        fresh = Signal(c.layers, init=-1)
        # Of a phase. `settled` stays as it was when the last phase ended.
        first_cycle, settled, ends = Signal(), Signal(), Signal()
        begun = Signal()  # the frame's clock has begun before phase 0
        parity = Signal()
        source_done = Mux(self.phase == 0, self.source_done[0], self.source_done[1])
        # Of registers alone, not of the state, which takes long to decode.
        m.d.comb += [
            self.counting.eq(begun | self.running),
            self.start.eq(first_cycle & (self.phase != 0)),
            ends.eq(self.running & settled & ~first_cycle),
            self.store.eq(ends),
            # What was examined is what the next phase marks.
            self.clear.eq(Mux(ends, Mux(parity, 0b01, 0b10), 0)),
        ]
        with m.If(self.last_taken):
            m.d.sync += begun.eq(1)
        with m.Elif(ends & self.last_phase):
            m.d.sync += begun.eq(0)
        # These follow a cycle later, long before they are looked at.
        last_word, last_lane, last_layer = (
            Signal(name=n) for n in ("last_word", "last_lane", "last_layer")
        )

        causes = {name: i for i, name in enumerate(LOST_CAUSES)}
        with m.If(~self.running):
            m.d.comb += self.cause.eq(causes["sequencer"])
        with m.Elif(self.blocked):
            m.d.comb += self.cause.eq(causes["fifo full"])
        with m.Elif(~self.flowing & (source_done | ((self.phase != 0) & self.waiting))):
            m.d.comb += self.cause.eq(causes["layer tail"])
        with m.Else():
            m.d.comb += self.cause.eq(causes["no event"])

        # Initialisation walks layer by layer through rows and channels.
        walk = Signal(c.state_address_bits)
        map_row = Signal(range(c.map_rows + 1))
        in_row, k = Signal(c.state_address_bits), Signal(range(c.channel_depth))
        row_ends, last_row = Signal(), Signal()  # at the last neuron of a row; in the last row

        # Output k * lanes + lane of the last layer is in lane `lane`; in a local layer output k is
        # the sum over all lanes.
        word, lane = Signal(range(c.channel_depth * c.lanes)), Signal(index_shape(c.lanes))
        local = self.target.local
        answer = Signal(signed(WORD_BITS))
        is_chosen = Signal(c.lanes)
        chosen = [Mux(is_chosen[i], state, 0) for i, state in enumerate(self.state)]
        m.d.sync += [
            self.last_phase.eq(self.phase + 1 == self.layers),
            last_word.eq(word + 1 == self.outputs),
            last_lane.eq(local | (lane == c.lanes - 1)),
            last_layer.eq(self.read_layer + 1 == self.layers),
            is_chosen.eq(Mux(local, -1, 1 << lane)),
        ]
        # Added two by two, a cycle for each step.
        terms, steps = chosen, 0
        while steps == 0 or len(terms) > 1:
            sums = [
                Signal(signed(WORD_BITS), name=f"sum_{steps}_{i}")
                for i in range(-(-len(terms) // 2))
            ]
            m.d.sync += [total.eq(sum_of(terms[2 * i : 2 * i + 2])) for i, total in enumerate(sums)]
            terms, steps = sums, steps + 1
        m.d.comb += answer.eq(terms[0])
        wait = Signal(range(PROBE_LATENCY + steps))
        results = self.results

        def emit(value, *, last=0):
            m.d.comb += [results.valid.eq(1), results.p.data.eq(value), results.p.last.eq(last)]

        # The lanes' own, from registers, for they are far away.
        def turn_to(layer_parity) -> None:
            m.d.sync += [parity.eq(layer_parity), self.parity.eq(layer_parity)]

        with m.If(~self.running):
            m.d.sync += self.source.eq(port.data)
        with m.FSM(name="ctrl"):
            # Long enough for the layer before: its last neuron is on its way.
            with m.State("INIT_FETCH"):
                m.d.sync += wait.eq(1)
                with m.If(wait == 1):
                    m.d.sync += wait.eq(0)
                    m.next = "INIT_LATCH"

            with m.State("INIT_LATCH"):
                m.d.sync += [
                    self.target.eq(port.data),
                    walk.eq(port.data.state_base),
                    map_row.eq(0),
                    in_row.eq(0),
                    k.eq(0),
                ]
                turn_to(~upcoming[0])
                m.next = "INIT_BEGIN"
                with m.If(upcoming >= self.layers):
                    m.d.sync += upcoming.eq(0)
                    m.next = "RELOAD"

            with m.State("INIT_BEGIN"):
                m.d.sync += [
                    row_ends.eq(self.target.row_stride == 1),
                    last_row.eq(self.target.rows == 1),
                ]
                m.next = "INIT_WALK"

            with m.State("INIT_WALK"):
                m.d.comb += [
                    self.scan.initialise.eq(1),
                    self.scan.row.eq(walk),
                    self.scan.channel.eq(self.target.channel_base + k),
                ]
                m.d.sync += [
                    walk.eq(walk + 1),
                    in_row.eq(in_row + 1),
                    k.eq(Mux(k + 1 == self.target.channels, 0, k + 1)),
                ]
                m.d.sync += row_ends.eq(in_row + 2 == self.target.row_stride)
                with m.If(row_ends):
                    m.d.sync += [
                        in_row.eq(0),
                        row_ends.eq(self.target.row_stride == 1),
                        map_row.eq(map_row + 1),
                        last_row.eq(map_row + 2 == self.target.rows),
                    ]
                    with m.If(last_row):
                        m.d.sync += upcoming.eq(upcoming + 1)
                        m.next = "INIT_FETCH"

            with m.State("RELOAD"):
                m.d.sync += wait.eq(1)
                with m.If(wait == 1):
                    m.d.sync += [
                        wait.eq(0),
                        self.target.eq(port.data),
                        self.phase.eq(0),
                    ]
                    turn_to(0)
                    m.next = "RECEIVE"

            with m.State("RECEIVE"):
                m.d.comb += [
                    self.receive.eq(self.layers != 0),
                    self.idle.eq(1),
                    self.scan.row.eq(self.load.row),
                    self.scan.channel.eq(self.load.row),
                ]
                m.d.sync += [
                    upcoming.eq(self.load.row),
                    self.parity.eq(Mux(self.in_frame, parity, self.load.space != Space.STATE_ODD)),
                ]
                with m.If(self.frame_ready):
                    m.d.sync += [upcoming.eq(1), first_cycle.eq(1), self.running.eq(1)]
                    m.next = "RUN"

            with m.State("RUN"):
                m.d.comb += self.receive.eq(self.phase == 0)
                m.d.sync += [
                    first_cycle.eq(0),
                    settled.eq(
                        ~first_cycle
                        & source_done
                        & ~self.flowing
                        & ~(self.last_phase & self.lanes_busy)
                    ),
                ]
                with m.If(ends):
                    m.d.sync += [
                        fresh.bit_select(self.phase, 1).eq(0),
                        self.everything.eq(fresh.bit_select(self.phase + 1, 1)),
                    ]
                    with m.If(self.last_phase):
                        # The result is read through the scan side.
                        turn_to(~parity)
                        m.d.sync += [
                            word.eq(0),
                            lane.eq(0),
                            self.running.eq(0),
                            walk.eq(self.target.state_base),
                        ]
                        m.next = "OUTPUT_READ"
                    with m.Else():
                        m.d.sync += [
                            self.phase.eq(self.phase + 1),
                            self.source.eq(self.target),
                            self.target.eq(port.data),
                            upcoming.eq(upcoming + 1),
                            first_cycle.eq(1),
                            settled.eq(0),
                        ]
                        turn_to(~parity)

            # To the lanes and back, then addition. The row stays addressed: `answer` must
            # not change until it is taken.
            with m.State("OUTPUT_READ"):
                m.d.comb += self.scan.row.eq(walk)
                m.d.sync += wait.eq(wait + 1)
                with m.If(wait == PROBE_LATENCY + steps - 1):
                    m.d.sync += wait.eq(0)
                    m.next = "OUTPUT"

            with m.State("OUTPUT"):
                m.d.comb += self.scan.row.eq(walk)
                emit(answer)
                with m.If(results.ready):
                    m.d.sync += [word.eq(word + 1), lane.eq(lane + 1)]
                    with m.If(last_lane):
                        m.d.sync += [lane.eq(0), walk.eq(walk + 1)]
                    m.next = "OUTPUT_READ"
                    with m.If(last_word):
                        m.d.sync += self.read_layer.eq(0)
                        m.next = "COUNTS_READ"

            with m.State("COUNTS_READ"):
                m.next = "COUNTS_EVENTS"

            for name, value, following in (
                ("COUNTS_EVENTS", self.counts.events, "COUNTS_SIGNIFICANT"),
                ("COUNTS_SIGNIFICANT", self.counts.significant, "COUNTS_CYCLES"),
            ):
                with m.State(name):
                    emit(value)
                    with m.If(results.ready):
                        m.next = following

            with m.State("COUNTS_CYCLES"):
                emit(self.counts.cycles)
                with m.If(results.ready):
                    m.d.sync += self.read_layer.eq(self.read_layer + 1)
                    m.next = "COUNTS_READ"
                    with m.If(last_layer):
                        m.next = "TOTAL"

            with m.State("TOTAL"):
                emit(self.total)
                m.d.sync += word.eq(0)
                with m.If(results.ready):
                    m.next = "LOST"

            with m.State("LOST"):
                emit(self.lost[word[:2]], last=word == len(LOST_CAUSES) - 1)
                with m.If(results.ready):
                    m.d.sync += word.eq(word + 1)
                    with m.If(results.p.last):
                        m.d.comb += self.next_frame.eq(1)
                        m.d.sync += upcoming.eq(0)
                        m.next = "RELOAD"

        # A threshold may be changed between two frames; the change wins over `fresh` clearing.
        for i in range(c.layers):
            with m.If(self.changed[i]):
                m.d.sync += fresh[i].eq(1)
        return m
