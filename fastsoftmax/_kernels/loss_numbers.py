"""The numbers of a row of cross-entropy, scalars in rows, vectors in columns; `losses` has the formulas."""

from __future__ import annotations

from numba.core import types

from .elementary import exp_and_others, two_sum
from .jit import by_type, inlined
from .online import scaled, term
from .simd import VectorType, full, narrow, select, wide
from .state import factor_of_state, log_others, log_total, plus
from .visits import scalar


@by_type
def in_float64(x_t, v):
    """A vector like the logits in float64, lanes of columns or the one number of a row, as the target's logit is."""
    if isinstance(x_t, VectorType):
        return lambda x_t, v: wide(v)
    return lambda x_t, v: scalar(v)


@by_type
def as_logits(like, x_t):
    """The targets' logits as they were: the inverse of `in_float64`."""
    if isinstance(x_t, VectorType):
        return lambda like, x_t: narrow(like, x_t)
    return lambda like, x_t: full(like, x_t)


@by_type
def row_numbers(like, state, shape, x_t, w_t, smoothing, terms, scale):
    """The loss, the log-sum-exp, ``a`` and the target's entry of the gradient, all in float64.

    `shape` is the frame of the maximum, `smoothing` the sum of ``w * (m - x)``.
    """
    negative_log = short_negative_log if isinstance(state[2], types.NoneType) else exact_negative_log

    def numbers(like, state, shape, x_t, w_t, smoothing, terms, scale):
        hit, smooth, smooth_weight, z, _, _ = terms
        spread_out, _ = scaled(smoothing, scale)
        nll, p, others, log, lse = negative_log(like, state, shape, x_t, scale)
        share = hit * w_t
        penalty = z * w_t * lse
        loss = share * nll + (smooth * spread_out + smooth_weight * log) + penalty * lse
        a = share + smooth_weight + 2.0 * penalty
        return loss, lse, a, (a - share) * p - share * others - smooth * w_t

    return numbers


@inlined
def short_negative_log(like, state, shape, x_t, scale):
    """``-log p`` of the target, p, 1 - p, ``log(1 + r)`` and the log-sum-exp, from float32 logits.

    Their differences are exact. For the maximum 1 - p is ``r / (1 + r)``; any other p is at most 1/2, and what its
    term lost by rounding is nothing to 1 - p.
    """
    m, r, _ = state
    d = scaled(m - x_t, scale)[0] + (m - m)  # with an infinite maximum there is no loss
    log, _ = log_others(r, None)
    peak, lost = in_float64(x_t, shape.peak), in_float64(x_t, shape.lost)
    q, _ = factor_of_state(like, state, peak, lost)
    p = in_float64(x_t, term(as_logits(like, x_t), shape, scale)) * q
    others = select(d == 0.0, r * ((peak + lost) * q), 1.0 - p)
    return d + log, p, others, log, log_total(m, r, None, scale)


@inlined
def exact_negative_log(like, state, shape, x_t, scale):
    """The same from float64 logits."""
    m, r, rest = state
    log, log_rest = log_others(r, rest)
    nll, low = log_distance(m, log, log_rest, x_t, scale)
    nll = nll + (m - m)
    p, others, _ = exp_and_others(0.0 - nll, 0.0 - low)
    return nll, p, others, log, log_total(m, r, rest, scale)


@inlined
def log_distance(m, log, log_rest, x, scale):
    """``(m - x) * scale + log + log_rest``, rounded once, and what that lost."""
    distance, lost = two_sum(m, 0.0 - x)
    d, tail = scaled(distance, scale)
    nll, low = two_sum(d, log)
    low = plus((low + log_rest) + scaled(lost, scale)[0], tail)
    # With an infinity the rests are NaN and mean nothing.
    low = select(nll - nll == 0.0, low, full(x, 0.0))
    rounded = nll + low
    return rounded, select(nll - nll == 0.0, low - (rounded - nll), low)
