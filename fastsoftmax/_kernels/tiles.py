"""Tiles: a few columns of an array, or a few rows as columns, copied to where all visits find them in cache."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from .half import from_lanes, to_lanes
from .jit import by_type, inlined
from .memory import _I32, ViewType, _address, _first_lanes, _masked_load, _masked_store, load, prefetch, store
from .simd import COMPUTED_IN, _llvm, is_single, width

# A tile of columns has up to so many numbers, a quarter of the second cache as float32, and so many columns: runs of
# some lines are what memory likes.
TILE, TILE_COLUMNS = 65536, 512


@inlined
def tile_columns(classes, inner, least):
    """How many columns a tile of so many classes has, a multiple of `least`; 0 if there is no room for these."""
    columns = min(TILE // classes, TILE_COLUMNS, inner + least - 1)
    return columns // least * least


@by_type
def heap(like, rows, columns):
    """An array ``[0, row, column]`` of numbers like those of `like`."""
    dtype = np.float32 if is_single(like) else np.float64
    return lambda like, rows, columns: np.empty((1, rows, columns), dtype)


@inlined
def keep_alive(array):
    """The use of an array that keeps it until here: a view keeps nothing alive."""
    if array.size:
        array[0, 0, 0] = 0.0


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


def _transpose(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """L vectors of L lanes as their columns: log2(L) stages that each exchange blocks of half the size."""
    rows = list(rows)
    size = len(rows)
    by = size // 2
    while by:
        # Lane l of the first result is a[l], or b[l - by] where bit `by` of l is set; the second likewise.
        upper = [size + lane - by if lane & by else lane for lane in range(size)]
        lower = [size + lane if lane & by else lane + by for lane in range(size)]
        word = ir.VectorType(_I32, size)
        for i in range(size):
            if not i & by:
                a, b = rows[i], rows[i + by]
                rows[i] = builder.shuffle_vector(a, b, ir.Constant(word, upper))
                rows[i + by] = builder.shuffle_vector(a, b, ir.Constant(word, lower))
        by //= 2
    return rows


@intrinsic(prefer_literal=True)
def load_columns(typingctx, tile, at, array, row, rows, columns):
    """Copy ``array[row:row+L, :columns]`` to ``tile[0, :L, at:at+L]``, transposed; what is absent becomes 0.

    `tile` is of the lanes' type and L is the number of lanes; `rows` is the number of rows of the array, `columns` at
    most L.
    """
    if not (isinstance(array, ViewType) and array.dtype in COMPUTED_IN):
        return None
    lanes = COMPUTED_IN[array.dtype]

    def codegen(context, builder, sig, args):
        tile_value, start, array_value, first, row_count, column_count = args
        index_type = types.UniTuple(types.int64, 2)
        loaded = []
        for i in range(lanes.lanes):
            position = builder.add(first, first.type(i))
            index = context.make_tuple(builder, index_type, [position, position.type(0)])
            address = _address(context, builder, array_value, array, index, index_type)
            raw = ir.VectorType(address.type.pointee, lanes.lanes)
            present = builder.icmp_signed("<", position, row_count)
            active = _first_lanes(builder, builder.select(present, column_count, column_count.type(0)), lanes.lanes)
            value = _masked_load(builder, address, raw, active)
            loaded.append(to_lanes(context, builder, value, array.dtype, lanes))
        for j, column in enumerate(_transpose(builder, loaded)):
            builder.store(column, _tile_row(context, builder, tile_value, tile, j, start, column.type), align=1)
        return context.get_dummy_value()

    return types.none(tile, types.int64, array, types.int64, types.int64, types.int64), codegen


@intrinsic(prefer_literal=True)
def store_columns(typingctx, array, tile, at, row, rows, columns):
    """The inverse of `load_columns`: write the columns of the tile as rows of the array, rounded."""
    if not (isinstance(array, ViewType) and array.dtype in COMPUTED_IN):
        return None
    lanes = COMPUTED_IN[array.dtype]

    def codegen(context, builder, sig, args):
        array_value, tile_value, start, first, row_count, column_count = args
        index_type = types.UniTuple(types.int64, 2)
        vector = _llvm(lanes)
        loaded = [
            builder.load(_tile_row(context, builder, tile_value, tile, j, start, vector), align=1)
            for j in range(lanes.lanes)
        ]
        for i, value in enumerate(_transpose(builder, loaded)):
            position = builder.add(first, first.type(i))
            index = context.make_tuple(builder, index_type, [position, position.type(0)])
            address = _address(context, builder, array_value, array, index, index_type)
            present = builder.icmp_signed("<", position, row_count)
            active = _first_lanes(builder, builder.select(present, column_count, column_count.type(0)), lanes.lanes)
            _masked_store(builder, from_lanes(context, builder, value, array.dtype), address, active)
        return context.get_dummy_value()

    return types.none(array, tile, types.int64, types.int64, types.int64, types.int64), codegen


def _tile_row(context: Any, builder: ir.IRBuilder, tile: Any, kind: Any, j: int, at: Any, vector: Any) -> ir.Value:
    """Pointer to the vector that begins at ``tile[0, j, at]``."""
    word = ir.IntType(64)
    index = context.make_tuple(builder, types.UniTuple(types.int64, 3), [word(0), word(j), at])
    address = _address(context, builder, tile, kind, index, types.UniTuple(types.int64, 3))
    return builder.bitcast(address, vector.as_pointer())
