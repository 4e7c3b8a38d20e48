"""The arithmetic contract: every numeric rule that hardware, golden model and compiler share.

All functions work on plain integers and on numpy integer arrays (widen to int64 first: nothing
here wraps). The gateware implements the same rules; `tests/hw` holds it to these functions.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "DELTA_BITS",
    "PIXEL_MAX",
    "THRESHOLD_MAX",
    "WEIGHT_MAX",
    "activation_range",
    "fires",
    "requantise",
    "signed_bits",
    "threshold_counts",
]

WEIGHT_MAX = 127  # int8, symmetric: -128 is never used, so that |w| has one bound
PIXEL_MAX = 255  # uint8 input and uint8 ReLU activations
DELTA_BITS = 9  # a - sent for 8-bit values of either signedness: -255..255
THRESHOLD_MAX = 255  # no difference of 8-bit values exceeds it: "never fires"

Ints = npt.NDArray[np.int64]


def activation_range(signed: bool) -> tuple[int, int]:
    """Lowest and highest activation: 0..255 after ReLU, -128..127 after identity."""
    return (-128, 127) if signed else (0, 255)


def requantise(acc: Any, multiplier: Any, shift: int, signed: bool) -> Any:
    """Turn accumulators into activations: `clip((acc * m + (1 << (r - 1))) >> r)`.

    Round half up (towards plus infinity), then saturate; the arithmetic shift floors.
    `shift` is at least 1. ReLU is the lower clip at 0.
    """
    low, high = activation_range(signed)
    return np.clip((acc * multiplier + (1 << (shift - 1))) >> shift, low, high)


def fires(value: Any, sent: Any, threshold: int) -> Any:
    """The delta rule: a neuron transmits when its value moved by strictly more than T."""
    return np.abs(value - sent) > threshold


def threshold_counts(threshold: float, scale: float) -> int:
    """A threshold in real units as activation counts: `floor(T / scale)`, at most 255."""
    if not threshold >= 0:
        raise ValueError(f"threshold {threshold} is below zero: give 0 (send every change) or more")
    # The tiny factor undoes binary fractions: 0.02 / 0.01 must be 2 and not 1.
    return int(min(THRESHOLD_MAX, np.floor(threshold / scale * (1 + 1e-12))))


def signed_bits(magnitude: int) -> int:
    """Width of a two's complement integer that holds -magnitude..magnitude."""
    return int(magnitude).bit_length() + 1
