"""Rows whose classes are contiguous: ``x[row, class]``.

A short row is read from memory once: its maximum, its terms and their sum, and the write come while it is in
cache. A long row has a state per block, in order, and is then read once more to be written. Where rows are
fewer than threads the blocks of a row are shared out (`block_states`, then `*_from_states`).
"""

from __future__ import annotations

import numpy as np
from numba.core import types

from .elementary import two_sum
from .jit import by_type, inlined, piece
from .lengths import BLOCK, SHORT_ROW
from .memory import lanes_of, load, store
from .online import (
    across,
    add,
    at_infinity,
    bigger,
    empty_sum,
    factor_of,
    frame,
    log_others,
    log_total,
    merge,
    others,
    pair_product,
    reciprocal,
    scaled,
    shrink_of,
    term,
    top_term,
)
from .simd import HalfType, doubles, f32x16, fma, full, lane, rotate, select, width

# Rows of up to this many classes are worked on several at a time: six of them share the second cache.
PIPELINED = 32768


@inlined
def scalar(v):
    """The first lane, in float64."""
    return np.float64(lane(v, 0))


# -- the visits of a row -----------------------------------------------------------------------------------


@inlined
def largest(v):
    """The largest lane, in every lane."""
    if width(v) == 16:
        v = bigger(rotate(v, 8), v)
    v = bigger(rotate(v, 4), v)
    v = bigger(rotate(v, 2), v)
    return bigger(rotate(v, 1), v)


@inlined
def row_top(like, x, row, start, stop):
    """The maximum of ``x[row, start:stop]`` in every lane; NaN counts for nothing, no element gives -inf."""
    w = width(like)
    a = full(like, -np.inf)
    b, c, d = a, a, a
    j = start
    while j + 4 * w <= stop:
        a = bigger(load(like, x, (row, j), None, 0.0), a)
        b = bigger(load(like, x, (row, j + w), None, 0.0), b)
        c = bigger(load(like, x, (row, j + 2 * w), None, 0.0), c)
        d = bigger(load(like, x, (row, j + 3 * w), None, 0.0), d)
        j += 4 * w
    a = top_tail(like, x, row, j, stop, a)
    return largest(bigger(bigger(a, b), bigger(c, d)))


@inlined
def top_tail(like, x, row, start, stop, top):
    """The maxima of what is left of a row, fewer than four vectors."""
    for j in range(start, stop, width(like)):
        top = bigger(load(like, x, (row, j), stop - j, -np.inf), top)
    return top


@by_type
def without_top(v, top, e, count):
    """The terms with those of the maximum set to 0 and counted; all terms where `top` is None."""
    if isinstance(top, types.NoneType):
        return lambda v, top, e, count: (e, count)

    def counted(v, top, e, count):
        equal = v == top
        return select(equal, full(e, 0.0), e), select(equal, count + 1.0, count)

    return counted


@by_type
def keep(out, index, e, count):
    """Store terms, unless `out` is None."""
    if isinstance(out, types.NoneType):
        return lambda out, index, e, count: None
    return lambda out, index, e, count: store(out, index, e, count)


@inlined
def visit(like, x, out, top, row, j, count, shape, scale, tops):
    """One vector of terms, kept in `out` on the way."""
    v = load(like, x, (row, j), count, -np.inf)
    e = term(v, shape, scale)
    keep(out, (row, j), e, count)
    return without_top(v, top, e, tops)


@inlined
def row_sum(like, x, out, top, row, start, stop, shape, scale):
    """The sum of the terms of ``x[row, start:stop]`` and, with a `top`, how many are it and not in the sum."""
    w = width(like)
    total, tops = empty_sum(), full(like, 0.0)
    j = start
    while j + 4 * w <= stop:
        a, tops = visit(like, x, out, top, row, j, None, shape, scale, tops)
        b, tops = visit(like, x, out, top, row, j + w, None, shape, scale, tops)
        c, tops = visit(like, x, out, top, row, j + 2 * w, None, shape, scale, tops)
        d, tops = visit(like, x, out, top, row, j + 3 * w, None, shape, scale, tops)
        total = add(total, (a + b) + (c + d))
        j += 4 * w
    total, tops = sum_tail(like, x, out, top, row, j, stop, shape, scale, total, tops)
    number, rest = across(like, total)
    equal, _ = across(like, add(empty_sum(), tops))
    return number, rest, equal


