"""A lane: one multiplier, the stored weights of its output channels, and their neurons."""

from itertools import pairwise

from amaranth import *
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from reticent.arithmetic import DELTA_BITS, activation_range
from reticent.config import BuildConfig
from reticent.layout import SHIFT_BITS, THRESHOLD_BITS, Space

from .interfaces import (
    LoadSignature,
    ScanSignature,
    answer_bits,
    index_shape,
    range_layout,
    row_layout,
)
from .memory import READ_LATENCY, DeepMemory, LoadedMemory

__all__ = [
    "OFFER_LATENCY",
    "REQUANTISE_LATENCY",
    "ROOM_LATENCY",
    "SCAN_AFTER",
    "SCAN_LATENCY",
    "STATE_LATENCY",
    "TARGET_LATENCY",
    "Lane",
    "Requantiser",
]

REQUANTISE_LATENCY = 7  # cycles from a neuron to `fired`
SCAN_LATENCY = 1 + READ_LATENCY + REQUANTISE_LATENCY  # cycles from ScanSignature.valid to `fired`
STATE_LATENCY = 2 + READ_LATENCY  # cycles from ScanSignature.row to `state`
OFFER_LATENCY = 3 + READ_LATENCY  # cycles from an offer until the range is in the FIFO
ROOM_LATENCY = 1  # cycles from the FIFO's level to `room`
TARGET_LATENCY = 2  # cycles from a change of `target` to a true `finished`
SCAN_AFTER = 3  # cycles from `finished` to the earliest scan


