"""Which block memories of a device hold a memory of the design, and what is left to LUT memory.

A device has a number of block memories, each of which can be narrow and deep or wide and shallow.
A memory of the design is cut into columns of bits, each in the shape that wastes least; a few
rows or bits that would open another block may go to LUT memory. `plan` chooses for all memories
together: as little LUT memory as the block memories allow.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from reticent import boards

__all__ = ["BlockShape", "Cut", "Device", "MemoryShape", "Plan", "Resources", "plan"]

NEVER = 1 << 30
BLOCK_WORTH = 150  # LUTs that a block must save, for blocks are few and far away
TAIL_ROWS = 192  # at most this many rows of a memory are moved to LUTs to save a block
SPARE_BITS = 4  # at most this many bits of its width


@dataclass(frozen=True)
class BlockShape:
    """One way to use a block memory. `dual`: both ports may read, one of them may write."""

    rows: int
    bits: int

    @property
    def dual(self) -> bool:
        """Ports of the widest shape are joined: one reads, one writes."""
        return self.bits <= DUAL_BITS


DUAL_BITS = 18
# A piece of LUT memory by family: rows, bits, and the LUTs that it takes.
LUT_PIECES = {
    "ecp5": (16, 4, 6),  # four for the rows, two for the write port
    "artix7": (64, 3, 4),
}


@dataclass(frozen=True)
class Device:
    """What an FPGA has for memories. `lut_rows` x `lut_bits` of LUT memory take `lut_cost` LUTs."""

    luts: int
    lut_inputs: int  # decides what multiplexers cost
    blocks: int
    shapes: tuple[BlockShape, ...]
    lut_rows: int
    lut_bits: int
    lut_cost: int

    @classmethod
    def of(cls, device: boards.Device) -> Device:
        """From the facts about a device."""
        return cls(
            device.luts,
            device.lut_inputs,
            device.rams,
            tuple(BlockShape(rows, bits) for rows, bits in device.ram.shapes),
            *LUT_PIECES[device.family],
        )

    def lut_memory(self, rows: int, bits: int, reads: int = 1) -> int:
        """LUTs of a memory of this size, the multiplexers between its banks included."""
        if rows == 0 or bits == 0:
            return 0
        banks = -(-rows // self.lut_rows)
        cells = banks * -(-bits // self.lut_bits) * self.lut_cost
        # A LUT of n inputs merges about (n - 1) / 3 banks of one bit; the write decoder is small.
        merging = bits * -(-(banks - 1) * 3 // (self.lut_inputs - 1)) + banks
        return reads * (cells + merging)


@dataclass(frozen=True, order=True)
class MemoryShape:
    """A memory of the design. `reads` synchronous read ports; with 2, the first one is not read
    while the memory is written. `block` is False for memories with an asynchronous read port."""

    rows: int
    bits: int
    reads: int = 1
    block: bool = True


@dataclass(frozen=True)
class Cut:
    """How a memory is built: `columns` of (shape, bits) hold its first `rows` rows, LUTs the rest.

    `spare` bits of these rows are in LUTs too (the highest ones).
    """

    rows: int
    columns: tuple[tuple[BlockShape, int], ...]
    spare: int
    blocks: int
    luts: int


@dataclass(frozen=True)
class Resources:
    """What a design takes of a device's memories."""

    blocks: int
    luts: int


@dataclass(frozen=True)
class Plan:
    """A cut for each memory shape, and what all of them take together."""

    cuts: dict[MemoryShape, Cut]
    total: Resources


def _columns(
    device: Device, rows: int, bits: int, dual: bool
) -> tuple[tuple[BlockShape, int], ...]:
    """The fewest blocks for `bits` columns of `rows` rows, then the fewest banks to choose from."""

    @functools.cache
    def best(left: int) -> tuple[int, int, tuple[tuple[BlockShape, int], ...]]:
        if left == 0:
            return 0, 0, ()
        options = []
        for shape in device.shapes:
            if dual and not shape.dual:
                continue
            taken = min(left, shape.bits)
            banks = -(-rows // shape.rows)
            blocks, depth, columns = best(left - taken)
            options.append(
                (blocks + banks, depth + taken * (banks - 1), ((shape, taken), *columns))
            )
        return min(options, key=lambda option: option[:2])

    return best(bits)[2]


def _cuts(device: Device, memory: MemoryShape) -> list[Cut]:
    """Every sensible way to build a memory: more LUTs only for fewer blocks."""
    everything = device.lut_memory(memory.rows, memory.bits, memory.reads)
    found = [Cut(0, (), 0, 0, everything)]
    if memory.block:
        dual = memory.reads > 1
        heads = {memory.rows}
        for shape in device.shapes:
            if 0 < memory.rows % shape.rows <= TAIL_ROWS and memory.rows > shape.rows:
                heads.add(memory.rows - memory.rows % shape.rows)
        for rows in heads:
            tail = device.lut_memory(memory.rows - rows, memory.bits, memory.reads)
            for spare in range(min(SPARE_BITS, memory.bits - 1) + 1):
                columns = _columns(device, rows, memory.bits - spare, dual)
                blocks = sum(-(-rows // shape.rows) for shape, _ in columns)
                luts = tail + device.lut_memory(rows, spare, memory.reads)
                # Banks of blocks need multiplexers, too.
                for shape, bits in columns:
                    banks = -(-rows // shape.rows)
                    luts += memory.reads * bits * -(-(banks - 1) * 3 // (device.lut_inputs - 1))
                found.append(Cut(rows, columns, spare, blocks, luts))
    found.sort(key=lambda cut: (cut.blocks, cut.luts))
    kept: list[Cut] = []
    for cut in found:
        if not kept or cut.luts < kept[-1].luts:
            kept.append(cut)
    return kept


def _price(cut: Cut) -> int:
    """What a cut costs, in LUTs."""
    return cut.luts + BLOCK_WORTH * cut.blocks


def plan(device: Device, memories: Sequence[MemoryShape]) -> Plan:
    """Build all memories (one entry for each instance) with the fewest LUTs on the device.

    Where the blocks do not suffice whatever is done, the plan with the fewest blocks.
    """
    counts = dict.fromkeys(sorted(set(memories)), 0)
    for memory in memories:
        counts[memory] += 1
    # least[b]: LUTs and choices of the memories so far within b blocks.
    least: list[tuple[int, tuple[Cut, ...]]] = [(0, ())] * (device.blocks + 1)
    for memory, count in counts.items():
        cuts = _cuts(device, memory)
        following: list[tuple[int, tuple[Cut, ...]]] = []
        for blocks in range(device.blocks + 1):
            options = [
                (least[blocks - count * cut.blocks][0] + count * _price(cut), cut)
                for cut in cuts
                if count * cut.blocks <= blocks
            ]
            luts, cut = min(options, key=lambda option: option[0])
            following.append((luts, (*least[blocks - count * cut.blocks][1], cut)))
        least = following
    _, chosen = least[device.blocks]
    cuts_of = dict(zip(counts, chosen, strict=True))
    luts = sum(counts[memory] * cut.luts for memory, cut in cuts_of.items())
    blocks = sum(counts[memory] * cut.blocks for memory, cut in cuts_of.items())
    return Plan(cuts_of, Resources(blocks, luts))
