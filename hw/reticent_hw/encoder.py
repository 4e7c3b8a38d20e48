"""The delta encoder of the input: pixels in, events of all stacked frames out."""

from amaranth import *
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from reticent.arithmetic import DELTA_BITS
from reticent.config import BuildConfig
from reticent.layout import THRESHOLD_BITS

from .bits import product_of, several
from .interfaces import at_least_two, event_layout, index_shape, pixel_stream
from .memory import DeepMemory

__all__ = ["DeltaEncoder"]


class DeltaEncoder(wiring.Component):
    """Compares one pixel a cycle with what was sent last, and queues the events.

    The network sees a stack of frames, but channel k sends now what channel k + 1 sent one frame
    ago. So the memory keeps, for each pixel, what was sent at the last `stack` frames, newest
    first: one comparison makes the newest channel's event, differences of neighbours make the
    others'. A pixel takes one cycle, and one more for each event after its first. A whole row that
    is `same` takes one cycle when none of its pixels has changed in the remembered frames either.

    Members
    -------
    height, width, channels, stack, repeat_first : of the network; see `reticent.layout.Register`
    threshold : T_q of the pixels
    enable : pixels may be taken
    pixels : a frame in the order y, x, channel
    events : of each stream, in turns, events of the frame in the order of the pixels, oldest frame
        first
    last_taken : the last pixel of a frame is taken in this cycle
    received : the whole frame has been taken, and every event is in the queue or gone;
        until `next_frame`
    drained : besides, the queues are empty
    next_frame : begin another frame
    crowded : a queue cannot take the events of many more pixels
    """

    def __init__(self, config: BuildConfig):
        self._config = config
        c = config
        super().__init__(
            {
                "height": In(c.position_bits + 1),
                "width": In(c.position_bits + 1),
                "channels": In(8),
                "stack": In(range(c.stack + 1)),
                "repeat_first": In(1),
                "threshold": In(THRESHOLD_BITS),
                "enable": In(1),
                "pixels": In(pixel_stream),
                "events": Out(stream.Signature(event_layout(c))).array(c.streams),
                "last_taken": Out(1),
                "received": Out(1),
                "drained": Out(1),
                "next_frame": In(1),
                "crowded": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config

        # What follows from the settings, in registers because it is used deep in logic.
        highest = Signal(
            data.StructLayout({"y": c.position_bits, "x": c.position_bits, "channel": unsigned(8)})
        )
        row_pixels = Signal(index_shape(c.frame_depth + 1))
        first_slots = [Signal(c.slot_bits, name=f"first_slot_{age}") for age in range(c.stack)]
        frames_before = [Signal.like(self.stack, name=f"before_{age}") for age in range(c.stack)]
        m.d.sync += [
            highest.y.eq(self.height - 1),
            highest.x.eq(self.width - 1),
            highest.channel.eq(self.channels - 1),
            row_pixels.eq(product_of(self.width, self.channels)),
            *(
                older.eq((self.stack - 1 - age)[: len(self.stack)])
                for age, older in enumerate(frames_before)
            ),
            *(
                slot.eq(product_of(self.channels, older))
                for older, slot in zip(frames_before, first_slots, strict=True)
            ),
        ]

        # Position of the next pixel.
        y, x, channel = Signal(c.position_bits), Signal(c.position_bits), Signal(8)
        index = Signal(index_shape(c.frame_depth))
        first_frame = Signal(init=1)
        complete = Signal()
        last_channel, last_x, last_y = Signal(), Signal(), Signal()
        taken = Signal()
        move = Signal()  # the stage behind is free

        # `rest` is carried out here: the row is skipped when it is quiet, else walked through.
        # `skips`: what is taken now is a whole row.
        walking, skips = Signal(), Signal()
        # Whether this row is quiet is known in a register, because much depends on it: this row and
        # the next two are looked up, and a cycle later one of them is the row to come.
        quiet, row_ended = Signal(), Signal()
        looked_up = [Signal(name=f"looked_up_{i}") for i in range(3)]
        quiet_writes = []
        for i, ahead in enumerate(looked_up):
            m.submodules[f"quiet_{i}"] = rows = memory.Memory(
                shape=unsigned(1), depth=c.map_depth, init=[]
            )
            port = rows.read_port(domain="comb")
            m.d.comb += port.addr.eq(y + i)
            m.d.sync += ahead.eq(port.data)
            quiet_writes.append(rows.write_port())
        this, following = (Mux(row_ended, looked_up[i + 1], looked_up[i]) for i in range(2))
        m.d.sync += [row_ended.eq(taken & last_x & ~last_y), quiet.eq(this)]
        with m.If(taken & last_x):
            m.d.sync += quiet.eq(following)
        begins_row = (x == 0) & (channel == 0)
        rest = self.pixels.p.same & self.pixels.p.rest
        accepted = Signal()
        m.d.comb += [
            last_channel.eq(channel == highest.channel),
            last_x.eq((last_channel & (x == highest.x)) | skips),
            last_y.eq(last_x & (y == highest.y)),
            self.pixels.ready.eq(self.enable & ~complete & move & ~walking),
            accepted.eq(self.pixels.ready & self.pixels.valid),
            skips.eq(~walking & rest & begins_row & quiet),
            taken.eq(accepted | (walking & move)),
            self.last_taken.eq(taken & last_y),
        ]
        with m.If(accepted):
            m.d.sync += walking.eq(rest & ~last_x)
        with m.If(taken):
            m.d.sync += [
                # Both sums are worked out, for `skips` is known late.
                index.eq(Mux(last_y, 0, Mux(skips, index + row_pixels, index + 1))),
                channel.eq(Mux(last_channel | skips, 0, channel + 1)),
                complete.eq(last_y),
            ]
            with m.If(last_channel | skips):
                m.d.sync += x.eq(Mux(last_x, 0, x + 1))
            with m.If(last_x):
                m.d.sync += [y.eq(Mux(last_y, 0, y + 1)), walking.eq(0)]
        with m.If(self.next_frame):
            m.d.sync += [complete.eq(0), first_frame.eq(0)]

        # Stages 1 to 4, each moves when the next one is free: memory answers, its answer is here in
        # stage 2; the newest frame is compared; the new history is put together.
        history = data.ArrayLayout(unsigned(8), c.stack)
        m.submodules.history = sent = DeepMemory(shape=history, depth=at_least_two(c.frame_depth))
        read, write = sent.read_port(), sent.write_port()
        place = data.StructLayout({"y": y.shape(), "x": x.shape(), "channel": channel.shape()})
        stage = data.StructLayout(
            {
                "pixel": unsigned(8),
                "same": unsigned(1),
                "ends_row": unsigned(1),
                "row": index.shape(),
                "place": place,
            }
        )
        stages = [Signal(stage, name=f"stage_{i}") for i in range(1, 5)]
        places = [stages[3].place, Signal(place, name="place")]
        valid = [Signal(name=f"valid_{i}") for i in range(1, 5)]
        moves = [Signal(name=f"moves_{i}") for i in range(1, 5)]
        moves_on = Signal()  # stage 4 may leave
        before = [Signal(history, name=f"before_{i}") for i in (3, 4)]
        after = Signal(history)
        newest = Signal(8)
        rise, fall = Signal(signed(DELTA_BITS)), Signal(signed(DELTA_BITS))
        fires = Signal()
        compared = valid[3]
        pixel, ends_row = stages[3].pixel, stages[3].ends_row
        m.d.comb += [
            moves[3].eq(~valid[3] | moves_on),
            *(moves[i].eq(~valid[i] | moves[i + 1]) for i in range(3)),
            move.eq(moves[0]),
            read.addr.eq(index),
            read.en.eq(move),
            read.move.eq(moves[1]),
            rise.eq(stages[2].pixel - before[0][0]),
            fall.eq(before[0][0] - stages[2].pixel),
            newest.eq(Mux(fires, pixel, before[1][0])),
            after[0].eq(newest),
            write.addr.eq(stages[3].row),
            write.data.eq(after),
            write.en.eq(compared & moves_on),
        ]
        for age in range(1, c.stack):
            m.d.comb += after[age].eq(
                Mux(first_frame & self.repeat_first, newest, before[1][age - 1])
            )
        with m.If(moves[0]):
            m.d.sync += [
                valid[0].eq(taken & ~skips),
                stages[0].pixel.eq(self.pixels.p.value),
                stages[0].same.eq(self.pixels.p.same | walking),
                stages[0].ends_row.eq(last_x),
                stages[0].row.eq(index),
                stages[0].place.y.eq(y),
                stages[0].place.x.eq(x),
                stages[0].place.channel.eq(channel),
            ]
        for i in range(1, 4):
            with m.If(moves[i]):
                m.d.sync += [valid[i].eq(valid[i - 1]), stages[i].eq(stages[i - 1])]
        with m.If(moves[2]):
            m.d.sync += before[0].eq(Mux(first_frame, 0, read.data))
        with m.If(moves[3]):
            m.d.sync += [
                before[1].eq(before[0]),
                fires.eq(~stages[2].same & ((rise > self.threshold) | (fall > self.threshold))),
            ]

        # A row is quiet when its next frame brings no event from the frames before.
        moving, row_moved = Signal(), Signal()
        noticed, notice_y, notice_end = Signal(), Signal.like(y), Signal()
        m.d.sync += [
            noticed.eq(compared & moves_on),
            notice_y.eq(places[0].y),
            notice_end.eq(ends_row),
            moving.eq(
                Cat(
                    (after[age] != after[age - 1]) & (age < self.stack) for age in range(1, c.stack)
                ).any()
            ),
        ]
        for quiet_write in quiet_writes:
            m.d.comb += [
                quiet_write.addr.eq(notice_y),
                quiet_write.data.eq(~(moving | row_moved)),
                quiet_write.en.eq(noticed & notice_end),
            ]
        with m.If(noticed):
            m.d.sync += row_moved.eq(~notice_end & (row_moved | moving))

        # Stage 5: the changes of this pixel in all stacked frames, one event a cycle.
        changes = [Signal(signed(DELTA_BITS), name=f"change_{age}") for age in range(c.stack)]
        pending, arising = Signal(c.stack), Signal(c.stack)
        others = Signal(c.stack)
        # Of `pending`, in registers: all stages wait for them.
        some_pending, single = Signal(), Signal()
        first_slot = Signal(c.slot_bits)
        event = Signal(event_layout(c))
        pushed = Signal()
        queues, levels = [], []
        for i in range(c.streams):
            name = f"queue_{i}" if c.streams > 1 else "queue"
            m.submodules[name] = queue = fifo.SyncFIFOBuffered(
                width=Shape.cast(event_layout(c)).width, depth=c.queue_depth // c.streams
            )
            queues.append(queue)
            # What it holds, with the event in the register behind it: block memory is slow.
            level = Signal(range(queue.depth + 1), name=f"level_{i}")
            leaving = Signal(event_layout(c), name=f"leaving_{i}", reset_less=True)
            events = self.events[i]
            m.d.comb += [
                events.payload.eq(leaving),
                queue.r_en.eq(~events.valid | events.ready),
            ]
            with m.If(queue.r_en):
                m.d.sync += [events.valid.eq(queue.r_rdy), leaving.eq(queue.r_data)]
            m.d.sync += level.eq(level + queue.w_en - (events.valid & events.ready))
            levels.append(level)
        turn = Signal(index_shape(c.streams))
        # Registered: a queue has room for one event more than it says.
        room = [Signal(name=f"room_{i}") for i in range(c.streams)]
        m.d.sync += [
            has.eq(level <= queue.depth - 3)
            for has, level, queue in zip(room, levels, queues, strict=True)
        ]
        has_room = Array(room)[turn]
        # Oldest frame first: slots ascend, as everywhere.
        for age in range(c.stack):
            with m.If(pending[age]):
                m.d.comb += [
                    first_slot.eq(first_slots[age]),
                    event.delta.eq(changes[age]),
                    others.eq(pending & ((1 << age) - 1)),
                ]
        m.d.comb += [
            event.y.eq(places[1].y),
            event.x.eq(places[1].x),
            event.slot.eq(first_slot + places[1].channel),
            pushed.eq(some_pending & has_room),
            moves_on.eq(~some_pending | (single & has_room)),
            arising.eq(
                Cat(
                    compared & (age < self.stack) & (after[age] != before[1][age])
                    for age in range(c.stack)
                )
            ),
        ]
        with m.If(moves_on):
            m.d.sync += [
                places[1].eq(places[0]),
                *(changes[age].eq(after[age] - before[1][age]) for age in range(c.stack)),
                pending.eq(arising),
                some_pending.eq(arising.any()),
                single.eq(~several(arising)),
            ]
        with m.Elif(pushed):
            m.d.sync += [
                pending.eq(others),
                some_pending.eq(others.any()),
                single.eq(~several(others)),
            ]

        if c.streams > 1:
            with m.If(pushed):
                m.d.sync += turn.eq(Mux(turn == c.streams - 1, 0, turn + 1))
            with m.If(self.next_frame):
                m.d.sync += turn.eq(0)
        for i, queue in enumerate(queues):
            m.d.comb += [queue.w_data.eq(event), queue.w_en.eq(pushed & (turn == i))]
        m.d.comb += [
            self.received.eq(complete & ~Cat(valid).any() & ~some_pending),
            self.drained.eq(self.received & Cat(level == 0 for level in levels).all()),
            self.crowded.eq(
                Cat(
                    level >= queue.depth - 2 for level, queue in zip(levels, queues, strict=True)
                ).any()
            ),
        ]
        return m
