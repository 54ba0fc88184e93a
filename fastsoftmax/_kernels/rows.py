"""Rows whose classes are contiguous, ``x[row, class]``: the work on runs of rows.

A row is read from memory once: its maximum, its terms and their sum, and the write come while it is in cache. A long
row has a state per block, in order (`row_states`). Where rows are fewer than threads the blocks of a row are shared
out (`split`).
"""

from __future__ import annotations

import numpy as np

from .in_step import (
    NO_TERMS,
    TERMS,
    in_step,
    no_entry,
    nothing_seen,
    the_maximum,
    worth_pipelining,
)
from .jit import by_type, inlined, piece
from .lengths import MOST_BLOCKS, SHORT_ROW
from .maxima import row_top
from .memory import put, store
from .near_zero import FEWEST, NEARER, plain_row, size_of
from .online import frame, is_near, left_out, without_shift
from .row_states import nan_of, over_terms, refined, row_state, state_of_sums
from .simd import doubles, full, is_single
from .state import factor_of, log_others, log_total, with_tops
from .sums import empty_sum
from .views import lanes_of, scratch
from .visits import no_result, row_sum, scalar, three_visits, write_nothing
from .writes import (
    Terms,
    log_softmax_at,
    normal,
    probability_of_kept,
    spread,
    terms_kept_in,
    write_log_softmax,
    write_probabilities,
)

# -- the work on a run of rows -----------------------------------------------------------------------------------------


@inlined
def row_factor(like, shape, total, rest, count):
    """What turns the terms of a row into probabilities, from the sum of those that are not the maximum."""
    total, rest = with_tops(like, count, scalar(shape.peak), scalar(shape.lost), total, rest)
    return factor_of(*spread(like, total, rest))


@inlined
def softmax_one_by_one(x, out, first, last, scale):
    """The probabilities of rows of at most `SHORT_ROW` classes, each finished before the next."""
    n, like, kept = x.shape[1], lanes_of(x), terms_kept_in(out)
    for row in range(first, last):
        top = row_top(like, x, row, 0, n)
        shape = frame(top, scale)
        factor = row_factor(
            like, shape, *row_sum(like, x, kept, left_out(top, n), row, 0, n, shape, scale, empty_sum(like))
        )
        write_probabilities(like, x, out, row, 0, n, (Terms(kept, shape, scale, None), factor))


@inlined
def every_row(x, out, row, last, scale):
    return row


@inlined
def probabilities(like, row, seen, top, shape, total, rest, count, scale):
    return row_factor(like, shape, total, rest, count), 0, 0.0


@inlined
def no_factor(like, scale):
    return (like, like), 0, 0.0


softmax_in_step = in_step(
    every_row, nothing_seen, left_out, TERMS, probabilities, probability_of_kept, no_entry, no_factor
)


@inlined
def softmax_short_rows(x, out, first, last, scale):
    """The probabilities of rows of at most `SHORT_ROW` classes, in whichever way is faster."""
    if worth_pipelining(x.shape[1], last - first):
        softmax_in_step(x, out, first, last, scale, scale)
    else:
        softmax_one_by_one(x, out, first, last, scale)


@inlined
def write_block(like, x, out, row, start, stop, terms, q, rest, more):
    high, low = spread(like, q, rest)
    write_probabilities(like, x, out, row, start, stop, (terms, (high, normal(like, low))))


write_long_row = over_terms(write_block)


@piece
def softmax_rows(x, out, first, last, scale):
    like = lanes_of(x)
    if x.shape[1] <= SHORT_ROW:
        softmax_short_rows(x, out, first, last, scale)
        return
    kept, tops = terms_kept_in(out), scratch(doubles(0.0), 1, MOST_BLOCKS)
    for row in range(first, last):
        state = row_state(like, x, kept, tops, row, scale, empty_sum(like))
        write_long_row(like, x, out, kept, tops, 0, row, 0, x.shape[1], state, scale, None)


@inlined
def numbers_of_logs(like, state, scale):
    """What the log-probabilities of a row are written with, from its state."""
    m, r, rest = state
    log, log_rest = log_others(r, rest)
    return full(like, m), spread(like, log, log_rest), scale


@inlined
def write_log_row(like, x, out, row, state, scale):
    write_log_softmax(like, x, out, row, 0, x.shape[1], numbers_of_logs(like, state, scale))


@inlined
def hidden_nan(like, x, row, top, scale):
    return nan_of(like, x, row, 0, x.shape[1], scalar(top))


@inlined
def logs(like, row, nan, top, shape, total, rest, count, scale):
    state = state_of_sums(like, nan, top, shape, total, rest, count, scale)
    return numbers_of_logs(like, state, scale), 0, 0.0


@inlined
def no_logs(like, scale):
    return (like, (like, like), scale), 0, 0.0


logs_in_step = in_step(every_row, hidden_nan, the_maximum, NO_TERMS, logs, log_softmax_at, no_entry, no_logs)


@inlined
def write_total(like, x, out, row, state, scale):
    """The log-sum-exp of a row, from its state."""
    m, r, rest = state
    total = refined(like, x, row, log_total(m, r, rest, scale), scale)
    store(out, (row, 0), full(like, total), 1)


two_visits = three_visits(no_result, write_nothing)


def over_states(write):
    """``write(like, x, out, row, state, scale)`` for a run of rows.

    Short rows are summed while the maximum of the next is found, so that memory and arithmetic both have work.
    """

    @piece
    def run(x, out, first, last, scale):
        like, n = lanes_of(x), x.shape[1]
        if n > SHORT_ROW:
            for row in range(first, last):
                write(like, x, out, row, row_state(like, x, None, None, row, scale, empty_sum(like)), scale)
        elif first < last:
            top = row_top(like, x, first, 0, n)
            for row in range(first, last):
                shape, ahead = frame(top, scale), min(row + 1, last - 1)
                nan = nan_of(like, x, row, 0, n, scalar(top))
                if is_near(shape):
                    near = without_shift(shape)
                    total, rest, count, top_ahead = two_visits(
                        like, x, None, x, None, top, row, ahead, row, near, scale, None, False
                    )
                else:
                    total, rest, count = row_sum(like, x, None, top, row, 0, n, shape, scale, empty_sum(like))
                    top_ahead = row_top(like, x, ahead, 0, n)
                state = state_of_sums(like, nan, top, shape, total, rest, count, scale)
                write(like, x, out, row, state, scale)
                top = top_ahead

    return run


log_rows_one_by_one = over_states(write_log_row)


@piece
def log_softmax_rows(x, out, first, last, scale):
    if worth_pipelining(x.shape[1], last - first):
        logs_in_step(x, out, first, last, scale, scale)
    else:
        log_rows_one_by_one(x, out, first, last, scale)


totals_of_rows = over_states(write_total)


@by_type
def are_plain(like, x):
    """Whether rows have so few classes that no float32 terms of them are found."""
    single = is_single(like)
    return lambda like, x: single and x.shape[1] <= FEWEST


@piece
def logsumexp_rows(x, out, first, last, scale):
    like = lanes_of(x)
    if not are_plain(like, x):
        totals_of_rows(x, out, first, last, scale)
        return
    for row in range(first, last):
        total = plain_row(x, row, scale)
        if NEARER <= size_of(total) < np.inf:
            put(out, (row, 0), total)
        else:
            write_total(like, x, out, row, row_state(like, x, None, None, row, scale, empty_sum(like)), scale)
