"""Loops over arrays so small that what Python asks of them takes longer than the work."""

from __future__ import annotations

import numpy as np

from . import losses, soft_targets
from .jit import inlined
from .lengths import BATCHED, FEW_ROWS, SMALL
from .simd import width
from .views import address, lanes_of, view


def over_small(work, operation, reduces=False):
    """Run the work on plain rows of small arrays, and say whether it could; one that `reduces` writes a number a row.

    Many rows of a few vectors are left to those who take them at once.

    What Python asks of an array costs 50 ns a question; here the questions cost nothing. The caller has made sure
    of the dtype, of two axes and that `out` may be written.
    """
    few, batched = FEW_ROWS[operation], BATCHED[operation]

    def small(x, out):
        logits, results = view(x), view(out)
        rows, classes = x.shape
        written = 1 if reduces else classes
        plain = (
            is_plain(x, (rows, classes))
            and is_plain(out, (rows, written))
            and are_apart(results, logits, rows * written * x.itemsize, rows * classes * x.itemsize, not reduces)
        )
        w = width(lanes_of(logits))
        if not plain or rows * classes > SMALL // 16 * w or (rows > few and classes <= batched * w):
            return False
        work(logits, results, 0, rows, None)
        return True

    return small


def over_small_gradients(work):
    """The same for gradients from two arrays."""

    def small(g, y, out):
        gradients, outputs, results = view(g), view(y), view(out)
        rows, classes = g.shape
        size = rows * classes * g.itemsize
        plain = (
            is_plain(g, g.shape)
            and is_plain(y, g.shape)
            and is_plain(out, g.shape)
            and are_apart(results, gradients, size, size, True)
            and are_apart(results, outputs, size, size, True)
        )
        if not plain or rows * classes > SMALL:
            return False
        work(gradients, results, 0, rows, outputs)
        return True

    return small


@inlined
def is_plain(array, shape):
    """Whether this is contiguous, of that shape and not empty."""
    step = array.itemsize
    return array.size > 0 and array.shape == shape and array.strides == (shape[1] * step, step)


@inlined
def are_apart(out, x, out_bytes, bytes_read, may_be_one):
    """Whether two contiguous arrays have no memory in common, or are one if they may be."""
    distance = address(out) - address(x)
    return (distance == 0 and may_be_one) or distance >= bytes_read or -distance >= out_bytes


def over_small_losses(work, place):
    """The mean loss of a few plain rows in one call: as `losses.read_labels`, then the sum of the losses.

    `place` is where results go: gradients to `out`, losses to their table.
    """

    def small(x, labels, out, limits):
        rows = x.shape[0]
        table, none, no_weights = np.empty((rows, 1)), np.empty((0, 1)), np.empty(0)
        bad, wrong, count = losses.labels_read(labels, table, 0, rows, limits)
        total = 0.0
        if bad < 0 and count > 0:
            extra = (view(table), view(none), view(no_weights), 1.0, 0.0, 0.0, 0.0, 1.0 / count, 0.0)
            work(view(x), view(place(out, table)), 0, rows, extra)
            total = soft_targets.column_total(view(table))
        table[0, 0] = 0.0  # it lives until here: a view keeps nothing alive
        return bad, wrong, count, total

    return small


@inlined
def to_out(out, table):
    return out


@inlined
def to_table(out, table):
    return table
