"""Classes on a strided axis: ``x[outer, class, inner]``, one row in each lane, no transpose.

Sums come in the order of `rows`: each lane keeps the partial sums that the lanes of a row would have held, in a
scratch array that stays in the first cache. `narrow` runs the same code on small transposed tiles.
"""

from __future__ import annotations

import numpy as np

from .jit import by_type, inlined, piece
from .memory import lanes_of, load, store, terms_in, view
from .online import (
    add,
    at_infinity,
    bigger,
    empty_sum,
    factor_of,
    frame,
    join,
    log_others,
    log_total,
    others,
    scaled,
    shrink_of,
    term,
)
from .rows import NEAR_ZERO, refined
from .simd import any_lane, doubles, f32x16, fma, full, half_of, lane, narrow, select, width
from .visits import keep, log_probability, terms_kept_in, without_top

# -- the visits of a vector of columns ---------------------------------------------------------------------


@inlined
def column_top(like, x, o, i, count):
    """The maximum of each of the columns that begin at ``x[o, :, i]``."""
    n = x.shape[1]
    a = full(like, -np.inf)
    b, c, d = a, a, a
    j = 0
    while j + 4 <= n:
        a = bigger(load(like, x, (o, j, i), count, 0.0), a)
        b = bigger(load(like, x, (o, j + 1, i), count, 0.0), b)
        c = bigger(load(like, x, (o, j + 2, i), count, 0.0), c)
        d = bigger(load(like, x, (o, j + 3, i), count, 0.0), d)
        j += 4
    while j < n:
        a = bigger(load(like, x, (o, j, i), count, 0.0), a)
        j += 1
    return bigger(bigger(a, b), bigger(c, d))


@inlined
def visit(like, x, out, top, o, j, i, count, shape, scale, tops):
    """The terms of one class, kept in `out` on the way."""
    v = load(like, x, (o, j, i), count, 0.0)
    e = term(v, shape, scale)
    keep(out, (o, j, i), e, count)
    return without_top(v, top, e, tops)


@inlined
def column_sum(like, x, out, top, o, i, count, shape, scale, sums):
    """The sums of the columns' terms and, with a `top`, how many are it and not in the sums: as `row_sum`."""
    n, w = x.shape[1], width(like)
    if n <= w:
        return few_sum(like, x, out, top, o, i, count, shape, scale, terms_in(like, sums))
    tops = full(like, 0.0)
    for group in range(0, n, 4 * w):
        for k in range(min(w, n - group)):
            j = group + k
            a, tops = visit(like, x, out, top, o, j, i, count, shape, scale, tops)
            b = c = d = full(like, 0.0)
            if j + w < n:
                b, tops = visit(like, x, out, top, o, j + w, i, count, shape, scale, tops)
            if j + 2 * w < n:
                c, tops = visit(like, x, out, top, o, j + 2 * w, i, count, shape, scale, tops)
            if j + 3 * w < n:
                d, tops = visit(like, x, out, top, o, j + 3 * w, i, count, shape, scale, tops)
            before = empty_sum() if group == 0 else load_sum(sums, k)
            store_sum(sums, k, add(before, (a + b) + (c + d)))
    return column_fold(like, sums, min(w, n)), tops


@inlined
def few_sum(like, x, out, top, o, i, count, shape, scale, terms):
    """The same for no more classes than lanes: their terms are folded from where they are kept, in registers."""
    n = x.shape[1]
    tops = full(like, 0.0)
    for j in range(n):
        e, tops = visit(like, x, out, top, o, j, i, count, shape, scale, tops)
        store(terms, (0, j, 0), e, None)
    return join(like, fold_by_2(like, terms, 0, n), fold_by_2(like, terms, 1, n)), tops


@inlined
def fold_by_2(like, terms, k, n):
    return join(like, fold_by_4(like, terms, k, n), fold_by_4(like, terms, k + 2, n))


