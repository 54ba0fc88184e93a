"""Which kernel, how many tasks, and why: decided from shape, dtype and machine alone, never from data.

A plan may choose tasks by cost and cache; it never changes the order of a sum (see
`_kernels.online`).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from . import _machine
from ._kernels.lengths import (
    BATCHED,
    BLOCK,
    INTERLEAVED,
    INTERLEAVED_GRADIENTS,
    INTERLEAVED_ROOM,
    LANES,
    MOST_BLOCKS,
    NARROW_VECTORS,
    SHORT_ROW,
    rows_of_pieces,
)

# Measured on two Zen 4 cores; they only have to be right within a factor of two. A launch of
# threads costs 3 to 5 us, so work of twice that is shared.
WORTH_SHARING_NS = 10_000
# No task is shorter than this unless a thread has but one; nor has a thread more of them. Who is done with its own
# helps the others with theirs.
TASK_NS, MOST_TASKS_EACH = 15_000, 8
# Rows are worked on in step, one summed while others are written: so many in a task that its ends cost nothing.
TASK_ROWS = 16
# Vectors of columns, likewise: those of a tile.
TASK_COLUMNS = 16
ROW_NS = 40
NARROW_ROW_NS = 6
VECTOR_NS = 10
ELEMENT_NS = {"float32": 0.35, "float16": 0.6, "bfloat16": 0.6, "float64": 1.0}

LOSSES = frozenset({"cross_entropy", "cross_entropy_with_grad"})
BACKWARD = frozenset({"softmax_backward", "log_softmax_backward"})
HAS_NARROW = frozenset({"softmax", "log_softmax", "logsumexp"}) | LOSSES | BACKWARD
HAS_PAIRS = frozenset({"softmax", "log_softmax"})


@dataclass(frozen=True)
class Plan:
    """How one call is carried out.

    Attributes
    ----------
    operation, dtype
        What is computed, and on which elements.
    kernel
        "rows", "pairs" (two classes), "narrow" (a few classes, many rows at once),
        "batches" (short rows, as many as lanes at once), "columns" (classes on a strided axis),
        "interleaved" (a few columns of many classes, as rows) or "split" (long rows shared out by blocks).
    tasks
        Parts that the work is cut into, more than threads so that these can share them out as they go; 1 is a plain
        call.
    block
        Elements of a row that one state covers; the whole row unless it is long.
    reason
        Why, in words.
    cost_ns
        What it takes one thread, about: whether threads that sleep are worth waking depends on it.
    """

    operation: str
    dtype: str
    kernel: str
    tasks: int
    block: int
    reason: str
    cost_ns: int


@functools.lru_cache(maxsize=4096)
def rows(operation: str, dtype: str, count: int, classes: int, threads: int, dense: bool = False) -> Plan:
    """Plan for ``x[row, class]`` with contiguous classes; `dense` if rows follow each other without a gap.

    For losses it is the numbers of the rows that follow each other.
    """
    lanes = LANES[dtype]

    def plan(kernel: str, tasks: int, cost: float, reason: str) -> Plan:
        return Plan(operation, dtype, kernel, tasks, classes if classes <= SHORT_ROW else BLOCK, reason, int(cost))

    if classes > SHORT_ROW:
        blocks = -(-classes // BLOCK)
        cost = count * classes * ELEMENT_NS[dtype]
        shares = _tasks(cost, count * blocks, 0, threads)
        if count < shares or blocks > MOST_BLOCKS:
            reason = f"{count} rows of {blocks} blocks for {shares} threads: blocks are shared out"
            return plan("split", shares, cost, reason)
        return plan("rows", _tasks(cost, count, count, threads), cost, "long rows, one after the other")
    few = classes <= lanes and count >= lanes // 2
    if few and dense and classes == 2 and operation in HAS_PAIRS:
        vectors = count // (lanes // 2)
        cost = count / (lanes // 2) * VECTOR_NS
        reason = f"two classes: {lanes // 2} rows in a vector"
        return plan("pairs", _tasks(cost, vectors, vectors, threads), cost, reason)
    # Gradients of rows that fill a vector go faster one by one (100000x16: 0.8 of the time; 15 classes: 1.4).
    narrow = few and operation in HAS_NARROW and not (classes == lanes and operation in BACKWARD)
    if narrow and (dense or operation not in LOSSES):
        groups = -(-count // (NARROW_VECTORS.get(operation, 2) * lanes))
        cost = count * (NARROW_ROW_NS + classes)
        reason = f"at most {lanes} classes: some vectors of rows at once"
        return plan("narrow", _tasks(cost, groups, groups, threads), cost, reason)
    cost = count * (ROW_NS + classes * ELEMENT_NS[dtype])
    tasks = _tasks(cost, count, count // TASK_ROWS, threads)
    short = classes <= BATCHED.get(operation, 0) * lanes and count >= lanes // 2
    if short and (dense or operation not in LOSSES):
        return plan("batches", tasks, cost, f"rows of a few vectors: {lanes} rows at once")
    return plan("rows", tasks, cost, "contiguous rows")


@functools.lru_cache(maxsize=4096)
def columns(operation: str, dtype: str, outer: int, classes: int, inner: int, threads: int) -> Plan:
    """Plan for ``x[outer, class, inner]`` with contiguous inner elements and at most `SHORT_ROW` classes."""
    lanes = LANES[dtype]
    many = classes >= (INTERLEAVED_GRADIENTS if operation in BACKWARD else INTERLEAVED)
    if inner < lanes and many and classes * rows_of_pieces(inner) <= INTERLEAVED_ROOM:
        cost = outer * inner * (ROW_NS + classes * ELEMENT_NS[dtype])
        tasks = _tasks(cost, outer, outer * inner // TASK_ROWS, threads)
        reason = f"{inner} columns of many classes: rows, in room of their own"
        return Plan(operation, dtype, "interleaved", tasks, classes, reason, int(cost))
    units = -(-outer // max(1, lanes // inner)) * -(-inner // lanes)  # vectors, of several outer indices where they fit
    cost = units * (ROW_NS + classes * lanes * ELEMENT_NS[dtype])
    tasks = _tasks(cost, units, units // TASK_COLUMNS, threads)
    reason = f"classes on a strided axis: {lanes} columns at once"
    return Plan(operation, dtype, "columns", tasks, classes, reason, int(cost))


def canonical(operation: str, dtype: str, shape: tuple[int, ...], threads: int, dense: bool) -> Plan:
    """Plan for an array as kernels take it, of two axes or three; `dense` says something only of two."""
    if len(shape) == 2:
        return rows(operation, dtype, *shape, threads, dense)
    return columns(operation, dtype, *shape, threads)


def _tasks(cost_ns: float, units: int, worth: int, threads: int) -> int:
    """Some tasks for each thread if the work is worth a launch, and no more than there are units.

    `worth` is how many tasks are large enough; if they are fewer than threads, each of these has one nevertheless.
    """
    if threads == 1 or cost_ns < WORTH_SHARING_NS:
        return 1
    each = min(MOST_TASKS_EACH, int(cost_ns / threads / TASK_NS))
    return max(1, min(max(threads, min(threads * each, worth)), units))


def scratch_elements(itemsize: int) -> int:
    """Elements of the buffer for arrays that no kernel reads as they lie: a quarter of the second cache."""
    return max(1024, _machine.caches()["l2"] // 4 // itemsize)
