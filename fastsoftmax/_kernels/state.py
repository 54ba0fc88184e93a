"""From sums to results: the state ``(m, r, rest)`` of a row or a block, its logarithm, its factor, and merging.

All in float64: scalars for a row, vectors for columns. Terms that are float32 themselves are worth one number each, r
without a `rest` (None); float64 terms are worth a pair.
"""

from __future__ import annotations

import numpy as np
from numba.core import types

from .elementary import (
    Exponential,
    constants_of,
    exp_near,
    exp_pair,
    exp_short,
    log1p_pair,
    log1p_short,
    power_of_two,
    two_sum,
)
from .jit import by_type, inlined
from .online import scaled
from .simd import bits, fma, full, is_single, select


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


@by_type
def with_tops(like, count, peak, lost, total, rest):
    """The sum of all terms as a pair, from how many are the maximum and the sum of the others.

    A `count` of 0 means that the maximum is in the sum already (see `online.left_out`). What its term lost is given
    back once, however many there are: equal logits then get equal shares to the last bit.
    """
    if is_single(like):
        return lambda like, count, peak, lost, total, rest: (fma(count, peak, total), lost)

    def pair(like, count, peak, lost, total, rest):
        p = count * peak
        s, s_rest = two_sum(p, total)
        return s, (s_rest + rest) + (lost + fma(count, peak, 0.0 - p))

    return pair


@by_type
def product(a, a_rest, b, b_rest):
    """``(a + a_rest) * (b + b_rest)`` as a pair, or as one number if `a` is one."""
    if isinstance(a_rest, types.NoneType):
        return lambda a, a_rest, b, b_rest: (a * b, None)
    return lambda a, a_rest, b, b_rest: pair_product(a, a_rest, b, b_rest)


@inlined
def pair_product(a, a_rest, b, b_rest):
    """The product of two pairs, as a pair."""
    p = a * b
    return p, fma(a, b, 0.0 - p) + (a * b_rest + a_rest * b)


@inlined
def top_term(z, tail, k):
    """The term of the maximum of float64 logits without headroom: ``exp(z + tail) * 2**-k`` as a pair."""
    t = exp_near(z, tail, k)
    e = t + 1.0
    return e, t - (e - 1.0)


def one_by_unit(c: Exponential) -> float:
    """What terms are to be multiplied by to be what they stand for: ``2**-headroom / unit``."""
    return 2.0**-c.headroom / c.unit


@by_type
def shrink_of(like):
    """The same for the type of `like`, in float64."""
    factor = one_by_unit(constants_of(like))
    return lambda like: factor


@by_type
def others(like, count, total, rest, z, tail, k):
    """The sum of ``exp(x - m)`` over all terms of a row but one that is the maximum m, as a pair.

    `count` terms equal the maximum, the sum of the others is ``total + rest``, `z`, `tail` and `k` are those of the
    maximum. Terms that are float32 themselves are worth no pair, and what a float64 `z` below 2**18 lost is nothing
    to them.
    """
    shrink = one_by_unit(constants_of(like))
    if is_single(like):
        return lambda like, count, total, rest, z, tail, k: (
            fma(total * shrink, exp_short(0.0 - z, 0.0 - k), count - 1.0),
            None,
        )

    def pair(like, count, total, rest, z, tail, k):
        e, e_rest = top_term(z, tail, k)
        total, rest = total * shrink, rest * shrink
        q = total / e
        q_rest = ((fma(0.0 - q, e, total) + rest) - q * e_rest) / e
        s, lost = two_sum(count - 1.0, q)
        return s, lost + q_rest

    return pair


@inlined
def at_infinity(m, r, nan):
    """`r`, or what stands for it where the maximum is infinite: a NaN if the row holds one, -1 for a row of -inf."""
    kind = select(m < 0.0, full(m, -1.0), full(m, 0.0))
    kind = select(nan == nan, kind, nan)
    return select(m - m == 0.0, r, kind)


@by_type
def finite_rest(m, rest):
    """The rest of r, or 0 where the maximum is infinite."""
    if isinstance(rest, types.NoneType):
        return lambda m, rest: None
    return lambda m, rest: select(m - m == 0.0, rest, full(m, 0.0))


