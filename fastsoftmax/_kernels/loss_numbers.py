"""The numbers of a row of cross-entropy, scalars in rows, vectors in columns; `losses` has the formulas."""

from __future__ import annotations

from numba.core import types

from .elementary import exp_and_others, exp_normal, two_sum
from .jit import by_type, inlined
from .online import scaled
from .simd import full, select
from .state import inverse_of_state, log_others, log_total, plus


@by_type
def row_numbers(state, x_t, w_t, smoothing, terms, scale):
    """The loss, the log-sum-exp, ``a`` and the target's entry of the gradient, all in float64.

    `smoothing` is the sum of ``w * (m - x)``.
    """
    negative_log = short_negative_log if isinstance(state[2], types.NoneType) else exact_negative_log

    def numbers(state, x_t, w_t, smoothing, terms, scale):
        hit, smooth, smooth_weight, z, _, _ = terms
        spread_out, _ = scaled(smoothing, scale)
        nll, p, others, log, lse = negative_log(state, x_t, scale)
        share = hit * w_t
        penalty = z * w_t * lse
        loss = share * nll + (smooth * spread_out + smooth_weight * log) + penalty * lse
        a = share + smooth_weight + 2.0 * penalty
        return loss, lse, a, (a - share) * p - share * others - smooth * w_t

    return numbers


@inlined
def short_negative_log(state, x_t, scale):
    """``-log p`` of the target, p, 1 - p, ``log(1 + r)`` and the log-sum-exp, from float32 logits.

    Their differences are exact. In a row of its own maximum, 1 - p is ``r / (1 + r)``; any other p is at most 1/2.
    """
    m, r, _ = state
    d = scaled(m - x_t, scale)[0] + (m - m)  # with an infinite maximum there is no loss
    log, _ = log_others(r, None)
    p_top = inverse_of_state(state)
    p = p_top * exp_normal(0.0 - d)
    others = select(d == 0.0, r * p_top, 1.0 - p)
    return d + log, p, others, log, log_total(m, r, None, scale)


@inlined
def exact_negative_log(state, x_t, scale):
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
    return rounded, select(rounded - rounded == 0.0, low - (rounded - nll), full(x, 0.0))
