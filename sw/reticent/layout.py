"""What host and hardware must agree on: rows of the device's memories, registers, result packets.

Everything here is derived from the build configuration. The gateware makes its structs from
`row_fields`, the compiler packs rows with `pack`, the driver addresses them with `address`; no
width or offset is typed twice. `docs/architecture.md` has the same in prose.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .arithmetic import THRESHOLD_MAX
from .config import BuildConfig

__all__ = [
    "COPY_SHIFT",
    "DEVICE_ID",
    "DEVICE_VERSION",
    "INDEX_BITS",
    "LANE_SHIFT",
    "LOADED",
    "LOST_CAUSES",
    "SPACE_SHIFT",
    "THRESHOLD_BITS",
    "WORD_BITS",
    "Fields",
    "Register",
    "ResultLayout",
    "Space",
    "address",
    "copies",
    "pack",
    "row_fields",
    "row_words",
    "unpack",
    "word_index_bits",
]

WORD_BITS = 32  # commands, replies and results move words of this width
DEVICE_ID = int.from_bytes(b"RTCN", "big")
DEVICE_VERSION = 2  # of the registers and packets on this page
THRESHOLD_BITS = THRESHOLD_MAX.bit_length()
TAP_BITS = 4  # kernel taps of one phase: ceil(kernel / stride), at most 15
SHIFT_BITS = 5  # requantisation shift, 1..31
CHANNELS_MAX = 255  # of a frame

# An address is space | lane | row and word: [31:28], [27:22], [21:0].
SPACE_SHIFT, LANE_SHIFT, INDEX_BITS = 28, 22, 22
# What exists once for each stream is written to all of them, and read from the one that the upper
# bits of the index name, [21:19].
COPY_SHIFT = 19

Ints = npt.NDArray[np.int64]
Fields = tuple[tuple[str, int, bool], ...]  # (name, bits, signed), least significant first


class Space(enum.IntEnum):
    """Address spaces of the command port. The first four are the same for all lanes.

    Words that a row does not have read as zero.
    """

    REGISTER = 0
    LAYER = 1  # the sequencer's table: one row a layer
    ROW = 2  # y coordinate of an event -> kernel taps and output rows
    COLUMN = 3  # x coordinate of an event -> kernel taps and output columns
    POINTER = 4  # of a lane: kernel tap -> first stored weight
    WEIGHT = 5  # of a lane: stored weights
    CHANNEL = 6  # of a lane: bias and multiplier of its output channels
    STATE_EVEN = 7  # of a lane, read only: word 0 the accumulator, word 1 `sent`
    STATE_ODD = 8


LOADED = tuple(Space)[Space.LAYER : Space.STATE_EVEN]  # memories that an image fills


class Register(enum.IntEnum):
    """Registers. The first group is read only, the others take effect at the next frame."""

    ID = 0
    VERSION = 1
    BUILD_HASH = 2
    STATUS = 3  # bit 0: a frame is being worked on; bit 1: initialising

    RESTART = 8  # any write: abandon a frame, forget all state, start an episode
    LAYERS = 9
    OUTPUTS = 10
    HEIGHT = 11
    WIDTH = 12
    CHANNELS = 13
    STACK = 14
    REPEAT_FIRST = 15  # 1: frames before the first are copies of it; 0: zeros
    THRESHOLD = 16  # THRESHOLD + i: on the input of layer i


LOST_CAUSES = ("no event", "fifo full", "layer tail", "sequencer")


def _bits(count: int) -> int:
    return max(1, (count - 1).bit_length())


def row_fields(config: BuildConfig, space: Space) -> Fields:
    """Fields of one row of a memory, least significant first."""
    c = config
    channels = _bits(c.channel_depth + 1)
    fields: dict[Space, Fields] = {
        Space.LAYER: (
            ("pointer_base", c.pointer_address_bits, False),
            ("taps", c.pointer_address_bits, False),  # pointers of one input slot: ky * kx
            ("row_base", c.position_bits, False),  # first row of this layer in ROW
            ("column_base", c.position_bits, False),
            ("rows", _bits(c.map_rows + 1), False),  # of the output map
            ("columns", _bits(c.map_columns + 1), False),
            ("channels", channels, False),  # output channels of each lane
            ("row_stride", _bits(c.state_depth + 1), False),  # columns * channels
            ("state_base", c.state_address_bits, False),
            ("channel_base", channels, False),
            ("shift", SHIFT_BITS, False),
            ("signed", 1, False),
            ("local", 1, False),  # each lane multiplies its own events; outputs are sums
        ),
        # Taps are numbered slot by slot, in a slot group by group (y group first; see `fold.Axis`),
        # in a group row by row. `before` counts the taps of earlier groups, `taps` those of this
        # group, `first` and `count` say which of them have their output on the map; `base` is the
        # address of tap 0's output, `start` the first output row or column that is touched.
        Space.ROW: (
            ("before", c.pointer_address_bits, False),
            ("taps", TAP_BITS, False),
            ("first", TAP_BITS, False),
            ("count", TAP_BITS, False),
            ("base", c.base_bits, False),
            ("start", _bits(c.map_rows), False),
        ),
        Space.COLUMN: (
            ("before", c.position_bits, False),
            ("taps", TAP_BITS, False),
            ("first", TAP_BITS, False),
            ("count", TAP_BITS, False),
            ("base", c.base_bits, False),
            ("start", _bits(c.map_columns), False),
        ),
        Space.POINTER: (("start", c.weight_address_bits, False),),
        Space.WEIGHT: (
            ("weight", c.weight_bits, True),
            ("relative", c.relative_bits, False),
        ),
        Space.CHANNEL: (
            ("bias", c.accumulator_bits, True),
            ("multiplier", c.multiplier_bits, False),
            # A class of a folded map may have no neurons in its last row or column: see `fold`.
            ("short_rows", 1, False),
            ("short_columns", 1, False),
        ),
        Space.STATE_EVEN: (("acc", c.accumulator_bits, True), ("sent", 8, False)),
    }
    fields[Space.STATE_ODD] = fields[Space.STATE_EVEN]
    return fields[space]


def row_words(config: BuildConfig, space: Space) -> int:
    """Words of one row. Writing the last one stores the row; state has a word for each field."""
    if space in (Space.STATE_EVEN, Space.STATE_ODD):
        return len(row_fields(config, space))
    return -(-sum(bits for _, bits, _ in row_fields(config, space)) // WORD_BITS)


def word_index_bits(config: BuildConfig, space: Space) -> int:
    """Address bits that choose a word of a row."""
    return (row_words(config, space) - 1).bit_length()


def copies(config: BuildConfig, space: Space) -> int:
    """How many memories hold the same rows."""
    return config.streams if space in (Space.ROW, Space.COLUMN, Space.POINTER) else 1


def address(space: Space, index: Any, lane: Any = 0) -> Any:
    """Command address: `index` is a register, or `row << word_index_bits | word`."""
    return (int(space) << SPACE_SHIFT) | (lane << LANE_SHIFT) | index


def pack(config: BuildConfig, space: Space, rows: Mapping[str, Sequence[int] | Ints]) -> Ints:
    """Rows as words: (number of rows, row_words) from one sequence of values per field.

    Raises ValueError when a value does not fit its field: the compiler checks limits first and
    names the remedy, this is the backstop.
    """
    fields = row_fields(config, space)
    if set(rows) != {name for name, _, _ in fields}:
        raise ValueError(
            f"{space.name} rows have fields {[f[0] for f in fields]}, got {list(rows)}"
        )
    columns = [np.asarray(rows[name], np.int64) for name, _, _ in fields]
    words = np.zeros((len(columns[0]), row_words(config, space)), np.int64)
    offset = 0
    for (name, bits, signed), values in zip(fields, columns, strict=True):
        low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
        if values.size and (values.min() < low or values.max() > high):
            odd = values[(values < low) | (values > high)][0]
            raise ValueError(f"{space.name}.{name} is {odd}, outside {low}..{high}")
        unsigned = values & ((1 << bits) - 1)
        word, position = divmod(offset, WORD_BITS)
        words[:, word] |= (unsigned << position) & 0xFFFFFFFF
        if position + bits > WORD_BITS:
            words[:, word + 1] |= unsigned >> (WORD_BITS - position)
        offset += bits
    return words


def unpack(config: BuildConfig, space: Space, words: Ints) -> dict[str, Ints]:
    """The inverse of `pack`: an array of each field from words (..., row_words)."""
    found, offset = {}, 0
    for name, bits, signed in row_fields(config, space):
        word, position = divmod(offset, WORD_BITS)
        value = words[..., word] >> position
        if position + bits > WORD_BITS:
            value = value | (words[..., word + 1] << (WORD_BITS - position))
        value = value & ((1 << bits) - 1)
        found[name] = value - ((value >> (bits - 1)) << bits) if signed else value
        offset += bits
    return found


@dataclass(frozen=True)
class ResultLayout:
    """Words of one result packet, in order.

    Outputs (signed); for each layer events, significant multiplications, cycles; total cycles;
    lost lane-cycles for each of `LOST_CAUSES`.
    """

    outputs: int
    layers: int

    @property
    def words(self) -> int:
        """Length of the packet."""
        return self.outputs + 3 * self.layers + 1 + len(LOST_CAUSES)
