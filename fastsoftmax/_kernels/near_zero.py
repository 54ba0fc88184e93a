"""Log-sum-exps of float32 logits from float64 terms: those near zero, and all of so few classes that many are.

``m + log(sum(exp(x - m)))`` is a small difference where it is near zero, and there the rounding of float32 terms shows.
Up to 16 classes are added one after the other, in every layout.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .elementary import exp_plain, log_plain
from .jit import inlined, piece
from .memory import load, number
from .online import bigger, scaled
from .simd import full, select, wide

# Nearer to zero than this they are found once more: those of float32 terms, and those of float64 terms without rests.
NEAR_ZERO, NEARER = 0.5, 2.0**-20
# Random ones of no more classes are near zero so often that float64 terms alone are found (Zen 5, of the time of both:
# 2 to 4 classes 0.41, 5 0.51, 6 0.65).
FEWEST = 6


@inlined
def refined_below(x):
    """How near zero log-sum-exps of float32 terms are found once more: any number, of the fewest classes."""
    return np.inf if x.shape[1] <= FEWEST else NEAR_ZERO


@inlined
def size_of(total):
    """Its distance from zero."""
    return select(total < 0.0, 0.0 - total, total)


def plain_total_of(read: Any) -> Any:
    """``m + log(sum(exp(x - m)))`` of no more classes than strands, ``read(x, j, at)`` in float64, as it stands."""

    @inlined
    def run(x, m, at, scale):
        total = full(m, 0.0)
        for j in range(x.shape[1]):
            total = total + exp_plain(scaled(read(x, j, at) - m, scale)[0])
        return scaled(m, scale)[0] + select(total == total, log_plain(total), total)

    return run


@inlined
def in_column(x, j, at):
    like, i, count = at
    return wide(load(like, x, (0, j, i), count, 0.0))


@inlined
def in_row(x, j, row):
    return number(x, (row, j))


_of_columns, _of_row = plain_total_of(in_column), plain_total_of(in_row)


@piece
def plain_columns(like, x, top, i, count, scale):
    """The log-sum-exps of the columns from i on, whose maxima are `top`; no number where these are infinite."""
    return _of_columns(x, wide(top), (like, i, count), scale)


@piece
def plain_row(x, row, scale):
    """That of a row."""
    m = -np.inf
    for j in range(x.shape[1]):
        m = bigger(number(x, (row, j)), m)
    return _of_row(x, m, row, scale)
