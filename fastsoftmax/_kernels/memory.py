"""Vectors from and to arrays; with `transposed`, what computes addresses and knows half types.

``load(x, (row, j))`` reads the lanes that begin at ``x[row, j]`` and follow each other along the last axis,
whatever the strides of the other axes. Nothing is checked: kernels own their bounds. Elements need no
alignment beyond a byte, as x86 and Arm read any address and NumPy allows any.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models, register_default
from numba.core.typing.templates import signature
from numba.extending import intrinsic, make_attribute_wrapper

from .half import from_lanes, to_lanes
from .simd import _I32, COMPUTED_IN, VectorType, _as_vector, _call, _llvm, _splat, bfloat16, float16
from .tails import first_lanes, load_first, store_first

_STORED_AS = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    float16: ir.IntType(16),
    bfloat16: ir.IntType(16),
}


class ViewType(types.Type):
    """An array without its owner: where it begins, its shape and its strides.

    Numba counts references to an array in every function that it is passed to; two atomic instructions a call
    are more than a short row takes. Kernels therefore look at their arrays through views.
    """

    def __init__(self, dtype: types.Type, ndim: int) -> None:
        self.dtype = dtype
        self.ndim = ndim
        super().__init__(name=f"view({dtype}, {ndim}d)")


@register_default(ViewType)
class _ViewModel(models.StructModel):
    def __init__(self, dmm: Any, fe_type: ViewType) -> None:
        axes = types.UniTuple(types.intp, fe_type.ndim)
        members = [("data", types.voidptr), ("shape", axes), ("strides", axes)]
        super().__init__(dmm, fe_type, members)


make_attribute_wrapper(ViewType, "shape", "shape")
make_attribute_wrapper(ViewType, "strides", "strides")


@intrinsic(prefer_literal=True)
def view(typingctx, array):
    """The view of an array, which the caller keeps alive, or of each array of a tuple; anything else as it is."""
    made = _viewed(array)
    if made == array:
        return array(array), lambda context, builder, sig, args: args[0]

    def codegen(context, builder, sig, args):
        if isinstance(array, types.Array):
            return _view_of(context, builder, args[0], array)
        parts = cgutils.unpack_tuple(builder, args[0], len(array))
        looked_at = [
            _view_of(context, builder, part, kind) if isinstance(kind, types.Array) else part
            for part, kind in zip(parts, array, strict=True)
        ]
        return context.make_tuple(builder, made, looked_at)

    return made(array), codegen


def _viewed(kind: types.Type) -> types.Type:
    """The type of the view of something of this type."""
    if isinstance(kind, types.Array):
        return ViewType(kind.dtype, kind.ndim)
    if isinstance(kind, types.Tuple):
        return types.Tuple([_viewed(part) for part in kind])
    return kind


def _view_of(context: Any, builder: ir.IRBuilder, array: ir.Value, kind: types.Array) -> ir.Value:
    source = context.make_array(kind)(context, builder, array)
    target = cgutils.create_struct_proxy(_viewed(kind))(context, builder)
    target.data = builder.bitcast(source.data, target.data.type)
    target.shape = source.shape
    target.strides = source.strides
    return target._getvalue()


@intrinsic(prefer_literal=True)
def address(typingctx, array):
    """Where the first element of a view lies."""
    if not isinstance(array, ViewType):
        return None

    def codegen(context, builder, sig, args):
        made = cgutils.create_struct_proxy(array)(context, builder, value=args[0])
        return builder.ptrtoint(made.data, ir.IntType(64))

    return types.int64(array), codegen


@intrinsic(prefer_literal=True)
def scratch(typingctx, like, rows):
    """A view ``[0, row, lane]`` of a literal number of vectors like `like` on the stack of the calling loop."""
    if not isinstance(like, VectorType) or not isinstance(rows, types.IntegerLiteral):
        return None
    made = ViewType(like.element, 3)
    count = rows.literal_value

    def codegen(context, builder, sig, args):
        vector = _llvm(like)
        size = {ir.FloatType(): 4, ir.DoubleType(): 8}[vector.element] * vector.count
        place = cgutils.alloca_once(builder, vector, size=count)
        word = ir.IntType(64)
        target = cgutils.create_struct_proxy(made)(context, builder)
        target.data = builder.bitcast(place, target.data.type)
        shape = [word(1), word(count), word(like.lanes)]
        strides = [word(size * count), word(size), word(size // like.lanes)]
        target.shape = cgutils.pack_array(builder, shape)
        target.strides = cgutils.pack_array(builder, strides)
        return target._getvalue()

    return made(like, rows), codegen


@intrinsic(prefer_literal=True)
def few_rows(typingctx, array):
    """A view ``[row, column]`` of 16 rows of 64 bytes on the stack of the calling loop, of an array's elements."""
    if not isinstance(array, ViewType):
        return None
    made = ViewType(array.dtype, 2)

    def codegen(context, builder, sig, args):
        item = _item_bytes(array.dtype)
        word = ir.IntType(64)
        target = cgutils.create_struct_proxy(made)(context, builder)
        place = cgutils.alloca_once(builder, ir.VectorType(ir.IntType(8), 64), 16)
        target.data = builder.bitcast(place, target.data.type)
        target.shape = cgutils.pack_array(builder, [word(16), word(64 // item)])
        target.strides = cgutils.pack_array(builder, [word(64), word(item)])
        return target._getvalue()

    return made(array), codegen


@intrinsic(prefer_literal=True)
def rows_in(typingctx, room):
    """The view ``[row, lane]`` of scratch room ``[0, row, lane]``."""
    if not isinstance(room, ViewType) or room.ndim != 3:
        return None
    made = ViewType(room.dtype, 2)

    def codegen(context, builder, sig, args):
        source = cgutils.create_struct_proxy(room)(context, builder, value=args[0])
        target = cgutils.create_struct_proxy(made)(context, builder)
        target.data = source.data
        target.shape = cgutils.pack_array(builder, cgutils.unpack_tuple(builder, source.shape)[1:])
        target.strides = cgutils.pack_array(builder, cgutils.unpack_tuple(builder, source.strides)[1:])
        return target._getvalue()

    return made(room), codegen


@intrinsic(prefer_literal=True)
def anew(typingctx, array):
    """The view once more: what is loaded from it is not what was loaded before and waits in a register."""
    if not isinstance(array, ViewType):
        return None

    def codegen(context, builder, sig, args):
        source = cgutils.create_struct_proxy(array)(context, builder, value=args[0])
        source.data = _call(builder, "llvm.launder.invariant.group.p0", source.data.type, [source.data])
        return source._getvalue()

    return array(array), codegen


@intrinsic(prefer_literal=True)
def from_row(typingctx, array, row):
    """The view of an array's rows from one on."""
    if not isinstance(array, ViewType) or not isinstance(row, types.Integer):
        return None

    def codegen(context, builder, sig, args):
        source = cgutils.create_struct_proxy(array)(context, builder, value=args[0])
        step = builder.mul(args[1], cgutils.unpack_tuple(builder, source.strides)[0])
        first = builder.add(builder.ptrtoint(source.data, ir.IntType(64)), step)
        source.data = builder.inttoptr(first, source.data.type)
        return source._getvalue()

    return signature(array, array, types.int64), codegen


@intrinsic(prefer_literal=True)
def everywhere(typingctx, like, array, index):
    """One number of a view of the lanes' type, in every lane of a vector like `like`."""
    if not _indexed(array, index) or not isinstance(like, VectorType) or array.dtype != like.element:
        return None

    def codegen(context, builder, sig, args):
        address = _address(context, builder, args[1], array, args[2], index)
        return _splat(builder, builder.load(address, align=1), like.lanes)

    return like(like, array, index), codegen


@intrinsic(prefer_literal=True)
def terms_in(typingctx, like, sums):
    """The scratch room of sums as room for sixteen vectors like `like`, which is never larger."""
    if not isinstance(like, VectorType) or not isinstance(sums, ViewType):
        return None
    made = ViewType(like.element, 3)

    def codegen(context, builder, sig, args):
        source = cgutils.create_struct_proxy(sums)(context, builder, value=args[1])
        target = cgutils.create_struct_proxy(made)(context, builder)
        target.data = source.data
        target.shape = source.shape
        word = ir.IntType(64)
        item = like.element.bitwidth // 8
        row = item * like.lanes
        target.strides = cgutils.pack_array(builder, [word(16 * row), word(row), word(item)])
        return target._getvalue()

    return made(like, sums), codegen


@intrinsic(prefer_literal=True)
def with_classes(typingctx, array, classes):
    """The view with only the first `classes` along its second axis."""
    if not isinstance(array, ViewType):
        return None

    def codegen(context, builder, sig, args):
        made = cgutils.create_struct_proxy(array)(context, builder, value=args[0])
        count = context.cast(builder, args[1], classes, types.intp)
        made.shape = builder.insert_value(made.shape, count, 1)
        return made._getvalue()

    return array(array, classes), codegen


def _indexed(array: types.Type, index: types.Type) -> bool:
    return (
        isinstance(array, ViewType)
        and array.dtype in COMPUTED_IN
        and isinstance(index, types.BaseTuple)
        and len(index) == array.ndim
        and all(isinstance(i, types.Integer) for i in index)
    )


def _item_bytes(dtype: types.Type) -> int:
    return {ir.FloatType(): 4, ir.DoubleType(): 8}.get(_STORED_AS[dtype], 2)


def _address(context: Any, builder: ir.IRBuilder, array: Any, array_type: Any, index: Any, index_type: Any) -> ir.Value:
    """Pointer to one element. The last axis is contiguous by contract, so its stride is the item size."""
    view = cgutils.create_struct_proxy(array_type)(context, builder, value=array)
    word = ir.IntType(64)
    stored = _STORED_AS[array_type.dtype]
    offset = word(0)
    for axis, kind in enumerate(index_type):
        position = context.cast(builder, builder.extract_value(index, axis), kind, types.int64)
        if axis == array_type.ndim - 1:
            stride = word(_item_bytes(array_type.dtype))
        else:
            stride = builder.extract_value(view.strides, axis)
        offset = builder.add(offset, builder.mul(position, stride))
    start = builder.gep(builder.bitcast(view.data, ir.IntType(8).as_pointer()), [offset])
    return builder.bitcast(start, stored.as_pointer())


def _countable(count: types.Type) -> bool:
    return isinstance(count, (types.Integer, types.NoneType))


@intrinsic(prefer_literal=True)
def load(typingctx, like, array, index, count, absent):
    """The numbers that begin at ``array[index]``, as a vector like `like`.

    With a `count`, only so many lanes touch memory and the others hold `absent`; None means all of them.
    """
    if not _indexed(array, index) or not _countable(count) or not isinstance(like, VectorType):
        return None

    def codegen(context, builder, sig, args):
        address = _address(context, builder, args[1], array, args[2], index)
        raw = ir.VectorType(address.type.pointee, like.lanes)
        if isinstance(count, types.NoneType):
            value = builder.load(builder.bitcast(address, raw.as_pointer()), align=1)
            return to_lanes(context, builder, value, array.dtype, like)
        active = first_lanes(builder, context.cast(builder, args[3], count, types.int64), like.lanes)
        value = load_first(builder, address, raw, active)
        otherwise = _as_vector(context, builder, args[4], absent, like)
        return builder.select(active, to_lanes(context, builder, value, array.dtype, like), otherwise)

    return signature(like, like, array, index, count, absent), codegen


@intrinsic(prefer_literal=True)
def store(typingctx, array, index, value, count):
    """Write the lanes of `value`, or the first `count` of them, to where ``array[index]`` begins, rounded."""
    if not (_indexed(array, index) and isinstance(value, VectorType) and _countable(count)):
        return None
    if value.element != COMPUTED_IN[array.dtype].element:
        return None

    def codegen(context, builder, sig, args):
        address = _address(context, builder, args[0], array, args[1], index)
        raw = from_lanes(context, builder, args[2], array.dtype)
        if isinstance(count, types.NoneType):
            builder.store(raw, builder.bitcast(address, raw.type.as_pointer()), align=1)
        else:
            store_first(builder, raw, address, context.cast(builder, args[3], count, types.int64))
        return context.get_dummy_value()

    return signature(types.none, array, index, value, count), codegen


@intrinsic(prefer_literal=True)
def number(typingctx, array, index):
    """One number of a view, in float64.

    Not as a vector of one lane: a load waits for an earlier store to any of its lanes, wanted or not.
    """
    if not _indexed(array, index):
        return None

    def codegen(context, builder, sig, args):
        lanes = VectorType(COMPUTED_IN[array.dtype].element, 1)
        address = _address(context, builder, args[0], array, args[1], index)
        raw = ir.VectorType(address.type.pointee, 1)
        value = to_lanes(
            context, builder, builder.load(builder.bitcast(address, raw.as_pointer()), align=1), array.dtype, lanes
        )
        scalar = builder.extract_element(value, _I32(0))
        return scalar if scalar.type == ir.DoubleType() else builder.fpext(scalar, ir.DoubleType())

    return types.float64(array, index), codegen


@intrinsic(prefer_literal=True)
def put(typingctx, array, index, value):
    """Write one number, rounded."""
    if not _indexed(array, index) or not isinstance(value, types.Number):
        return None

    def codegen(context, builder, sig, args):
        element = COMPUTED_IN[array.dtype].element
        address = _address(context, builder, args[0], array, args[1], index)
        one = _splat(builder, context.cast(builder, args[2], value, element), 1)
        raw = from_lanes(context, builder, one, array.dtype)
        builder.store(raw, builder.bitcast(address, raw.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.none(array, index, value), codegen


@intrinsic(prefer_literal=True)
def prefetch(typingctx, array, index, to_write):
    """Ask for the cache line of ``array[index]``, which need not exist, for a literal `to_write` as its only owner.

    Nothing happens for an array that is None.
    """
    if isinstance(array, types.NoneType):
        return types.none(array, index, to_write), lambda context, builder, sig, args: context.get_dummy_value()
    if not _indexed(array, index) or not isinstance(to_write, types.BooleanLiteral):
        return None

    def codegen(context, builder, sig, args):
        address = _address(context, builder, args[0], array, args[1], index)
        _ask_for(builder, builder.bitcast(address, ir.IntType(8).as_pointer()), to_write)
        return context.get_dummy_value()

    return types.none(array, index, to_write), codegen


@intrinsic(prefer_literal=True)
def prefetch_at(typingctx, array, offset, to_write):
    """Ask for the cache line so many bytes from where an array begins, as `prefetch` does."""
    if not isinstance(array, ViewType) or not isinstance(to_write, types.BooleanLiteral):
        return None

    def codegen(context, builder, sig, args):
        made = cgutils.create_struct_proxy(array)(context, builder, value=args[0])
        _ask_for(builder, builder.gep(made.data, [args[1]]), to_write)
        return context.get_dummy_value()

    return types.none(array, types.int64, to_write), codegen


def _ask_for(builder: ir.IRBuilder, pointer: ir.Value, to_write: types.BooleanLiteral) -> None:
    hints = [_I32(int(to_write.literal_value)), _I32(3), _I32(1)]
    _call(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer, *hints])


@intrinsic(prefer_literal=True)
def lanes_of(typingctx, array):
    """Zeros in the lanes that the elements of `array` are computed in."""
    if not isinstance(array, ViewType) or array.dtype not in COMPUTED_IN:
        return None
    vector = COMPUTED_IN[array.dtype]

    def codegen(context, builder, sig, args):
        return ir.Constant(_llvm(vector), [0.0] * vector.lanes)

    return signature(vector, array), codegen
