"""Columns through tiles: which, and the same bits as rows where sums are of nothing."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from reference import BFLOAT16

import fastsoftmax
from fastsoftmax._kernels.jit import DTYPES
from fastsoftmax._kernels.lengths import MOST_PACKED, SMALL
from fastsoftmax._kernels.tiles import RUNS, TILE, TILE_COLUMNS, TILE_COLUMNS_READ, runs_across, tile_columns
from fastsoftmax._kernels.views import view

WIDTH = 32


@pytest.fixture(scope="module")
def columns_of_tile() -> Any:
    def asked(x: Any, out: Any, shares: int, copies: bool) -> int:
        columns: int = tile_columns(view(x), view(out), 32, shares, copies)
        return columns

    array = numba.types.Array(DTYPES["float32"], 3, "A")
    code = numba.njit(asked).compile((array, array, numba.int64, numba.boolean))

    def columns(shape: tuple[int, int, int], written: int, shares: int, copies: bool = True) -> int:
        # Only shapes and strides count: nothing is there.
        x = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), shape, (0, 0, 4))
        out = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (shape[0], written, shape[2]), (0, 0, 4))
        found: int = code(x, out, shares, copies)
        return found

    return columns


def test_tiles(columns_of_tile: Any) -> None:
    """As many columns as there is room for, in whole vectors; more where nothing is written of each class."""
    assert columns_of_tile((8, 21, 65536), 21, 1) == TILE_COLUMNS
    assert columns_of_tile((8, 21, 65536), 1, 1) == TILE_COLUMNS_READ
    assert columns_of_tile((1, 1000, 4096), 1000, 1) == TILE // 1000 // WIDTH * WIDTH
    assert columns_of_tile((1, 1000, 4096), 1000, 1, False) == 2 * TILE // 1000 // WIDTH * WIDTH
    assert columns_of_tile((1, 1001, 4096), 1001, 1, False) == TILE // 1001 // WIDTH * WIDTH
    assert columns_of_tile((1, 100, 4096), 100, 1, False) == TILE_COLUMNS
    assert columns_of_tile((1, 21, 40), 21, 1) == 2 * WIDTH
    assert columns_of_tile((1, 21, 7), 21, 1) == WIDTH
    assert columns_of_tile((1, TILE // WIDTH + 1, 4096), 1, 1) == 0


def test_a_tile_for_each_share(columns_of_tile: Any) -> None:
    """However few the columns are: one tile of all of them would be one thread's work."""
    assert columns_of_tile((1, 150, 256), 150, 2) == 128
    assert columns_of_tile((1, 150, 257), 150, 2) == 160
    assert columns_of_tile((1, 150, 40), 150, 2) == WIDTH


def runs_of(dtype: str) -> Any:
    """``runs(inner, step, before)``: what `runs_across` says of columns that begin so many elements after a line."""

    def asked(x: Any, step: int) -> Any:
        return runs_across(view(x), step)

    code = numba.njit(asked).compile((numba.types.Array(DTYPES[dtype], 3, "A"), numba.int64))

    def runs(inner: int, step: int, before: int) -> Any:
        room = np.zeros(2 * 3 * inner + 64, dtype)
        start = -room.ctypes.data % 64 // room.itemsize + before
        return code(room[start : start + 6 * inner].reshape(2, 3, inner), step)

    return runs


def test_where_runs_end() -> None:
    """With a line, where that takes no run more or one of many, and lines of all classes end alike."""
    runs = runs_of("float32")
    assert runs(RUNS * WIDTH, WIDTH, 0) == (RUNS, 0)
    assert runs(RUNS * WIDTH, WIDTH, 4) == (RUNS + 1, 4)
    assert runs(RUNS * WIDTH - 16, WIDTH, 15) == (RUNS, 15)
    assert runs((RUNS - 1) * WIDTH, WIDTH, 4) == (RUNS - 1, 0)
    assert runs((RUNS - 1) * WIDTH - 16, WIDTH, 4) == (RUNS - 1, 4)
    assert runs(RUNS * WIDTH + 1, WIDTH, 4) == (RUNS + 1, 0)


def test_runs_of_less_than_a_line() -> None:
    """Sixteen halves are half a line: none of their runs is empty, wherever lines begin."""
    runs = runs_of("float16")
    assert runs(512, 16, 15) == (33, 15)
    assert runs(512, 16, 16) == (32, 0)
    assert runs(512, 16, 31) == (33, 15)
    assert runs(1024, 32, 31) == (33, 31)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("shape", [(2, 5, 1056), (1, 40, 528), (2, 70, 1024)])
