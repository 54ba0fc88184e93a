"""The tasks of a launch shared among its threads, as they come.

Processors are seldom equally fast and threads seldom begin at once: others want the processor too, or it has to wake
up. So there are more tasks than threads. Each thread does the tasks of its own share first, which its cache may hold
from the call before, and then what is left of the others'. Which thread does what never changes a result.

A thread that sleeps may be woken on the processor of the one that wakes it: in virtual machines Linux seems to take a
processor that halted for one that cannot run. There it waits, and the other, who waits for it at the end, leaves it no
time: 5 ms for a call of 0.1. So a launch that wakes threads makes room for those still to begin, and who begins on the
processor of another goes elsewhere.
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

# Whether threads are known to be woken on taken processors here, and the functions below exist.
LINUX = sys.platform == "linux"
# A mask of processors as the C library has it. Linux refuses to fill it where there are more, and nobody moves then.
MASK_WORDS, WORD_BITS = 16, 64
_int, _long = types.int32, types.int64
sched_getaffinity = types.ExternalFunction("sched_getaffinity", _int(_int, _long, _long))
sched_setaffinity = types.ExternalFunction("sched_setaffinity", _int(_int, _long, _long))
sched_getcpu = types.ExternalFunction("sched_getcpu", _int())
sched_yield = types.ExternalFunction("sched_yield", _int())
pthread_self = types.ExternalFunction("pthread_self", _long())
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
    """The address of so many numbers, all 0, on the stack until the calling function returns. Never in a loop."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        room = builder.alloca(_I64, args[0])
        cgutils.memset(builder, room, builder.mul(args[0], _I64(8)), 0)
        return builder.ptrtoint(room, _I64)

    return types.int64(types.int64), codegen


def _at(builder: Any, room: Any, place: Any) -> Any:
    return builder.gep(builder.inttoptr(room, _I64.as_pointer()), [place])


@intrinsic
def load(typingctx: Any, room: Any, place: Any) -> Any:
    """The number in a place."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_at(builder, *args), "monotonic", 8)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def store(typingctx: Any, room: Any, place: Any, number: Any) -> Any:
    """Set the number in a place."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[2], _at(builder, *args[:2]), "monotonic", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def fetch_add(typingctx: Any, room: Any, place: Any) -> Any:
    """Add 1 to the number in a place; what it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _at(builder, *args), _I64(1), "monotonic")

    return types.int64(types.int64, types.int64), codegen


# The room of a launch of `size` threads: how many tasks of each share are begun; on which processor each thread began,
# plus 1; how many have begun; and which thread launched.


@register_jitable
def processor_of(size, own):
    return size + own


@register_jitable
def begun(size):
    return 2 * size


@register_jitable
def launching(size):
    return 2 * size + 1


@register_jitable
def numbers(size):
    return 2 * size + 2


# -- who begins, and where
# --------------------------------------------------------------------------------------------


@register_jitable
def without(mask, processor):
    """Take a processor out of a mask, which need not have it."""
    if 0 <= processor < MASK_WORDS * WORD_BITS:
        word = processor // WORD_BITS
        store(mask, word, load(mask, word) & ~(1 << processor % WORD_BITS))


@register_jitable
def is_empty(mask):
    bits = 0
    for word in range(MASK_WORDS):
        bits |= load(mask, word)
    return bits == 0


@register_jitable
def go_elsewhere(room, size):
    """Leave the processors of those that have begun, where the calling thread may run on others.

    Afterwards it may run where it might before, unless somebody has said something else meanwhile.
    """
    before, mask, now = room_for(MASK_WORDS), room_for(MASK_WORDS), room_for(MASK_WORDS)
    if sched_getaffinity(0, MASK_WORDS * 8, before) != 0:
        return
    for word in range(MASK_WORDS):
        store(mask, word, load(before, word))
    for k in range(size):
        without(mask, load(room, processor_of(size, k)) - 1)
    if is_empty(mask) or sched_setaffinity(0, MASK_WORDS * 8, mask) != 0:
        return
    if sched_getaffinity(0, MASK_WORDS * 8, now) == 0:
        for word in range(MASK_WORDS):
            if load(now, word) != load(mask, word):
                return
    sched_setaffinity(0, MASK_WORDS * 8, before)


@register_jitable
def begin(room, size, own):
    """Note that a thread has begun, on a processor where no other has; the caller's own thread stays where it is."""
    here, taken = sched_getcpu(), False
    for k in range(size):
        taken |= here >= 0 and load(room, processor_of(size, k)) == here + 1
    if taken and pthread_self() != load(room, launching(size)):
        go_elsewhere(room, size)
        here = sched_getcpu()
    store(room, processor_of(size, own), here + 1)
    fetch_add(room, begun(size))


def over_threads(wakes: bool) -> Callable[..., None]:
    """The parallel loop over tasks, ``(function, block, first, last)``: ``function(block, task)`` for each of them.

    With `wakes` for threads that sleep, of Linux.
    """

    @register_jitable
    def work(function, block, first, last, room, size, own):
        if wakes:
            begin(room, size, own)
        for k in range(size):
            share = (own + k) % size
            start, stop = first + (last - first) * share // size, first + (last - first) * (share + 1) // size
            # Asked first: what everybody adds to goes from cache to cache.
            while load(room, share) < stop - start:
                task = start + fetch_add(room, share)
                if task < stop:
                    call(function, block, task)
                if wakes and load(room, begun(size)) < size:
                    sched_yield()

    def in_parallel(function, block, first, last):
        size = min(get_num_threads(), last - first)
        room = room_for(numbers(size))
        if wakes:
            store(room, launching(size), pthread_self())
        for own in prange(size):
            work(function, block, first, last, room, size, own)

    return in_parallel
