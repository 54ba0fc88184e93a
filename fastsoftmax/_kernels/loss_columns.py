"""Cross-entropy with class indices for classes on a strided axis, one row in each lane; `losses` has the formulas.

The entry of a lane's target is found by comparing the number of the class with the lane's label, in the loop that
writes all classes anyway. Labels were read once, and checked, to the table: what is fetched by them lies in the array.
"""

from __future__ import annotations

import numpy as np

from .columns import column_fold, column_states, lanes_pair, store_sum
from .jit import by_type, inlined
from .loss_numbers import row_numbers
from .losses import distance, opened
from .memory import load, number, put, store
from .simd import fma, full, narrow, select, strands, wide
from .state import factor_of_state, product
from .sums import add, empty_sum, exact_sum, times, whole
from .sweeps import by_vectors, nowhere, term_again
from .writes import normal, terms_kept_in


@by_type
def place_in(array, place, k):
    """Where the number of the row in lane k is."""
    if array.ndim == 3:
        return lambda array, place, k: (place[0], 0, place[1] + k)
    return lambda array, place, k: (place[0] + k, 0)


@inlined
def targets(like, x, label, table, place, i, count, sums):
    """The logits of the lanes' targets, in float64.

    They are fetched one by one where there are more classes than strands: to compare each class with all labels takes
    longer then (Zen 5: 21 classes 0.86 to 0.88 of the time, 150 0.89 to 0.93; 10 classes 1.03 to 1.07).
    """
    if x.shape[1] <= strands(like):
        found = full(like, 0.0)
        for j in range(x.shape[1]):
            found = select(label == np.float64(j), load(like, x, (0, j, i), count, 0.0), found)
        return wide(found)
    for k in range(place[2]):
        target = max(np.int64(number(table, place_in(table, place, k))), 0)
        put(sums, (0, 0, k), number(x, (0, target, i + k)))
    return load(wide(like), sums, (0, 0, 0), None, 0.0)


@inlined
def target_weights(like, label, weights):
    """The class weights of the lanes' targets."""
    found = full(wide(like), 1.0)
    for j in range(weights.shape[0]):
        found = select(wide(label) == np.float64(j), full(found, number(weights, (j,))), found)
    return found


@inlined
def column_smoothing(like, x, m, i, count, weights, smooth, sums):
    """The sums of ``w * (m - x)``, as `smoothing_sum` of rows."""
    n, w = x.shape[1], strands(like)
    if smooth == 0.0:
        return full(m, 0.0)
    for k in range(min(w, n)):
        total = empty_sum(like)
        for j in range(k, n, w):
            v = distance(like, m, wide(load(like, x, (0, j, i), count, 0.0)))
            if weights.shape[0]:
                v = times(v, full(m, number(weights, (j,))))
            total = add(total, v)
        store_sum(like, sums, k, 0, total)
    s, rest = column_fold(like, sums, 0, min(w, n))
    return whole(s, rest)


@inlined
def losses_of_columns(like, x, kept, top, i, count, place, extra, sums):
    """Note the losses and log-sum-exps of the columns; what gradients are made of."""
    table, more, weights, terms, scale = opened(extra)
    label = narrow(like, load(wide(like), table, place_in(table, place, 0), place[2], -1.0))
    x_t = targets(like, x, label, table, place, i, count, sums)
    w_t = target_weights(like, label, weights)
    smoothing = column_smoothing(like, x, wide(top), i, count, weights, terms[1], sums)
    state, shape = column_states(like, x, kept, top, i, count, scale, sums, exact_sum(like))
    loss, lse, a, at_target = row_numbers(state, x_t, w_t, smoothing, terms, scale)
    factor = full(wide(like), terms[4])
    if more.shape[0]:
        factor = load(wide(like), more, place_in(more, place, 0), place[2], 0.0)
        store(more, place_in(more, place, 0), lse, place[2])
    store(table, place_in(table, place, 0), select(wide(label) < 0.0, full(loss, 0.0), loss), place[2])
    return label, state, shape, a * factor, at_target * factor, terms[1] * factor


@inlined
def loss_alone(like, x, kept, top, i, count, place, extra, sums, wides):
    losses_of_columns(like, x, None, top, i, count, place, extra, sums)
    return ()


@inlined
def gradient_numbers(like, x, kept, top, i, count, place, extra, sums, wides):
    """``a * p - smooth * w`` as a pair and what is added to the product; the label and the target's entry."""
    label, state, shape, a, at_target, smooth = losses_of_columns(like, x, kept, top, i, count, place, extra, sums)
    q, rest = factor_of_state(like, state, wide(shape.peak), wide(shape.lost))
    high, low = lanes_pair(like, *product(q, rest, a, 0.0))
    store(wides, (0, 0, i), smooth, None)
    return high, normal(like, low), narrow(like, 0.0 - smooth), label, narrow(like, at_target)


@inlined
def gradient_at(like, seen, j, i, count, numbers, extra):
    """The gradients of a class; 0 where the column is ignored."""
    high, low, plain, label, entry = numbers
    _, _, weights, terms, scale = opened(extra)
    b = plain
    if weights.shape[0] and terms[1] != 0.0:
        smooth = load(wide(like), seen.wides, (0, 0, i), count, 0.0)
        b = narrow(like, number(weights, (j,)) * (0.0 - smooth))
    e = term_again(like, seen, j, i, count, scale)
    g = fma(e, high, fma(e, low, b))
    g = select(label == np.float64(j), entry, g)
    return select(label < 0.0, full(like, 0.0), g)


loss_columns = by_vectors(loss_alone, None, 0, nowhere)
loss_with_gradient_columns = by_vectors(gradient_numbers, gradient_at, 5, terms_kept_in)
