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
* ``terms``: 1 - hit, smooth, sum(w), z, what gradients are multiplied by where ``more`` is empty, and the focal
  exponent, which `soft_targets` alone knows;
* ``scale``: 1/temperature, as everywhere.
"""

from __future__ import annotations

import numpy as np

from .elementary import two_sum
from .in_step import TERMS, in_step, kept_nowhere, the_maximum, worth_pipelining
from .jit import by_type, inlined, piece
from .lengths import MOST_BLOCKS, SHORT_ROW
from .loss_numbers import row_numbers
from .maxima import row_top
from .memory import load, number, put
from .online import frame
from .past import put_past
from .row_states import nan_of, over_terms, row_state, state_of_sums
from .shuffles import repeated
from .simd import doubles, fma, full, is_single, narrow, wide, width
from .state import factor_of_state, product
from .sums import Exact, across, add, empty_sum, exact_sum, lanes_in, times, whole
from .views import lanes_of, scratch
from .visits import no_result, scalar, three_visits, write_nothing
from .writes import Terms, along, normal, probability_of_kept, spread, terms_at, terms_kept_in, write_probabilities


@by_type
def opened(extra):
    """``(table, more, weights, terms, scale)``."""
    if len(extra) == 9:
        return lambda extra: (extra[0], extra[1], extra[2], extra[3:9], None)
    return lambda extra: (extra[0], extra[1], extra[2], extra[3:9], extra[9:13])


# -- the numbers of a row ----------------------------------------------------------------------------------


@inlined
def smoothing_sum(like, x, row, m, weights, smooth):
    """The sum of ``w * (m - x)`` over a row, in the order of `online`; 0 without smoothing."""
    total = empty_sum(like)
    n, w = x.shape[1], width(like)
    if smooth == 0.0:
        return 0.0
    for j in range(0, n, w):
        v = distance(like, m, wide(load(like, x, (row, j), n - j, m)))
        total = add(total, weighed(v, weights, j, n - j))
    s, rest = across(like, total)
    return whole(s, rest)


@inlined
def weighed(v, weights, j, count):
    """Float64 lanes of classes from `j` on times their weights."""
    if weights.shape[0] == 0:
        return v
    return times(v, load(lanes_in(v), weights, (j,), count, 0.0))


@by_type
def distance(like, m, v):
    """``m - v``, of float64 logits with what that lost: much of a smoothed loss may be one of them."""
    if is_single(like):
        return lambda like, m, v: m - v
    return lambda like, m, v: Exact(*two_sum(m, 0.0 - v))


# -- rows --------------------------------------------------------------------------------------------------


@inlined
def weighted_gradient_at(like, x, row, j, count, more):
    """``a * p - smooth * w``."""
    terms, factor, weights, smooth = more
    e = terms_at(like, x, terms, row, j, count)
    b = narrow(like, load(wide(like), weights, (j,), count, 0.0) * (0.0 - smooth))
    return fma(e, repeated(factor[0], like), fma(e, repeated(factor[1], like), b))


write_weighted = along(weighted_gradient_at)


@inlined
def gradient_pair(like, q, rest, a, smooth):
    """What turns terms into ``a * p - smooth``, from what makes them probabilities: a pair and what is added."""
    high, low = spread(like, *product(q, rest, a, 0.0))
    return high, normal(like, low), full(like, 0.0 - smooth)


@inlined
def gradient_factor(like, state, shape, a, smooth):
    """The same for a row whose terms are all in one frame."""
    q, rest = factor_of_state(like, state, scalar(shape.peak), scalar(shape.lost))
    return gradient_pair(like, q, rest, a, smooth)


@inlined
def write_gradient(like, x, out, row, start, stop, terms, factor, smooth, weights):
    """The gradient of ``x[row, start:stop]`` but for the target's entry; `smooth` times the row's factor."""
    if weights.shape[0] == 0 or smooth == 0.0:
        write_probabilities(like, x, out, row, start, stop, (terms, factor))
    else:
        write_weighted(like, x, out, row, start, stop, (terms, factor, weights, smooth))


@inlined
def zero_at(like, x, row, j, count, more):
    return full(like, 0.0)


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
    """The gradient of a row whose terms are all in one frame."""
    _, _, weights, _, scale = opened(extra)
    label, a, smooth, at_target = numbers
    n = x.shape[1]
    if label < 0:
        write_zeros(like, x, out, row, 0, n, None)
    else:
        factor = gradient_factor(like, state, shape, a, smooth)
        write_gradient(like, x, out, row, 0, n, Terms(kept, shape, scale, None), factor, smooth, weights)
        put(out, (row, label), at_target)


@inlined
def write_block(like, x, out, row, start, stop, terms, q, rest, more):
    a, smooth, weights = more
    factor = gradient_pair(like, q, rest, a, smooth)
    write_gradient(like, x, out, row, start, stop, terms, factor, smooth, weights)


write_blocks = over_terms(write_block)


@inlined
def no_long_gradient(like, x, out, kept, tops, at, row, start, stop, state, numbers, extra):
    return None


@inlined
def long_gradient(like, x, out, kept, tops, at, row, start, stop, state, numbers, extra):
    """The gradient of ``x[row, start:stop]``, some blocks of a long row; for the rest see `row_states.over_terms`."""
    _, _, weights, _, scale = opened(extra)
    label, a, smooth, at_target = numbers
    if label < 0:
        write_zeros(like, x, out, row, start, stop, None)
    else:
        write_blocks(like, x, out, kept, tops, at, row, start, stop, state, scale, (a, smooth, weights))
        if start <= label < stop:
            put(out, (row, label), at_target)


@inlined
def target_logit(x, row, label):
    """The logit of a class, or of the first one for a negative `label`."""
    return number(x, (row, max(np.int64(label), 0)))


@inlined
def no_zeros(like, x, out, row, start, stop, more):
    return None


@piece
def next_gradient(x, out, row, last, extra):
    """The first row from `row` on that must be looked at; those before it are ignored, their results 0."""
    return next_to_look_at(x, out, row, last, extra, write_zeros)


@inlined
def next_to_look_at(x, out, row, last, extra, zeros):
    table, more = extra[0], extra[1]
    while row < last and more.shape[0] == 0 and number(table, (row, 0)) < 0.0:
        put(table, (row, 0), 0.0)
        zeros(lanes_of(x), x, out, row, 0, x.shape[1], None)
        row += 1
    return row


@inlined
def look(like, x, row, top, extra):
    """What is asked of a row before its terms are kept: the target's logit, the smoothing sum, a NaN hidden by +inf."""
    table, _, weights, terms, _ = opened(extra)
    x_t = target_logit(x, row, number(table, (row, 0)))
    smoothing = smoothing_sum(like, x, row, scalar(top), weights, terms[1])
    return x_t, smoothing, nan_of(like, x, row, 0, x.shape[1], scalar(top))


