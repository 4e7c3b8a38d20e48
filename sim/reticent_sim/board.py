"""A simulated board: the whole design with its serial pins, in this process."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from reticent.config import BuildConfig

from .build import link_sources, model, sources_digest

__all__ = ["SimBoard", "board_library"]

HARNESS = Path(__file__).with_name("board.cpp")
TOP = "reticent_board"
ROOM = 4096  # bytes that one call takes from the board
CALM_BITS = 24  # a board whose pins have not moved for so many bits says nothing more by itself


def board_library(config: BuildConfig, *, name: str, clock: int, baud: int, patience: int) -> Path:
    """The shared library of a Verilated board, built when it is not there yet (a minute)."""
    from reticent_hw.export import component_verilog
    from reticent_hw.link.link import Link
    from reticent_hw.link.system import System

    digest = sources_digest(HARNESS, *link_sources())
    system = f"{name}-{clock}-{baud}-{patience}"
    return model(
        f"board-{system}-{config.lanes}-lanes-{config.hash:08x}-{digest}",
        f"the simulated board {name} ({config.lanes} lanes)",
        TOP,
        HARNESS,
        lambda: component_verilog(
            System(Link(config, name=name, clock=clock, baud=baud, patience=patience)), TOP
        ),
    )


class SimBoard:
    """The design behind a board's pins, bit by bit. Time is counted in clock cycles.

    `patience` is that of `reticent_hw.link.link.Link`: shorter than on real boards where a test
    makes the core get stuck.
    """

    def __init__(
        self,
        config: BuildConfig,
        *,
        name: str = "simulated",
        clock: int = 80_000_000,
        baud: int = 20_000_000,
        patience: int = 24,
    ) -> None:
        from reticent_hw.link.uart import bit_step

        path = board_library(config, name=name, clock=clock, baud=baud, patience=patience)
        lib = ctypes.CDLL(str(path))
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        lib.board_create.restype = pointer
        lib.board_create.argtypes = [ctypes.c_uint32]
        lib.board_cycles.restype = ctypes.c_uint64
        for function in (
            lib.board_destroy,
            lib.board_cycles,
            lib.board_reset,
            lib.board_quiet,
        ):
            function.argtypes = [pointer]
        lib.board_send.argtypes = [pointer, ctypes.c_char_p, size]
        lib.board_run.argtypes = [pointer, pointer, size, size, size]
        lib.board_run.restype = size
        self.clock, self.baud = clock, baud
        self._lib = lib
        self._calm = CALM_BITS * clock // baud
        self._room = np.zeros(ROOM, np.uint8)
        self._board: int | None = lib.board_create(bit_step(clock, baud))

    @property
    def cycles(self) -> int:
        """Clock cycles since power-up."""
        return int(self._lib.board_cycles(self._board))

    @property
    def quiet(self) -> bool:
        """Nothing is on its way in either direction, and no request is being executed."""
        return bool(self._lib.board_quiet(self._board))

    def reset(self) -> None:
        """Press the reset button."""
        self._lib.board_reset(self._board)

    def send(self, data: bytes) -> None:
        """Put bytes on the way to the board."""
        self._lib.board_send(self._board, data, len(data))

    def run(self, cycles: int) -> bytes:
        """Run for up to `cycles`, less when the board falls silent; what it sent."""
        count = self._lib.board_run(self._board, self._room.ctypes.data, ROOM, cycles, self._calm)
        return self._room[:count].tobytes()

    def close(self) -> None:
        """Free the model."""
        if self._board is not None:
            self._lib.board_destroy(self._board)
            self._board = None
