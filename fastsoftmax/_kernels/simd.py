"""Explicit vectors for Numba: with `shuffles`, `memory` and what these are made of, what writes LLVM instructions.

A *vector* holds 64 bytes: sixteen float32 or eight float64 lanes on every machine. LLVM turns it into one
zmm, two ymm, four xmm or four NEON registers, and as the lanes are the same everywhere, so are the bits of
every sum. LLVM's own loop vectoriser is not used: it leaves a maximum scalar, and it may reorder sums only
under flags that make the order depend on the machine.

Kernels see arrays through `load` and `store` alone. These also convert: a float16 or bfloat16 array loads as
float32 lanes and is rounded to nearest even when stored, so that no kernel knows about half types.

Vectors know ``+ - * <<``, comparisons (which give masks) and mixing with scalars; the rest are functions here.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models, register_default
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic

VECTOR_BYTES = 64
LINE = 64  # bytes of a cache line, on x86 and most of Arm
_I32 = ir.IntType(32)


class VectorType(types.Type):
    """`lanes` numbers of one Numba scalar type."""

    def __init__(self, element: types.Number, lanes: int) -> None:
        self.element = element
        self.lanes = lanes
        super().__init__(name=f"vector({element}x{lanes})")


class MaskType(types.Type):
    """One truth value a lane: what comparisons give and `select` takes."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"mask({lanes})")


class HalfType(types.Type):
    """Element type of an array of a half type: Numba has none for CPUs, and kernels only load and store them."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name)


float16, bfloat16 = HalfType("float16"), HalfType("bfloat16")
f32x16 = VectorType(types.float32, 16)
i32x16 = VectorType(types.int32, 16)
f64x8 = VectorType(types.float64, 8)
i64x8 = VectorType(types.int64, 8)


def is_single(kind: types.Type) -> bool:
    """Whether these are vectors of 32-bit lanes."""
    return isinstance(kind, VectorType) and kind.element.bitwidth == 32


# The lanes that an array's elements are computed in.
COMPUTED_IN = {
    types.float32: f32x16,
    float16: f32x16,
    bfloat16: f32x16,
    types.float64: f64x8,
}


_STORED_AS = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    float16: ir.IntType(16),
    bfloat16: ir.IntType(16),
}


@register_default(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: VectorType) -> None:
        super().__init__(dmm, fe_type, _llvm(fe_type))


@register_default(MaskType)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: MaskType) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(ir.IntType(1), fe_type.lanes))


@register_default(HalfType)
class _HalfModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: HalfType) -> None:
        super().__init__(dmm, fe_type, ir.IntType(16))


_ELEMENTS = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.int32: ir.IntType(32),
    types.int64: ir.IntType(64),
}


def _llvm(vector: VectorType) -> ir.VectorType:
    return ir.VectorType(_ELEMENTS[vector.element], vector.lanes)


def _splat(builder: ir.IRBuilder, scalar: ir.Value, lanes: int) -> ir.Value:
    vector = ir.VectorType(scalar.type, lanes)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, args: list[ir.Value]) -> ir.Value:
    """Call an LLVM intrinsic by its full name and signature (llvmlite guesses wrong ones for vectors)."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _suffix(vector: ir.VectorType) -> str:
    letter = {ir.FloatType(): "f32", ir.DoubleType(): "f64"}.get(vector.element)
    return f"v{vector.count}{letter or 'i' + str(vector.element.width)}"


# -- arithmetic and comparison -----------------------------------------------------------------------------

_FLOAT_OPS = {operator.add: "fadd", operator.sub: "fsub", operator.mul: "fmul", operator.truediv: "fdiv"}
_INT_OPS = {operator.add: "add", operator.sub: "sub", operator.lshift: "shl", operator.rshift: "ashr"}
# As in C, only != holds for NaN.
_COMPARISONS = {operator.lt: "<", operator.gt: ">", operator.ge: ">=", operator.eq: "==", operator.ne: "!="}


def _common(args: tuple[types.Type, ...]) -> VectorType | None:
    """The vector type of ``vector op vector``, ``vector op scalar`` or ``scalar op vector``, or None."""
    vectors = [arg for arg in args if isinstance(arg, VectorType)]
    if not vectors or any(arg != vectors[0] and not isinstance(arg, types.Number) for arg in args):
        return None
    return vectors[0]


