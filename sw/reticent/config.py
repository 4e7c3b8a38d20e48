"""The build configuration: everything that is fixed when the hardware is made.

User choices are fields, everything else is derived here and nowhere else; gateware, compiler,
driver and simulation take widths and depths from this object. It imports neither Amaranth nor
torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from .errors import UserError

__all__ = ["IMAGE_VERSION", "BuildConfig"]

IMAGE_VERSION = 1  # of the image file and of the memory contents' meaning


def _bits(count: int) -> int:
    """Width of an unsigned number below `count`, at least 1."""
    return max(1, (count - 1).bit_length())


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Choices of one build. Depths are in rows; `*_depth` of a lane is per lane."""

    lanes: int = 16
    streams: int = 1  # events that are broadcast in one cycle; divides the lanes
    fifo_depth: int = 64  # column ranges that wait in each lane, of each stream
    requantisers: int = 1  # neurons of a lane that are examined in one cycle
    queue_depth: int = 2048  # input events that wait while a frame arrives
    stack: int = 4  # frames that the device can remember
    frame_depth: int = 8192  # bytes of one frame, at most
    layers: int = 8  # layers, at most
    weight_depth: int = 12288  # stored weights of a lane
    pointer_depth: int = 6144  # kernel taps of all layers, for each input channel
    state_depth_even: int = 1024  # neurons of a lane in layers 0, 2, 4, ...
    state_depth_odd: int = 256  # neurons of a lane in layers 1, 3, 5, ...
    channel_depth: int = 128  # output channels of a lane, all layers together
    map_depth: int = 256  # rows (and columns) of all layers' input maps together
    map_rows: int = 32  # height of an output map, at most
    map_columns: int = 32  # width of an output map, at most
    weight_bits: int = 8
    relative_bits: int = 10  # output address of a stored weight, relative to its event
    accumulator_bits: int = 24
    multiplier_bits: int = 16

    def __post_init__(self) -> None:
        limits = {
            "lanes": (1, 64),
            "streams": (1, 8),
            "fifo_depth": (11, 1024),
            "requantisers": (1, 2),
            "queue_depth": (16, 65536),
            "stack": (1, 8),
            "frame_depth": (1, 65536),
            "layers": (1, 15),
            "weight_depth": (2, 1 << 18),
            "pointer_depth": (2, 1 << 16),
            "state_depth_even": (2, 1 << 16),
            "state_depth_odd": (2, 1 << 16),
            "channel_depth": (2, 1 << 12),
            "map_depth": (2, 1 << 12),
            "map_rows": (1, 256),
            "map_columns": (1, 256),
            "weight_bits": (8, 8),
            "relative_bits": (1, 20),
            "accumulator_bits": (12, 32),
            "multiplier_bits": (4, 16),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise UserError(
                    f"build configuration: {name} is {value!r}: give a whole number from "
                    f"{low} to {high}"
                )

        if self.lanes % self.streams:
            raise UserError(
                f"build configuration: {self.streams} streams do not divide {self.lanes} lanes: "
                "give a number of streams that does"
            )
        if self.queue_depth < 8 * self.streams:
            raise UserError(
                f"build configuration: queue_depth is {self.queue_depth}: give at least 8 for each "
                f"of the {self.streams} streams"
            )

    @classmethod
    def for_lanes(cls, lanes: int, **choices: int) -> BuildConfig:
        """The default build spread over another number of lanes: the same memory in all, more
        streams where an event has too few weights for every lane, and two requantisers a lane
        where examining neurons would take longer than the multiplications that they cause.
        """
        base = cls()
        if not isinstance(lanes, int) or not 1 <= lanes <= 64:
            raise UserError(f"lanes is {lanes!r}: give a whole number from 1 to 64")

        def share(depth: int) -> int:
            return max(64, -(-depth * base.lanes // lanes))

        scaled = {
            "streams": math.gcd(lanes, 4)
            if lanes > 32
            else math.gcd(lanes, 2)
            if lanes > 16
            else 1,
            "requantisers": 2 if lanes >= 16 else 1,
            "weight_depth": share(base.weight_depth),
            "state_depth_even": share(base.state_depth_even),
            "state_depth_odd": share(base.state_depth_odd),
            # Every lane may hold all outputs of the last layer, however many lanes there are.
            "channel_depth": max(base.channel_depth, share(base.channel_depth)),
        }
        return cls(lanes=lanes, **{**scaled, **choices})

    # Derived widths: unsigned unless stated.

    @property
    def lane_bits(self) -> int:
        """Index of a lane."""
        return _bits(self.lanes)

    @property
    def fifo_margin(self) -> int:
        """Free places below which a lane's FIFO has no room: ranges that may be on their way when
        that is known, and one more."""
        return 9

    @property
    def weight_address_bits(self) -> int:
        """Position in a lane's weight memory; one more value than rows, for range ends."""
        return _bits(self.weight_depth + 1)

    @property
    def pointer_address_bits(self) -> int:
        """Row of the pointer memory."""
        return _bits(self.pointer_depth)

    @property
    def state_depth(self) -> int:
        """Rows of the deeper of the two state memories."""
        return max(self.state_depth_even, self.state_depth_odd)

    @property
    def bank_bits(self) -> int:
        """Low bits of a neuron's row, and of a channel's, that name the bank it is in: each
        requantiser has one."""
        return self.requantisers.bit_length() - 1

    @property
    def state_address_bits(self) -> int:
        """Row of a state memory."""
        return _bits(self.state_depth)

    @property
    def base_bits(self) -> int:
        """An event's base address, before a stored weight's relative address is subtracted.

        Events whose first tap lies off the map point past the map, by at most what a relative
        address can take back.
        """
        return max(self.state_address_bits, self.relative_bits) + 1

    @property
    def position_bits(self) -> int:
        """A coordinate on any map."""
        return _bits(self.map_depth)

    @property
    def slot_bits(self) -> int:
        """A channel slot: `channel of the lane * lanes + lane`."""
        return _bits(self.channel_depth * self.lanes)

    @property
    def entry_bits(self) -> int:
        """A stored weight with its relative address."""
        return self.weight_bits + self.relative_bits

    @property
    def hash(self) -> int:
        """32 bits that identify this build; the device reports them."""
        text = json.dumps({"version": IMAGE_VERSION, **asdict(self)}, sort_keys=True)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")

    def to_dict(self) -> dict[str, int]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BuildConfig:
        """Read `to_dict` back; unknown or missing names are refused."""
        known = {f.name for f in fields(cls)}
        if set(values) != known:
            odd = ", ".join(sorted(set(values) ^ known))
            raise UserError(f"build configuration: unknown or missing {odd}")
        return cls(**values)

    def replace(self, **choices: int) -> BuildConfig:
        """The same build with other choices."""
        return replace(self, **choices)
