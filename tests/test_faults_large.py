"""More elements than a 32-bit integer counts: of a view that repeats a row, and of memory where there is enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reference import Array

import fastsoftmax

LANES_OF_32_BITS = 2**31


@pytest.fixture(scope="module")
def row() -> Array:
    return np.random.default_rng(1).normal(0, 4, 2**15).astype(np.float32)


def test_a_view_that_repeats_a_row(row: Array) -> None:
    x = np.broadcast_to(row, (2**16 + 3, len(row)))
    assert x.size > LANES_OF_32_BITS
    labels = np.arange(len(x)) % len(row)
    log_sums = fastsoftmax.logsumexp(x, axis=-1)
    assert (log_sums == fastsoftmax.logsumexp(row)).all()
    losses = fastsoftmax.cross_entropy(x, labels, reduction="none")
    few = fastsoftmax.cross_entropy(x[: len(row)], labels[: len(row)], reduction="none")
    np.testing.assert_array_equal(losses, np.resize(few, len(x)))
    labels[-1] = len(row)
    with pytest.raises(IndexError, match=rf"target\[{len(x) - 1}\] is {len(row)}"):
        fastsoftmax.cross_entropy(x, labels)


def test_a_view_that_repeats_columns(row: Array) -> None:
    tile = row.reshape(64, 512)
    x = np.broadcast_to(tile, (2**16 + 3, *tile.shape))
    assert x.size > LANES_OF_32_BITS
    out = fastsoftmax.logsumexp(x, axis=1)
    assert (out == fastsoftmax.logsumexp(tile, axis=0)).all()


def available() -> int:
    """Bytes that can be had; 0 where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 0)


@pytest.mark.slow
@pytest.mark.skipif(available() < 12 * 2**30, reason="needs 12 GiB of memory")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(2**16 + 1000, 2**15), (2, 2**30 + 2**26), (1, 2**31 + 2**27 + 5)])
def test_real_memory_in_place(shape: tuple[int, int], threads: int) -> None:
    fastsoftmax.set_num_threads(threads)
    x = np.zeros(shape, np.float16)
    x[:, ::3] = 1.5
    x[:, -1] = 9
    first, last = x[0, :4].copy(), x[-1, -4:].copy()
    n = shape[1]
    e = np.exp([0.0, 1.5, 9.0])
    thirds = -(-n // 3) - ((n - 1) % 3 == 0)
    total = thirds * e[1] + e[2] + (n - 1 - thirds) * e[0]
    log_sum = np.log(total)
    np.testing.assert_allclose(fastsoftmax.logsumexp(x, axis=-1).astype(float), log_sum, rtol=1e-3)
    got = fastsoftmax.log_softmax(x, axis=-1, out=x)
    assert got is x
    np.testing.assert_allclose(x[0, :4].astype(float), first - log_sum, rtol=1e-3)
    np.testing.assert_allclose(x[-1, -4:].astype(float), last - log_sum, rtol=1e-3)
    for part in np.array_split(x.reshape(-1)[:: max(1, x.size // 10**6)], 4):
        assert np.isfinite(part.astype(np.float32)).all()
        assert (part < 0).all()
