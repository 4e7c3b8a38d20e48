"""A GIF of the play: the frame beside the events of each layer, so that one sees the hardware work.

Every decision is one picture. Left is what the network saw. Each panel is one layer: a lit spot is
an event that entered it, warm where the value rose, cool where it fell. Maps show one spot for each
position, brighter for more channels (for the first layer: for a newer frame of the stack); where a
map is too small to be one, as before dense layers, every neuron has its own spot. The last panel
shows the multiplications of the past decisions.

Pictures are written as they come, so a long game needs no more memory than a short one and an
interrupted one leaves a whole file.
"""

from __future__ import annotations

import struct
from collections import deque
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import GifImagePlugin, Image, ImageDraw, ImageFont

from .atari import Decision
from .backends import ModelBackend
from .errors import UserError
from .report import Setup

__all__ = ["Recorder"]

Bytes = npt.NDArray[np.uint8]

DURATION = 70  # ms a picture: one decision is 4 frames of 60 a second, GIF counts in 10 ms
MARGIN, GAP = 16, 20  # pixels
SIDE = 168  # of a panel
CAPTION = 36  # above a panel: two lines of text
COLUMNS = 3  # of panels
SCREEN = 2 * SIDE  # side of the game's picture

LEVELS = 15  # of brightness, for rising and falling each
GREYS = 30
TRANSPARENT = LEVELS * LEVELS + GREYS  # "as in the picture before"
DECADES = 4  # of the history: 0.01 % to 100 % of the dense multiplications
MAP_POSITIONS = 64  # with fewer, a map shows its neurons one by one

BACKGROUND, PANEL = (14, 17, 23), (28, 32, 41)
RISING, FALLING, TEXT = (255, 138, 30), (40, 150, 255), (240, 243, 248)
BRIGHT, DIM = 255, 150  # of text


def _palette() -> Bytes:
    """256 colours: `rising * LEVELS + falling`, then greys from the background to white."""
    rising, falling = np.divmod(np.arange(LEVELS * LEVELS), LEVELS)
    lit = np.outer(rising, RISING) + np.outer(falling, FALLING)
    events = np.clip(np.array(PANEL) + lit / (LEVELS - 1), 0, 255)
    greys = np.linspace(BACKGROUND, TEXT, GREYS)
    colours: Bytes = np.rint(np.concatenate([events, greys, [BACKGROUND]])).astype(np.uint8)
    return colours


