"""``log|sum(b * exp(a))|`` and its sign, in float64: the log-sum-exp with weights of SciPy.

Weights of both signs may cancel, and no order of summation mends that, so the sum is carried with its rounding
errors and everything is float64, whatever the type of the logits.
"""

from __future__ import annotations

import numpy as np

from .elementary import log_pair, two_sum
from .jit import inlined, piece
from .maxima import row_top
from .memory import load, store
from .online import frame, term
from .row_states import nan_in
from .shuffles import any_lane
from .simd import doubles, fma, full, select, width
from .state import shrink_of
from .sums import across, add, empty_sum
from .visits import scalar

_LN2, _LN2_REST = 0.6931471805599453, 2.3190468138462996e-17


@piece
def weighted_rows(a, out, first, last, b):
    for row in range(first, last):
        weighted_row(a, out, row, b)


@piece
def weighted_row(a, out, row, b):
    """``out[row] = log|s|, sign(s)`` with ``s = sum(b[row] * exp(a[row]))``; a weight of 0 counts nothing."""
    like, n = doubles(0.0), a.shape[1]
    w = width(like)
    top = row_top(like, a, row, 0, n)
    m = scalar(top)
    if m - m != 0.0:
        log, sign = infinite(like, a, b, row, m)
        write_pair(out, row, log, sign)
        return
    shape = frame(top, None)
    total = empty_sum(like)
    j = 0
    while j < n:
        e = term(load(like, a, (row, j), n - j, -np.inf), shape, None)
        weight = load(like, b, (row, j), n - j, 0.0)
        total = add(total, weight * e)
        total = add(total, fma(weight, e, 0.0 - weight * e))
        j += w
    number, rest = across(like, total)
    number, rest = two_sum(number, rest)
    if number != number or number == 0.0:
        write_pair(out, row, -np.inf if number == 0.0 else number, number)
        return
    sign = 1.0 if number > 0.0 else -1.0
    shrink = shrink_of(like)
    log, log_rest = log_pair(abs(number) * shrink, sign * rest * shrink)
    # The terms were exp(a - shift) * 2**-k: put both back.
    k = scalar(shape.k)
    back, lost = two_sum(k * _LN2, scalar(shape.shift))
    lost += fma(k, _LN2, 0.0 - k * _LN2) + k * _LN2_REST
    s, lost_again = two_sum(back, log)
    write_pair(out, row, s + (lost_again + lost + log_rest), sign)


@inlined
def infinite(like, a, b, row, m):
    """The result where the maximum is infinite: what the weights of +inf sum to decides, as inf * b does."""
    nan = nan_in(like, a, row, 0, a.shape[1])
    if nan != nan:
        return nan, nan
    if m < 0.0:
        return m, 0.0
    positive = negative = False
    j, w = 0, width(like)
    while j < a.shape[1]:
        at_infinity = load(like, a, (row, j), a.shape[1] - j, 0.0) == np.inf
        weight = load(like, b, (row, j), a.shape[1] - j, 0.0)
        weight = select(at_infinity, weight, full(like, 0.0))
        positive |= any_lane(weight > 0.0)
        negative |= any_lane(weight < 0.0)
        j += w
    if positive == negative:  # inf - inf, or a weight that is NaN
        return np.nan, np.nan
    return np.inf, 1.0 if positive else -1.0


@inlined
def write_pair(out, row, log, sign):
    like = doubles(0.0)
    store(out, (row, 0), full(like, log), 1)
    store(out, (row, 1), full(like, sign), 1)
