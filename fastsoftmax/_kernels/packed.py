"""Contiguous rows of 2, 4, 8 or 16 classes: whole rows side by side in one vector.

What is folded, is folded within the lanes of a row, by exchanging lanes at distances below the number of classes; every
lane then holds its row's maximum, sum and result, and nothing is transposed or taken out of a vector. The
order of a sum is that of `online`: folding a row of fewer classes than lanes adds zeros first, which change nothing.
"""

from __future__ import annotations

from .columns import column_factor, column_logs, states
from .jit import inlined, piece
from .memory import lanes_of, load, store
from .online import add, bigger, empty_sum, frame, join, term
from .simd import any_lane, fma, full, rotate, select, width
from .visits import log_probability, without_top


@inlined
def row_maxima(v, classes):
    """The maximum of each row in all of its lanes."""
    if width(v) > 8 and classes > 8:
        v = bigger(rotate(v, 8), v)
    if classes > 4:
        v = bigger(rotate(v, 4), v)
    if classes > 2:
        v = bigger(rotate(v, 2), v)
    return bigger(rotate(v, 1), v)


@inlined
def row_sums(terms, classes):
    """The sum of each row in all of its lanes, in the order of `online.across`."""
    s = add(empty_sum(), terms)
    if classes > 8:
        s = (s[0] + s[1], s[0] + s[1])
    if classes > 4:
        s = join(terms, s, (rotate(s[0], 4), rotate(s[1], 4)))
    if classes > 2:
        s = join(terms, s, (rotate(s[0], 2), rotate(s[1], 2)))
    return join(terms, s, (rotate(s[0], 1), rotate(s[1], 1)))


@inlined
def lane_sums(v, classes):
    """As `row_sums`, of small whole numbers or NaN, without leaving their type."""
    if width(v) > 8 and classes > 8:
        v = v + rotate(v, 8)
    if classes > 4:
        v = v + rotate(v, 4)
    if classes > 2:
        v = v + rotate(v, 2)
    return v + rotate(v, 1)


@inlined
def softmax_packed_at(like, x, out, row, count, scale):
    """The rows of one vector, or of its first `count` lanes."""
    classes = x.shape[1]
    v = load(like, x, (row, 0), count, 0.0)
    shape = frame(row_maxima(v, classes), scale)
    e = term(v, shape, scale)
    q, rest = column_factor(like, row_sums(e, classes), shape[4])
    store(out, (row, 0), fma(e, q, e * rest), count)


@inlined
def log_softmax_packed_at(like, x, out, row, count, scale):
    """The rows of one vector, or of its first `count` lanes."""
    classes = x.shape[1]
    v = load(like, x, (row, 0), count, 0.0)
    top = row_maxima(v, classes)
    shape = frame(top, scale)
    e, tops = without_top(v, top, term(v, shape, scale), full(like, 0.0))
    nan = full(like, 0.0)
    if any_lane(top - top != 0.0):
        nan = lane_sums(select(v == v, nan, v), classes)
    state = states(like, row_sums(e, classes), lane_sums(tops, classes), top, shape, nan, scale)
    store(out, (row, 0), log_probability(v, top, column_logs(like, state), scale), count)


def over_vectors(work):
    """The work on a run of rows, vector by vector."""

    @piece
    def run(x, out, first, last, scale):
        like, classes = lanes_of(x), x.shape[1]
        step = width(like) // classes
        row = first
        while row + step <= last:
            work(like, x, out, row, None, scale)
            row += step
        if row < last:
            work(like, x, out, row, (last - row) * classes, scale)

    return run


softmax_packed = over_vectors(softmax_packed_at)
log_softmax_packed = over_vectors(log_softmax_packed_at)
