"""Rows in a pipeline of three visits, several rows in flight.

In one loop, row r is summed, the row two before it is written and the maximum of the row two after it is found. The
loads and stores of two visits hide behind the arithmetic of the third, and what turns a sum into what is written, a
chain of some hundred cycles for each row, has the time of a whole row to finish. Long rows make nothing of a hundred
cycles, but fill the second cache: there it is the row before and the row after.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba.core import types

from .jit import by_type, inlined
from .maxima import row_top
from .online import frame, is_near, without_shift
from .past import LEAST, fence, goes_past, item_bytes
from .simd import HalfType
from .sums import empty_sum
from .target import has_avx512
from .tiles import heap, keep_alive
from .views import from_row, lanes_of, rows_in, view
from .visits import row_sum, three_visits
from .writes import along

# Rows of up to this many classes are worked on several at a time, as many as share the second cache.
PIPELINED = 32768
# Of rows of more than so many classes the one before is written, not the one before that: four are there, not six.
WAITING = 8192
# Terms of shorter rows do not go past the caches: what is loaded there lies across two vectors, and of rows of a few
# hundred classes both still wait to be stored (softmax of 300 and 512 classes took 1.05 to 1.9 times as long).
PAST = 1000
# Terms of up to so many classes are kept apart from results, where there are more numbers than a second cache holds.
APART, CLOSE = 1024, 2**17


class Keeping(NamedTuple):
    """Where terms are kept until they are written, and what is written is made of.

    `kept` and `source` are ``(terms, x, shift) -> rows``: `terms` are a few rows in turn, or those of the result, and
    `shift` is what makes one of them the row itself. `apart` is ``(out, x, past) -> whether they are rows in turn``,
    `room` is ``(like, rows, classes) -> the room of these``.
    """

    kept: Any
    source: Any
    apart: Any
    room: Any


@inlined
def row_of_terms(terms, x, shift):
    return from_row(terms, shift)


@by_type
def keeps_apart(out, x, past):
    """Whether terms are kept in a few rows of their own, in turn, and not where their results will be.

    They must where `out` is of a half type or goes `past` the caches. Short rows stay in the first cache that way,
    while results come from farther (256x1000 on Zen 5: 0.94 of the time; 2000 classes 1.0, 4000 1.1).
    """
    if isinstance(out.dtype, HalfType):
        return lambda out, x, past: True
    if not has_avx512():
        return lambda out, x, past: past
    return lambda out, x, past: past or (x.shape[1] <= APART and x.shape[0] * x.shape[1] > CLOSE)


@inlined
def no_terms(terms, x, shift):
    return None


@inlined
def logits_at(terms, x, shift):
    return x


@inlined
def never_apart(out, x, past):
    return False


@inlined
def no_room(like, rows, classes):
    return None


TERMS = Keeping(row_of_terms, row_of_terms, keeps_apart, heap)
NO_TERMS = Keeping(no_terms, logits_at, never_apart, no_room)


@by_type
def rows_of_terms(out, room, own):
    """The rows that terms are kept in: a few in turn, or those of the result; None without room."""
    if isinstance(room, types.NoneType):
        return lambda out, room, own: None
    if isinstance(out.dtype, HalfType):
        return lambda out, room, own: rows_in(view(room))
    return lambda out, room, own: rows_in(view(room)) if own else out


@by_type
def rows_go_past(out, x):
    """Whether results go past the caches: with AVX-512, and where `out` is larger than any of them by half.

    (Measured on a Zen 5; a Zen 3, without AVX-512, gained nothing. Results of half types take too little of memory's
    time.)
    """
    if not has_avx512() or isinstance(out.dtype, HalfType):
        return lambda out, x: False

    def far(out, x):
        rows, n = out.shape
        return rows * n * item_bytes(out) >= 3 * LEAST and goes_past(out, n, x, None)

    return far


@inlined
def worth_pipelining(classes, rows):
    """Whether so many rows go faster in step."""
    return rows >= 3 and classes <= PIPELINED


def in_step(
    next_row: Any,
    look: Any,
    counted: Any,
    keeping: Keeping,
    settle: Any,
    result: Any,
    finish: Any,
    nothing: Any,
    empty: Any = empty_sum,
) -> Any:
    """The work on rows from `first` to `last`.

    Parameters
    ----------
    next_row : ``(x, out, row, last, extra) -> row``
        The first row from `row` on that there is work for, `last` or more if none.
    look : ``(like, x, row, top, extra) -> seen``
        What is to be known of a row before its terms are kept, perhaps in its place.
    counted : ``(top, classes) -> top``
        The terms that are counted and left out of the sum: those of this logit.
    keeping
        Where terms are kept.
    settle : ``(like, row, seen, top, shape, total, rest, count, extra) -> (more, target, entry)``
        What a row is written with, and an entry that is not written so.
    result : ``(like, source, row, j, count, more) -> vectors``
        What is written, of some vectors abreast of the `source` of `keeping`.
    finish : ``(out, row, target, entry, past) -> None``
    nothing : ``(like, extra) -> (more, target, entry)``
        Anything of the types that `settle` gives.
    empty : ``like -> total``
        What sums begin with, plain or exact.
    """
    write = along(result)
    visits = three_visits(result, write, empty)
    kept_in, source_in, apart, room_for = keeping
    least = PAST if keeping is TERMS else 0

    @inlined
    def run(x, out, first, last, scale, extra):
        like, n = lanes_of(x), x.shape[1]
        at_once, past = n > WAITING, n >= least and rows_go_past(out, x)
        own, turns = apart(out, x, past), 2 if at_once else 3
        room = room_for(like, turns, n if own else 0)
        terms = rows_of_terms(out, room, own)
        row = first
        ahead = next_row(x, out, row + 1, last, extra)
        top = row_top(like, x, row, 0, n)
        top_ahead = top if at_once else row_top(like, x, min(ahead, last - 1), 0, n)
        behind, before, turn = -1, -1, 0
        settled, settled_before = nothing(like, extra), nothing(like, extra)
        shift, shift_behind, shift_before = 0, 0, 0
        while row < last:
            beyond = next_row(x, out, ahead + 1, last, extra)
            seen = look(like, x, row, top, extra)
            shape, counts = frame(top, scale), counted(top, n)
            nearest, written, entries, back = min(beyond, last - 1), before, settled_before, shift_before
            if at_once:
                nearest, written, entries, back = min(ahead, last - 1), behind, settled, shift_behind
            shift = turn % turns - row if own else 0
            kept, source = kept_in(terms, x, shift), source_in(terms, x, back)
            if written >= 0 and is_near(shape):
                near = without_shift(shape)
                total, rest, count, top_found = visits(
                    like, x, kept, source, out, counts, row, nearest, written, near, scale, entries[0], past
                )
            else:
                total, rest, count = row_sum(like, x, kept, counts, row, 0, n, shape, scale, empty(like))
                top_found = row_top(like, x, nearest, 0, n)
                if written >= 0:
                    write(like, source, out, written, 0, n, entries[0])
            if written >= 0:
                finish(out, written, entries[1], entries[2], past)
            settled_before = settled
            settled = settle(like, row, seen, top, shape, total, rest, count, extra)
            before, behind, shift_before, shift_behind = behind, row, shift_behind, shift
            row, ahead, turn = ahead, beyond, turn + 1
            top = top_found if at_once else top_ahead
            top_ahead = top_found
        if before >= 0 and not at_once:
            write(like, source_in(terms, x, shift_before), out, before, 0, n, settled_before[0])
            finish(out, before, settled_before[1], settled_before[2], past)
        if behind >= 0:
            write(like, source_in(terms, x, shift_behind), out, behind, 0, n, settled[0])
            finish(out, behind, settled[1], settled[2], past)
        keep_alive(room)
        if past:
            fence()

    return run


# -- what operations leave out ----------------------------------------------------------------------------------------


@inlined
def nothing_seen(like, x, row, top, extra):
    return None


@inlined
def the_maximum(top, classes):
    return top


@inlined
def kept_nowhere(out):
    return None


@inlined
def no_entry(out, row, target, entry, past):
    return None
