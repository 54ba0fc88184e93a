"""Rows of a few vectors, as many at once as a vector has lanes.

Where a row is a few vectors long, finding its maximum across the lanes, its sum across the lanes and what to make of
them takes longer than the row itself. Here the lanes of as many rows, a group, are folded together, and then all that
follows a maximum or a sum is done once for all rows, each in a lane of its own, by the functions of `columns`. The
numbers of each row are then spread from memory, which takes no instruction of its own. The order of every sum is that
of `online`.

What follows a maximum or a sum is a chain of some hundred cycles. So a batch may be two groups, and each stage of the
work is done for both before the next one: their chains overlap.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .columns import column_state
from .jit import by_type, inlined, piece
from .lengths import BATCH_VECTORS, FEW_VECTORS, GROUPED_VECTORS
from .maxima import lane_tops
from .memory import everywhere, is_far, load, put, store
from .online import Frame, bigger, frame, without_shift
from .row_states import nan_of
from .shuffles import abreast, any_lane, halves, part, side_by_side
from .simd import doubles, full, is_single, width
from .sums import add, join, term_and_summand
from .views import from_row
from .visits import keep, more_sums, others_of, repeated_frame, scalar, sum_of_two, sums_of_few


class Rooms(NamedTuple):
    """Scratch room ``[group, place, lane]`` of the loop over batches."""

    vectors: Any  # a maximum in each lane of each row
    numbers: Any  # a number of each row in each lane, see the places below
    sums: Any  # the sum of each row, in eight lanes of float64
    rests: Any  # and its rest, of float64 terms
    terms: Any  # the terms of each row
    asked: Any  # float64 numbers that losses need of each row


@inlined
def rows_at_once(like, x, groups):
    """How many rows a batch of an array has: those of so many groups, if these stay in the first cache.

    Not those from memory, of more than two vectors, for the maxima of so many rows ask for more lines than come in time
    (Zen 5: 300000x64 softmax 1.4 of the time, log_softmax 1.7).
    """
    n, w = x.shape[1], width(like)
    return groups * w if n <= 2 * w or (n <= GROUPED_VECTORS * w and not is_far(x)) else w


def of_each_group(stage: Any) -> Any:
    """``stage(like, x, out, row, count, extra, rooms)`` for each group of a batch.

    `x` and `out` begin with its rows, of which there are `count`, `row` is the first of them in `extra`, and `rooms`
    begin with its own.
    """

    @inlined
    def run(like, x, out, row, count, extra, rooms):
        w = width(like)
        for g in range((count + w - 1) // w):
            at = g * w
            own = Rooms(
                from_row(rooms.vectors, g),
                from_row(rooms.numbers, g),
                from_row(rooms.sums, g),
                from_row(rooms.rests, g),
                from_row(rooms.terms, g),
                from_row(rooms.asked, g),
            )
            stage(like, from_row(x, at), from_row(out, at), row + at, min(count - at, w), extra, own)

    return run


def in_stages(find: Any, add_up: Any, settle: Any, write: Any) -> Any:
    """The work on a batch: find the maxima of its rows, add up their terms, settle what these come to, write."""

    @piece
    def work(like, x, out, row, count, extra, rooms):
        find(like, x, out, row, count, extra, rooms)
        add_up(like, x, out, row, count, extra, rooms)
        settle(like, x, out, row, count, extra, rooms)
        write(like, x, out, row, count, extra, rooms)

    return work


def in_groups(*stages: Any) -> Any:
    """The same for a batch of several groups of rows."""
    return in_stages(*map(of_each_group, stages))


# Vectors of room for the terms of a group, whose rows lie an odd number of them apart.
TERM_VECTORS = 16 * (BATCH_VECTORS | 1)

# Places of numbers.
SHIFT, FLOOR, MAGIC, EXPONENT, PEAK, LOST, TOP, COUNT, HIGH, LOW, NAN = range(11)


def tree(leaf: Any, op: Any, lanes: int) -> Any:
    """The lanes of each ``leaf(like, rooms, k)``, of as many rows as lanes, folded by halves: row k in lane k.

    At each level two vectors become one, by two shuffles; transposing the rows takes twice as many.
    """
    fold, group = leaf, lanes
    while group > 1:
        fold, group = level(fold, op, group), group // 2
    return fold


def level(below: Any, op: Any, group: int) -> Any:
    """Two vectors of `below` as one whose groups of lanes, one for each row, are half as wide."""

    @inlined
    def fold(like, rooms, k):
        return op(like, below(like, rooms, 2 * k), below(like, rooms, 2 * k + 1), group)

    return fold


@inlined
def number_at(like, numbers, place, k):
    return everywhere(like, numbers, (0, place, k))


@inlined
def keep_numbers(numbers, place, v):
    store(numbers, (0, place, 0), v, None)


@inlined
def keep_pair(numbers, pair):
    """Keep what all classes of a row are written with: a factor or a logarithm, and its rest."""
    keep_numbers(numbers, HIGH, pair[0])
    keep_numbers(numbers, LOW, pair[1])


@inlined
def pair_at(like, numbers, k):
    return number_at(like, numbers, HIGH, k), number_at(like, numbers, LOW, k)


@inlined
def frame_at(like, numbers, k):
    """The frame of row k, as far as terms need it."""
    return Frame(
        number_at(like, numbers, SHIFT, k),
        number_at(like, numbers, FLOOR, k),
        number_at(like, numbers, MAGIC, k),
        like,
        number_at(like, numbers, PEAK, k),
        like,
    )


@inlined
def tops_at(like, rooms, k):
    return load(like, rooms.vectors, (0, k, 0), None, 0.0)


@inlined
def bigger_halves(like, a, b, group):
    return bigger(halves(a, b, group, 0), halves(a, b, group, 1))


TOPS = {lanes: tree(tops_at, bigger_halves, lanes) for lanes in (8, 16)}


@by_type
def folded_tops(like, rooms):
    fold = TOPS[like.lanes]
    return lambda like, rooms: fold(like, rooms, 0)


@inlined
def tops_of(like, x, count, rooms):
    """The maxima of the rows, one in each lane; those of absent rows are the last one's."""
    n, w = x.shape[1], width(like)
    if n == 2 * w:
        return tops_of_two(like, x, None, count, rooms)
    if n < 2 * w:
        return tops_of_two(like, x, n, count, rooms)
    for k in range(w):
        store(rooms.vectors, (0, k, 0), lane_tops(like, x, min(k, count - 1), 0, n), None)
    return kept_tops(like, rooms)


