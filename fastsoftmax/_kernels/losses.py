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
from .memory import lanes_of, load, store
from .online import across, add_wide, empty_sum, factor_of_state, frame, log_others, log_total, plus, scaled, term
from .rows import nan_of, row_state, state_of_sums
from .simd import doubles, fma, full, lane, narrow, repeated, select, wide, width
from .split import merged
from .visits import along, repeated_frame, row_top, scalar, spread, terms_kept_in, three_visits


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
def number(array, index):
    """One float64 number of a view."""
    return lane(load(doubles(0.0), array, index, 1, 0.0), 0)


@inlined
def put(array, index, value):
    store(array, index, full(doubles(0.0), value), 1)


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
    return s + rest


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
    kept, shape, scale, factor, b, _, _ = more
    e = term_at(like, x, kept, row, j, count, shape, scale)
    g = fma(e, repeated(factor[0], like), fma(e, repeated(factor[1], like), repeated(b, like)))
    store(out, (row, j), g, count)


@inlined
def weighted_gradient_at(like, x, out, row, j, count, more):
    """``a * p - smooth * w``."""
    kept, shape, scale, factor, _, weights, smooth = more
    e = term_at(like, x, kept, row, j, count, shape, scale)
    b = narrow(like, load(wide(like), weights, (j,), count, 0.0) * (0.0 - smooth))
    g = fma(e, repeated(factor[0], like), fma(e, repeated(factor[1], like), b))
    store(out, (row, j), g, count)


write_plain, write_weighted = along(gradient_at), along(weighted_gradient_at)


@inlined
def write_gradient(like, x, out, kept, row, start, stop, state, shape, a, smooth, weights, scale):
    """The gradient of ``x[row, start:stop]`` but for the target's entry; `a` and `smooth` times the row's factor."""
    q, rest = factor_of_state(like, state, scalar(shape[0]), scalar(shape[3]), scale)
    factor = spread(like, q * a, rest * a + fma(q, a, 0.0 - q * a))
    more = kept, shape, scale, factor, full(like, 0.0 - smooth), weights, smooth
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
def finish(like, x, out, kept, row, state, shape, x_t, smoothing, extra, gradient):
    """The loss of a row and, with `gradient`, what is written to `out`."""
    table, more, weights, terms, scale = opened(extra)
    label = np.int64(number(table, (row, 0)))
    w_t = weight_of(weights, max(label, 0))
    loss, lse, a, at_target = row_numbers(state, x_t, w_t, smoothing, terms, scale)
    factor = factor_at(more, terms, (row, 0))
    put(table, (row, 0), loss if label >= 0 else 0.0)
    if more.shape[0]:
        put(more, (row, 0), lse)
    gradient(like, x, out, kept, row, label, state, shape, a * factor, at_target * factor, terms[1] * factor, extra)


@inlined
def no_gradient(like, x, out, kept, row, label, state, shape, a, at_target, smooth, extra):
    return None


@inlined
def whole_gradient(like, x, out, kept, row, label, state, shape, a, at_target, smooth, extra):
    _, _, weights, _, scale = opened(extra)
    n = x.shape[1]
    if label < 0:
        write_zeros(like, x, out, row, 0, n, None)
    else:
        write_gradient(like, x, out, kept, row, 0, n, state, shape, a, smooth, weights, scale)
        store(out, (row, label), full(like, at_target), 1)


@inlined
def nowhere(out):
    return None


@inlined
def target_logit(like, x, row, label):
    """The logit of a class, or of the first one for a negative `label`."""
    return scalar(load(like, x, (row, max(np.int64(label), 0)), 1, 0.0))


@inlined
def no_zeros(like, x, out, row, start, stop, more):
    return None


def over_losses(room, gradient, zeros):
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
                x_t = target_logit(like, x, row, number(table, (row, 0)))
                state = row_state(like, x, row, scale)
                smoothing = smoothing_sum(like, x, row, state[0], weights, terms[1])
                shape = frame(full(like, state[0]), scale)
                finish(like, x, out, None, row, state, shape, x_t, smoothing, extra, gradient)
                row = next_row(x, out, row + 1, last, extra)
            return
        kept = room(out)
        top = row_top(like, x, min(row, last - 1), 0, n)
        while row < last:
            ahead = next_row(x, out, row + 1, last, extra)
            # What is asked of x is asked before its terms are kept, perhaps in its place.
            x_t = target_logit(like, x, row, number(table, (row, 0)))
            smoothing = smoothing_sum(like, x, row, scalar(top), weights, terms[1])
            nan = nan_of(like, x, row, 0, n, scalar(top))
            shape = frame(top, scale)
            total, rest, count, top_ahead = three_visits(
                like, x, kept, top, row, min(ahead, last - 1), row, shape, scale, None
            )
            state = state_of_sums(like, nan, top, shape, total, rest, count, scale)
            finish(like, x, out, kept, row, state, shape, x_t, smoothing, extra, gradient)
            row, top = ahead, top_ahead

    return run


loss_rows = over_losses(nowhere, no_gradient, no_zeros)
loss_with_gradient_rows = over_losses(terms_kept_in, whole_gradient, write_zeros)


# -- rows shared out by blocks -----------------------------------------------------------------------------


@piece
def row_of_blocks(x, states, row, extra):
    """Between the launches: the loss of a row, and in ``states[row, 0, 3:]`` what its gradient is written with."""
    table, more, weights, terms, scale = opened(extra)
    like, label = lanes_of(x), np.int64(number(table, (row, 0)))
    state = merged(states, row, scale)
    x_t = target_logit(like, x, row, label)
    smoothing = smoothing_sum(like, x, row, state[0], weights, terms[1])
    loss, lse, a, at_target = row_numbers(state, x_t, weight_of(weights, max(label, 0)), smoothing, terms, scale)
    factor = factor_at(more, terms, (row, 0))
    put(table, (row, 0), loss if label >= 0 else 0.0)
    if more.shape[0]:
        put(more, (row, 0), lse)
    for i, value in enumerate((label, a * factor, terms[1] * factor, at_target * factor)):
        states[row, 0, 3 + i] = value


@piece
def gradient_blocks(x, out, states, row, start, stop, extra):
    """Last launch: the gradient of ``x[row, start:stop]``."""
    _, _, weights, _, scale = opened(extra)
    like, label = lanes_of(x), np.int64(states[row, 0, 3])
    if label < 0:
        write_zeros(like, x, out, row, start, stop, None)
        return
    state = merged(states, row, scale)
    shape = frame(full(like, state[0]), scale)
    a, smooth, at_target = states[row, 0, 4], states[row, 0, 5], states[row, 0, 6]
    write_gradient(like, x, out, None, row, start, stop, state, shape, a, smooth, weights, scale)
    if start <= label < stop:
        store(out, (row, label), full(like, at_target), 1)
