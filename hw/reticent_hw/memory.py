"""Memories that the host fills over the load bus."""

from amaranth import *
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In

from reticent.config import BuildConfig
from reticent.layout import Space

from .interfaces import LoadSignature, at_least_two, row_layout

__all__ = ["LOADED", "LoadedMemory"]

# Marks memories that nobody reads while rows are written: one port may serve both.
LOADED = "reticent_loaded"


class LoadedMemory(wiring.Component):
    """Rows of one address space; one-cycle reads, written from the load bus.

    Parameters
    ----------
    config : the build
    space : which rows it holds
    depth : rows
    of_lane : it belongs to a lane: rows are taken when the bus names `lane`

    Call `read_port()` (before elaboration) for each reader.
    """

    def __init__(self, config: BuildConfig, space: Space, depth: int, *, of_lane: bool = False):
        self._space, self._of_lane = space, of_lane
        self._memory = memory.Memory(
            shape=row_layout(config, space),
            depth=at_least_two(depth),
            init=[],
            attrs={LOADED: 1},
        )
        members = {"load": In(LoadSignature(config))}
        if of_lane:
            members["lane"] = In(config.lane_bits)
        super().__init__(members)

    def read_port(self):
        """A synchronous read port: `addr`, `en`, and `data` one cycle later."""
        return self._memory.read_port()

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = self._memory
        write = self._memory.write_port()
        mine = self.load.space == self._space
        if self._of_lane:
            mine &= self.load.lane == self.lane
        m.d.comb += [
            write.addr.eq(self.load.row),
            write.data.eq(self.load.data),
            write.en.eq(self.load.valid & mine),
        ]
        return m