def _grey(levels: npt.NDArray[np.integer]) -> Bytes:
    """Colour indices of grey levels 0..255."""
    return (LEVELS * LEVELS + levels.astype(np.int64) * (GREYS - 1) // 255).astype(np.uint8)


def _spots(delta: npt.NDArray[Any], stack: int | None) -> Bytes:
    """Colour indices of one layer's events (in, h, w), one item a spot.

    `stack` is the number of stacked frames when the channels are frames, the newest last.
    """
    channels, height, width = delta.shape
    both = np.stack([delta > 0, delta < 0])
    if stack:
        age = (np.arange(channels) // (channels // stack) + 1) / stack
        strength = (both * age[:, None, None]).max(axis=1)
    elif height * width >= MAP_POSITIONS:
        strength = np.log1p(both.sum(axis=1)) / np.log1p(channels)
    else:
        across = int(np.ceil(np.sqrt(channels)))
        down = -(-channels // across)
        tiles = np.zeros((2, down * across, height, width))
        tiles[:, :channels] = both
        strength = (
            tiles.reshape(2, down, across, height, width)
            .transpose(0, 1, 3, 2, 4)
            .reshape(2, down * height, across * width)
        )
    # The weakest event is still seen.
    levels = np.where(strength > 0, np.rint(3 + strength * (LEVELS - 4)), 0)
    spots: Bytes = (levels[0] * LEVELS + levels[1]).astype(np.uint8)
    return spots


def _enlarge(spots: Bytes) -> Bytes:
    """A panel (SIDE, SIDE) with the spots as squares; large ones stand apart."""
    scale = max(1, SIDE // max(spots.shape))
    step = -(-max(spots.shape) // SIDE)  # larger than the panel: show every step-th
    large = np.kron(spots[::step, ::step], np.ones((scale, scale), np.uint8))
    if scale >= 4:
        large[scale - 1 :: scale] = 0
        large[:, scale - 1 :: scale] = 0
    panel = np.zeros((SIDE, SIDE), np.uint8)
    y, x = ((SIDE - length) // 2 for length in large.shape)
    panel[y : y + large.shape[0], x : x + large.shape[1]] = large
    return panel


class Recorder:
    """Writes the GIF; a watcher, used as a context.

    `model` runs beside the backend and shows the events: the golden model for hardware, which has
    the same ones. Raises `UserError` when the file cannot be written.
    """

    def __init__(self, path: Path | str, setup: Setup, model: ModelBackend) -> None:
        self._path = Path(path)
        if self._path.suffix.lower() != ".gif":
            raise UserError(f"recording {self._path}: give a file name that ends with .gif")
        self._setup = setup
        self._model = model
        self._file: BinaryIO | None = None  # opened with the first picture
        self._previous: Bytes | None = None
        self._past: deque[float] = deque(maxlen=SIDE // 2)
        self._title = ImageFont.load_default(15)
        self._small = ImageFont.load_default(12)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file:
            self._file.write(b";")
            self._file.close()

    def add(self, decision: Decision) -> None:
        """Write one picture."""
        if decision.first:
            self._model.reset()
            self._score, self._step = 0.0, 0
        self._model.step(decision.frame)
        self._write(self._picture(decision))
        self._score += decision.reward
        self._step += 1

    def _picture(self, decision: Decision) -> Bytes:
        """Colour indices (height, width)."""
        result = decision.result
        assert result is not None
        layers = self._setup.layers
        rows = -(-(len(layers) + 1) // COLUMNS)
        height = 2 * MARGIN + max(rows * (CAPTION + SIDE + GAP) - GAP, CAPTION + SCREEN + 3 * GAP)
        width = 2 * MARGIN + SCREEN + COLUMNS * (SIDE + GAP)
        page = Image.new("L", (width, height))
        draw = ImageDraw.Draw(page)
        pictures: list[tuple[int, int, Bytes]] = []

        def panel(number: int, name: str, text: str, picture: Bytes) -> None:
            row, column = divmod(number, COLUMNS)
            x = MARGIN + SCREEN + GAP + column * (SIDE + GAP)
            y = MARGIN + row * (CAPTION + SIDE + GAP)
            draw.text((x, y - 2), name, fill=BRIGHT, font=self._title)
            draw.text((x, y + 17), text, fill=DIM, font=self._small)
            pictures.append((x, y + CAPTION, picture))

        setup = self._setup
        machine = setup.backend + (f", {setup.lanes} lanes" if setup.lanes else "")
        title = setup.game.replace("_", " ")
        draw.text((MARGIN, MARGIN - 2), title, fill=BRIGHT, font=self._title)
        draw.text((MARGIN, MARGIN + 17), machine, fill=DIM, font=self._small)
        y = MARGIN + CAPTION + SCREEN
        below = (
            f"score {self._score:g}    episode {decision.episode + 1}, decision {self._step + 1}"
            + (f"    {result.cycles.total:,} cycles" if result.cycles else "")
        )
        draw.text((MARGIN, y + 8), below, fill=BRIGHT, font=self._title)
        for x, rgb, text in ((0, LEVELS - 1, "rose"), (70, 0, "fell")):
            swatch = np.full((10, 10), rgb * LEVELS + (LEVELS - 1 - rgb), np.uint8)
            pictures.append((MARGIN + x, y + 36, swatch))
            draw.text((MARGIN + x + 15, y + 33), text, fill=DIM, font=self._small)
        draw.text((MARGIN + 140, y + 33), "silent neurons are dark", fill=DIM, font=self._small)
        repeats = SCREEN // max(decision.frame.shape[:2])
        screen = decision.frame.repeat(repeats, axis=0).repeat(repeats, axis=1)
        pictures.append((MARGIN, MARGIN + CAPTION, _grey(screen)))

        for i, ((name, _), delta) in enumerate(zip(layers, self._model.model.delta, strict=True)):
            stack = self._model.model.network.input.stack if i == 0 else None
            counts = f"{result.events[i]:,} events, {result.significant[i]:,} mult."
            panel(i, name, counts, _enlarge(_spots(delta, stack)))
        dense, significant = sum(count for _, count in layers), sum(result.significant)
        self._past.append(significant / dense)
        counts = f"{significant:,} mult., {significant / dense:.2%} of dense"
        panel(len(layers), "whole network", counts, self._history())
        x, y, _ = pictures[-1]
        for decade, share in enumerate(("0.1 %", "1 %", "10 %"), start=1):
            above = y + SIDE - SIDE * decade // DECADES - 15
            draw.text((x + 3, above), share, fill=DIM, font=self._small)

        letters = np.asarray(page)
        indices = _grey(letters)
        for x, y, picture in pictures:
            indices[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
        return np.where(letters > 0, _grey(letters), indices)

    def _history(self) -> Bytes:
        """A panel with a column for each past decision: the fraction, 0.01 % to 100 % (log)."""
        panel = np.zeros((SIDE, SIDE), np.uint8)
        for decade in range(1, DECADES):
            panel[SIDE - SIDE * decade // DECADES] = 2 * LEVELS + 2  # a faint line
        for k, fraction in enumerate(self._past):
            share = np.log10(max(fraction, 10.0**-DECADES)) / DECADES + 1
            top = min(SIDE - int(share * SIDE), SIDE - 3)
            panel[top:, 2 * k : 2 * k + 2] = 2 * LEVELS  # faint, so that the labels stay legible
            panel[top : top + 3, 2 * k : 2 * k + 2] = (LEVELS - 1) * LEVELS
        return panel

    def _write(self, indices: Bytes) -> None:
        """Append one picture: the rectangle that changed, in it what did not is transparent."""
        top, left, changed = 0, 0, indices
        if self._previous is not None:
            differs = indices != self._previous
            (top, bottom), (left, right) = (
                np.flatnonzero(differs.any(axis=axis))[[0, -1]].tolist() for axis in (1, 0)
            )
            part = slice(top, bottom + 1), slice(left, right + 1)
            changed = np.where(differs[part], indices[part], np.uint8(TRANSPARENT))
        self._previous = indices
        if self._file is None:
            self._file = self._open(*indices.shape)
        for block in GifImagePlugin.getdata(
            Image.fromarray(changed, "P"),
            (left, top),
            duration=DURATION,
            transparency=TRANSPARENT,
            disposal=1,  # leave the picture for the next one to draw on
            interlace=0,
        ):
            self._file.write(block)

    def _open(self, height: int, width: int) -> BinaryIO:
        try:
            file = self._path.open("wb")
        except OSError as error:
            raise UserError(
                f"recording {self._path} cannot be written ({error.strerror}): name another file"
            ) from None
        # Signature, size, "a table of 256 colours follows", the table, "repeat for ever".
        file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF7, 0, 0))
        file.write(_palette().tobytes())
        file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")
        return file
