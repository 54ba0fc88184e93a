"""Gradients through softmax and log-softmax, from their results (Bridle 1990; as PyTorch's ``_softmax_backward_data``).

    softmax:       dx = y * (g - sum(g * y))
    log_softmax:   dx = g - exp(y) * sum(g)

Each is a sum over the row and a write, on rows and on columns alike.
"""

from __future__ import annotations

from .columns import column_fold, load_sum, store_sum
from .jit import inlined, piece
from .memory import lanes_of, load, store
from .online import across, add, empty_sum, frame, term
from .shuffles import abreast, part
from .simd import full, narrow, strands, width
from .state import shrink_of
from .visits import ask_for, sum_of_four


@inlined
def product(g, y):
    """What softmax's gradient sums."""
    return g * y


@inlined
def first(g, y):
    """What log-softmax's gradient sums."""
    return g


@inlined
def softmax_gradient(g, y, total):
    """``y * (g - sum(g * y))``."""
    return y * (g - total)


@inlined
def log_softmax_gradient(g, y, total):
    """``g - exp(y) * sum(g)``; the term of exp carries its headroom until the product."""
    e = term(y, frame(full(y, 0.0), None), None)
    return g - e * (total * shrink_of(y))


def row_total(summand):
    """The sum of a row, in every lane, from what is summed."""

    @inlined
    def summand_at(like, g, y, row, j, count):
        return summand(load(like, g, (row, j), count, 0.0), load(like, y, (row, j), count, 0.0))

    @inlined
    def two_at(like, g, y, row, j, count):
        two = summand_at(abreast(like, 2), g, y, row, j, count)
        return part(two, 0, like) + part(two, 1, like)

    @inlined
    def total(like, g, out, row, y):
        w, n = width(like), g.shape[1]
        sums = empty_sum(like)
        j = 0
        while j + 4 * w <= n:
            ask_for(like, g, row, j, False)
            ask_for(like, y, row, j, False)
            ask_for(like, out, row, j, True)
            sums = add(sums, sum_of_four(like, summand_at(abreast(like, 4), g, y, row, j, None)))
            j += 4 * w
        left = n - j
        if left > 2 * w:
            sums = add(sums, two_at(like, g, y, row, j, None) + two_at(like, g, y, row, j + 2 * w, left - 2 * w))
        elif left > w:
            sums = add(sums, two_at(like, g, y, row, j, left))
        elif left > 0:
            sums = add(sums, summand_at(like, g, y, row, j, left))
        number, rest = across(like, sums)
        return full(like, number + rest)

    return total


def backward_rows(summand, gradient):
    """The work on a run of rows, from what is summed and what is written."""
    total_of = row_total(summand)

    @inlined
    def write(like, g, out, row, y, j, count, total):
        dx = gradient(load(like, g, (row, j), count, 0.0), load(like, y, (row, j), count, 0.0), total)
        store(out, (row, j), dx, count)

    @piece
    def work(g, out, first_row, last_row, y):
        like, n = lanes_of(g), g.shape[1]
        w = width(like)
        for row in range(first_row, last_row):
            total = total_of(like, g, out, row, y)
            # From the end, which the first cache still holds.
            if n % w:
                write(like, g, out, row, y, n - n % w, n % w, total)
            for j in range(n - n % w - w, -1, -w):
                write(like, g, out, row, y, j, None, total)

    return work


def backward_columns(summand, gradient):
    """The work on one vector of columns, likewise."""

    @inlined
    def summand_at(like, g, y, o, j, i, count):
        if j >= g.shape[1]:
            return full(like, 0.0)
        return summand(load(like, g, (o, j, i), count, 0.0), load(like, y, (o, j, i), count, 0.0))

    @piece
    def work(like, g, out, o, i, count, place, y, sums):
        n, w = g.shape[1], strands(like)
        for group in range(0, n, 4 * w):
            for k in range(min(w, n - group)):
                j = group + k
                a = summand_at(like, g, y, o, j, i, count)
                b = summand_at(like, g, y, o, j + w, i, count)
                c = summand_at(like, g, y, o, j + 2 * w, i, count)
                d = summand_at(like, g, y, o, j + 3 * w, i, count)
                before = empty_sum(like) if group == 0 else load_sum(like, sums, k)
                store_sum(like, sums, k, add(before, (a + b) + (c + d)))
        sum_and_rest = column_fold(like, sums, min(w, n))
        total = narrow(like, sum_and_rest[0] + sum_and_rest[1])
        for j in range(n):
            dx = gradient(load(like, g, (o, j, i), count, 0.0), load(like, y, (o, j, i), count, 0.0), total)
            store(out, (o, j, i), dx, count)

    return work


softmax_backward_rows = backward_rows(product, softmax_gradient)
softmax_backward_columns = backward_columns(product, softmax_gradient)
log_softmax_backward_rows = backward_rows(first, log_softmax_gradient)
log_softmax_backward_columns = backward_columns(first, log_softmax_gradient)
