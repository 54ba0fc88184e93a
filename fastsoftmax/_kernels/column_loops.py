"""The loops over columns ``x[outer, class, inner]``: through tiles, where they lie, several outer indices at once.

Which of them is a matter of speed: a column has its lane to itself, and its bits are those of a row.
"""

from __future__ import annotations

from typing import Any

from numba.core import types

from .ahead import ROWS_AHEAD, ask_for_rows
from .jit import by_type, inlined, piece
from .lengths import MOST_PACKED, SUMS_ROOM
from .memory import load, store
from .past import fence, goes_past
from .shuffles import abreast
from .simd import full, wide, width
from .sweeps import NUMBERS, STRAND_ROWS, ColumnWork, Rooms, nothing_written
from .target import has_avx512
from .tiles import (
    heap,
    keep_alive,
    runs_across,
    runs_across_lines,
    same_place,
    tile_columns,
    tiles_of,
    worth_runs,
    worth_tiles,
)
from .transposed import load_rows, second_rows, store_columns
from .views import ViewType, doubles_in, few_rows, from_place, lanes_of, scratch, view, with_classes


@by_type
def in_registers(v):
    """As many vectors of columns at once as the registers hold, with what is made of them."""
    if has_avx512():
        return lambda v: abreast(v, 2)
    return lambda v: v


# -- where they lie ----------------------------------------------------------------------------------------------------


def where_they_lie(work: ColumnWork) -> Any:
    """``run(x, out, start, stop, extra)``: those of the vectors of columns, a vector or two at once."""
    vector, keeps = work.vector, work.keeps

    @piece
    def run(x, out, start, stop, extra):
        like, inner = in_registers(lanes_of(x)), x.shape[2]
        w = width(like)
        across, lead = runs_across(x, w)
        sums = scratch(wide(like), 1, SUMS_ROOM)
        for unit in range(start, stop):
            o, end = unit // across, (unit % across + 1) * w - lead
            i = max(end - w, 0)
            count = min(end, inner) - i
            place = o, i, count
            source, other, result = from_place(x, o, i), same_place(extra, o, i), from_place(out, o, i)
            if count == w:
                vector(like, source, result, keeps(result), None, place, other, sums)
            elif inner > w:
                vector(like, source, result, keeps(result), count, place, other, sums)
            else:
                # Kept in the result, the terms of a class end beside those of the next, whose load would wait for
                # the store that it overlaps: they are taken twice.
                vector(like, source, result, None, count, place, other, sums)

    return run


# -- several outer indices at once -------------------------------------------------------------------------------------


@by_type
def follow(extra, inner):
    """Whether the numbers of rows, of which losses have some, follow each other from one outer index to the next."""
    if not isinstance(extra, types.BaseTuple) or not isinstance(extra[0], ViewType):
        return lambda extra, inner: True

    def dense(extra, inner):
        table, more = extra[0], extra[1]
        row = inner * 8
        return table.strides[0] == row and (more.shape[0] == 0 or more.strides[0] == row)

    return dense


