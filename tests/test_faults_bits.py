"""The same bits every time: eight threads, any chunks of rows, pieces, a busy machine (more in `test_threads`)."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from children import Busy, printed
from reference import Array

import fastsoftmax
from fastsoftmax import _execute, threads
from fastsoftmax._kernels.lengths import SHORT_ROW

SHAPES: dict[str, tuple[tuple[int, ...], int]] = {
    "pairs": ((40_000, 2), -1),
    "narrow": ((20_000, 7), -1),
    "batches": ((6000, 30), -1),
    "rows": ((600, 1000), -1),
    "long-rows": ((9, SHORT_ROW + 1000), -1),
    "split": ((2, 3 * SHORT_ROW + 17), -1),
    "one-row": ((1, 500_000), -1),
    "columns": ((5, 70, 700), 1),
    "interleaved": ((90, 700, 5), 1),
    "blocks": ((300, 1001), 0),
}
Call = Callable[[Array, int], list[Array]]


def labels_of(x: Array, axis: int) -> Array:
    """Class indices that depend on the place of a row alone."""
    kept = np.moveaxis(x, axis, -1)[..., 0].shape
    return np.asarray(np.arange(int(np.prod(kept))).reshape(kept) * 7 % x.shape[axis])


def results(x: Array, axis: int, labels: Array) -> list[bytes]:
    y = fastsoftmax.softmax(x, axis=axis)
    loss, gradient = fastsoftmax.cross_entropy_with_grad(x, labels, axis=axis, reduction="none")
    masked = fastsoftmax.softmax(x[..., ::2] if axis == -1 else x[::2], axis=axis)
    outputs = (
        y,
        fastsoftmax.log_softmax(x, axis=axis),
        fastsoftmax.logsumexp(x, axis=axis),
        fastsoftmax.softmax_backward(x, y, axis=axis),
        fastsoftmax.log_softmax_backward(x, y, axis=axis),
        fastsoftmax.cross_entropy(x, labels, axis=axis),
        loss,
        gradient,
        masked,
    )
    return [np.asarray(output).tobytes() for output in outputs]


@pytest.mark.parametrize("shape", SHAPES)
def test_threads_and_pieces(shape: str, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """One to eight threads, in one launch, in a few, and in as many as there are units of work."""
    size, axis = SHAPES[shape]
    x = rng.normal(0, 4, size).astype(np.float32)
    labels = labels_of(x, axis)
    with threads(1):
        expected = results(x, axis, labels)
    for count in (1, 2, 3, 8):
        for piece in (_execute.PIECE, 50_000, 1000):
            monkeypatch.setattr(_execute, "PIECE", piece)
            monkeypatch.setattr(_execute, "repeat", lambda *call: None)
            with threads(count):
                assert results(x, axis, labels) == expected, (count, piece)
        monkeypatch.undo()


@pytest.mark.parametrize("shape", [name for name, (size, axis) in SHAPES.items() if axis == -1 and size[0] > 1])
def test_any_chunks_of_rows(shape: str, rng: np.random.Generator) -> None:
    size, _ = SHAPES[shape]
    x = rng.normal(0, 4, size).astype(np.float32)
    labels = labels_of(x, -1)
    calls: list[Callable[[Any], Array]] = [
        lambda rows: fastsoftmax.softmax(x[rows], axis=-1),
        lambda rows: fastsoftmax.log_softmax(x[rows], axis=-1),
        lambda rows: fastsoftmax.logsumexp(x[rows], axis=-1),
        lambda rows: fastsoftmax.cross_entropy(x[rows], labels[rows], reduction="none"),
        lambda rows: fastsoftmax.cross_entropy_with_grad(x[rows], labels[rows], reduction="none")[1],
    ]
    whole = [call(slice(None)) for call in calls]
    for turn in range(6):
        cuts = np.unique(rng.integers(0, size[0] + 1, rng.integers(1, min(40, size[0]))))
        fastsoftmax.set_num_threads(turn % 3 + 1)
        for start, stop in zip([0, *cuts], [*cuts, size[0]], strict=True):
            if start < stop:
                rows = slice(int(start), int(stop))
                for call, expected in zip(calls, whole, strict=True):
                    np.testing.assert_array_equal(call(rows), expected[rows])


@pytest.mark.parametrize(
    "shape", [pytest.param(s, marks=[] if s in ("rows", "split") else pytest.mark.slow) for s in SHAPES]
)
def test_100_times_on_a_busy_machine(shape: str, rng: np.random.Generator) -> None:
    size, axis = SHAPES[shape]
    x = rng.normal(0, 4, size).astype(np.float32)
    labels = labels_of(x, axis)
    fastsoftmax.set_num_threads(3)
    expected = results(x, axis, labels)
    with Busy():
        for _ in range(100):
            assert results(x, axis, labels) == expected


HASH = """
    import hashlib
    sha = hashlib.sha256()
    for number in (0, 4):
        axis = 1 if number == 4 else -1
        sha.update(fastsoftmax.softmax(np.rint(8 * inputs[number]) / 8, axis=axis).tobytes())
    print(sha.hexdigest())
"""
SETS = {
    "sse4.2": ("nehalem", "+sse4.2,+popcnt"),
    "avx2": ("haswell", "+avx2,+fma,+avx,+sse4.2,+bmi,+bmi2,+f16c,+popcnt"),
}


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="instruction sets of x86-64")
@pytest.mark.parametrize("name", SETS)
def test_every_instruction_set(name: str) -> None:
    """A sample: `.ci/bits.py` compares all functions, and CI runs it for AVX2."""
    cpu, features = SETS[name]
    assert printed(HASH, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES=features) == printed(HASH)
