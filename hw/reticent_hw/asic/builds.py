"""The builds that the ASIC flow makes unless something else is asked for."""

from __future__ import annotations

from reticent.config import BuildConfig
from reticent.errors import UserError

__all__ = ["silicon_build"]

# What the shipped Breakout agent (20 % of its weights) fills in all lanes together, rounded up.
WEIGHTS, EVEN, ODD, CHANNELS = 113_852, 14_336, 3_584, 1_024
IMBALANCE = 165  # weights that the fullest lane holds beyond its share


def silicon_build(lanes: int, **choices: int) -> BuildConfig:
    """The build of so many lanes that holds the shipped Breakout agent.

    FIFOs are short: they are read in the cycle in which they are asked, so they are flip-flops. And
    a lane has one requantiser, for a second one's flip-flops take energy in every cycle.
    """
    if not isinstance(lanes, int) or not 1 <= lanes <= 64:
        raise UserError(f"lanes is {lanes!r}: give a whole number from 1 to 64")

    def share(rows: int, least: int, spare: int = 0) -> int:
        return max(least, -(-(rows // lanes + spare) // 256) * 256)

    defaults = {
        "fifo_depth": 16,
        "requantisers": 1,
        "queue_depth": 512,
        "frame_depth": 7168,
        "layers": 6,
        "map_depth": 128,
        "map_rows": 20,
        "map_columns": 20,
        "pointer_depth": 3072,
        "weight_depth": share(WEIGHTS, 4096, IMBALANCE if lanes > 1 else 1),
        "state_depth_even": share(EVEN, 256),
        "state_depth_odd": share(ODD, 256),
        "channel_depth": max(64, CHANNELS // lanes),
        "relative_bits": 10 if lanes == 1 else 9 if lanes == 2 else 8,
    }
    return BuildConfig.for_lanes(lanes, **(defaults | choices))
