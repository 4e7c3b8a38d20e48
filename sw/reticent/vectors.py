"""Short vectors for compiled functions: what the compiler's own vectoriser does not find.

`LANES` neighbouring items of an array become one value that stays in registers. The compiler
splits it into whatever vectors the processor has.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

__all__ = [
    "LANES",
    "RAISED",
    "above",
    "add_products",
    "beyond",
    "choose",
    "equal",
    "greatest",
    "larger",
    "load",
    "lowest",
    "marks",
    "minus",
    "ones",
    "pack",
    "plus",
    "scaled",
    "spread",
    "store",
    "store_sums",
    "sums",
    "total",
    "twin_sums",
    "unlike",
    "woven",
]

LANES = 32  # of int16: one 512-bit register, or two of 256 bits

INDEX, SUM, WORD, BYTE = (ir.IntType(bits) for bits in (64, 32, 16, 8))


class _Vector(types.Type):  # type: ignore[misc]
    """The compiler's type of a vector of `item`."""

    def __init__(self, item: Any) -> None:
        self.item = item
        super().__init__(f"vector({LANES} x {item})")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    """Vectors are LLVM's."""

    def __init__(self, manager: Any, kind: _Vector) -> None:
        item = manager.lookup(kind.item).get_value_type()
        super().__init__(manager, kind, ir.VectorType(item, LANES))


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Address of the vector that begins at an item of an array of type `kind`."""
    data = context.make_array(kind)(context, builder, array).data
    item = context.get_value_type(kind.dtype)
    return builder.bitcast(builder.gep(data, [index]), ir.VectorType(item, LANES).as_pointer())


def _spread(builder: Any, number: Any, kind: Any) -> Any:
    """A vector of LLVM type `kind` whose items are all the same."""
    nothing = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(nothing, number, ir.IntType(32)(0))
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, nothing, everywhere)


def _shuffle(builder: Any, one: Any, two: Any, order: Iterable[int]) -> Any:
    """Items of two vectors, numbered through, in another order."""
    places = [SUM(place) for place in order]
    mask = ir.Constant(ir.VectorType(SUM, len(places)), places)
    return builder.shuffle_vector(one, two, mask)


def _fused(builder: Any, one: Any, two: Any, three: Any) -> Any:
    """Floats `one * two + three`, rounded once where that is as quick."""
    kind = one.type
    name = f"llvm.fmuladd.v{kind.count}f{32 if kind.element == ir.FloatType() else 64}"
    function = ir.FunctionType(kind, [kind] * 3)
    return builder.call(builder.module.declare_intrinsic(name, fnty=function), [one, two, three])


@intrinsic  # type: ignore[untyped-decorator]
def load(typing: Any, array: Any, index: Any) -> Any:
    """Items `index` to `index + LANES` of an array."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(_pointer(context, builder, array, *values), align=1)

    return _Vector(array.dtype)(array, index), generate


