"""Rows of a few vectors, as many at once as a vector has lanes.

Where a row is a few vectors long, finding its maximum across the lanes, its sum across the lanes and what to make of
them takes longer than the row itself. Here the lanes of as many rows are transposed first, and then all that follows a
maximum or a sum is done once for all rows, each in a lane of its own, by the functions of `columns`. The numbers of
each row are then spread from memory, which takes no instruction of its own. The order of every sum is that of `online`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .columns import column_factor, column_logs, column_state
from .jit import by_type, inlined, piece
from .memory import everywhere, load, put, rows_in, store
from .online import Frame, bigger, frame, join
from .rows import NEAR_ZERO, nan_of, refined
from .shuffles import any_lane, lane, part, with_lane
from .simd import doubles, full, is_single, narrow, select, wide, width
from .state import log_total
from .tiles import load_columns
from .visits import (
    lane_sums,
    lane_tops,
    scalar,
    scale_row,
    terms_kept_in,
    write_log_softmax,
    write_softmax,
)


class Rooms(NamedTuple):
    """Scratch room ``[0, place, lane]`` of the loop over batches."""

    vectors: Any  # the lanes of each row, before they are transposed
    tile: Any  # and after
    numbers: Any  # a number of each row in each lane, see the places below
    sums: Any  # the sum of each row, in eight lanes of float64
    rests: Any  # and its rest, of float64 terms
    sum_tile: Any
    rest_tile: Any
    asked: Any  # float64 numbers that losses need of each row


# Places of numbers.
SHIFT, FLOOR, MAGIC, PEAK, TOP, COUNT, HIGH, LOW, NAN = range(9)


@inlined
def turned(like, tile, array, count, columns):
    """The columns of the first rows of ``array[row, column]`` in a tile; those of absent rows are the last one's."""
    for first in range(0, width(like), columns):
        load_columns(tile, first, array, first, count, columns)


@inlined
def number_at(like, numbers, place, k):
    return everywhere(like, numbers, (0, place, k))


@inlined
def keep_numbers(numbers, place, v):
    store(numbers, (0, place, 0), v, None)


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
def tops_of(like, x, row, count, rooms):
    """The maxima of the rows, one in each lane."""
    for k in range(count):
        store(rooms.vectors, (0, k, 0), lane_tops(like, x, row + k, 0, x.shape[1]), None)
    turned(like, rooms.tile, rows_in(rooms.vectors), count, width(like))
    top = load(like, rooms.tile, (0, 0, 0), None, 0.0)
    for j in range(1, width(like)):
        top = bigger(load(like, rooms.tile, (0, j, 0), None, 0.0), top)
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


@by_type
def keep_sum(like, rooms, k, total):
    """Keep the sum of row k, folded to eight lanes as `online.across` folds it; float64 terms have a rest."""
    if is_single(like):
        return lambda like, rooms, k, total: store(
            rooms.sums, (0, k, 0), part(total[0], 0, doubles(0.0)) + part(total[0], 1, doubles(0.0)), None
        )

    def both(like, rooms, k, total):
        store(rooms.sums, (0, k, 0), total[0], None)
        store(rooms.rests, (0, k, 0), total[1], None)

    return both


@by_type
def strand(like, rooms, j):
    """The sums of the rows in lane j, as a pair."""
    if is_single(like):
        return lambda like, rooms, j: (load(wide(like), rooms.sum_tile, (0, j, 0), None, 0.0), 0.0)

    def both(like, rooms, j):
        return load(like, rooms.sum_tile, (0, j, 0), None, 0.0), load(like, rooms.rest_tile, (0, j, 0), None, 0.0)

    return both


@inlined
def folded(like, rooms, count):
    """The sums of the rows, one in each lane, folded by halves."""
    turned(like, rooms.sum_tile, rows_in(rooms.sums), count, 8)
    turn_rests(like, rooms, count)
    a = join(like, join_at(like, rooms, 0), join_at(like, rooms, 2))
    b = join(like, join_at(like, rooms, 1), join_at(like, rooms, 3))
    return join(like, a, b)


