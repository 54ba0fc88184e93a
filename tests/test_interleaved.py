"""A few columns of many classes, which become rows: the bits of rows, and nothing touched beside the columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernels import run
from reference import Array
from test_kernels_bits import SCALE, by_rows, dtypes, logits, operations
from test_loss_kernels import FOLDED, GRADIENT, LOSS, Problem

import fastsoftmax
from fastsoftmax import _plan
from fastsoftmax._kernels.lengths import INTERLEAVED, INTERLEAVED_GRADIENTS, INTERLEAVED_ROOM, LANES, PIECE
from fastsoftmax._kernels.loops import KERNELS
from fastsoftmax._kernels.loss_loops import NO_LABELS

INNER = [1, 2, 3, 4, 7, 12, 15]  # a piece and less, whole ones, parts; of float64 up to 8
# What a dtype has of its own, and a scale, each once: every pair is a kernel to compile.
kinds = pytest.mark.parametrize(
    ("dtype", "scale"),
    [("float32", None), ("float32", SCALE), ("float64", None), ("float16", None)],
    ids=["float32", "float32-scaled", "float64", "float16"],
)
inners = pytest.mark.parametrize("inner", INNER)
# A vector and less, some and a part, whole ones.
many = pytest.mark.parametrize("classes", [1, 9, 16, 37, 320, 1025])
GUARD = 9


def columns_of(rows: Array, inner: int) -> Array:
    """The rows as columns ``[outer, class, inner]`` with other numbers between them."""
    outer = len(rows) // inner
    room = np.full((outer, rows.shape[1] + 1, inner + 2), GUARD, rows.dtype)
    columns = room[:, :-1, :inner]
    columns[...] = rows.reshape(outer, inner, -1).transpose(0, 2, 1)
    return columns


def rows_of(columns: Array) -> Array:
    """The rows again, when what lies between has been looked at."""
    room = columns.base
    assert room is not None
    beside = np.ones(room.shape, bool)
    beside[:, : columns.shape[1], : columns.shape[2]] = False
    assert (room[beside] == GUARD).all()
    return columns.transpose(0, 2, 1).reshape(-1, columns.shape[1])


@operations
@kinds
@inners
@many
def test_forward(operation: str, dtype: str, scale: Any, inner: int, classes: int) -> None:
    inner = min(inner, LANES[dtype])
    x = logits((5 * inner, classes), dtype)
    expected = by_rows(operation, x, scale)
    for tasks in (1, 3, 8):
        out = columns_of(np.full_like(expected, 7), inner)
        run(KERNELS[operation]["interleaved"], dtype, columns_of(x, inner), out, scale, tasks=tasks)
        np.testing.assert_array_equal(rows_of(out), expected)
    if operation != "logsumexp":
        same = columns_of(x, inner)
        run(KERNELS[operation]["interleaved"], dtype, same, same, scale)
        np.testing.assert_array_equal(rows_of(same), expected)


@dtypes
@pytest.mark.parametrize("operation", ["softmax_backward", "log_softmax_backward"])
@inners
@many
def test_backward(operation: str, dtype: str, inner: int, classes: int) -> None:
    inner = min(inner, LANES[dtype])
    rng = np.random.default_rng((inner, classes))
    shape = 5 * inner, classes
    g, y = rng.normal(size=shape).astype(dtype), -rng.random(shape).astype(dtype)
    expected = np.full_like(g, 7)
    run(KERNELS[operation]["rows"], dtype, g, expected, y)
    for place in (0, 1, 2):  # of the gradient: that of either array, or its own
        arrays = columns_of(g, inner), columns_of(y, inner), columns_of(np.full_like(g, 7), inner)
        run(KERNELS[operation]["interleaved"], dtype, arrays[0], arrays[place], arrays[1], tasks=2)
        np.testing.assert_array_equal(rows_of(arrays[place]), expected)


@kinds
@inners
@pytest.mark.parametrize("classes", [1, 37, 320])
def test_losses(dtype: str, scale: Any, inner: int, classes: int) -> None:
    """Ignored rows, smoothing, class weights, a factor for each row; the numbers of rows follow each other or not."""
    inner = min(inner, LANES[dtype])
    for folded in (FOLDED[0], FOLDED[1], FOLDED[5], FOLDED[-1]):
        problem = Problem((5 * inner, classes), dtype, folded, scale)
        expected = problem.run(GRADIENT, "rows")
        for operation, apart in ((GRADIENT, 0), (GRADIENT, 3), (LOSS, 0)):
            table, more, *rest = problem.extra((5, 1, inner))
            table, more = apart_by(table, apart), apart_by(more, apart)
            out = columns_of(np.full_like(problem.x, 7), inner) if operation == GRADIENT else table
            extra = (table, more, *rest)
            x = columns_of(problem.x, inner)
            run(KERNELS[operation]["interleaved"], dtype, x, out, extra, *NO_LABELS, tasks=2, scaled=scale is not None)
            if operation == GRADIENT:
                np.testing.assert_array_equal(rows_of(out), expected[0])
            np.testing.assert_array_equal(table.ravel(), expected[1])
            np.testing.assert_array_equal(more.ravel(), expected[2])


def apart_by(numbers: Array, apart: int) -> Array:
    """The numbers of rows, if there are any, with a gap after those of each outer index."""
    if not numbers.size:
        return numbers
    outer, _, inner = numbers.shape
    room = np.full((outer, 1, inner + apart), GUARD, float)[..., :inner]
    room[...] = numbers
    return room


@pytest.mark.parametrize("operation", sorted(KERNELS))
@pytest.mark.parametrize("dtype", LANES)
def test_plans(operation: str, dtype: str) -> None:
    lanes = LANES[dtype]
    least = INTERLEAVED_GRADIENTS if operation in _plan.BACKWARD else INTERLEAVED
    for outer, classes, inner, kernel in [
        (100, least, 2, "interleaved"),
        (100, least - 1, 2, "columns"),
        (100, least, lanes - 1, "interleaved"),
        (100, least, lanes, "columns"),
        (100, INTERLEAVED_ROOM // PIECE, 2, "interleaved"),
        (1, INTERLEAVED_ROOM // PIECE + 1, 4, "columns"),
    ]:
        plan = _plan.columns(operation, dtype, outer, classes, inner, 2)
        assert plan.kernel == kernel
        assert 1 <= plan.tasks <= 16
        assert plan.tasks <= outer or kernel == "columns"


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(7, 2000, 2), (3, 30000, 3), (40, 400, 5), (9, 500, 13)])
def test_calls(shape: tuple[int, int, int], threads: int, rng: np.random.Generator) -> None:
    """The public functions on an axis and on rows."""
    x, g = rng.normal(0, 3, shape).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    rows, of_rows = (np.ascontiguousarray(array.transpose(0, 2, 1)) for array in (x, g))
    target = rng.integers(0, shape[1], (shape[0], shape[2]))
    with fastsoftmax.threads(threads):
        for name in ("softmax", "log_softmax"):
            forward, backward = getattr(fastsoftmax, name), getattr(fastsoftmax, f"{name}_backward")
            y, of_row = forward(x, axis=1), forward(rows, axis=-1)
            np.testing.assert_array_equal(y.transpose(0, 2, 1), of_row)
            dx = backward(g, y, axis=1)
            np.testing.assert_array_equal(dx.transpose(0, 2, 1), backward(of_rows, of_row, axis=-1))
        np.testing.assert_array_equal(fastsoftmax.logsumexp(x, axis=1), fastsoftmax.logsumexp(rows, axis=-1))
        for options in ({}, {"label_smoothing": 0.1, "reduction": "none", "return_lse": True}):
            found = fastsoftmax.cross_entropy_with_grad(x, target, axis=1, **options)
            expected = fastsoftmax.cross_entropy_with_grad(rows, target, **options)
            assert isinstance(found, tuple)
            for one, other in zip(found, expected, strict=True):
                wanted = np.asarray(other)
                np.testing.assert_array_equal(one, wanted.transpose(0, 2, 1) if wanted.ndim == 3 else wanted)
            np.testing.assert_array_equal(
                fastsoftmax.cross_entropy(x, target, axis=1, **options),
                fastsoftmax.cross_entropy(rows, target, **options),
            )
