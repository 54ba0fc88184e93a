"""The visits of a row of contiguous classes ``x[row, class]``: its sum, also in step with those of `maxima`, `writes`.

Vectors go four abreast, for a sum of four is what `online` defines and enough to fill the pipelines; halves of four
where registers are few. What is left at the end of a row goes one by one, with the lanes beyond it switched off.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import types

from .jit import by_type, inlined
from .maxima import largest, more_tops, top_of_four
from .memory import ask_for, is_far, load, store
from .online import Frame, bigger
from .past import LINED, store_past, until_line
from .shuffles import abreast, any_lane, first_half, lane, lanes_true, part, rarely, repeated, side_by_side
from .simd import HalfType, full, select, width
from .sums import across, add, any_reaches, beside, empty_sum, part_of, term_and_summand, together, without
from .target import has_avx512
from .views import anew


@inlined
def scalar(v):
    """The first lane, in float64."""
    return np.float64(lane(v, 0))


@by_type
def without_top(v, top, e, count):
    """The terms with those of the maximum set to 0 and counted; all terms where `top` is None."""
    if isinstance(top, types.NoneType):
        return lambda v, top, e, count: (e, count)

    def counted(v, top, e, count):
        equal = v == top
        return without(equal, e), select(equal, count + 1.0, count)

    return counted


@by_type
def keep(out, index, e, count):
    """Store vectors, unless these or `out` are None."""
    if isinstance(out, types.NoneType) or isinstance(e, types.NoneType):
        return lambda out, index, e, count: None
    return lambda out, index, e, count: store(out, index, e, count)


@inlined
def repeated_frame(shape, like):
    """The frame of a row in the lanes of `like`."""
    return Frame(
        repeated(shape.shift, like),
        repeated(shape.floor, like),
        repeated(shape.magic, like),
        repeated(shape.k, like),
        repeated(shape.peak, like),
        repeated(shape.lost, like),
    )


@inlined
def others_of(v, top, terms):
    """The terms with those of the maximum set to 0, and how many those are."""
    equal = v == repeated(top, v)
    return without(equal, terms), lanes_true(equal)


@inlined
def visit(like, x, out, row, j, count, shape, scale, total):
    """Some vectors abreast, and what is to be added of their terms, which are kept in `out` on the way."""
    v = load(like, x, (row, j), count, -np.inf)
    e, terms = term_and_summand(total, v, repeated_frame(shape, like), scale)
    keep(out, (row, j), e, count)
    return v, terms


@inlined
def sum_of_two(total, like, terms):
    """What two vectors abreast come to, before they are added to a sum."""
    return together(total, part_of(terms, 0, like), part_of(terms, 1, like))


@inlined
def sum_of_four(total, like, terms):
    last = together(total, part_of(terms, 2, like), part_of(terms, 3, like))
    return together(total, sum_of_two(total, like, terms), last)


def step_of_four(result: Any) -> Any:
    """Add four vectors of terms to the sum, and write ``result(like, source, row, j, count, more)`` elsewhere.

    What is written is of another row, and lies `first` classes farther on than what is summed. Terms stay in `kept`,
    results go to `out`; either may be None. In each step, or half of one, all loads come before any store: rows of
    whole pages are at one place of the first cache, and a load waits for any earlier store whose address ends in the
    same twelve bits.

    Without AVX-512 four vectors and what is made of them do not fit into the registers (docs/performance.md has the
    counts), so the first halves of the four go before the second halves. Each lane's sum is the same. Nothing goes past
    the caches or by whole lines there, and `first` is 0.

    The terms of the maximum are left out of sums only where they may be. Logits say so before their terms are known,
    and a branch that was not foreseen costs less the sooner it is; without AVX-512 the sums do, for no sum of four with
    such a term is less than it, few others are as large, and it takes fewer registers.
    """

    def all_abreast(
        like, x, kept, source, out, top, row, behind, j, first, count, shape, scale, more, total, tops, past
    ):
        results = result(abreast(like, 4), source, behind, j + first, count, more)
        v, terms = visit(abreast(like, 4), x, kept, row, j, count, shape, scale, total)
        sums, equal = sum_of_four(total, like, terms), 0
        if rarely(any_lane(top_of_four(like, v) >= top)):
            terms, equal = others_of(v, top, terms)
            sums = sum_of_four(total, like, terms)
        write_four(like, out, behind, j + first, results, count, past)
        return add(total, sums), tops + equal

    @inlined
    def half_of_four(like, step, x, kept, source, out, top, row, behind, j, shape, scale, more, total):
        # Half a vector each: that their lanes are equal only we know, and so each takes one register.
        shape, top = repeated_frame(shape, like), repeated(top, like)
        v = load_apart(like, x, row, j, step)
        e, terms = term_and_summand(total, v, repeated_frame(shape, v), scale)
        sums, equal = sum_of_four(total, like, terms), 0
        if rarely(any_reaches(sums, shape.peak)):
            # Loaded once more, for no register is left to keep it for what almost never comes.
            others, equal = others_of(load_apart(like, anew(x), row, j, step), top, terms)
            sums = sum_of_four(total, like, others)
        results = (
            result(like, source, behind, j, None, more),
            result(like, source, behind, j + step, None, more),
            result(like, source, behind, j + 2 * step, None, more),
            result(like, source, behind, j + 3 * step, None, more),
        )
        keep_apart(kept, row, j, step, (part(e, 0, like), part(e, 1, like), part(e, 2, like), part(e, 3, like)))
        keep_apart(out, behind, j, step, results)
        return sums, equal

    def by_halves(like, x, kept, source, out, top, row, behind, j, first, count, shape, scale, more, total, tops, past):
        w, h = width(like), first_half(like)
        lower, equal = half_of_four(h, w, x, kept, source, out, top, row, behind, j, shape, scale, more, total)
        upper, too = half_of_four(h, w, x, kept, source, out, top, row, behind, j + w // 2, shape, scale, more, total)
        return add(total, beside(lower, upper)), tops + equal + too

    @by_type
    def step(like, x, kept, source, out, top, row, behind, j, first, count, shape, scale, more, total, tops, past):
        return all_abreast if has_avx512() or not isinstance(count, types.NoneType) else by_halves

    return step


@inlined
def load_apart(like, x, row, j, step):
    """Four vectors of a row, `step` classes apart, as one."""
    first = side_by_side(load(like, x, (row, j), None, 0.0), load(like, x, (row, j + step), None, 0.0))
    last = side_by_side(load(like, x, (row, j + 2 * step), None, 0.0), load(like, x, (row, j + 3 * step), None, 0.0))
    return side_by_side(first, last)


@inlined
def keep_apart(out, row, j, step, vectors):
    """Store four vectors as far apart, unless these or `out` are None."""
    keep(out, (row, j), vectors[0], None)
    keep(out, (row, j + step), vectors[1], None)
    keep(out, (row, j + 2 * step), vectors[2], None)
    keep(out, (row, j + 3 * step), vectors[3], None)


@by_type
def write_four(like, out, row, j, vectors, count, past):
    """Store four vectors abreast, past the caches or not, unless these or `out` are None."""
    if isinstance(out, types.NoneType) or isinstance(vectors, types.NoneType):
        return lambda like, out, row, j, vectors, count, past: None

    def written(like, out, row, j, vectors, count, past):
        w = width(like)
        if past:
            store_past(out, (row, j), part(vectors, 0, like))
            store_past(out, (row, j + w), part(vectors, 1, like))
            store_past(out, (row, j + 2 * w), part(vectors, 2, like))
            store_past(out, (row, j + 3 * w), part(vectors, 3, like))
        else:
            store(out, (row, j), vectors, count)

    return written


@inlined
def no_result(like, x, row, j, count, more):
    return None


# Four vectors of terms added to the sum.
visit4 = step_of_four(no_result)


@inlined
def visit1(like, x, out, top, row, j, count, shape, scale, total):
    """What one vector of terms adds without those of the maximum, and how many those are."""
    v, terms = visit(like, x, out, row, j, count, shape, scale, total)
    return others_of(v, top, terms)


@inlined
def visit2(like, x, out, top, row, j, count, shape, scale, total):
    """What two vectors of terms add, likewise."""
    terms, equal = visit1(abreast(like, 2), x, out, top, row, j, count, shape, scale, total)
    return sum_of_two(total, like, terms), equal


@inlined
def more_sums(like, x, out, top, row, start, stop, shape, scale, total, tops):
    """A sum, still in its lanes, with some more classes, and `tops` with how many of them are the maximum."""
    w, j = width(like), start
    while j + 4 * w <= stop:
        ask_for(like, out, row, j, True)
        total, tops = visit4(like, x, out, x, None, top, row, row, j, 0, None, shape, scale, None, total, tops, False)
        j += 4 * w
    return sum_tail(like, x, out, top, row, j, stop, shape, scale, total, tops)


@by_type
def sums_of_few(like, x, out, top, row, stop, shape, scale, total):
    """The same of a whole row of few vectors.

    Four of them hold the maximum too often for a branch to be foreseen; without AVX-512 it spares registers.
    """
    if not has_avx512():
        return lambda like, x, out, top, row, stop, shape, scale, total: more_sums(
            like, x, out, top, row, 0, stop, shape, scale, total, 0
        )

    def without_branch(like, x, out, top, row, stop, shape, scale, total):
        w, j, tops = width(like), 0, 0
        while j + 4 * w <= stop:
            total, tops = add_four(like, x, out, top, row, j, None, shape, scale, total, tops)
            j += 4 * w
        if stop - j > 3 * w:
            return add_four(like, x, out, top, row, j, stop - j, shape, scale, total, tops)
        return sum_tail(like, x, out, top, row, j, stop, shape, scale, total, tops)

    return without_branch


@inlined
def add_four(like, x, out, top, row, j, count, shape, scale, total, tops):
    """Add four vectors of terms but those of the maximum, which are counted."""
    terms, equal = visit1(abreast(like, 4), x, out, top, row, j, count, shape, scale, total)
    return add(total, sum_of_four(total, like, terms)), tops + equal


@inlined
def sum_tail(like, x, out, top, row, j, stop, shape, scale, total, tops):
    """The sum with what is left of a row, fewer than four vectors."""
    w, left = width(like), stop - j
    if left <= 0:
        return total, tops
    if left > 3 * w:
        return visit4(like, x, out, x, None, top, row, row, j, 0, left, shape, scale, None, total, tops, False)
    if left > 2 * w:
        two, equal = visit2(like, x, out, top, row, j, None, shape, scale, total)
        third, too = visit1(like, x, out, top, row, j + 2 * w, left - 2 * w, shape, scale, total)
        return add(total, together(total, two, third)), tops + equal + too
    if left <= w:
        e, equal = visit1(like, x, out, top, row, j, left, shape, scale, total)
        return add(total, e), tops + equal
    if left == 2 * w:
        two, equal = visit2(like, x, out, top, row, j, None, shape, scale, total)
    else:
        two, equal = visit2(like, x, out, top, row, j, left, shape, scale, total)
    return add(total, two), tops + equal


@inlined
def row_sum(like, x, out, top, row, start, stop, shape, scale, empty):
    """The sum of the terms of ``x[row, start:stop]`` that are not its maximum, and how many are."""
    total, tops = more_sums(like, x, out, top, row, start, stop, shape, scale, empty, 0)
    number, rest = across(like, total)
    return number, rest, np.float64(tops)


@inlined
def nothing_before_lines(like, source, out, row, more, lined):
    return 0


@by_type
def worth_lines(kept, out):
    """Whether results go faster in cache by whole lines: with AVX-512, where they are of the type of kept terms.

    (Zen 5: 0.95 to 1.0 of the time. What is made of logits, which begin elsewhere in a line, gained nothing.)
    """
    known = has_avx512() and not isinstance(kept, types.NoneType) and not isinstance(out.dtype, HalfType)
    return lambda kept, out: known


def before_lines(result: Any) -> Any:
    """Write ``result(like, source, row, j, count, more)`` up to where a line begins, if it goes by whole lines.

    Returns how many classes that are. Only rows that are longer than a line may be `lined`: with the smaller of both
    numbers here, rows of 1000 took 1.05 of the time.
    """

    @inlined
    def begun(like, source, out, row, more, lined):
        first = until_line(out, (row, 0)) if lined else 0
        for j in range(0, first, width(like)):
            store(out, (row, j), result(like, source, row, j, first - j, more), first - j)
        return first

    return begun


def three_visits(result: Any, write: Any, empty: Any = empty_sum) -> Any:
    """Sum `row`, find the maximum of `ahead`, write `behind`: `row_sum`, `row_top` and `write` in step.

    `write` writes ``result(like, source, row, j, count, more)``. Terms stay in `kept`, results go to `out`; either
    may be None. ``empty(like)`` is what the sum begins with.
    """
    step, begun = step_of_four(result), nothing_before_lines if result is no_result else before_lines(result)

    @inlined
    def visits(like, x, kept, source, out, top, row, ahead, behind, shape, scale, more, past):
        w, n = width(like), x.shape[1]
        total, tops, far = empty(like), 0, is_far(x)
        a = full(like, -np.inf)
        first = begun(like, source, out, behind, more, past or (n >= LINED and not far and worth_lines(kept, out)))
        j = 0
        while j + 4 * w + first <= n:
            if far:
                ask_for(like, x, ahead, j, False)
                if not past:
                    ask_for(like, out, row, j, True)
            # One maximum: its chain is short beside the terms, and three registers are free.
            for k in range(4):
                a = bigger(load(like, x, (ahead, j + k * w), None, 0.0), a)
            total, tops = step(
                like, x, kept, source, out, top, row, behind, j, first, None, shape, scale, more, total, tops, past
            )
            j += 4 * w
        total, tops = more_sums(like, x, kept, top, row, j, n, shape, scale, total, tops)
        a = more_tops(like, x, ahead, j, n, a)
        write(like, source, out, behind, j + first, n, more)
        number, rest = across(like, total)
        return number, rest, np.float64(tops), largest(a)

    return visits


@inlined
def write_nothing(like, x, out, row, start, stop, more):
    return None