def _as_vector(context: Any, builder: ir.IRBuilder, value: ir.Value, kind: types.Type, to: VectorType) -> ir.Value:
    if kind == to:
        return value
    return _splat(builder, context.cast(builder, value, kind, to.element), to.lanes)


def _define_operator(symbol: Any) -> None:
    class Template(AbstractTemplate):
        key = symbol

        def generic(self, args: tuple[types.Type, ...], kws: Any) -> Any:
            vector = _common(args) if len(args) == 2 else None
            if vector is None:
                return None
            result = MaskType(vector.lanes) if symbol in _COMPARISONS else vector
            return signature(result, *args)

    infer_global(symbol)(Template)

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        vector = _common(sig.args)
        assert vector is not None
        a, b = (_as_vector(context, builder, v, t, vector) for v, t in zip(args, sig.args, strict=True))
        floating = isinstance(vector.element, types.Float)
        if symbol in _COMPARISONS:
            ordered = builder.fcmp_unordered if symbol is operator.ne else builder.fcmp_ordered
            return (ordered if floating else builder.icmp_signed)(_COMPARISONS[symbol], a, b)
        return getattr(builder, (_FLOAT_OPS if floating else _INT_OPS)[symbol])(a, b)

    for kinds in ((VectorType, VectorType), (VectorType, types.Number), (types.Number, VectorType)):
        lower_builtin(symbol, *kinds)(lower)


for _symbol in {*_FLOAT_OPS, *_INT_OPS, *_COMPARISONS}:
    _define_operator(_symbol)


@intrinsic(prefer_literal=True)
def fma(typingctx, a, b, c):
    """``a*b + c`` with one rounding, on vectors, scalars, or a mix (scalars are spread)."""
    if not all(isinstance(k, (VectorType, types.Number)) for k in (a, b, c)):
        return None
    vector = _common(tuple(k for k in (a, b, c)))
    result = vector or types.float64

    def codegen(context, builder, sig, args):
        if vector is None:
            args = [context.cast(builder, v, t, types.float64) for v, t in zip(args, sig.args, strict=True)]
            return _call(builder, "llvm.fma.f64", args[0].type, list(args))
        args = [_as_vector(context, builder, v, t, vector) for v, t in zip(args, sig.args, strict=True)]
        return _call(builder, f"llvm.fma.{_suffix(args[0].type)}", args[0].type, args)

    return signature(result, a, b, c), codegen


@intrinsic(prefer_literal=True)
def polynomial(typingctx, v, square, coefficients):
    """``sum(c * v**k)`` by Horner's scheme, on vectors or a float64.

    With ``square = v*v`` pairs of coefficients go at once: a chain of half as many dependent operations, and no more
    of them. Without, it is None. (One intrinsic: a function for each coefficient took a tenth of the time to compile.)
    """
    of_pairs = not isinstance(square, types.NoneType)
    if not (isinstance(v, VectorType) or v == types.float64) or (of_pairs and square != v):
        return None
    if not isinstance(coefficients, types.BaseTuple):
        return None

    def codegen(context, builder, sig, args):
        r = args[0]
        by = args[1] if of_pairs else r
        name = f"llvm.fma.{_suffix(r.type) if isinstance(v, VectorType) else 'f64'}"
        values = zip(cgutils.unpack_tuple(builder, args[2]), coefficients, strict=True)
        terms = [context.cast(builder, value, kind, getattr(v, "element", v)) for value, kind in values]
        if isinstance(v, VectorType):
            terms = [_splat(builder, term, v.lanes) for term in terms]
        if of_pairs:
            pairs = [terms[k : k + 2] for k in range(0, len(terms), 2)]
            terms = [p[0] if len(p) == 1 else _call(builder, name, r.type, [p[1], r, p[0]]) for p in pairs]
        total = terms.pop()
        while terms:
            total = _call(builder, name, r.type, [total, by, terms.pop()])
        return total

    return signature(v, v, square, coefficients), codegen


