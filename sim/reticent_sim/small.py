"""A build that simulates quickly, for the benches and the fault injector: they replace in it what
they are about."""

from reticent.config import BuildConfig

__all__ = ["SMALL"]

SMALL = BuildConfig(
    lanes=2,
    fifo_depth=11,
    queue_depth=64,
    stack=3,
    frame_depth=256,
    layers=4,
    weight_depth=512,
    pointer_depth=512,
    state_depth_even=256,
    state_depth_odd=256,
    channel_depth=32,
    map_depth=64,
    map_rows=12,
    map_columns=12,
    relative_bits=8,
)
