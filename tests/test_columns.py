"""Columns through tiles: which, and the same bits as rows where sums are of nothing."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

import fastsoftmax
from fastsoftmax._kernels.jit import DTYPES
from fastsoftmax._kernels.tiles import TILE, TILE_COLUMNS, TILE_COLUMNS_READ, tile_columns
from fastsoftmax._kernels.views import view

WIDTH = 32


@pytest.fixture(scope="module")
def columns_of_tile() -> Any:
    def asked(x: Any, out: Any, shares: int) -> int:
        columns: int = tile_columns(view(x), view(out), 32, shares)
        return columns

    array = numba.types.Array(DTYPES["float32"], 3, "A")
    code = numba.njit(asked).compile((array, array, numba.int64))

    def columns(shape: tuple[int, int, int], written: int, shares: int) -> int:
        # Only shapes and strides count: nothing is there.
        x = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), shape, (0, 0, 4))
        out = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (shape[0], written, shape[2]), (0, 0, 4))
        found: int = code(x, out, shares)
        return found

    return columns


def test_tiles(columns_of_tile: Any) -> None:
    """As many columns as there is room for, in whole vectors; more where nothing is written of each class."""
    assert columns_of_tile((8, 21, 65536), 21, 1) == TILE_COLUMNS
    assert columns_of_tile((8, 21, 65536), 1, 1) == TILE_COLUMNS_READ
    assert columns_of_tile((1, 1000, 4096), 1000, 1) == TILE // 1000 // WIDTH * WIDTH
    assert columns_of_tile((1, 21, 40), 21, 1) == 2 * WIDTH
    assert columns_of_tile((1, 21, 7), 21, 1) == WIDTH
    assert columns_of_tile((1, TILE // WIDTH + 1, 4096), 1, 1) == 0


def test_a_tile_for_each_share(columns_of_tile: Any) -> None:
    """However few the columns are: one tile of all of them would be one thread's work."""
    assert columns_of_tile((1, 150, 256), 150, 2) == 128
    assert columns_of_tile((1, 150, 257), 150, 2) == 160
    assert columns_of_tile((1, 150, 40), 150, 2) == WIDTH


@pytest.mark.parametrize("name", ["softmax_backward", "log_softmax_backward"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [1, 3, 16, 21, 70, 150])
@pytest.mark.parametrize("inner", [5, 300, 512])
def test_sums_of_negative_zeros(name: str, dtype: Any, classes: int, inner: int) -> None:
    """They are 0 in rows, which begin with it; the sign of a gradient of 0 shows it."""
    g = np.full((2, classes, inner), -0.0, dtype)
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
