"""Contiguous rows of two classes: whole rows side by side in one vector.

What is folded, is folded with the neighbouring lane; both lanes of a row then hold its maximum, its sum and their
result, and nothing is transposed or taken out of a vector. The order of a sum is that of `online`: folding a
row of fewer classes than strands adds zeros first, which change nothing.
"""

from __future__ import annotations

from .columns import column_factor, column_logs, column_state
from .jit import by_type, inlined, piece
from .memory import load, prefetch, store
from .online import bigger, frame, term
from .shuffles import abreast, any_lane, rotate
from .simd import fma, full, select, strands, width
from .sums import add, empty_sum, join, swapped
from .target import has_avx512
from .views import lanes_of
from .visits import without_top
from .writes import log_probability

# Rows are asked for so many ahead.
AHEAD = 128


@inlined
def sums(terms):
    """The sum of each row in both of its lanes."""
    s = add(empty_sum(terms), terms)
    return join(s, swapped(terms, s, 1))


@inlined
def softmax_pairs_at(like, x, out, row, count, scale):
    """The rows of some vectors, or of their first `count` lanes."""
    v = load(like, x, (row, 0), count, 0.0)
    shape = frame(bigger(rotate(v, 1), v), scale)
    e = term(v, shape, scale)
    q, rest = column_factor(like, sums(e), full(like, 0.0), shape)
    store(out, (row, 0), fma(e, q, e * rest), count)


@inlined
def log_softmax_pairs_at(like, x, out, row, count, scale):
    """The rows of some vectors, or of their first `count` lanes."""
    v = load(like, x, (row, 0), count, 0.0)
    top = bigger(rotate(v, 1), v)
    shape = frame(top, scale)
    e, tops = without_top(v, top, term(v, shape, scale), full(like, 0.0))
    nan = full(like, 0.0)
    if any_lane(top - top != 0.0):
        found = select(v == v, nan, v)
        nan = found + rotate(found, 1)
    state = column_state(like, sums(e), tops + rotate(tops, 1), top, shape, nan, scale)
    store(out, (row, 0), log_probability(v, top, column_logs(like, state), scale), count)


@by_type
def pairs_in_flight(v):
    """Four vectors with AVX-512, else two: each is a chain of waits (Zen 5: softmax 0.75, log_softmax 0.86 of two)."""
    count = 4 if has_avx512() else 2
    return lambda v: abreast(v, count)


def over_vectors(work):
    """The work on a run of rows, some vectors at a time."""

    @piece
    def run(x, out, first, last, scale):
        like = pairs_in_flight(lanes_of(x))
        step = width(like) // 2
        row = first
        while row + step <= last:
            for lanes in range(0, width(like), strands(like)):
                prefetch(x, (row + AHEAD, lanes), False)
                prefetch(out, (row + AHEAD, lanes), True)
            work(like, x, out, row, None, scale)
            row += step
        if row < last:
            work(like, x, out, row, (last - row) * 2, scale)

    return run


softmax_pairs = over_vectors(softmax_pairs_at)
log_softmax_pairs = over_vectors(log_softmax_pairs_at)