def test_wherever_lines_begin(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> None:
    """Runs of columns that end with a line: the bits of rows, and no byte beside."""
    size = int(np.prod(shape))
    x, y = rng.normal(0, 2, (2, *shape)).astype(dtype)
    y = np.abs(y) * dtype(0.1)
    labels = rng.integers(0, shape[1], (shape[0], shape[2]))
    rows = [np.ascontiguousarray(array.transpose(0, 2, 1)) for array in (x, y)]
    rooms = np.full((3, size + 128), 7, dtype)
    for start in range(64, 64 + 64 // rooms.itemsize, 3):
        placed, outputs, out = (room[start : start + size].reshape(shape) for room in rooms)
        rooms[...] = 7
        placed[...], outputs[...] = x, y
        for function in (fastsoftmax.softmax, fastsoftmax.log_softmax):
            np.testing.assert_array_equal(
                function(placed, axis=1, out=out), function(rows[0], axis=-1).transpose(0, 2, 1)
            )
        for function in (fastsoftmax.softmax_backward, fastsoftmax.log_softmax_backward):
            expected = function(*rows, axis=-1).transpose(0, 2, 1)
            np.testing.assert_array_equal(function(placed, outputs, axis=1, out=out), expected)
        np.testing.assert_array_equal(fastsoftmax.logsumexp(placed, axis=1), fastsoftmax.logsumexp(rows[0], axis=-1))
        loss, grad = fastsoftmax.cross_entropy_with_grad(placed, labels, axis=1, reduction="none", out=out)
        expected_loss, expected_grad = fastsoftmax.cross_entropy_with_grad(rows[0], labels, reduction="none")
        np.testing.assert_array_equal(loss, expected_loss)
        np.testing.assert_array_equal(grad, expected_grad.transpose(0, 2, 1))
        assert (rooms[:, :start] == 7).all()
        assert (rooms[:, start + size :] == 7).all()


@pytest.mark.parametrize("name", ["softmax_backward", "log_softmax_backward"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [1, 3, 16, 21, 70, 150])
@pytest.mark.parametrize("inner", [5, 300, 512])
def test_sums_of_negative_zeros(name: str, dtype: Any, classes: int, inner: int) -> None:
    """They are 0 in rows, which begin with it; the sign of a gradient of 0 shows it."""
    g = np.full((SMALL // (classes * inner) + 2, classes, inner), -0.0, dtype)
    g[0, classes // 2, ::3] = 1.0
    y = np.full_like(g, 0.5 if name == "softmax_backward" else -0.7)
    function = getattr(fastsoftmax, name)
    rows = [np.ascontiguousarray(array.transpose(0, 2, 1)) for array in (g, y)]
    expected = function(*rows, axis=-1).transpose(0, 2, 1)
    assert function(g, y, axis=1).tobytes() == np.ascontiguousarray(expected).tobytes()


@pytest.mark.parametrize("name", ["softmax_backward", "log_softmax_backward"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("vectors", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_gradients_of_rows_of_some_vectors(name: str, dtype: Any, vectors: int) -> None:
    """Those in registers and those that are not: each length around a whole number of vectors, and no byte beside."""
    lanes = 8 if dtype == np.float64 else 16
    function = getattr(fastsoftmax, name)
    for classes in (vectors * lanes - lanes // 2, vectors * lanes - 1, vectors * lanes, vectors * lanes + 1):
        g = np.random.default_rng(classes).normal(0, 2, (5, classes)).astype(dtype)
        y = np.abs(g[::-1]) * dtype(0.1) * (1 if name == "softmax_backward" else -1)
        room = np.full(g.size + 64, 7, dtype)
        out = room[32 : 32 + g.size].reshape(g.shape)
        function(g, y, axis=-1, out=out)
        columns = function(np.ascontiguousarray(g.T), np.ascontiguousarray(y.T), axis=0)
        assert out.tobytes() == np.ascontiguousarray(columns.T).tobytes()
        assert (room[:32] == 7).all()
        assert (room[-32:] == 7).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("inner", [2, 3, 4, 5, 7, 8, 9, 11, 15, 16, 17, 31, 512])
@pytest.mark.parametrize("classes", [1, 2, 3, 9, 16, 17, 33, 70])
def test_columns_put_together(rng: np.random.Generator, classes: int, inner: int, dtype: Any) -> None:
    """Columns of several outer indices in one vector, and tiles, in small arrays and large: the bits of rows."""
    for outer in (1, 2, 5, SMALL // (classes * inner) + 2):
        x, y = rng.normal(0, 2, (2, outer, classes, inner)).astype(dtype)
        y = np.abs(y) * dtype(0.1)
        labels = rng.integers(0, classes, (outer, inner))
        labels[0, 0] = -100
        rows = [np.ascontiguousarray(array.transpose(0, 2, 1)) for array in (x, y)]
        for function in (fastsoftmax.softmax, fastsoftmax.log_softmax):
            for options in ({}, {"temperature": 0.7}):
                expected = function(rows[0], axis=-1, **options).transpose(0, 2, 1)
                np.testing.assert_array_equal(function(x, axis=1, **options), expected)
        np.testing.assert_array_equal(fastsoftmax.logsumexp(x, axis=1), fastsoftmax.logsumexp(rows[0], axis=-1))
        for function in (fastsoftmax.softmax_backward, fastsoftmax.log_softmax_backward):
            expected = function(*rows, axis=-1).transpose(0, 2, 1)
            np.testing.assert_array_equal(function(x, y, axis=1), expected)
        for options in ({}, {"reduction": "none", "label_smoothing": 0.1, "weight": np.arange(classes) + 0.5}):
            loss, gradient = fastsoftmax.cross_entropy_with_grad(x, labels, axis=1, **options)
            losses, expected = fastsoftmax.cross_entropy_with_grad(rows[0], labels, axis=-1, **options)
            np.testing.assert_array_equal(gradient, expected.transpose(0, 2, 1))
            np.testing.assert_array_equal(loss, losses)
            np.testing.assert_array_equal(fastsoftmax.cross_entropy(x, labels, axis=1, **options), losses)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, *([BFLOAT16] if BFLOAT16 else [])], ids=str)
@pytest.mark.parametrize("shape", [(7, 5, 3), (7, 5, 11), (33, 40, 13), (9, 9, 512), (3, 3, 2048)])
def test_nothing_beside_columns_is_written(rng: np.random.Generator, shape: tuple[int, int, int], dtype: Any) -> None:
    """In vectors put together, the last with fewer outer indices, and at hand; also into what results are made of."""
    x, y = (rng.random((2, *shape)) - 0.3).astype(dtype)
    labels = rng.integers(0, shape[1], (shape[0], shape[2]))
    size = x.size
    for name, arrays in (
        ("softmax", (x,)),
        ("log_softmax", (x,)),
        ("softmax_backward", (x, y)),
        ("log_softmax_backward", (x, y)),
        ("cross_entropy_with_grad", (x, labels)),
    ):
        function = getattr(fastsoftmax, name)
        expected = function(*arrays, axis=1)
        room = np.full(size + 64, 7, dtype)
        out = room[32 : size + 32].reshape(shape)
        function(*arrays, axis=1, out=out)
        same = x.copy()
        function(same, *arrays[1:], axis=1, out=same)
        wanted = expected[1] if name == "cross_entropy_with_grad" else expected
        for result in (out, same):
            assert result.tobytes() == wanted.tobytes()
        assert (room[:32] == 7).all()
        assert (room[-32:] == 7).all()
    labels[-1, -1] = shape[1]
    out[...] = 7
    with pytest.raises(IndexError, match=rf"target\[{shape[0] - 1}, {shape[2] - 1}\] is {shape[1]}"):
        fastsoftmax.cross_entropy_with_grad(x, labels, axis=1, out=out)
    assert (room == 7).all()


@pytest.mark.parametrize("classes", [MOST_PACKED - 1, MOST_PACKED, MOST_PACKED + 1])
@pytest.mark.parametrize("inner", [2, 3])
def test_two_columns_of_many_classes(rng: np.random.Generator, classes: int, inner: int) -> None:
    """More than are put together become rows."""
    x = rng.normal(size=(3, classes, inner)).astype(np.float32)
    rows = np.ascontiguousarray(x.transpose(0, 2, 1))
    np.testing.assert_array_equal(fastsoftmax.softmax(x, axis=1), fastsoftmax.softmax(rows, axis=-1).transpose(0, 2, 1))


def test_numbers_of_rows_that_do_not_follow_each_other(rng: np.random.Generator) -> None:
    """Logits whose outer indices have a gap between them: their columns are worked on where they lie."""
    x = rng.normal(size=(9, 2, 4, 5)).astype(np.float32)[:, 0]
    labels, weight = rng.integers(0, 4, (9, 5)), rng.random((9, 5))
    for options in ({}, {"sample_weight": weight, "return_lse": True}):
        found = fastsoftmax.cross_entropy_with_grad(x, labels, axis=1, **options)
        expected = fastsoftmax.cross_entropy_with_grad(x.copy(), labels, axis=1, **options)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)
