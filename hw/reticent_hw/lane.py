"""A lane: one multiplier, the stored weights of its output channels, and their neurons."""

from amaranth import *
from amaranth.lib import data, fifo, memory, wiring
from amaranth.lib.wiring import In, Out

from reticent.arithmetic import DELTA_BITS, activation_range
from reticent.config import BuildConfig
from reticent.layout import SHIFT_BITS, THRESHOLD_BITS, Space

from .interfaces import LoadSignature, ScanSignature, range_layout, row_layout
from .memory import LoadedMemory

__all__ = ["SCAN_LATENCY", "Lane", "Requantiser"]

SCAN_LATENCY = 4  # cycles from ScanSignature.valid to `fired`


class Requantiser(wiring.Component):
    """Requantise + ReLU + threshold comparator of one neuron a cycle.

    `change = activation - sent`, and `fired` when its magnitude exceeds `threshold`;
    the rule is `reticent.arithmetic.requantise`. Latency 3 cycles, throughput one a cycle.

    Members
    -------
    acc, multiplier, sent : the neuron (`sent` as stored: 8 bits of either signedness)
    shift, is_signed, threshold : of its layer; stable while neurons are in flight
    fired, change, activation : three cycles later
    """

    def __init__(self, config: BuildConfig):
        self._config = config
        super().__init__(
            {
                "acc": In(signed(config.accumulator_bits)),
                "multiplier": In(config.multiplier_bits),
                "sent": In(8),
                "shift": In(SHIFT_BITS),
                "is_signed": In(1),
                "threshold": In(THRESHOLD_BITS),
                "fired": Out(1),
                "change": Out(signed(DELTA_BITS)),
                "activation": Out(8),
            }
        )

    def elaborate(self, platform):
        m = Module()

        acc, multiplier = Signal.like(self.acc), Signal.like(self.multiplier)
        product = Signal(signed(len(self.acc) + len(self.multiplier)))
        sent = [Signal(8, name=f"sent_{i}") for i in range(3)]
        m.d.sync += [
            acc.eq(self.acc),
            multiplier.eq(self.multiplier),
            product.eq(acc * multiplier),
            sent[0].eq(self.sent),
            sent[1].eq(sent[0]),
            sent[2].eq(sent[1]),
        ]

        # (p + 2**(r-1)) >> r is ((p >> (r-1)) + 1) >> 1: no rounding constant to shift.
        scaled = Signal.like(product)
        rounded = Signal(signed(len(product) + 1))
        clipped = Signal(signed(DELTA_BITS))
        m.d.comb += [
            scaled.eq(product >> (self.shift - 1).as_unsigned()),
            rounded.eq((scaled + 1) >> 1),
        ]
        for signedness in (False, True):
            low, high = activation_range(signedness)
            with m.If(self.is_signed == signedness):
                m.d.comb += clipped.eq(Mux(rounded < low, low, Mux(rounded > high, high, rounded)))
        activation = Signal(signed(DELTA_BITS))
        m.d.sync += activation.eq(clipped)

        before = Signal(signed(DELTA_BITS))
        magnitude = Signal(DELTA_BITS)
        m.d.comb += [
            before.eq(Cat(sent[2], sent[2][7] & self.is_signed).as_signed()),
            self.change.eq(activation - before),
            magnitude.eq(Mux(self.change < 0, -self.change, self.change)),
            self.fired.eq(magnitude > self.threshold),
            self.activation.eq(activation),
        ]
        return m


