"""The arithmetic contract, on whole small ranges and on drawn large ones."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reticent.arithmetic import (
    DELTA_BITS,
    THRESHOLD_MAX,
    activation_range,
    fires,
    requantise,
    signed_bits,
    threshold_counts,
)


def exact_activation(acc: int, multiplier: int, shift: int, signed: bool) -> int:
    """The definition in rational numbers: round half up, then saturate."""
    low, high = activation_range(signed)
    return max(low, min(high, floor(Fraction(acc * multiplier, 1 << shift) + Fraction(1, 2))))


@pytest.mark.parametrize("signed", [False, True])
def test_requantise_is_rounding_half_up_on_a_whole_small_range(signed):
    acc = np.arange(-600, 601, dtype=np.int64)
    for shift in range(1, 6):
        for multiplier in range(17):
            expected = [exact_activation(int(a), multiplier, shift, signed) for a in acc]
            assert requantise(acc, multiplier, shift, signed).tolist() == expected


@given(
    st.integers(-(1 << 31), (1 << 31) - 1),
    st.integers(0, (1 << 16) - 1),
    st.integers(1, 31),
    st.booleans(),
)
def test_requantise_is_rounding_half_up_at_full_width(acc, multiplier, shift, signed):
    expected = exact_activation(acc, multiplier, shift, signed)
    assert requantise(acc, multiplier, shift, signed) == expected
    assert requantise(np.int64(acc), np.int64(multiplier), shift, signed) == expected


@pytest.mark.parametrize(
    ("acc", "expected"), [(-1, 0), (0, 0), (1, 1), (2, 1), (509, 255), (511, 255), (10**6, 255)]
)
def test_requantise_of_halves_and_ends(acc, expected):
    assert requantise(acc, 1, 1, signed=False) == expected


def test_fires_is_strictly_greater_on_the_whole_range():
    value, sent = np.meshgrid(np.arange(-128, 256), np.arange(-128, 256))
    for threshold in (0, 1, 2, 40, 254, THRESHOLD_MAX):
        assert np.array_equal(fires(value, sent, threshold), np.abs(value - sent) > threshold)
    assert not fires(255, 0, THRESHOLD_MAX)
    assert not fires(7, 7, 0)
    assert fires(7, 6, 0)


def test_a_delta_fits_its_width():
    for low, high in (activation_range(False), activation_range(True)):
        assert signed_bits(high - low) <= DELTA_BITS


@pytest.mark.parametrize(
    ("threshold", "scale", "counts"),
    [
        (0.0, 0.1, 0),
        (0.01, 1 / 255, 2),
        (0.02, 0.01, 2),
        (0.3, 0.1, 3),
        (0.0299, 0.01, 2),
        (1e9, 0.01, THRESHOLD_MAX),
    ],
)
def test_threshold_counts_rounds_down_and_forgives_binary_fractions(threshold, scale, counts):
    assert threshold_counts(threshold, scale) == counts


@given(st.integers(0, THRESHOLD_MAX), st.floats(1e-6, 1e3))
def test_threshold_counts_gives_whole_multiples_back(counts, scale):
    assert threshold_counts(counts * scale, scale) == counts


@pytest.mark.parametrize("threshold", [-0.01, float("nan")])
def test_threshold_counts_refuses_what_is_below_zero(threshold):
    with pytest.raises(ValueError, match="give 0"):
        threshold_counts(threshold, 0.1)


@given(st.integers(0, 1 << 40))
def test_signed_bits_is_the_narrowest_symmetric_width(magnitude):
    bits = signed_bits(magnitude)
    assert -(1 << (bits - 1)) <= -magnitude
    assert magnitude <= (1 << (bits - 1)) - 1
    assert bits == 1 or magnitude > (1 << (bits - 2)) - 1
