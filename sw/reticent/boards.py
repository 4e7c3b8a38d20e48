"""The boards that builds are made for: what their devices hold and how fast they are clocked.

Plain facts from the makers' data sheets, for planning before anything is built and for the builds
themselves. Imports no Amaranth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import UserError

__all__ = ["BOARDS", "BlockRam", "Board", "Device", "LutRam", "find_board"]


@dataclass(frozen=True, kw_only=True)
class BlockRam:
    """One block memory primitive with one write and one read port."""

    name: str
    bits: int  # parity bits included
    shapes: Sequence[tuple[int, int]]  # rows and bits of a row, as it can be arranged

    def count(self, rows: int, bits: int) -> int:
        """Primitives that a memory of so many rows and bits a row takes, arranged at its best."""
        return min(-(-rows // depth) * -(-bits // width) for depth, width in self.shapes)


@dataclass(frozen=True, kw_only=True)
class LutRam:
    """Memory made of look-up tables, in pieces, and what Yosys thinks that it costs."""

    rows: int
    bits: int
    cost: int  # of a piece
    block_cost: int  # of a block memory primitive

    def is_better(self, rows: int, bits: int, blocks: int) -> bool:
        """Whether Yosys prefers it to so many block memory primitives."""
        pieces = -(-rows // self.rows) * -(-bits // self.bits)
        return pieces * self.cost < blocks * self.block_cost


@dataclass(frozen=True, kw_only=True)
class Device:
    """An FPGA: how much of what there is."""

    name: str
    family: str
    luts: int  # look-up tables, of `lut_inputs` inputs
    lut_inputs: int
    flip_flops: int
    multipliers: int
    multiplier_bits: tuple[int, int]  # of the factors, signed
    ram: BlockRam
    rams: int  # primitives
    lut_ram: LutRam

    def block_rams(self, rows: int, bits: int) -> int:
        """Block memory primitives that Yosys takes for a memory; 0 where it takes LUTs."""
        blocks = self.ram.count(rows, bits)
        return 0 if self.lut_ram.is_better(rows, bits, blocks) else blocks


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board: its device and its clocks.

    `clock_hz` is what the core is built for unless the user asks otherwise: a PLL makes it from
    the oscillator. It is a goal that place and route must confirm for each build.
    """

    name: str  # as the command line spells it
    title: str
    device: Device
    oscillator_hz: int
    clock_hz: int


# Lattice ECP5 and ECP5-5G Family Data Sheet, FPGA-DS-02012, table 1.1: LUTs with a flip-flop each
# (counted as nextpnr-ecp5 does, two a slice pair), embedded block RAMs of 18 kbit, 18 x 18
# multipliers.
_ECP5_RAM = BlockRam(
    name="DP16KD (18 kbit)",
    bits=18 * 1024,
    shapes=((16384, 1), (8192, 2), (4096, 4), (2048, 9), (1024, 18), (512, 36)),
)


def _ecp5(name: str, luts: int, multipliers: int, rams: int) -> Device:
    return Device(
        name=name,
        family="ecp5",
        luts=luts,
        lut_inputs=4,
        flip_flops=luts,
        multipliers=multipliers,
        multiplier_bits=(18, 18),
        ram=_ECP5_RAM,
        rams=rams,
        lut_ram=LutRam(rows=16, bits=4, cost=4, block_cost=128),
    )


# Xilinx 7 Series FPGAs Data Sheet: Overview, DS180, table 4 (Artix-7): slices of four LUTs and
# eight flip-flops, DSP48E1 of 25 x 18 bits, block RAMs of 36 kbit, each usable as two of 18 kbit:
# those are counted here.
_XILINX_RAM = BlockRam(
    name="RAMB18E1 (18 kbit)",
    bits=18 * 1024,
    shapes=((16384, 1), (8192, 2), (4096, 4), (2048, 9), (1024, 18), (512, 36)),
)


def _artix7(name: str, slices: int, multipliers: int, rams_of_36_kbit: int) -> Device:
    return Device(
        name=name,
        family="artix7",
        luts=4 * slices,
        lut_inputs=6,
        flip_flops=8 * slices,
        multipliers=multipliers,
        multiplier_bits=(25, 18),
        ram=_XILINX_RAM,
        rams=2 * rams_of_36_kbit,
        lut_ram=LutRam(rows=32, bits=6, cost=8, block_cost=128),
    )


_MHZ = 1_000_000

BOARDS = {
    board.name: board
    for board in (
        Board(
            name="arty",
            title="Digilent Arty A7-35T",
            device=_artix7("XC7A35TI-CSG324-1L", 5_200, 90, 50),
            oscillator_hz=100 * _MHZ,
            clock_hz=80 * _MHZ,
        ),
        Board(
            name="arty-a7-100",
            title="Digilent Arty A7-100T",
            device=_artix7("XC7A100TI-CSG324-1L", 15_850, 240, 135),
            oscillator_hz=100 * _MHZ,
            clock_hz=80 * _MHZ,
        ),
        Board(
            name="ulx3s",
            title="Radiona ULX3S, 85F",
            device=_ecp5("LFE5U-85F-6BG381", 83_640, 156, 208),
            oscillator_hz=25 * _MHZ,
            clock_hz=80 * _MHZ,
        ),
        Board(
            name="ecpix5",
            title="LambdaConcept ECPIX-5, 85F",
            device=_ecp5("LFE5UM5G-85F-8BG554", 83_640, 156, 208),
            oscillator_hz=100 * _MHZ,
            clock_hz=80 * _MHZ,
        ),
        Board(
            name="orangecrab",
            title="OrangeCrab r0.2, 85F",
            device=_ecp5("LFE5U-85F-8MG285", 83_640, 156, 208),
            oscillator_hz=48 * _MHZ,
            clock_hz=80 * _MHZ,
        ),
    )
}


def find_board(name: str) -> Board:
    """The board of this name. Raises `UserError` that names all of them."""
    try:
        return BOARDS[name]
    except KeyError:
        raise UserError(f"no board is called {name!r}: give one of {', '.join(BOARDS)}") from None
