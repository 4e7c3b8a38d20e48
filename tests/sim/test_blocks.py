"""The cocotb benches of single blocks, each on the builds that matter to it."""

import pytest

from reticent_sim.bench import run_bench
from reticent_sim.small import SMALL

BUILD = SMALL.replace(
    lanes=4,
    fifo_depth=12,
    queue_depth=32,
    stack=4,
    frame_depth=512,
    state_depth_even=64,
    state_depth_odd=32,
    map_columns=10,
)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(BUILD, id="default widths"),
        pytest.param(BUILD.replace(accumulator_bits=32, multiplier_bits=9), id="other widths"),
    ],
)
def test_requantiser(config, tmp_path):
    run_bench("requantiser", config, tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(BUILD, id="12 rows"),
        pytest.param(BUILD.replace(map_rows=7, map_columns=33), id="7 rows"),
    ],
)
def test_touched_map(config, tmp_path):
    run_bench("touched", config, tmp_path)


STREAMS = [pytest.param(n, id=f"{n} streams") for n in (1, 2, 3)]


@pytest.mark.parametrize("streams", STREAMS)
def test_lane(streams, tmp_path):
    config = BUILD.replace(lanes=6, requantisers=2) if streams == 3 else BUILD
    run_bench("lane", config.replace(streams=streams), tmp_path)


def test_range_generator(tmp_path):
    run_bench("ranges", BUILD.replace(weight_depth=2048, channel_depth=64), tmp_path)


@pytest.mark.parametrize(("lanes", "streams", "requantisers"), [(3, 1, 1), (4, 2, 1), (6, 2, 2)])
def test_neuron_scanner(lanes, streams, requantisers, tmp_path):
    config = BUILD.replace(
        lanes=lanes, streams=streams, requantisers=requantisers, state_depth_even=1024
    )
    run_bench("scanner", config, tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(BUILD, id="stack of 4"),
        pytest.param(BUILD.replace(stack=1, queue_depth=16), id="single frames"),
        pytest.param(BUILD.replace(streams=2), id="2 streams"),
    ],
)
def test_delta_encoder(config, tmp_path):
    run_bench("encoder", config, tmp_path)


@pytest.mark.parametrize("lanes", [1, 4])
def test_host_port(lanes, tmp_path):
    run_bench("host", BUILD.replace(lanes=lanes), tmp_path)