@inlined
def tops_of_two(like, x, n, count, rooms):
    """The same for rows of more than one vector and up to two; `n` is None for two whole ones.

    Such rows need none of what finds the parts of a row, which is more than they are themselves. (Plans send no rows of
    one vector or less here; they would be right, and slow.)
    """
    for k in range(width(like)):
        v = load(abreast(like, 2), x, (min(k, count - 1), 0), n, -np.inf)
        store(rooms.vectors, (0, k, 0), bigger(part(v, 0, like), part(v, 1, like)), None)
    return kept_tops(like, rooms)


@inlined
def kept_tops(like, rooms):
    top = folded_tops(like, rooms)
    keep_numbers(rooms.numbers, TOP, top)
    return top


@inlined
def frames_of(like, top, scale, numbers):
    """Keep the frames of the rows, to be spread."""
    shape = frame(top, scale)
    keep_numbers(numbers, SHIFT, shape.shift)
    keep_numbers(numbers, FLOOR, shape.floor)
    keep_numbers(numbers, MAGIC, shape.magic)
    keep_numbers(numbers, EXPONENT, shape.k)
    keep_numbers(numbers, PEAK, shape.peak)
    keep_numbers(numbers, LOST, shape.lost)


@inlined
def kept(like, numbers, place):
    """A number of each row, in its lane."""
    return load(like, numbers, (0, place, 0), None, 0.0)


@inlined
def frames_kept(like, numbers):
    """The frames of the rows, each in its lane."""
    return Frame(
        kept(like, numbers, SHIFT),
        kept(like, numbers, FLOOR),
        kept(like, numbers, MAGIC),
        kept(like, numbers, EXPONENT),
        kept(like, numbers, PEAK),
        kept(like, numbers, LOST),
    )


@inlined
def keep_sum(like, rooms, k, total):
    """Keep the sum of row k, folded to eight lanes as `online.across` folds it."""
    keep_folded(like, rooms, k, (of_eight(like, total[0]), total[1]))


@by_type
def of_eight(like, total):
    if is_single(like):
        return lambda like, total: part(total, 0, doubles(0.0)) + part(total, 1, doubles(0.0))
    return lambda like, total: total


@by_type
def keep_folded(like, rooms, k, total):
    """Keep eight lanes of a sum; that of float64 terms has a rest."""
    if is_single(like):
        return lambda like, rooms, k, total: store(rooms.sums, (0, k, 0), total[0], None)

    def both(like, rooms, k, total):
        store(rooms.sums, (0, k, 0), total[0], None)
        store(rooms.rests, (0, k, 0), total[1], None)

    return both


