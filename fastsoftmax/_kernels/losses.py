"""Cross-entropy with class indices: a row's loss and its gradient, from the running state of softmax.

With t the target, w the class weights, p the probabilities and ``nll[c] = -log p[c]``:

    loss        = hit*w[t]*nll[t] + smooth*sum(w*nll) + z*w[t]*lse**2
    dloss/dx[c] = a*p[c] - smooth*w[c] - (hit*w[t] if c == t)
    a           = hit*w[t] + smooth*sum(w) + 2*z*w[t]*lse

(Smoothing: Szegedy et al., arXiv:1512.00567, spread as PyTorch does.) All that is linear in p is folded into a few
numbers of the row, so that one short loop writes every gradient. The target's own entry is ``-(1 - p[t])`` in the plain
case and is computed as such, in float64, from the log-probability: no digit is lost where p is near 1.

What kernels take besides logits (`extra`) is a tuple, ``(table, more, weights, *terms, *scale)``:

* ``table``, for each row: the class index, negative if the row is ignored, on entry; the loss on return;
* ``more``, for each row or empty: what its gradient is multiplied by, on entry; its log-sum-exp on return;
* ``weights``, for each class or empty;
* ``terms``: hit, smooth, smooth*sum(w), z, what gradients are multiplied by where ``more`` is empty, and the focal
  exponent, which `soft_targets` alone knows;
* ``scale``: 1/temperature, as everywhere.
"""

from __future__ import annotations

import numpy as np
from numba.core import types

from .elementary import exp_and_rest, two_sum
from .jit import by_type, inlined, piece
from .lengths import SHORT_ROW
from .memory import lanes_of, load, number, put, store
from .online import (
    across,
    add_wide,
    empty_sum,
    factor_of_state,
    frame,
    log_others,
    log_total,
    pair_product,
    plus,
    scaled,
    term,
    whole,
)
from .rows import nan_of, row_state, state_of_sums, worth_pipelining
from .shuffles import repeated
from .simd import HalfType, fma, full, narrow, select, wide, width
from .visits import (
    along,
    probability,
    repeated_frame,
    row_sum,
    row_top,
    scalar,
    scale_row,
    spread,
    terms_kept_in,
    three_visits,
)


def read_labels(labels, table, classes, ignored):
    """Read each label once: to the table, or -1 for the ignored.

    Gives the row of the first bad one, or -1, that label, and how many rows count.
    """
    bad, wrong, count = -1, 0, 0
    for row in range(labels.shape[0]):
        label = labels[row]
        if label == ignored:
            table[row, 0] = -1.0
        else:
            table[row, 0] = label
            count += 1
            if bad < 0 and (label < 0 or label >= classes):
                bad, wrong = row, label
    return bad, wrong, count


@by_type
def opened(extra):
    """``(table, more, weights, terms, scale)``."""
    if len(extra) == 9:
        return lambda extra: (extra[0], extra[1], extra[2], extra[3:9], None)
    return lambda extra: (extra[0], extra[1], extra[2], extra[3:9], extra[9:13])


# -- the numbers of a row: scalars in rows, vectors in columns ---------------------------------------------


@inlined
def row_numbers(state, x_t, w_t, smoothing, terms, scale):
    """The loss, the log-sum-exp, ``a`` and the target's entry of the gradient, all in float64.

    `smoothing` is the sum of ``w * (m - x)``.
    """
    m, r, rest = state
    hit, smooth, smooth_weight, z, _, _ = terms
    distance, lost = two_sum(m, 0.0 - x_t)
    d, tail = scaled(distance, scale)
    spread_out, _ = scaled(smoothing, scale)
    log, log_rest = log_others(r, rest)
    nll, low = two_sum(d, log)
    low = plus((low + log_rest) + scaled(lost, scale)[0], tail)
    # With an infinity the rests are NaN and mean nothing; with an infinite maximum there is no loss.
    low = select(nll - nll == 0.0, low, full(m, 0.0))
    nll = (nll + low) + (m - m)
    lse = log_total(m, r, rest, scale)
    p, others = exp_and_rest(0.0 - nll)
    share = hit * w_t
    penalty = z * w_t * lse
    loss = share * nll + (smooth * spread_out + smooth_weight * log) + penalty * lse
    a = share + smooth_weight + 2.0 * penalty
    return loss, lse, a, (a - share) * p - share * others - smooth * w_t


@inlined
def smoothing_sum(like, x, row, m, weights, smooth):
    """The sum of ``w * (m - x)`` over a row, in the order of `online`; 0 without smoothing."""
    total = empty_sum(like)
    n, w = x.shape[1], width(like)
    if smooth == 0.0:
        return 0.0
    for j in range(0, n, w):
        v = wide(load(like, x, (row, j), n - j, m))
        total = add_wide(like, total, weighed(m - v, weights, j, n - j))
    s, rest = across(like, total)
    return whole(s, rest)


