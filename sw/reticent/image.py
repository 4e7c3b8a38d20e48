"""The image: what is loaded into a device to make it run one network.

File format, little endian: 8 bytes magic, 4 bytes length of a JSON header, the header, the data of
the arrays that the header lists, 32 bytes SHA-256 of everything before. No pickles, nothing is
executed; every length is checked before it is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .arithmetic import PIXEL_MAX, threshold_counts
from .config import IMAGE_VERSION, BuildConfig
from .errors import UserError
from .layout import COPY_SHIFT, Register, Space, address, copies, row_words, word_index_bits
from .quantise import Thresholds, per_layer

__all__ = ["MAGIC", "Image", "LayerMap", "Origin"]

MAGIC = b"RETICENT"
DIGEST = 32
LARGEST = 1 << 28  # bytes; far above any device's memory, far below what would hurt a host

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class LayerMap:
    """Where a layer lives: enough to read its accumulators back, and to label its counters."""

    name: str
    dense: int  # multiplications of a dense evaluation
    weights: int  # stored
    shape: tuple[int, int, int]  # (channels, height, width) of its outputs
    fold: tuple[int, int]  # of the map in the device, whose channels the slots are for
    slots: tuple[int, ...]  # slot of each folded channel: channel of the lane * lanes + lane
    local: bool  # every lane has all outputs; accumulators are the sums over the lanes
    channels: int  # output channels of each lane
    state_base: int
    scale: float  # real value of one activation (last layer: accumulator) count

    @property
    def folded(self) -> tuple[int, int, int]:
        """Shape of the folded map."""
        (channels, height, width), (fy, fx) = self.shape, self.fold
        return channels * fy * fx, -(-height // fy), -(-width // fx)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What an image was compiled from: what a game must have to be played with it."""

    agent: str  # its label: name and short hash
    game: str  # snake_case
    actions: tuple[str, ...]  # names, in the order of the outputs
    threshold: float | tuple[float, ...]  # in real units, as it was asked for


