"""The running state of a row, written once for every layout.

One row is one lane: `rows` reduces the lanes of one row to a scalar at the end, `columns` carries one row in
each lane throughout. The functions here take either, and the order of every sum is the same in both, which is
what makes a row's bits independent of the layout it came in:

* term j of a row goes to lane ``j % L`` (L = 16 for float32, 8 for float64);
* four terms of a lane, L apart, are added as ``(a + b) + (c + d)``: equal terms add without error;
* these go, in order, to the lane's sum: in float64 for float32 terms, with its rounding error kept
  (TwoSum) for float64 terms;
* the L sums of a row are folded by halves: lane i and i + L/2, and so on.

A row longer than `SHORT_ROW` has a state ``(m, r)`` for each of its blocks, with
``sum(exp(x)) = exp(m) * (1 + r)``, merged in order (Milakov & Gimelshein, arXiv:1805.02867). Keeping the
largest term out of `r` keeps the digits of a log-probability near zero (scipy#18295).
"""

from __future__ import annotations

from numba.core import types

from .elementary import (
    DOUBLE,
    SINGLE,
    constants_of,
    exp_near,
    exp_pair,
    log1p_pair,
    nearest_exponent,
    two_sum,
)
from .jit import by_type, inlined
from .shuffles import lane, part, rotate
from .simd import doubles, fma, from_bits, full, is_single, select, wide

# From here on m itself is taken out of x: x - m is then exact for every x whose term counts (Sterbenz), while
# the whole number nearest x / ln 2 would soon have no place left in the mantissa.
FAR = 2.0**20
LN2 = 0.6931471805599453


@inlined
def bigger(a, b):
    """The larger of two; `b` where `a` is NaN. A NaN in a row is found by its sum, not by its maximum."""
    return select(a > b, a, b)


# -- the terms of a row ------------------------------------------------------------------------------------


@by_type
def scaled(v, scale):
    """``v * scale`` and what its rounding lost; ``(v, None)`` without a scale.

    A scale is one number as two pairs, ``(high, rest, high, rest)``: the first in float32, the second in float64.
    """
    if isinstance(scale, types.NoneType):
        return lambda v, scale: (v, None)
    place = 0 if is_single(v) else 2

    def product(v, scale):
        z = v * scale[place]
        return z, fma(v, scale[place + 1], fma(v, scale[place], 0.0 - z))

    return product


@by_type
def zero_exponent(like):
    """The exponent, relative to that of the maximum, at which a term's factor has no bit left and is 0."""
    c = constants_of(like)
    least = -float(c.bias + c.headroom)
    return lambda like: least


@by_type
def two_to_headroom(like):
    """``2**headroom``."""
    power = 2.0 ** constants_of(like).headroom
    return lambda like: power


@by_type
def factor_of_top(exponent):
    """The bits of ``2**headroom``, less those of the exponent of the maximum."""
    c = SINGLE if is_single(exponent) else DOUBLE
    pattern = (c.bias + c.headroom) << c.mantissa
    return lambda exponent: pattern - exponent


@by_type
def unscaled(z, scale):
    """``z / scale``."""
    if isinstance(scale, types.NoneType):
        return lambda z, scale: z
    return lambda z, scale: z * (1.0 / scale[2])


@inlined
def frame(top, scale):
    """What turns x into terms, from the row's maximum: the shift, the floor, the factor's bits, k, and what is lost.

    A term is ``exp((x - shift) * scale) * 2**(headroom - k)``, with k the exponent of the maximum itself. At the
    floor, the middle of the interval that rounds to the exponent of no bits, a term is exactly 0. What the term of
    the maximum loses when it is rounded is given apart: where that term is most of the sum, it is most of the
    sum's error.
    """
    z, _ = scaled(top, scale)
    size = select(z < 0.0, 0.0 - z, z)
    shift = select(size < FAR, full(top, 0.0), top)
    z, tail = scaled(top - shift, scale)
    k, exponent = nearest_exponent(z)
    floor = unscaled((k + zero_exponent(top)) * LN2, scale)
    t = exp_near(z, tail, k)
    lost = (t - ((t + 1.0) - 1.0)) * two_to_headroom(top)
    return shift, floor, factor_of_top(exponent), k, lost


@inlined
def term(x, frame, scale):
    """The lanes of x as terms; exactly 0 from the floor down, so that -inf and absent lanes leave no trace."""
    shift, floor, factor, _, _ = frame
    v = x - shift
    z, tail = scaled(select(v < floor, floor, v), scale)
    k, exponent = nearest_exponent(z)
    scale_of_term = from_bits(exponent + factor)
    return fma(exp_near(z, tail, k), scale_of_term, scale_of_term)


# -- sums of terms -----------------------------------------------------------------------------------------


@by_type
def empty_sum(like):
    """A sum of terms like `like`: float64 lanes and their rest, which float32 terms do without."""
    if is_single(like):
        return lambda like: (full(wide(like), 0.0), 0.0)
    return lambda like: (full(like, 0.0), full(like, 0.0))


@by_type
def add(total, terms):
    """The sum with a vector of terms added lane by lane."""
    if is_single(terms):
        return lambda total, terms: (total[0] + wide(terms), 0.0)

    def compensated(total, terms):
        s, lost = two_sum(total[0], terms)
        return s, total[1] + lost

    return compensated


@by_type
def add_wide(like, total, v):
    """A sum of terms like `like` with float64 lanes added."""
    if is_single(like):
        return lambda like, total, v: (total[0] + v, 0.0)
    return lambda like, total, v: add(total, v)


@by_type
def join(like, a, b):
    """Two sums added lane by lane."""
    if is_single(like):
        return lambda like, a, b: (a[0] + b[0], 0.0)

    def compensated(like, a, b):
        s, lost = two_sum(a[0], b[0])
        return s, (a[1] + b[1]) + lost

    return compensated


