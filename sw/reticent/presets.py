"""What is built for each board unless something else is asked for.

Needs no gateware: commands take a board's build from here. Devices and clocks are in
`reticent.boards`; pins, clock generators and tools in `reticent_hw.boards`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .boards import Board, find_board
from .config import BuildConfig

__all__ = ["PRESETS", "BoardPreset", "find_preset"]


@dataclass(frozen=True, kw_only=True)
class BoardPreset:
    """A build, and the link to it."""

    config: BuildConfig
    baud: int = 1_000_000
    request_bytes: int = 1024  # longest request and reply, before COBS
    reply_bytes: int = 512


# Depths hold the reference network on frames of 84 x 84, and so many of its weights. A lane of 16
# has two channels of the first layers, so relative addresses are short.
_REFERENCE = {
    "queue_depth": 512,
    "frame_depth": 7168,
    "pointer_depth": 2128,
    "map_depth": 128,
    "map_rows": 20,
    "map_columns": 20,
    "layers": 6,
}
# 20 % of the weights on 16 lanes.
_LARGE = BuildConfig(
    lanes=16,
    weight_depth=7424,
    relative_bits=6,
    state_depth_even=896,
    state_depth_odd=224,
    channel_depth=64,
    **_REFERENCE,
)
# 10.7 % of them: ten block memories a lane, which lie close together, and room for wires.
_MEDIUM = replace(_LARGE, requantisers=2, weight_depth=4095, channel_depth=48)
# 10.7 % of the weights, convolutions denser than the rest. With two lanes little of the memories is
# left to LUTs, and the serial port still takes longer than the core.
_SMALL = BuildConfig(
    lanes=2,
    fifo_depth=32,
    weight_depth=31744,
    relative_bits=9,
    state_depth_even=7040,
    state_depth_odd=1600,
    channel_depth=336,
    accumulator_bits=23,
    **(_REFERENCE | {"pointer_depth": 2432}),
)

PRESETS = {
    "ulx3s": BoardPreset(config=_MEDIUM, request_bytes=512),
    "ecpix5": BoardPreset(config=_MEDIUM, request_bytes=512),
    "orangecrab": BoardPreset(config=_MEDIUM, request_bytes=512),
    "arty": BoardPreset(config=_SMALL, request_bytes=512),
    "arty-a7-100": BoardPreset(config=_LARGE),
}


def find_preset(name: str) -> tuple[Board, BoardPreset]:
    """A board and its preset; raises UserError that lists all boards."""
    return find_board(name), PRESETS[name]
