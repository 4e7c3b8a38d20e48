"""Memories whose answers are registered, and those that the host fills over the load bus."""

from amaranth import *
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In

from reticent.config import BuildConfig
from reticent.layout import Space

from .interfaces import LoadSignature, at_least_two, row_layout

__all__ = ["LOADED", "READ_LATENCY", "DeepMemory", "DeepReadPort", "LoadedMemory"]

# Marks memories that nobody reads while rows are written: one port may serve both.
LOADED = "reticent_loaded"

READ_LATENCY = 2  # cycles from an address to the answer of a deep memory


class DeepReadPort:
    """A read port of a `DeepMemory`: `data` is the row that was at `addr` `READ_LATENCY` cycles
    ago, one a cycle. Without `en` the memory keeps the row that it read, without `move` the
    register behind it keeps what it shows; both are 1 unless they are driven.
    """

    def __init__(self, port: memory.ReadPort, name: str):
        self.port = port
        self.addr, self.en = port.addr, port.en
        self.move = Signal(init=1, name=f"{name}_move")
        self.data = Signal(port.signature.members["data"].shape, name=f"{name}_data")


class DeepMemory(Elaboratable):
    """A memory with registers behind its read ports, for block memories are far away and slow.

    Large memories consist of several blocks. A platform with `get_deep_memory(deep)` builds the
    memory itself and can give every block a register of its own, in front of the choice among
    them; else one register follows the memory.
    """

    def __init__(self, *, shape, depth: int, attrs: dict | None = None):
        self.rows = memory.Memory(shape=shape, depth=depth, init=[], attrs=attrs or {})
        self.reads: list[DeepReadPort] = []

    def write_port(self):
        """The write port: `addr`, `data` and `en`."""
        return self.rows.write_port()

    def read_port(self) -> DeepReadPort:
        """Another read port. What it gives for a row that is written in the cycle in which it is
        asked for is undefined."""
        self.reads.append(DeepReadPort(self.rows.read_port(), f"read_{len(self.reads)}"))
        return self.reads[-1]

    def elaborate(self, platform):
        if hasattr(platform, "get_deep_memory"):
            self.rows._MustUse__used = True  # for what the platform builds instead
            return platform.get_deep_memory(self)
        m = Module()
        m.submodules.memory = self.rows
        for read in self.reads:
            answer = Signal.like(Value.cast(read.data), reset_less=True)
            with m.If(read.move):
                m.d.sync += answer.eq(read.port.data)
            m.d.comb += Value.cast(read.data).eq(answer)
        return m


class LoadedMemory(wiring.Component):
    """Rows of one address space, written from the load bus.

    Parameters
    ----------
    config : the build
    space : which rows it holds
    depth : rows
    of_lane : it belongs to a lane, whose own load bus it has, and it is a `DeepMemory`

    Call `read_port()` (before elaboration) for each reader.
    """

    def __init__(self, config: BuildConfig, space: Space, depth: int, *, of_lane: bool = False):
        self._space = space
        facts = {
            "shape": row_layout(config, space),
            "depth": at_least_two(depth),
            "attrs": {LOADED: 1},
        }
        self._memory = DeepMemory(**facts) if of_lane else memory.Memory(init=[], **facts)
        super().__init__({"load": In(LoadSignature(config, of_lane=of_lane))})

    def read_port(self):
        """A read port: `addr`, `en`, and `data` one cycle later, `READ_LATENCY` in a lane."""
        return self._memory.read_port()

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = self._memory
        write = self._memory.write_port()
        m.d.comb += [
            write.addr.eq(self.load.row),
            write.data.eq(self.load.data),
            write.en.eq(self.load.valid & (self.load.space == self._space)),
        ]
        return m
