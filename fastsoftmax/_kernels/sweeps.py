"""Work on columns ``x[outer, class, inner]`` in two parts: what their numbers are, and what is written of each class.

Memory likes runs of some lines, so what reads and writes an array goes through many columns class by class. What a
column's terms come to takes all of its classes at once, so it goes vector by vector, in cache. Between the two stand
the numbers of the columns, a few for each.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .jit import by_type, inlined, piece
from .memory import load, prefetch, store
from .online import bigger, frame, term
from .past import store_past, whole_lines
from .simd import full, strands, width
from .tiles import CLASSES_AHEAD, array_or_tile, load_tile, needs_no_tile
from .views import ViewType, lanes_of


class ColumnWork(NamedTuple):
    """What an operation does with columns.

    Attributes
    ----------
    visit
        ``visit(like, source, extra, place, rooms, past)``: find the numbers of some columns; gives back what results,
        which may go past the caches, are made of.
    keeps
        Where terms may be kept, from the place for results or a tile; None if nowhere.
    vector
        ``vector(like, x, out, kept, count, place, extra, sums)``: all of it for one vector of columns, without a tile;
        terms are kept in `kept`, unless that is None.
    write
        ``write(like, seen, columns, out, count, extra, past, read)``: the results, class by class, from the numbers of
        the columns, past the caches or not. While they go past, memory is asked for what follows the columns in the
        arrays `read`.
    copies
        Whether `visit` copies columns to a tile.
    """

    visit: Any
    keeps: Any
    vector: Any
    write: Any
    copies: bool = True


class Rooms(NamedTuple):
    """Room beside the arrays: a tile, numbers of columns, of strands, and some for one vector of columns."""

    tile: Any
    numbers: Any
    strands: Any
    wides: Any  # the room of strands, as float64
    sums: Any


class Seen(NamedTuple):
    """What results of `by_vectors` are made of: the array, its terms or None, a number in float64, and the maxima."""

    x: Any
    kept: Any
    wides: Any
    top: Any  # where no terms are kept


# Rows of room for the numbers of columns, and for the sums of 16 strands in float64 or 8 with their rests.
NUMBERS, STRAND_ROWS = 8, 32


def saved(count: int) -> Any:
    """Store so many vectors of numbers, in the lanes' type, from column i on."""
    if count == 0:
        return _nothing_saved
    before, last = saved(count - 1), count - 1

    @inlined
    def save(room, i, numbers):
        before(room, i, numbers)
        store(room, (0, last, i), numbers[last], None)

    return save


@inlined
def _nothing_saved(room, i, numbers):
    return None


def loaded(count: int) -> Any:
    """The tuple of them."""
    if count == 0:
        return _nothing_loaded
    before, last = loaded(count - 1), count - 1

    @inlined
    def again(like, room, i, count):
        return (*before(like, room, i, count), load(like, room, (0, last, i), count, 0.0))

    return again


@inlined
def _nothing_loaded(like, room, i, count):
    return ()


@inlined
def column_top(like, x, i, count):
    """The maximum of each of the columns that begin at ``x[0, :, i]``."""
    n = x.shape[1]
    a = full(like, -np.inf)
    b, c, d = a, a, a
    j = 0
    while j + 4 <= n:
        a = bigger(load(like, x, (0, j, i), count, 0.0), a)
        b = bigger(load(like, x, (0, j + 1, i), count, 0.0), b)
        c = bigger(load(like, x, (0, j + 2, i), count, 0.0), c)
        d = bigger(load(like, x, (0, j + 3, i), count, 0.0), d)
        j += 4
    while j < n:
        a = bigger(load(like, x, (0, j, i), count, 0.0), a)
        j += 1
    return bigger(bigger(a, b), bigger(c, d))


@inlined
def tops_of_columns(like, x, tops, count):
    """The maxima of whole vectors of columns, to the first row of `tops`."""
    for i in range(0, count, width(like)):
        store(tops, (0, 0, i), column_top(like, x, i, None), None)


