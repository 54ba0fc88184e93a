"""Tiles: a few columns of an array, copied to where all visits find them in cache."""

from __future__ import annotations

import numpy as np
from numba.core import types

from fastsoftmax._machine import caches

from .jit import by_type, inlined
from .memory import load, prefetch, store
from .online import bigger
from .past import LEAST, item_bytes
from .simd import LINE, HalfType, full, is_single, strands, width
from .views import ViewType, address, from_place, view

# A tile of columns has up to so many numbers, as float32 half of the second cache, and so many columns: runs of some
# lines are what memory likes, and the next tile, for which it is asked meanwhile, has to find room too (Zen 5 with 1
# MiB, 150 classes: 873 columns took 1.1 to 1.15 of the time of 256; 1000 classes: 32 columns 1.5 of that of 128).
TILE = 131072 if caches()["l2"] >= 2**20 else 65536
TILE_COLUMNS, TILE_COLUMNS_READ = 256, 512  # where results of all classes are written, and where not
# Arrays that stay in a cache need none, unless their classes lie a multiple of so many bytes apart: then a few columns
# have all their lines in two places of the first cache (two threads of the Zen 5, without tiles, of the time with them:
# 21 to 500 classes a round number apart 0.65 to 0.95; 150 classes 31 KiB apart 0.8 to 1.04; 64 classes 24 KiB apart 1.6
# to 2.9). More classes than this were as fast either way.
CROWDED, MANY = 2048, 1000
# Nor do classes at most so many bytes apart if all of them lie in a part of the second cache, or have a line or two
# each, wherever they come from: what one column leaves of a line is the next one's, and pages are shared.
NEAR, NEAREST = 1024, 2 * LINE
NEAR_BLOCK = caches()["l2"] // 4
# Of how many runs of columns it is worth to have one more, for all to end with a line.
RUNS = 32
# Lines so many bytes apart are in one place of the first cache, which has room there for those of fewer classes than
# this of both arrays that a gradient is made of (Zen 5, 512 bytes apart: 256 classes 0.75 of the time class by class,
# 64 classes 1.0 to 1.1).
PLACE, CROWD = 4096, 16


