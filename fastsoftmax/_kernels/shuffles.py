"""Lanes taken out of vectors, put into them, exchanged and set side by side."""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import signature
from numba.extending import intrinsic

from .simd import _I32, MaskType, VectorType, _call, _of, _splat
from .target import has_avx2, has_avx512


def _lanes(builder: ir.IRBuilder, v: ir.Value, lanes: list[int]) -> ir.Value:
    """A vector of some of the lanes of another."""
    return builder.shuffle_vector(v, v, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def _joined(builder: ir.IRBuilder, pieces: list[ir.Value]) -> ir.Value:
    """Vectors one after the other as one."""
    while len(pieces) > 1:
        lanes = list(range(2 * pieces[0].type.count))
        word = ir.Constant(ir.VectorType(_I32, len(lanes)), lanes)
        pieces = [builder.shuffle_vector(a, b, word) for a, b in zip(pieces[::2], pieces[1::2], strict=True)]
    return pieces[0]


@intrinsic(prefer_literal=True)
def any_lane(typingctx, mask):
    """Whether any lane of the mask is true."""
    if not isinstance(mask, MaskType):
        return None

    def codegen(context, builder, sig, args):
        whole = builder.bitcast(args[0], ir.IntType(mask.lanes))
        return builder.icmp_unsigned("!=", whole, whole.type(0))

    return types.boolean(mask), codegen


@intrinsic(prefer_literal=True)
def rarely(typingctx, condition):
    """A condition whose branch the code is laid out not to take."""
    if not isinstance(condition, types.Boolean):
        return None

    def codegen(context, builder, sig, args):
        return _call(builder, "llvm.expect.i1", args[0].type, [args[0], args[0].type(0)])

    return types.boolean(condition), codegen


@intrinsic(prefer_literal=True)
def lanes_true(typingctx, mask):
    """In how many lanes the mask is true."""
    if not isinstance(mask, MaskType):
        return None

    def codegen(context, builder, sig, args):
        whole = builder.bitcast(args[0], ir.IntType(mask.lanes))
        count = builder.ctpop(whole)
        return count if mask.lanes == 64 else builder.zext(count, ir.IntType(64))

    return types.int64(mask), codegen


@intrinsic(prefer_literal=True)
def abreast(typingctx, v, times):
    """A vector several times over, as one of so many times the lanes; what is no vector stays as it is.

    What is done to vectors abreast is done to one after the other, so that as many chains of dependent instructions
    overlap however far a processor looks ahead.
    """
    if not isinstance(times, types.IntegerLiteral):
        return None
    if not isinstance(v, VectorType):
        return v(v, times), lambda context, builder, sig, args: args[0]
    lanes = list(range(v.lanes)) * times.literal_value
    result = VectorType(v.element, len(lanes))
    return result(v, times), lambda context, builder, sig, args: _lanes(builder, args[0], lanes)


@intrinsic(prefer_literal=True)
def repeated(typingctx, v, like):
    """A vector whose lanes are equal, as one of the lanes of `like`; None stays None."""
    if isinstance(v, types.NoneType):
        return v(v, like), lambda context, builder, sig, args: context.get_dummy_value()
    if not isinstance(v, VectorType) or not isinstance(like, VectorType):
        return None
    lanes = [i % v.lanes for i in range(like.lanes)]
    return _of(v.element, like)(v, like), lambda context, builder, sig, args: _lanes(builder, args[0], lanes)


@intrinsic(prefer_literal=True)
def part(typingctx, v, index, like):
    """One of the vectors like `like` that `v` is made of; `index` is a literal."""
    if not isinstance(v, VectorType) or not isinstance(like, VectorType) or not isinstance(index, types.IntegerLiteral):
        return None
    first = index.literal_value * like.lanes
    lanes = list(range(first, first + like.lanes))
    return like(v, index, like), lambda context, builder, sig, args: _lanes(builder, args[0], lanes)


@intrinsic(prefer_literal=True)
def first_half(typingctx, v):
    """The first half of the lanes."""
    if not isinstance(v, VectorType):
        return None
    lanes = list(range(v.lanes // 2))
    return VectorType(v.element, len(lanes))(v), lambda context, builder, sig, args: _lanes(builder, args[0], lanes)


@intrinsic(prefer_literal=True)
def halves(typingctx, a, b, group, which):
    """The first (0) or the second (1) half of each group of lanes, those of `a` before those of `b`."""
    literals = isinstance(group, types.IntegerLiteral) and isinstance(which, types.IntegerLiteral)
    if not literals or not isinstance(a, VectorType) or a != b:
        return None
    half = group.literal_value // 2
    lanes = [i for i in range(2 * a.lanes) if i // half % 2 == which.literal_value]

    def codegen(context, builder, sig, args):
        return builder.shuffle_vector(args[0], args[1], ir.Constant(ir.VectorType(ir.IntType(32), a.lanes), lanes))

    return a(a, b, group, which), codegen


@intrinsic(prefer_literal=True)
def side_by_side(typingctx, a, b):
    """Two vectors as one of twice the lanes."""
    if not isinstance(a, VectorType) or a != b:
        return None

    def codegen(context, builder, sig, args):
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), 2 * a.lanes), list(range(2 * a.lanes)))
        return builder.shuffle_vector(args[0], args[1], lanes)

    return VectorType(a.element, 2 * a.lanes)(a, b), codegen


@intrinsic(prefer_literal=True)
def rotate(typingctx, v, by):
    """Lane i of the result is lane ``i ^ by`` of `v`; `by` is a literal power of two."""
    if not isinstance(v, VectorType) or not isinstance(by, types.IntegerLiteral):
        return None

    def codegen(context, builder, sig, args):
        return _lanes(builder, args[0], [i ^ by.literal_value for i in range(v.lanes)])

    return signature(v, v, by), codegen


# What looks numbers up in a register, by how many at once. Of a place they see the three or four lowest bits, so a row
# of sixteen holds the eight numbers twice.
_PERMUTES = {16: "llvm.x86.avx512.permvar.si.512", 8: "llvm.x86.avx2.permd"}


@intrinsic(prefer_literal=True)
def one_of_eight(typingctx, table, v):
    """In each lane of 32 bits, the one of eight numbers whose place its three lowest bits say."""
    if not isinstance(table, types.UniTuple) or table.count != 8 or v != _of(types.int32, v):
        return None

    def codegen(context, builder, sig, args):
        numbers = [context.cast(builder, n, table.dtype, types.int32) for n in cgutils.unpack_tuple(builder, args[0])]
        at_once = 16 if has_avx512() and v.lanes >= 16 else 8
        if not has_avx2() or v.lanes < at_once:
            return _chosen(builder, numbers, args[1])
        row = ir.Constant(ir.VectorType(_I32, at_once), ir.Undefined)
        for i in range(at_once):
            row = builder.insert_element(row, numbers[i % 8], _I32(i))
        pieces = [_lanes(builder, args[1], list(range(i, i + at_once))) for i in range(0, v.lanes, at_once)]
        return _joined(builder, [_call(builder, _PERMUTES[at_once], row.type, [row, piece]) for piece in pieces])

    return v(table, v), codegen


def _chosen(builder: ir.IRBuilder, numbers: list[ir.Value], v: ir.Value) -> ir.Value:
    """The same where no instruction does it: halves of what is left, by one bit after the other."""
    choices = [_splat(builder, number, v.type.count) for number in numbers]
    for bit in (1, 2, 4):
        is_set = builder.icmp_signed("!=", builder.and_(v, ir.Constant(v.type, [bit] * v.type.count)), v.type(None))
        choices = [builder.select(is_set, b, a) for a, b in zip(choices[::2], choices[1::2], strict=True)]
    return choices[0]


@intrinsic(prefer_literal=True)
def lane(typingctx, v, index):
    """The number in one lane."""
    if not isinstance(v, VectorType) or not isinstance(index, types.Integer):
        return None

    def codegen(context, builder, sig, args):
        return builder.extract_element(args[0], context.cast(builder, args[1], sig.args[1], types.int32))

    return signature(v.element, v, index), codegen


@intrinsic(prefer_literal=True)
def with_lane(typingctx, v, index, number):
    """The vector with another number in one lane."""
    if not isinstance(v, VectorType) or not isinstance(index, types.Integer):
        return None

    def codegen(context, builder, sig, args):
        value = context.cast(builder, args[2], number, v.element)
        return builder.insert_element(args[0], value, context.cast(builder, args[1], index, types.int32))

    return v(v, index, number), codegen
