"""float16 and bfloat16 to float32 lanes and back: what `memory.load` and `memory.store` do with half types.

Rounding is to nearest, ties to even. Processors convert float16 themselves, but for x86 before F16C (2012): LLVM
would call a helper function there that a Python process does not hold, so those convert by integers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from .simd import VectorType, _llvm, bfloat16, float16
from .target import has_f16c

_FLOAT, _WORD, _SHORT = ir.FloatType(), ir.IntType(32), ir.IntType(16)


def to_lanes(context: Any, builder: ir.IRBuilder, raw: ir.Value, dtype: types.Type, lanes: VectorType) -> ir.Value:
    """Elements as they lie in memory as the numbers of `lanes`; half types come as 16-bit integers."""
    if dtype == bfloat16:
        word = ir.VectorType(_WORD, lanes.lanes)
        raw = builder.shl(builder.zext(raw, word), _all(word, 16))
        raw = builder.bitcast(raw, ir.VectorType(_FLOAT, lanes.lanes))
    elif dtype == float16:
        if _converts_float16(context):
            raw = builder.bitcast(raw, ir.VectorType(ir.HalfType(), lanes.lanes))
        else:
            raw = _widen_by_integers(builder, raw)
    return raw if raw.type == _llvm(lanes) else builder.fpext(raw, _llvm(lanes))


def from_lanes(context: Any, builder: ir.IRBuilder, value: ir.Value, dtype: types.Type) -> ir.Value:
    """Numbers as the elements to be stored, rounded."""
    count = value.type.count
    if dtype == float16:
        if not _converts_float16(context):
            return _narrow_by_integers(builder, value)
        half = builder.fptrunc(value, ir.VectorType(ir.HalfType(), count))
        return builder.bitcast(half, ir.VectorType(_SHORT, count))
    if dtype == bfloat16:
        word = ir.VectorType(_WORD, count)
        whole = builder.bitcast(value, word)
        rounded = _cut(builder, whole, 16)
        # A NaN could be carried into the sign, so it becomes the quiet one.
        nan = builder.fcmp_unordered("uno", value, value)
        return builder.trunc(builder.select(nan, _all(word, 0x7FC0), rounded), ir.VectorType(_SHORT, count))
    return value


def _converts_float16(context: Any) -> bool:
    triple, _, _ = context.codegen().magic_tuple()
    return has_f16c() or not triple.startswith(("x86_64", "i386", "i686"))


def _all(kind: ir.VectorType, number: Any) -> ir.Constant:
    return ir.Constant(kind, [number] * kind.count)


def _cut(builder: ir.IRBuilder, whole: ir.Value, low: int) -> ir.Value:
    """``whole >> low``, rounded to nearest even: add half a unit less the parity of what stays."""
    word = whole.type
    parity = builder.and_(builder.lshr(whole, _all(word, low)), _all(word, 1))
    half = _all(word, (1 << (low - 1)) - 1)
    return builder.lshr(builder.add(builder.add(whole, half), parity), _all(word, low))


def _widen_by_integers(builder: ir.IRBuilder, raw: ir.Value) -> ir.Value:
    word, floating = ir.VectorType(_WORD, raw.type.count), ir.VectorType(_FLOAT, raw.type.count)
    whole = builder.zext(raw, word)
    sign = builder.shl(builder.and_(whole, _all(word, 0x8000)), _all(word, 16))
    size = builder.shl(builder.and_(whole, _all(word, 0x7FFF)), _all(word, 13))
    # As float32 bits the number is 2**112 too small, subnormals included.
    number = builder.fmul(builder.bitcast(size, floating), _all(floating, 2.0**112))
    special = builder.icmp_unsigned(">=", size, _all(word, 0x1F << 23))
    special_bits = builder.or_(size, _all(word, 0x7F800000))
    size = builder.select(special, special_bits, builder.bitcast(number, word))
    return builder.bitcast(builder.or_(size, sign), floating)


def _narrow_by_integers(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    word, floating = ir.VectorType(_WORD, value.type.count), value.type
    whole = builder.bitcast(value, word)
    sign = builder.lshr(builder.and_(whole, _all(word, 0x80000000)), _all(word, 16))
    size = builder.and_(whole, _all(word, 0x7FFFFFFF))
    # From 65536 on all is infinity; what rounds up to it is carried there.
    least_infinite = _all(word, 0x47800000)
    bounded = builder.select(builder.icmp_unsigned("<", size, least_infinite), size, least_infinite)
    normal = _cut(builder, builder.sub(bounded, _all(word, 112 << 23)), 13)
    # Below 2**-14 the spacing is 2**-24, that of float32 at one half.
    half = _all(floating, 0.5)
    shifted = builder.fadd(builder.bitcast(size, floating), half)
    subnormal = builder.sub(builder.bitcast(shifted, word), builder.bitcast(half, word))
    number = builder.select(builder.icmp_unsigned("<", size, _all(word, 0x38800000)), subnormal, normal)
    nan = builder.icmp_unsigned(">", size, _all(word, 0x7F800000))
    number = builder.or_(builder.select(nan, _all(word, 0x7E00), number), sign)
    return builder.trunc(number, ir.VectorType(_SHORT, value.type.count))
