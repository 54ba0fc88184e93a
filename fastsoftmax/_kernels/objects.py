"""Arrays as Python hands them over, looked at where they lie.

Numba makes a structure with a counted owner of each array that a function is called with, and Python makes an object of
each answer to a question about one: 25 ns an array, 20 to 40 a question, where ten logits take 40. Here compiled code
reads the array object itself. How that lies in memory is part of NumPy's binary interface, which every extension module
is compiled against (PyArrayObject, in NumPy's C API); how long the head of any object is, Python tells.

The caller makes sure that they are arrays, keeps them alive, and holds Python's lock. Until the compiled code is called
another thread may give an array a new shape or a new dtype, so all is asked there: also whether the array still has the
dtype that the code was chosen by.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models, register_default
from numba.extending import NativeValue, intrinsic, unbox

from .views import ViewType, _item_bytes

_BYTE, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_POINTER = _BYTE.as_pointer()
# What follows the head of every object: data, nd, dimensions, strides, base, descr, flags.
_HEAD = object.__basicsize__
_DATA, _AXES, _SHAPE, _STRIDES, _DTYPE, _FLAGS = (_HEAD + at for at in (0, 8, 16, 24, 40, 48))
# NPY_ARRAY_C_CONTIGUOUS and NPY_ARRAY_WRITEABLE
CONTIGUOUS, WRITEABLE = 0x1, 0x400

# What a call comes to whose arrays another thread gives another shape.
CHANGED = "an array was given another shape while it was worked on"


class LoanedType(types.Array):
    """An array that the caller keeps alive while compiled code uses it: nobody counts who does.

    An array of the `plan`, the first one of a loop or another of its shape, may be one that other threads know: what
    it holds lies within its memory as long as `are_planned` finds the shape and the strides of the plan, whatever its
    dtype is by then. Any other has to be nobody's else.
    """

    def __init__(self, dtype: types.Type, ndim: int, plan: bool) -> None:
        self.plan = plan
        super().__init__(dtype, ndim, "A", name=f"loaned({dtype}, {ndim}d, {plan}, {_HEAD})")

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells types apart: a gradient of float64 from a table of numbers, too."""
        return (*super().key, self.plan)


register_default(LoanedType)(models.ArrayModel)


@unbox(LoanedType)
def _as_loaned(kind: LoanedType, value: ir.Value, c: Any) -> NativeValue:
    """Its place, shape and strides at this moment; an error for other axes than planned."""
    builder, numbers = c.builder, ir.ArrayType(_I64, kind.ndim)
    found = [cgutils.alloca_once_value(builder, ir.Constant(numbers, None)) for _ in range(2)]
    wrong = builder.icmp_signed("!=", _field(builder, value, _AXES, _I32), _I32(kind.ndim))
    with builder.if_else(wrong, likely=False) as (other, same):
        with other:
            c.pyapi.err_set_string("PyExc_ValueError", CHANGED)
        with same:
            for place, at in zip(found, (_SHAPE, _STRIDES), strict=True):
                lies_at = _field(builder, value, at, numbers.as_pointer())
                builder.store(builder.load(lies_at), place)
    target = c.context.make_array(kind)(c.context, builder)
    c.context.populate_array(
        target,
        data=_field(builder, value, _DATA, target.data.type),
        shape=cgutils.unpack_tuple(builder, builder.load(found[0])),
        strides=cgutils.unpack_tuple(builder, builder.load(found[1])),
        itemsize=_I64(_item_bytes(kind.dtype)),
        meminfo=None,
    )
    return NativeValue(target._getvalue(), is_error=wrong)


@intrinsic(prefer_literal=True)
def loaned(typingctx, array, shape, like):
    """A contiguous array of compiled code's own in some shape, as of the type of `like`; it has to be kept alive."""
    if not isinstance(array, types.Array) or not isinstance(like, LoanedType) or array.dtype != like.dtype:
        return None

    def codegen(context, builder, sig, args):
        lengths, strides = _dense(context, builder, array, args[1], shape)
        source = context.make_array(array)(context, builder, args[0])
        target = context.make_array(like)(context, builder)
        context.populate_array(
            target, data=source.data, shape=lengths, strides=strides, itemsize=source.itemsize, meminfo=None
        )
        return target._getvalue()

    return like(array, shape, like), codegen


