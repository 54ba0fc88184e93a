"""The first lanes of a vector from and to memory, and rows of a few classes as columns: nothing beyond is touched."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from reference import FULL_DTYPES, HALF_DTYPES

from fastsoftmax._kernels import tails
from fastsoftmax._kernels.jit import DTYPES
from fastsoftmax._kernels.lengths import LANES
from fastsoftmax._kernels.loops import KERNELS
from fastsoftmax._kernels.memory import lanes_of, load, store, view
from fastsoftmax._kernels.shuffles import abreast

ALL_DTYPES = pytest.mark.parametrize("dtype", FULL_DTYPES + HALF_DTYPES, ids=str)


def copy_1(x: Any, out: Any, count: int) -> None:
    like = lanes_of(view(x))
    store(view(out), (1,), load(like, view(x), (0,), count, 5.0), count)
    store(view(out), (100,), load(like, view(x), (0,), count, 5.0), None)


def copy_4(x: Any, out: Any, count: int) -> None:
    like = abreast(lanes_of(view(x)), 4)
    store(view(out), (1,), load(like, view(x), (0,), count, 5.0), count)
    store(view(out), (100,), load(like, view(x), (0,), count, 5.0), None)


@pytest.mark.parametrize("masks", [False, True])
@ALL_DTYPES
@pytest.mark.parametrize("times", [1, 4])
def test_first_lanes(masks: bool, dtype: np.dtype[Any], times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the masks of AVX-512 and without: whichever the machine has, both are right on it."""
    monkeypatch.setattr(tails, "has_avx512", lambda: masks)
    array = numba.types.Array(DTYPES[dtype.name], 1, "A")
    copy = numba.njit({1: copy_1, 4: copy_4}[times]).compile((array, array, numba.int64))
    lanes = times * LANES[dtype.name]
    x = (np.arange(1, lanes + 1) / 8).astype(dtype)
    for count in range(lanes + 2):
        out = np.full(200, 7).astype(x.dtype)
        copy(x, out, count)
        present = x[:count]
        np.testing.assert_array_equal(out[1 : 1 + len(present)], present)
        np.testing.assert_array_equal(out[100 : 100 + lanes][: len(present)], present)
        assert (out[100 + len(present) : 100 + lanes] == 5).all()
        untouched = np.delete(out, [*range(1, 1 + len(present)), *range(100, 100 + lanes)])
        assert (untouched == 7).all()


@ALL_DTYPES
@pytest.mark.parametrize("how", ["side by side", "apart", "far apart", "backwards", "one row"])
def test_rows_as_columns(dtype: np.dtype[Any], how: str) -> None:
    """Groups of every number of rows, however they lie, and nothing written beside them."""
    classes, kernel = 5, KERNELS["softmax"]["narrow"].compiled(dtype.name, False, False)
    for rows in (*range(1, 36), 100):
        logits = np.random.default_rng(rows).normal(0, 3, (rows, classes)).astype(dtype)
        room = np.full((rows, {"apart": classes + 1, "far apart": 60}.get(how, classes)), 7).astype(logits.dtype)
        out = room[::-1, :classes] if how == "backwards" else room[:, :classes]
        x = logits
        if how == "one row":
            x = np.broadcast_to(logits[:1], logits.shape)
        elif how != "side by side":
            wide = room.copy()
            x = wide[::-1, :classes] if how == "backwards" else wide[:, :classes]
            x[:] = logits
        expected = np.full_like(logits, 7)
        for row in range(rows):
            kernel(np.ascontiguousarray(x[row : row + 1]), expected[row : row + 1], 0, 1, 1, None)
        kernel(x, out, 0, 1, 1, None)
        np.testing.assert_array_equal(out, expected)
        assert (room[:, classes:] == 7).all()
