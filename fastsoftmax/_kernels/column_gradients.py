"""Gradients through softmax and log-softmax of columns; `backward` has the formulas.

Sums need all classes of a column, but each strand's terms alone: so arrays are summed class by class as they are copied
to their tiles, four classes of a strand at once.
"""

from __future__ import annotations

from typing import Any

from .backward import first, log_softmax_gradient, product, softmax_gradient
from .columns import column_fold, fold_strands, load_sum, store_sum
from .jit import by_type, inlined, piece
from .lengths import KEPT
from .memory import load, store
from .online import add, empty_sum, whole
from .simd import narrow, strands, width
from .sweeps import ColumnWork, over_classes
from .tiles import ask_for_class
from .views import ViewType, terms_in


@by_type
def copied(like, x, tile, j, i, count, ahead):
    """The numbers of a class, which are copied to the tile if there is one; the class `ahead` of it is asked for."""
    if not isinstance(tile, ViewType):
        return lambda like, x, tile, j, i, count, ahead: load(like, x, (0, j, i), count, 0.0)

    def kept(like, x, tile, j, i, count, ahead):
        ask_for_class(like, x, j + ahead, i)
        v = load(like, x, (0, j, i), count, 0.0)
        store(tile, (0, j, i), v, None)
        return v

    return kept


@inlined
def keep_terms(like, terms, k, i, four):
    """Of few classes a strand has no more terms."""
    store(terms, (0, k, i), four, None)


@inlined
def add_terms(like, sums, j, i, four):
    """Add to the sum of a strand, or begin it."""
    w = strands(like)
    before = empty_sum(like) if j < w else load_sum(like, sums, j % w, i)
    store_sum(like, sums, j % w, i, add(before, four))


def gradient_columns(summand: Any, gradient: Any) -> ColumnWork:
    """The work on columns, from what is summed and what is written."""

    @inlined
    def summand_at(like, g, y, tiles, j, i, count, ahead):
        return summand(copied(like, g, tiles[0], j, i, count, ahead), copied(like, y, tiles[1], j, i, count, ahead))

    @inlined
    def of_strand(like, g, y, tiles, j, i, count):
        """The sum of class j and the three that follow it in its strand, of those that there are."""
        n, w = g.shape[1], strands(like)
        ahead = 1 if (j + 1) % w else 3 * w + 1
        total = summand_at(like, g, y, tiles, j, i, count, ahead)
        if j + w < n:
            total = total + summand_at(like, g, y, tiles, j + w, i, count, ahead)
        if j + 2 * w < n:
            more = summand_at(like, g, y, tiles, j + 2 * w, i, count, ahead)
            if j + 3 * w < n:
                more = more + summand_at(like, g, y, tiles, j + 3 * w, i, count, ahead)
            total = total + more
        return total

    @inlined
    def sums_of_strand(like, g, y, tiles, j, count, keep, sums):
        """Four classes of a strand, for all columns."""
        for i in range(0, count, width(like)):
            if i + width(like) <= count:
                keep(like, sums, j, i, of_strand(like, g, y, tiles, j, i, None))
            else:
                keep(like, sums, j, i, of_strand(like, g, y, tiles, j, i, count - i))

    @inlined
    def sums_of(like, g, y, tiles, count, strands_room, wides):
        n, w = g.shape[1], strands(like)
        for j in range(n):
            if n <= KEPT * w and j < w:
                sums_of_strand(like, g, y, tiles, j, count, keep_terms, strands_room)
            elif n > KEPT * w and j // w % KEPT == 0:
                sums_of_strand(like, g, y, tiles, j, count, add_terms, wides)

    @inlined
    def total_of(like, n, strands_room, wides, i):
        w = strands(like)
        if n <= KEPT * w:
            total = fold_strands(like, strands_room, i, min(w, n))
        else:
            total = column_fold(like, wides, i, w)
        return narrow(like, whole(total[0], total[1]))

    @piece
    def totals_of_tile(like, g, y, count, rooms):
        sums_of(like, g, y, (rooms.tile, rooms.second), count, rooms.strands, rooms.wides)
        for i in range(0, count, width(like)):
            store(rooms.numbers, (0, 0, i), total_of(like, g.shape[1], rooms.strands, rooms.wides, i), None)

    @inlined
    def visit(like, g, y, place, rooms):
        totals_of_tile(like, g, y, place[2], rooms)
        return rooms.tile, rooms.second, rooms.wides

    @inlined
    def result_at(like, seen, j, i, count, numbers, extra):
        g, y = load(like, seen[0], (0, j, i), count, 0.0), load(like, seen[1], (0, j, i), count, 0.0)
        return gradient(g, y, numbers[0])

    @piece
    def vector(like, g, out, count, place, y, sums):
        sums_of(like, g, y, (None, None), place[2] if count is not None else width(like), terms_in(like, sums), sums)
        total = total_of(like, g.shape[1], terms_in(like, sums), sums, 0)
        for j in range(g.shape[1]):
            store(out, (0, j, 0), result_at(like, (g, y), j, 0, count, (total,), None), count)

    return ColumnWork(visit, vector, over_classes(result_at, 1))


softmax_backward_columns = gradient_columns(product, softmax_gradient)
log_softmax_backward_columns = gradient_columns(first, log_softmax_gradient)