@inlined
def weighed(v, weights, j, count):
    """Float64 lanes of classes from `j` on times their weights; a weight of 0 counts nothing."""
    if weights.shape[0] == 0:
        return v
    w = load(v, weights, (j,), count, 0.0)
    return select(w == 0.0, full(v, 0.0), w * v)


# -- rows --------------------------------------------------------------------------------------------------


@by_type
def term_at(like, x, kept, row, j, count, shape, scale):
    """Terms from where they were kept, or from x once more."""
    if isinstance(kept, types.NoneType):

        def again(like, x, kept, row, j, count, shape, scale):
            return term(load(like, x, (row, j), count, 0.0), repeated_frame(shape, like), scale)

        return again
    return lambda like, x, kept, row, j, count, shape, scale: load(like, kept, (row, j), count, 0.0)


@inlined
def gradient_at(like, x, out, row, j, count, more):
    """``a * p - smooth``."""
    kept, shape, scale, factor, _, _ = more
    e = term_at(like, x, kept, row, j, count, shape, scale)
    store(out, (row, j), probability(like, e, factor), count)


@inlined
def weighted_gradient_at(like, x, out, row, j, count, more):
    """``a * p - smooth * w``."""
    kept, shape, scale, factor, weights, smooth = more
    e = term_at(like, x, kept, row, j, count, shape, scale)
    b = narrow(like, load(wide(like), weights, (j,), count, 0.0) * (0.0 - smooth))
    g = fma(e, repeated(factor[0], like), fma(e, repeated(factor[1], like), b))
    store(out, (row, j), g, count)


write_plain, write_weighted = along(gradient_at), along(weighted_gradient_at)


@inlined
def gradient_factor(like, state, shape, a, smooth, scale):
    """What turns terms into ``a * p - smooth``: a pair and what is added."""
    q, rest = factor_of_state(like, state, scalar(shape[0]), scalar(shape[3]), scale)
    product, lost = pair_product(q, rest, a, 0.0)
    high, low = spread(like, product, lost)
    return high, low, full(like, 0.0 - smooth)


@inlined
def write_gradient(like, x, out, kept, row, start, stop, state, shape, a, smooth, weights, scale):
    """The gradient of ``x[row, start:stop]`` but for the target's entry; `a` and `smooth` times the row's factor."""
    factor = gradient_factor(like, state, shape, a, smooth, scale)
    more = kept, shape, scale, factor, weights, smooth
    if weights.shape[0] == 0 or smooth == 0.0:
        write_plain(like, x, out, row, start, stop, more)
    else:
        write_weighted(like, x, out, row, start, stop, more)


@inlined
def zero_at(like, x, out, row, j, count, more):
    store(out, (row, j), full(like, 0.0), count)


write_zeros = along(zero_at)


@inlined
def weight_of(weights, label):
    return 1.0 if weights.shape[0] == 0 else number(weights, (label,))


@inlined
def factor_at(more, terms, index):
    return terms[4] if more.shape[0] == 0 else number(more, index)


@inlined
def settle(row, state, x_t, smoothing, extra):
    """Note the loss and the log-sum-exp of a row; its label and, times its factor, what its gradient is made of."""
    table, more, weights, terms, scale = opened(extra)
    label = np.int64(number(table, (row, 0)))
    w_t = weight_of(weights, max(label, 0))
    loss, lse, a, at_target = row_numbers(state, x_t, w_t, smoothing, terms, scale)
    factor = factor_at(more, terms, (row, 0))
    put(table, (row, 0), loss if label >= 0 else 0.0)
    if more.shape[0]:
        put(more, (row, 0), lse)
    return label, a * factor, terms[1] * factor, at_target * factor


@inlined
def no_gradient(like, x, out, kept, row, state, shape, numbers, extra):
    return None


@inlined
def whole_gradient(like, x, out, kept, row, state, shape, numbers, extra):
    _, _, weights, _, scale = opened(extra)
    label, a, smooth, at_target = numbers
    n = x.shape[1]
    if label < 0:
        write_zeros(like, x, out, row, 0, n, None)
    else:
        write_gradient(like, x, out, kept, row, 0, n, state, shape, a, smooth, weights, scale)
        put(out, (row, label), at_target)


@inlined
def nowhere(out):
    return None


@inlined
def target_logit(x, row, label):
    """The logit of a class, or of the first one for a negative `label`."""
    return number(x, (row, max(np.int64(label), 0)))


@inlined
def no_zeros(like, x, out, row, start, stop, more):
    return None


