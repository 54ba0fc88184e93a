"""One row, one result: the kernels of all layouts give the same bits, and so does any cut into tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernels import run

from fastsoftmax._kernels.lengths import BLOCK, LANES, SHORT_ROW
from fastsoftmax._kernels.loops import BLOCK_STATES, KERNELS
from fastsoftmax._kernels.tiles import CROWDED

FORWARD = ("softmax", "log_softmax", "logsumexp")
SCALE = (0.699999988079071, 1.1920928955078125e-08, 0.7, 0.0)
SHAPES = [
    (1, 1), (3, 2), (70, 2), (33, 3), (19, 6), (33, 7), (19, 9),
    (100, 10), (33, 15), (33, 16), (33, 17), (33, 21), (19, 24), (33, 32), (19, 33), (19, 47),
    (19, 48), (33, 49), (40, 64), (40, 65), (17, 100),
    (8, 1000), (16, 1025), (40, 1025), (3, 32000), (2, SHORT_ROW),
]  # fmt: skip

operations = pytest.mark.parametrize("operation", FORWARD)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
scales = pytest.mark.parametrize("scale", [None, SCALE], ids=["plain", "scaled"])


def logits(shape: tuple[int, int], dtype: str) -> Any:
    rng = np.random.default_rng(shape)
    x = rng.normal(0, 3, shape)
    if shape[0] > 2:
        x[1] = 0.5  # equal ones
        x[2, shape[1] // 2] += 40  # a confident row
    if shape[0] > 16:
        x[3, 0] = -np.inf
        x[4, -1] = np.nan
        x[5, -1] = np.inf
        x[6] = -np.inf
        x[7] -= 30000
        x[8] -= np.log(np.exp(x[8]).sum())  # a log-sum-exp near zero
    return x.astype(dtype)


def distances(shape: tuple[int, int]) -> tuple[int, ...]:
    """Columns of so many classes as they lie, and so far apart that they go through tiles."""
    return (shape[0], CROWDED) if shape[1] <= 1025 else (shape[0],)


def columns_of(rows: Any, apart: int) -> Any:
    """The rows as columns ``[0, class, row]``, classes `apart` elements from each other."""
    room = np.full((1, rows.shape[1], apart), 9, rows.dtype)
    columns = room[..., : len(rows)]
    columns[0] = rows.T
    return columns


def by_rows(operation: str, x: Any, scale: Any, tasks: int = 1) -> Any:
    out = np.full((len(x), 1 if operation == "logsumexp" else x.shape[1]), 7, x.dtype)
    run(KERNELS[operation]["rows"], x.dtype.name, x, out, scale, tasks=tasks)
    return out


@operations
@dtypes
@scales
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layouts(operation: str, dtype: str, scale: Any, shape: tuple[int, int]) -> None:
    x = logits(shape, dtype)
    expected = by_rows(operation, x, scale)
    layouts = KERNELS[operation]
    for layout in ("narrow", "batches") if shape[1] <= LANES[dtype] else ("batches",):
        out = np.full_like(expected, 7)
        run(layouts[layout], dtype, x, out, scale, tasks=1)
        np.testing.assert_array_equal(out, expected)
    if operation != "logsumexp":
        in_place = x.copy()
        run(layouts["batches"], dtype, in_place, in_place, scale, tasks=2)
        np.testing.assert_array_equal(in_place, expected)
    for apart in distances(shape):
        out = columns_of(np.full_like(expected, 7), apart)
        run(layouts["columns"], dtype, columns_of(x, apart), out, scale, tasks=1)
        np.testing.assert_array_equal(out[0].T, expected)


@operations
@dtypes
@scales
@pytest.mark.parametrize("tasks", [2, 3, 8])
def test_tasks(operation: str, dtype: str, scale: Any, tasks: int) -> None:
    x = logits((50, 7), dtype)
    expected = by_rows(operation, x, scale)
    np.testing.assert_array_equal(by_rows(operation, x, scale, tasks), expected)
    for layout, arrays in {
        "narrow": (x, np.full_like(expected, 7)),
        "batches": (x, np.full_like(expected, 7)),
        "columns": (
            np.ascontiguousarray(x.T)[None],
            np.ascontiguousarray(np.full_like(expected, 7).T)[None],
        ),
    }.items():
        run(KERNELS[operation][layout], dtype, *arrays, scale, tasks=tasks)
        got = arrays[1][0].T if layout == "columns" else arrays[1]
        np.testing.assert_array_equal(got, expected)


@operations
@dtypes
@scales
@pytest.mark.parametrize("classes", [SHORT_ROW + 1, 4 * BLOCK + 5, 5 * BLOCK + 1, 131072])
def test_split_rows(operation: str, dtype: str, scale: Any, classes: int) -> None:
    x = logits((2, classes), dtype)
    expected = by_rows(operation, x, scale)
    for tasks in (1, 2, 5, 64):
        states = np.full((2, -(-classes // BLOCK), 3), 7.0)
        out = np.full_like(expected, 7)
        run(BLOCK_STATES[operation], dtype, x, out, states, scale, tasks=tasks)
        run(KERNELS[operation]["split"], dtype, x, out, states, scale, tasks=tasks)
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_split_rows_of_blocks_far_apart(dtype: str) -> None:
    """Terms kept in the frame of their block become those of the row, whatever lies between the two maxima."""
    x = np.random.default_rng(0).normal(0, 3, (5, 6 * BLOCK)).astype(dtype)
    for block, below in enumerate((0, 30, 60, 75, 110, 200)):
        x[:4, block * BLOCK : (block + 1) * BLOCK] -= below
    x[1] -= 2.0**20 - 20
    x[2] += 3e6
    x[3, :BLOCK] = -np.inf
    x[4, -1] = np.inf
    expected = by_rows("softmax", x, None)
    states, out = np.empty((5, 6, 3)), np.empty_like(x)
    run(BLOCK_STATES["softmax"], dtype, x, out, states, None, tasks=3)
    run(KERNELS["softmax"]["split"], dtype, x, out, states, None, tasks=3)
    np.testing.assert_array_equal(out, expected)


@dtypes
@pytest.mark.parametrize("operation", ["softmax_backward", "log_softmax_backward"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_backward(operation: str, dtype: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape)
    g, y = rng.normal(size=shape).astype(dtype), -rng.random(shape).astype(dtype)
    expected = np.full_like(g, 7)
    run(KERNELS[operation]["rows"], dtype, g, expected, y, tasks=1)
    for apart in distances(shape):
        out = columns_of(np.full_like(g, 7), apart)
        run(KERNELS[operation]["columns"], dtype, columns_of(g, apart), out, columns_of(y, apart), tasks=3)
        np.testing.assert_array_equal(out[0].T, expected)
        for place in (0, 1):  # the gradient may take the place of either
            arrays = columns_of(g, apart), columns_of(y, apart)
            run(KERNELS[operation]["columns"], dtype, arrays[0], arrays[place], arrays[1], tasks=3)
            np.testing.assert_array_equal(arrays[place][0].T, expected)
    if shape[1] <= LANES[dtype]:
        for place in (0, 1, 2):
            rows = g.copy(), y.copy(), np.full_like(g, 7)
            run(KERNELS[operation]["narrow"], dtype, rows[0], rows[place], rows[1], tasks=3)
            np.testing.assert_array_equal(rows[place], expected)


@dtypes
@pytest.mark.parametrize("operation", ["softmax_backward", "log_softmax_backward"])
@pytest.mark.parametrize("classes", [SHORT_ROW + 1, 4 * BLOCK + 5, 5 * BLOCK])
def test_split_backward(operation: str, dtype: str, classes: int) -> None:
    rng = np.random.default_rng(classes)
    g, y = rng.normal(size=(2, classes)).astype(dtype), -rng.random((2, classes)).astype(dtype)
    expected = np.full_like(g, 7)
    run(KERNELS[operation]["rows"], dtype, g, expected, y, tasks=1)
    for tasks in (1, 2, 5, 64):
        for place in (0, 1, 2):  # of the gradient: its own, or that of either array
            arrays = g.copy(), y.copy(), np.full_like(g, 7)
            out, states = arrays[place], np.full((2, -(-classes // BLOCK), 3), 7.0)
            run(BLOCK_STATES[operation], dtype, arrays[0], out, states, arrays[1], tasks=tasks)
            run(KERNELS[operation]["split"], dtype, arrays[0], out, states, arrays[1], tasks=tasks)
            np.testing.assert_array_equal(out, expected)
