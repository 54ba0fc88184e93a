"""The maximum of a row of contiguous classes ``x[row, class]``, four vectors at a time."""

from __future__ import annotations

import numpy as np

from .jit import inlined
from .memory import ask_for, load
from .online import bigger
from .shuffles import abreast, part, rotate
from .simd import full, width


@inlined
def largest(v):
    """The largest lane, in every lane."""
    if width(v) == 16:
        v = bigger(rotate(v, 8), v)
    v = bigger(rotate(v, 4), v)
    v = bigger(rotate(v, 2), v)
    return bigger(rotate(v, 1), v)


@inlined
def row_top(like, x, row, start, stop):
    """The maximum of ``x[row, start:stop]`` in every lane; NaN counts for nothing, no element gives -inf."""
    return largest(lane_tops(like, x, row, start, stop))


@inlined
def lane_tops(like, x, row, start, stop):
    """The same, with a maximum in each lane."""
    return more_tops(like, x, row, start, stop, full(like, -np.inf))


@inlined
def more_tops(like, x, row, start, stop, a):
    """The maxima `a` with those of some more classes."""
    w, none = width(like), full(like, -np.inf)
    b, c, d = none, none, none
    j = start
    while j + 4 * w <= stop:
        ask_for(like, x, row, j, False)
        a = bigger(load(like, x, (row, j), None, 0.0), a)
        b = bigger(load(like, x, (row, j + w), None, 0.0), b)
        c = bigger(load(like, x, (row, j + 2 * w), None, 0.0), c)
        d = bigger(load(like, x, (row, j + 3 * w), None, 0.0), d)
        j += 4 * w
    a = top_tail(like, x, row, j, stop, a)
    return bigger(bigger(a, b), bigger(c, d))


@inlined
def top_tail(like, x, row, start, stop, top):
    """The maxima of what is left of a row, fewer than four vectors."""
    w = width(like)
    if stop - start == 2 * w:
        v = load(abreast(like, 2), x, (row, start), None, 0.0)
        return bigger(bigger(part(v, 0, like), part(v, 1, like)), top)
    if stop - start > 3 * w:
        return bigger(top_of_four(like, load(abreast(like, 4), x, (row, start), stop - start, -np.inf)), top)
    if stop - start > 2 * w:
        top = bigger(load(like, x, (row, start + 2 * w), stop - start - 2 * w, -np.inf), top)
        v = load(abreast(like, 2), x, (row, start), None, 0.0)
        return bigger(bigger(part(v, 0, like), part(v, 1, like)), top)
    if stop - start > w:
        v = load(abreast(like, 2), x, (row, start), stop - start, -np.inf)
        return bigger(bigger(part(v, 0, like), part(v, 1, like)), top)
    if stop > start:
        return bigger(load(like, x, (row, start), stop - start, -np.inf), top)
    return top


@inlined
def top_of_four(like, v):
    return bigger(bigger(part(v, 0, like), part(v, 1, like)), bigger(part(v, 2, like), part(v, 3, like)))
