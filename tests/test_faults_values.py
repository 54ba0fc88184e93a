"""Numbers that are none: NaN at every kind of position in every kernel, infinities and runs of -inf at its edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import reference
from reference import Array, assert_ulp

import fastsoftmax
from fastsoftmax import _execute
from fastsoftmax._kernels.lengths import BLOCK, LANES, SHORT_ROW


class Path(NamedTuple):
    """A shape and a number of threads that lead to a kernel; "small" is the one that no plan is made for."""

    kernel: str
    shape: tuple[int, ...]
    axis: int
    threads: int = 1


PATHS = {
    "small": Path("small", (3, 50), -1),
    "rows": Path("rows", (40, 1000), -1),
    "long-rows": Path("rows", (3, SHORT_ROW + 1000), -1),
    "pairs": Path("pairs", (70, 2), -1),
    "narrow": Path("narrow", (70, 7), -1),
    "batches": Path("batches", (70, 30), -1),
    "small-columns": Path("small", (3, 60, 37), 1),
    "small-columns-together": Path("small", (11, 60, 5), 1),
    "columns": Path("columns", (9, 60, 37), 1),
    "columns-together": Path("columns", (61, 60, 5), 1),
    "interleaved": Path("interleaved", (31, 400, 5), 1),
    "tiled-columns": Path("columns", (2, 70, 512), 1),
    "tiled-columns-at-hand": Path("columns", (5, 9, 512), 1),
    "split": Path("split", (2, SHORT_ROW + 1000), -1, 3),
}
FORWARD = ("softmax", "log_softmax", "logsumexp")
BACKWARD = ("softmax_backward", "log_softmax_backward")
LOSSES = ("cross_entropy", "cross_entropy_with_grad")
# What a path is called where an operation has no kernel of its own for it.
INSTEAD = {
    ("logsumexp", "pairs"): "narrow",
    **{(name, "pairs"): "narrow" for name in LOSSES},
}
Call = Callable[[Array], list[Array]]


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels of all plans that are carried out."""
    seen: list[str] = []
    for name in ("run", "run_loss"):
        original = getattr(_execute, name)

        def recorded(plan: Any, *arguments: Any, original: Any = original) -> None:
            seen.append(plan.kernel)
            original(plan, *arguments)

        monkeypatch.setattr(_execute, name, recorded)
    monkeypatch.setattr(_execute, "repeat", lambda *call: None)
    return seen


def call_of(name: str, path: Path, rng: np.random.Generator, dtype: Any) -> Call:
    """The operation on logits of the path's shape: its results, classes last, a row for each row."""

    def rows(result: Any, reduced: bool = False) -> Array:
        result = np.asarray(result)
        result = result[..., None] if reduced else np.moveaxis(result, path.axis, -1)
        return result.reshape(-1, result.shape[-1])

    kept = path.shape[: path.axis % len(path.shape)] + path.shape[path.axis % len(path.shape) + 1 :]
    labels = rng.integers(0, path.shape[path.axis], kept)
    output = fastsoftmax.softmax(rng.normal(size=path.shape).astype(dtype), axis=path.axis)

    def call(x: Array) -> list[Array]:
        function = getattr(fastsoftmax, name)
        if name in BACKWARD:
            return [rows(function(x, output, axis=path.axis))]
        if name == "logsumexp":
            return [rows(function(x, axis=path.axis), reduced=True)]
        if name == "cross_entropy":
            return [rows(function(x, labels, axis=path.axis, reduction="none"), reduced=True)]
        if name == "cross_entropy_with_grad":
            loss, gradient = function(x, labels, axis=path.axis, reduction="none")
            return [rows(loss, reduced=True), rows(gradient)]
        return [rows(function(x, axis=path.axis))]

    return call


def positions(classes: int, dtype: Any) -> list[int]:
    """The first and last element of a row, of a vector, of the vectors abreast and of a block."""
    lanes = LANES[np.dtype(dtype).name]
    edges = (lanes, 2 * lanes, 4 * lanes, BLOCK, 2 * BLOCK, SHORT_ROW, classes // lanes * lanes, classes)
    return sorted({p for edge in edges for p in (0, edge - 1, edge) if 0 <= p < classes})


def expected_kernel(name: str, path: str) -> str | None:
    """None where no plan is made."""
    small = PATHS[path].kernel == "small"
    if small and name in LOSSES:
        return "rows" if PATHS[path].axis == -1 else "columns"  # the short way is for the mean alone
    if small or (name in BACKWARD and path in ("pairs", "narrow", "batches")):
        return None
    return INSTEAD.get((name, path), PATHS[path].kernel)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD, *LOSSES])
