"""Builds a design's memories in the shapes that `shapes.plan` chose for a device."""

from collections.abc import Sequence

from amaranth import *
from amaranth.lib import memory

from reticent import boards

from ..memory import DeepMemory, DeepReadPort
from .shapes import Cut, Device, MemoryShape, Plan, plan

__all__ = ["PIECE", "ShapedMemories", "memories_of"]

# Names of the pieces of memories begin so. What they give for a row while it is written does not
# matter to any reader (simulation sees to that), so no logic need make up for blocks that promise
# nothing.
PIECE = "piece"
BLOCK, LUTS = {"ram_style": "block"}, {"ram_style": "distributed"}


def shape_of(rows: memory.Memory) -> MemoryShape:
    """What decides how a memory is built."""
    ports = rows.read_ports
    return MemoryShape(
        rows=rows.depth,
        bits=Shape.cast(rows.shape).width,
        reads=len(ports),
        block=all(port.domain != "comb" for port in ports),
    )


class _Collector:
    """A platform that notes the memories and builds nothing."""

    def __init__(self):
        self.found: list[MemoryShape] = []

    def get_memory(self, rows: memory.Memory) -> Elaboratable:
        self.found.append(shape_of(rows))
        return Module()

    def get_deep_memory(self, deep: DeepMemory) -> Elaboratable:
        return self.get_memory(deep.rows)


def memories_of(design: Elaboratable) -> list[MemoryShape]:
    """The memories of a design, one entry for each instance. The design is used up by this."""
    collector = _Collector()
    Fragment.get(design, collector)
    return collector.found


class ShapedMemories:
    """A part of a platform: builds every memory as planned.

    Call `plan_memories` before anything is elaborated.
    """

    plan: Plan

    def plan_memories(self, device: boards.Device, memories: Sequence[MemoryShape]) -> None:
        """Choose the shapes."""
        self.plan = plan(Device.of(device), memories)

    def get_memory(self, rows: memory.Memory) -> Elaboratable:
        """Amaranth's hook for memories."""
        shape = shape_of(rows)
        if not shape.block or "ram_style" in rows.attrs:  # the latter is a piece of another one
            return rows.elaborate(None)
        return ShapedMemory(rows, self.plan.cuts[shape])

    def get_deep_memory(self, deep: DeepMemory) -> Elaboratable:
        """The hook for memories whose answers are registered."""
        return ShapedMemory(deep.rows, self.plan.cuts[shape_of(deep.rows)], deep.reads)


class ShapedMemory(Elaboratable):
    """A memory cut into blocks and LUT memory.

    With `deep` reads, each piece has a register behind it, so that nothing but a wire lies between
    a block and its register.

    With two read ports, a block's one port serves the write and the first read port: the row that
    is written is the row that it reads, so the first port must not be used while rows are written.
    """

    def __init__(self, rows: memory.Memory, cut: Cut, deep: Sequence[DeepReadPort] = ()):
        self._rows, self._cut, self._deep = rows, cut, deep

    def elaborate(self, platform):
        m = Module()
        rows, cut = self._rows, self._cut
        (write,) = rows.write_ports
        reads = rows.read_ports
        bits = Shape.cast(rows.shape).width
        written = Value.cast(write.data)
        # (first row, number of rows, first bit, number of bits, whether in blocks)
        pieces = []
        low = 0
        for shape, width in cut.columns:
            for first in range(0, cut.rows, shape.rows):
                pieces.append((first, min(shape.rows, cut.rows - first), low, width, True))
            low += width
        if cut.spare and cut.rows:
            pieces.append((0, cut.rows, low, cut.spare, False))
        if cut.rows < rows.depth:
            pieces.append((cut.rows, rows.depth - cut.rows, 0, bits, False))

        answers = [Signal(bits, name=f"read_{i}") for i in range(len(reads))]
        for port, answer in zip(self._deep or reads, answers, strict=True):
            m.d.comb += Value.cast(port.data).eq(answer)
        # Which row was asked for decides, when the pieces answer, whose answer counts.
        asked = [Signal.like(port.addr, name=f"asked_{i}") for i, port in enumerate(reads)]
        for port, kept in zip(reads, asked, strict=True):
            with m.If(port.en):
                m.d.sync += kept.eq(port.addr)
        for i, port in enumerate(self._deep):
            later = Signal.like(asked[i], name=f"asked_before_{i}")
            with m.If(port.move):
                m.d.sync += later.eq(asked[i])
            asked[i] = later
        for number, (first, count, low, width, block) in enumerate(pieces):
            m.submodules[f"{PIECE}_{number}"] = piece = memory.Memory(
                shape=width, depth=max(2, count), init=[], attrs=dict(BLOCK if block else LUTS)
            )
            whole = first == 0 and count == rows.depth

            def here(address, first=first, count=count, whole=whole):
                return C(1, 1) if whole else (address >= first) & (address < first + count)

            shared = block and len(reads) == 2
            put = piece.write_port()
            gets = [piece.read_port()]
            if len(reads) == 2:
                gets.append(piece.read_port())
            m.d.comb += [
                put.addr.eq(write.addr - first),
                put.data.eq(written[low : low + width]),
                put.en.eq(write.en & here(write.addr)),
            ]
            for port, get in zip(reads, gets, strict=True):
                m.d.comb += [get.addr.eq(port.addr - first), get.en.eq(port.en)]
            if shared:
                together = Mux(write.en, write.addr, reads[0].addr) - first
                m.d.comb += [
                    put.addr.eq(together),
                    gets[0].addr.eq(together),
                    gets[0].en.eq(reads[0].en | write.en),
                ]
            shown = [get.data for get in gets]
            for i, port in enumerate(self._deep):
                shown[i] = Signal(width, name=f"shown_{number}_{i}", reset_less=True)
                with m.If(port.move):
                    m.d.sync += shown[i].eq(gets[i].data)
            for show, answer, kept in zip(shown, answers, asked, strict=True):
                with m.If(here(kept)):
                    m.d.comb += answer[low : low + width].eq(show)
        return m