@by_type
def sum_at(like, rooms, k):
    """The sum of row k as it was kept."""
    if is_single(like):
        return lambda like, rooms, k: (load(doubles(0.0), rooms.sums, (0, k, 0), None, 0.0), 0.0)
    return lambda like, rooms, k: (
        load(like, rooms.sums, (0, k, 0), None, 0.0),
        load(like, rooms.rests, (0, k, 0), None, 0.0),
    )


@by_type
def joined_halves(like, a, b, group):
    if is_single(like):
        return lambda like, a, b, group: (halves(a[0], b[0], group, 0) + halves(a[0], b[0], group, 1), 0.0)

    def pair(like, a, b, group):
        first = halves(a[0], b[0], group, 0), halves(a[1], b[1], group, 0)
        return join(first, (halves(a[0], b[0], group, 1), halves(a[1], b[1], group, 1)))

    return pair


# Sums are of eight lanes of float64 each.
eight_sums = tree(sum_at, joined_halves, 8)


@inlined
def folded(like, rooms, count):
    """The sums of the rows, one in each lane, folded by halves."""
    total = sum_at(like, rooms, count - 1)
    for k in range(count, width(like)):
        keep_folded(like, rooms, k, total)
    return folded_sums(like, rooms)


@by_type
def folded_sums(like, rooms):
    if is_single(like):
        return lambda like, rooms: (side_by_side(eight_sums(like, rooms, 0)[0], eight_sums(like, rooms, 1)[0]), 0.0)
    return lambda like, rooms: eight_sums(like, rooms, 0)


def sums_of_two(summed: Any) -> Any:
    """Keep the sums of rows of more than one vector and up to two; `n` is None for two whole ones.

    ``summed(like, numbers, k, v, terms)`` is what is added of the terms of row k, to sums that begin with `empty`.
    Terms stay in `rows` if not None, the first `stored` of them or, for None, all.
    """

    @inlined
    def run(like, x, rows, n, stored, count, scale, rooms, empty):
        two, numbers = abreast(like, 2), rooms.numbers
        for k in range(count):
            v = load(two, x, (k, 0), n, -np.inf)
            e, terms = term_and_summand(empty, v, repeated_frame(frame_at(like, numbers, k), two), scale)
            keep(rows, (k, 0), e, stored)
            keep_sum(like, rooms, k, add(empty, sum_of_two(empty, like, summed(like, numbers, k, v, terms))))

    return run


@inlined
def every_term(like, numbers, k, v, terms):
    return terms


@inlined
def others_at(like, numbers, k, v, terms):
    others, tops = others_of(v, number_at(like, numbers, TOP, k), terms)
    put(numbers, (0, COUNT, k), tops)
    return others


all_of_two, others_of_two = sums_of_two(every_term), sums_of_two(others_at)


@inlined
def lane_sums_of(like, x, terms, count, scale, rooms, empty):
    """Keep the sums of the rows' terms that are not their maximum; how many are. Terms stay in `terms` if not None."""
    n, w, numbers = x.shape[1], width(like), rooms.numbers
    keep_numbers(numbers, COUNT, full(like, 1.0))
    if n == 2 * w:
        others_of_two(like, x, terms, None, None, count, scale, rooms, empty)
    elif n < 2 * w:
        others_of_two(like, x, terms, n, n, count, scale, rooms, empty)
    else:
        far = any_lane(kept(like, numbers, SHIFT) != 0.0)
        for k in range(count):
            top, shape = number_at(like, numbers, TOP, k), frame_at(like, numbers, k)
            if far or n > FEW_VECTORS * w:
                total, tops = more_sums(like, x, terms, top, k, 0, n, shape, scale, empty, 0)
            else:
                total, tops = sums_of_few(like, x, terms, top, k, n, without_shift(shape), scale, empty)
            keep_sum(like, rooms, k, total)
            put(numbers, (0, COUNT, k), tops)


@inlined
def find_frames(like, x, top, count, scale, rooms):
    """Keep the frames of the rows, from their maxima, and a NaN that hides where one is infinite."""
    numbers = rooms.numbers
    frames_of(like, top, scale, numbers)
    keep_numbers(numbers, NAN, full(like, 0.0))
    if any_lane(top - top != 0.0):
        for k in range(count):
            put(numbers, (0, NAN, k), nan_of(like, x, k, 0, x.shape[1], scalar(number_at(like, numbers, TOP, k))))


@inlined
def states_of(like, count, scale, rooms):
    """The states of the rows, from their sums."""
    numbers = rooms.numbers
    total, tops, top = folded(like, rooms, count), kept(like, numbers, COUNT), kept(like, numbers, TOP)
    return column_state(like, total, tops, top, frames_kept(like, numbers), kept(like, numbers, NAN), scale)