class Requantiser(wiring.Component):
    """Requantise + ReLU + threshold comparator of one neuron a cycle.

    `change = activation - sent`, and `fired` when its magnitude exceeds `threshold`;
    the rule is `reticent.arithmetic.requantise`. Latency `REQUANTISE_LATENCY` cycles, throughput
    one a cycle.

    Members
    -------
    valid : a neuron comes in this cycle; without one nothing fires
    acc, multiplier, sent : the neuron (`sent` as stored: 8 bits of either signedness)
    shift, is_signed, threshold : of its layer; stable while neurons are in flight
    fired, change, activation : of the neuron of `REQUANTISE_LATENCY` cycles ago
    """

    def __init__(self, config: BuildConfig):
        self._config = config
        super().__init__(
            {
                "valid": In(1),
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

        # In two parts, each small enough for one multiplier of a device.
        acc, multiplier = Signal.like(self.acc), Signal.like(self.multiplier)
        product = Signal(signed(len(self.acc) + len(self.multiplier)))
        half = min(len(acc) - 1, len(multiplier))
        # Never reset, so that they may be the multipliers' own registers.
        low = Signal(half + len(multiplier), reset_less=True)
        high = Signal(signed(len(product) - half), reset_less=True)
        m.d.sync += [
            acc.eq(self.acc),
            multiplier.eq(self.multiplier),
            low.eq(acc[:half] * multiplier),
            high.eq(acc[half:].as_signed() * multiplier),
            product.eq(low + (high << half)),
        ]

        # (p + 2**(r-1)) >> r is ((p >> (r-1)) + 1) >> 1: no rounding constant to shift. The shift
        # is made in two steps, its higher bits first.
        places = Signal(SHIFT_BITS)
        coarse, scaled = Signal.like(product), Signal.like(product)
        rounded = Signal(signed(len(product) + 1))
        activation = Signal(signed(DELTA_BITS))
        m.d.comb += scaled.eq(coarse >> places[:2])
        m.d.sync += [
            places.eq(self.shift - 1),
            coarse.eq(product >> Cat(C(0, 2), places[2:])),
            rounded.eq((scaled + 1) >> 1),
        ]
        for signedness in (False, True):
            low, high = activation_range(signedness)
            with m.If(self.is_signed == signedness):
                m.d.sync += activation.eq(
                    Mux(rounded < low, low, Mux(rounded > high, high, rounded))
                )

        sent = [Signal(8, name=f"sent_{i}") for i in range(REQUANTISE_LATENCY - 2)]
        valid = Signal(REQUANTISE_LATENCY - 1)
        # What may be sent again without a change lies between two bounds, known a cycle before.
        sent_before, before = Signal(signed(DELTA_BITS)), Signal(signed(DELTA_BITS))
        lowest, highest = (Signal(signed(DELTA_BITS + 1), name=n) for n in ("lowest", "highest"))
        m.d.comb += sent_before.eq(Cat(sent[-1], sent[-1][7] & self.is_signed).as_signed())
        m.d.sync += [
            valid.eq(Cat(self.valid, valid)),
            sent[0].eq(self.sent),
            *(later.eq(earlier) for earlier, later in pairwise(sent)),
            before.eq(sent_before),
            lowest.eq(sent_before - self.threshold),
            highest.eq(sent_before + self.threshold),
            self.change.eq(activation - before),
            self.fired.eq(valid[-1] & ((activation > highest) | (activation < lowest))),
            self.activation.eq(activation),
        ]
        return m


class Lane(wiring.Component):
    """One lane.

    Ranges arrive on `streams` buses, one a cycle each. They are looked up and wait in the FIFO of
    their bus, `OFFER_LATENCY` cycles later; ranges that hold no weight of this lane are dropped
    there and cost it nothing. From the FIFOs one stored weight a cycle is fetched, multiplied and
    accumulated, without a bubble between ranges and without stalls: an accumulator that is still
    on its way to memory is forwarded. From the fetch of a weight to the write of its accumulator 6
    cycles pass.

    Two state memories hold the neurons of even and of odd layers, each in a bank for each of the
    lane's `requantisers`: neuron n is in bank n % requantisers, and so are the channels'
    parameters. A scan examines neighbouring neurons, one of every bank, in the same cycle. A lane
    may still work on the layer before, while ranges of the `target` already wait behind; it takes
    the older work first, and tells by `finished` when the neurons of the layer before may be
    examined (`scan`).

    Lanes lie far apart. So whatever comes in is registered first, and whatever goes out comes from
    a register. All lanes are alike, so that they can share one module in a design.

    Members
    -------
    restart : forget everything; takes effect a cycle later
    index : number of this lane, constant
    go : weights may be fetched; without it ranges only wait
    offer, range : a range for the lane, on each bus; only while there is `room`
    room : with the ranges that are looked up, one more fits in the FIFO of this bus,
        `ROOM_LATENCY` cycles ago
    target : parity of the layer that receives events; `scan` has the layer before
    finished : nothing is left of the layer before that a scan could come too early for: one that
        comes `SCAN_AFTER` cycles later; follows a change of `target` after `TARGET_LATENCY` cycles
    scan, fired, change : see `ScanSignature`
    shift, is_signed, threshold : of the layer that is scanned
    state : row that was at `scan.row` `STATE_LATENCY` cycles ago
    answer : what this lane holds in the row that the load bus names, zero where the row is not in
        this lane; without `go`, and when `range.first` (of all buses), `scan.row` and
        `scan.channel` are the row for the five cycles before
    multiplies : a stored weight is fetched in this cycle (each fetch is one multiplication)
    layer : parity of the layer that it belongs to
    busy : ranges or multiplications were in flight one cycle ago; an offer is seen two cycles later
    """

    def __init__(self, config: BuildConfig):
        self._config = config
        c = config
        super().__init__(
            {
                "restart": In(1),
                "index": In(c.lane_bits),
                "load": In(LoadSignature(c, of_lane=True)),
                "go": In(1),
                "offer": In(c.streams),
                "range": In(data.ArrayLayout(range_layout(c), c.streams)),
                "room": Out(c.streams),
                "target": In(1),
                "finished": Out(1),
                "scan": In(ScanSignature(c)),
                "shift": In(SHIFT_BITS),
                "is_signed": In(1),
                "threshold": In(THRESHOLD_BITS),
                "fired": Out(c.requantisers),
                "change": Out(data.ArrayLayout(signed(DELTA_BITS), c.requantisers)),
                "state": Out(row_layout(c, Space.STATE_EVEN)),
                "answer": Out(answer_bits(c)),
                "multiplies": Out(1),
                "layer": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        restart = Signal(init=1)
        m.d.sync += restart.eq(self.restart)
        # Not restarted: what was loaded before a restart may still be on its way. `valid` here is
        # for rows of this lane.
        load = self.load.signature.create()
        m.d.sync += [
            *(getattr(load, n).eq(getattr(self.load, n)) for n in load.signature.members),
            load.valid.eq(self.load.valid & (self.load.lane == self.index)),
        ]
        m.submodules.parts = ResetInserter(restart)(self._parts(load))
        return m

    def _parts(self, load):
        m = Module()
        c = self._config

        # Everything that comes from afar.
        def arrived(name: str) -> Signal:
            source = getattr(self, name)
            signal = Signal(source.shape(), name=f"arrived_{name}")
            m.d.sync += signal.eq(source)
            return signal

        go, target, offers, ranges = (arrived(n) for n in ("go", "target", "offer", "range"))
        scan = ScanSignature(c).create()
        m.d.sync += [getattr(scan, n).eq(getattr(self.scan, n)) for n in scan.signature.members]

        def loaded(name: str, space: Space, depth: int) -> LoadedMemory:
            m.submodules[name] = rows = LoadedMemory(c, space, depth, of_lane=True)
            m.d.comb += [getattr(rows.load, n).eq(getattr(load, n)) for n in load.signature.members]
            return rows

        # Rows of neurons and channels lie in banks.
        banks = range(c.requantisers)

        def suffixes(bank: int) -> str:
            return f"_{bank}" if c.requantisers > 1 else ""

        def in_bank(row: Value, bank: int) -> Value:
            return row[: c.bank_bits] == bank if c.bank_bits else C(1)

        weights = loaded("weights", Space.WEIGHT, c.weight_depth)
        channels = []
        for bank in banks:
            rows = loaded(
                f"channels{suffixes(bank)}", Space.CHANNEL, -(-c.channel_depth // c.requantisers)
            )
            m.d.comb += [
                rows.load.row.eq(load.row[c.bank_bits :]),
                rows.load.valid.eq(load.valid & in_bank(load.row, bank)),
            ]
            channels.append(rows.read_port())

        # Look the ranges up; keep those that hold a weight.
        waiting = data.StructLayout(
            {
                "cursor": unsigned(c.weight_address_bits),
                "end": unsigned(c.weight_address_bits),
                "base": unsigned(c.base_bits),
                "delta": signed(DELTA_BITS),
                "layer": unsigned(1),
                "single": unsigned(1),  # holds one weight
            }
        )
        queues, looked_up, heads, entering, starts = [], [], [], [], []
        for i in range(c.streams):
            suffix = f"_{i}" if c.streams > 1 else ""
            pointers = loaded(f"pointers{suffix}", Space.POINTER, c.pointer_depth)
            first, end = pointers.read_port(), pointers.read_port()
            m.submodules[f"fifo{suffix}"] = queue = fifo.SyncFIFO(
                width=Shape.cast(waiting).width, depth=c.fifo_depth
            )
            steps = Signal(READ_LATENCY + 1, name=f"looked_up{suffix}")
            asked = [
                Signal(range_layout(c), name=f"asked{suffix}_{j}") for j in range(READ_LATENCY)
            ]
            found, entry, head = (
                Signal(waiting, name=f"{n}{suffix}") for n in ("found", "entry", "head")
            )
            offered = ranges[i]
            m.d.comb += [
                first.addr.eq(offered.first),
                end.addr.eq(offered.end),
                entry.eq(found),
                entry.single.eq(found.cursor + 1 == found.end),
                queue.w_data.eq(entry),
                queue.w_en.eq(steps[-1] & (found.cursor != found.end)),
                head.eq(queue.r_data),
            ]
            m.d.sync += [
                steps.eq(Cat(offers[i], steps)),
                asked[0].eq(offered),
                *(later.eq(earlier) for earlier, later in pairwise(asked)),
                found.cursor.eq(first.data.start),
                found.end.eq(end.data.start),
                found.base.eq(asked[-1].base),
                found.delta.eq(asked[-1].delta),
                found.layer.eq(asked[-1].layer),
                self.room[i].eq(queue.level <= c.fifo_depth - c.fifo_margin),
            ]
            queues.append(queue)
            heads.append(head)
            starts.append(found.cursor)
            looked_up += [offers[i], steps]
            entering += [
                (offers[i], offered.layer),
                *((steps[j], asked[j].layer) for j in range(READ_LATENCY)),
                (queue.w_en, found.layer),
            ]

        # Fetch one stored weight a cycle. The layer before goes first, then the buses take turns.
        active, last = Signal(), Signal()
        current = Signal(waiting)
        pop = Signal()
        weight = weights.read_port()
        ready_heads, old_heads, wanted = (
            Signal(c.streams, name=n) for n in ("ready_heads", "old_heads", "wanted")
        )
        turn = Signal(index_shape(c.streams))
        m.d.comb += [
            ready_heads.eq(Cat(queue.r_rdy for queue in queues)),
            old_heads.eq(
                Cat(q.r_rdy & (h.layer != target) for q, h in zip(queues, heads, strict=True))
            ),
            wanted.eq(
                Mux(old_heads.any(), old_heads, ready_heads) if c.streams > 1 else ready_heads
            ),
            pop.eq(go & (~active | last)),
            weight.addr.eq(current.cursor),
            self.multiplies.eq(active),
            self.layer.eq(current.layer),
        ]
        with m.If(pop):
            m.d.sync += active.eq(wanted.any())
        with m.Else():
            m.d.sync += [
                current.cursor.eq(Mux(go, current.cursor + 1, load.row)),
                last.eq(current.cursor + 2 == current.end),
            ]
        with m.Switch(turn):
            for start in range(c.streams):
                with m.Case(start):
                    order = [(start + i) % c.streams for i in range(c.streams)]
                    for i in reversed(order):
                        with m.If(pop & wanted[i]):
                            chosen = [queues[j].r_en.eq(int(j == i)) for j in range(c.streams)]
                            m.d.comb += chosen
                            m.d.sync += [
                                current.eq(heads[i]),
                                last.eq(heads[i].single),
                                turn.eq((i + 1) % c.streams),
                            ]

        # Multiply: a weight is `answered` READ_LATENCY cycles after its fetch.
        fetched, _, ready, loaded_row, multiplied, summed = stages = [
            Signal(name=n)
            for n in ("fetched", "answered", "ready", "loaded_row", "multiplied", "summed")
        ]
        layers = [Signal(name=f"layer_{name}") for name in range(len(stages))]
        _, _, ready_layer, _, multiplied_layer, summed_layer = layers
        bases = [Signal(c.base_bits, name=f"base_{i}") for i in range(2)]
        deltas = [Signal(signed(DELTA_BITS), name=f"delta_{i}") for i in range(2)]
        stored = weight.data
        row = Signal(c.state_address_bits)
        factor, change = Signal.like(deltas[0]), Signal.like(deltas[0])
        # Never reset, so that the first may be the multiplier's own register.
        products = [
            Signal(signed(c.weight_bits + DELTA_BITS), name=f"product_{i}", reset_less=True)
            for i in (0, 1)
        ]
        m.d.sync += [
            fetched.eq(active),
            *(later.eq(earlier) for earlier, later in pairwise(stages)),
            layers[0].eq(current.layer),
            *(later.eq(earlier) for earlier, later in pairwise(layers)),
            bases[0].eq(current.base),
            bases[1].eq(bases[0]),
            deltas[0].eq(current.delta),
            deltas[1].eq(deltas[0]),
            row.eq(bases[1] - stored.relative),
            factor.eq(stored.weight),
            change.eq(deltas[1]),
            products[0].eq(factor * change),
            products[1].eq(products[0]),
        ]

        # Accumulate. A row is asked for while it is `ready`, here when `multiplied`, written when
        # `summed`: the three rows ahead may not be in memory yet, so their sums are forwarded.
        sums = [Signal(signed(c.accumulator_bits), name=f"sum_{i}") for i in range(3)]
        rows = [Signal(c.state_address_bits, name=f"row_{i}") for i in range(3)]
        same = [Signal(name=f"same_{i}") for i in range(3)]
        near = [Signal(name=f"near_{i}") for i in range(3)]
        old = Signal(row_layout(c, Space.STATE_EVEN))
        operand = Signal(signed(c.accumulator_bits))
        sents = [Signal(8, name=f"sent_{i}") for i in range(3)]
        behind_valid = (loaded_row, multiplied, summed)
        m.d.comb += operand.eq(
            Mux(same[0], sums[0], Mux(same[1], sums[1], Mux(same[2], sums[2], old.acc)))
        )
        m.d.sync += [
            rows[0].eq(row),
            *(later.eq(earlier) for earlier, later in pairwise(rows)),
            *(
                near[i].eq((row == rows[i]) & (ready_layer == layers[3 + i]) & behind_valid[i])
                for i in range(3)
            ),
            *(same[i].eq(near[i]) for i in range(3)),
            sums[0].eq(operand + products[1]),
            *(later.eq(earlier) for earlier, later in pairwise(sums)),
            # Its memory is written while it is read, so what it reads is anything.
            sents[0].eq(Mux(same[2], sents[2], old.sent)),
            *(later.eq(earlier) for earlier, later in pairwise(sents)),
        ]

        # A scan reads its row SCAN_AFTER + 1 cycles after `finished`, or later: so sums whose
        # weights are already on their way will be in memory in time.
        m.d.sync += self.finished.eq(
            ~(
                old_heads.any()
                | Cat(valid & (layer != target) for valid, layer in entering).any()
                | (active & (current.layer != target))
                | (fetched & (layers[0] != target))
            )
        )

        # The threshold pass: a requantiser for each bank.
        requantisers = []
        for bank in banks:
            m.submodules[f"requantiser{suffixes(bank)}"] = requantiser = Requantiser(c)
            requantisers.append(requantiser)
        scanned = [Signal(row_layout(c, Space.STATE_EVEN), name=f"scanned_{b}") for b in banks]
        flags = data.StructLayout(
            dict.fromkeys(("valid", "initialise", "last_row", "last_column"), 1)
        )
        reading = [Signal(flags, name=f"reading_{i}") for i in range(READ_LATENCY)]
        seen = reading[-1]  # of the rows that are `scanned`
        behind = [
            Signal(
                data.StructLayout(
                    {"row": row.shape(), "acc": data.ArrayLayout(sums[0].shape(), c.requantisers)}
                ),
                name=f"behind_{i}",
            )
            for i in range(READ_LATENCY + REQUANTISE_LATENCY)
        ]
        seen_row = behind[READ_LATENCY - 1].row
        of_layer = {name: arrived(name) for name in ("shift", "is_signed", "threshold")}
        for bank, (channel, requantiser) in enumerate(zip(channels, requantisers, strict=True)):
            # A neuron that the map does not have stays at zero, hence silent.
            missing = Signal(name=f"missing_{bank}")
            m.d.comb += [
                channel.addr.eq(scan.channel[c.bank_bits :]),
                requantiser.valid.eq(seen.valid),
                requantiser.acc.eq(scanned[bank].acc),
                requantiser.sent.eq(scanned[bank].sent),
                missing.eq(
                    (seen.last_row & channel.data.short_rows)
                    | (seen.last_column & channel.data.short_columns)
                ),
                requantiser.multiplier.eq(Mux(missing, 0, channel.data.multiplier)),
                *(getattr(requantiser, name).eq(value) for name, value in of_layer.items()),
                self.fired[bank].eq(requantiser.fired),
                self.change[bank].eq(requantiser.change),
            ]
            with m.If(in_bank(seen_row, bank)):
                m.d.sync += self.state.eq(scanned[bank])
        m.d.sync += [
            *(reading[0][n].eq(getattr(scan, n)) for n in flags.members),
            *(later.eq(earlier) for earlier, later in pairwise(reading)),
            behind[0].row.eq(scan.row),
            *(later.row.eq(earlier.row) for earlier, later in pairwise(behind)),
            *(behind[READ_LATENCY].acc[bank].eq(scanned[bank].acc) for bank in banks),
            *(later.acc.eq(earlier.acc) for earlier, later in pairwise(behind[READ_LATENCY:])),
        ]

        # Who has which state memory: work on the layer that it belongs to, else the scan.
        for parity, depth in enumerate((c.state_depth_even, c.state_depth_odd)):
            for bank, (channel, requantiser) in enumerate(zip(channels, requantisers, strict=True)):
                name = ("even", "odd")[parity] + suffixes(bank)
                state = DeepMemory(
                    shape=row_layout(c, Space.STATE_EVEN), depth=-(-depth // c.requantisers)
                )
                m.submodules[f"state_{name}"] = state
                read, write = state.read_port(), state.write_port()

                def put(address, acc, sent, write=write):
                    return [
                        write.addr.eq(address[c.bank_bits :]),
                        write.data.acc.eq(acc),
                        write.data.sent.eq(sent),
                    ]

                with m.If((multiplied_layer == parity) & in_bank(rows[1], bank)):
                    m.d.comb += old.eq(read.data)
                with m.If(ready & (ready_layer == parity)):
                    m.d.comb += read.addr.eq(row[c.bank_bits :])
                with m.Else():
                    m.d.comb += read.addr.eq(scan.row[c.bank_bits :])
                with m.If(target != parity):
                    m.d.comb += [
                        scanned[bank].eq(read.data),
                        *put(behind[-1].row, behind[-1].acc[bank], requantiser.activation),
                        write.en.eq(requantiser.fired),
                    ]
                    with m.If(seen.initialise):
                        m.d.comb += [
                            *put(seen_row, channel.data.bias, 0),
                            write.en.eq(in_bank(seen_row, bank)),
                        ]
                with m.If(summed & (summed_layer == parity)):
                    m.d.comb += [
                        *put(rows[2], sums[0], sents[0]),
                        write.en.eq(in_bank(rows[2], bank)),
                    ]

        # What the host reads joins here, each part registered behind its memory.
        asked = {
            space: Signal(name=f"asked_{space.name.lower()}")
            for space in (Space.WEIGHT, Space.CHANNEL, Space.POINTER, Space.STATE_EVEN)
        }
        start = Signal(c.weight_address_bits)
        parameters = Signal(row_layout(c, Space.CHANNEL))
        with m.Switch(load.copy):
            for i, value in enumerate(starts):
                with m.Case(i):
                    m.d.comb += start.eq(value)
        states = (Space.STATE_EVEN, Space.STATE_ODD)
        m.d.sync += parameters.eq(0)
        for bank, channel in enumerate(channels):
            with m.If(asked[Space.CHANNEL] & in_bank(load.row, bank)):
                m.d.sync += parameters.eq(channel.data)
        m.d.sync += [
            *(
                signal.eq(
                    (load.lane == self.index)
                    & Cat(load.space == s for s in (states if space in states else (space,))).any()
                )
                for space, signal in asked.items()
            ),
            self.answer.eq(
                Value.cast(parameters)
                | Mux(asked[Space.WEIGHT], Value.cast(stored), 0)
                | Mux(asked[Space.POINTER], start, 0)
                | Mux(asked[Space.STATE_EVEN], Value.cast(self.state), 0)
            ),
        ]

        m.d.sync += self.busy.eq(
            Cat(looked_up).any() | ready_heads.any() | Cat(active, *stages).any()
        )
        return m
