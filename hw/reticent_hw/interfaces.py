"""Shapes and signatures that the blocks share; all derived from the build configuration."""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import Out

from reticent.arithmetic import DELTA_BITS
from reticent.config import BuildConfig
from reticent.layout import (
    COPY_SHIFT,
    INDEX_BITS,
    LANE_SHIFT,
    LOADED,
    SPACE_SHIFT,
    WORD_BITS,
    Space,
    row_fields,
)

__all__ = [
    "LOAD_CHAIN",
    "CommandLayout",
    "LoadSignature",
    "MarkSignature",
    "PixelLayout",
    "ScanSignature",
    "answer_bits",
    "at_least_two",
    "command_stream",
    "event_layout",
    "index_shape",
    "pixel_stream",
    "range_layout",
    "result_stream",
    "row_layout",
]


def at_least_two(count: int) -> int:
    """`count` for whatever is addressed: Verilog has no vectors of width zero."""
    return max(2, count)


def index_shape(count: int) -> Shape:
    """An index below `count`, of one bit at least."""
    return Shape.cast(range(at_least_two(count)))


def row_layout(config: BuildConfig, space: Space) -> data.StructLayout:
    """One row of a device memory."""
    return data.StructLayout(
        {
            name: signed(bits) if is_signed else unsigned(bits)
            for name, bits, is_signed in row_fields(config, space)
        }
    )


def answer_bits(config: BuildConfig) -> int:
    """Width of the widest row of a lane that the host can read."""
    return max(row_layout(config, space).size for space in Space if space >= Space.POINTER)


def event_layout(config: BuildConfig) -> data.StructLayout:
    """A transmitted change, and the neuron that it belongs to."""
    return data.StructLayout(
        {
            "y": unsigned(config.position_bits),
            "x": unsigned(config.position_bits),
            "slot": unsigned(config.slot_bits),
            "delta": signed(DELTA_BITS),
        }
    )


def range_layout(config: BuildConfig) -> data.StructLayout:
    """A run of kernel taps `first <= tap < end` that an event of `delta` meets.

    The weights of these taps act on the neurons at `base` minus their relative address, in the
    state memory of `layer` (0: of even layers).
    """
    return data.StructLayout(
        {
            "layer": unsigned(1),
            "first": unsigned(config.pointer_address_bits),
            "end": unsigned(config.pointer_address_bits),
            "base": unsigned(config.base_bits),
            "delta": signed(DELTA_BITS),
        }
    )


CommandLayout = data.StructLayout(
    {
        "data": unsigned(WORD_BITS),
        "index": unsigned(INDEX_BITS),
        "lane": unsigned(SPACE_SHIFT - LANE_SHIFT),
        "space": unsigned(32 - SPACE_SHIFT),
        "write": unsigned(1),
    }
)
"""A command: write `data` to an address, or read the word there (one reply)."""

command_stream = stream.Signature(CommandLayout)
PixelLayout = data.StructLayout({"value": unsigned(8), "same": unsigned(1), "rest": unsigned(1)})
"""A pixel: its `value`, or `same`: it is what it was in the frame before; with `rest` this holds
for all that remains of its row. The first frame after a restart or after a change of the input's
threshold must give values."""

pixel_stream = stream.Signature(PixelLayout)
result_stream = stream.Signature(
    data.StructLayout({"data": unsigned(WORD_BITS), "last": unsigned(1)})
)


LOAD_CHAIN = 4
"""The load bus reaches the lanes in so many steps, every step another part of them, and so their
answers come back: lanes are many and far away, the bus is wide, and nothing on it is urgent."""


class LoadSignature(wiring.Signature):
    """The host's way to the memories: the row that its last command names.

    With `valid`, for one cycle, `data` is stored there. Without, and while no frame is worked on,
    the row's owner shows what the memory holds, `host.ANSWER_LATENCY` cycles later at the latest;
    `copy` is the stream whose memory is meant. The bus of a lane is only as wide as a lane's rows.
    """

    def __init__(self, config: BuildConfig, *, of_lane: bool = False):
        widest = max(
            sum(bits for _, bits, _ in row_fields(config, space))
            for space in LOADED
            if space >= Space.POINTER or not of_lane
        )
        super().__init__(
            {
                "valid": Out(1),
                "space": Out(Space),
                "lane": Out(SPACE_SHIFT - LANE_SHIFT),
                "row": Out(COPY_SHIFT),
                "copy": Out(index_shape(config.streams)),
                "data": Out(widest),
            }
        )


class ScanSignature(wiring.Signature):
    """The threshold pass as a lane sees it.

    With `valid`, the lane reads the `requantisers` neurons from `row` on (parameters from `channel`
    on; both are multiples of their number); `SCAN_LATENCY` cycles later it answers on `fired` and
    `change`, an element for each, and has stored the new `sent`; `last_row` and
    `last_column` say where the position lies on its map. With `initialise` instead, the neuron is
    set to its bias. Without either, the row is read and visible on the lane's `state`.
    """

    def __init__(self, config: BuildConfig):
        super().__init__(
            {
                "valid": Out(1),
                "initialise": Out(1),
                "row": Out(config.state_address_bits),
                "channel": Out(range(config.channel_depth)),
                "last_row": Out(1),
                "last_column": Out(1),
            }
        )


class MarkSignature(wiring.Signature):
    """Marks output positions as touched: columns of `mask` in `row`, and in `row + 1` too
    where `second`."""

    def __init__(self, config: BuildConfig):
        super().__init__(
            {
                "valid": Out(1),
                "row": Out(index_shape(config.map_rows)),
                "second": Out(1),
                "mask": Out(config.map_columns),
            }
        )
