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
from .simd import full, narrow, strands, width
from .state import shrink_of


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


def backward_rows(summand, gradient):
    """The work on a run of rows, from what is summed and what is written."""

    @inlined
    def summand_at(like, g, y, row, j, count):
        return summand(load(like, g, (row, j), count, 0.0), load(like, y, (row, j), count, 0.0))

    @inlined
    def one(g, out, row, y):
        like, n = lanes_of(g), g.shape[1]
        w = width(like)
        sums = empty_sum(like)
        j = 0
        while j + 4 * w <= n:
            a = summand_at(like, g, y, row, j, None)
            b = summand_at(like, g, y, row, j + w, None)
            c = summand_at(like, g, y, row, j + 2 * w, None)
            d = summand_at(like, g, y, row, j + 3 * w, None)
            sums = add(sums, (a + b) + (c + d))
            j += 4 * w
        if j < n:
            a = summand_at(like, g, y, row, j, n - j)
            b = summand_at(like, g, y, row, j + w, max(n - j - w, 0))
            c = summand_at(like, g, y, row, j + 2 * w, max(n - j - 2 * w, 0))
            d = summand_at(like, g, y, row, j + 3 * w, max(n - j - 3 * w, 0))
            sums = add(sums, (a + b) + (c + d))
        number, rest = across(like, sums)
        total = full(like, number + rest)
        j = 0
        while j < n:
            count = min(w, n - j)
            dx = gradient(load(like, g, (row, j), count, 0.0), load(like, y, (row, j), count, 0.0), total)
            store(out, (row, j), dx, count)
            j += w

    @piece
    def work(g, out, first_row, last_row, y):
        for row in range(first_row, last_row):
            one(g, out, row, y)

    return work


def backward_columns(summand, gradient):
    """The work on one vector of columns, likewise."""

    @inlined
    def summand_at(like, g, y, o, j, i, count):
        if j >= g.shape[1]:
            return full(like, 0.0)
        return summand(load(like, g, (o, j, i), count, 0.0), load(like, y, (o, j, i), count, 0.0))

    @piece
    def work(like, g, out, o, i, count, y, sums):
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
