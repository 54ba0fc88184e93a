"""Rows of a few vectors, as many at once as a vector has lanes.

Where a row is a few vectors long, finding its maximum across the lanes, its sum across the lanes and what to make of
them takes longer than the row itself. Here the lanes of as many rows are folded together, and then all that follows a
maximum or a sum is done once for all rows, each in a lane of its own, by the functions of `columns`. The numbers of
each row are then spread from memory, which takes no instruction of its own. The order of every sum is that of `online`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .columns import column_factor, column_logs, column_state
from .jit import by_type, inlined, piece
from .lengths import BATCH_VECTORS
from .memory import everywhere, load, put, store
from .online import Frame, bigger, frame, left_out
from .row_states import NEAR_ZERO, nan_of, refined
from .rows import softmax_rows
from .shuffles import abreast, any_lane, halves, lane, part, side_by_side, with_lane
from .simd import doubles, full, is_single, narrow, select, width
from .state import log_total
from .sums import add, empty_sum, join, term_and_summand
from .views import rows_of_vectors
from .visits import keep, lane_tops, more_sums, others_of, repeated_frame, scalar, sum_of_two
from .writes import Terms, log_softmax_at, probability, write_log_softmax, write_probabilities


class Rooms(NamedTuple):
    """Scratch room ``[0, place, lane]`` of the loop over batches."""

    vectors: Any  # a maximum in each lane of each row
    numbers: Any  # a number of each row in each lane, see the places below
    sums: Any  # the sum of each row, in eight lanes of float64
    rests: Any  # and its rest, of float64 terms
    terms: Any  # the terms of each row
    asked: Any  # float64 numbers that losses need of each row


# Vectors of room for the terms of all rows, which lie an odd number of them apart.
TERM_VECTORS = 16 * (BATCH_VECTORS | 1)

# Places of numbers.
SHIFT, FLOOR, MAGIC, PEAK, TOP, COUNT, HIGH, LOW, NAN = range(9)


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
    """The frames of the rows, kept to be spread."""
    shape = frame(top, scale)
    keep_numbers(numbers, SHIFT, shape.shift)
    keep_numbers(numbers, FLOOR, shape.floor)
    keep_numbers(numbers, MAGIC, shape.magic)
    keep_numbers(numbers, PEAK, shape.peak)
    return shape


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
    Terms stay in `kept` if not None, the first `stored` of them or, for None, all.
    """

    @inlined
    def run(like, x, kept, n, stored, count, scale, rooms, empty):
        two, numbers = abreast(like, 2), rooms.numbers
        for k in range(count):
            v = load(two, x, (k, 0), n, -np.inf)
            e, terms = term_and_summand(empty, v, repeated_frame(frame_at(like, numbers, k), two), scale)
            keep(kept, (k, 0), e, stored)
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
def lane_sums_of(like, x, kept, count, scale, rooms, empty):
    """Keep the sums of the rows' terms that are not their maximum; how many are. Terms stay in `kept` if not None."""
    n, w, numbers = x.shape[1], width(like), rooms.numbers
    keep_numbers(numbers, COUNT, full(like, 1.0))
    if n == 2 * w:
        others_of_two(like, x, kept, None, None, count, scale, rooms, empty)
    elif n < 2 * w:
        others_of_two(like, x, kept, n, n, count, scale, rooms, empty)
    else:
        for k in range(count):
            top = number_at(like, numbers, TOP, k)
            total, tops = more_sums(like, x, kept, top, k, 0, n, frame_at(like, numbers, k), scale, empty, 0)
            keep_sum(like, rooms, k, total)
            put(numbers, (0, COUNT, k), tops)
    return load(like, numbers, (0, COUNT, 0), None, 0.0)


@inlined
def states_of(like, x, kept, top, count, scale, rooms, empty):
    """The states of the rows and their frames; the terms stay in `kept` unless that is None."""
    n, numbers = x.shape[1], rooms.numbers
    shape = frames_of(like, top, scale, numbers)
    keep_numbers(numbers, NAN, full(like, 0.0))
    if any_lane(top - top != 0.0):
        for k in range(count):
            put(numbers, (0, NAN, k), nan_of(like, x, k, 0, n, scalar(number_at(like, numbers, TOP, k))))
    tops = lane_sums_of(like, x, kept, count, scale, rooms, empty)
    nan = load(like, numbers, (0, NAN, 0), None, 0.0)
    return column_state(like, folded(like, rooms, count), tops, top, shape, nan, scale), shape


