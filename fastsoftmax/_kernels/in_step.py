"""Rows in a pipeline of three visits, several rows in flight.

In one loop, row r is summed, the row two before it is written and the maximum of the row two after it is found. The
loads and stores of two visits hide behind the arithmetic of the third, and what turns a sum into what is written, a
chain of some hundred cycles for each row, has the time of a whole row to finish. Long rows make nothing of a hundred
cycles, but fill the second cache: there it is the row before and the row after.
"""

from __future__ import annotations

from typing import Any

from .jit import inlined
from .online import frame, is_near, without_shift
from .views import lanes_of
from .visits import row_sum, row_top, three_visits
from .writes import along

# Rows of up to this many classes are worked on several at a time: six of them share the second cache.
PIPELINED = 32768
# Of more classes, the row before is written and not the one before that: four rows instead of six in the second cache.
WAITING = 8192


@inlined
def worth_pipelining(classes, rows):
    """Whether so many rows go faster in step."""
    return rows >= 3 and classes <= PIPELINED


def in_step(
    next_row: Any, look: Any, counted: Any, kept_in: Any, settle: Any, result: Any, finish: Any, nothing: Any
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
    kept_in : ``out -> out or None``
        Where terms are kept.
    settle : ``(like, row, seen, top, shape, total, rest, count, extra) -> (more, target, entry)``
        What a row is written with, and an entry that is not written so.
    result : ``(like, x, out, row, j, count, more) -> vectors``
        What is written, of some vectors abreast.
    finish : ``(out, row, target, entry) -> None``
    nothing : ``(like, extra) -> (more, target, entry)``
        Anything of the types that `settle` gives.
    """
    write = along(result)
    visits = three_visits(result, write)

    @inlined
    def run(x, out, first, last, scale, extra):
        like, n = lanes_of(x), x.shape[1]
        at_once = n > WAITING
        row = first
        ahead = next_row(x, out, row + 1, last, extra)
        top = row_top(like, x, row, 0, n)
        top_ahead = top if at_once else row_top(like, x, min(ahead, last - 1), 0, n)
        behind, before = -1, -1
        settled, settled_before = nothing(like, extra), nothing(like, extra)
        kept = kept_in(out)
        while row < last:
            beyond = next_row(x, out, ahead + 1, last, extra)
            seen = look(like, x, row, top, extra)
            shape, counts = frame(top, scale), counted(top, n)
            nearest, written, entries = min(beyond, last - 1), before, settled_before
            if at_once:
                nearest, written, entries = min(ahead, last - 1), behind, settled
            if written >= 0 and is_near(shape):
                near = without_shift(shape)
                total, rest, count, top_found = visits(
                    like, x, kept, out, counts, row, nearest, written, near, scale, entries[0]
                )
            else:
                total, rest, count = row_sum(like, x, kept, counts, row, 0, n, shape, scale)
                top_found = row_top(like, x, nearest, 0, n)
                if written >= 0:
                    write(like, x, out, written, 0, n, entries[0])
            if written >= 0:
                finish(out, written, entries[1], entries[2])
            settled_before = settled
            settled = settle(like, row, seen, top, shape, total, rest, count, extra)
            before, behind = behind, row
            row, ahead = ahead, beyond
            top = top_found if at_once else top_ahead
            top_ahead = top_found
        if before >= 0 and not at_once:
            write(like, x, out, before, 0, n, settled_before[0])
            finish(out, before, settled_before[1], settled_before[2])
        if behind >= 0:
            write(like, x, out, behind, 0, n, settled[0])
            finish(out, behind, settled[1], settled[2])

    return run


# -- what operations leave out ----------------------------------------------------------------------------------------


@inlined
def nothing_seen(like, x, row, top, extra):
    return None


@inlined
def the_maximum(top, classes):
    return top


@inlined
def kept_in_place(out):
    return out


@inlined
def kept_nowhere(out):
    return None


@inlined
def no_entry(out, row, target, entry):
    return None
