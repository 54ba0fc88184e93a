"""A few columns next to each other, ``x[outer, class, inner]``, of many classes: those of an outer index become rows.

A vector of so few columns has few lanes of use, and more of them side by side have to be brought together class by
class. As contiguous rows, in room of their own, they stay in cache and take what rows take (Zen 5, of the time as
columns: 64x1000x2 softmax 0.47, 16x1000x8 0.73, 21x3000x2 0.13).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba.core import types

from .jit import by_type, inlined
from .lengths import rows_of_pieces
from .simd import width
from .tiles import heap, keep_alive, tiles_of
from .transposed import load_columns, store_columns
from .views import ViewType, few_rows, from_place, lanes_of, numbers_as_rows, rows_in, view

rows_taken = inlined(rows_of_pieces)


@inlined
def to_rows(like, tile, array, spare, o):
    """Copy the columns of an outer index to the first rows of the tile."""
    classes, n, inner = rows_in(from_place(array, o, 0)), array.shape[1], array.shape[2]
    for j in range(0, n, width(like)):
        load_columns(like, tile, j, classes, spare, j, n, inner)


@inlined
def to_columns(like, array, tile, spare, o):
    """The inverse."""
    classes, n, inner = rows_in(from_place(array, o, 0)), array.shape[1], array.shape[2]
    for j in range(0, n, width(like)):
        store_columns(like, classes, tile, j, spare, j, n, inner)


@by_type
def extra_of_rows(like, tile, rows, extra, spare, o):
    """What the work on rows takes besides them: an array is copied likewise, to `rows`; numbers stay where they are."""
    if isinstance(extra, ViewType):

        def copied(like, tile, rows, extra, spare, o):
            to_rows(like, tile, extra, spare, o)
            return rows

        return copied
    if isinstance(extra, types.BaseTuple) and isinstance(extra[0], ViewType):
        return lambda like, tile, rows, extra, spare, o: (
            numbers_as_rows(extra[0], o),
            numbers_as_rows(extra[1], o),
            *extra[2:],
        )
    return lambda like, tile, rows, extra, spare, o: extra


class Results(NamedTuple):
    """Where the work on rows writes, ``place(rows, out, o)``, and ``write(like, out, tile, spare, o)`` afterwards."""

    place: Any
    write: Any


@inlined
def place_of_rows(rows, out, o):
    return rows


@inlined
def place_of_numbers(rows, out, o):
    return numbers_as_rows(out, o)


@inlined
def written_already(like, out, tile, spare, o):
    return None


ALL_CLASSES = Results(place_of_rows, to_columns)
A_NUMBER = Results(place_of_numbers, written_already)


def over_interleaved(work: Any, results: Results = ALL_CLASSES) -> Any:
    """``work(x, out, start, stop, extra)`` for the rows of each outer index, in a room of their own."""
    place, write = results

    def loop(first, last, tasks, x, out, extra):
        outer, n, inner = x.shape
        taken = rows_taken(inner)
        for task in range(first, last):
            logits, written, more = view(x), view(out), view(extra)
            like = lanes_of(logits)
            room = heap(like, taken * tiles_of(more), n + width(like))
            tile, rows = view(room), rows_in(view(room[:, :inner, :n]))
            # Of a second array; nothing if there is none.
            second = view(room[:, taken:])
            second_rows = rows_in(view(room[:, taken : taken + inner, :n]))
            spare, spare_results = few_rows(logits), few_rows(written)
            for o in range(outer * task // tasks, outer * (task + 1) // tasks):
                to_rows(like, tile, logits, spare, o)
                other = extra_of_rows(like, second, second_rows, more, spare, o)
                work(rows, place(rows, written, o), 0, inner, other)
                write(like, written, tile, spare_results, o)
            keep_alive(room)

    return loop
