"""The build configuration: limits, derived widths, identity."""

import dataclasses
import json

import pytest

from reticent.config import BuildConfig
from reticent.errors import UserError


def test_round_trip_through_json():
    config = BuildConfig(lanes=5, fifo_depth=11)
    assert BuildConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wires": 3}, "unknown or missing wires"),
        ({"lanes": "16"}, "lanes is '16': give a whole number from 1 to 64"),
        ({"lanes": 65}, "lanes is 65"),
        ({"lanes": 0}, "lanes is 0"),
        ({"fifo_depth": 10}, "fifo_depth is 10: give a whole number from 11 to 1024"),
        ({"streams": 0}, "streams is 0: give a whole number from 1 to 8"),
        ({"streams": 9}, "streams is 9"),
        ({"lanes": 6, "streams": 4}, "4 streams do not divide 6 lanes: give a number of streams"),
        ({"weight_bits": 4}, "weight_bits is 4: give a whole number from 8 to 8"),
        ({"accumulator_bits": 33}, "accumulator_bits is 33"),
        ({"multiplier_bits": 16.0}, r"multiplier_bits is 16\.0"),
    ],
)
def test_values_that_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        BuildConfig.from_dict(BuildConfig().to_dict() | change)


@pytest.mark.parametrize(("lanes", "streams"), [(16, 4), (3, 3), (64, 8), (6, 2)])
def test_streams_that_divide_the_lanes(lanes, streams):
    assert BuildConfig.for_lanes(lanes, streams=streams).streams == streams


def test_missing_value_is_refused():
    values = BuildConfig().to_dict()
    del values["stack"]
    with pytest.raises(UserError, match="unknown or missing stack"):
        BuildConfig.from_dict(values)


def test_every_choice_changes_the_hash():
    base = BuildConfig()
    hashes = {base.hash}
    for field in dataclasses.fields(base):
        if field.name != "weight_bits":  # it has one value
            step = 1 if field.name in ("streams", "requantisers") else -1
            hashes.add(base.replace(**{field.name: getattr(base, field.name) + step}).hash)
    assert len(hashes) == len(dataclasses.fields(base))
    assert base.hash == BuildConfig().hash < 1 << 32


@pytest.mark.parametrize("lanes", [1, 2, 3, 8, 16, 24, 32, 64])
def test_other_lanes_share_the_same_memory(lanes):
    base, config = BuildConfig(), BuildConfig.for_lanes(lanes)
    for depth in ("weight_depth", "state_depth_even", "state_depth_odd"):
        ours, theirs = getattr(base, depth) * base.lanes, getattr(config, depth) * lanes
        assert ours <= theirs <= 2 * ours
    # All outputs of the last layer in every lane, and the other layers' channels.
    assert config.channel_depth >= 64


def test_choices_beside_the_lanes():
    assert BuildConfig.for_lanes(8).requantisers == 1
    assert BuildConfig.for_lanes(16) == BuildConfig(requantisers=2)
    config = BuildConfig.for_lanes(8, weight_depth=99, queue_depth=64)
    assert (config.weight_depth, config.queue_depth) == (99, 64)


@pytest.mark.parametrize("lanes", [0, 65, -1, 2.0, "4"])
def test_lanes_that_are_refused(lanes):
    with pytest.raises(UserError, match="lanes is"):
        BuildConfig.for_lanes(lanes)


def test_derived_widths():
    config = BuildConfig(
        lanes=5,
        weight_depth=8,
        pointer_depth=9,
        state_depth_even=16,
        state_depth_odd=33,
        channel_depth=3,
        map_depth=2,
        relative_bits=3,
    )
    assert config.lane_bits == 3
    assert config.weight_address_bits == 4  # 0..8: an end may lie behind the last row
    assert config.pointer_address_bits == 4
    assert config.state_depth == 33
    assert config.state_address_bits == 6
    assert config.base_bits == 7
    assert config.replace(relative_bits=20).base_bits == 21
    assert config.position_bits == 1
    assert config.slot_bits == 4  # 15 slots
    assert config.entry_bits == 11
    assert BuildConfig(lanes=1).lane_bits == 1
