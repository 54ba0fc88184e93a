"""Tiles: a few columns of an array, or a few rows as columns, copied to where all visits find them in cache."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from .half import from_lanes, to_lanes
from .jit import by_type, inlined
from .memory import (
    _I32,
    ViewType,
    _address,
    _first_lanes,
    _masked_load,
    _masked_store,
    address,
    load,
    prefetch,
    store,
    view,
)
from .simd import COMPUTED_IN, HalfType, _llvm, is_single, width

# A tile of columns has up to so many numbers, a quarter of the second cache as float32, and so many columns: runs of
# some lines are what memory likes. With few classes a narrow tile stays in the first cache (21 classes on one thread:
# 61 cycles a vector with 512 columns, 44 with 128).
TILE, TILE_COLUMNS = 65536, 512
FEW_CLASSES, NARROW_TILE_COLUMNS = 64, 128
# Classes at most so many bytes apart need none: what one column leaves of a line is the next one's, and pages are
# shared (1000 classes on one thread, cycles a vector with a tile and without: 49 columns 47 and 33, 128 40 and 32,
# 256 43 and 39).
NEAR = 1024
LINE = 64  # bytes


@inlined
def tile_columns(classes, inner, least):
    """How many columns a tile of so many classes has, a multiple of `least`; 0 if there is no room for these."""
    most = NARROW_TILE_COLUMNS if classes <= FEW_CLASSES else TILE_COLUMNS
    columns = min(TILE // classes, most, inner + least - 1)
    return columns // least * least


@by_type
def worth_tiles(x, out, more):
    """Whether columns go faster through tiles: not where lines are shared, nor two arrays of few classes."""
    if isinstance(x.dtype, HalfType):  # a tile keeps terms, which `out` cannot
        return lambda x, out, more: True
    of_two = isinstance(more, ViewType)

    def far_apart(x, out, more):
        apart = max(abs(x.strides[1]), abs(out.strides[1]) if out.shape[1] == x.shape[1] else 0)
        return apart > NEAR and not (of_two and x.shape[1] <= FEW_CLASSES)

    return far_apart


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
        size = rows * (columns // line | 1) * line
        room = np.empty(size + line, dtype)
        start = -address(view(room)) % LINE // room.itemsize
        return room[start : start + size].reshape((1, rows, size // rows))

    return aligned


@by_type
def second_heap(like, more, rows, columns):
    """The same for `more` if that is an array, else None."""
    if isinstance(more, ViewType):
        return lambda like, more, rows, columns: heap(like, rows, columns)
    return lambda like, more, rows, columns: None


@by_type
def keep_alive(array):
    """The use of an array that keeps it until here: a view keeps nothing alive."""
    if isinstance(array, types.NoneType):
        return lambda array: None

    def use(array):
        if array.size:
            array[0, 0, 0] = 0.0

    return use


# Classes that memory is asked for in advance.
AHEAD = 3


@inlined
def load_tile(like, tile, x, o, i, count):
    """Copy ``x[o, :, i:i+count]`` to the tile."""
    w, n = width(like), x.shape[1]
    for j in range(n):
        for k in range(0, count, w):
            prefetch(x, (o, j + AHEAD, i + k), False)
            prefetch(x, (o, j + AHEAD, i + k + w // 2), False)
            if k + w <= count:
                store(tile, (0, j, k), load(like, x, (o, j, i + k), None, 0.0), None)
            else:
                store(tile, (0, j, k), load(like, x, (o, j, i + k), count - k, 0.0), None)


@by_type
def second_tile(like, room, more, o, i, count):
    """A tile of `more` like that of x, or `more` itself if it has no room."""
    if isinstance(room, types.NoneType):
        return lambda like, room, more, o, i, count: more

    def copied(like, room, more, o, i, count):
        tile = view(room)
        load_tile(like, tile, more, o, i, count)
        return tile

    return copied


@inlined
def store_tile(like, out, tile, o, i, count):
    """Copy the tile to ``out[o, :, i:i+count]``."""
    w = width(like)
    for j in range(out.shape[1]):
        for k in range(0, count, w):
            prefetch(out, (o, j + AHEAD, i + k), True)
            prefetch(out, (o, j + AHEAD, i + k + w // 2), True)
            v = load(like, tile, (0, j, k), None, 0.0)
            if k + w <= count:
                store(out, (o, j, i + k), v, None)
            else:
                store(out, (o, j, i + k), v, count - k)


@inlined
def no_tile(like, out, tile, o, i, count):
    return None


@inlined
def no_columns(array, tile, at, row, rows, columns):
    return None


# Columns go four at a time, between vectors and pieces of four elements of a row: the pieces of rows r, r + 4, r + 8
# and r + 12 make vector r of four, and two exchanges within the pieces make these the four columns. A whole transpose
# takes four exchanges, also for columns that are not there (4096x4: 420 cycles a 16 rows, 250 by pieces).
PIECE = 4


def _transpose(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """Four vectors of pieces as four columns, or back."""
    rows = list(rows)
    lanes = rows[0].type.count
    word = ir.VectorType(_I32, lanes)
    for by in (2, 1):
        # Lane l of the first result is a[l], or b[l - by] where bit `by` of l is set; the second likewise.
        upper = [lanes + lane - by if lane & by else lane for lane in range(lanes)]
        lower = [lanes + lane if lane & by else lane + by for lane in range(lanes)]
        for i in range(PIECE):
            if not i & by:
                a, b = rows[i], rows[i + by]
                rows[i] = builder.shuffle_vector(a, b, ir.Constant(word, upper))
                rows[i + by] = builder.shuffle_vector(a, b, ir.Constant(word, lower))
    return rows


def _joined(builder: ir.IRBuilder, pieces: list[ir.Value]) -> ir.Value:
    """Vectors one after the other as one."""
    while len(pieces) > 1:
        lanes = list(range(2 * pieces[0].type.count))
        word = ir.Constant(ir.VectorType(_I32, len(lanes)), lanes)
        pieces = [builder.shuffle_vector(a, b, word) for a, b in zip(pieces[::2], pieces[1::2], strict=True)]
    return pieces[0]


def _piece_of(builder: ir.IRBuilder, vector: ir.Value, index: int) -> ir.Value:
    lanes = list(range(index * PIECE, (index + 1) * PIECE))
    return builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(_I32, PIECE), lanes))


def _by_pieces(builder: ir.IRBuilder, lanes: int, columns: ir.Value, do: Any) -> None:
    """``do(first, mask)`` for each four columns that there are; the mask is None where all four are."""
    word = columns.type
    for first in range(0, lanes, PIECE):
        whole = builder.icmp_signed(">=", columns, word(first + PIECE))
        with builder.if_else(whole) as (four, fewer):
            with four:
                do(first, None)
            with fewer, builder.if_then(builder.icmp_signed(">", columns, word(first))):
                do(first, _first_lanes(builder, builder.sub(columns, word(first)), PIECE))


@intrinsic(prefer_literal=True)
def load_columns(typingctx, tile, at, array, row, rows, columns):
    """Copy ``array[row:row+L, :columns]`` to ``tile[0, :columns, at:at+L]``, transposed; absent rows are the last one.

    `tile` is of the lanes' type and L is the number of lanes; `rows` is the number of rows of the array, `columns` at
    most L. Some classes beyond `columns` may be written too.
    """
    if not (isinstance(array, ViewType) and array.dtype in COMPUTED_IN):
        return None
    lanes = COMPUTED_IN[array.dtype]

    def codegen(context, builder, sig, args):
        tile_value, start, array_value, first_row, row_count, column_count = args
        index_type = types.UniTuple(types.int64, 2)
        word = first_row.type
        last = builder.sub(row_count, word(1))
        positions = []
        for i in range(lanes.lanes):
            position = builder.add(first_row, word(i))
            positions.append(builder.select(builder.icmp_signed("<", position, last), position, last))

        def piece(row_index, first, mask):
            index = context.make_tuple(builder, index_type, [positions[row_index], word(first)])
            address = _address(context, builder, array_value, array, index, index_type)
            raw = ir.VectorType(address.type.pointee, PIECE)
            if mask is not None:
                return _masked_load(builder, address, raw, mask)
            return builder.load(builder.bitcast(address, raw.as_pointer()), align=1)

        def do(first, mask):
            vectors = []
            for r in range(PIECE):
                raw = _joined(builder, [piece(i, first, mask) for i in range(r, lanes.lanes, PIECE)])
                vectors.append(to_lanes(context, builder, raw, array.dtype, lanes))
            for j, column in enumerate(_transpose(builder, vectors)):
                builder.store(column, _tile_row(context, builder, tile_value, tile, first + j, start, column.type), 1)

        _by_pieces(builder, lanes.lanes, column_count, do)
        return context.get_dummy_value()

    return types.none(tile, types.int64, array, types.int64, types.int64, types.int64), codegen


@intrinsic(prefer_literal=True)
def store_columns(typingctx, array, tile, at, row, rows, columns):
    """The inverse of `load_columns`: write the columns of the tile as rows of the array, rounded."""
    if not (isinstance(array, ViewType) and array.dtype in COMPUTED_IN):
        return None
    lanes = COMPUTED_IN[array.dtype]

    def codegen(context, builder, sig, args):
        array_value, tile_value, start, first_row, row_count, column_count = args
        index_type = types.UniTuple(types.int64, 2)
        vector = _llvm(lanes)
        word = first_row.type

        def write(first, mask, present):
            columns = [
                builder.load(_tile_row(context, builder, tile_value, tile, first + j, start, vector), align=1)
                for j in range(PIECE)
            ]
            vectors = [from_lanes(context, builder, v, array.dtype) for v in _transpose(builder, columns)]
            for i in range(lanes.lanes):
                index = context.make_tuple(builder, index_type, [builder.add(first_row, word(i)), word(first)])
                address = _address(context, builder, array_value, array, index, index_type)
                piece = _piece_of(builder, vectors[i % PIECE], i // PIECE)
                with builder.if_then(builder.icmp_signed("<", word(i), present)) if present else nullcontext():
                    if mask is None:
                        builder.store(piece, builder.bitcast(address, piece.type.as_pointer()), align=1)
                    else:
                        _masked_store(builder, piece, address, mask)

        present = builder.sub(row_count, first_row)
        with builder.if_else(builder.icmp_signed(">=", present, word(lanes.lanes))) as (all_rows, some):
            with all_rows:
                _by_pieces(builder, lanes.lanes, column_count, lambda first, mask: write(first, mask, None))
            with some:
                _by_pieces(builder, lanes.lanes, column_count, lambda first, mask: write(first, mask, present))
        return context.get_dummy_value()

    return types.none(array, tile, types.int64, types.int64, types.int64, types.int64), codegen


def _tile_row(context: Any, builder: ir.IRBuilder, tile: Any, kind: Any, j: int, at: Any, vector: Any) -> ir.Value:
    """Pointer to the vector that begins at ``tile[0, j, at]``."""
    word = ir.IntType(64)
    index = context.make_tuple(builder, types.UniTuple(types.int64, 3), [word(0), word(j), at])
    address = _address(context, builder, tile, kind, index, types.UniTuple(types.int64, 3))
    return builder.bitcast(address, vector.as_pointer())
