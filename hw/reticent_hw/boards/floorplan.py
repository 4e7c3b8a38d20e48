"""Where the block memories and multipliers of a netlist for an ECP5-85F go.

Block memories lie in four rows across the device. A placer that moves them one by one takes lanes
apart, for each has a dozen, and wires become long. So each lane gets neighbouring blocks, lanes lie
in a grid of four rows, and what they share lies in the middle. A lane's multipliers are those next
to its blocks. The placer then puts the logic of a lane around all of these by itself.
"""

import re
from collections import defaultdict
from typing import Any

from .output_registers import BLOCK, MULTIPLIER

__all__ = ["LANE", "place_blocks", "place_multipliers"]

# Of the LFE5U-85F and LFE5UM5G-85F: as nextpnr names them, a block is X<column>/Y<row>/EBR<0 to 3>,
# counted along its row.
ROWS = (22, 46, 70, 82)
COLUMNS = (
    *range(4, 11, 2), *range(13, 20, 2), *range(22, 29, 2), *range(31, 38, 2), *range(40, 47, 2),
    *range(49, 56, 2), *range(58, 65, 2), *range(69, 76, 2), *range(78, 85, 2), *range(87, 94, 2),
    *range(96, 103, 2), *range(105, 112, 2), *range(114, 121, 2),
)  # fmt: skip
# A multiplier is X<column>/Y<row>/MULT18_<0, 1, 4 or 5>, in groups of four that begin in the same
# columns as four blocks do; the number is also how many columns it is from there.
MULTIPLIER_ROWS = (10, 34, 58)
MULTIPLIERS = (0, 1, 4, 5)
CENTRAL = ROWS[1:3]  # rows next to the middle of the device
KINDS = ("weights", "pointers", "state_even", "state_odd", "channels")  # side by side in a lane
# Names of cells that belong to a lane, with its number.
LANE = re.compile(r"\bcore\.lane_(\d+)\.")


def _site(row: int, place: int) -> str:
    """nextpnr's name of a block."""
    return f"X{COLUMNS[place]}/Y{row}/EBR{place % 4}"


def _kind(name: str) -> int:
    """Order of a block within its lane."""
    return next((i for i, kind in enumerate(KINDS) if f".{kind}" in name), len(KINDS))


def place_blocks(module: dict[str, Any]) -> int:
    """Give every block memory of a module a place; how many have one.

    Where the lanes do not fit side by side, no block is given one.
    """
    lanes: dict[int, list[str]] = defaultdict(list)
    shared = []
    for name, cell in module["cells"].items():
        if cell["type"] == BLOCK:
            lane = LANE.search(name)
            (lanes[int(lane[1])] if lane else shared).append(name)
    width = max(map(len, lanes.values()), default=0)
    in_a_row = -(-len(lanes) // len(ROWS))
    spare = len(COLUMNS) - in_a_row * width
    if spare < 0 or len(ROWS) * len(COLUMNS) < sum(map(len, lanes.values())) + len(shared):
        return 0

    free = {(row, place) for row in ROWS for place in range(len(COLUMNS))}

    def put(name: str, row: int, place: int) -> None:
        free.remove((row, place))
        module["cells"][name]["attributes"]["BEL"] = _site(row, place)

    for number, lane in enumerate(sorted(lanes)):
        row, at = ROWS[number // in_a_row], number % in_a_row
        if row in CENTRAL:
            gaps = spare if at >= (in_a_row + 1) // 2 else 0  # the middle is for what is shared
        else:
            gaps = spare * (2 * at + 1) // (2 * in_a_row)
        for i, name in enumerate(sorted(lanes[lane], key=lambda name: (_kind(name), name))):
            put(name, row, at * width + gaps + i)
    middle = (len(COLUMNS) - 1) / 2

    def distance(site: tuple[int, int]) -> tuple[bool, float]:
        return site[0] not in CENTRAL, abs(site[1] - middle)

    # One row after the other: blocks with neighbouring names belong to each other.
    nearest = sorted(free, key=lambda site: (distance(site), site))[: len(shared)]
    nearest.sort(key=lambda site: (site[0], distance(site), site))
    for name, (row, place) in zip(sorted(shared), nearest, strict=True):
        put(name, row, place)
    return sum(map(len, lanes.values())) + len(shared)


def place_multipliers(module: dict[str, Any]) -> int:
    """Give the lanes' multipliers places next to their blocks; how many have one.

    Lanes without a placed block, and multipliers outside of lanes, are left to the placer.
    """
    sites: dict[int, list[tuple[int, int]]] = defaultdict(list)  # of the blocks
    multipliers: dict[int, list[str]] = defaultdict(list)
    for name, cell in module["cells"].items():
        lane = LANE.search(name)
        if lane and cell["type"] == MULTIPLIER:
            multipliers[int(lane[1])].append(name)
        elif lane and cell["type"] == BLOCK and "BEL" in cell["attributes"]:
            x, y, _ = cell["attributes"]["BEL"].split("/")
            sites[int(lane[1])].append((int(x[1:]), int(y[1:])))
    free = {
        (group + number, row, number)
        for group in COLUMNS[::4]
        for row in MULTIPLIER_ROWS
        for number in MULTIPLIERS
    }
    placed = 0
    for lane, blocks in sorted(sites.items()):
        across, down = (sum(at) / len(blocks) for at in zip(*blocks, strict=True))
        nearest = sorted(
            free, key=lambda site: (abs(site[1] - down), site[1], abs(site[0] - across), site[0])
        )
        for name, site in zip(sorted(multipliers[lane]), nearest, strict=False):
            free.remove(site)
            column, row, number = site
            module["cells"][name]["attributes"]["BEL"] = f"X{column}/Y{row}/MULT18_{number}"
            placed += 1
    return placed