@intrinsic
def are_planned(typingctx, arguments, shape):
    """Whether the arrays of the plan have this shape and are contiguous; yes, whatever they are, for a shape of 0.

    An axis of one may have any stride.
    """
    if not isinstance(arguments, types.BaseTuple) or not isinstance(shape, types.UniTuple):
        return None

    def codegen(context, builder, sig, args):
        lengths, strides = _dense(context, builder, arguments[0], args[1], shape)
        fit = cgutils.true_bit
        for place, kind in enumerate(arguments):
            if isinstance(kind, LoanedType) and kind.plan:
                array = context.make_array(kind)(context, builder, builder.extract_value(args[0], place))
                for length, wanted in zip(cgutils.unpack_tuple(builder, array.shape), lengths, strict=True):
                    fit = builder.and_(fit, builder.icmp_signed("==", length, wanted))
                steps = zip(cgutils.unpack_tuple(builder, array.strides), strides, lengths, strict=True)
                for step, wanted, length in steps:
                    alone = builder.icmp_signed("==", length, _I64(1))
                    fit = builder.and_(fit, builder.or_(alone, builder.icmp_signed("==", step, wanted)))
        return builder.or_(fit, builder.icmp_signed("==", lengths[0], _I64(0)))

    return types.boolean(arguments, shape), codegen


class ObjectType(types.Type):
    """An array object whose elements, if it `is_of` their dtype, are of a type; or that dtype itself."""

    def __init__(self, dtype: types.Type) -> None:
        self.dtype = dtype
        super().__init__(name=f"object({dtype}, {_HEAD})")


@register_default(ObjectType)
class _ObjectModel(models.OpaqueModel):
    pass


@unbox(ObjectType)
def _as_it_is(kind: ObjectType, value: ir.Value, c: Any) -> NativeValue:
    return NativeValue(value)


def _field(builder: ir.IRBuilder, value: ir.Value, at: int, kind: ir.Type) -> ir.Value:
    place = builder.gep(builder.bitcast(value, _POINTER), [_I64(at)])
    return builder.load(builder.bitcast(place, kind.as_pointer()))


def _asked(at: int, kind: ir.Type) -> Any:
    """An intrinsic that reads one field of an array object, as a whole number."""

    def asked(typingctx, array):
        if not isinstance(array, ObjectType):
            return None

        def codegen(context, builder, sig, args):
            value = _field(builder, args[0], at, kind)
            return builder.ptrtoint(value, _I64) if kind == _POINTER else builder.sext(value, _I64)

        return types.int64(array), codegen

    return intrinsic(asked)


axes, flags, dtype = _asked(_AXES, _I32), _asked(_FLAGS, _I32), _asked(_DTYPE, _POINTER)


@intrinsic
def identity(typingctx, value):
    """The address of an object, which tells it apart from others."""
    if not isinstance(value, ObjectType):
        return None
    return types.int64(value), lambda context, builder, sig, args: builder.ptrtoint(args[0], _I64)


@intrinsic
def extent(typingctx, array, axis):
    """The length of one axis, which the array must have."""
    if not isinstance(array, ObjectType) or not isinstance(axis, types.Integer):
        return None

    def codegen(context, builder, sig, args):
        shape = _field(builder, args[0], _SHAPE, _I64.as_pointer())
        return builder.load(builder.gep(shape, [args[1]]))

    return types.int64(array, types.int64), codegen


@intrinsic(prefer_literal=True)
def seen_as(typingctx, array, shape):
    """The view of a contiguous array in some shape: ``[row, class]``, ``[outer, class, inner]``."""
    if not isinstance(array, ObjectType) or not isinstance(shape, types.BaseTuple):
        return None
    made = ViewType(array.dtype, len(shape))

    def codegen(context, builder, sig, args):
        lengths, strides = _dense(context, builder, array, args[1], shape)
        target = cgutils.create_struct_proxy(made)(context, builder)
        target.data = _field(builder, args[0], _DATA, target.data.type)
        target.shape = cgutils.pack_array(builder, lengths)
        target.strides = cgutils.pack_array(builder, strides)
        return target._getvalue()

    return made(array, shape), codegen


@intrinsic
def array_as(typingctx, array, shape):
    """A contiguous array as Numba's of some shape, that counts no references."""
    if not isinstance(array, ObjectType) or not isinstance(shape, types.BaseTuple):
        return None
    made = types.Array(array.dtype, len(shape), "C")

    def codegen(context, builder, sig, args):
        lengths, strides = _dense(context, builder, array, args[1], shape)
        target = context.make_array(made)(context, builder)
        data, item = _field(builder, args[0], _DATA, target.data.type), _I64(_item_bytes(array.dtype))
        context.populate_array(target, data=data, shape=lengths, strides=strides, itemsize=item, meminfo=None)
        return target._getvalue()

    return made(array, shape), codegen


def _dense(context: Any, builder: ir.IRBuilder, array: Any, shape: ir.Value, kind: Any) -> tuple[list[Any], list[Any]]:
    """The lengths of the axes and the bytes between their elements, where these follow each other."""
    parts = zip(cgutils.unpack_tuple(builder, shape), kind, strict=True)
    lengths = [context.cast(builder, value, of, types.intp) for value, of in parts]
    strides = [_I64(_item_bytes(array.dtype))]
    for length in reversed(lengths[1:]):
        strides.insert(0, builder.mul(length, strides[0]))
    return lengths, strides
