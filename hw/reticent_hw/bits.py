"""Functions of many bits, as trees of few levels."""

from amaranth import *

__all__ = ["first_bits", "lowest", "product_of", "several", "sum_of"]


def sum_of(values):
    """Sum of values (or of the bits of one), no wider than needed."""
    values = list(values)
    if len(values) <= 1:
        return values[0] if values else C(0, 1)
    return sum_of(values[: len(values) // 2]) + sum_of(values[len(values) // 2 :])


def product_of(value, factor):
    """Product of two unsigned values, in logic: for small ones a device's multipliers are too far.

    The levels of its tree grow with the bits of `factor`.
    """
    return sum_of(Mux(bit, value, 0) << i for i, bit in enumerate(factor))


def several(bits):
    """Whether more than one bit is set."""

    def some_and_several(bits):
        if len(bits) == 1:
            return bits, C(0, 1)
        low, high = (some_and_several(part) for part in _halves(bits))
        return low[0] | high[0], low[1] | high[1] | (low[0] & high[0])

    return some_and_several(bits)[1]


def lowest(bits):
    """Index of the lowest bit that is set; any when none is."""
    if len(bits) == 1:
        return C(0, 1)
    low, high = _halves(bits)
    return Mux(low.any(), lowest(low), len(low) + lowest(high))


def _halves(bits):
    """The lower part has a power of two bits."""
    half = 1 << ((len(bits) - 1).bit_length() - 1)
    return bits[:half], bits[half:]


def first_bits(m, count, width, name):
    """A signal of `width` bits of which the lowest `count` are set, as a table."""
    bits = Signal(width, name=name)
    with m.Switch(count):
        for number in range(min(width + 1, 1 << len(count))):
            with m.Case(number):
                m.d.comb += bits.eq((1 << number) - 1)
    return bits
