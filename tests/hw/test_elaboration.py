"""Every block and every kind of build becomes Verilog: no loops, no driver conflicts."""

import re

import pytest
from amaranth.back import verilog
from amaranth.lib import wiring

from reticent.config import BuildConfig
from reticent.layout import Space
from reticent_hw.core import Core
from reticent_hw.counters import Counters
from reticent_hw.encoder import DeltaEncoder
from reticent_hw.export import component_verilog, core_verilog
from reticent_hw.host import HostPort
from reticent_hw.lane import Lane, Requantiser
from reticent_hw.memory import LoadedMemory
from reticent_hw.ranges import RangeGenerator
from reticent_hw.scanner import NeuronScanner
from reticent_hw.sequencer import Sequencer
from reticent_hw.touched import TouchedMap

BLOCKS = [
    Requantiser,
    Lane,
    RangeGenerator,
    TouchedMap,
    NeuronScanner,
    DeltaEncoder,
    Sequencer,
    Counters,
    HostPort,
]

SMALLEST = BuildConfig(
    lanes=1,
    fifo_depth=11,
    queue_depth=16,
    stack=1,
    frame_depth=1,
    layers=1,
    weight_depth=2,
    pointer_depth=2,
    state_depth_even=2,
    state_depth_odd=2,
    channel_depth=2,
    map_depth=2,
    map_rows=1,
    map_columns=1,
    relative_bits=1,
    accumulator_bits=12,
    multiplier_bits=4,
)
BUILDS = {
    **{f"{lanes} lanes": BuildConfig.for_lanes(lanes) for lanes in (1, 3, 8, 16, 32)},
    "one layer": BuildConfig(layers=1, lanes=2),
    "single frames": BuildConfig(stack=1, lanes=2),
    "smallest": SMALLEST,
}


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("build", ["3 lanes", "smallest"])
def test_block_converts(block, build):
    text = component_verilog(block(BUILDS[build]), "block")
    assert "module block(" in text
    assert_no_empty_vectors(text)


@pytest.mark.parametrize("of_lane", [False, True])
def test_loaded_memory_converts(of_lane):
    rows = LoadedMemory(BUILDS["3 lanes"], Space.WEIGHT, 100, of_lane=of_lane)
    rows.read_port()
    assert ".DEPTH(32'd100)" in component_verilog(rows, "block")


@pytest.mark.parametrize("build", BUILDS)
def test_core_converts(build):
    """With exactly one lane module, whatever the number of lanes."""
    config = BUILDS[build]
    text = core_verilog(Core(config))
    assert text.count("\nmodule reticent_lane(") == 1
    assert len(re.findall(r"^  reticent_lane \S+ \(", text, re.M)) == config.lanes
    assert_no_empty_vectors(text)


def test_core_converts_without_the_export():
    """For who puts the core into an Amaranth design: plain memories, one module a lane."""
    text = verilog.convert(Core(SMALLEST.replace(lanes=3)), name="core", emit_src=False)
    assert "reticent_memory" not in text
    assert text.count("\nmodule \\core.lane_") >= 3


def test_blocks_are_checked_components():
    for block in BLOCKS:
        component = block(SMALLEST)
        component._MustUse__used = True
        assert isinstance(component, wiring.Component)
        assert component.__doc__


def assert_no_empty_vectors(text: str) -> None:
    """A width of zero would be written as [-1:0], which Verilog reads as two bits."""
    assert re.findall(r"\[-1:0\] *\S+", text) == []