@inlined
def tile_columns(x, out, least, shares, copies):
    """How many columns a tile of x has, a multiple of `least`; 0 if there is no room for these.

    No more than leave a tile, in whole vectors, for each of about so many `shares` of the columns of x. Where nothing
    is copied, what would be one is only read again (1000 classes: 256 columns 0.82 to 0.95 of the time of 128).
    """
    most = TILE_COLUMNS if out.shape[1] == x.shape[1] else TILE_COLUMNS_READ
    room = TILE if copies or x.shape[1] > MANY else 2 * TILE
    columns = min(room // x.shape[1], most, (x.shape[2] + shares - 1) // shares + least - 1)
    return columns // least * least


@by_type
def worth_tiles(x, out):
    """Whether columns go faster through tiles: where their lines come from memory, or push each other out."""
    if isinstance(x.dtype, HalfType):  # a tile keeps terms, which `out` cannot
        return lambda x, out: True
    return lambda x, out: is_apart(x, out)


@inlined
def worth_runs(x, out):
    """Whether columns of which nothing is copied go faster class by class: likewise, also near each other."""
    round_part = x.strides[1] & -x.strides[1]  # the largest power of two in the distance
    return x.shape[1] * min(round_part, PLACE) >= CROWD * PLACE or is_apart(x, out)


@inlined
def is_apart(x, out):
    """Whether classes lie so far apart that a line was pushed out before the next columns of it are worked on."""
    apart, results = x.strides[1], out.strides[1] if out.shape[1] == x.shape[1] else 1
    farthest = max(abs(apart), abs(results))
    near = farthest <= NEAREST or (farthest <= NEAR and farthest * x.shape[1] <= NEAR_BLOCK)
    crowded = apart % CROWDED == 0 or results % CROWDED == 0 or x.shape[1] > MANY
    large = x.shape[0] * x.shape[1] * x.shape[2] * item_bytes(x) >= LEAST // 2
    return not near and (large or crowded)


@inlined
def columns_of_line_before(x):
    """How many columns would come before the first ones in their line, if all classes lie alike; else none."""
    if x.strides[0] % LINE or x.strides[1] % LINE:
        return 0
    return address(x) % LINE // item_bytes(x)


@inlined
def runs_across_lines(x, step):
    """How many runs of `step` columns an outer index has whose first is so much shorter that each ends with a line.

    Runs that end with a line store whole ones past the caches: the line of which two store a part is read first
    (8x21x256x256 as NumPy allocates it, 16 bytes after a line: softmax 0.88 to 0.93 of the time).
    """
    lead = columns_of_line_before(x) % step  # of half types some runs are less than a line
    return (x.shape[2] + lead + step - 1) // step, lead


@inlined
def runs_across(x, step):
    """The same where it is worth a run more, or takes none: a vector across two lines is loaded twice.

    (Zen 5, two threads, arrays 16 bytes after a line: softmax and its gradient of 150x528 on axis 0 0.87 and 0.70 of
    the time, of 1000x4096 0.88 and 0.99, of 8x3x65536 0.96 and 0.92, of 2x8x4096 0.98.)
    """
    lines, lead = runs_across_lines(x, step)
    across = (x.shape[2] + step - 1) // step
    return (lines, lead) if lines == across or across >= RUNS else (across, 0)


@by_type
def heap(like, rows, columns):
    """An array ``[0, row, column]`` of numbers like those of `like`.

    It begins with a line, for a vector across two lines costs twice. Its rows lie an odd number of lines apart: a power
    of two would put a few rows at one place of the first cache, and a load waits for any earlier store whose address
    ends in the same twelve bits.
    """
    dtype = np.float32 if is_single(like) else np.float64
    line = 16 if is_single(like) else 8

    def aligned(like, rows, columns):
        size = rows * ((columns + line - 1) // line | 1) * line
        room = np.empty(size + line, dtype)
        start = -address(view(room)) % LINE // room.itemsize
        return room[start : start + size].reshape((1, rows, size // rows))

    return aligned


@by_type
def tiles_of(more):
    """How many tiles there are: of x and, if that is an array, of `more`."""
    count = 2 if isinstance(more, ViewType) else 1
    return lambda more: count


@by_type
def same_place(more, o, i):
    """The columns of `more` from i on, or what it is if that is no array."""
    if not isinstance(more, ViewType):
        return lambda more, o, i: more
    return lambda more, o, i: from_place(more, o, i)


@by_type
def keep_alive(array):
    """The use of an array, if it is one, that keeps it until here: a view keeps nothing alive."""
    if isinstance(array, types.NoneType):
        return lambda array: None

    def used(array):
        if array.size:
            array[0, 0, 0] = 0.0

    return used


# Classes that memory is asked for in advance.
CLASSES_AHEAD = 4


@inlined
def copied(like, tile, x, j, i, count):
    """The numbers of a class, which are copied to the tile on the way; a class to come is asked for."""
    ask_for_class(like, x, j + CLASSES_AHEAD, i)
    v = load(like, x, (0, j, i), count, 0.0)
    store(tile, (0, j, i), v, None)
    return v


@inlined
def top_of_classes(like, tile, x, j, i, count, top):
    """The largest of `top` and up to four classes, which are copied."""
    n = x.shape[1]
    top = bigger(copied(like, tile, x, j, i, count), top)
    if j + 1 < n:
        top = bigger(copied(like, tile, x, j + 1, i, count), top)
    if j + 2 < n:
        top = bigger(copied(like, tile, x, j + 2, i, count), top)
    if j + 3 < n:
        top = bigger(copied(like, tile, x, j + 3, i, count), top)
    return top


@inlined
def load_tile(like, tile, tops, x, count):
    """Copy ``x[0, :, :count]`` to the tile, and leave the maxima of its columns in the first row of `tops`."""
    w = width(like)
    for j in range(0, x.shape[1], 4):
        for i in range(0, count, w):
            top = full(like, -np.inf) if j == 0 else load(like, tops, (0, 0, i), None, 0.0)
            if i + w <= count:
                top = top_of_classes(like, tile, x, j, i, None, top)
            else:
                top = top_of_classes(like, tile, x, j, i, count - i, top)
            store(tops, (0, 0, i), top, None)


@by_type
def needs_no_tile(like, tile, x, count):
    """Whether columns, in whole vectors, have so few classes that nothing is gained by copying them.

    What a vector of them takes are then a few lines; only results have to wait until all that they are made of was
    read, for a load waits for any store before it whose address ends in the same twelve bits.
    """
    if x != tile:  # of a half type: what is made of both must be one
        return lambda like, tile, x, count: False
    return lambda like, tile, x, count: x.shape[1] <= strands(like) and count % width(like) == 0


@by_type
def array_or_tile(condition, tile, x):
    """The tile, or the array itself if a condition holds, which never does where their types differ."""
    if x != tile:
        return lambda condition, tile, x: tile

    def chosen(condition, tile, x):
        if condition:
            return x
        return tile

    return chosen


@inlined
def ask_for_class(like, x, j, k):
    """Ask for what `like` takes of a class, which need not exist."""
    prefetch(x, (0, j, k), False)
    if width(like) > strands(like):
        prefetch(x, (0, j, k + width(like) // 2), False)