@inlined
def fold_by_4(like, terms, k, n):
    return join(like, fold_by_8(like, terms, k, n), fold_by_8(like, terms, k + 4, n))


@by_type
def fold_by_8(like, terms, k, n):
    if like != f32x16:  # of eight lanes, which have no eighth neighbour
        return lambda like, terms, k, n: leaf(like, terms, k, n)
    return lambda like, terms, k, n: join(like, leaf(like, terms, k, n), leaf(like, terms, k + 8, n))


@inlined
def leaf(like, terms, k, n):
    """The term of class k as a sum of one; of none if there is no such class."""
    return add(empty_sum(), load(like, terms, (0, k, 0), None, 0.0)) if k < n else empty_sum()


@inlined
def column_fold(like, sums, present):
    """The partial sums of the columns folded by halves, as `across` folds lanes; absent ones are zero."""
    step = width(like) // 2
    while step:
        for k in range(min(step, present - step)):
            store_sum(sums, k, join(like, load_sum(sums, k), load_sum(sums, k + step)))
        step //= 2
    return load_sum(sums, 0)


@inlined
def load_sum(sums, k):
    like = doubles(0.0)
    return load(like, sums, (0, 2 * k, 0), None, 0.0), load(like, sums, (0, 2 * k + 1, 0), None, 0.0)


@inlined
def store_sum(sums, k, total):
    store(sums, (0, 2 * k, 0), total[0], None)
    store(sums, (0, 2 * k + 1, 0), total[1], None)


@inlined
def scale_columns(like, out, o, i, count, factor):
    """Turn the terms kept in ``out[o, :, i]`` into probabilities."""
    q, rest = factor
    for j in range(out.shape[1]):
        e = load(like, out, (o, j, i), count, 0.0)
        store(out, (o, j, i), fma(e, q, e * rest), count)


@inlined
def write_softmax(like, x, out, o, i, count, shape, scale, factor):
    """The probabilities of ``x[o, :, i]``, from x."""
    q, rest = factor
    for j in range(x.shape[1]):
        e = term(load(like, x, (o, j, i), count, 0.0), shape, scale)
        store(out, (o, j, i), fma(e, q, e * rest), count)


# -- from sums to results: float32 lanes have two float64 sides, float64 lanes one -------------------------


@by_type
def sides(like, v):
    """The lanes as float64 vectors."""
    if like == f32x16:
        return lambda like, v: (half_of(v, False), half_of(v, True))
    return lambda like, v: (v,)


@by_type
def lanes_pair(like, values, rests):
    """Pairs of float64 vectors, one a side, as a pair in the lanes' type."""
    if like != f32x16:
        return lambda like, values, rests: (values[0], rests[0])

    def both(like, values, rests):
        high = narrow(values[0], values[1])
        low = (values[0] - half_of(high, False)) + rests[0]
        up = (values[1] - half_of(high, True)) + rests[1]
        return high, narrow(low, up)

    return both


@by_type
def column_factor(like, total, lost):
    """What turns terms into probabilities, from their sum and what the term of the maximum lost."""
    if like != f32x16:
        return lambda like, total, lost: factor_of(total[0], total[1] + lost)

    def both(like, total, lost):
        high, low = lanes_pair(like, total, sides(like, lost))
        return factor_of(high, low)

    return both


@inlined
def side_state(like, total, rest, count, m, shift, k, nan, scale):
    """The state ``(m, r, rest)`` of eight columns: as `block_state` of rows."""
    z, tail = scaled(m - shift, scale)
    r, r_rest = others(count, total, rest, z, tail, k, shrink_of(like))
    return m, at_infinity(m, r, nan), select(m - m == 0.0, r_rest, full(m, 0.0))


