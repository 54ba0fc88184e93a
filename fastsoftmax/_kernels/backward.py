"""Gradients through softmax and log-softmax, from their results (Bridle 1990; as PyTorch's ``_softmax_backward_data``).

    softmax:       dx = y * (g - sum(g * y))
    log_softmax:   dx = g - exp(y) * sum(g)

Each is a sum over the row and a write, on rows and on columns alike.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .elementary import constants_of
from .jit import by_type, inlined, piece
from .lengths import BLOCK, SHORT_ROW
from .memory import ask_for, is_far, load, store
from .online import frame, term
from .past import LINED, fence, goes_past, item_bytes, store_past, until_line, whole_lines
from .shuffles import abreast, part
from .simd import fma, full, width
from .state import shrink_of
from .sums import across, add, empty_sum, join, whole
from .target import has_avx512
from .views import lanes_of
from .visits import sum_of_four


@inlined
def product(g, y):
    """What softmax's gradient sums."""
    return g * y


@inlined
def first(g, y):
    """What log-softmax's gradient sums."""
    return g


@inlined
def softmax_gradient(g, y, total):
    """``y * (g - sum(g * y))``."""
    return y * (g - total)


@by_type
def half_headroom(like):
    """Half of the headroom of terms, as a power of two."""
    power = 2.0 ** (constants_of(like).headroom // 2)
    return lambda like: power


@inlined
def log_softmax_gradient(g, y, total):
    """``g - exp(y) * sum(g)``; exp(0) is exactly 1, and half the headroom of a term stays until the product."""
    half = half_headroom(y)
    p = term(y, frame(full(y, 0.0), None), None) * (0.0 - shrink_of(y) * half)
    return fma(p, total * (1.0 / half), g)


@inlined
def ask(like, g, y, out, row, j, asks):
    """Ask for the lines that come some vectors after ``[row, j]``; if `asks`, for those of `out` too."""
    ask_for(like, g, row, j, False)
    ask_for(like, y, row, j, False)
    if asks:
        ask_for(like, out, row, j, True)


class Sums(NamedTuple):
    """The sum of a run of classes of a contiguous row and its rest; of four vectors; of what is left of a run."""

    of_run: Any
    of_four: Any
    with_rest: Any


def sums_of(summand):
    """The sums of a row, from what is summed."""

    @inlined
    def summand_at(like, g, y, row, j, count):
        return summand(load(like, g, (row, j), count, 0.0), load(like, y, (row, j), count, 0.0))

    @inlined
    def of_two(like, g, y, row, j, count):
        two = summand_at(abreast(like, 2), g, y, row, j, count)
        return part(two, 0, like) + part(two, 1, like)

    @inlined
    def of_four(like, g, y, row, j):
        return plain_four(like, summand_at(abreast(like, 4), g, y, row, j, None))

    @inlined
    def with_rest(like, g, y, row, start, stop, sums):
        w, j = width(like), start
        while j + 4 * w <= stop:
            sums = add(sums, of_four(like, g, y, row, j))
            j += 4 * w
        left = stop - j
        if left == 2 * w:
            sums = add(sums, of_two(like, g, y, row, j, None))
        elif left > 2 * w:
            sums = add(sums, of_two(like, g, y, row, j, None) + of_two(like, g, y, row, j + 2 * w, left - 2 * w))
        elif left > w:
            sums = add(sums, of_two(like, g, y, row, j, left))
        elif left > 0:
            sums = add(sums, summand_at(like, g, y, row, j, left))
        return across(like, sums)

    @inlined
    def of_run(like, g, out, row, y, start, stop, asks):
        w, j = width(like), start
        sums, far = empty_sum(like), is_far(g)
        while far and j + 4 * w <= stop:
            ask(like, g, y, out, row, j, asks)
            sums = add(sums, of_four(like, g, y, row, j))
            j += 4 * w
        return with_rest(like, g, y, row, j, stop, sums)

    return Sums(of_run, of_four, with_rest)


class Writes(NamedTuple):
    """The gradients of a run of classes: of all of it, past the caches or not; through the caches; of a vector."""

    of_run: Any
    through_caches: Any
    of_one: Any


# Rows of up to so many bytes, of which both arrays are in the first cache, are written forwards: what processors ask
# for by themselves beyond the end of one is the beginning of the next (Zen 5: 0.9 of the time for 256x1000, 1.1 for
# 8x32000).
FORWARDS = 16384  # bytes


def writes_of(gradient):
    """What is written of a row, forwards or, of a long one, from the end, which caches still hold."""

    @inlined
    def of_one(like, g, row, y, j, count, total):
        return gradient(load(like, g, (row, j), count, 0.0), load(like, y, (row, j), count, 0.0), total)

    @inlined
    def through_caches(like, g, out, row, y, start, stop, total):
        w = width(like)
        for j in range(start, stop - w + 1, w):
            store(out, (row, j), of_one(like, g, row, y, j, None, total), None)
        j = stop - (stop - start) % w
        if j < stop:
            store(out, (row, j), of_one(like, g, row, y, j, stop - j, total), stop - j)

    @inlined
    def lines(like, g, out, row, y, first, last, step, total, past):
        for j in range(first, last, step):
            dx = of_one(like, g, row, y, j, None, total)
            if past:
                store_past(out, (row, j), dx)
            else:
                store(out, (row, j), dx, None)

    @inlined
    def of_run(like, g, out, row, y, start, stop, total, past):
        w, count = width(like), stop - start
        forwards = count * item_bytes(out) <= FORWARDS
        lined = past or (forwards and count >= LINED)
        first, last = whole_lines(out, (row, start), count) if lined else (0, count // w * w)
        first, last = start + first, start + last
        if forwards:
            through_caches(like, g, out, row, y, start, first, total)
            lines(like, g, out, row, y, first, last, w, total, past)
            through_caches(like, g, out, row, y, last, stop, total)
        else:
            through_caches(like, g, out, row, y, last, stop, total)
            lines(like, g, out, row, y, last - w, first - w, -w, total, past)
            through_caches(like, g, out, row, y, start, first, total)

    return Writes(of_run, through_caches, of_one)


def sum_and_write(sums, writes):
    """The sum of the row `ahead`, and the gradients of another: one waits for memory while the other computes."""

    @inlined
    def run(like, g, out, row, ahead, y, total, past):
        w, n, summed = width(like), g.shape[1], empty_sum(like)
        first = min(until_line(out, (row, 0)), n) if past else 0
        writes.through_caches(like, g, out, row, y, 0, first, total)
        j = 0
        while j + 4 * w + first <= n:
            ask(like, g, y, out, ahead, j, not past)
            summed = add(summed, sums.of_four(like, g, y, ahead, j))
            for at in range(j + first, j + first + 4 * w, w):
                dx = writes.of_one(like, g, row, y, at, None, total)
                if past:
                    store_past(out, (row, at), dx)
                else:
                    store(out, (row, at), dx, None)
            j += 4 * w
        writes.through_caches(like, g, out, row, y, j + first, n, total)
        return sums.with_rest(like, g, y, ahead, j, n, summed)

    return run


def short_rows_of(summand, gradient):
    """Rows of a vector, or of one, two or four and as many or half as many, in registers from sum to gradient."""

    @inlined
    def row_of_one(like, g, out, row, y):
        g0, y0 = load(like, g, (row, 0), None, 0.0), load(like, y, (row, 0), None, 0.0)
        total = everywhere_in(like, across(like, add(empty_sum(like), summand(g0, y0))))
        store(out, (row, 0), gradient(g0, y0, total), None)

    @inlined
    def row_of_two(like, half, rest, g, out, row, y, count):
        w = width(half)
        g0, y0 = load(half, g, (row, 0), None, 0.0), load(half, y, (row, 0), None, 0.0)
        g1, y1 = load(rest, g, (row, w), count, 0.0), load(rest, y, (row, w), count, 0.0)
        total = across(like, sum_of_halves(like, summand(g0, y0), summand(g1, y1)))
        number = whole(total[0], total[1])
        store(out, (row, 0), gradient(g0, y0, full(half, number)), None)
        store(out, (row, w), gradient(g1, y1, full(rest, number)), count)

    @inlined
    def run(like, half, rest, g, out, first_row, last_row, y):
        count = g.shape[1] - width(half)
        if count == 0:
            for row in range(first_row, last_row):
                row_of_one(like, g, out, row, y)
        elif count == width(rest):
            for row in range(first_row, last_row):
                row_of_two(like, half, rest, g, out, row, y, None)
        else:
            for row in range(first_row, last_row):
                row_of_two(like, half, rest, g, out, row, y, count)

    return run


@inlined
def plain_four(like, v):
    """What four vectors abreast come to in their own type."""
    return sum_of_four(empty_sum(like), like, v)


@by_type
def sum_of_halves(like, a, b):
    """The sum of the vectors abreast in both, as any row of so many is summed: four go to the sum at once."""
    if a == like:
        return lambda like, a, b: add(empty_sum(like), a + b)
    if a.lanes == 2 * like.lanes:
        return lambda like, a, b: add(
            empty_sum(like), (part(a, 0, like) + part(a, 1, like)) + (part(b, 0, like) + part(b, 1, like))
        )
    if a.lanes == b.lanes:
        return lambda like, a, b: add(add(empty_sum(like), plain_four(like, a)), plain_four(like, b))
    return lambda like, a, b: add(add(empty_sum(like), plain_four(like, a)), part(b, 0, like) + part(b, 1, like))


@by_type
def holds_eight(like):
    """Whether registers hold eight vectors of both arrays."""
    known = has_avx512()
    return lambda like: known


@inlined
def everywhere_in(like, total):
    """A sum and its rest as one number in each lane."""
    return full(like, whole(total[0], total[1]))


def row_after_row(sums, writes):
    """The work on rows from `first_row` to `last_row`. A long one is summed block by block, in order.

    Where rows come from memory, each but the last is written while the next one is summed.
    """
    sum_of, write, in_one = sums.of_run, writes.of_run, sum_and_write(sums, writes)

    @inlined
    def sum_of_row(like, g, out, row, y, asks):
        n = g.shape[1]
        total = sum_of(like, g, out, row, y, 0, n if n <= SHORT_ROW else BLOCK, asks and n <= SHORT_ROW)
        if n > SHORT_ROW:
            for start in range(BLOCK, n, BLOCK):
                total = join(total, sum_of(like, g, out, row, y, start, min(start + BLOCK, n), False))
        return total

    @inlined
    def run(like, g, out, first_row, last_row, y, past):
        n = g.shape[1]
        together = is_far(g) and n <= SHORT_ROW
        total = sum_of_row(like, g, out, first_row, y, not past)
        for row in range(first_row, last_row):
            settled, ahead = everywhere_in(like, total), row + 1
            if together and ahead < last_row:
                total = in_one(like, g, out, row, ahead, y, settled, past)
                continue
            write(like, g, out, row, y, 0, n, settled, past)
            if ahead < last_row:
                total = sum_of_row(like, g, out, ahead, y, not past)

    return run


class RowWork(NamedTuple):
    """The work on contiguous rows: on runs of them; on one block of a long one; on a run of its blocks."""

    rows: Any
    sum_of_block: Any
    blocks: Any


def backward_rows(summand, gradient):
    """The work on rows, from what is summed and what is written.

    A long row is summed block by block, in order, whoever sums which.
    """
    sums, writes = sums_of(summand), writes_of(gradient)
    sum_of, write = sums.of_run, writes.of_run
    short_rows, each_row = short_rows_of(summand, gradient), row_after_row(sums, writes)

    @piece
    def rows(g, out, first_row, last_row, y):
        like, n, w, past = lanes_of(g), g.shape[1], width(lanes_of(g)), goes_past(out, g.shape[1], g, y)
        if w <= n <= 2 * w:
            short_rows(like, like, like, g, out, first_row, last_row, y)
        elif 2 * w < n <= 4 * w:
            short_rows(like, abreast(like, 2), abreast(like, 2), g, out, first_row, last_row, y)
        elif 4 * w < n <= 6 * w and holds_eight(like) and not past:
            short_rows(like, abreast(like, 4), abreast(like, 2), g, out, first_row, last_row, y)
        elif 6 * w < n <= 8 * w and holds_eight(like) and not past:
            short_rows(like, abreast(like, 4), abreast(like, 4), g, out, first_row, last_row, y)
        elif first_row < last_row:
            each_row(like, g, out, first_row, last_row, y, past)
        if past:
            fence()

    @piece
    def sum_of_block(g, out, states, row, block, y):
        start = block * BLOCK
        states[row, block, 0], states[row, block, 1] = sum_of(
            lanes_of(g), g, out, row, y, start, min(start + BLOCK, g.shape[1]), False
        )

    @piece
    def blocks(g, out, states, row, start, stop, y):
        like, past = lanes_of(g), goes_past(out, g.shape[1], g, y)
        total = states[row, 0, 0], states[row, 0, 1]
        for block in range(1, states.shape[1]):
            total = join(total, (states[row, block, 0], states[row, block, 1]))
        write(like, g, out, row, y, start, stop, everywhere_in(like, total), past)
        if past:
            fence()

    return RowWork(rows, sum_of_block, blocks)


softmax_backward_rows = backward_rows(product, softmax_gradient)
log_softmax_backward_rows = backward_rows(first, log_softmax_gradient)