@pytest.mark.parametrize("where", PATHS)
def test_nan_spoils_its_row_only(where: str, name: str, dtype: Any, kernels: list[str], rng: Any) -> None:
    path = PATHS[where]
    fastsoftmax.set_num_threads(path.threads)
    call = call_of(name, path, rng, dtype)
    x = rng.normal(0, 4, path.shape).astype(dtype)
    clean = call(x)
    count = len(clean[0])
    classes_last = np.moveaxis(x, path.axis, -1)
    row_of = [np.unravel_index(row, classes_last.shape[:-1]) for row in (0, count // 2, count - 1)]
    kernels.clear()
    for turn, position in enumerate(positions(path.shape[path.axis], dtype)):
        at = row_of[turn % 3]
        row = int(np.ravel_multi_index(at, classes_last.shape[:-1]))
        for company in (0.0, np.inf, -np.inf):  # what else is in the row
            before = classes_last[at].copy()
            if company:
                classes_last[at][(position + 1) % classes_last.shape[-1]] = company
            classes_last[at][position] = np.copysign(np.nan, -1) if turn % 2 else np.nan
            spoilt = call(x)
            classes_last[at][...] = before
            for got, good in zip(spoilt, clean, strict=True):
                assert np.isnan(got[row]).all(), (position, company)
                others = np.arange(count) != row
                np.testing.assert_array_equal(got[others], good[others])
    kernel = expected_kernel(name, where)
    assert set(kernels) == ({kernel} if kernel else set())


def runs(classes: int) -> list[slice]:
    """Prefixes, suffixes and middles that end at, before or behind the edge of a vector or block."""
    few = (1, 8, 16, 64) if classes < BLOCK else (16,)
    edges = [edge for edge in (*few, BLOCK, SHORT_ROW, classes) if edge <= classes]
    found = [slice(0, min(edge + d, classes)) for edge in edges for d in (-1, 0, 1)]
    found += [slice(edge, classes) for edge in edges]
    return found + [slice(max(edge - 5, 0), edge + 5) for edge in edges]


BOUNDS = {"softmax": 3.0, "log_softmax": 3.0, "logsumexp": 2.0}


def check(name: str, path: Path, x: Array) -> None:
    got = getattr(fastsoftmax, name)(x, axis=path.axis)
    exact = getattr(reference, name)(x, path.axis)
    assert_ulp(got, exact, BOUNDS[name], floor=0.5 if name == "logsumexp" else 0.0)


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FORWARD)
@pytest.mark.parametrize("where", PATHS)
def test_runs_of_minus_infinity(where: str, name: str, dtype: Any, kernels: list[str], rng: Any) -> None:
    path = PATHS[where]
    fastsoftmax.set_num_threads(path.threads)
    x = rng.normal(0, 4, path.shape).astype(dtype)
    classes_last = np.moveaxis(x, path.axis, -1)
    rows = [np.unravel_index(row, classes_last.shape[:-1]) for row in range(classes_last[..., 0].size)]
    pending = runs(classes_last.shape[-1])
    while pending:  # a run in each row, as many as there are
        for at, run in zip(rows, pending, strict=False):
            classes_last[at][...] = rng.normal(0, 4, classes_last.shape[-1])
            classes_last[at][run] = -np.inf
        check(name, path, x)
        del pending[: len(rows)]
    kernel = expected_kernel(name, where)
    assert set(kernels) == ({kernel} if kernel else set())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FORWARD)
@pytest.mark.parametrize("where", PATHS)
def test_the_largest_the_smallest_and_the_infinite(where: str, name: str, dtype: Any, rng: Any) -> None:
    path = PATHS[where]
    fastsoftmax.set_num_threads(path.threads)
    info = np.finfo(dtype)
    x = rng.normal(0, 4, path.shape).astype(dtype)
    classes_last = np.moveaxis(x, path.axis, -1)
    kinds: list[list[float]] = [
        [-np.inf],
        [np.inf],
        [info.max],
        [-info.max],
        [info.max, -info.max],
        [0.99 * info.max, info.max],
        [info.smallest_subnormal, -info.smallest_subnormal, 0.0],
        [info.tiny / 3, -info.tiny],
        [-0.0],
        [-np.inf, np.inf, 0.0],
        [-np.inf, info.max],
    ]
    rows = classes_last[..., 0].size
    for first in range(0, len(kinds), rows):
        for row, values in enumerate(kinds[first : first + rows]):
            at = np.unravel_index(row, classes_last.shape[:-1])
            classes_last[at][...] = np.resize(np.array(values, dtype), classes_last.shape[-1])
        check(name, path, x)


@pytest.mark.parametrize("name", ["label_smoothing", "temperature", "softcap", "z_loss", "focal_gamma", "num_items"])
def test_numbers_beyond_float64_are_out_of_range(name: str) -> None:
    for huge in (10**400, -(10**400)):
        with pytest.raises(ValueError, match=name):
            fastsoftmax.cross_entropy(np.ones((3, 4)), [0, 1, 2], **{name: huge})
    with pytest.raises(ValueError, match="temperature"):
        fastsoftmax.softmax(np.ones(3), temperature=10**400)