@by_type
def swapped(like, total, by):
    """A sum with its lanes exchanged at a distance."""
    if is_single(like):
        return lambda like, total, by: (rotate(total[0], by), 0.0)
    return lambda like, total, by: (rotate(total[0], by), rotate(total[1], by))


@by_type
def across(like, total):
    """The lanes of a sum folded by halves to a float64 number and its rest."""
    if is_single(like):

        def halves(like, total):
            s = part(total[0], 0, doubles(0.0)) + part(total[0], 1, doubles(0.0))
            s = s + rotate(s, 4)
            s = s + rotate(s, 2)
            return lane(s + rotate(s, 1), 0), 0.0

        return halves

    def compensated(like, total):
        s = join(like, total, swapped(like, total, 4))
        s = join(like, s, swapped(like, s, 2))
        s = join(like, s, swapped(like, s, 1))
        return lane(s[0], 0), lane(s[1], 0)

    return compensated


@inlined
def whole(total, rest):
    """A sum and its rest as one number; with an infinity the rest is NaN and means nothing."""
    return select(total - total == 0.0, total + rest, total)


# -- from sums to results, in float64: scalars for a row, vectors for columns ------------------------------


@inlined
def reciprocal(total, rest):
    """``1 / (total + rest)`` as a pair."""
    total, rest = two_sum(total, rest)
    q = 1.0 / total
    return q, (fma(0.0 - q, total, 1.0) - q * rest) * q


@by_type
def factor_of(total, rest):
    """``1 / (total + rest)`` as a pair, from a pair of lanes: float32 lanes need no more than float32 division."""
    if not is_single(total):
        return lambda total, rest: reciprocal(total, rest)

    def single(total, rest):
        q = 1.0 / total
        return q, q * (fma(0.0 - q, total, 1.0) - q * rest)

    return single


@inlined
def pair_product(a, a_rest, b, b_rest):
    """The product of two pairs, as a pair."""
    p = a * b
    return p, fma(a, b, 0.0 - p) + (a * b_rest + a_rest * b)


@inlined
def top_term(z, tail, k):
    """The term of the maximum without its headroom: ``exp(z + tail) * 2**-k`` as a pair."""
    t = exp_near(z, tail, k)
    e = t + 1.0
    return e, t - (e - 1.0)


@inlined
def others(count, total, rest, z, tail, k, shrink):
    """The sum of ``exp(x - m)`` over all terms of a row but one that is the maximum m, as a pair.

    `count` terms equal the maximum, the sum of the others is ``(total + rest) / shrink``; shrink is 2**-headroom.
    """
    e, e_rest = top_term(z, tail, k)
    total, rest = total * shrink, rest * shrink
    q = total / e
    q_rest = ((fma(0.0 - q, e, total) + rest) - q * e_rest) / e
    s, lost = two_sum(count - 1.0, q)
    return s, lost + q_rest


@by_type
def shrink_of(like):
    """``2**-headroom`` in float64."""
    factor = 2.0 ** -constants_of(like).headroom
    return lambda like: factor


@inlined
def at_infinity(m, r, nan):
    """`r`, or what stands for it where the maximum is infinite: a NaN if the row holds one, -1 for a row of -inf."""
    kind = select(m < 0.0, full(m, -1.0), full(m, 0.0))
    kind = select(nan == nan, kind, nan)
    return select(m - m == 0.0, r, kind)


@inlined
def log_others(r, rest):
    """``log(1 + r)`` as a pair; 0 for the -1 of a row of -inf."""
    log, log_rest = log1p_pair(r, rest)
    empty = r == full(r, -1.0)
    return select(empty, full(r, 0.0), log), select(empty, full(r, 0.0), log_rest)


@inlined
def log_total(m, r, rest, scale):
    """The log-sum-exp ``m * scale + log(1 + r)``, rounded once to float64."""
    z, tail = scaled(m, scale)
    log, log_rest = log_others(r, rest)
    s, lost = two_sum(z, log)
    # With an infinity the rounding errors are NaN, and the sum alone is right.
    return select(m - m == 0.0, plus(s + (lost + log_rest), tail), s)


@by_type
def plus(v, tail):
    """``v + tail``, or `v` where there is no tail."""
    if isinstance(tail, types.NoneType):
        return lambda v, tail: v
    return lambda v, tail: v + tail


@inlined
def factor_of_state(like, state, shift, k, scale):
    """What turns the terms of a row into its probabilities, ``2**-headroom / (exp(m) * (1 + r))``, as a pair."""
    m, r, rest = state
    z, tail = scaled(m - shift, scale)
    e, e_rest = top_term(z, tail, k)
    one, lost = two_sum(full(m, 1.0), r)
    total, total_rest = pair_product(e, e_rest, one, lost + rest)
    q, q_rest = reciprocal(total, total_rest)
    return q * shrink_of(like), q_rest * shrink_of(like)


@inlined
def merge(a, b, scale):
    """The state ``(m, r, rest)`` of two blocks from their states, all scalars."""
    high, low = (a, b) if a[0] >= b[0] else (b, a)
    if low[0] == high[0]:
        w, w_rest = 1.0, 0.0
    else:
        distance, lost = two_sum(low[0], 0.0 - high[0])
        z, tail = scaled(distance, scale)
        z_lost, _ = scaled(select(lost == lost, lost, 0.0), scale)
        w, w_rest = exp_pair(z, plus(z_lost, tail))
    one, one_rest = two_sum(1.0, low[1])
    p, p_rest = pair_product(one, one_rest + low[2], w, w_rest)
    s, lost = two_sum(high[1], p)
    return high[0], s, lost + p_rest + high[2]
