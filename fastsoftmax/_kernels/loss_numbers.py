"""The numbers of a row of cross-entropy, scalars in rows, vectors in columns; `losses` has the formulas."""

from __future__ import annotations

from numba.core import types

from .elementary import exp_and_others, exp_normal, two_sum
from .jit import by_type, inlined
from .online import scaled
from .simd import fma, full, select
from .state import inverse_of_state, log_others, log_total_pair, plus, product
from .sums import whole


@by_type
def row_numbers(state, x_t, w_t, smoothing, terms, scale):
    """The loss, the log-sum-exp, ``a`` and the target's entry of the gradient, all in float64.

    `smoothing` is the sum of ``w * (m - x)``.
    """
    negative_log = short_negative_log if isinstance(state[2], types.NoneType) else exact_negative_log

    def numbers(state, x_t, w_t, smoothing, terms, scale):
        missed, smooth, total_weight, z, _, _ = terms
        nll, p, others, log, lse = negative_log(state, x_t, scale)
        loss = loss_of(w_t, scaled(smoothing, scale), terms, nll, log, lse)
        share = (1.0 - missed) * w_t
        a = share + smooth * total_weight + 2.0 * z * w_t * lse[0]
        return loss, lse[0], a, (a - share) * p - share * others - smooth * w_t

    return numbers


@by_type
def loss_of(w_t, spread_out, terms, nll, log, lse):
    """``hit*w*nll + smooth*(spread_out + total_weight*log) + z*w*lse**2``, of numbers and what they lost.

    Each rounding of a float64 loss shows in it, so that this is rounded once; of float32 logits none does.
    """
    if isinstance(nll[1], types.NoneType):

        def plain(w_t, spread_out, terms, nll, log, lse):
            missed, smooth, total_weight, z, _, _ = terms
            smoothed = smooth * fma(total_weight, log[0], spread_out[0])
            return fma((1.0 - missed) * w_t, nll[0], fma(z * w_t * lse[0], lse[0], smoothed))

        return plain

    def in_pairs(w_t, spread_out, terms, nll, log, lse):
        missed, smooth, total_weight, z, _, _ = terms
        share, share_lost = product(*two_sum(1.0, 0.0 - missed), w_t, 0.0)
        loss, lost = product(share, share_lost, *nll)
        if smooth != 0.0:
            of_log, log_lost = product(total_weight, 0.0, *log)
            smoothed, smoothed_lost = two_sum(spread_out[0], of_log)
            smoothed_lost = plus(smoothed_lost + log_lost, spread_out[1])
            loss, lost = sum_of_pairs(loss, lost, *product(smooth, 0.0, smoothed, smoothed_lost))
        if z != 0.0:  # else the square of a huge one is no number
            loss, lost = sum_of_pairs(loss, lost, *penalty_of(z, w_t, lse))
        return whole(loss, lost)

    return in_pairs


@inlined
def sum_of_pairs(a, a_rest, b, b_rest):
    """The sum of two pairs, as a pair."""
    s, lost = two_sum(a, b)
    return s, lost + (a_rest + b_rest)


@inlined
def penalty_of(z, weight, lse):
    """``z * weight * lse**2`` as a pair, from the log-sum-exp as one."""
    return product(*product(z, 0.0, weight, 0.0), *product(*lse, *lse))


@inlined
def short_negative_log(state, x_t, scale):
    """``-log p`` of the target, p, 1 - p, ``log(1 + r)`` and the log-sum-exp, from float32 logits.

    Logarithms come with what they lost, here None. The differences of logits are exact. In a row of its own maximum,
    1 - p is ``r / (1 + r)``; any other p is at most 1/2.
    """
    m, r, _ = state
    d = scaled(m - x_t, scale)[0] + (m - m)  # with an infinite maximum there is no loss
    log, _ = log_others(r, None)
    p_top = inverse_of_state(state)
    p = p_top * exp_normal(0.0 - d)
    others = select(d == 0.0, r * p_top, 1.0 - p)
    return (d + log, None), p, others, (log, None), log_total_pair(m, r, None, scale)


@inlined
def exact_negative_log(state, x_t, scale):
    """The same from float64 logits, the logarithms as pairs."""
    m, r, rest = state
    log, log_rest = log_others(r, rest)
    nll, low = log_distance(m, log, log_rest, x_t, scale)
    nll = nll + (m - m)
    p, others, _ = exp_and_others(0.0 - nll, 0.0 - low)
    return (nll, low), p, others, (log, log_rest), log_total_pair(m, r, rest, scale)


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
