"""What a build takes of a device: block memories as synthesised, the rest near it."""

import json

import pytest

from reticent.area import FAMILIES, SAMPLES, build_area
from reticent.boards import BOARDS
from reticent.config import BuildConfig

DEVICES = {board.device.family: board.device for board in BOARDS.values()}


def samples():
    found = json.loads(SAMPLES.read_text())["samples"]
    return [
        (family, BuildConfig.from_dict(s["config"]), s[family])
        for s in found
        for family in FAMILIES
    ]


def test_every_family_of_a_board_was_synthesised():
    assert set(DEVICES) == set(FAMILIES)


@pytest.mark.parametrize(("family", "config", "found"), samples())
def test_block_memories_are_those_that_synthesis_found(family, config, found):
    assert build_area(config, DEVICES[family]).blocks == found["rams"]


@pytest.mark.parametrize(("family", "config", "found"), samples())
def test_estimates_are_near_what_synthesis_found(family, config, found):
    area = build_area(config, DEVICES[family])
    assert area.luts == pytest.approx(found["luts"], rel=0.1)
    assert area.multipliers == pytest.approx(found["multipliers"], rel=0.1, abs=1)


def test_more_lanes_take_more():
    small, large = (build_area(BuildConfig.for_lanes(lanes), DEVICES["ecp5"]) for lanes in (8, 32))
    assert small.luts < large.luts
    assert small.multipliers < large.multipliers
