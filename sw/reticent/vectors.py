"""Short vectors for compiled functions: what the compiler's own vectoriser does not find.

`LANES` neighbouring items of an array become one value that stays in registers. The compiler
splits it into whatever vectors the processor has.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

__all__ = [
    "LANES",
    "above",
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
    "plus",
    "scaled",
    "spread",
    "store",
    "times",
    "total",
    "unlike",
]

LANES = 32  # of int16: one 512-bit register, or two of 256 bits


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


def _pointer(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    """Address of the vector that begins at an item of an array: arguments 0 and 1."""
    array = context.make_array(signature.args[0])(context, builder, values[0])
    item = context.get_value_type(signature.args[0].dtype)
    place = builder.gep(array.data, [values[1]])
    return builder.bitcast(place, ir.VectorType(item, LANES).as_pointer())


def _spread(builder: Any, number: Any, kind: Any) -> Any:
    """A vector of LLVM type `kind` whose items are all the same."""
    nothing = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(nothing, number, ir.IntType(32)(0))
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, nothing, everywhere)


@intrinsic  # type: ignore[untyped-decorator]
def load(typing: Any, array: Any, index: Any) -> Any:
    """Items `index` to `index + LANES` of an array; int8 becomes int16."""
    result = _Vector(types.int16 if array.dtype == types.int8 else array.dtype)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = _pointer(context, builder, signature, values)
        loaded = builder.load(pointer, align=1)
        wanted = context.get_value_type(result)
        return loaded if loaded.type == wanted else builder.sext(loaded, wanted)

    return result(array, index), generate


@intrinsic  # type: ignore[untyped-decorator]
def store(typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """Put a vector of the array's type to items `index` to `index + LANES`."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[2], _pointer(context, builder, signature, values), align=1)
        return context.get_dummy_value()

    return types.void(array, index, vector), generate


@intrinsic  # type: ignore[untyped-decorator]
def times(typing: Any, vector: Any, factor: Any) -> Any:
    """All items times a number, which wraps to their type; so do the products."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        number = context.cast(builder, values[1], signature.args[1], vector.item)
        multiply = builder.fmul if isinstance(vector.item, types.Float) else builder.mul
        return multiply(values[0], _spread(builder, number, values[0].type))

    return vector(vector, factor), generate


@intrinsic  # type: ignore[untyped-decorator]
def plus(typing: Any, total: Any, vector: Any) -> Any:
    """The sum, of the first one's type; items of the second one may be narrower."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        wanted = context.get_value_type(total)
        if isinstance(total.item, types.Float):
            return builder.fadd(values[0], values[1])
        wide = values[1] if values[1].type == wanted else builder.sext(values[1], wanted)
        return builder.add(values[0], wide)

    return total(total, vector), generate


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
        add, least, most = (_spread(builder, number, wide) for number in values[2:])
        x = builder.fadd(builder.fmul(x, values[1]), add)
        x = builder.select(builder.fcmp_ordered(">", x, least), x, least)
        x = builder.select(builder.fcmp_ordered("<", x, most), x, most)
        if not whole:
            return builder.fptrunc(x, kind)
        name, signature = f"llvm.floor.v{LANES}f64", ir.FunctionType(wide, [wide])
        floor = builder.module.declare_intrinsic(name, fnty=signature)
        return builder.fptosi(builder.call(floor, [x]), kind)

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
def marks(typing: Any, array: Any, index: Any) -> Any:
    """Which of the integers `index` to `index + LANES` are not zero, as a mask."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        items = builder.load(_pointer(context, builder, signature, values), align=1)
        different = builder.icmp_signed("!=", items, ir.Constant(items.type, None))
        return builder.bitcast(different, ir.IntType(LANES))

    return types.uint32(array, index), generate


@intrinsic  # type: ignore[untyped-decorator]
def unlike(typing: Any, array: Any, other: Any, index: Any) -> Any:
    """Which integers of two arrays of one type differ, from `index` on, as a mask."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array, other, index = values
        one, two = (
            builder.load(_pointer(context, builder, signature, (which, index)), align=1)
            for which in (array, other)
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