@intrinsic(prefer_literal=True)
def select(typingctx, mask, a, b):
    """Lane by lane ``a`` where the mask is true, else ``b``; also on scalars with a bool."""
    vector = _common((a, b))
    if isinstance(mask, MaskType) and vector is not None:

        def codegen(context, builder, sig, args):
            yes, no = (_as_vector(context, builder, v, t, vector) for v, t in zip(args[1:], sig.args[1:], strict=True))
            return builder.select(args[0], yes, no)

        return signature(vector, mask, a, b), codegen
    if isinstance(mask, types.Boolean) and isinstance(a, types.Number) and isinstance(b, types.Number):

        def codegen_scalar(context, builder, sig, args):
            yes, no = (
                context.cast(builder, v, t, sig.return_type) for v, t in zip(args[1:], sig.args[1:], strict=True)
            )
            return builder.select(args[0], yes, no)

        wide = a if a == b else types.float64
        return signature(wide, mask, a, b), codegen_scalar
    return None


# -- making and taking apart -------------------------------------------------------------------------------


@intrinsic(prefer_literal=True)
def full(typingctx, like, value):
    """`value` in every lane of a vector like `like`; for a scalar `like`, the value in its type."""
    if isinstance(like, VectorType):

        def codegen(context, builder, sig, args):
            return _as_vector(context, builder, args[1], sig.args[1], like)

        return signature(like, like, value), codegen
    if isinstance(like, types.Float):
        return signature(like, like, value), lambda context, builder, sig, args: context.cast(
            builder, args[1], sig.args[1], like
        )
    return None


def _of(element: types.Type, like: VectorType) -> VectorType:
    return VectorType(element, like.lanes)


_INT_TWIN = {types.float32: types.int32, types.float64: types.int64}
_FLOAT_TWIN = {types.int32: types.float32, types.int64: types.float64}


@intrinsic(prefer_literal=True)
def bits(typingctx, v):
    """The lanes of a floating vector (or a float64) as integers of the same bits."""
    if isinstance(v, VectorType):
        result = _of(_INT_TWIN[v.element], v)
    elif v == types.float64:
        result = types.int64
    else:
        return None

    def codegen(context, builder, sig, args):
        return builder.bitcast(args[0], context.get_value_type(result))

    return signature(result, v), codegen


@intrinsic(prefer_literal=True)
def from_bits(typingctx, v):
    """The inverse of `bits`."""
    if isinstance(v, VectorType):
        result = _of(_FLOAT_TWIN[v.element], v)
    elif v == types.int64:
        result = types.float64
    else:
        return None

    def codegen(context, builder, sig, args):
        return builder.bitcast(args[0], context.get_value_type(result))

    return signature(result, v), codegen


@intrinsic(prefer_literal=True)
def wide(typingctx, v):
    """The lanes as float64."""
    if not isinstance(v, VectorType):
        return None
    result = _of(types.float64, v)
    if result == v:
        return v(v), lambda context, builder, sig, args: args[0]
    return result(v), lambda context, builder, sig, args: builder.fpext(args[0], _llvm(result))


@intrinsic(prefer_literal=True)
def narrow(typingctx, like, v):
    """Float64 lanes rounded to the type of `like`: the inverse of `wide`."""
    if not isinstance(like, VectorType) or v != _of(types.float64, like):
        return None
    if like == v:
        return like(like, v), lambda context, builder, sig, args: args[1]
    return like(like, v), lambda context, builder, sig, args: builder.fptrunc(args[1], _llvm(like))


@intrinsic(prefer_literal=True)
def strands(typingctx, v):
    """The lanes that the terms of a row are summed in: those of a vector of 64 bytes (see `online`)."""
    if not isinstance(v, VectorType):
        return None
    count = VECTOR_BYTES * 8 // v.element.bitwidth
    return types.IntegerLiteral(count)(v), lambda context, builder, sig, args: ir.IntType(64)(count)


@intrinsic(prefer_literal=True)
def doubles(typingctx, value):
    """Eight float64 lanes of `value`: what sums are carried in."""

    def codegen(context, builder, sig, args):
        return _as_vector(context, builder, args[0], sig.args[0], f64x8)

    return signature(f64x8, value), codegen


@intrinsic(prefer_literal=True)
def width(typingctx, v):
    """The number of lanes."""
    if not isinstance(v, VectorType):
        return None
    return types.IntegerLiteral(v.lanes)(v), lambda context, builder, sig, args: ir.IntType(64)(v.lanes)
