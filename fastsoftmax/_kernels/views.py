"""Views: arrays as kernels see them, and room on the stack in their form."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models, register_default
from numba.core.typing.templates import signature
from numba.extending import intrinsic, make_attribute_wrapper

from .simd import COMPUTED_IN, HalfType, VectorType, _call, _llvm


def _item_bytes(kind: types.Type) -> int:
    """The size of an element of an array."""
    return 2 if isinstance(kind, HalfType) else kind.bitwidth // 8


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
def scratch(typingctx, like, groups, rows):
    """A view ``[group, row, lane]`` of a literal number of vectors like `like` on the stack of the calling loop."""
    literals = isinstance(groups, types.IntegerLiteral) and isinstance(rows, types.IntegerLiteral)
    if not literals or not isinstance(like, VectorType):
        return None
    made = ViewType(like.element, 3)
    counts = groups.literal_value, rows.literal_value

    def codegen(context, builder, sig, args):
        vector = _llvm(like)
        size = _item_bytes(like.element) * like.lanes
        place = cgutils.alloca_once(builder, vector, size=counts[0] * counts[1])
        word = ir.IntType(64)
        target = cgutils.create_struct_proxy(made)(context, builder)
        target.data = builder.bitcast(place, target.data.type)
        shape = [word(counts[0]), word(counts[1]), word(like.lanes)]
        strides = [word(size * counts[1]), word(size), word(size // like.lanes)]
        target.shape = cgutils.pack_array(builder, shape)
        target.strides = cgutils.pack_array(builder, strides)
        return target._getvalue()

    return made(like, groups, rows), codegen


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


@intrinsic
def rows_of_vectors(typingctx, room, count):
    """The view ``[row, class]`` of scratch room ``[0, row, lane]`` whose rows are so many vectors each."""
    if not isinstance(room, ViewType) or room.ndim != 3 or not isinstance(count, types.Integer):
        return None
    made = ViewType(room.dtype, 2)

    def codegen(context, builder, sig, args):
        source = cgutils.create_struct_proxy(room)(context, builder, value=args[0])
        target = cgutils.create_struct_proxy(made)(context, builder)
        _, vectors, lanes = cgutils.unpack_tuple(builder, source.shape)
        _, apart, item = cgutils.unpack_tuple(builder, source.strides)
        target.data = source.data
        target.shape = cgutils.pack_array(builder, [builder.udiv(vectors, args[1]), builder.mul(lanes, args[1])])
        target.strides = cgutils.pack_array(builder, [builder.mul(apart, args[1]), item])
        return target._getvalue()

    return made(room, types.int64), codegen


@intrinsic(prefer_literal=True)
def anew(typingctx, array):
    """The view once more: what is loaded from it is not what was loaded before and waits in a register.

    A matter of speed alone.
    """
    if not isinstance(array, ViewType):
        return None

    def codegen(context, builder, sig, args):
        source = cgutils.create_struct_proxy(array)(context, builder, value=args[0])
        source.data = _call(builder, "llvm.launder.invariant.group.p0", source.data.type, [source.data])
        return source._getvalue()

    return array(array), codegen


@intrinsic(prefer_literal=True)
def as_doubles(typingctx, array):
    """The view of integers of 64 bits as float64 numbers of the same bits."""
    if not isinstance(array, ViewType) or array.dtype != types.int64:
        return None
    made = ViewType(types.float64, array.ndim)

    def codegen(context, builder, sig, args):
        source = cgutils.create_struct_proxy(array)(context, builder, value=args[0])
        target = cgutils.create_struct_proxy(made)(context, builder)
        target.data, target.shape, target.strides = source.data, source.shape, source.strides
        return target._getvalue()

    return made(array), codegen


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
def from_place(typingctx, array, o, i):
    """The view of an array ``[o, :, i:]``, of which only one outer index is meant."""
    if not isinstance(array, ViewType) or array.ndim != 3:
        return None

    def codegen(context, builder, sig, args):
        source = cgutils.create_struct_proxy(array)(context, builder, value=args[0])
        step = builder.mul(args[1], cgutils.unpack_tuple(builder, source.strides)[0])
        step = builder.add(step, builder.mul(args[2], ir.IntType(64)(_item_bytes(array.dtype))))
        source.data = builder.gep(source.data, [step])
        return source._getvalue()

    return signature(array, array, types.int64, types.int64), codegen


@intrinsic(prefer_literal=True)
def numbers_as_rows(typingctx, array, o):
    """The view ``[row, 0]`` of an array ``[o, 0, row]``, whose numbers of rows follow each other; empty if that is."""
    if not isinstance(array, ViewType) or array.ndim != 3:
        return None
    made = ViewType(array.dtype, 2)

    def codegen(context, builder, sig, args):
        source = cgutils.create_struct_proxy(array)(context, builder, value=args[0])
        target = cgutils.create_struct_proxy(made)(context, builder)
        word = ir.IntType(64)
        step = builder.mul(args[1], cgutils.unpack_tuple(builder, source.strides)[0])
        target.data = builder.gep(source.data, [step])
        outer, _, inner = cgutils.unpack_tuple(builder, source.shape)
        empty = builder.icmp_signed("==", outer, word(0))
        target.shape = cgutils.pack_array(builder, [builder.select(empty, word(0), inner), word(1)])
        item = word(_item_bytes(array.dtype))
        target.strides = cgutils.pack_array(builder, [item, item])
        return target._getvalue()

    return made(array, types.int64), codegen


@intrinsic(prefer_literal=True)
def doubles_in(typingctx, room):
    """The view of room ``[0, row, column]`` as room for as many float64 numbers: two rows for one of float32."""
    if not isinstance(room, ViewType) or room.ndim != 3:
        return None
    made = ViewType(types.float64, 3)
    rows = 8 // _item_bytes(room.dtype)

    def codegen(context, builder, sig, args):
        source = cgutils.create_struct_proxy(room)(context, builder, value=args[0])
        target = cgutils.create_struct_proxy(made)(context, builder)
        word = ir.IntType(64)
        outer, row, _ = cgutils.unpack_tuple(builder, source.strides)
        _, count, columns = cgutils.unpack_tuple(builder, source.shape)
        target.data = source.data
        target.shape = cgutils.pack_array(builder, [word(1), builder.udiv(count, word(rows)), columns])
        target.strides = cgutils.pack_array(builder, [outer, builder.mul(row, word(rows)), word(8)])
        return target._getvalue()

    return made(room), codegen


@intrinsic(prefer_literal=True)
def terms_in(typingctx, like, sums):
    """The scratch room of sums as room for vectors like `like`, which are never larger: for `lengths.KEPT` a strand."""
    if not isinstance(like, VectorType) or not isinstance(sums, ViewType):
        return None
    made = ViewType(like.element, 3)

    def codegen(context, builder, sig, args):
        source = cgutils.create_struct_proxy(sums)(context, builder, value=args[1])
        target = cgutils.create_struct_proxy(made)(context, builder)
        target.data = source.data
        target.shape = source.shape
        word = ir.IntType(64)
        item = _item_bytes(like.element)
        row = item * like.lanes
        target.strides = cgutils.pack_array(builder, [word(0), word(row), word(item)])
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


@intrinsic(prefer_literal=True)
def no_numbers(typingctx, shape):
    """A view of float64 numbers with as many axes as a shape, of which there are none."""
    if not isinstance(shape, types.BaseTuple):
        return None
    made = ViewType(types.float64, len(shape))
    return made(shape), lambda context, builder, sig, args: context.get_constant_null(made)


@intrinsic(prefer_literal=True)
def lanes_of(typingctx, array):
    """Zeros in the lanes that the elements of `array` are computed in."""
    if not isinstance(array, ViewType) or array.dtype not in COMPUTED_IN:
        return None
    vector = COMPUTED_IN[array.dtype]

    def codegen(context, builder, sig, args):
        return ir.Constant(_llvm(vector), [0.0] * vector.lanes)

    return signature(vector, array), codegen
