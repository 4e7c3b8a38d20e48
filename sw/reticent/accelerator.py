"""The driver: a network on a device, over any transport (co-simulation today, boards later)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from .backend import Cycles, StepResult
from .errors import ToolError, UserError
from .fold import unfold_map
from .image import Image
from .layout import (
    DEVICE_ID,
    DEVICE_VERSION,
    LOST_CAUSES,
    Register,
    ResultLayout,
    Space,
    address,
    word_index_bits,
)
from .quantise import check_counts

__all__ = ["Accelerator", "StateLost", "Transport"]

Words = npt.NDArray[np.uint32]
T = TypeVar("T")

RESTORES = 5  # times in a row that a device may lose its state before it is given up


class StateLost(Exception):
    """The device was reset behind the driver's back: image, registers and neurons are gone.

    A transport raises it once it can talk to the device again.
    """


class Transport(Protocol):
    """Moves commands and frames to a device. Every call returns when the device is done.

    Any of them may raise `StateLost`.
    """

    def write(self, addresses: Words, data: Words) -> None:
        """Execute writes in order."""

    def read(self, addresses: Words) -> Words:
        """Read words."""

    def frame(self, pixels: npt.NDArray[np.uint8], words: int) -> Words:
        """Send one frame (rows, bytes of a row), return its result packet of `words` words."""

    def close(self) -> None:
        """Let go of the device."""


class Accelerator:
    """A `Backend` that runs an image on a device.

    The constructor checks that the device is the build that the image was compiled for, before
    it writes anything. A device that loses its state (somebody pressed its reset button) is loaded
    again and starts anew from the next frame, whose result says so (`StepResult.fresh`).
    """

    def __init__(self, name: str, transport: Transport, image: Image) -> None:
        self.name = name
        self.image = image
        self._transport = transport
        self._layout = ResultLayout(image.outputs, len(image.layers))
        self._thresholds = image.thresholds
        self._lost = False  # the device does not hold what this object thinks it does
        self._fresh = False  # it starts anew, and the caller does not know yet
        self._check_device()
        self._load()

    def _load(self) -> None:
        """Make the device hold the image, and start an episode."""
        self._transport.write(*self.image.writes())

    def _registers(self, *registers: int) -> list[int]:
        addresses = np.array([address(Space.REGISTER, r) for r in registers], np.uint32)
        return [int(v) for v in self._transport.read(addresses)]

    def _write_registers(self, values: dict[int, int]) -> None:
        self._transport.write(
            np.array([address(Space.REGISTER, r) for r in values], np.uint32),
            np.array(list(values.values()), np.uint32),
        )

    def _check_device(self) -> None:
        device, version, build = self._registers(Register.ID, Register.VERSION, Register.BUILD_HASH)
        if device != DEVICE_ID:
            raise UserError(f"device ID {device:#010x} is not {DEVICE_ID:#010x}: no Reticent")
        if version != DEVICE_VERSION:
            raise UserError(
                f"the device has version {version}, this driver speaks {DEVICE_VERSION}: "
                "build both from the same release"
            )
        if build != self.image.config.hash:
            raise UserError(
                f"the image is for build {self.image.config.hash:08x}, the device is build "
                f"{build:08x}: compile the image for this device"
            )

    def _safely(self, action: Callable[[], T]) -> T:
        """Do something with the device; load it again, first or in between, when it was reset."""
        for _ in range(RESTORES):
            try:
                if self._lost:
                    self._load()
                    if self._thresholds != self.image.thresholds:
                        self._write_thresholds()
                    self._lost, self._fresh = False, True
                return action()
            except StateLost:
                self._lost = True
            except ToolError:
                self._lost = True
                raise
        raise ToolError(f"{self.name}: the device was reset {RESTORES} times in a row")

    def reset(self) -> None:
        """Start an episode: forget all frames, nothing was ever sent."""
        self._safely(lambda: self._write_registers({Register.RESTART: 1}))
        self._fresh = False

    def _write_thresholds(self) -> None:
        self._write_registers({Register.THRESHOLD + i: t for i, t in enumerate(self._thresholds)})

    def set_thresholds(self, counts: Sequence[int]) -> None:
        """Change thresholds between two frames, in counts (input first, then hidden layers)."""
        check_counts(counts, len(self.image.layers))
        self._thresholds = [int(count) for count in counts]
        self._safely(self._write_thresholds)

    def step(self, frame: npt.NDArray[np.uint8]) -> StepResult:
        """Send one new frame (height, width[, channels]) uint8 and return the decision."""
        frame = np.asarray(frame)
        if frame.ndim == 2:
            frame = frame[:, :, None]
        if frame.dtype != np.uint8 or frame.shape != self.image.frame_shape:
            raise UserError(
                f"frame is {frame.dtype} {frame.shape}: this network watches uint8 "
                f"{self.image.frame_shape}"
            )
        layout = self._layout
        pixels = frame.reshape(len(frame), -1)
        words = self._safely(lambda: self._transport.frame(pixels, layout.words))
        fresh, self._fresh = self._fresh, False
        outputs = words[: layout.outputs].view(np.int32).astype(np.int64)
        counts = words[layout.outputs : layout.outputs + 3 * layout.layers].reshape(-1, 3)
        total, *lost = (int(v) for v in words[layout.outputs + 3 * layout.layers :])
        significant = tuple(int(v) for v in counts[:, 1])
        return StepResult(
            outputs=outputs,
            events=tuple(int(v) for v in counts[:, 0]),
            significant=significant,
            cycles=Cycles(
                layers=tuple(int(v) for v in counts[:, 2]),
                total=total,
                busy=sum(significant),
                lost=dict(zip(LOST_CAUSES, lost, strict=True)),
            ),
            fresh=fresh,
        )

    def accumulators(self) -> list[npt.NDArray[np.int64]]:
        """Every layer's accumulators (out, h, w), read back from the device."""
        config = self.image.config
        found = []
        for i, layer in enumerate(self.image.layers):
            space = Space.STATE_ODD if i % 2 else Space.STATE_EVEN
            # Arrays (out, position, lane): the one lane of a channel, or all whose sum counts.
            k, lane = np.divmod(np.array(layer.slots).reshape(-1, 1, 1), config.lanes)
            if layer.local:
                k, lane = np.arange(layer.shape[0]).reshape(-1, 1, 1), np.arange(config.lanes)
            _, height, width = layer.folded
            positions = np.arange(height * width)[:, None]
            row, lane = np.broadcast_arrays(layer.state_base + positions * layer.channels + k, lane)
            index = row << word_index_bits(config, space)
            words = self._state(np.asarray(address(space, index, lane), np.uint32).reshape(-1))
            values = words.view(np.int32).astype(np.int64).reshape(row.shape)
            sums = values.sum(axis=2).reshape(layer.folded)
            found.append(unfold_map(sums, layer.fold, layer.shape))
        return found

    def _state(self, addresses: Words) -> Words:
        """Read neurons, which nothing can bring back once they are lost."""
        try:
            return self._transport.read(addresses)
        except StateLost:
            self._lost = True
            raise ToolError(
                f"{self.name}: the device was reset, its neurons are gone; go on with a frame"
            ) from None

    def close(self) -> None:
        """Let go of the device."""
        self._transport.close()