@by_type
def states(like, total, tops, top, shape, nan, scale):
    """The states of the columns, one a side."""
    if like != f32x16:

        def one(like, total, tops, top, shape, nan, scale):
            return (side_state(like, total[0], total[1], tops, top, shape[0], shape[3], nan, scale),)

        return one

    def two(like, total, tops, top, shape, nan, scale):
        zero = doubles(0.0)
        count, m, shift = sides(like, tops), sides(like, top), sides(like, shape[0])
        k, bad = sides(like, shape[3]), sides(like, nan)
        return (
            side_state(like, total[0], zero, count[0], m[0], shift[0], k[0], bad[0], scale),
            side_state(like, total[1], zero, count[1], m[1], shift[1], k[1], bad[1], scale),
        )

    return two


@by_type
def column_logs(like, state):
    """``log(1 + r)`` of the columns, as a pair in the lanes' type."""
    if like != f32x16:
        return lambda like, state: log_others(state[0][1], state[0][2])

    def two(like, state):
        log, rest = log_others(state[0][1], state[0][2])
        log2, rest2 = log_others(state[1][1], state[1][2])
        return lanes_pair(like, (log, log2), (rest, rest2))

    return two


@by_type
def column_totals(like, state, scale):
    """The log-sum-exps of the columns in the lanes' type."""
    if like != f32x16:
        return lambda like, state, scale: log_total(state[0][0], state[0][1], state[0][2], scale)

    def two(like, state, scale):
        (m, r, rest), (m2, r2, rest2) = state
        return narrow(log_total(m, r, rest, scale), log_total(m2, r2, rest2, scale))

    return two


@inlined
def column_states(like, x, o, i, count, scale, sums):
    """The maxima of the columns and their states."""
    top = column_top(like, x, o, i, count)
    shape = frame(top, scale)
    total, tops = column_sum(like, x, None, top, o, i, count, shape, scale, sums)
    nan = full(like, 0.0)
    if any_lane(top - top != 0.0):
        for j in range(x.shape[1]):
            v = load(like, x, (o, j, i), count, 0.0)
            nan = select(v == v, nan, v)
    return top, states(like, total, tops, top, shape, nan, scale)


# -- the work on one vector of columns ---------------------------------------------------------------------


@piece
def softmax_columns(x, out, o, i, count, scale, sums):
    like = lanes_of(x)
    top = column_top(like, x, o, i, count)
    shape = frame(top, scale)
    kept = terms_kept_in(out)
    total, _ = column_sum(like, x, kept, None, o, i, count, shape, scale, sums)
    factor = column_factor(like, total, shape[4])
    if kept is None:
        write_softmax(like, x, out, o, i, count, shape, scale, factor)
    else:
        scale_columns(like, out, o, i, count, factor)


@piece
def log_softmax_columns(x, out, o, i, count, scale, sums):
    like = lanes_of(x)
    top, state = column_states(like, x, o, i, count, scale, sums)
    log = column_logs(like, state)
    for j in range(x.shape[1]):
        v = load(like, x, (o, j, i), count, 0.0)
        store(out, (o, j, i), log_probability(v, top, log, scale), count)


@piece
def logsumexp_columns(x, out, o, i, count, scale, sums):
    like = lanes_of(x)
    _, state = column_states(like, x, o, i, count, scale, sums)
    totals = column_totals(like, state, scale)
    store(out, (o, 0, i), totals, count)
    size = select(totals < 0.0, 0.0 - totals, totals)
    if any_lane(size < NEAR_ZERO):
        n = x.shape[1]
        row = row_scratch(like, n)
        for k in range(width(like) if count is None else count):
            if lane(size, k) < NEAR_ZERO:
                for j in range(n):
                    row[0, j] = lane(load(like, x, (o, j, i), count, 0.0), k)
                again = refined(like, view(row), 0, np.float64(lane(totals, k)), scale)
                store(out, (o, 0, i + k), full(like, again), 1)
        row[0, 0] = 0.0  # it lives until here: a view keeps nothing alive


@by_type
def row_scratch(like, n):
    """A row of n numbers of the lanes' type."""
    dtype = np.float32 if like == f32x16 else np.float64
    return lambda like, n: np.empty((1, n), dtype)
