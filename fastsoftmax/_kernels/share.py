"""The tasks of a launch shared among its threads, as they come.

Processors are seldom equally fast and threads seldom begin at once: others want the processor too, or it has to wake
up. So there are more tasks than threads. Each thread does tasks of its own first, which its cache may hold from the
call before, and then what is left of the others'. Which thread does what never changes a result.

A thread that sleeps may be woken on the processor of the one that wakes it, for Linux takes a virtual processor that
halted for one that cannot run. There it waits, and the other, who waits for it at the end, leaves it no time: 5 ms for
a call of 0.1. So who begins on the processor of another goes elsewhere, and makes room for those still to begin.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import prange
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

_I64, _POINTER = ir.IntType(64), ir.IntType(8).as_pointer()
# A task of some work, whose arguments lie at an address.
TASK = ir.FunctionType(ir.VoidType(), [_POINTER, _I64])

# A mask of processors as the C library has it.
MASK_WORDS, WORD_BITS = 16, 64
_number, _address = types.int32, types.int64
get_affinity = types.ExternalFunction("sched_getaffinity", _number(_number, types.int64, _address))
set_affinity = types.ExternalFunction("sched_setaffinity", _number(_number, types.int64, _address))
get_processor = types.ExternalFunction("sched_getcpu", _number())
yield_processor = types.ExternalFunction("sched_yield", _number())
# By its name, as loops call it: code with the address that `numba.get_num_threads` comes down to cannot be kept.
get_num_threads = types.ExternalFunction("get_num_threads", types.intp())


@intrinsic
def call(typingctx: Any, function: Any, block: Any, task: Any) -> Any:
    """``function(block, task)``, both addresses."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = builder.inttoptr(args[0], TASK.as_pointer())
        builder.call(code, [builder.inttoptr(args[1], _POINTER), args[2]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


# -- whole numbers that threads share
# ---------------------------------------------------------------------------------


@intrinsic
def room_for(typingctx: Any, size: Any) -> Any:
    """The address of so many numbers on the stack, all 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        room = builder.alloca(_I64, args[0])
        cgutils.memset(builder, room, builder.mul(args[0], _I64(8)), 0)
        return builder.ptrtoint(room, _I64)

    return types.int64(types.int64), codegen


def _at(builder: Any, room: Any, place: Any) -> Any:
    return builder.gep(builder.inttoptr(room, _I64.as_pointer()), [place])


@intrinsic
def number_at(typingctx: Any, room: Any, place: Any) -> Any:
    """The number in a place."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_at(builder, *args), "monotonic", 8)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def put_at(typingctx: Any, room: Any, place: Any, number: Any) -> Any:
    """Set the number in a place."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[2], _at(builder, *args[:2]), "monotonic", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def count_up(typingctx: Any, room: Any, place: Any) -> Any:
    """Add 1 to the number in a place; what it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _at(builder, *args), _I64(1), "monotonic")

    return types.int64(types.int64, types.int64), codegen


# -- who begins, and where
# --------------------------------------------------------------------------------------------


@register_jitable
def is_taken(room, size, processor):
    """Whether one of the threads that have begun runs there; their processors are kept plus 1."""
    taken = False
    for k in range(size):
        taken |= number_at(room, size + k) == processor + 1
    return taken


@register_jitable
def go_elsewhere(room, size):
    """Leave the processors of those that have begun, where the calling thread may run on others."""
    before, mask = room_for(MASK_WORDS), room_for(MASK_WORDS)
    if get_affinity(0, MASK_WORDS * 8, before) != 0:
        return
    for word in range(MASK_WORDS):
        put_at(mask, word, number_at(before, word))
    for k in range(size):
        taken = number_at(room, size + k) - 1
        if 0 <= taken < MASK_WORDS * WORD_BITS:
            word = taken // WORD_BITS
            put_at(mask, word, number_at(mask, word) & ~(1 << taken % WORD_BITS))
    for word in range(MASK_WORDS):
        if number_at(mask, word) != 0:
            set_affinity(0, MASK_WORDS * 8, mask)
            set_affinity(0, MASK_WORDS * 8, before)
            return


def beginning(moves: bool) -> Any:
    """What a thread does first, and after each task, where processors are shared out by Linux; `moves` if it may move.

    The other systems have not been seen to need it.
    """

    @register_jitable
    def begin(room, size, own):
        if moves and own > 0 and is_taken(room, size, get_processor()):
            go_elsewhere(room, size)
        put_at(room, size + own, get_processor() + 1)
        count_up(room, 2 * size)

    @register_jitable
    def make_room(room, size):
        if number_at(room, 2 * size) < size:
            yield_processor()

    @register_jitable
    def nothing_first(room, size, own):
        return None

    @register_jitable
    def nothing_after(room, size):
        return None

    return (begin, make_room) if sys.platform == "linux" else (nothing_first, nothing_after)


def over_threads(moves: bool) -> Callable[..., None]:
    """The parallel loop over tasks, ``(function, block, first, last)``: ``function(block, task)`` for each of them."""
    begin, make_room = beginning(moves)

    @register_jitable
    def part_of(function, block, first, last, room, size, own):
        begin(room, size, own)
        for k in range(size):
            of = (own + k) % size
            start, stop = first + (last - first) * of // size, first + (last - first) * (of + 1) // size
            task = start + count_up(room, of)
            while task < stop:
                call(function, block, task)
                make_room(room, size)
                task = start + count_up(room, of)

    def in_parallel(function, block, first, last):
        size = min(get_num_threads(), last - first)
        # For each thread how many of its tasks are begun, and where it runs; then how many threads have begun.
        room = room_for(2 * size + 1)
        for own in prange(size):
            part_of(function, block, first, last, room, size, own)

    return in_parallel