@dataclass(frozen=True, kw_only=True)
class Image:
    """Memory contents for one build, and the facts that a driver needs to use them.

    `memories` has a row array of words for each space: (rows, words), or for a lane's memories
    (lanes, rows, words).
    """

    config: BuildConfig
    registers: Mapping[int, int]
    layers: tuple[LayerMap, ...]
    frame_shape: tuple[int, int, int]  # (height, width, channels)
    memories: Mapping[Space, Ints] = field(repr=False)
    used: Mapping[str, int]  # rows in use by memory, for reports
    network: str  # `QuantisedNetwork.digest` of what it computes
    origin: Origin | None = None  # None: not compiled from an agent

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return self.layers[-1].shape[0]

    @property
    def thresholds(self) -> list[int]:
        """Thresholds in counts that the image sets: the input's and every hidden layer's."""
        return [self.registers[Register.THRESHOLD + i] for i in range(len(self.layers))]

    @property
    def tag(self) -> bytes:
        """16 bytes that tell what the memories hold; a device keeps them beside its memories."""
        found = hashlib.sha256(self.config.hash.to_bytes(4, "little"))
        for space, rows in self.memories.items():
            found.update(f"{space.name}{rows.shape}".encode() + rows.astype("<u4").tobytes())
        return found.digest()[:16]

    def with_thresholds(self, thresholds: Thresholds) -> Image:
        """The same image with other thresholds in real units: one for all, or one per layer."""
        values = per_layer(thresholds, len(self.layers))
        scales = [1 / PIXEL_MAX, *(layer.scale for layer in self.layers[:-1])]
        counts = [threshold_counts(t, scale) for t, scale in zip(values, scales, strict=True)]
        changed = {int(Register.THRESHOLD) + i: count for i, count in enumerate(counts)}
        return replace(self, registers={**self.registers, **changed})

    def writes(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
        """Everything to write, in order: addresses and data words. Ends with a restart."""
        addresses: list[Ints] = []
        data: list[Ints] = []
        for space, rows in self.memories.items():
            shape = rows.shape if rows.ndim == 3 else (1, *rows.shape)
            lane, row, word = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
            index = (row << word_index_bits(self.config, space)) | word
            addresses.append(np.asarray(address(space, index, lane), np.int64).reshape(-1))
            data.append(rows.reshape(-1))
        registers = {**self.registers, int(Register.RESTART): 1}
        addresses.append(np.array([address(Space.REGISTER, r) for r in registers], np.int64))
        data.append(np.array(list(registers.values()), np.int64))
        return np.concatenate(addresses).astype(np.uint32), np.concatenate(data).astype(np.uint32)

    def contents(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
        """What the memories hold once everything is written: addresses and data words.

        They are all that can be read there: every copy, and the zeros of words that rows lack.
        """
        addresses: list[Ints] = []
        data: list[Ints] = []
        for space, rows in self.memories.items():
            words = 1 << word_index_bits(self.config, space)
            padded = np.zeros((*rows.shape[:-1], words), np.int64)
            padded[..., : rows.shape[-1]] = rows
            lanes = padded.reshape(-1 if rows.ndim == 3 else 1, rows.shape[-2] * words)
            for copy in range(copies(self.config, space)):
                index = np.arange(lanes.shape[1]) | copy << COPY_SHIFT
                for lane, contents in enumerate(lanes):
                    addresses.append(np.asarray(address(space, index, lane), np.int64))
                    data.append(contents)
        return np.concatenate(addresses).astype(np.uint32), np.concatenate(data).astype(np.uint32)

    def to_bytes(self) -> bytes:
        """The file's contents."""
        header: dict[str, Any] = {
            "version": IMAGE_VERSION,
            "config": self.config.to_dict(),
            "registers": {str(k): int(v) for k, v in self.registers.items()},
            "layers": [vars(layer) for layer in self.layers],
            "frame_shape": list(self.frame_shape),
            "used": dict(self.used),
            "network": self.network,
            "origin": asdict(self.origin) if self.origin else None,
            "memories": {space.name: list(rows.shape) for space, rows in self.memories.items()},
        }
        text = json.dumps(header, sort_keys=False).encode()
        blob = b"".join(
            [MAGIC, len(text).to_bytes(4, "little"), text]
            + [rows.astype("<u4").tobytes() for rows in self.memories.values()]
        )
        return blob + hashlib.sha256(blob).digest()

    def save(self, path: str | Path) -> None:
        """Write the file; an interruption leaves the old one or none, never half of one."""
        path = Path(path)
        if path.is_dir():
            raise UserError(f"cannot write image {path}: it is a folder; name a file in it")
        part = path.with_name(path.name + ".part")
        try:
            part.write_bytes(self.to_bytes())
            os.replace(part, path)
        except OSError as error:
            raise UserError(
                f"cannot write image {path} ({error.strerror}): name a file that can be written"
            ) from None
        finally:
            with contextlib.suppress(OSError):
                part.unlink()

    @classmethod
    def load(cls, path: str | Path) -> Image:
        """Read a file; refuse what is missing, damaged or of another version."""
        path = Path(path)
        try:
            size = path.stat().st_size
            if not path.is_file() or size > LARGEST:
                raise UserError(f"image {path} is not a file of up to {LARGEST} bytes: no image")
            blob = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"cannot read image {path} ({error.strerror}): make one with `reticent compile`"
            ) from None
        try:
            return cls.from_bytes(blob)
        except UserError as error:
            raise UserError(f"image {path}: {error}") from None

    @classmethod
    def from_bytes(cls, blob: bytes) -> Image:
        """Read `to_bytes` back."""
        if len(blob) < len(MAGIC) + 4 + DIGEST or not blob.startswith(MAGIC):
            raise UserError("not an image file; make one with `reticent compile`")
        body, digest = blob[:-DIGEST], blob[-DIGEST:]
        if hashlib.sha256(body).digest() != digest:
            raise UserError("damaged (its checksum is wrong); compile or copy it again")
        try:
            start = len(MAGIC) + 4
            end = start + int.from_bytes(body[len(MAGIC) : start], "little")
            header = json.loads(body[start:end])
            if header["version"] != IMAGE_VERSION:
                raise UserError(
                    f"version {header['version']}, this program reads {IMAGE_VERSION}: "
                    "compile it again"
                )
            config = BuildConfig.from_dict(header["config"])
            memories: dict[Space, Ints] = {}
            for name, shape in header["memories"].items():
                _check_shape(config, Space[name], shape)
                size = 4 * math.prod(shape)
                if end + size > len(body):
                    raise ValueError(f"memory {name} has shape {shape}")
                words = np.frombuffer(body[end : end + size], "<u4").reshape(shape)
                memories[Space[name]] = words.astype(np.int64)
                end += size
            if end != len(body):
                raise ValueError(f"{len(body) - end} bytes too many")
            origin = header["origin"]
            return cls(
                config=config,
                registers={int(k): int(v) for k, v in header["registers"].items()},
                layers=tuple(LayerMap(**_tuples(entry)) for entry in header["layers"]),
                frame_shape=tuple(header["frame_shape"]),
                memories=memories,
                used=header["used"],
                network=header["network"],
                origin=Origin(**_tuples(origin)) if origin else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise UserError(f"its contents are inconsistent ({error}); compile it again") from None


def _check_shape(config: BuildConfig, space: Space, shape: list[int]) -> None:
    """Raise ValueError unless rows of this shape belong to a memory of the build."""
    of_lane = space in (Space.POINTER, Space.WEIGHT, Space.CHANNEL)
    *lanes, rows, words = shape
    if lanes != [config.lanes] * of_lane or words != row_words(config, space) or rows < 0:
        raise ValueError(f"memory {space.name} has shape {shape}")


def _tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists back to tuples."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in entry.items()}
