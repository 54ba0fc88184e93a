"""Loops over arrays so small that what Python asks of them takes longer than the work.

They are handed over as they are (see `objects`), with the dtype that the code was chosen by: the caller has made sure
that they are arrays. Everything else is asked here, where it costs nothing.
"""

from __future__ import annotations

import numpy as np

from . import soft_targets
from .jit import inlined
from .labels import labels_read
from .launch import NO_ROOM, unlocked
from .lengths import BATCHED, FEW_ROWS, SHORT_ROW, SMALL
from .objects import CONTIGUOUS, WRITEABLE, axes, dtype, extent, flags, identity, in_a_row, in_rows
from .simd import width
from .views import address, lanes_of, view

# What they say: this is another call; it is done; the arrays are plain, but too large; a label is none.
OTHER, DONE, LARGE, BAD_LABEL = 0, 1, 2, 3
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
        logits, results = in_rows(x, rows, classes), in_rows(out, rows, written)
        if not are_apart(results, logits, rows * written, rows * classes, not reduces):
            return OTHER
        w = width(lanes_of(logits))
        if not is_small(rows, classes, SMALL // 16 * w) or (rows > few and classes <= batched * w):
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
        gradients, outputs, results = in_rows(g, rows, classes), in_rows(y, rows, classes), in_rows(out, rows, classes)
        if not (are_apart(results, gradients, size, size, True) and are_apart(results, outputs, size, size, True)):
            return OTHER
        if not is_small(rows, classes, SMALL):
            return LARGE
        if unlocked(work, (gradients, results, 0, rows, outputs), size > LOCKED):
            raise MemoryError(NO_ROOM)
        return DONE

    return small


def over_small_losses(work, place, needed):
    """The mean loss of a few rows, `most` at most, in one call: as `labels.read_labels`, then the sum of the losses.

    `place` is where results go: gradients to `out`, losses to their table; `needed` are the flags of `out`, which for
    losses is any array like `x`. What comes back is what was done, the row of a label that is none and that label, how
    many rows count, and the sum of their losses.
    """

    def small(x, target, out, kind, label_kind, ignored, most):
        last = axes(x) - 1
        if not (is_dense(x, kind) and is_like(out, x, last + 1, needed)):
            return OTHER, 0, 0, 0, 0.0
        if not (is_of(target, label_kind) and flags(target) & CONTIGUOUS and has_axes(target, x, last)):
            return OTHER, 0, 0, 0, 0.0
        rows, classes = rows_of(x), extent(x, last)
        logits, gradients = in_rows(x, rows, classes), in_rows(out, rows, classes)
        if not are_apart(gradients, logits, rows * classes, rows * classes, True):
            return OTHER, 0, 0, 0, 0.0
        if not is_small(rows, classes, SMALL) or rows > most:
            return LARGE, 0, 0, 0, 0.0
        table, none, no_weights = np.empty((rows, 1)), np.empty((0, 1)), np.empty(0)
        bad, wrong, count = labels_read(in_a_row(target, rows), table, 0, rows, (classes, ignored))
        total, failed, state = 0.0, False, BAD_LABEL if bad >= 0 else DONE if count > 0 else OTHER
        if state == DONE:
            extra = (view(table), view(none), view(no_weights), 1.0, 0.0, 0.0, 0.0, 1.0 / count, 0.0)
            failed = unlocked(work, (logits, place(gradients, view(table)), 0, rows, extra), rows * classes > LOCKED)
            total = soft_targets.column_total(view(table))
        table[0, 0] = 0.0  # it lives until here: a view keeps nothing alive, and an error would never free it
        if failed:
            raise MemoryError(NO_ROOM)
        return state, bad, wrong, count, total

    return small


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
    distance, item = address(out) - address(x), x.strides[1]
    return (distance == 0 and may_be_one) or distance >= read * item or -distance >= written * item
