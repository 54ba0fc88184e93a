"""The first lanes of a vector from and to memory, and rows of a few classes as columns: nothing beyond is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from children import run
from kernels import run as do
from reference import FULL_DTYPES, HALF_DTYPES
from strategies import Guarded

from fastsoftmax._kernels import tails
from fastsoftmax._kernels.jit import DTYPES
from fastsoftmax._kernels.lengths import LANES
from fastsoftmax._kernels.loops import KERNELS
from fastsoftmax._kernels.memory import load, store
from fastsoftmax._kernels.shuffles import abreast
from fastsoftmax._kernels.views import lanes_of, view

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
    kernel = KERNELS["softmax"]["narrow"]
    most = LANES[dtype.name]
    for classes, rows in [
        *((5, rows) for rows in range(1, 36)),
        (1, 19),
        (4, 19),
        (most - 1, 19),
        (most, 19),
        (7, 100),
    ]:
        logits = np.random.default_rng(rows).normal(0, 3, (rows, classes)).astype(dtype)
        gap = {"apart": 2, "far apart": 60}.get(how, 1)
        given = Guarded.make((rows, classes), dtype, gap=gap)
        out = given.array[::-1] if how == "backwards" else given.array
        x: Any = np.empty((rows, classes * gap), dtype)[:, :classes]
        if how == "one row":
            x = np.broadcast_to(logits[:1], logits.shape)
        else:
            x = x[::-1] if how == "backwards" else x
            x[:] = logits
        expected = np.full_like(logits, 7)
        for row in range(rows):
            do(kernel, dtype.name, np.ascontiguousarray(x[row : row + 1]), expected[row : row + 1], None)
        do(kernel, dtype.name, x, out, None)
        np.testing.assert_array_equal(out, expected)
        assert given.surroundings_untouched()


AS_IF = """
    from fastsoftmax._kernels import loops, tails, visits
    from fastsoftmax._kernels.loops import KERNELS
    from kernels import run
    import hashlib

    with_avx512 = sys.argv[1] == "True"
    loops.has_avx512 = tails.has_avx512 = visits.has_avx512 = lambda: with_avx512
    total = hashlib.sha256()
    for rows in (1, 15, 16, 17, 32, 33, 60):
        x = rng.normal(0, 4, (rows, 11)).astype(np.float32)
        wide = np.full((rows + 1, 11), 7, np.float32)
        run(KERNELS["softmax"]["narrow"], "float32", x, wide[:-1], None)
        total.update(wide.tobytes())
        deep = np.ascontiguousarray(x.T)[None]
        tall = np.full((1, 12, rows), 7, np.float32)
        run(KERNELS["softmax"]["columns"], "float32", deep, tall[:, :-1], None)
        total.update(np.ascontiguousarray(tall[0].T).tobytes())
        same = np.array_equal(wide[:-1], tall[0, :-1].T)
        print(same and (wide[-1] == 7).all() and (tall[:, -1] == 7).all())
    for operation, dtype in (("softmax", "float32"), ("softmax", "float64"), ("log_softmax", "float32")):
        for classes in (64, 200, 1000):
            x = rng.normal(0, 4, (9, classes)).astype(dtype)
            x[1] = 3
            x[3, ::5] = x[3].max()
            x[5, classes // 2] = np.nan
            x[6, ::2] = -np.inf
            x[7] += 3e6
            out = np.full_like(x, 7)
            for given in (x, out):
                run(KERNELS[operation]["rows"], dtype, given, out, None)
                total.update(out.tobytes())
                out[:] = x
    print(total.hexdigest())
"""


def test_as_if_with_avx512_and_without(tmp_path: Path) -> None:
    """As many vectors at once as either has registers for, on whichever machine this is: the same bits."""
    hashes = []
    for name in ("True", "False"):
        # A cache of its own, for it does not know of the pretence.
        done = run(AS_IF, name, FASTSOFTMAX_CACHE_DIR=str(tmp_path / name), PYTHONPATH=str(Path(__file__).parent))
        assert done.returncode == 0, done.stderr[-3000:]
        *same, total = done.stdout.split()
        assert same == ["True"] * 7
        hashes.append(total)
    assert hashes[0] == hashes[1]