@by_type
def log_others(r, rest):
    """``log(1 + r)`` as a pair, or as one number if `r` is one; 0 for the -1 of a row of -inf."""
    if isinstance(rest, types.NoneType):
        return lambda r, rest: (select(r == full(r, -1.0), full(r, 0.0), log1p_short(r)), None)

    def pair(r, rest):
        log, log_rest = log1p_pair(r, rest)
        empty = r == full(r, -1.0)
        return select(empty, full(r, 0.0), log), select(empty, full(r, 0.0), log_rest)

    return pair


@inlined
def log_total(m, r, rest, scale):
    """The log-sum-exp in float64: rounded once, or from a logarithm in float32's digits."""
    return log_total_pair(m, r, rest, scale)[0]


@by_type
def log_total_pair(m, r, rest, scale):
    """The log-sum-exp ``m * scale + log(1 + r)`` and what it lost: from a logarithm in float32's digits None."""
    if isinstance(rest, types.NoneType):
        return lambda m, r, rest, scale: (scaled(m, scale)[0] + log_others(r, rest)[0], None)

    def pair(m, r, rest, scale):
        z, tail = scaled(m, scale)
        log, log_rest = log_others(r, rest)
        s, lost = two_sum(z, log)
        # With an infinity the rounding errors are NaN, and the sum alone is right.
        lost = select(s - s == 0.0, plus(lost + log_rest, tail), full(m, 0.0))
        total = s + lost
        return total, lost - (total - s)

    return pair


@by_type
def plus(v, tail):
    """``v + tail``, or `v` where there is no tail."""
    if isinstance(tail, types.NoneType):
        return lambda v, tail: v
    return lambda v, tail: v + tail


@by_type
def factor_of_state(like, state, peak, lost):
    """What turns the terms of a row into its probabilities, ``1 / ((peak + lost) * (1 + r))``."""
    if is_single(like):
        return lambda like, state, peak, lost: ((1.0 / (peak + lost)) * inverse_of_state(state), None)

    def pair(like, state, peak, lost):
        _, r, rest = state
        one, low = two_sum(full(r, 1.0), r)
        return reciprocal(*pair_product(peak, lost, one, low + rest))

    return pair


@by_type
def factor_of_block(like, state, m, peak, lost, scale):
    """What turns the terms of a block of maximum `m`, whose term is ``peak + lost``, into probabilities of its row.

    A power of two, by which terms are to be multiplied first, and a pair: together they reach from 1 to 0, and the pair
    has no subnormal part. The product with the power is exact, for terms that would become subnormal by it have
    probabilities of less than the smallest number.
    """
    least = 1.0 - constants_of(like).bias

    def factor(like, state, m, peak, lost, scale):
        w, w_rest = weight_of_lower(state[0], m, scale)
        exponent = min(max(np.float64((bits(w) >> 52) - 1023), least), 0.0)
        back = power_of_two(0.0 - exponent)
        # A row with an infinite maximum has NaN for probabilities, whatever its blocks.
        w = w * back if state[0] - state[0] == 0.0 else state[0] - state[0]
        q, rest = factor_of_state(like, state, peak, lost)
        q, rest = product(q, rest, w, w_rest * back)
        return power_of_two(exponent), q, rest

    return factor


@inlined
def inverse_of_state(state):
    """``1 / (1 + r)``: the probability of the maximum."""
    return 1.0 / (1.0 + state[1])


@by_type
def merge(a, b, scale):
    """The state ``(m, r, rest)`` of two blocks from their states, all scalars."""
    if isinstance(a[2], types.NoneType):

        def one_number(a, b, scale):
            high, low = (a, b) if a[0] >= b[0] else (b, a)
            w, _ = weight_of_lower(high[0], low[0], scale)
            return high[0], fma(1.0 + low[1], w, high[1]), None

        return one_number

    def pair(a, b, scale):
        high, low = (a, b) if a[0] >= b[0] else (b, a)
        w, w_rest = weight_of_lower(high[0], low[0], scale)
        one, one_rest = two_sum(1.0, low[1])
        p, p_rest = pair_product(one, one_rest + low[2], w, w_rest)
        s, lost = two_sum(high[1], p)
        return high[0], s, lost + p_rest + high[2]

    return pair


@inlined
def weight_of_lower(high, low, scale):
    """``exp((low - high) * scale)`` as a pair, for the maxima of two blocks."""
    if low == high:
        return 1.0, 0.0
    distance, lost = two_sum(low, 0.0 - high)
    z, tail = scaled(distance, scale)
    z_lost, _ = scaled(select(lost == lost, lost, 0.0), scale)
    return exp_pair(z, plus(z_lost, tail))
