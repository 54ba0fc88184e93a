"""Gradients through softmax and log-softmax of columns; `backward` has the formulas.

A sum needs all classes of a column, but each of its strands only its own. So arrays are read class by class, four
classes of a strand at once, and what strands come to is kept. Nothing else is: what is written takes two loads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .backward import first, log_softmax_gradient, product, softmax_gradient
from .columns import column_fold, fold_strands, folded, load_sum, store_sum
from .jit import inlined, piece
from .lengths import KEPT
from .memory import load, store
from .simd import narrow, strands, width
from .sums import add, empty_sum, sum_of_one, whole
from .sweeps import ColumnWork, nowhere, over_classes
from .views import terms_in


class Strands(NamedTuple):
    """Room for what strands come to: for one term each, in the lanes' type, and for a sum each."""

    terms: Any
    sums: Any


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
    """Find what the strands of some columns come to."""

    @inlined
    def at(like, g, y, j, i, count):
        return summand(load(like, g, (0, j, i), count, 0.0), load(like, y, (0, j, i), count, 0.0))

    @inlined
    def of_four(like, g, y, j, i, count):
        """Class j and the three that follow it in its strand, of those that there are."""
        n, w = g.shape[1], strands(like)
        total = at(like, g, y, j, i, count)
        if j + w < n:
            total = total + at(like, g, y, j + w, i, count)
        if j + 2 * w < n:
            more = at(like, g, y, j + 2 * w, i, count)
            if j + 3 * w < n:
                more = more + at(like, g, y, j + 3 * w, i, count)
            total = total + more
        return total

    @inlined
    def run(like, g, y, count, room):
        n, w = g.shape[1], strands(like)
        for group in range(0, n, 4 * w):
            for j in range(group, min(group + w, n)):
                for i in range(0, count, width(like)):
                    if i + width(like) <= count:
                        note(like, room, n, j, i, of_four(like, g, y, j, i, None))
                    else:
                        note(like, room, n, j, i, of_four(like, g, y, j, i, count - i))

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
    def totals_of_few(like, g, y, count, totals):
        w = width(like)
        for i in range(0, count, w):
            if i + w <= count:
                store(totals, (0, 0, i), total_of_few(like, g, y, i, None), None)
            else:
                store(totals, (0, 0, i), total_of_few(like, g, y, i, count - i), None)

    @piece
    def totals_of_many(like, g, y, count, room, totals):
        find_sums(like, g, y, count, room)
        for i in range(0, count, width(like)):
            store(totals, (0, 0, i), total_of_strands(like, room, g.shape[1], i), None)

    @inlined
    def visit(like, g, y, place, rooms, past):
        if g.shape[1] <= strands(like):
            totals_of_few(like, g, y, place[2], rooms.numbers)
        else:
            totals_of_many(like, g, y, place[2], Strands(rooms.strands, rooms.wides), rooms.numbers)
        return g, y

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
            find_sums(like, g, y, width(like) if count is None else place[2], room)
            total = total_of_strands(like, room, g.shape[1], 0)
        numbers = (total,)
        for j in range(g.shape[1]):
            store(out, (0, j, 0), result_at(like, (g, y), j, 0, count, numbers, None), count)

    return ColumnWork(visit, nowhere, vector, over_classes(result_at, 1), copies=False)


softmax_backward_columns = gradient_columns(product, softmax_gradient)
log_softmax_backward_columns = gradient_columns(first, log_softmax_gradient)
