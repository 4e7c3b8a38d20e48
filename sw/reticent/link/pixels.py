"""How a frame travels: what is as it was is skipped, the rest are values. Lossless.

A frame is a sequence of tokens over its bytes in the order y, x, channel:

    0x00 + n   the next n + 1 bytes are what they were (n up to 63)
    0x40 + n   the rest of this row, and n whole rows after it, are what they were (n up to 63)
    0x80 + n   n + 1 bytes follow as they are (n up to 63)
    0xc0 + n   the next n + 1 bytes are all what follows once (n up to 63)

The thresholds act on the board: a token says what equals the frame before, not what is small.
"""

from __future__ import annotations

from itertools import groupby

import numpy as np
import numpy.typing as npt

__all__ = [
    "MOST",
    "REPEAT",
    "REST",
    "SKIP",
    "VALUES",
    "decode_frame",
    "encode_frame",
    "split_frame",
]

SKIP, REST, VALUES, REPEAT = 0x00, 0x40, 0x80, 0xC0
MOST = 64  # bytes of one token, or rows
WORTH = 3  # up to so long a gap between two changes costs no more as values than as a token
SAME = 3  # from so many equal bytes on they cost no more as a token than as values

Frame = npt.NDArray[np.uint8]  # (rows, bytes of a row)


def encode_frame(frame: Frame, before: Frame | None) -> list[bytes]:
    """Tokens of a frame, given the frame before it (None: there is none, everything goes).

    One item for each token, so that a long frame may be split between any two of them. Never
    longer than the frame by more than one byte in `MOST`.
    """
    rows, width = frame.shape
    pixels = frame.reshape(-1)
    tokens: list[bytes] = []
    if before is None:
        _values(tokens, pixels, 0, len(pixels))
        return tokens
    changed = np.flatnonzero(pixels != before.reshape(-1))
    if not len(changed):
        _rest(tokens, rows)
        return tokens
    gaps = np.diff(changed) > WORTH
    starts = changed[np.concatenate([[True], gaps])].tolist()
    ends = (changed[np.concatenate([gaps, [True]])] + 1).tolist()
    at = 0
    for start, end in zip(starts, ends, strict=True):
        _skip(tokens, at, start, width)
        _values(tokens, pixels, start, end)
        at = end
    if at < len(pixels):
        _rest(tokens, rows - at // width)
    # A plain picture may be told in less than what changed; never in less than its runs, so that it
    # is seldom tried.
    if sum(map(len, tokens)) > 1 + np.count_nonzero(pixels[1:] != pixels[:-1]):
        return min(tokens, encode_frame(frame, None), key=lambda found: sum(map(len, found)))
    return tokens


def _values(tokens: list[bytes], pixels: Frame, start: int, end: int) -> None:
    each = bytearray()  # those that stand for themselves
    for value, equal in groupby(pixels[start:end].tobytes()):
        count = len(list(equal))
        while count >= SAME:
            _each(tokens, each)
            some = min(count, MOST)
            tokens.append(bytes([REPEAT + some - 1, value]))
            count -= some
        each += bytes([value]) * count
    _each(tokens, each)


def _each(tokens: list[bytes], values: bytearray) -> None:
    for at in range(0, len(values), MOST):
        part = values[at : at + MOST]
        tokens.append(bytes([VALUES + len(part) - 1]) + part)
    values.clear()


def _rest(tokens: list[bytes], rows: int) -> None:
    while rows:
        some = min(rows, MOST)
        tokens.append(bytes([REST + some - 1]))
        rows -= some


def _skip(tokens: list[bytes], at: int, to: int, width: int) -> None:
    rows = to // width - at // width
    if rows and (at % width or rows):
        _rest(tokens, rows)
        at = to - to % width
    while at < to:
        some = min(to - at, MOST)
        tokens.append(bytes([SKIP + some - 1]))
        at += some


def split_frame(tokens: list[bytes], room: int) -> list[bytes]:
    """Tokens joined to parts of up to `room` bytes."""
    parts, part = [], bytearray()
    for token in tokens:
        if len(part) + len(token) > room:
            parts.append(bytes(part))
            part.clear()
        part += token
    parts.append(bytes(part))
    return parts


def decode_frame(code: bytes, shape: tuple[int, int], before: Frame | None) -> Frame:
    """The inverse of `encode_frame`; raises ValueError for a code that is none of this frame."""
    rows, width = shape
    frame = np.zeros(rows * width, np.uint8)
    old = None if before is None else before.reshape(-1)
    at = used = 0
    while used < len(code):
        token = code[used]
        used += 1
        if token >= REPEAT:
            count = token - REPEAT + 1
            part = np.frombuffer(code[used : used + 1] * count, np.uint8)
            used += 1
        elif token >= VALUES:
            count = token - VALUES + 1
            part = np.frombuffer(code[used : used + count], np.uint8)
            used += count
        else:
            if token >= REST:
                count = (token - REST + 1) * width - at % width
            else:
                count = token - SKIP + 1
            if old is None:
                raise ValueError("there is no frame before")
            part = old[at : at + count]
        if len(part) != count or at + count > len(frame):
            raise ValueError(f"token {token:#04x} at byte {used - 1} reaches too far")
        frame[at : at + count] = part
        at += count
    if at != len(frame):
        raise ValueError(f"the code ends after {at} of {len(frame)} bytes")
    return frame.reshape(shape)
