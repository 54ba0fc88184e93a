"""Cross-entropy of rows of a few vectors, as many at once as lanes: `batches` with the formulas of `losses`."""

from __future__ import annotations

from typing import Any

import numpy as np

from .batches import (
    COUNT,
    TOP,
    find_frames,
    frame_at,
    frames_kept,
    in_stages,
    keep_numbers,
    keep_pair,
    lane_sums_of,
    number_at,
    pair_at,
    states_of,
    tops_of,
)
from .columns import lanes_pair
from .in_step import kept_nowhere
from .jit import inlined
from .loss_numbers import row_numbers
from .losses import opened, smoothing_sum, target_logit, weight_of, write_gradient, write_zeros
from .memory import load, number, put, store
from .simd import full, narrow, select, wide
from .state import factor_of_state, product
from .sums import exact_sum
from .visits import scalar
from .writes import Terms, normal, terms_kept_in

# Places of float64 numbers, one of each row in each lane.
LABEL, TARGET_LOGIT, TARGET_WEIGHT, SMOOTHING, ENTRY, SMOOTH = range(6)
# The constant part of the gradient, where the count of the maximum no longer matters.
SHIFTED = COUNT


@inlined
def ask(like, x, row, count, extra, rooms):
    """What must be known of the rows before their terms are kept, perhaps in their place."""
    table, _, weights, terms, _ = opened(extra)
    asked = rooms.asked
    for k in range(count):
        label = number(table, (row + k, 0))
        put(asked, (0, LABEL, k), label)
        put(asked, (0, TARGET_LOGIT, k), target_logit(x, k, label))
        put(asked, (0, TARGET_WEIGHT, k), weight_of(weights, max(np.int64(label), 0)))
        m = scalar(number_at(like, rooms.numbers, TOP, k))
        put(asked, (0, SMOOTHING, k), smoothing_sum(like, x, k, m, weights, terms[1]))


@inlined
def asked_for(like, rooms, place):
    return load(wide(like), rooms.asked, (0, place, 0), None, 0.0)


@inlined
def no_factors(like, state, a, at_target, factor, extra, rooms):
    return None


@inlined
def factors(like, state, a, at_target, factor, extra, rooms):
    """Keep what the gradients of the rows are made of: ``a * p - smooth * w``, and the target's entry."""
    terms, numbers, asked = opened(extra)[3], rooms.numbers, rooms.asked
    shape = frames_kept(like, numbers)
    q, rest = factor_of_state(like, state, wide(shape.peak), wide(shape.lost))
    high, low = lanes_pair(like, *product(q, rest, a * factor, 0.0))
    smooth = terms[1] * factor
    keep_pair(numbers, (high, normal(like, low)))
    keep_numbers(numbers, SHIFTED, narrow(like, 0.0 - smooth))
    keep_numbers(asked, ENTRY, at_target * factor)
    keep_numbers(asked, SMOOTH, smooth)


@inlined
def write_nothing(like, x, out, row, count, extra, rooms):
    return None


def stages(kept_in: Any, factors: Any) -> tuple[Any, Any, Any]:
    """What is found, added up and settled; gradients are made of what `factors` keep."""

    @inlined
    def find(like, x, out, row, count, extra, rooms):
        top = tops_of(like, x, count, rooms)
        ask(like, x, row, count, extra, rooms)
        find_frames(like, x, top, count, opened(extra)[4], rooms)

    @inlined
    def add_up(like, x, out, row, count, extra, rooms):
        lane_sums_of(like, x, kept_in(out), count, opened(extra)[4], rooms, exact_sum(like))

    @inlined
    def settle(like, x, out, row, count, extra, rooms):
        table, more, _, terms, scale = opened(extra)
        state = states_of(like, count, scale, rooms)
        loss, lse, a, at_target = row_numbers(
            state,
            asked_for(like, rooms, TARGET_LOGIT),
            asked_for(like, rooms, TARGET_WEIGHT),
            asked_for(like, rooms, SMOOTHING),
            terms,
            scale,
        )
        factor = full(wide(like), terms[4])
        if more.shape[0]:
            factor = load(wide(like), more, (row, 0), count, 0.0)
            store(more, (row, 0), lse, count)
        ignored = asked_for(like, rooms, LABEL) < 0.0
        store(table, (row, 0), select(ignored, full(loss, 0.0), loss), count)
        factors(like, state, a, at_target, factor, extra, rooms)

    return find, add_up, settle


@inlined
def write_gradients(like, x, out, row, count, extra, rooms):
    """The gradients of the rows, the target's entry apart, nothing where ignored."""
    _, _, weights, _, scale = opened(extra)
    n, numbers, asked, kept = x.shape[1], rooms.numbers, rooms.asked, terms_kept_in(out)
    for k in range(count):
        label = np.int64(number(asked, (0, LABEL, k)))
        if label < 0:
            write_zeros(like, x, out, k, 0, n, None)
            continue
        multiple = *pair_at(like, numbers, k), number_at(like, numbers, SHIFTED, k)
        of_row = Terms(kept, frame_at(like, numbers, k), scale, None)
        write_gradient(like, x, out, k, 0, n, of_row, multiple, number(asked, (0, SMOOTH, k)), weights)
        put(out, (k, label), number(asked, (0, ENTRY, k)))


loss_batch = in_stages(*stages(kept_nowhere, no_factors), write_nothing)
loss_with_gradient_batch = in_stages(*stages(terms_kept_in, factors), write_gradients)
