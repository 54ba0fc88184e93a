"""Rows whose classes are contiguous, ``x[row, class]``: states, and the work on runs of rows.

A short row is read from memory once: its maximum, its terms and their sum, and the write come while it is in
cache. A long row has a state per block, in order, and is then read once more to be written. Where rows are
fewer than threads the blocks of a row are shared out (`split`).
"""

from __future__ import annotations

from .in_step import in_step, worth_pipelining
from .jit import by_type, inlined, piece
from .lengths import BLOCK, SHORT_ROW
from .memory import lanes_of, load, store
from .online import frame, is_near, scaled, without_shift
from .shuffles import rotate
from .simd import HalfType, doubles, full, is_single, select, width
from .state import at_infinity, factor_of, factor_of_state, finite_rest, log_others, log_total, merge, others
from .visits import (
    normal,
    row_sum,
    row_top,
    scalar,
    scale_row,
    spread,
    terms_kept_in,
    three_visits,
    write_log_softmax,
    write_softmax,
)

# -- the state of a row ------------------------------------------------------------------------------------


@inlined
def nan_in(like, x, row, start, stop):
    """NaN if ``x[row, start:stop]`` holds one, else 0. Only rows with an infinite maximum ask."""
    w = width(like)
    found = full(like, 0.0)
    for j in range(start, stop, w):
        v = load(like, x, (row, j), stop - j, 0.0)
        found = select(v == v, found, v)
    s = found + rotate(found, 1) if w == 8 else found + rotate(found, 8)
    s = s + rotate(s, 4)
    s = s + rotate(s, 2)
    return scalar(s + rotate(s, 1))


@piece
def block_state(like, x, kept, row, start, stop, scale):
    """The state ``(m, r, rest)`` of ``x[row, start:stop]``: ``sum(exp(x*scale)) = exp(m*scale) * (1 + r + rest)``.

    The terms, in the frame of the block, stay in `kept` unless that is None.
    """
    top = row_top(like, x, row, start, stop)
    nan = nan_of(like, x, row, start, stop, scalar(top))
    shape = frame(top, scale)
    total, rest, count = row_sum(like, x, kept, top, row, start, stop, shape, scale)
    return state_of_sums(like, nan, top, shape, total, rest, count, scale)


@inlined
def nan_of(like, x, row, start, stop, m):
    """NaN if the maximum `m` of ``x[row, start:stop]`` is infinite and hides one, else 0."""
    return nan_in(like, x, row, start, stop) if m - m != 0.0 else 0.0


@inlined
def state_of_sums(like, nan, top, shape, total, rest, count, scale):
    """The state of a row or block from its maximum and the sum of its other terms; `nan` is that of `nan_of`."""
    m = scalar(top)
    z, tail = scaled(m - scalar(shape.shift), scale)
    r, r_rest = others(like, count, total, rest, z, tail, scalar(shape.k))
    return m, at_infinity(m, r, nan), finite_rest(m, r_rest)


@piece
def row_state(like, x, row, scale):
    """The state of a whole row: of its one block, or of its blocks merged in order."""
    n = x.shape[1]
    state = block_state(like, x, None, row, 0, n if n <= SHORT_ROW else BLOCK, scale)
    if n > SHORT_ROW:
        for start in range(BLOCK, n, BLOCK):
            state = merge(state, block_state(like, x, None, row, start, min(start + BLOCK, n), scale), scale)
    return state


@inlined
def softmax_factor(like, state, shape, scale):
    """What turns the terms of a row into its probabilities: ``1 / (exp(m) * (1 + r))``."""
    q, rest = factor_of_state(like, state, scalar(shape.shift), scalar(shape.k), scale)
    high, low = spread(like, q, rest)
    return high, normal(like, low)


# -- the work on a run of rows -----------------------------------------------------------------------------------------


@inlined
def softmax_one_by_one(x, out, first, last, scale):
    """The probabilities of rows of at most `SHORT_ROW` classes, each finished before the next."""
    n, like, kept = x.shape[1], lanes_of(x), terms_kept_in(out)
    for row in range(first, last):
        shape = frame(row_top(like, x, row, 0, n), scale)
        total, rest, _ = row_sum(like, x, kept, None, row, 0, n, shape, scale)
        high, low = spread(like, total, rest + scalar(shape.lost))
        factor = factor_of(high, low)
        if kept is None:
            write_softmax(like, x, out, row, 0, n, (shape, scale, factor))
        else:
            scale_row(like, x, out, row, 0, n, factor)