@inlined
def sum_tail(like, x, out, top, row, j, stop, shape, scale, total, tops):
    """The sum with what is left of a row, fewer than four vectors."""
    w = width(like)
    if j < stop:
        a, tops = visit(like, x, out, top, row, j, stop - j, shape, scale, tops)
        b = c = d = full(like, 0.0)
        if j + w < stop:
            b, tops = visit(like, x, out, top, row, j + w, stop - j - w, shape, scale, tops)
        if j + 2 * w < stop:
            c, tops = visit(like, x, out, top, row, j + 2 * w, stop - j - 2 * w, shape, scale, tops)
        if j + 3 * w < stop:
            d, tops = visit(like, x, out, top, row, j + 3 * w, stop - j - 3 * w, shape, scale, tops)
        total = add(total, (a + b) + (c + d))
    return total, tops


@inlined
def spread(like, q, rest):
    """The float64 pair ``q + rest`` as a pair of vectors in the type of `like`."""
    high = full(like, q)
    return high, full(like, (q - scalar(high)) + rest)


@inlined
def scale_row(like, out, row, j, factor):
    """Turn the terms kept in ``out[row, j:]`` into probabilities."""
    q, rest = factor
    w = width(like)
    stop = out.shape[1]
    while j + w <= stop:
        e = load(like, out, (row, j), None, 0.0)
        store(out, (row, j), fma(e, q, e * rest), None)
        j += w
    if j < stop:
        e = load(like, out, (row, j), stop - j, 0.0)
        store(out, (row, j), fma(e, q, e * rest), stop - j)


@inlined
def write_softmax(like, x, out, row, start, stop, shape, scale, factor):
    """The probabilities of ``x[row, start:stop]``, from x."""
    q, rest = factor
    w = width(like)
    j = start
    while j + w <= stop:
        e = term(load(like, x, (row, j), None, 0.0), shape, scale)
        store(out, (row, j), fma(e, q, e * rest), None)
        j += w
    if j < stop:
        e = term(load(like, x, (row, j), stop - j, 0.0), shape, scale)
        store(out, (row, j), fma(e, q, e * rest), stop - j)


@inlined
def log_probability(v, top, log, scale):
    """``(x - m) * scale - log(1 + r)``: two numbers of one sign, so that nothing cancels."""
    high, rest = log
    z, tail = scaled(v - top, scale)
    return (z - high) - minus(rest, tail)


@by_type
def minus(rest, tail):
    """``rest - tail``, or `rest` where there is no tail."""
    if isinstance(tail, types.NoneType):
        return lambda rest, tail: rest
    # The tail of an infinite product is NaN and means nothing.
    return lambda rest, tail: rest - select(tail == tail, tail, full(tail, 0.0))


@inlined
def write_log_softmax(like, x, out, row, start, stop, top, log, scale):
    """The log-probabilities of ``x[row, start:stop]``."""
    w = width(like)
    j = start
    while j + w <= stop:
        v = load(like, x, (row, j), None, 0.0)
        store(out, (row, j), log_probability(v, top, log, scale), None)
        j += w
    if j < stop:
        v = load(like, x, (row, j), stop - j, 0.0)
        store(out, (row, j), log_probability(v, top, log, scale), stop - j)


# -- the state of a row ------------------------------------------------------------------------------------


@inlined
def nan_in(like, x, row, start, stop):
    """NaN if ``x[row, start:stop]`` holds one, else 0. Only rows with an infinite maximum ask."""
    w = width(like)
    found = full(like, 0.0)
    for j in range(start, stop, w):
        v = load(like, x, (row, j), stop - j, 0.0)
        found = select(v == v, found, v)
    s = found + rotate(found, 1) if w == 8 else found + rotate(found, 8)
    s = s + rotate(s, 4)
    s = s + rotate(s, 2)
    return scalar(s + rotate(s, 1))