@inlined
def run_in_step(x, out, row, last, extra, next_row):
    """Gradients without class weights, of rows that fit in cache: one is written while the next is summed.

    So the numbers of a row, a chain of some hundred cycles, have the time of a row to finish.
    """
    like, n = lanes_of(x), x.shape[1]
    table, _, weights, terms, scale = opened(extra)
    top = row_top(like, x, min(row, last - 1), 0, n)
    factor, entry = (full(like, 0.0), full(like, 0.0), full(like, 0.0)), 0.0
    behind, target = -1, np.int64(0)
    while row < last:
        ahead = next_row(x, out, row + 1, last, extra)
        x_t = target_logit(x, row, number(table, (row, 0)))
        smoothing = smoothing_sum(like, x, row, scalar(top), weights, terms[1])
        nan = nan_of(like, x, row, 0, n, scalar(top))
        shape, nearest = frame(top, scale), min(ahead, last - 1)
        if behind >= 0:
            total, rest, count, top_ahead = three_visits(like, x, out, top, row, nearest, behind, shape, scale, factor)
            put(out, (behind, target), entry)
        else:
            total, rest, count = row_sum(like, x, out, top, row, 0, n, shape, scale)
            top_ahead = row_top(like, x, nearest, 0, n)
        state = state_of_sums(like, nan, top, shape, total, rest, count, scale)
        target, a, smooth, entry = settle(row, state, x_t, smoothing, extra)
        factor = gradient_factor(like, state, shape, a, smooth, scale)
        behind, row, top = row, ahead, top_ahead
    if behind >= 0:
        scale_row(like, x, out, behind, 0, n, factor)
        put(out, (behind, target), entry)


@by_type
def in_step(x, out, row, last, extra, next_row):
    """`run_in_step` where that is possible and worth it; whether it was."""
    if isinstance(out.dtype, HalfType):  # which cannot keep terms
        return lambda x, out, row, last, extra, next_row: False

    def perhaps(x, out, row, last, extra, next_row):
        _, more, weights, terms, _ = opened(extra)
        plain = more.shape[0] == 0 and (weights.shape[0] == 0 or terms[1] == 0.0)
        if not plain or not worth_pipelining(x.shape[1], last - row):
            return False
        run_in_step(x, out, row, last, extra, next_row)
        return True

    return perhaps


@inlined
def never_in_step(x, out, row, last, extra, next_row):
    return False


def over_losses(room, gradient, zeros, faster):
    """The work on a run of rows; `room(out)` is where terms are kept between the sum and the gradient, or None."""

    @piece
    def next_row(x, out, row, last, extra):
        """The first row from `row` on that must be looked at; those before it are ignored, their results 0."""
        table, more = extra[0], extra[1]
        while row < last and more.shape[0] == 0 and number(table, (row, 0)) < 0.0:
            put(table, (row, 0), 0.0)
            zeros(lanes_of(x), x, out, row, 0, x.shape[1], None)
            row += 1
        return row

    @piece
    def run(x, out, first, last, extra):
        like, n = lanes_of(x), x.shape[1]
        table, _, weights, terms, scale = opened(extra)
        row = next_row(x, out, first, last, extra)
        if n > SHORT_ROW:
            while row < last:
                x_t = target_logit(x, row, number(table, (row, 0)))
                state = row_state(like, x, row, scale)
                smoothing = smoothing_sum(like, x, row, state[0], weights, terms[1])
                shape = frame(full(like, state[0]), scale)
                numbers = settle(row, state, x_t, smoothing, extra)
                gradient(like, x, out, None, row, state, shape, numbers, extra)
                row = next_row(x, out, row + 1, last, extra)
            return
        if faster(x, out, row, last, extra, next_row):
            return
        kept = room(out)
        top = row_top(like, x, min(row, last - 1), 0, n)
        while row < last:
            ahead = next_row(x, out, row + 1, last, extra)
            # What is asked of x is asked before its terms are kept, perhaps in its place.
            x_t = target_logit(x, row, number(table, (row, 0)))
            smoothing = smoothing_sum(like, x, row, scalar(top), weights, terms[1])
            nan = nan_of(like, x, row, 0, n, scalar(top))
            shape = frame(top, scale)
            total, rest, count, top_ahead = three_visits(
                like, x, kept, top, row, min(ahead, last - 1), row, shape, scale, None
            )
            state = state_of_sums(like, nan, top, shape, total, rest, count, scale)
            numbers = settle(row, state, x_t, smoothing, extra)
            gradient(like, x, out, kept, row, state, shape, numbers, extra)
            row, top = ahead, top_ahead

    return run


loss_rows = over_losses(nowhere, no_gradient, no_zeros, never_in_step)
loss_with_gradient_rows = over_losses(terms_kept_in, whole_gradient, write_zeros, in_step)
