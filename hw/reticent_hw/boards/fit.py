"""What a design takes of a board, from the gateware itself, before anything is built."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from reticent.errors import UserError

from .catalog import Target
from .memories import memories_of
from .shapes import Cut, Device, MemoryShape, plan
from .top import system

__all__ = ["Fit", "check_fit", "fit", "memories_of_target"]

# LUTs of four inputs that the logic takes, as nextpnr counted them on ECP5 at 16 lanes: of the
# whole design, for each lane, and for its second requantiser. LUTs of six inputs do the work of
# about 1.4 of them.
LOGIC, LOGIC_OF_A_LANE, LOGIC_OF_A_SECOND_REQUANTISER = 5_000, 1_400, 750
LUT6_WORTH = 1.4
ROOM = 0.9  # of the LUTs may be used: beyond that, routing fails


@functools.cache
def memories_of_target(target: Target) -> tuple[MemoryShape, ...]:
    """The memories of a board's design, one entry for each instance."""
    return tuple(memories_of(system(target)))


@dataclass(frozen=True)
class Fit:
    """What a design takes of a device. The logic is an estimate, the memories are exact."""

    blocks: int
    memory_luts: int
    logic_luts: int
    luts: int  # that there are
    cuts: dict[MemoryShape, Cut]

    @property
    def fits(self) -> bool:
        """Whether there is room for it."""
        return self.memory_luts + self.logic_luts <= ROOM * self.luts


def fit(target: Target) -> Fit:
    """Plan a board's memories and estimate its logic."""
    device, config = target.board.device, target.preset.config
    found = plan(Device.of(device), memories_of_target(target))
    of_a_lane = LOGIC_OF_A_LANE + LOGIC_OF_A_SECOND_REQUANTISER * (config.requantisers - 1)
    logic = LOGIC + of_a_lane * config.lanes
    if device.lut_inputs > 4:
        logic = round(logic / LUT6_WORTH)
    return Fit(found.total.blocks, found.total.luts, logic, device.luts, found.cuts)


def check_fit(target: Target) -> Fit:
    """The fit; raises UserError with the numbers when there is no room."""
    found, board = fit(target), target.board
    if not found.fits:
        raise UserError(
            f"{board.name}: all {board.device.rams} block memories, {found.memory_luts:,} LUTs "
            f"for the rest of the memories and about {found.logic_luts:,} for logic are more than "
            f"{ROOM:.0%} of the {found.luts:,} LUTs of {board.device.name}: choose fewer lanes or "
            "smaller depths"
        )
    return found
