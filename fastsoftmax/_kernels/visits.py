"""The visits of a row of contiguous classes ``x[row, class]``: its maximum, its sum, what is written.

Vectors go four abreast, for a sum of four is what `online` defines and enough to fill the pipelines. What is left at
the end of a row goes one by one, with the lanes beyond it switched off.
"""

from __future__ import annotations

import numpy as np
from numba.core import types

from .jit import by_type, inlined
from .memory import load, store
from .online import across, add, bigger, empty_sum, scaled, term
from .simd import HalfType, abreast, fma, full, lane, part, rotate, select, width


@inlined
def scalar(v):
    """The first lane, in float64."""
    return np.float64(lane(v, 0))


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
def four_frames(shape):
    """The frame for four vectors in step."""
    return abreast(shape[0], 4), abreast(shape[1], 4), abreast(shape[2], 4), abreast(shape[3], 4), abreast(shape[4], 4)


@inlined
def visit4(like, x, out, top, row, j, shape, scale, total, tops):
    """Four vectors of terms, kept in `out` on the way and added to the sum."""
    v = load(abreast(like, 4), x, (row, j), None, 0.0)
    e = term(v, shape, scale)
    keep(out, (row, j), e, None)
    e, equal = without_top(v, top, e, full(e, 0.0))
    total = add(total, (part(e, 0, like) + part(e, 1, like)) + (part(e, 2, like) + part(e, 3, like)))
    return total, tops + ((part(equal, 0, like) + part(equal, 1, like)) + (part(equal, 2, like) + part(equal, 3, like)))


@inlined
def row_sum(like, x, out, top, row, start, stop, shape, scale):
    """The sum of the terms of ``x[row, start:stop]`` and, with a `top`, how many are it and not in the sum."""
    w = width(like)
    total, tops = empty_sum(like), full(like, 0.0)
    shape4, top4 = four_frames(shape), abreast(top, 4)
    j = start
    while j + 4 * w <= stop:
        total, tops = visit4(like, x, out, top4, row, j, shape4, scale, total, tops)
        j += 4 * w
    total, tops = sum_tail(like, x, out, top, row, j, stop, shape, scale, total, tops)
    number, rest = across(like, total)
    equal, _ = across(like, add(empty_sum(like), tops))
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
def scale_row(like, out, row, j, stop, factor):
    """Turn the terms kept in ``out[row, j:stop]`` into probabilities."""
    q, rest = factor
    w = width(like)
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


@by_type
def terms_kept_in(out):
    """`out` if it can hold terms between two visits, None if it is of a half type."""
    if isinstance(out.dtype, HalfType):
        return lambda out: None
    return lambda out: out


@inlined
def three_visits(like, x, kept, top, row, ahead, behind, shape, scale, factor):
    """Sum `row`, find the maximum of `ahead`, write `behind`: `row_sum`, `row_top` and `scale_row` in step.

    Without a `factor` nothing is written.
    """
    w, n = width(like), x.shape[1]
    total, tops = empty_sum(like), full(like, 0.0)
    shape4, top4, factor4 = four_frames(shape), abreast(top, 4), four_factors(factor)
    a = full(like, -np.inf)
    b, c, d = a, a, a
    j = 0
    while j + 4 * w <= n:
        total, tops = visit4(like, x, kept, top4, row, j, shape4, scale, total, tops)
        a = bigger(load(like, x, (ahead, j), None, 0.0), a)
        b = bigger(load(like, x, (ahead, j + w), None, 0.0), b)
        c = bigger(load(like, x, (ahead, j + 2 * w), None, 0.0), c)
        d = bigger(load(like, x, (ahead, j + 3 * w), None, 0.0), d)
        scale4(like, kept, behind, j, factor4)
        j += 4 * w
    total, tops = sum_tail(like, x, kept, top, row, j, n, shape, scale, total, tops)
    a = top_tail(like, x, ahead, j, n, a)
    scale_some(like, kept, behind, j, n, factor)
    number, rest = across(like, total)
    equal, _ = across(like, add(empty_sum(like), tops))
    return number, rest, equal, largest(bigger(bigger(a, b), bigger(c, d)))


@by_type
def four_factors(factor):
    """A factor for four vectors in step."""
    if isinstance(factor, types.NoneType):
        return lambda factor: None
    return lambda factor: (abreast(factor[0], 4), abreast(factor[1], 4))


@by_type
def scale4(like, out, row, j, factor):
    """Turn four vectors of terms into probabilities, or nothing without a factor."""
    if isinstance(factor, types.NoneType):
        return lambda like, out, row, j, factor: None

    def scale(like, out, row, j, factor):
        e = load(abreast(like, 4), out, (row, j), None, 0.0)
        store(out, (row, j), fma(e, factor[0], e * factor[1]), None)

    return scale


@by_type
def scale_some(like, out, row, start, stop, factor):
    """`scale_row` from `start` to `stop`, or nothing without a factor."""
    if isinstance(factor, types.NoneType):
        return lambda like, out, row, start, stop, factor: None
    return lambda like, out, row, start, stop, factor: scale_row(like, out, row, start, stop, factor)
