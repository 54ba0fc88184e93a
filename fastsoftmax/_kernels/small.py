"""Loops over arrays so small that what Python asks of them takes longer than the work.

They are handed over as they are (see `objects`), with the dtype that the code was chosen by: the caller has made sure
that they are arrays. Everything else is asked here, where it costs nothing.
"""

from __future__ import annotations

import numpy as np

from .jit import by_type, inlined, piece
from .labels import labels_read
from .launch import NO_ROOM, unlocked
from .lengths import BATCHED, FEW_ROWS, SHORT_ROW, SMALL, SMALL_GRADIENTS, SMALL_ROWS
from .objects import CONTIGUOUS, WRITEABLE, array_as, axes, dtype, extent, flags, identity, seen_as
from .past import item_bytes
from .simd import width
from .soft_targets import column_total
from .views import address, lanes_of, no_numbers, view

# What they say: this is another call; it is done; the arrays are plain, but too large.
OTHER, DONE, LARGE = 0, 1, 2
PLACE = CONTIGUOUS | WRITEABLE
# Python's lock is kept while no more elements than this are worked on, a microsecond or so.
LOCKED = 4096


def over_small(work, operation, reduces=False):
    """Run the work on rows of small arrays, and say whether it was `DONE`; one that `reduces` writes a number a row.

    Many rows of a few vectors are left to those who take them at once.
    """
    few, batched = FEW_ROWS[operation], BATCHED[operation]

    def small(x, out, kind):
        last = axes(x) - 1
        if not (is_dense(x, kind) and is_like(out, x, last if reduces else last + 1, PLACE)):
            return OTHER
        rows, classes = rows_of(x), extent(x, last)
        written = 1 if reduces else classes
        logits, results = seen_as(x, (rows, classes)), seen_as(out, (rows, written))
        if not are_apart(results, logits, rows * written, rows * classes, not reduces):
            return OTHER
        w = width(lanes_of(logits))
        if not is_small(rows, classes, SMALL_ROWS // 16 * w) or (rows > few and classes <= batched * w):
            return LARGE
        if unlocked(work, (logits, results, 0, rows, None), rows * classes > LOCKED):
            raise MemoryError(NO_ROOM)
        return DONE

    return small


def over_small_gradients(work):
    """The same for gradients from two arrays."""

    def small(g, y, out, kind):
        count = axes(g)
        if not (is_dense(g, kind) and is_like(y, g, count, CONTIGUOUS) and is_like(out, g, count, PLACE)):
            return OTHER
        rows, classes = rows_of(g), extent(g, count - 1)
        size = rows * classes
        shape = rows, classes
        gradients, outputs, results = seen_as(g, shape), seen_as(y, shape), seen_as(out, shape)
        if not (are_apart(results, gradients, size, size, True) and are_apart(results, outputs, size, size, True)):
            return OTHER
        w = width(lanes_of(gradients))
        if not is_small(rows, classes, (SMALL_GRADIENTS if classes >= w else SMALL) // 16 * w):
            return LARGE
        if unlocked(work, (gradients, results, 0, rows, outputs), size > LOCKED):
            raise MemoryError(NO_ROOM)
        return DONE

    return small


def over_small_losses(work, place, needed):
    """The mean loss of a few rows, `most` at most, in one call; what is none is another call (see `mean_loss`).

    `needed` are the flags of `out`, which for losses is any array like `x`.
    """

    @piece
    def all_rows(x, out, extra):
        work(x, out, 0, x.shape[0], extra)

    mean = mean_loss(all_rows, place)

    def small(x, target, out, kind, label_kind, ignored, most):
        last = axes(x) - 1
        if not (is_dense(x, kind) and is_like(out, x, last + 1, needed)):
            return NO_LOSS
        if not (is_of(target, label_kind) and flags(target) & CONTIGUOUS and has_axes(target, x, last)):
            return NO_LOSS
        rows, classes = rows_of(x), extent(x, last)
        logits, gradients = seen_as(x, (rows, classes)), seen_as(out, (rows, classes))
        if not are_apart(gradients, logits, rows * classes, rows * classes, True):
            return NO_LOSS
        if not is_small(rows, classes, SMALL_ROWS) or rows > most:
            return LARGE_LOSS
        return mean(logits, gradients, array_as(target, (rows,)), ignored)

    return small


# What stands for `OTHER` and `LARGE` where a loss is meant, before anything is written: one without options is never
# negative. Labels that are none are `OTHER` too: whoever names the first one reads them again.
NO_LOSS, LARGE_LOSS = -1.0, -2.0


def mean_loss(run, place):
    """``mean(x, out, labels, ignored)``: the mean loss of rows, `NO_LOSS` if a label is none or no row counts.

    Labels are read as `labels.read_labels` does, ``run(x, place(out, table), extra)`` finds the losses; `place` is
    where results go, gradients to `out`, losses to their table.
    """

    @inlined
    def mean(x, out, labels, ignored):
        rows, size = labels.shape[0], labels.shape[0] * x.shape[1]
        table = np.empty((rows, 1))
        bad, _, count = labels_read(labels, table, 0, rows, (x.shape[1], ignored))
        total, failed = NO_LOSS, False
        if bad < 0 < count:
            numbers = numbers_like(x, table)
            extra = (numbers, no_numbers(x.shape), no_numbers((0,)), 0.0, 0.0, 0.0, 0.0, 1.0 / count, 0.0)
            failed = unlocked(run, (x, place(out, numbers), extra), size > LOCKED)
            total = column_total(view(table)) / count
        table[0, 0] = 0.0  # it lives until here: a view keeps nothing alive, and an error would never free it
        if failed:
            raise MemoryError(NO_ROOM)
        return total

    return mean


@by_type
def numbers_like(x, table):
    """The view of the numbers of rows that goes with x."""
    if x.ndim == 2:
        return lambda x, table: view(table)
    return lambda x, table: view(table.reshape((x.shape[0], 1, x.shape[2])))


@inlined
def is_small(rows, classes, most):
    """Whether so many rows are work for one thread: those of so many elements, or one that is not cut into blocks."""
    return rows * classes <= most or (rows == 1 and classes <= SHORT_ROW)


@inlined
def to_out(out, table):
    return out


@inlined
def to_table(out, table):
    return table


@inlined
def is_of(array, kind):
    """Whether an array has this very dtype."""
    return dtype(array) == identity(kind)


@inlined
def is_dense(array, kind):
    """Whether this is contiguous, of the dtype, not empty, and has an axis at least."""
    dense = is_of(array, kind) and axes(array) > 0 and flags(array) & CONTIGUOUS != 0
    return dense and rows_of(array) * extent(array, axes(array) - 1) > 0


@inlined
def is_like(other, array, count, needed):
    """Whether the one array has the dtype and the first `count` axes of the other, no more, and the flags needed."""
    return dtype(other) == dtype(array) and flags(other) & needed == needed and has_axes(other, array, count)


@inlined
def has_axes(other, array, count):
    """Whether an array has the first `count` axes of another and no more."""
    if axes(other) != count:
        return False
    same = True
    for axis in range(count):
        same &= extent(other, axis) == extent(array, axis)
    return same


@inlined
def rows_of(array):
    """How many rows of its last axis an array has."""
    rows = 1
    for axis in range(axes(array) - 1):
        rows *= extent(array, axis)
    return rows


@inlined
def are_apart(out, x, written, read, may_be_one):
    """Whether contiguous arrays of so many elements have no memory in common, or are one if they may be."""
    distance, item = address(out) - address(x), item_bytes(x)
    return (distance == 0 and may_be_one) or distance >= read * item or -distance >= written * item
