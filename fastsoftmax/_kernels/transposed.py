"""A few rows as columns: copied to a tile and back, transposed."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .ahead import ROWS_AHEAD, ask_for_rows
from .half import from_lanes, to_lanes
from .jit import by_type, inlined
from .lengths import PIECE
from .memory import _address, load, store
from .shuffles import _joined, _lanes
from .simd import _I32, COMPUTED_IN, _call, _llvm, _suffix, width
from .tails import first_lanes, load_first, store_first
from .target import has_avx512
from .views import ViewType, from_row, lanes_of, with_classes


@inlined
def group_of(like, array, spare, row, rows, columns):
    """The rows from `row` on, as many as lanes: the array itself, or copies with the last one for absent ones."""
    if row + width(like) <= rows:
        return from_row(array, row)
    for k in range(width(like)):
        v = load(like, array, (min(row + k, rows - 1), 0), columns, 0.0)
        store(spare, (k, 0), v, None)
    return spare


@inlined
def load_columns(like, tile, at, array, spare, row, rows, columns):
    """Copy ``array[row:row+L, :columns]`` to ``tile[0, :columns, at:at+L]``, transposed; absent rows are the last one.

    L is the number of lanes of `like`, in which the array's elements are computed; `columns` is at most L.
    """
    load_group(tile, at, group_of(like, array, spare, row, rows, columns), columns)


@inlined
def load_rows(like, tile, array, spare, row, rows, columns):
    """The rows from `row` on as columns of `tile`, one in each lane of `like`; later ones are asked for."""
    one = lanes_of(array)
    ask_for_rows(array, row + ROWS_AHEAD, width(like), False)
    for at in range(0, width(like), width(one)):
        load_columns(one, tile, at, array, spare, row + at, rows, columns)
    return with_classes(tile, columns)


@by_type
def second_rows(like, tile, more, spare, row, rows, columns):
    """The same of `more`, or `more` itself if it is no array."""
    if not isinstance(more, ViewType):
        return lambda like, tile, more, spare, row, rows, columns: more

    def loaded(like, tile, more, spare, row, rows, columns):
        return load_rows(like, tile, more, spare, row, rows, columns)

    return loaded


@inlined
def store_columns(like, array, tile, at, spare, row, rows, columns):
    """The inverse: write the columns of the tile as rows of the array, rounded."""
    if row + width(like) <= rows:
        store_group(from_row(array, row), tile, at, columns)
        return
    store_group(spare, tile, at, columns)
    for k in range(rows - row):
        store(array, (row + k, 0), load(like, spare, (k, 0), None, 0.0), columns)


@inlined
def no_columns(like, array, tile, at, spare, row, rows, columns):
    return None


# Columns go four at a time, a `PIECE`, between vectors and as many elements of each row: the pieces of rows r, r + 4,
# r + 8 and r + 12 make vector r of four, and two exchanges within the pieces make these the four columns. A whole
# transpose takes four exchanges, also for columns that are not there (4096x4: 420 cycles a 16 rows, 250 by pieces).


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


def _by_pieces(builder: ir.IRBuilder, lanes: int, columns: ir.Value, do: Any) -> None:
    """``do(first, count)`` for each four columns that there are; the count is None where all four are."""
    word = columns.type
    for first in range(0, lanes, PIECE):
        whole = builder.icmp_signed(">=", columns, word(first + PIECE))
        with builder.if_else(whole) as (four, fewer):
            with four:
                do(first, None)
            with fewer, builder.if_then(builder.icmp_signed(">", columns, word(first))):
                do(first, builder.sub(columns, word(first)))


def _row_addresses(context: Any, builder: ir.IRBuilder, array: ir.Value, kind: Any, rows: int) -> list[ir.Value]:
    """Pointers to the first elements of as many rows: four strides on for each four of them."""
    index_type = types.UniTuple(types.int64, 2)
    word = ir.IntType(64)
    index = context.make_tuple(builder, index_type, [word(0), word(0)])
    start = _address(context, builder, array, kind, index, index_type)
    view = cgutils.create_struct_proxy(kind)(context, builder, value=array)
    stride = builder.extract_value(view.strides, 0)
    byte = ir.IntType(8).as_pointer()
    steps = [word(0), stride, builder.shl(stride, word(1)), builder.mul(stride, word(3))]
    four = builder.shl(stride, word(2))
    addresses, group = [], builder.bitcast(start, byte)
    for first in range(0, rows, PIECE):
        if first:
            group = builder.gep(group, [four])
        addresses += [builder.bitcast(builder.gep(group, [step]), start.type) for step in steps]
    return addresses


@intrinsic(prefer_literal=True)
def load_group(typingctx, tile, at, array, columns):
    """Copy ``array[:L, :columns]`` to ``tile[0, :columns, at:at+L]``, transposed.

    `tile` is of the lanes' type and L is the number of lanes; `columns` is at most L. Some classes beyond `columns` may
    be written too.
    """
    if not (isinstance(array, ViewType) and array.dtype in COMPUTED_IN):
        return None
    lanes = COMPUTED_IN[array.dtype]

    def codegen(context, builder, sig, args):
        tile_value, start, array_value, column_count = args
        rows = _row_addresses(context, builder, array_value, array, lanes.lanes)

        def piece(row, first, count):
            address = builder.gep(rows[row], [_I32(first)])
            raw = ir.VectorType(address.type.pointee, PIECE)
            if count is not None:
                return load_first(builder, address, raw, first_lanes(builder, count, PIECE))
            return builder.load(builder.bitcast(address, raw.as_pointer()), align=1)

        def do(first, count):
            vectors = []
            for r in range(PIECE):
                raw = _joined(builder, [piece(i, first, count) for i in range(r, lanes.lanes, PIECE)])
                vectors.append(to_lanes(context, builder, raw, array.dtype, lanes))
            for j, column in enumerate(_transpose(builder, vectors)):
                builder.store(column, _tile_row(context, builder, tile_value, tile, first + j, start, column.type), 1)

        _by_pieces(builder, lanes.lanes, column_count, do)
        return context.get_dummy_value()

    return types.none(tile, types.int64, array, types.int64), codegen


@intrinsic(prefer_literal=True)
def store_group(typingctx, array, tile, at, columns):
    """The inverse of `load_group`: write the columns of the tile as rows of the array, rounded."""
    if not (isinstance(array, ViewType) and array.dtype in COMPUTED_IN):
        return None
    lanes = COMPUTED_IN[array.dtype]

    def codegen(context, builder, sig, args):
        array_value, tile_value, start, column_count = args
        vector = _llvm(lanes)
        rows = _row_addresses(context, builder, array_value, array, lanes.lanes)

        def do(first, count):
            columns = [
                builder.load(_tile_row(context, builder, tile_value, tile, first + j, start, vector), align=1)
                for j in range(PIECE)
            ]
            vectors = [from_lanes(context, builder, v, array.dtype) for v in _transpose(builder, columns)]
            if has_avx512() and array.dtype in (types.float32, types.float64):
                # Else LLVM takes the last exchange to pieces of its own: 16 shuffles for four (Zen 5: gradients of rows
                # of two classes 0.94 of the time, softmax of ten 0.98).
                vectors = [_call(builder, f"llvm.arithmetic.fence.{_suffix(v.type)}", v.type, [v]) for v in vectors]
            for i in range(lanes.lanes):
                address = builder.gep(rows[i], [_I32(first)])
                piece = _lanes(builder, vectors[i % PIECE], [i // PIECE * PIECE + lane for lane in range(PIECE)])
                if count is None:
                    builder.store(piece, builder.bitcast(address, piece.type.as_pointer()), align=1)
                else:
                    store_first(builder, piece, address, count)

        _by_pieces(builder, lanes.lanes, column_count, do)
        return context.get_dummy_value()

    return types.none(array, tile, types.int64, types.int64), codegen


def _tile_row(context: Any, builder: ir.IRBuilder, tile: Any, kind: Any, j: int, at: Any, vector: Any) -> ir.Value:
    """Pointer to the vector that begins at ``tile[0, j, at]``."""
    word = ir.IntType(64)
    index = context.make_tuple(builder, types.UniTuple(types.int64, 3), [word(0), word(j), at])
    address = _address(context, builder, tile, kind, index, types.UniTuple(types.int64, 3))
    return builder.bitcast(address, vector.as_pointer())