@piece
def block_state(like, x, row, start, stop, scale):
    """The state ``(m, r, rest)`` of ``x[row, start:stop]``: ``sum(exp(x*scale)) = exp(m*scale) * (1 + r + rest)``."""
    top = row_top(like, x, row, start, stop)
    shape = frame(top, scale)
    total, rest, count = row_sum(like, x, None, top, row, start, stop, shape, scale)
    m = scalar(top)
    z, tail = scaled(m - scalar(shape[0]), scale)
    r, r_rest = others(count, total, rest, z, tail, scalar(shape[3]), shrink_of(like))
    if m - m != 0.0:
        return m, at_infinity(m, r, nan_in(like, x, row, start, stop)), 0.0
    return m, r, r_rest


@piece
def row_state(like, x, row, scale):
    """The state of a whole row: of its one block, or of its blocks merged in order."""
    n = x.shape[1]
    state = block_state(like, x, row, 0, n if n <= SHORT_ROW else BLOCK, scale)
    if n > SHORT_ROW:
        for start in range(BLOCK, n, BLOCK):
            state = merge(state, block_state(like, x, row, start, min(start + BLOCK, n), scale), scale)
    return state


@inlined
def softmax_factor(like, state, shape, scale):
    """What turns the terms of a row into its probabilities: ``1 / (exp(m) * (1 + r))``."""
    m, r, rest = state
    z, tail = scaled(m - scalar(shape[0]), scale)
    e, e_rest = top_term(z, tail, scalar(shape[3]))
    one, lost = two_sum(1.0, r)
    total, total_rest = pair_product(e, e_rest, one, lost + rest)
    q, q_rest = reciprocal(total, total_rest)
    shrink = shrink_of(like)
    return spread(like, q * shrink, q_rest * shrink)


# -- the work on a run of rows -----------------------------------------------------------------------------------------


@by_type
def terms_kept_in(out):
    """`out` if it can hold terms between two visits, None if it is of a half type."""
    if isinstance(out.dtype, HalfType):
        return lambda out: None
    return lambda out: out


@inlined
def softmax_one_by_one(x, out, first, last, scale):
    """The probabilities of rows of at most `SHORT_ROW` classes, each finished before the next."""
    n, like, kept = x.shape[1], lanes_of(x), terms_kept_in(out)
    for row in range(first, last):
        shape = frame(row_top(like, x, row, 0, n), scale)
        total, rest, _ = row_sum(like, x, kept, None, row, 0, n, shape, scale)
        high, low = spread(like, total, rest)
        factor = factor_of(high, low)
        if kept is None:
            write_softmax(like, x, out, row, 0, n, shape, scale, factor)
        else:
            scale_row(like, out, row, 0, factor)


@inlined
def softmax_pipelined(x, out, first, last, scale):
    """The same for at least three rows, of which several fit in the second cache.

    In one loop, row r is summed, r - 2 is written and the maximum of r + 2 is found: the loads and stores of two visits
    hide behind the arithmetic of the third, and folding sums and maxima to scalars, a chain of a hundred
    cycles for each row, has the time of a whole row to finish.
    """
    n, like = x.shape[1], lanes_of(x)
    shape = frame(row_top(like, x, first, 0, n), scale)
    shape_next = frame(row_top(like, x, min(first + 1, last - 1), 0, n), scale)
    factor = factor_before = spread(like, 1.0, 0.0)
    for row in range(first, last):
        ahead, behind = min(row + 2, last - 1), row - 2
        if behind >= first:
            total, rest, top = three_visits(like, x, out, row, ahead, behind, shape, scale, factor_before)
        else:
            total, rest, _ = row_sum(like, x, out, None, row, 0, n, shape, scale)
            top = row_top(like, x, ahead, 0, n)
        high, low = spread(like, total, rest)
        factor_before, factor = factor, factor_of(high, low)
        shape, shape_next = shape_next, frame(top, scale)
    scale_row(like, out, last - 2, 0, factor_before)
    scale_row(like, out, last - 1, 0, factor)


