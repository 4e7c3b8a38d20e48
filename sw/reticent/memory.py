"""The memories of a build: how many rows a network fills, and what all of them cost in bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .arithmetic import DELTA_BITS
from .config import BuildConfig
from .layout import Space, row_fields

__all__ = ["KBIT", "MemoryUse", "memory_table", "memory_uses"]

KBIT = 1024  # bits, as block memories are counted


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """One line of the memory table. A line without bits is a limit, not a memory."""

    name: str
    choice: str  # the BuildConfig field that sets the depth
    built: int  # rows; of a lane's memory: in each lane
    used: int | None  # rows in the fullest lane; None: it only buffers
    row_bits: int  # of one row, in all lanes together

    @property
    def fits(self) -> bool:
        """Whether it fits."""
        return self.used is None or self.used <= self.built


def memory_uses(config: BuildConfig, used: Mapping[str, int]) -> list[MemoryUse]:
    """Every memory that is a choice of the build; `used` has the rows in use by name.

    The names are those of `Image.used`. What each stream has of its own counts as one memory with
    wider rows. Not listed are the few small queues without a choice.
    """
    c = config

    def row(space: Space) -> int:
        return sum(bits for _, bits, _ in row_fields(c, space))

    # Besides: which layer it belongs to, and whether it holds a single weight.
    waiting = 2 * c.weight_address_bits + c.base_bits + DELTA_BITS + 2
    event = 2 * c.position_bits + c.slot_bits + DELTA_BITS
    lines = (
        ("weights of a lane", "weight_depth", c.lanes * row(Space.WEIGHT)),
        ("pointers of a lane", "pointer_depth", c.lanes * c.streams * row(Space.POINTER)),
        ("neurons of a lane, even layers", "state_depth_even", c.lanes * row(Space.STATE_EVEN)),
        ("neurons of a lane, odd layers", "state_depth_odd", c.lanes * row(Space.STATE_ODD)),
        ("channels of a lane", "channel_depth", c.lanes * row(Space.CHANNEL)),
        ("ranges waiting in a lane", "fifo_depth", c.lanes * c.streams * waiting),
        ("input events waiting", "queue_depth", event),
        ("bytes of a frame", "frame_depth", 8 * c.stack),
        ("stacked frames", "stack", 0),
        ("layers", "layers", row(Space.LAYER)),
        ("input map rows, all layers", "map_depth", c.streams * row(Space.ROW)),
        ("input map columns, all layers", "map_depth", c.streams * row(Space.COLUMN)),
        ("output map rows", "map_rows", 2 * c.streams * c.map_columns),
        ("output map columns", "map_columns", 0),
    )
    return [
        MemoryUse(
            name=name,
            choice=choice,
            built=getattr(c, choice),
            used=used.get(name),
            row_bits=bits,
        )
        for name, choice, bits in lines
    ]


def memory_table(config: BuildConfig, used: Mapping[str, int]) -> str:
    """The uses as an aligned text table of up to 80 columns; what does not fit is marked."""
    head = ("memory", "rows used", "built", "kbit used", "built")
    widths = (31, 10, 10, 12, 12)
    total_used = total_built = 0

    def line(first: str, *others: str, mark: str = "") -> str:
        cells = zip(others, widths[1:], strict=True)
        text = first.ljust(widths[0]) + "".join(cell.rjust(width) for cell, width in cells)
        return (text + mark).rstrip()

    def kbit(bits: int) -> str:
        return f"{bits / KBIT:,.1f}"

    lines = [line(*head)]
    for use in memory_uses(config, used):
        filled = use.built if use.used is None else use.used
        total_used += filled * use.row_bits
        total_built += use.built * use.row_bits
        bits = (kbit(filled * use.row_bits), kbit(use.built * use.row_bits))
        lines.append(
            line(
                use.name,
                "-" if use.used is None else f"{use.used:,}",
                f"{use.built:,}",
                *(bits if use.row_bits else ("", "")),
                mark="" if use.fits else "  <-",
            )
        )
    lines.append(line("total", "", "", kbit(total_used), kbit(total_built)))
    return "\n".join(lines)