@inlined
def every_row(x, out, row, last, scale):
    return row


@inlined
def no_look(like, x, row, top, scale):
    return None


@inlined
def not_counted(top):
    return None


@inlined
def probabilities(like, row, seen, top, shape, total, rest, count, scale):
    high, low = spread(like, total, rest + scalar(shape.lost))
    return factor_of(high, low), 0, 0.0


@inlined
def no_entry(out, row, target, entry):
    return None


@inlined
def no_factor(like):
    return (like, like), 0, 0.0


softmax_in_step = in_step(every_row, no_look, not_counted, probabilities, no_entry, no_factor)


@by_type
def softmax_short_rows(x, out, first, last, scale):
    """The probabilities of rows of at most `SHORT_ROW` classes, in whichever way is faster."""
    if isinstance(out.dtype, HalfType):  # which cannot keep terms
        return lambda x, out, first, last, scale: softmax_one_by_one(x, out, first, last, scale)

    def short(x, out, first, last, scale):
        if worth_pipelining(x.shape[1], last - first):
            softmax_in_step(x, out, first, last, scale, scale)
        else:
            softmax_one_by_one(x, out, first, last, scale)

    return short


@piece
def softmax_rows(x, out, first, last, scale):
    like = lanes_of(x)
    if x.shape[1] <= SHORT_ROW:
        softmax_short_rows(x, out, first, last, scale)
        return
    for row in range(first, last):
        state = row_state(like, x, row, scale)
        shape = frame(full(like, state[0]), scale)
        factor = softmax_factor(like, state, shape, scale)
        write_softmax(like, x, out, row, 0, x.shape[1], (shape, scale, factor))


@inlined
def write_log_row(like, x, out, row, state, scale):
    """The log-probabilities of a row, from its state."""
    m, r, rest = state
    log, log_rest = log_others(r, rest)
    factor = spread(like, log, log_rest)
    write_log_softmax(like, x, out, row, 0, x.shape[1], (full(like, m), factor, scale))


@inlined
def write_total(like, x, out, row, state, scale):
    """The log-sum-exp of a row, from its state."""
    m, r, rest = state
    total = refined(like, x, row, log_total(m, r, rest, scale), scale)
    store(out, (row, 0), full(like, total), 1)


def over_states(write):
    """``write(like, x, out, row, state, scale)`` for a run of rows.

    Short rows are summed while the maximum of the next is found, so that memory and arithmetic both have work.
    """

    @piece
    def run(x, out, first, last, scale):
        like, n = lanes_of(x), x.shape[1]
        if n > SHORT_ROW:
            for row in range(first, last):
                write(like, x, out, row, row_state(like, x, row, scale), scale)
        elif first < last:
            top = row_top(like, x, first, 0, n)
            for row in range(first, last):
                shape, ahead = frame(top, scale), min(row + 1, last - 1)
                nan = nan_of(like, x, row, 0, n, scalar(top))
                if is_near(shape):
                    near = without_shift(shape)
                    total, rest, count, top_ahead = three_visits(like, x, None, top, row, ahead, row, near, scale, None)
                else:
                    total, rest, count = row_sum(like, x, None, top, row, 0, n, shape, scale)
                    top_ahead = row_top(like, x, ahead, 0, n)
                state = state_of_sums(like, nan, top, shape, total, rest, count, scale)
                write(like, x, out, row, state, scale)
                top = top_ahead

    return run


log_softmax_rows = over_states(write_log_row)
logsumexp_rows = over_states(write_total)

# A log-sum-exp this near zero is the small difference of m and log(1 + r); the rounding of the terms shows.
NEAR_ZERO = 0.5


@by_type
def refined(like, x, row, total, scale):
    """A log-sum-exp near zero once more, from float64 terms where they were float32."""
    if not is_single(like):
        return lambda like, x, row, total, scale: total

    def again(like, x, row, total, scale):
        if -NEAR_ZERO < total < NEAR_ZERO:
            m, r, rest = row_state(doubles(0.0), x, row, scale)
            return log_total(m, r, rest, scale)
        return total

    return again
