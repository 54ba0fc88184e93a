"""The first lanes of a vector, from and to memory: what is left at the end of a row.

AVX-512 loads and stores under masks as fast as whole vectors. Of others that load under masks, some store so very
slowly (Zen 3: 17 cycles each), so a store goes by halves, as the bits of the number of lanes say.
"""

from __future__ import annotations

from llvmlite import ir

from .shuffles import _lanes
from .simd import _I32, _call, _splat, _suffix
from .target import has_avx512


def first_lanes(builder: ir.IRBuilder, count: ir.Value, lanes: int) -> ir.Value:
    """The mask of the first `count` lanes, of all if there are no more; `count` is not negative."""
    word = count.type
    if not has_avx512():
        count = _clamped(builder, count, lanes)
        numbers = ir.Constant(ir.VectorType(_I32, lanes), list(range(lanes)))
        return builder.icmp_signed("<", numbers, _splat(builder, builder.trunc(count, _I32), lanes))
    some = builder.sub(builder.shl(word(1), count), word(1))
    mask = builder.select(builder.icmp_signed("<", count, word(lanes)), some, word(-1))
    mask = mask if lanes == word.width else builder.trunc(mask, ir.IntType(lanes))
    return builder.bitcast(mask, ir.VectorType(ir.IntType(1), lanes))


def load_first(builder: ir.IRBuilder, address: ir.Value, raw: ir.VectorType, active: ir.Value) -> ir.Value:
    """Load the lanes of a mask; the others are zero, and their memory is not touched."""
    zeros = ir.Constant(raw, [0] * raw.count)
    pointer = builder.bitcast(address, raw.as_pointer())
    return _call(builder, f"llvm.masked.load.{_suffix(raw)}.p0", raw, [pointer, _I32(1), active, zeros])


def store_first(builder: ir.IRBuilder, raw: ir.Value, address: ir.Value, count: ir.Value) -> None:
    """Store the first `count` lanes."""
    lanes = raw.type.count
    if has_avx512():
        pointer = builder.bitcast(address, raw.type.as_pointer())
        active = first_lanes(builder, count, lanes)
        name = f"llvm.masked.store.{_suffix(raw.type)}.p0"
        _call(builder, name, ir.VoidType(), [raw, pointer, _I32(1), active])
        return
    whole = builder.icmp_signed(">=", count, count.type(lanes))
    with builder.if_else(whole) as (all_lanes, fewer):
        with all_lanes:
            _store(builder, raw, address)
        with fewer:
            _store_by_halves(builder, raw, address, count)


def _store_by_halves(builder: ir.IRBuilder, raw: ir.Value, address: ir.Value, count: ir.Value) -> None:
    """Store fewer lanes than there are."""
    if raw.type.count == 1:
        return
    half = raw.type.count // 2
    lower, upper = (_lanes(builder, raw, list(range(first, first + half))) for first in (0, half))
    before = builder.block
    with builder.if_then(builder.icmp_signed(">=", count, count.type(half))):
        _store(builder, lower, address)
        beyond, left = builder.gep(address, [_I32(half)]), builder.sub(count, count.type(half))
        stored = builder.block
    rest = _either(builder, (lower, before), (upper, stored))
    place = _either(builder, (address, before), (beyond, stored))
    _store_by_halves(builder, rest, place, _either(builder, (count, before), (left, stored)))


def _either(builder: ir.IRBuilder, *comings: tuple[ir.Value, ir.Block]) -> ir.Value:
    """The value that comes with the block that was left for this one."""
    phi = builder.phi(comings[0][0].type)
    for value, block in comings:
        phi.add_incoming(value, block)
    return phi


def _store(builder: ir.IRBuilder, raw: ir.Value, address: ir.Value) -> None:
    builder.store(raw, builder.bitcast(address, raw.type.as_pointer()), align=1)


def _clamped(builder: ir.IRBuilder, count: ir.Value, lanes: int) -> ir.Value:
    """No more than `lanes`: a count may not fit into the lanes of a mask."""
    return builder.select(builder.icmp_signed("<", count, count.type(lanes)), count, count.type(lanes))