@inlined
def join_at(like, rooms, j):
    return join(like, strand(like, rooms, j), strand(like, rooms, j + 4))


@by_type
def turn_rests(like, rooms, count):
    if is_single(like):
        return lambda like, rooms, count: None
    return lambda like, rooms, count: turned(like, rooms.rest_tile, rows_in(rooms.rests), count, 8)


@inlined
def states_of(like, x, kept, top, row, count, scale, rooms):
    """The states of the rows and their frames; the terms stay in `kept` unless that is None."""
    n, numbers = x.shape[1], rooms.numbers
    shape = frames_of(like, top, scale, numbers)
    keep_numbers(numbers, NAN, full(like, 0.0))
    if any_lane(top - top != 0.0):
        for k in range(count):
            put(numbers, (0, NAN, k), nan_of(like, x, row + k, 0, n, scalar(number_at(like, numbers, TOP, k))))
    keep_numbers(numbers, COUNT, full(like, 1.0))
    for k in range(count):
        largest = number_at(like, numbers, TOP, k)
        total, tops = lane_sums(like, x, kept, largest, row + k, 0, n, frame_at(like, numbers, k), scale)
        keep_sum(like, rooms, k, total)
        put(numbers, (0, COUNT, k), tops)
    nan = load(like, numbers, (0, NAN, 0), None, 0.0)
    tops = load(like, numbers, (0, COUNT, 0), None, 0.0)
    return column_state(like, folded(like, rooms, count), tops, top, shape, nan, scale), shape


# -- the work on some rows, at most as many as lanes -------------------------------------------------------------------


@piece
def softmax_batch(like, x, out, row, count, scale, rooms):
    n, kept, numbers = x.shape[1], terms_kept_in(out), rooms.numbers
    shape = frames_of(like, tops_of(like, x, row, count, rooms), scale, numbers)
    for k in range(count):
        total, _ = lane_sums(like, x, kept, None, row + k, 0, n, frame_at(like, numbers, k), scale)
        keep_sum(like, rooms, k, total)
    high, low = column_factor(like, folded(like, rooms, count), shape.lost)
    keep_numbers(numbers, HIGH, high)
    keep_numbers(numbers, LOW, low)
    for k in range(count):
        factor = number_at(like, numbers, HIGH, k), number_at(like, numbers, LOW, k)
        if kept is None:
            write_softmax(like, x, out, row + k, 0, n, (frame_at(like, numbers, k), scale, factor))
        else:
            scale_row(like, x, out, row + k, 0, n, factor)


@piece
def log_softmax_batch(like, x, out, row, count, scale, rooms):
    n, numbers = x.shape[1], rooms.numbers
    state, _ = states_of(like, x, None, tops_of(like, x, row, count, rooms), row, count, scale, rooms)
    high, low = column_logs(like, state)
    keep_numbers(numbers, HIGH, high)
    keep_numbers(numbers, LOW, low)
    for k in range(count):
        log = number_at(like, numbers, HIGH, k), number_at(like, numbers, LOW, k)
        write_log_softmax(like, x, out, row + k, 0, n, (number_at(like, numbers, TOP, k), log, scale))


@piece
def logsumexp_batch(like, x, out, row, count, scale, rooms):
    (m, r, rest), _ = states_of(like, x, None, tops_of(like, x, row, count, rooms), row, count, scale, rooms)
    totals = narrow(like, log_total(m, r, rest, scale))
    size = select(totals < 0.0, 0.0 - totals, totals)
    if any_lane(size < NEAR_ZERO):
        for k in range(count):
            total = scalar(with_lane(totals, 0, lane(totals, k)))
            totals = with_lane(totals, k, refined(like, x, row + k, total, scale))
    for k in range(count):
        put(out, (row + k, 0), lane(totals, k))
