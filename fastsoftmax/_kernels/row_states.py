"""The states of rows whose classes are contiguous, ``x[row, class]``, and of the blocks of long ones (see `online`).

A row of more than `SHORT_ROW` classes has a state for each of its blocks. Each block has its own frame, so that its
terms can be kept, in place of its logits, before the maximum of the row is known: a power of two and a factor turn
them into probabilities of the row, and no exponential is taken twice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import types

from .jit import by_type, inlined, piece
from .lengths import BLOCK, SHORT_ROW
from .maxima import row_top
from .memory import load, number, put
from .near_zero import NEARER, plain_row, refined_below, size_of
from .online import frame, is_near, scaled, without_shift
from .shuffles import rotate
from .simd import doubles, full, is_single, select, strands, width
from .state import at_infinity, factor_of_block, finite_rest, log_total, merge, others
from .sums import empty_sum
from .visits import row_sum, scalar
from .writes import Terms


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
def block_state(like, x, kept, row, start, stop, scale, empty):
    """The state ``(m, r, rest)`` of ``x[row, start:stop]``: ``sum(exp(x*scale)) = exp(m*scale) * (1 + r + rest)``.

    The terms, in the frame of the block, stay in `kept` unless that is None. The sum begins with `empty`.
    """
    top = row_top(like, x, row, start, stop)
    nan = nan_of(like, x, row, start, stop, scalar(top))
    shape = frame(anchor(top), scale)
    if is_near(shape):
        total, rest, count = row_sum(like, x, kept, top, row, start, stop, without_shift(shape), scale, empty)
    else:
        total, rest, count = row_sum(like, x, kept, top, row, start, stop, shape, scale, empty)
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


@inlined
def anchor(top):
    """The number whose frame a block has: its maximum, or 0 if all of it is -inf, for terms of 0."""
    return select(top == -np.inf, full(top, 0.0), top)


@by_type
def note(tops, block, m):
    """Note the maximum of a block, unless `tops` is None."""
    if isinstance(tops, types.NoneType):
        return lambda tops, block, m: None
    return lambda tops, block, m: put(tops, (0, block, 0), m)


@piece
def row_state(like, x, kept, tops, row, scale, empty):
    """The state of a whole row: of its one block, or of its blocks merged in order.

    The maxima of the blocks of a long row stay in `tops`, their terms, each in the frame of its block, in `kept`,
    unless these are None.
    """
    n = x.shape[1]
    state = block_state(like, x, kept, row, 0, n if n <= SHORT_ROW else BLOCK, scale, empty)
    note(tops, 0, state[0])
    if n > SHORT_ROW:
        for start in range(BLOCK, n, BLOCK):
            of_block = block_state(like, x, kept, row, start, min(start + BLOCK, n), scale, empty)
            note(tops, start // BLOCK, of_block[0])
            state = merge(state, of_block, scale)
    return state


def over_terms(write: Any) -> Any:
    """``write(like, x, out, row, start, stop, terms, q, rest, more)`` for the blocks of ``x[row, start:stop]``.

    The maxima of the blocks are ``tops[at, block, 0]``. Their terms, each in the frame of its block, are in `kept`, or
    taken from x again if that is None; times the pair ``q + rest`` they are the probabilities of the row, whose state
    is `state`.
    """

    @inlined
    def run(like, x, out, kept, tops, at, row, start, stop, state, scale, more):
        for first in range(start, stop, BLOCK):
            m = number(tops, (at, first // BLOCK, 0))
            shape = frame(anchor(full(like, m)), scale)
            power, q, rest = factor_of_block(like, state, m, scalar(shape.peak), scalar(shape.lost), scale)
            terms = Terms(kept, shape, scale, full(like, power))
            write(like, x, out, row, first, min(first + BLOCK, stop), terms, q, rest, more)

    return run


@by_type
def refined(like, x, row, total, scale):
    """A log-sum-exp of few classes, or near zero, once more from float64 terms where they were float32."""
    if not is_single(like):
        return lambda like, x, row, total, scale: total

    def again(like, x, row, total, scale):
        limit = refined_below(x)
        if x.shape[1] <= strands(like):
            if size_of(total) < limit:
                total = plain_row(x, row, scale)
            limit = NEARER
        if size_of(total) < limit:
            wider = doubles(0.0)
            m, r, rest = row_state(wider, x, None, None, row, scale, empty_sum(wider))
            return log_total(m, r, rest, scale)
        return total

    return again
