"""The memory table says what the Verilog has."""

import re

import pytest

from reticent.config import BuildConfig
from reticent.memory import memory_uses
from reticent_hw.core import Core
from reticent_hw.export import core_verilog

INSTANCE = re.compile(r"reticent_memory_\w+ #\(([^#]*?)\) \S+ \(")


def memories(text):
    """(rows, bits of a row) of every memory instance in a piece of Verilog."""
    found = []
    for match in INSTANCE.finditer(text):
        numbers = dict(re.findall(r"\.(\w+)\(32'd(\d+)\)", match[1]))
        found.append((int(numbers["DEPTH"]), int(numbers["WIDTH"])))
    return found


@pytest.mark.parametrize(
    "config",
    [
        BuildConfig(),
        BuildConfig.for_lanes(3, map_rows=7, map_columns=9, stack=2, map_depth=100, layers=3),
        BuildConfig.for_lanes(6, streams=3, queue_depth=600, map_depth=90),
    ],
    ids=["default build", "odd build", "three streams"],
)
def test_table_and_verilog_agree(config):
    # All lanes are instances of one module, which comes with its parts after the core's; the
    # memories' own modules come last.
    core, rest = core_verilog(Core(config)).split("\nmodule reticent_lane(")
    lane = rest.split("\nmodule reticent_memory")[0]
    in_core, in_lane = memories(core), memories(lane)
    listed = 0
    for use in memory_uses(config, {}):
        listed += use.built * use.row_bits
        copies, rest = divmod(use.row_bits, config.streams)
        if use.choice == "queue_depth":
            # Shared out among the streams; one event of each waits in a register.
            queue = (use.built // config.streams - 1, use.row_bits)
            assert in_core.count(queue) == config.streams
        elif use.choice == "map_rows":
            # Even and odd rows of two maps.
            rows = ((use.built + 1) // 2, config.map_columns)
            assert in_core.count(rows) == 4 * config.streams
        elif use.choice == "map_depth":
            assert (in_core.count((use.built, copies)), rest) == (config.streams, 0)
        elif use.choice in ("pointer_depth", "fifo_depth"):
            bits, rest = divmod(copies, config.lanes)
            assert (in_lane.count((use.built, bits)), rest) == (config.streams, 0)
        elif "lane" in use.name:
            assert (use.built, use.row_bits // config.lanes) in in_lane
            assert use.row_bits % config.lanes == 0
        elif use.row_bits:
            assert (use.built, use.row_bits) in in_core
    total = sum(rows * bits for rows, bits in in_core)
    total += config.lanes * sum(rows * bits for rows, bits in in_lane)
    # Not listed: counters of the layers, quiet rows, and the queues of the threshold pass.
    assert listed <= total + config.queue_depth < 1.02 * listed