@intrinsic  # type: ignore[untyped-decorator]
def store(typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """Put a vector of the array's type to items `index` to `index + LANES`."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[2], _pointer(context, builder, array, *values[:2]), align=1)
        return context.get_dummy_value()

    return types.void(array, index, vector), generate


@intrinsic  # type: ignore[untyped-decorator]
def plus(typing: Any, one: Any, two: Any) -> Any:
    """The sum of two vectors of one type."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        floats = isinstance(one.item, types.Float)
        return (builder.fadd if floats else builder.add)(*values)

    return one(one, two), generate


@intrinsic  # type: ignore[untyped-decorator]
def minus(typing: Any, one: Any, two: Any) -> Any:
    """The difference of two vectors of one type."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        floats = isinstance(one.item, types.Float)
        return (builder.fsub if floats else builder.sub)(*values)

    return one(one, two), generate


@intrinsic  # type: ignore[untyped-decorator]
def scaled(typing: Any, vector: Any, factors: Any, offset: Any, low: Any, high: Any) -> Any:
    """`clip(vector * factors + offset, low, high)`, worked out in float64; integers round down."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind, wide = values[0].type, values[1].type
        whole = isinstance(vector.item, types.Integer)
        x = (builder.sitofp if whole else builder.fpext)(values[0], wide)
        offset, low, high = values[2:]
        if whole:  # rounding towards zero rounds down what begins at zero
            offset, high = builder.fsub(offset, low), builder.fsub(high, low)
        add, least, most = (
            _spread(builder, number, wide)
            for number in (offset, ir.Constant(low.type, 0) if whole else low, high)
        )
        x = _fused(builder, x, values[1], add)
        x = builder.select(builder.fcmp_ordered(">", x, least), x, least)
        x = builder.select(builder.fcmp_ordered("<", x, most), x, most)
        if not whole:
            return builder.fptrunc(x, kind)
        down = builder.fptosi(low, kind.element)
        return builder.add(builder.fptosi(x, kind), _spread(builder, down, kind))

    real = types.float64
    return vector(vector, factors, real, real, real), generate


@intrinsic  # type: ignore[untyped-decorator]
def beyond(typing: Any, vector: Any, limit: Any) -> Any:
    """Which items are more than `limit` from zero, as a mask: bit 0 is the first one's."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        floats = isinstance(vector.item, types.Float)
        above = _spread(builder, values[1], values[0].type)
        zero = ir.Constant(above.type, None)
        below = (builder.fsub if floats else builder.sub)(zero, above)
        compare = builder.fcmp_ordered if floats else builder.icmp_signed
        outside = builder.or_(compare(">", values[0], above), compare("<", values[0], below))
        return builder.bitcast(outside, ir.IntType(LANES))

    return types.uint32(vector, vector.item), generate


@intrinsic  # type: ignore[untyped-decorator]
def choose(typing: Any, mask: Any, one: Any, two: Any) -> Any:
    """The items of `one` where `mask` has a bit, else those of `two`."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        bits = builder.bitcast(values[0], ir.VectorType(ir.IntType(1), LANES))
        return builder.select(bits, *values[1:])

    return one(types.uint32, one, two), generate


@intrinsic  # type: ignore[untyped-decorator]
def pack(typing: Any, array: Any, index: Any, mask: Any, vector: Any) -> Any:
    """Put the items of a vector where `mask` has a bit side by side to an array, from `index` on.

    What lies behind them, up to `index + LANES`, is overwritten.
    """
    half = LANES // 2  # as many as one instruction can do

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        index, mask, items = values[1:]
        data = context.make_array(array)(context, builder, values[0]).data
        kind, bits = ir.VectorType(items.type.element, half), ir.VectorType(ir.IntType(1), half)
        letter = "f" if isinstance(vector.item, types.Float) else "i"
        compress = builder.module.declare_intrinsic(
            f"llvm.experimental.vector.compress.v{half}{letter}32",
            fnty=ir.FunctionType(kind, [kind, bits, kind]),
        )
        for n in range(2):
            chosen = builder.trunc(builder.lshr(mask, mask.type(n * half)), ir.IntType(half))
            part = _shuffle(builder, items, items, range(n * half, (n + 1) * half))
            nothing = ir.Constant(kind, ir.Undefined)
            part = builder.call(compress, [part, builder.bitcast(chosen, bits), nothing])
            if array.dtype != vector.item:
                part = builder.trunc(part, ir.VectorType(data.type.pointee, half))
            place = builder.bitcast(builder.gep(data, [index]), part.type.as_pointer())
            builder.store(part, place, align=1)
            index = builder.add(index, builder.zext(builder.ctpop(chosen), index.type))
        return context.get_dummy_value()

    return types.void(array, index, mask, vector), generate


@intrinsic  # type: ignore[untyped-decorator]
def marks(typing: Any, array: Any, index: Any) -> Any:
    """Which of the integers `index` to `index + LANES` are not zero, as a mask."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        items = builder.load(_pointer(context, builder, array, *values), align=1)
        different = builder.icmp_signed("!=", items, ir.Constant(items.type, None))
        return builder.bitcast(different, ir.IntType(LANES))

    return types.uint32(array, index), generate


@intrinsic  # type: ignore[untyped-decorator]
def unlike(typing: Any, array: Any, other: Any, index: Any) -> Any:
    """Which integers of two arrays of one type differ, from `index` on, as a mask."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        one, two = (
            builder.load(_pointer(context, builder, kind, which, values[2]), align=1)
            for kind, which in zip((array, other), values[:2], strict=True)
        )
        return builder.bitcast(builder.icmp_signed("!=", one, two), ir.IntType(LANES))

    return types.uint32(array, other, index), generate


