"""Cross-entropy with class indices for classes on a strided axis, one row in each lane; `losses` has the formulas.

The target of a lane is found by comparing the number of the class with the lane's label, in the loops that go
through the classes anyway: nothing is gathered or scattered, so no label can lead out of an array.
"""

from __future__ import annotations

import numpy as np

from .columns import column_fold, column_states, column_top, lanes_pair, store_sum
from .jit import by_type, inlined, piece
from .loss_numbers import row_numbers
from .losses import opened
from .memory import load, number, store
from .online import add_wide, empty_sum, term, whole
from .simd import fma, full, narrow, select, strands, wide
from .state import factor_of_state, product
from .writes import normal, terms_kept_in


@by_type
def place_in(array, place):
    """Where the numbers of the rows in the lanes begin."""
    if array.ndim == 3:
        return lambda array, place: (place[0], 0, place[1])
    return lambda array, place: (place[0], 0)


@inlined
def targets(like, x, label, o, i, count):
    """The logits of the lanes' targets."""
    found = full(like, 0.0)
    for j in range(x.shape[1]):
        found = select(label == np.float64(j), load(like, x, (o, j, i), count, 0.0), found)
    return wide(found)


@inlined
def target_weights(like, label, weights):
    """The class weights of the lanes' targets."""
    found = full(wide(like), 1.0)
    for j in range(weights.shape[0]):
        found = select(wide(label) == np.float64(j), full(found, number(weights, (j,))), found)
    return found


@inlined
def column_smoothing(like, x, m, o, i, count, weights, smooth, sums):
    """The sums of ``w * (m - x)``, as `smoothing_sum` of rows."""
    n, w = x.shape[1], strands(like)
    if smooth == 0.0:
        return full(m, 0.0)
    for k in range(min(w, n)):
        total = empty_sum(like)
        for j in range(k, n, w):
            v = m - wide(load(like, x, (o, j, i), count, 0.0))
            weight = 1.0 if weights.shape[0] == 0 else number(weights, (j,))
            if weight == 0.0:
                v = full(v, 0.0)
            total = add_wide(like, total, v if weight == 0.0 else v * weight)
        store_sum(like, sums, k, total)
    s, rest = column_fold(like, sums, min(w, n))
    return whole(s, rest)


@inlined
def no_gradient(like, x, out, kept, o, i, count, label, state, shape, a, at_target, factor, extra):
    return None


@by_type
def term_at(like, x, kept, o, j, i, count, shape, scale):
    """Terms from where they were kept, or from x once more."""
    if hasattr(kept, "dtype"):
        return lambda like, x, kept, o, j, i, count, shape, scale: load(like, kept, (o, j, i), count, 0.0)
    return lambda like, x, kept, o, j, i, count, shape, scale: term(load(like, x, (o, j, i), count, 0.0), shape, scale)


@inlined
def whole_gradient(like, x, out, kept, o, i, count, label, state, shape, a, at_target, factor, extra):
    """The gradient of the columns: ``a * p - smooth * w``, the target's entry apart, nothing where ignored."""
    _, _, weights, terms, scale = opened(extra)
    q, rest = factor_of_state(like, state, wide(shape.peak), wide(shape.lost))
    a = a * factor
    high, low = lanes_pair(like, *product(q, rest, a, 0.0))
    low = normal(like, low)
    smooth = terms[1] * factor
    entry = narrow(like, at_target * factor)
    plain = narrow(like, 0.0 - smooth)
    for j in range(x.shape[1]):
        b = plain if weights.shape[0] == 0 or terms[1] == 0.0 else narrow(like, number(weights, (j,)) * (0.0 - smooth))
        e = term_at(like, x, kept, o, j, i, count, shape, scale)
        g = fma(e, high, fma(e, low, b))
        g = select(label == np.float64(j), entry, g)
        store(out, (o, j, i), select(label < 0.0, full(like, 0.0), g), count)


def over_losses(room, gradient):
    """The work on one vector of columns."""

    @piece
    def work(like, x, out, o, i, count, place, extra, sums):
        table, more, weights, terms, scale = opened(extra)
        label = narrow(like, load(wide(like), table, place_in(table, place), place[2], -1.0))
        x_t = targets(like, x, label, o, i, count)
        w_t = target_weights(like, label, weights)
        top = column_top(like, x, o, i, count)
        smoothing = column_smoothing(like, x, wide(top), o, i, count, weights, terms[1], sums)
        kept = room(out)
        state, shape = column_states(like, x, kept, top, o, i, count, scale, sums)
        loss, lse, a, at_target = row_numbers(state, x_t, w_t, smoothing, terms, scale)
        factor = full(wide(like), terms[4])
        if more.shape[0]:
            factor = load(wide(like), more, place_in(more, place), place[2], 0.0)
            store(more, place_in(more, place), lse, place[2])
        store(table, place_in(table, place), select(wide(label) < 0.0, full(loss, 0.0), loss), place[2])
        gradient(like, x, out, kept, o, i, count, label, state, shape, a, at_target, factor, extra)

    return work


@inlined
def nowhere(out):
    return None


loss_columns = over_losses(nowhere, no_gradient)
loss_with_gradient_columns = over_losses(terms_kept_in, whole_gradient)
