"""Vectors from and to arrays; with `views` and `transposed`, what computes addresses and knows half types.

``load(x, (row, j))`` reads the lanes that begin at ``x[row, j]`` and follow each other along the last axis,
whatever the strides of the other axes. Nothing is checked: kernels own their bounds. Elements need no
alignment beyond a byte, as x86 and Arm read any address and NumPy allows any.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import signature
from numba.extending import intrinsic

from .half import from_lanes, to_lanes
from .jit import by_type
from .simd import _I32, _STORED_AS, COMPUTED_IN, LINE, VectorType, _as_vector, _call, _splat
from .tails import first_lanes, load_first, store_first
from .views import ViewType, _item_bytes


@intrinsic(prefer_literal=True)
def everywhere(typingctx, like, array, index):
    """One number of a view of the lanes' type, in every lane of a vector like `like`."""
    if not _indexed(array, index) or not isinstance(like, VectorType) or array.dtype != like.element:
        return None

    def codegen(context, builder, sig, args):
        address = _address(context, builder, args[1], array, args[2], index)
        return _splat(builder, builder.load(address, align=1), like.lanes)

    return like(like, array, index), codegen


def _indexed(array: types.Type, index: types.Type) -> bool:
    return (
        isinstance(array, ViewType)
        and array.dtype in COMPUTED_IN
        and isinstance(index, types.BaseTuple)
        and len(index) == array.ndim
        and all(isinstance(i, types.Integer) for i in index)
    )


def _address(context: Any, builder: ir.IRBuilder, array: Any, array_type: Any, index: Any, index_type: Any) -> ir.Value:
    """Pointer to one element. The last axis is contiguous by contract, so its stride is the item size."""
    view = cgutils.create_struct_proxy(array_type)(context, builder, value=array)
    word = ir.IntType(64)
    stored = _STORED_AS[array_type.dtype]
    offset = word(0)
    for axis, kind in enumerate(index_type):
        position = context.cast(builder, builder.extract_value(index, axis), kind, types.int64)
        if axis == array_type.ndim - 1:
            stride = word(_item_bytes(array_type.dtype))
        else:
            stride = builder.extract_value(view.strides, axis)
        offset = builder.add(offset, builder.mul(position, stride))
    start = builder.gep(builder.bitcast(view.data, ir.IntType(8).as_pointer()), [offset])
    return builder.bitcast(start, stored.as_pointer())


def _countable(count: types.Type) -> bool:
    return isinstance(count, (types.Integer, types.NoneType))


@intrinsic(prefer_literal=True)
def load(typingctx, like, array, index, count, absent):
    """The numbers that begin at ``array[index]``, as a vector like `like`.

    With a `count`, only so many lanes touch memory and the others hold `absent`; None means all of them.
    """
    if not _indexed(array, index) or not _countable(count) or not isinstance(like, VectorType):
        return None

    def codegen(context, builder, sig, args):
        address = _address(context, builder, args[1], array, args[2], index)
        raw = ir.VectorType(address.type.pointee, like.lanes)
        if isinstance(count, types.NoneType):
            value = builder.load(builder.bitcast(address, raw.as_pointer()), align=1)
            return to_lanes(context, builder, value, array.dtype, like)
        active = first_lanes(builder, context.cast(builder, args[3], count, types.int64), like.lanes)
        value = load_first(builder, address, raw, active)
        otherwise = _as_vector(context, builder, args[4], absent, like)
        return builder.select(active, to_lanes(context, builder, value, array.dtype, like), otherwise)

    return signature(like, like, array, index, count, absent), codegen


@intrinsic(prefer_literal=True)
def store(typingctx, array, index, value, count):
    """Write the lanes of `value`, or the first `count` of them, to where ``array[index]`` begins, rounded."""
    if not (_indexed(array, index) and isinstance(value, VectorType) and _countable(count)):
        return None
    if value.element != COMPUTED_IN[array.dtype].element:
        return None

    def codegen(context, builder, sig, args):
        address = _address(context, builder, args[0], array, args[1], index)
        raw = from_lanes(context, builder, args[2], array.dtype)
        if isinstance(count, types.NoneType):
            builder.store(raw, builder.bitcast(address, raw.type.as_pointer()), align=1)
        else:
            store_first(builder, raw, address, context.cast(builder, args[3], count, types.int64))
        return context.get_dummy_value()

    return signature(types.none, array, index, value, count), codegen