@inlined
def three_visits(like, x, out, row, ahead, behind, shape, scale, factor):
    """Sum `row`, find the maximum of `ahead`, write `behind`: `row_sum`, `row_top` and `scale_row` in step."""
    w, n = width(like), x.shape[1]
    q, q_rest = factor
    total = empty_sum()
    a = full(like, -np.inf)
    b, c, d = a, a, a
    j = 0
    while j + 4 * w <= n:
        e, _ = visit(like, x, out, None, row, j, None, shape, scale, 0)
        f, _ = visit(like, x, out, None, row, j + w, None, shape, scale, 0)
        g, _ = visit(like, x, out, None, row, j + 2 * w, None, shape, scale, 0)
        h, _ = visit(like, x, out, None, row, j + 3 * w, None, shape, scale, 0)
        total = add(total, (e + f) + (g + h))
        a = bigger(load(like, x, (ahead, j), None, 0.0), a)
        b = bigger(load(like, x, (ahead, j + w), None, 0.0), b)
        c = bigger(load(like, x, (ahead, j + 2 * w), None, 0.0), c)
        d = bigger(load(like, x, (ahead, j + 3 * w), None, 0.0), d)
        for k in range(4):
            e = load(like, out, (behind, j + k * w), None, 0.0)
            store(out, (behind, j + k * w), fma(e, q, e * q_rest), None)
        j += 4 * w
    total, _ = sum_tail(like, x, out, None, row, j, n, shape, scale, total, 0)
    a = top_tail(like, x, ahead, j, n, a)
    scale_row(like, out, behind, j, factor)
    number, rest = across(like, total)
    return number, rest, largest(bigger(bigger(a, b), bigger(c, d)))


@by_type
def softmax_short_rows(x, out, first, last, scale):
    """The probabilities of rows of at most `SHORT_ROW` classes, in whichever way is faster."""
    if isinstance(out.dtype, HalfType):  # which cannot keep terms
        return lambda x, out, first, last, scale: softmax_one_by_one(x, out, first, last, scale)

    def short(x, out, first, last, scale):
        if x.shape[1] > PIPELINED or last - first < 3:
            softmax_one_by_one(x, out, first, last, scale)
        else:
            softmax_pipelined(x, out, first, last, scale)

    return short


@piece
def softmax_rows(x, out, first, last, scale):
    like = lanes_of(x)
    if x.shape[1] <= SHORT_ROW:
        softmax_short_rows(x, out, first, last, scale)
        return
    for row in range(first, last):
        state = row_state(like, x, row, scale)
        shape = frame(full(like, state[0]), scale)
        factor = softmax_factor(like, state, shape, scale)
        write_softmax(like, x, out, row, 0, x.shape[1], shape, scale, factor)


@piece
def log_softmax_rows(x, out, first, last, scale):
    like = lanes_of(x)
    for row in range(first, last):
        m, r, rest = row_state(like, x, row, scale)
        log, log_rest = log_others(r, rest)
        factor = spread(like, log, log_rest)
        write_log_softmax(like, x, out, row, 0, x.shape[1], full(like, m), factor, scale)


@piece
def logsumexp_rows(x, out, first, last, scale):
    like = lanes_of(x)
    for row in range(first, last):
        m, r, rest = row_state(like, x, row, scale)
        total = refined(like, x, row, log_total(m, r, rest, scale), scale)
        store(out, (row, 0), full(like, total), 1)


# A log-sum-exp this near zero is the small difference of m and log(1 + r); the rounding of the terms shows.
NEAR_ZERO = 0.5


@by_type
def refined(like, x, row, total, scale):
    """A log-sum-exp near zero once more, from float64 terms where they were float32."""
    if like != f32x16:
        return lambda like, x, row, total, scale: total

    def again(like, x, row, total, scale):
        if -NEAR_ZERO < total < NEAR_ZERO:
            m, r, rest = row_state(doubles(0.0), x, row, scale)
            return log_total(m, r, rest, scale)
        return total

    return again