@inlined
def state_and_numbers(like, row, seen, top, shape, total, rest, count, extra):
    x_t, smoothing, nan = seen
    state = state_of_sums(like, nan, top, shape, total, rest, count, opened(extra)[4])
    return state, settle(row, state, x_t, smoothing, extra)


@inlined
def settle_gradient(like, row, seen, top, shape, total, rest, count, extra):
    state, (target, a, smooth, entry) = state_and_numbers(like, row, seen, top, shape, total, rest, count, extra)
    return gradient_factor(like, state, shape, a, smooth), target, entry


@inlined
def put_entry(out, row, target, entry, past):
    if past:
        put_past(out, (row, target), entry)
    else:
        put(out, (row, target), entry)


@inlined
def no_factor(like, extra):
    return (like, like, like), np.int64(0), 0.0


gradients_in_step = in_step(
    next_gradient, look, the_maximum, TERMS, settle_gradient, probability_of_kept, put_entry, no_factor, exact_sum
)


@inlined
def perhaps_in_step(x, out, row, last, extra):
    """Gradients without class weights, of rows that fit in cache, in step; whether that was possible and worth it."""
    _, more, weights, terms, scale = opened(extra)
    plain = more.shape[0] == 0 and (weights.shape[0] == 0 or terms[1] == 0.0)
    if not plain or not worth_pipelining(x.shape[1], last - row):
        return False
    gradients_in_step(x, out, row, last, scale, extra)
    return True


@inlined
def never_in_step(x, out, row, last, extra):
    return False


@inlined
def smoothing_before(like, x, row, weights, smooth):
    """The smoothing sum of a row whose maximum is not known yet."""
    if smooth == 0.0:
        return 0.0
    return smoothing_sum(like, x, row, scalar(row_top(like, x, row, 0, x.shape[1])), weights, smooth)


def over_losses(room, gradient, of_long, zeros, faster):
    """The work on a run of rows; `room(out)` is where terms are kept between the sum and the gradient, or None."""
    visits = three_visits(no_result, write_nothing, exact_sum)

    @piece
    def next_row(x, out, row, last, extra):
        return next_to_look_at(x, out, row, last, extra, zeros)

    @piece
    def run(x, out, first, last, extra):
        like, n = lanes_of(x), x.shape[1]
        table, _, weights, terms, scale = opened(extra)
        row, kept = next_row(x, out, first, last, extra), room(out)
        if n > SHORT_ROW:
            tops = scratch(doubles(0.0), 1, MOST_BLOCKS)
            while row < last:
                x_t = target_logit(x, row, number(table, (row, 0)))
                smoothing = smoothing_before(like, x, row, weights, terms[1])
                state = row_state(like, x, kept, tops, row, scale, exact_sum(like))
                numbers = settle(row, state, x_t, smoothing, extra)
                of_long(like, x, out, kept, tops, 0, row, 0, n, state, numbers, extra)
                row = next_row(x, out, row + 1, last, extra)
            return
        if faster(x, out, row, last, extra):
            return
        top = row_top(like, x, min(row, last - 1), 0, n)
        while row < last:
            ahead = next_row(x, out, row + 1, last, extra)
            seen = look(like, x, row, top, extra)
            shape = frame(top, scale)
            total, rest, count, top_ahead = visits(
                like, x, kept, x, kept, top, row, min(ahead, last - 1), row, shape, scale, None, False
            )
            state, numbers = state_and_numbers(like, row, seen, top, shape, total, rest, count, extra)
            gradient(like, x, out, kept, row, state, shape, numbers, extra)
            row, top = ahead, top_ahead

    return run


loss_rows = over_losses(kept_nowhere, no_gradient, no_long_gradient, no_zeros, never_in_step)
loss_with_gradient_rows = over_losses(terms_kept_in, whole_gradient, long_gradient, write_zeros, perhaps_in_step)
