"""Boards: known by name, and block memories counted as their shapes allow."""

import pytest

from reticent.boards import BOARDS, find_board
from reticent.errors import UserError


def test_every_board_is_found_by_its_name():
    assert {"arty", "arty-a7-100", "ulx3s", "ecpix5", "orangecrab"} <= set(BOARDS)
    for name, board in BOARDS.items():
        assert find_board(name) is board
        assert board.name == name


def test_an_unknown_board_names_the_known_ones():
    with pytest.raises(UserError, match=r"'ulx4s': give one of arty, .*ulx3s"):
        find_board("ulx4s")


def test_devices_hold_the_memory_that_their_makers_state():
    kbit = {
        name: board.device.rams * board.device.ram.bits // 1024 for name, board in BOARDS.items()
    }
    assert kbit == {
        "arty": 1800,
        "arty-a7-100": 4860,
        "ulx3s": 3744,
        "ecpix5": 3744,
        "orangecrab": 3744,
    }


@pytest.mark.parametrize(
    ("rows", "bits", "blocks"),
    [
        (1, 1, 1),
        (512, 36, 1),
        (513, 36, 2),
        (512, 37, 2),
        (1024, 36, 2),
        (2048, 18, 2),
        (4096, 18, 4),
        (8192, 18, 8),
        (8193, 18, 9),
        (16384, 1, 1),
        (16385, 1, 2),
        (600, 40, 3),
    ],
)
def test_block_memories_are_arranged_at_their_best(rows, bits, blocks):
    assert BOARDS["ulx3s"].device.ram.count(rows, bits) == blocks
