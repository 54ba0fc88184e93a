"""Gradients through softmax and log-softmax of columns; `backward` has the formulas.

A sum needs all classes of a column, but each of its strands only its own. So arrays are summed class by class as they
are copied to their tiles, four classes of a strand at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .backward import first, log_softmax_gradient, product, softmax_gradient
from .columns import column_fold, fold_strands, folded, load_sum, store_sum
from .jit import by_type, inlined, piece
from .lengths import KEPT
from .memory import load, store
from .online import add, empty_sum, sum_of_one, whole
from .simd import narrow, strands, width
from .sweeps import ColumnWork, nowhere, over_classes
from .tiles import array_or_tile, copied, needs_no_tile
from .views import ViewType, terms_in


class Strands(NamedTuple):
    """Room for what strands come to: for one term each, in the lanes' type, and for a sum each."""

    terms: Any
    sums: Any


@by_type
def perhaps_copied(like, tile, x, j, i, count, ahead):
    """The numbers of a class, copied to the tile if there is one."""
    if isinstance(tile, ViewType):
        return lambda like, tile, x, j, i, count, ahead: copied(like, tile, x, j, i, count, ahead)
    return lambda like, tile, x, j, i, count, ahead: load(like, x, (0, j, i), count, 0.0)


@inlined
def has_few(like, n):
    """Whether a strand of n classes has so few terms that their sum is one term."""
    return n <= KEPT * strands(like)


@inlined
def note(like, room, n, j, i, four):
    """Add four terms, of which class j is the first, to what their strand comes to, or begin with them."""
    k = j % strands(like)
    if has_few(like, n):
        store(room.terms, (0, k, i), four, None)
    else:
        before = empty_sum(like) if j == k else load_sum(like, room.sums, k, i)
        store_sum(like, room.sums, k, i, add(before, four))


@inlined
def total_of_strands(like, room, n, i):
    """What the columns from i on come to; `whole` adds a rest, so that a sum of nothing but -0 is 0, as in rows."""
    w = strands(like)
    total = fold_strands(like, room.terms, i, min(w, n)) if has_few(like, n) else column_fold(like, room.sums, i, w)
    return narrow(like, whole(total[0], total[1]))


def sums_of(summand: Any) -> Any:
    """Find what the strands of some columns come to, copying both arrays to `tiles` if these are not None."""

    @inlined
    def at(like, g, y, tiles, j, i, count, ahead):
        here = perhaps_copied(like, tiles[0], g, j, i, count, ahead)
        return summand(here, perhaps_copied(like, tiles[1], y, j, i, count, ahead))

    @inlined
    def of_four(like, g, y, tiles, j, i, count):
        """Class j and the three that follow it in its strand, of those that there are."""
        n, w = g.shape[1], strands(like)
        ahead = 1 if (j + 1) % w else 3 * w + 1
        total = at(like, g, y, tiles, j, i, count, ahead)
        if j + w < n:
            total = total + at(like, g, y, tiles, j + w, i, count, ahead)
        if j + 2 * w < n:
            more = at(like, g, y, tiles, j + 2 * w, i, count, ahead)
            if j + 3 * w < n:
                more = more + at(like, g, y, tiles, j + 3 * w, i, count, ahead)
            total = total + more
        return total

    @inlined
    def run(like, g, y, tiles, count, room):
        n, w = g.shape[1], strands(like)
        for group in range(0, n, 4 * w):
            for j in range(group, min(group + w, n)):
                for i in range(0, count, width(like)):
                    if i + width(like) <= count:
                        note(like, room, n, j, i, of_four(like, g, y, tiles, j, i, None))
                    else:
                        note(like, room, n, j, i, of_four(like, g, y, tiles, j, i, count - i))

    return run


def few_totals_of(summand: Any) -> Any:
    """Find what the columns from i on come to, of no more classes than strands: in registers, without a room."""

    @inlined
    def one_class(like, seen, k, at):
        g, y = seen
        i, count = at
        return sum_of_one(summand(load(like, g, (0, k, i), count, 0.0), load(like, y, (0, k, i), count, 0.0)))

    fold = folded(one_class)

    @inlined
    def total_of_few(like, g, y, i, count):
        high, rest = fold(like, (g, y), (i, count), g.shape[1])
        return narrow(like, whole(high, rest))

    return total_of_few


def gradient_columns(summand: Any, gradient: Any) -> ColumnWork:
    """The work on columns, from what is summed and what is written."""
    find_sums, total_of_few = sums_of(summand), few_totals_of(summand)

    @piece
    def totals_at_hand(like, g, y, count, rooms):
        for i in range(0, count, width(like)):
            store(rooms.numbers, (0, 0, i), total_of_few(like, g, y, i, None), None)

    @piece
    def totals_of_tile(like, g, y, count, rooms):
        room = Strands(rooms.strands, rooms.wides)
        find_sums(like, g, y, (rooms.tile, rooms.second), count, room)
        for i in range(0, count, width(like)):
            store(rooms.numbers, (0, 0, i), total_of_strands(like, room, g.shape[1], i), None)

    @inlined
    def visit(like, g, y, place, rooms, past):
        # Also where results go past the caches, unlike other work (see `sweeps`): 10 classes took 0.70 and 0.65 there.
        at_hand = needs_no_tile(like, rooms.tile, g, place[2])
        if at_hand:
            totals_at_hand(like, g, y, place[2], rooms)
        else:
            totals_of_tile(like, g, y, place[2], rooms)
        return array_or_tile(at_hand, rooms.tile, g), array_or_tile(at_hand, rooms.second, y)

    @inlined
    def result_at(like, seen, j, i, count, numbers, extra):
        g, y = load(like, seen[0], (0, j, i), count, 0.0), load(like, seen[1], (0, j, i), count, 0.0)
        return gradient(g, y, numbers[0])

    @piece
    def vector(like, g, out, kept, count, place, y, sums):
        if g.shape[1] <= strands(like):
            total = total_of_few(like, g, y, 0, count)
        else:
            room = Strands(terms_in(like, sums), sums)
            find_sums(like, g, y, (None, None), width(like) if count is None else place[2], room)
            total = total_of_strands(like, room, g.shape[1], 0)
        numbers = (total,)
        for j in range(g.shape[1]):
            store(out, (0, j, 0), result_at(like, (g, y), j, 0, count, numbers, None), count)

    return ColumnWork(visit, nowhere, vector, over_classes(result_at, 1))


softmax_backward_columns = gradient_columns(product, softmax_gradient)
log_softmax_backward_columns = gradient_columns(first, log_softmax_gradient)