@intrinsic  # type: ignore[untyped-decorator]
def lowest(typing: Any, mask: Any) -> Any:
    """The number of the lowest bit that is set in a mask that is not zero."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        found = builder.cttz(values[0], ir.IntType(1)(1))
        return builder.zext(found, ir.IntType(64))

    return types.uint64(types.uint32), generate


@intrinsic  # type: ignore[untyped-decorator]
def ones(typing: Any, mask: Any) -> Any:
    """How many bits are set in a mask."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.ctpop(values[0])

    return types.int64(types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def spread(typing: Any, vector: Any, number: Any) -> Any:
    """A vector of this one's type, all of whose items are a number, which wraps to their type."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        item = context.cast(builder, values[1], signature.args[1], vector.item)
        return _spread(builder, item, values[0].type)

    return vector(vector, number), generate


def _compare(relation: str) -> Any:
    """Code that compares two vectors of integers, item by item, as a mask."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.bitcast(builder.icmp_signed(relation, *values), ir.IntType(LANES))

    return generate


@intrinsic  # type: ignore[untyped-decorator]
def above(typing: Any, one: Any, two: Any) -> Any:
    """Which integers of `one` are greater than those of `two`, as a mask."""
    return types.uint32(one, one), _compare(">")


@intrinsic  # type: ignore[untyped-decorator]
def equal(typing: Any, one: Any, two: Any) -> Any:
    """Which integers of two vectors of one type are equal, as a mask."""
    return types.uint32(one, one), _compare("==")


@intrinsic  # type: ignore[untyped-decorator]
def larger(typing: Any, one: Any, two: Any) -> Any:
    """Of each two integers the larger one."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.select(builder.icmp_signed(">", *values), *values)

    return one(one, one), generate


def _reduction(operation: str) -> Any:
    """Code that makes one number of a vector of integers."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = values[0].type
        name = f"llvm.vector.reduce.{operation}.v{LANES}i{kind.element.width}"
        function = ir.FunctionType(kind.element, [kind])
        reduced = builder.call(builder.module.declare_intrinsic(name, fnty=function), values)
        return builder.sext(reduced, ir.IntType(64))

    return generate


@intrinsic  # type: ignore[untyped-decorator]
def total(typing: Any, vector: Any) -> Any:
    """The sum of all integers, which wraps to their type."""
    return types.int64(vector), _reduction("add")


@intrinsic  # type: ignore[untyped-decorator]
def greatest(typing: Any, vector: Any) -> Any:
    """The largest of all integers."""
    return types.int64(vector), _reduction("smax")


# Sums of products. Integers are multiplied as pairs of 16 bits, whose products all processors add
# up in one instruction: so the weights of four events must lie next to each other, and are woven.

RAISED = 128  # added to a weight, so that it is never below zero
PIECES = 4  # in which a vector's sums are held
PIECE = LANES // PIECES
LANE = 16  # bytes of which processors weave one half at a time


class _Sums(types.Type):  # type: ignore[misc]
    """The compiler's type of the sums of `item` of some neighbouring vectors.

    Floats are one vector. Of integers, piece n is that of all vectors, one behind the other.
    """

    def __init__(self, item: Any, vectors: int) -> None:
        self.item, self.vectors = item, vectors
        super().__init__(f"sums({vectors} x {LANES} x {item})")


@register_model(_Sums)
class _SumsModel(models.PrimitiveModel):  # type: ignore[misc]
    """Pieces are apart, or the compiler would join them time and again."""

    def __init__(self, manager: Any, kind: _Sums) -> None:
        item = manager.lookup(kind.item).get_value_type()
        if isinstance(kind.item, types.Float):
            wanted: Any = ir.VectorType(item, LANES * kind.vectors)
        else:
            wanted = ir.ArrayType(ir.VectorType(item, PIECE * kind.vectors), PIECES)
        super().__init__(manager, kind, wanted)


def woven(columns: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Weights (..., whole vectors) as `add_products` wants them.

    Integers are raised by `RAISED`, and lie so that weaving puts them in order.
    """
    if columns.dtype.kind == "f":
        return columns
    raised = (columns.astype(np.int16) + RAISED).astype(np.uint8)
    parts = raised.reshape(*columns.shape[:-1], -1, PIECES, LANES // LANE, LANE // PIECES)
    return parts.swapaxes(-2, -3).reshape(columns.shape)


def _weave(builder: Any, one: Any, two: Any, item: Any) -> list[Any]:
    """Items of two vectors of bytes in turns: of the first and of the second half of each lane."""
    bits = one.type.count * one.type.element.width
    count, half = bits // item.width, 8 * LANE // item.width // 2
    one, two = (builder.bitcast(vector, ir.VectorType(item, count)) for vector in (one, two))
    return [
        _shuffle(
            builder,
            one,
            two,
            (
                place + j + other * count
                for place in range(start, count, 2 * half)
                for j in range(half)
                for other in range(2)
            ),
        )
        for start in (0, half)
    ]


def _add_pairs(builder: Any, total: Any, words: Any, factors: Any) -> Any:
    """Add the products of 16-bit words and factors, those of two neighbours together."""
    count = words.type.count
    wide = ir.VectorType(SUM, count)
    products = builder.mul(builder.sext(words, wide), builder.sext(factors, wide))
    even, odd = (
        _shuffle(builder, products, products, range(first, count, 2)) for first in range(2)
    )
    return builder.add(total, builder.add(even, odd))


def _pieces(context: Any, builder: Any, kind: Any, array: Any, index: Any, vectors: int) -> Any:
    """Addresses of the pieces of vectors of an array: [vector][piece]."""
    data = context.make_array(kind)(context, builder, array).data
    part = ir.VectorType(SUM, PIECE).as_pointer()
    starts = [[n * LANES + piece * PIECE for piece in range(PIECES)] for n in range(vectors)]
    return [
        [builder.bitcast(builder.gep(data, [builder.add(index, INDEX(at))]), part) for at in vector]
        for vector in starts
    ]


def _begin_sums(vectors: int) -> Any:
    """What makes sums of so many vectors of an array, each item less a number."""

    @intrinsic  # type: ignore[untyped-decorator]
    def begin(typing: Any, array: Any, index: Any, less: Any) -> Any:
        result = _Sums(array.dtype, vectors)

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            kind = context.get_value_type(result)
            if isinstance(array.dtype, types.Float):
                data = context.make_array(array)(context, builder, values[0]).data
                place = builder.gep(data, [values[1]])
                return builder.load(builder.bitcast(place, kind.as_pointer()), align=1)
            number = context.cast(builder, values[2], less, array.dtype)
            fall = _spread(builder, number, kind.element)
            found = ir.Constant(kind, ir.Undefined)
            places = _pieces(context, builder, array, values[0], values[1], vectors)
            for n in range(PIECES):
                parts = [builder.load(vector[n], align=1) for vector in places]
                piece = _shuffle(builder, parts[0], parts[-1], range(kind.element.count))
                found = builder.insert_value(found, builder.sub(piece, fall), n)
            return found

        return result(array, index, less), generate

    return begin


sums, twin_sums = _begin_sums(1), _begin_sums(2)


@intrinsic  # type: ignore[untyped-decorator]
def store_sums(typing: Any, array: Any, index: Any, total: Any) -> Any:
    """Put sums back to an array."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if isinstance(total.item, types.Float):
            data = context.make_array(array)(context, builder, values[0]).data
            place = builder.gep(data, [values[1]])
            builder.store(values[2], builder.bitcast(place, values[2].type.as_pointer()), align=1)
            return context.get_dummy_value()
        places = _pieces(context, builder, array, values[0], values[1], total.vectors)
        for n in range(PIECES):
            piece = builder.extract_value(values[2], n)
            for v, vector in enumerate(places):
                part = _shuffle(builder, piece, piece, range(v * PIECE, (v + 1) * PIECE))
                builder.store(part, vector[n], align=1)
        return context.get_dummy_value()

    return types.void(array, index, total), generate


@intrinsic  # type: ignore[untyped-decorator]
def add_products(
    typing: Any, total: Any, weights: Any, a: Any, b: Any, c: Any, d: Any, factors: Any, first: Any
) -> Any:
    """Sums, and the products of four `woven` columns with factors `first` to `first + 4`.

    The columns are those of weights a, b, c, d and what follows. Factors of integers are int16.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        count = LANES * total.vectors
        data = context.make_array(weights)(context, builder, values[1]).data
        kind = ir.VectorType(context.get_value_type(weights.dtype), count)
        columns = [
            builder.load(builder.bitcast(builder.gep(data, [at]), kind.as_pointer()), align=1)
            for at in values[2:6]
        ]
        place = builder.gep(
            context.make_array(factors)(context, builder, values[6]).data, [values[7]]
        )
        result = values[0]
        if isinstance(total.item, types.Float):
            for n, column in enumerate(columns):
                factor = builder.load(builder.gep(place, [INDEX(n)]))
                result = _fused(builder, column, _spread(builder, factor, kind), result)
            return result
        # Bytes of columns a, c, b, d: the even ones meet factors a and b, the odd ones c and d.
        pairs = builder.bitcast(place, SUM.as_pointer())
        words = ir.VectorType(WORD, count // PIECES * 2)
        quads = ir.VectorType(SUM, words.count // 2)
        even, odd = (
            builder.bitcast(
                _spread(builder, builder.load(builder.gep(pairs, [INDEX(n)]), align=2), quads),
                words,
            )
            for n in range(2)
        )
        first_two = _weave(builder, columns[0], columns[2], BYTE)
        last_two = _weave(builder, columns[1], columns[3], BYTE)
        pieces = [
            builder.bitcast(piece, words)
            for one, two in zip(first_two, last_two, strict=True)
            for piece in _weave(builder, one, two, WORD)
        ]
        for n, piece in enumerate(pieces):
            low = builder.and_(piece, ir.Constant(words, [255] * words.count))
            high = builder.lshr(piece, ir.Constant(words, [8] * words.count))
            found = _add_pairs(builder, builder.extract_value(result, n), low, even)
            result = builder.insert_value(result, _add_pairs(builder, found, high, odd), n)
        return result

    return total(total, weights, a, b, c, d, factors, first), generate
