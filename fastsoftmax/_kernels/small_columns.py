"""The same for small arrays with their classes on another axis than the last (see `small`)."""

from __future__ import annotations

from .column_loops import all_columns
from .jit import inlined
from .launch import NO_ROOM, unlocked
from .lengths import SMALL, SMALL_LOSSES, worth_columns
from .objects import CONTIGUOUS, array_as, axes, dtype, extent, flags, seen_as
from .small import (
    DONE,
    LARGE,
    LARGE_LOSS,
    LOCKED,
    NO_LOSS,
    OTHER,
    PLACE,
    are_apart,
    is_dense,
    is_like,
    is_of,
    mean_loss,
)

are_columns = inlined(worth_columns)


def over_small_columns(work, reduces=False):
    """Run the work on small arrays, and say whether it was `DONE`; one that `reduces` writes a number a column."""
    run = all_columns(work)

    def small(x, out, kind, axis):
        at = place_of(axis, x)
        if not is_dense(x, kind):
            return OTHER
        outer, classes, inner = before(x, at), extent(x, at), after(x, at)
        if not are_columns(classes, inner):
            return OTHER
        if reduces:
            if not (dtype(out) == dtype(x) and flags(out) & PLACE == PLACE and has_axes_but(out, x, at)):
                return OTHER
        elif not is_like(out, x, axes(x), PLACE):
            return OTHER
        written = 1 if reduces else classes
        logits, results = seen_as(x, (outer, classes, inner)), seen_as(out, (outer, written, inner))
        size = outer * classes * inner
        if not are_apart(results, logits, outer * written * inner, size, not reduces):
            return OTHER
        if size > SMALL:
            return LARGE
        if unlocked(run, (logits, results, None), size > LOCKED):
            raise MemoryError(NO_ROOM)
        return DONE

    return small


def over_small_column_gradients(work):
    """The same for gradients from two arrays."""
    run = all_columns(work)

    def small(g, y, out, kind, axis):
        count, at = axes(g), place_of(axis, g)
        if not (is_dense(g, kind) and is_like(y, g, count, CONTIGUOUS) and is_like(out, g, count, PLACE)):
            return OTHER
        shape = before(g, at), extent(g, at), after(g, at)
        if not are_columns(shape[1], shape[2]):
            return OTHER
        size = shape[0] * shape[1] * shape[2]
        gradients, outputs, results = seen_as(g, shape), seen_as(y, shape), seen_as(out, shape)
        if not (are_apart(results, gradients, size, size, True) and are_apart(results, outputs, size, size, True)):
            return OTHER
        if size > SMALL:
            return LARGE
        if unlocked(run, (gradients, results, outputs), size > LOCKED):
            raise MemoryError(NO_ROOM)
        return DONE

    return small


def over_small_column_losses(work, place, needed):
    """The mean loss of a few columns in one call, as `small.over_small_losses`; of none if `most` is 0."""
    mean = mean_loss(all_columns(work), place)

    def small(x, target, out, kind, label_kind, ignored, most, axis):
        at = place_of(axis, x)
        if not (is_dense(x, kind) and is_like(out, x, axes(x), needed)):
            return NO_LOSS
        if not (is_of(target, label_kind) and flags(target) & CONTIGUOUS and has_axes_but(target, x, at)):
            return NO_LOSS
        shape = before(x, at), extent(x, at), after(x, at)
        if not are_columns(shape[1], shape[2]):
            return NO_LOSS
        size = shape[0] * shape[1] * shape[2]
        logits, gradients = seen_as(x, shape), seen_as(out, shape)
        if not are_apart(gradients, logits, size, size, True):
            return NO_LOSS
        if size > SMALL_LOSSES or most == 0:
            return LARGE_LOSS
        return mean(logits, gradients, array_as(target, (shape[0] * shape[2],)), ignored)

    return small


@inlined
def place_of(axis, x):
    """An axis without its sign; the caller has made sure that there is such a one, but not that there still is."""
    count = axes(x)
    return min(max(axis + count if axis < 0 else axis, 0), max(count - 1, 0))


@inlined
def before(x, at):
    """How many outer indices there are: the product of the axes before one."""
    product = 1
    for axis in range(at):
        product *= extent(x, axis)
    return product


@inlined
def after(x, at):
    """The columns beside each other: the product of the axes behind one."""
    product = 1
    for axis in range(at + 1, axes(x)):
        product *= extent(x, axis)
    return product


@inlined
def has_axes_but(other, x, at):
    """Whether an array has all axes of another but one."""
    if axes(other) != axes(x) - 1:
        return False
    same = True
    for axis in range(axes(other)):
        same &= extent(other, axis) == extent(x, axis + (1 if axis >= at else 0))
    return same