@inlined
def outers_in(w, x, extra):
    """How many outer indices have their columns in one vector; fewer than 2 if they are not put there."""
    packs = x.shape[2] <= w // 2 and x.shape[1] <= MOST_PACKED and follow(extra, x.shape[2])
    return min(w // x.shape[2], x.shape[0]) if packs else 1


@inlined
def put_together(one, tile, x, o, outers):
    """Copy the columns of some outer indices to a tile, side by side; each copy ends in what the next one covers."""
    inner = x.shape[2]
    for k in range(outers):
        for j in range(x.shape[1]):
            store(tile, (0, j, k * inner), load(one, x, (o + k, j, 0), inner, 0.0), None)


@by_type
def second_put_together(one, tile, more, o, outers):
    """The same of `more`, which is then the tile; or `more` as it is if that is no array."""
    if not isinstance(more, ViewType):
        return lambda one, tile, more, o, outers: more

    def copied(one, tile, more, o, outers):
        put_together(one, tile, more, o, outers)
        return tile

    return copied


@inlined
def taken_apart(one, tile, out, o, outers):
    """Write the columns of a tile to those of some outer indices."""
    inner = out.shape[2]
    for k in range(outers):
        for j in range(out.shape[1]):
            store(out, (o + k, j, 0), load(one, tile, (0, j, k * inner), None, 0.0), inner)


@inlined
def nothing_taken_apart(one, tile, out, o, outers):
    return None


def side_by_side(work: ColumnWork) -> Any:
    """``run(x, out, start, stop, extra)`` for units of `outers_in` outer indices, whose columns go to a tile together.

    Of a few columns alone each vector would have but a few lanes of use.
    """
    vector, keeps = work.vector, work.keeps
    take_apart = nothing_taken_apart if work.write is nothing_written else taken_apart

    @piece
    def run(x, out, start, stop, extra):
        one = lanes_of(x)
        like, n = in_registers(one), x.shape[1]
        w = width(like)
        each = outers_in(w, x, extra)
        if start == stop:
            return
        sums = scratch(wide(like), 1, SUMS_ROOM)
        # Wider than a vector, as a vector is stored where the columns of the last outer index begin.
        room = heap(like, n * tiles_of(extra) + out.shape[1], w + width(one))
        tile, second = view(room[:, :n]), view(room[:, n : n * tiles_of(extra)])
        results = view(room[:, n * tiles_of(extra) :])
        # What no column has is some number, so that nothing is made of it that takes long.
        for j in range(n * tiles_of(extra)):
            store(view(room), (0, j, 0), full(like, 0.0), None)
        for unit in range(start, stop):
            o = unit * each
            outers = min(each, x.shape[0] - o)
            put_together(one, tile, x, o, outers)
            other = second_put_together(one, second, extra, o, outers)
            vector(like, tile, results, keeps(results), None, (o, 0, outers * x.shape[2]), other, sums)
            take_apart(one, results, out, o, outers)
        keep_alive(room)

    return run


def all_columns(work: ColumnWork) -> Any:
    """``run(x, out, extra)``: the work on all columns of a small array, one way or the other."""
    alone, together = where_they_lie(work), side_by_side(work)

    @piece
    def run(x, out, extra):
        w, outer = width(in_registers(lanes_of(x))), x.shape[0]
        each = outers_in(w, x, extra)
        if each > 1:
            together(x, out, 0, (outer + each - 1) // each, extra)
        else:
            alone(x, out, 0, outer * runs_across(x, w)[0], extra)

    return run


# -- through tiles -----------------------------------------------------------------------------------------------------


def through_tiles(work: ColumnWork) -> Any:
    """``run(x, out, start, stop, across, lead, step, past, extra)``: units of `step` columns, the first `lead` less."""
    visit, write, copies = work.visit, work.write, work.copies

    @piece
    def run(x, out, start, stop, across, lead, step, past, extra):
        like, inner, n = in_registers(lanes_of(x)), x.shape[2], x.shape[1]
        sums = scratch(wide(like), 1, SUMS_ROOM)
        # One allocation: of several, those before one that fails would never be freed.
        room = heap(like, STRAND_ROWS + NUMBERS + (n if copies else 0), step)
        strands, rest = view(room[:, :STRAND_ROWS]), room[:, STRAND_ROWS:]
        rooms = Rooms(view(rest[:, NUMBERS:]), view(rest[:, :NUMBERS]), strands, doubles_in(strands), sums)
        for unit in range(start, stop):
            o, end = unit // across, (unit % across + 1) * step - lead
            i = max(end - step, 0)
            count = min(end, inner) - i
            source, other, result = from_place(x, o, i), same_place(extra, o, i), from_place(out, o, i)
            seen = visit(like, source, other, (o, i, count), rooms, past)
            write(like, seen, rooms.numbers, result, count, extra, past, (source, other))
        keep_alive(room)
        if past:
            fence()

    return run


# -- the loops of kernels ----------------------------------------------------------------------------------------------


def over_columns(work: ColumnWork) -> Any:
    """The work on columns of ``x[o, class, i]``, as many at once as a tile has.

    Classes often lie a power of two apart, and then the lines of a few columns fill one set of each cache and push each
    other out between the visits. There, and where they come from memory, columns are copied to a tile, or gone through
    class by class; elsewhere they are worked on where they lie, or put together where they are few. Work finds the
    numbers of rows as ``(o, i, count)`` in an array of three axes, as ``(row, _, count)`` in one of two.
    """
    alone, together, tiles = where_they_lie(work), side_by_side(work), through_tiles(work)
    writes, copies = work.write is not nothing_written, work.copies
    worth = worth_tiles if copies else worth_runs

    def loop(first, last, tasks, x, out, extra):
        logits, results, more = view(x), view(out), view(extra)
        w, inner = width(in_registers(lanes_of(logits))), x.shape[2]
        each, shares = outers_in(w, logits, more), (tasks + x.shape[0] - 1) // x.shape[0]
        tiled = tile_columns(x, out, w, shares, copies) if each == 1 and worth(x, out) else 0
        past = writes and tiled > 0 and goes_past(results, min(tiled, inner), logits, more)
        step = max(tiled, w)
        across, lead = runs_across_lines(results, step) if past else runs_across(logits, step)
        units = (x.shape[0] + each - 1) // each * (across if each == 1 else 1)
        for task in range(first, last):
            start, stop = units * task // tasks, units * (task + 1) // tasks
            if each > 1:
                together(logits, results, start, stop, more)
            elif tiled:
                tiles(logits, results, start, stop, across, lead, step, past, more)
            else:
                alone(logits, results, start, stop, more)

    return loop


@by_type
def in_flight(v):
    """With AVX-512 more vectors than the registers hold: a few classes are a chain of waits, which four of them share.

    (Zen 5, 262144x10: softmax 0.95, log_softmax 0.94, log-sum-exp 0.91, cross-entropy 0.97 of the time of two; with
    gradient 1.03, and gradients, for which two tiles are transposed, 1.4 to 1.7. On a strided axis, in cache, 0.85 to
    0.93, but compiling it took a third longer.)
    """
    if has_avx512():
        return lambda v: abreast(v, 4)
    return lambda v: v


def over_narrow(work, write=store_columns, at_once=in_registers):
    """The work on columns for rows of at most L classes, some vectors of rows at once: through a transposed tile.

    Where `extra` is an array of the same shape, `work` finds it transposed too.
    """
    vector, keeps = work.vector, work.keeps

    def loop(first, last, tasks, x, out, extra):
        w, n, classes = width(at_once(lanes_of(view(x)))), x.shape[0], x.shape[1]
        groups = (n + w - 1) // w
        for task in range(first, last):
            rows, results, more = view(x), view(out), view(extra)
            one = lanes_of(rows)
            like = at_once(one)
            sums = scratch(wide(like), 1, SUMS_ROOM)
            tile, second_tile, written = scratch(like, 1, 16), scratch(like, 1, 16), scratch(like, 1, 16)
            spare, spare_results = few_rows(rows), few_rows(results)
            result = with_classes(written, out.shape[1])
            for group in range(groups * task // tasks, groups * (task + 1) // tasks):
                row = group * w
                ask_for_rows(results, row + ROWS_AHEAD, w, True)
                logits = load_rows(like, tile, rows, spare, row, n, classes)
                second = second_rows(like, second_tile, more, spare, row, n, classes)
                vector(like, logits, result, keeps(result), None, (row, 0, min(n - row, w)), second, sums)
                for at in range(0, w, width(one)):
                    write(one, results, written, at, spare_results, row + at, n, out.shape[1])

    return loop
