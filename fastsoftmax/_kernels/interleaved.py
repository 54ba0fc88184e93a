"""A few columns next to each other, ``x[outer, class, inner]``, of many classes: those of an outer index become rows.

A vector of so few columns has few lanes of use, and more of them side by side have to be brought together class by
class. As contiguous rows, in room of their own, they stay in cache and take what rows take (Zen 5, of the time as
columns: 64x1000x2 softmax 0.47, 16x1000x8 0.73, 21x3000x2 0.13).
"""

from __future__ import annotations

from typing import Any

from numba.core import types

from .jit import by_type, inlined
from .simd import width
from .tiles import heap, keep_alive, tiles_of
from .transposed import PIECE, load_columns, store_columns
from .views import ViewType, few_rows, from_place, lanes_of, numbers_as_rows, rows_in, view


@inlined
def as_rows(like, tile, array, spare, o):
    """Copy the columns of an outer index to the first rows of the tile."""
    classes, n, inner = rows_in(from_place(array, o, 0)), array.shape[1], array.shape[2]
    for j in range(0, n, width(like)):
        load_columns(like, tile, j, classes, spare, j, n, inner)


@inlined
def as_columns(like, array, tile, spare, o):
    """The inverse."""
    classes, n, inner = rows_in(from_place(array, o, 0)), array.shape[1], array.shape[2]
    for j in range(0, n, width(like)):
        store_columns(like, classes, tile, j, spare, j, n, inner)


@by_type
def extra_of(like, tile, rows, extra, spare, o):
    """What the work on the rows takes besides them: an array's are copied likewise, numbers stay where they are."""
    if isinstance(extra, ViewType):

        def copied(like, tile, rows, extra, spare, o):
            as_rows(like, tile, extra, spare, o)
            return rows

        return copied
    if isinstance(extra, types.BaseTuple) and isinstance(extra[0], ViewType):
        return lambda like, tile, rows, extra, spare, o: (
            numbers_as_rows(extra[0], o),
            numbers_as_rows(extra[1], o),
            *extra[2:],
        )
    return lambda like, tile, rows, extra, spare, o: extra


@inlined
def all_classes(like, rows, results, o):
    """Results take the place of the rows, and go to theirs from there."""
    return rows


@inlined
def a_number(like, rows, results, o):
    return numbers_as_rows(results, o)


@inlined
def no_columns(like, array, tile, spare, o):
    return None


def over_interleaved(work: Any, place: Any = all_classes) -> Any:
    """``work(x, out, start, stop, extra)`` for the rows of each outer index; ``place(...)`` is its `out`."""
    write = as_columns if place is all_classes else no_columns

    def loop(first, last, tasks, x, out, extra):
        outer, n, inner = x.shape
        for task in range(first, last):
            logits, results, more = view(x), view(out), view(extra)
            like = lanes_of(logits)
            each = inner + PIECE  # columns are copied by pieces
            room = heap(like, each * tiles_of(more), n + width(like))
            tile, rows = view(room), rows_in(view(room[:, :inner, :n]))
            second, others = view(room[:, -each:]), rows_in(view(room[:, -each:-PIECE, :n]))
            spare, spare_results = few_rows(logits), few_rows(results)
            for o in range(outer * task // tasks, outer * (task + 1) // tasks):
                as_rows(like, tile, logits, spare, o)
                other = extra_of(like, second, others, more, spare, o)
                work(rows, place(like, rows, results, o), 0, inner, other)
                write(like, results, tile, spare_results, o)
            keep_alive(room)

    return loop
