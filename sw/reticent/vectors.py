"""Short vectors for compiled functions: what the compiler's own vectoriser does not find.

`LANES` neighbouring items of an array become one value that stays in registers. The compiler
splits it into whatever vectors the processor has.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

__all__ = ["LANES", "load", "plus", "store", "times"]

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
        bits = kind.item.bitwidth
        item = ir.FloatType() if isinstance(kind.item, types.Float) else ir.IntType(bits)
        super().__init__(manager, kind, ir.VectorType(item, LANES))


def _pointer(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    """Address of the vector that begins at an item of an array: arguments 0 and 1."""
    array = context.make_array(signature.args[0])(context, builder, values[0])
    item = context.get_value_type(signature.args[0].dtype)
    place = builder.gep(array.data, [values[1]])
    return builder.bitcast(place, ir.VectorType(item, LANES).as_pointer())


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
        kind = context.get_value_type(vector)
        first = builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.IntType(32)(0))
        spread = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        splat = builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), spread)
        multiply = builder.fmul if isinstance(vector.item, types.Float) else builder.mul
        return multiply(values[0], splat)

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
