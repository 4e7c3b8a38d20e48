"""The transport that runs the Verilated core in this process."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reticent.accelerator import Accelerator
from reticent.config import BuildConfig
from reticent.errors import ToolError
from reticent.image import Image

from .build import library

__all__ = ["SimTransport", "sim_backend"]

Words = npt.NDArray[np.uint32]

COMMAND_LIMIT = 1 << 24  # cycles; the longest initialisation is far shorter
CYCLES_PER_PIXEL = 4096  # a generous bound on a frame's cycles, so that a stuck core is noticed
ERRORS = {-1: "the core did not answer", -2: "the result packet is too long"}


class SimTransport:
    """The core in a shared library: one C call for a frame.

    `model` is another library than that of the build's core (`silicon`), and `seed` decides what
    it holds at power-up.
    """

    def __init__(self, config: BuildConfig, model: Path | None = None, seed: int = 0) -> None:
        path = model or library(config)
        try:
            lib = ctypes.CDLL(str(path))
        except OSError as error:
            raise ToolError(
                f"co-simulation: {path} cannot be loaded ({error}): delete it, it is built anew"
            ) from None
        lib.reticent_create.restype = ctypes.c_void_p
        lib.reticent_create.argtypes = [ctypes.c_uint32]
        lib.reticent_cycles.restype = ctypes.c_uint64
        lib.reticent_cycles.argtypes = [ctypes.c_void_p]
        lib.reticent_destroy.argtypes = [ctypes.c_void_p]
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        lib.reticent_write.argtypes = [pointer, pointer, pointer, size, size]
        lib.reticent_read.argtypes = [pointer, pointer, pointer, size, size]
        lib.reticent_frame.argtypes = [pointer, pointer, size, size, pointer, size, size]
        self.library = lib
        self.device: int | None = lib.reticent_create(seed)

    @property
    def cycles(self) -> int:
        """Clock cycles since power-up."""
        return int(self.library.reticent_cycles(self.device))

    def write(self, addresses: Words, data: Words) -> None:
        """Execute writes in order."""
        addresses, data = (np.ascontiguousarray(a, np.uint32) for a in (addresses, data))
        self._check(
            self.library.reticent_write(
                self.device, addresses.ctypes.data, data.ctypes.data, len(data), COMMAND_LIMIT
            )
        )

    def read(self, addresses: Words) -> Words:
        """Read words."""
        addresses = np.ascontiguousarray(addresses, np.uint32)
        words = np.zeros(len(addresses), np.uint32)
        self._check(
            self.library.reticent_read(
                self.device, addresses.ctypes.data, words.ctypes.data, len(words), COMMAND_LIMIT
            )
        )
        return words

    def frame(self, pixels: npt.NDArray[np.uint8], words: int) -> Words:
        """Send one frame, return its result packet."""
        pixels = np.ascontiguousarray(pixels, np.uint8)
        result = np.zeros(words, np.uint32)
        got = self._check(
            self.library.reticent_frame(
                self.device,
                pixels.ctypes.data,
                pixels.shape[0],
                pixels.shape[1],
                result.ctypes.data,
                words,
                COMMAND_LIMIT + CYCLES_PER_PIXEL * pixels.size,
            )
        )
        if got != words:
            raise ToolError(f"co-simulation: the result packet has {got} words, expected {words}")
        return result

    def close(self) -> None:
        """Free the model."""
        if self.device is not None:
            self.library.reticent_destroy(self.device)
            self.device = None

    @staticmethod
    def _check(code: int) -> int:
        if code < 0:
            raise ToolError(f"co-simulation: {ERRORS[code]}; this is a defect of the gateware")
        return code


def sim_backend(config: BuildConfig, image: Image) -> Accelerator:
    """An image on the co-simulated core."""
    return Accelerator("sim", SimTransport(config), image)