def by_vectors(settle: Any, result: Any, numbers: int, keeps: Any) -> ColumnWork:
    """Work whose numbers come of all classes of a vector of columns.

    ``settle(like, x, kept, top, i, count, place, extra, sums, wides)`` finds as many vectors of `numbers` for the
    columns from i on, whose maxima are `top`. It may leave terms in `kept`, and a number more in `wides`.
    ``result(like, seen, j, i, count, numbers, extra)`` is what is written of class j, of something `Seen`, and None if
    nothing is.
    """
    save = saved(numbers)

    @piece
    def settled(like, x, i, place, extra, rooms):
        top = load(like, rooms.numbers, (0, 0, i), None, 0.0)
        made = settle(like, x, keeps(rooms.tile), top, i, None, place, extra, rooms.sums, rooms.wides)
        save(rooms.numbers, i, made)

    @inlined
    def visit(like, source, extra, place, rooms, past):
        o, start, count = place
        # What comes from memory is better read class by class: 4 and 10 classes, past the caches, took 1.08 of the time
        # of softmax at hand, 0.94 to 1.25 of that of loss and gradient.
        at_hand = not past and needs_no_tile(like, rooms.tile, source, count)
        x = array_or_tile(at_hand, rooms.tile, source)
        if at_hand:
            tops_of_columns(like, source, rooms.numbers, count)
        else:
            load_tile(like, rooms.tile, rooms.numbers, source, count)
        for i in range(0, count, width(like)):
            settled(like, x, i, (o, start + i, min(count - i, width(like))), extra, rooms)
        return Seen(x, keeps(rooms.tile), rooms.wides, None)

    @piece
    def numbers_alone(like, x, out, kept, count, place, extra, sums):
        settle(like, x, None, column_top(like, x, 0, count), 0, count, place, extra, sums, sums)

    @piece
    def vector(like, x, out, kept, count, place, extra, sums):
        top = column_top(like, x, 0, count)
        made, seen = settle(like, x, kept, top, 0, count, place, extra, sums, sums), Seen(x, kept, sums, top)
        for j in range(out.shape[1]):
            store(out, (0, j, 0), result(like, seen, j, 0, count, made, extra), count)

    return ColumnWork(visit, keeps, numbers_alone if result is None else vector, over_classes(result, numbers))


@inlined
def nowhere(array):
    return None


@by_type
def term_again(like, seen, j, i, count, scale):
    """Terms from where they were kept, or once more where `kept` is None."""
    if isinstance(dict(zip(seen.fields, seen.types, strict=True))["kept"], ViewType):
        return lambda like, seen, j, i, count, scale: load(like, seen.kept, (0, j, i), count, 0.0)

    def again(like, seen, j, i, count, scale):
        return term(load(like, seen.x, (0, j, i), count, 0.0), frame(seen.top, scale), scale)

    return again


def over_classes(result: Any, numbers: int) -> Any:
    """Write ``result(like, seen, j, i, count, numbers, extra)`` for some columns, past the caches or not."""
    if result is None:
        return nothing_written
    again = loaded(numbers)

    @inlined
    def run(like, seen, columns, out, j, start, stop, extra):
        """The columns of a class; their lines of a class to come are asked for."""
        w = width(like)
        for i in range(start, stop, w):
            prefetch(out, (0, j + CLASSES_AHEAD, i), True)
            if w > strands(like) and i + w // 2 < stop:
                prefetch(out, (0, j + CLASSES_AHEAD, i + w // 2), True)
            if i + w <= stop:
                made = again(like, columns, i, None)
                store(out, (0, j, i), result(like, seen, j, i, None, made, extra), None)
            else:
                made = again(like, columns, i, stop - i)
                store(out, (0, j, i), result(like, seen, j, i, stop - i, made, extra), stop - i)

    @inlined
    def write(like, seen, columns, out, count, extra, past, read):
        one = lanes_of(out)
        for j in range(out.shape[1]):
            first, last = whole_lines(out, (0, j, 0), count) if past else (0, 0)
            if past:
                run(like, seen, columns, out, j, 0, first, extra)
            for i in range(first, last, width(one)):
                prefetch(read[0], (0, j, i + count), False)
                prefetch(read[1], (0, j, i + count), False)
                made = again(one, columns, i, None)
                store_past(out, (0, j, i), result(one, seen, j, i, None, made, extra))
            run(like, seen, columns, out, j, last, count, extra)

    return write


@inlined
def nothing_written(like, seen, columns, out, count, extra, past, read):
    return None
