"""Stores past the caches, for results that no cache could hold beside what they are made of.

A store to a line that is in no cache reads it first: a third transfer beside the line that was read and the one that
will be written. Whole lines can go past the caches instead, to memory at once. A result that is in a cache already,
because it replaces what it is made of, or that whoever reads it would find there, is better stored as always
(docs/performance.md has the measurements, of two processors with one last cache each).
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import signature
from numba.extending import intrinsic

from fastsoftmax._machine import caches

from .half import from_lanes
from .jit import by_type, inlined
from .memory import _address, _indexed
from .simd import _I32, COMPUTED_IN, LINE, _splat, float16
from .target import has_f16c
from .views import ViewType, _item_bytes, address

# A result and what it is made of are read and written together: half of the last cache, and not less than this where
# the system says little of caches.
LEAST = max(caches()["l3"], 32 * 2**20) // 2
# Shorter runs have too many of their bytes in lines that they share with others (gradients of log-softmax on Zen 3:
# rows of 256 bytes 1.2 of the time, of 400 as fast). More than a line: `visits.before_lines` and `column_loops`
# count on it.
SHORTEST_RUN = 384
# Rows in cache are written by whole lines from so many classes on: two more ends cost shorter ones more.
LINED = 512  # classes


@by_type
def item_bytes(out):
    size = _item_bytes(out.dtype)
    return lambda out: size


@inlined
def goes_past(out, run, x, more):
    """Whether `out`, written in runs of so many elements and made of two arrays or one, goes past the caches.

    Not where elements lie across words: those make no whole lines.
    """
    places, elements, size = address(out), 1, item_bytes(out)
    for length in out.shape:
        elements *= length
    for stride in out.strides:
        places |= stride
    large = elements * size >= LEAST and run * size >= SHORTEST_RUN
    return large and places % size == 0 and not is_at(out, x) and not is_at(out, more)


@by_type
def is_at(out, array):
    """Whether an array begins where `out` does."""
    if isinstance(array, ViewType):
        return lambda out, array: address(out) == address(array)
    return lambda out, array: False


@inlined
def whole_lines(out, index, count):
    """The part ``first, last`` of `count` elements from ``out[index]`` that are whole lines."""
    line = LINE // item_bytes(out)
    first = min(until_line(out, index), count)
    return first, first + (count - first) // line * line


@intrinsic(prefer_literal=True)
def until_line(typingctx, array, index):
    """How many elements there are from ``array[index]`` to where a line begins."""
    if not _indexed(array, index):
        return None

    def codegen(context, builder, sig, args):
        word = ir.IntType(64)
        place = builder.ptrtoint(_address(context, builder, args[0], array, args[1], index), word)
        beyond = builder.and_(builder.neg(place), word(LINE - 1))
        return builder.udiv(beyond, word(_item_bytes(array.dtype)))

    return signature(types.int64, array, index), codegen


@intrinsic(prefer_literal=True)
def store_past(typingctx, array, index, value):
    """Write the numbers of one vector, a line or half of it, past the caches; only where `whole_lines` finds some."""
    if not _indexed(array, index) or value != COMPUTED_IN[array.dtype]:
        return None

    def codegen(context, builder, sig, args):
        place = _address(context, builder, args[0], array, args[1], index)
        raw = from_lanes(context, builder, args[2], array.dtype)
        if array.dtype == float16 and has_f16c():
            # LLVM has no store past the caches for halves that were computed before a branch: it made an ordinary one.
            raw = _of_unknown_origin(builder, raw, "x")
        pointer = builder.bitcast(place, raw.type.as_pointer())
        stored = builder.store(raw, pointer, align=_item_bytes(array.dtype) * value.lanes)
        stored.set_metadata("nontemporal", builder.module.add_metadata([_I32(1)]))
        return context.get_dummy_value()

    return signature(types.none, array, index, value), codegen


def _of_unknown_origin(builder: ir.IRBuilder, raw: ir.Value, register: str) -> ir.Value:
    """An integer or a vector of them, in a register of this kind: no instruction, but LLVM cannot see what it was."""
    return builder.asm(ir.FunctionType(raw.type, [raw.type]), "", f"={register},0", [raw], side_effect=False)


@intrinsic(prefer_literal=True)
def put_past(typingctx, array, index, value):
    """Write one number, rounded, past the caches: to a line that went there, and would have to come back."""
    if not _indexed(array, index) or not isinstance(value, types.Number):
        return None

    def codegen(context, builder, sig, args):
        element, item = COMPUTED_IN[array.dtype].element, _item_bytes(array.dtype)
        place = _address(context, builder, args[0], array, args[1], index)
        one = _splat(builder, context.cast(builder, args[2], value, element), 1)
        raw = builder.bitcast(from_lanes(context, builder, one, array.dtype), ir.IntType(8 * item))
        # A floating number LLVM would store past the caches by an instruction that only AMD has, or not at all.
        raw = _of_unknown_origin(builder, raw, "r")
        stored = builder.store(raw, builder.bitcast(place, raw.type.as_pointer()), align=item)
        stored.set_metadata("nontemporal", builder.module.add_metadata([_I32(1)]))
        return context.get_dummy_value()

    return types.none(array, index, value), codegen


@intrinsic
def fence(typingctx):
    """Wait until all that was stored is seen by every thread, what went past the caches too."""

    def codegen(context, builder, sig, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), codegen