class Lane(wiring.Component):
    """One lane.

    A broadcast range costs one cycle to look up and waits in a FIFO; ranges that hold no weight
    of this lane are dropped there and cost it nothing. From the FIFO one stored weight a cycle is
    fetched, multiplied and accumulated, without a bubble between ranges and without stalls: an
    accumulator that is still on its way to memory is forwarded. From the fetch of a weight to the
    write of its accumulator 4 cycles pass.

    Two state memories hold the neurons of even and of odd layers: while one accumulates
    (`target`), the threshold pass (`scan`) works on the other.

    All lanes are alike, so that they can share one module in an exported design.

    Members
    -------
    index : number of this lane, constant
    offer, range : a range for every lane; only while all lanes have `room`
    room : two more ranges may be offered
    target : parity of the layer that accumulates; `scan` has the other one
    scan, fired, change : see `ScanSignature`
    shift, is_signed, threshold : of the layer that is scanned
    state : row that was at `scan.row` one cycle ago
    multiplies : a stored weight is fetched in this cycle (each fetch is one multiplication)
    busy : ranges or multiplications are in flight
    """

    def __init__(self, config: BuildConfig):
        self._config = config
        super().__init__(
            {
                "index": In(config.lane_bits),
                "load": In(LoadSignature(config)),
                "offer": In(1),
                "range": In(range_layout(config)),
                "room": Out(1),
                "target": In(1),
                "scan": In(ScanSignature(config)),
                "shift": In(SHIFT_BITS),
                "is_signed": In(1),
                "threshold": In(THRESHOLD_BITS),
                "fired": Out(1),
                "change": Out(signed(DELTA_BITS)),
                "state": Out(row_layout(config, Space.STATE_EVEN)),
                "multiplies": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config

        def loaded(name: str, space: Space, depth: int) -> LoadedMemory:
            m.submodules[name] = rows = LoadedMemory(c, space, depth, of_lane=True)
            m.d.comb += rows.lane.eq(self.index)
            wiring.connect(m, wiring.flipped(self.load), rows.load)
            return rows

        pointers = loaded("pointers", Space.POINTER, c.pointer_depth)
        weights = loaded("weights", Space.WEIGHT, c.weight_depth)
        channels = loaded("channels", Space.CHANNEL, c.channel_depth)

        # Look the range up; keep it if it holds a weight.
        first, end = pointers.read_port(), pointers.read_port()
        waiting = data.StructLayout(
            {
                "cursor": unsigned(c.weight_address_bits),
                "end": unsigned(c.weight_address_bits),
                "base": unsigned(c.base_bits),
                "delta": signed(DELTA_BITS),
            }
        )
        m.submodules.fifo = queue = fifo.SyncFIFO(
            width=Shape.cast(waiting).width, depth=c.fifo_depth
        )
        looked_up = Signal()
        found = Signal(waiting)
        m.d.comb += [
            first.addr.eq(self.range.first),
            end.addr.eq(self.range.end),
            found.cursor.eq(first.data.start),
            found.end.eq(end.data.start),
            queue.w_data.eq(found),
            queue.w_en.eq(looked_up & (first.data.start != end.data.start)),
            # One range may be in the look-up, and one is being offered.
            self.room.eq(queue.level <= c.fifo_depth - 2),
        ]
        m.d.sync += [
            looked_up.eq(self.offer),
            found.base.eq(self.range.base),
            found.delta.eq(self.range.delta),
        ]

        # Fetch one stored weight a cycle.
        active = Signal()
        current = Signal(waiting)
        following = Signal(waiting)
        exhausted = Signal()
        weight = weights.read_port()
        m.d.comb += [
            following.eq(queue.r_data),
            exhausted.eq(current.cursor + 1 == current.end),
            queue.r_en.eq(~active | exhausted),
            weight.addr.eq(current.cursor),
            self.multiplies.eq(active),
        ]
        with m.If(queue.r_en):
            m.d.sync += [active.eq(queue.r_rdy), current.eq(following)]
        with m.Else():
            m.d.sync += current.cursor.eq(current.cursor + 1)

        # Multiply: weight and address are known one cycle after the fetch, and registered.
        fetched, ready, multiplied, summed = (
            Signal(name=n) for n in ("fetched", "ready", "multiplied", "summed")
        )
        base, delta = Signal(c.base_bits), Signal(signed(DELTA_BITS))
        row, factor, change = Signal(c.state_address_bits), Signal.like(delta), Signal.like(delta)
        product = Signal(signed(c.weight_bits + DELTA_BITS))
        m.d.sync += [
            fetched.eq(active),
            base.eq(current.base),
            delta.eq(current.delta),
            ready.eq(fetched),
            row.eq(base - weight.data.relative),
            factor.eq(weight.data.weight),
            change.eq(delta),
            multiplied.eq(ready),
            product.eq(factor * change),
        ]

        # Accumulate. A row is read while it is `ready`, summed when `multiplied`, written when
        # `summed`: the two rows ahead may not be in memory yet, so their sums are forwarded.
        sums = [Signal(signed(c.accumulator_bits), name=f"sum_{i}") for i in range(2)]
        rows = [Signal(c.state_address_bits, name=f"row_{i}") for i in range(2)]
        same = [Signal(name=f"same_{i}") for i in range(2)]
        old = Signal(row_layout(c, Space.STATE_EVEN))
        operand = Signal(signed(c.accumulator_bits))
        updated = Signal.like(old)
        m.d.comb += operand.eq(Mux(same[0], sums[0], Mux(same[1], sums[1], old.acc)))
        m.d.sync += [
            rows[0].eq(row),
            rows[1].eq(rows[0]),
            summed.eq(multiplied),
            same[0].eq((row == rows[0]) & multiplied),
            same[1].eq((row == rows[1]) & summed),
            sums[0].eq(operand + product),
            sums[1].eq(sums[0]),
            updated.sent.eq(old.sent),
        ]

        # The threshold pass.
        m.submodules.requantiser = requantiser = Requantiser(c)
        channel = channels.read_port()
        scanned = Signal(row_layout(c, Space.STATE_EVEN))
        stages = Signal(SCAN_LATENCY)
        initialise = Signal()
        behind = [
            Signal(
                data.StructLayout({"row": row.shape(), "acc": scanned.acc.shape()}),
                name=f"behind_{i}",
            )
            for i in range(SCAN_LATENCY)
        ]
        m.d.comb += [
            channel.addr.eq(self.scan.channel),
            requantiser.acc.eq(scanned.acc),
            requantiser.sent.eq(scanned.sent),
            requantiser.multiplier.eq(channel.data.multiplier),
            requantiser.shift.eq(self.shift),
            requantiser.is_signed.eq(self.is_signed),
            requantiser.threshold.eq(self.threshold),
            self.fired.eq(stages[-1] & requantiser.fired),
            self.change.eq(requantiser.change),
            self.state.eq(scanned),
        ]
        m.d.sync += [
            stages.eq(Cat(self.scan.valid, stages)),
            initialise.eq(self.scan.initialise),
            behind[0].row.eq(self.scan.row),
            behind[1].row.eq(behind[0].row),
            behind[1].acc.eq(scanned.acc),
            *(behind[i].eq(behind[i - 1]) for i in range(2, SCAN_LATENCY)),
        ]

        # Who has which state memory.
        for parity, depth in enumerate((c.state_depth_even, c.state_depth_odd)):
            name = ("even", "odd")[parity]
            state = memory.Memory(shape=row_layout(c, Space.STATE_EVEN), depth=depth, init=[])
            m.submodules[f"state_{name}"] = state
            read, write = state.read_port(), state.write_port()
            with m.If(self.target == parity):
                m.d.comb += [
                    read.addr.eq(row),
                    old.eq(read.data),
                    write.addr.eq(rows[1]),
                    write.data.acc.eq(sums[0]),
                    write.data.sent.eq(updated.sent),
                    write.en.eq(summed),
                ]
            with m.Else():
                m.d.comb += [
                    read.addr.eq(self.scan.row),
                    scanned.eq(read.data),
                    write.addr.eq(behind[-1].row),
                    write.data.acc.eq(behind[-1].acc),
                    write.data.sent.eq(requantiser.activation),
                    write.en.eq(self.fired),
                ]
                with m.If(initialise):
                    m.d.comb += [
                        write.addr.eq(behind[0].row),
                        write.data.acc.eq(channel.data.bias),
                        write.data.sent.eq(0),
                        write.en.eq(1),
                    ]

        m.d.comb += self.busy.eq(
            looked_up | queue.r_rdy | active | fetched | ready | multiplied | summed
        )
        return m
