"""Which kernel, how many tasks, and why: decided from shape, dtype and machine alone, never from data.

A plan may choose tasks by cost and cache; it never changes the order of a sum (see
`_kernels.online`).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from . import _machine
from ._kernels.lengths import BATCHED, BLOCK, FEW_LABELLED_ROWS, LANES, MOST_BLOCKS, SHORT_ROW, SMALL

__all__ = ["FEW_LABELLED_ROWS", "SMALL", "Plan", "canonical", "columns", "rows", "scratch_elements"]

# Measured on two Zen 4 cores; they only have to be right within a factor of two. A launch of
# threads costs 3 to 5 us, so work of twice that is shared.
WORTH_SHARING_NS = 10_000
# A thread has tasks of no less, or one of all its work, and no more of them: who is done helps the others with theirs.
TASK_NS, MOST_TASKS_EACH = 15_000, 8
# Threads that have had nothing to do for some milliseconds sleep. Waking them takes 50 to 150 us of a virtual machine.
WORTH_WAKING_NS = 200_000
# Rows are worked on in step, one summed while others are written: so few in a task that its ends cost nothing.
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
        "batches" (short rows, as many as lanes at once), "columns" (classes on a strided axis) or
        "split" (long rows shared out by blocks).
    tasks
        Parts that the work is cut into, more than threads so that these can share them out as they go; 1 is a plain
        call.
    block
        Elements of a row that one state covers; the whole row unless it is long.
    reason
        Why, in words.
    wakes
        Whether the work is worth waking threads that sleep; else the calling one does it alone then.
    """

    operation: str
    dtype: str
    kernel: str
    tasks: int
    block: int
    reason: str
    wakes: bool


@functools.lru_cache(maxsize=4096)
def rows(operation: str, dtype: str, count: int, classes: int, threads: int, dense: bool = False) -> Plan:
    """Plan for ``x[row, class]`` with contiguous classes; `dense` if rows follow each other without a gap.

    For losses it is the numbers of the rows that follow each other.
    """
    lanes = LANES[dtype]

    def plan(kernel: str, cost: float, units: int, worth: int, reason: str, block: int = classes) -> Plan:
        return _shared(operation, dtype, kernel, cost, units, worth, threads, reason, block)

    if classes > SHORT_ROW:
        blocks = -(-classes // BLOCK)
        cost = count * classes * ELEMENT_NS[dtype]
        split = plan("split", cost, count * blocks, 0, "", BLOCK)
        if count < split.tasks or blocks > MOST_BLOCKS:
            reason = f"{count} rows of {blocks} blocks for {split.tasks} threads: blocks are shared out"
            return replace(split, reason=reason)
        return plan("rows", cost, count, count, "long rows, one after the other", BLOCK)
    few = classes <= lanes and count >= lanes // 2
    if few and dense and classes == 2 and operation in HAS_PAIRS:
        step = lanes // 2
        units = count // step
        return plan("pairs", count / step * VECTOR_NS, units, units, f"two classes: {step} rows in a vector")
    # Gradients of rows that fill a vector go faster one by one (100000x16: 0.8 of the time; 15 classes: 1.4).
    narrow = few and operation in HAS_NARROW and not (classes == lanes and operation in BACKWARD)
    if narrow and (dense or operation not in LOSSES):
        groups = -(-count // (2 * lanes))
        reason = f"at most {lanes} classes: a vector or two of rows at once"
        return plan("narrow", count * (NARROW_ROW_NS + classes), groups, groups, reason)
    cost = count * (ROW_NS + classes * ELEMENT_NS[dtype])
    short = classes <= BATCHED.get(operation, 0) * lanes and count >= lanes // 2
    if short and (dense or operation not in LOSSES):
        return plan("batches", cost, count, count // TASK_ROWS, f"rows of a few vectors: {lanes} rows at once")
    return plan("rows", cost, count, count // TASK_ROWS, "contiguous rows")


@functools.lru_cache(maxsize=4096)
def columns(operation: str, dtype: str, outer: int, classes: int, inner: int, threads: int) -> Plan:
    """Plan for ``x[outer, class, inner]`` with contiguous inner elements and at most `SHORT_ROW` classes."""
    lanes = LANES[dtype]
    units = outer * -(-inner // lanes)
    cost = units * (ROW_NS + classes * lanes * ELEMENT_NS[dtype])
    reason = f"classes on a strided axis: {lanes} columns at once"
    return _shared(operation, dtype, "columns", cost, units, units // TASK_COLUMNS, threads, reason, classes)


def canonical(operation: str, dtype: str, shape: tuple[int, ...], threads: int, dense: bool) -> Plan:
    """Plan for an array as kernels take it, of two axes or three; `dense` says something only of two."""
    if len(shape) == 2:
        return rows(operation, dtype, *shape, threads, dense)
    return columns(operation, dtype, *shape, threads)


def _shared(
    operation: str,
    dtype: str,
    kernel: str,
    cost_ns: float,
    units: int,
    worth: int,
    threads: int,
    reason: str,
    block: int,
) -> Plan:
    """A plan with some tasks for each thread if the work is worth a launch, and no more than there are units.

    `worth` is how many tasks are large enough; if they are fewer than threads, each of these has one nevertheless.
    """
    tasks = 1
    if threads > 1 and cost_ns >= WORTH_SHARING_NS:
        each = min(MOST_TASKS_EACH, int(cost_ns / threads / TASK_NS))
        tasks = max(1, min(max(threads, min(threads * each, worth)), units))
    return Plan(operation, dtype, kernel, tasks, block, reason, cost_ns >= WORTH_WAKING_NS)


def scratch_elements(itemsize: int) -> int:
    """Elements of the buffer for arrays that no kernel reads as they lie: a quarter of the second cache."""
    return max(1024, _machine.caches()["l2"] // 4 // itemsize)