@intrinsic(prefer_literal=True)
def number(typingctx, array, index):
    """One number of a view, in float64.

    Not as a vector of one lane: a load waits for an earlier store to any of its lanes, wanted or not.
    """
    if not _indexed(array, index):
        return None

    def codegen(context, builder, sig, args):
        lanes = VectorType(COMPUTED_IN[array.dtype].element, 1)
        address = _address(context, builder, args[0], array, args[1], index)
        raw = ir.VectorType(address.type.pointee, 1)
        value = to_lanes(
            context, builder, builder.load(builder.bitcast(address, raw.as_pointer()), align=1), array.dtype, lanes
        )
        scalar = builder.extract_element(value, _I32(0))
        return scalar if scalar.type == ir.DoubleType() else builder.fpext(scalar, ir.DoubleType())

    return types.float64(array, index), codegen


@intrinsic(prefer_literal=True)
def put(typingctx, array, index, value):
    """Write one number, rounded."""
    if not _indexed(array, index) or not isinstance(value, types.Number):
        return None

    def codegen(context, builder, sig, args):
        element = COMPUTED_IN[array.dtype].element
        address = _address(context, builder, args[0], array, args[1], index)
        one = _splat(builder, context.cast(builder, args[2], value, element), 1)
        raw = from_lanes(context, builder, one, array.dtype)
        builder.store(raw, builder.bitcast(address, raw.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.none(array, index, value), codegen


@intrinsic(prefer_literal=True)
def prefetch(typingctx, array, index, to_write):
    """Ask for the cache line of ``array[index]``, which need not exist, for a literal `to_write` as its only owner.

    Nothing happens for what is no array.
    """
    if not isinstance(array, ViewType):
        return types.none(array, index, to_write), lambda context, builder, sig, args: context.get_dummy_value()
    if not _indexed(array, index) or not isinstance(to_write, types.BooleanLiteral):
        return None

    def codegen(context, builder, sig, args):
        address = _address(context, builder, args[0], array, args[1], index)
        _ask_for(builder, builder.bitcast(address, ir.IntType(8).as_pointer()), to_write)
        return context.get_dummy_value()

    return types.none(array, index, to_write), codegen


@intrinsic(prefer_literal=True)
def prefetch_at(typingctx, array, offset, to_write):
    """Ask for the cache line so many bytes from where an array begins, as `prefetch` does."""
    if not isinstance(array, ViewType) or not isinstance(to_write, types.BooleanLiteral):
        return None

    def codegen(context, builder, sig, args):
        made = cgutils.create_struct_proxy(array)(context, builder, value=args[0])
        _ask_for(builder, builder.gep(made.data, [args[1]]), to_write)
        return context.get_dummy_value()

    return types.none(array, types.int64, to_write), codegen


def _ask_for(builder: ir.IRBuilder, pointer: ir.Value, to_write: types.BooleanLiteral) -> None:
    hints = [_I32(int(to_write.literal_value)), _I32(3), _I32(1)]
    _call(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer, *hints])


# So many bytes ahead memory is asked: what prefetchers of processors do by themselves ends at each page. A page is
# enough on a Zen 5, where 1536 bytes took 1.2 to 1.4 of the time for rows of 1024 and 2048. Half types take two
# (2048x32000: 2 KiB, with an instruction for each half of a line, 1.04 to 1.15).
AHEAD, HALVES_AHEAD = 4096, 8192
# Of arrays of up to so many bytes lines come in time by themselves, from some cache, and are not asked for (float32,
# Zen 3: 256x1000 and 8x32000 0.87 to 1.0 of the time, 16384x1024 1.17; Zen 5, 32 MiB: 6 MiB 0.77 to 0.97, 8 MiB up to
# 1.24, 16 MiB 1.5).
IN_CACHE = 7 * 2**20


@by_type
def is_far(x):
    """Whether an array is so large that its rows come from memory."""
    item = _item_bytes(x.dtype)
    return lambda x: x.shape[0] * x.shape[1] * item > IN_CACHE


@by_type
def ask_for(like, array, row, j, to_write):
    """Ask for the lines of the four vectors that come `AHEAD` of ``array[row, j]``, unless that is None."""
    if not isinstance(array, ViewType):
        return lambda like, array, row, j, to_write: None
    item = _item_bytes(array.dtype)
    first, line = (HALVES_AHEAD if item == 2 else AHEAD) // item, LINE // item
    last = first + 4 * like.lanes

    def ask(like, array, row, j, to_write):
        for k in range(first, last, line):
            prefetch(array, (row, j + k), to_write)

    return ask
