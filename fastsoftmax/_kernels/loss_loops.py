"""The loops of losses: with labels they are the whole of a plain mean loss, from reading these to adding it up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .jit import Loop, by_type, inlined
from .labels import labels_read
from .launch import NO_ROOM
from .objects import CHANGED, are_planned, loaned
from .small import NO_LOSS
from .soft_targets import column_total
from .views import view

# The last of the arguments where there are no labels.
NO_LABELS = np.empty(0, np.int64), (0, 0)


class LossLoop(Loop):
    """A `Loop` over ``(x, out, extra, labels, (classes, ignored))``: labels are one for each row or column, or none.

    With labels it gives back the mean loss, or `NO_LOSS` before anything is written if a label is none or no row
    counts; what `extra` holds is left alone, and what a loss without options takes is taken instead.
    """

    def over(self, run: Any) -> Callable[..., Any]:
        def loop(arguments, shape, first, last, tasks, launcher):
            x, out, extra, labels, limits = arguments
            if not (are_planned(arguments, shape) and are_labels(labels, x, limits)):
                raise ValueError(CHANGED)
            n = labels.shape[0]
            if n == 0:
                if run((x, out, extra), first, last, tasks, launcher):
                    raise MemoryError(NO_ROOM)
                return 0.0
            table = np.empty((n, 1))
            bad, _, count = labels_read(labels, table, 0, n, limits)
            mean, failed = NO_LOSS, False
            if bad < 0 < count:
                failed = run(with_table(x, out, extra, table, 1.0 / count), first, last, tasks, launcher)
                mean = column_total(view(table)) / count
            table[0, 0] = 0.0  # it lives until here: what is loaned keeps nothing alive
            if failed:
                raise MemoryError(NO_ROOM)
            return mean

        return loop


@inlined
def are_labels(labels, x, limits):
    """Whether there is a label for each row or column of x, of as many classes, or none at all."""
    n = labels.shape[0]
    dense = n == 1 or labels.strides[0] == 8
    return n == 0 or (n * x.shape[1] == x.size and x.shape[1] == limits[0] and dense)


@inlined
def flat(x):
    return x.shape[0], 1


@inlined
def deep(x):
    return x.shape[0], 1, x.shape[2]


@by_type
def with_table(x, out, extra, table, factor):
    """What the work on a loss without options takes, with a table for the numbers of rows."""
    if len(extra) > 9:  # with a scale there are options
        return lambda x, out, extra, table, factor: (x, out, extra)
    shape, alone = deep if extra[0].ndim == 3 else flat, out == extra[0]

    def plain(x, out, extra, table, factor):
        rows = loaned(table, shape(x), extra[0])
        return x, rows if alone else out, (rows, extra[1], extra[2], 0.0, 0.0, 0.0, 0.0, factor, 0.0)

    return plain
