"""Cross-entropy with a distribution for a target, focal loss and capped logits: float64 rows of a block.

With ``a = w * (hit*y + smooth)`` for a target distribution y, p the probabilities and g the focal exponent:

    loss      = sum(a * (1 - p)**g * nll) + z*mass*lse**2,            nll = -log p
    dloss/dx  = h - p * (sum(h) - 2*z*mass*lse),                      h = -a * (1 - p)**g * (1 + g*p*nll/(1 - p))

(Focal loss: Lin et al., arXiv:1708.02002.) With g = 0 that is plain cross-entropy. `table` holds the mass of each row
on entry, negative if the row is ignored, and its loss on return; `more` is as in `losses`.
"""

from __future__ import annotations

import numpy as np

from .elementary import exp_and_others, exp_pair, log_pair, two_sum
from .jit import inlined, piece
from .loss_numbers import log_distance, penalty_of, sum_of_pairs
from .losses import weighed
from .memory import load, number, put, store
from .objects import extent, seen_as
from .row_states import row_state
from .simd import doubles, fma, full, select, width
from .state import log_others, log_total_pair, product
from .sums import Exact, across, add, empty_sum, exact_sum, whole
from .views import view


@inlined
def shares(like, y, weights, row, j, count, terms):
    """``a = w * (hit*y + smooth)`` of the classes from `j` on as pairs; 0 in absent lanes, which have no weight."""
    share, rest = load(like, y, (row, j), count, 0.0), full(like, 0.0)
    if terms[0] != 0.0:
        share, rest = product(*two_sum(1.0, 0.0 - terms[0]), share, rest)
        share, lost = two_sum(share, full(like, terms[1]))
        rest = rest + lost
    return weighed(Exact(share, rest), weights, j, count)


@inlined
def focal(nll, p, others, others_rest, gamma):
    """``(1 - p)**g`` and ``p*nll/(1 - p)``, whose limits at p = 1 are 0 and 1.

    What 1 - p and g times its logarithm lost by rounding are as many ulp of the power as g and that logarithm say.
    """
    sure, zero = others == 0.0, full(nll, 0.0)
    inside = select(sure, full(nll, 1.0), others)
    log, log_rest = log_pair(inside, select(sure, zero, others_rest))
    exponent = gamma * log
    exponent_rest = fma(gamma, log_rest, fma(gamma, log, 0.0 - exponent))
    power, _ = exp_pair(select(sure, full(nll, -1e9), exponent), select(sure, zero, exponent_rest))
    ratio = select(p == 0.0, full(nll, 0.0), p * nll / inside)
    return power, select(sure, full(nll, 1.0), ratio)


@inlined
def parts(like, x, y, weights, row, j, count, of_row, terms, scale):
    """``a * (1 - p)**g * nll``, h, p and 1 - p of the classes from `j` on; `of_row` are m and the logarithm pair.

    The first, which is to be summed, comes as an exact sum of one, but for what the focal power lost.
    """
    a, a_rest = shares(like, y, weights, row, j, count, terms)
    m, log, log_rest = of_row
    v = load(like, x, (row, j), count, -np.inf)
    nll, low = log_distance(full(like, m), full(like, log), log_rest, v, scale)
    p, others, others_rest = exp_and_others(0.0 - nll, 0.0 - low)
    h, (value, lost) = 0.0 - a, product(a, a_rest, nll, low)
    if terms[5] > 0.0:
        power, ratio = focal(nll, p, others, others_rest, terms[5])
        h, value, lost = h * power * (1.0 + terms[5] * ratio), value * power, lost * power
    nothing = a == 0.0  # also where nll is infinite, as it is in absent lanes
    zero = full(like, 0.0)
    return Exact(select(nothing, zero, value), select(nothing, zero, lost)), select(nothing, zero, h), p, others


@piece
def soft_row(x, y, table, more, weights, terms, scale, row, gradient):
    """The loss of a row and, with `gradient`, its gradient in the place of its logits."""
    like, n = doubles(0.0), x.shape[1]
    w, mass = width(like), number(table, (row, 0))
    m, r, r_rest = row_state(like, x, None, None, row, scale, exact_sum(like))
    of_row = m, *log_others(r, r_rest)
    lse = log_total_pair(m, r, r_rest, scale)
    factor = terms[4] if more.shape[0] == 0 else number(more, (row, 0))
    if more.shape[0]:
        put(more, (row, 0), lse[0])
    ignored = mass < 0.0
    loss, slopes = empty_sum(like), empty_sum(like)
    for j in range(0, n, w):
        value, h, _, _ = parts(like, x, y, weights, row, j, n - j, of_row, terms, scale)
        loss, slopes = add(loss, value), add(slopes, h)
    total, rest = across(like, loss)
    if terms[3] != 0.0:  # else the square of a huge one is no number
        total, rest = sum_of_pairs(total, rest, *penalty_of(terms[3], max(mass, 0.0), lse))
    put(table, (row, 0), 0.0 if ignored else whole(total, rest) + (m - m))
    if gradient:
        total, rest = across(like, slopes)
        pull = (total + rest) - 2.0 * terms[3] * max(mass, 0.0) * lse[0]
        for j in range(0, n, w):
            _, h, p, others = parts(like, x, y, weights, row, j, n - j, of_row, terms, scale)
            # h - p*pull, without the difference of two equal numbers where p is near 1.
            g = (h * others - p * (pull - h)) * factor + (m - m)
            store(x, (row, j), full(like, 0.0) if ignored else g, n - j)


def soft_rows(x, y, table, more, weights, terms, scale, gradient):
    """The losses of rows of logits with targets y; with `gradient` that is written in the place of the logits.

    The temperature is not divided by beforehand: of a logit far below the maximum that would round off what its term,
    and a loss near zero, is made of.
    """
    for row in range(x.shape[0]):
        soft_row(view(x), view(y), view(table), view(more), view(weights), terms, scale, row, gradient != 0)


def cap_rows(x, slope, cap):
    """``x = cap * tanh(x/cap)``, with its derivative in `slope`."""
    like, logits, slopes = doubles(0.0), view(x), view(slope)
    for row in range(x.shape[0]):
        for j in range(0, x.shape[1], width(like)):
            v = load(like, logits, (row, j), x.shape[1] - j, 0.0)
            size = select(v < 0.0, 0.0 - v, v)
            # With e = exp(-2|x|/cap): tanh is (1 - e)/(1 + e), its derivative 4e/(1 + e)**2.
            e, others, _ = exp_and_others((size / cap[0]) * -2.0, full(like, 0.0))
            t = others / (e + 1.0) * cap[0]
            store(logits, (row, j), select(v < 0.0, 0.0 - t, t), x.shape[1] - j)
            store(slopes, (row, j), 4.0 * e / ((e + 1.0) * (e + 1.0)), x.shape[1] - j)


def sum_numbers(values):
    """The sum of a column of numbers, with the rounding errors added up as well; of an array object (see `objects`)."""
    return column_total(seen_as(values, (extent(values, 0), 1)))


@inlined
def column_total(numbers):
    like, n = doubles(0.0), numbers.shape[0]
    total, left = empty_sum(like), n % width(like)
    for j in range(0, n - left, width(like)):
        total = add(total, load(like, numbers, (0, j), None, 0.0))
    if left:
        total = add(total, load(like, numbers, (0, n - left), left, 0.0))
    s, rest = across(like, total)
    return whole(s, rest)