# -- the work on the first `count` rows of ``x[k, class]`` -------------------------------------------------------------


@piece
def softmax_batch(like, x, out, row, count, scale, rooms):
    n, w = x.shape[1], width(like)
    if n == 2 * w:
        softmax_of_two(like, x, out, None, count, scale, rooms)
        return
    if n < 2 * w:
        softmax_of_two(like, x, out, n, count, scale, rooms)
        return
    # Where rows are no multiple of a vector, what is kept in `out` would be loaded next to the store of the row before,
    # and waits for it. Here no two rows touch, nor lie a power of two apart if all of them take more than a page: a
    # load also waits for any earlier store whose address ends in the same twelve bits.
    if n <= 4 * w:
        # A distance that the compiler knows: 0.87 to 0.94 of the time.
        softmax_of(like, x, out, count, scale, rooms, rows_of_vectors(rooms.terms, 4))
    elif n <= BATCH_VECTORS * w:
        softmax_of(like, x, out, count, scale, rooms, rows_of_vectors(rooms.terms, (n + w - 1) // w | 1))
    else:  # no plan sends such rows here, but the room on the stack must not depend on that
        softmax_rows(x, out, 0, count, scale)


@inlined
def softmax_of(like, x, out, count, scale, rooms, kept):
    n, numbers = x.shape[1], rooms.numbers
    top = tops_of(like, x, count, rooms)
    shape = frames_of(like, top, scale, numbers)
    keep_numbers(numbers, TOP, left_out(top, n))
    tops = lane_sums_of(like, x, kept, count, scale, rooms, empty_sum(like))
    keep_pair(numbers, column_factor(like, folded(like, rooms, count), tops, shape))
    for k in range(count):
        write_probabilities(like, x, out, k, 0, n, (Terms(kept, None, None, None), pair_at(like, numbers, k)))


@inlined
def softmax_of_two(like, x, out, n, count, scale, rooms):
    """The same for rows of more than one vector and up to two, of whose sums no term is left out."""
    numbers, two = rooms.numbers, abreast(like, 2)
    # Terms lie four vectors apart, and are stored whole: a masked store is no source for the load that follows.
    kept = rows_of_vectors(rooms.terms, 4)
    shape = frames_of(like, tops_of_two(like, x, n, count, rooms), scale, numbers)
    all_of_two(like, x, kept, n, None, count, scale, rooms, empty_sum(like))
    keep_pair(numbers, column_factor(like, folded(like, rooms, count), full(like, 0.0), shape))
    for k in range(count):
        e = load(two, kept, (k, 0), None, 0.0)
        store(out, (k, 0), probability(two, e, pair_at(like, numbers, k)), n)


@piece
def log_softmax_batch(like, x, out, row, count, scale, rooms):
    n, w, numbers = x.shape[1], width(like), rooms.numbers
    state, _ = states_of(like, x, None, tops_of(like, x, count, rooms), count, scale, rooms, empty_sum(like))
    keep_pair(numbers, column_logs(like, state))
    if n == 2 * w:
        write_logs_of_two(like, x, out, None, count, scale, numbers)
    elif n < 2 * w:
        write_logs_of_two(like, x, out, n, count, scale, numbers)
    else:
        for k in range(count):
            write_log_softmax(
                like, x, out, k, 0, n, (number_at(like, numbers, TOP, k), pair_at(like, numbers, k), scale)
            )


@inlined
def write_logs_of_two(like, x, out, n, count, scale, numbers):
    for k in range(count):
        more = number_at(like, numbers, TOP, k), pair_at(like, numbers, k), scale
        store(out, (k, 0), log_softmax_at(abreast(like, 2), x, k, 0, n, more), n)


@piece
def logsumexp_batch(like, x, out, row, count, scale, rooms):
    top = tops_of(like, x, count, rooms)
    (m, r, rest), _ = states_of(like, x, None, top, count, scale, rooms, empty_sum(like))
    totals = log_total(m, r, rest, scale)
    size = select(totals < 0.0, 0.0 - totals, totals)
    if any_lane(size < NEAR_ZERO):
        for k in range(count):
            totals = with_lane(totals, k, refined(like, x, k, lane(totals, k), scale))
    totals = narrow(like, totals)
    for k in range(count):
        put(out, (k, 0), lane(totals, k))
