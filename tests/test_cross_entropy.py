"""cross_entropy and its gradient against PyTorch, long double and finite differences."""

from __future__ import annotations

import itertools
from typing import Any

import loss_reference
import numpy as np
import pytest
from reference import BFLOAT16, FULL_DTYPES, LONG, Array, result_dtype, spacing

import fastsoftmax
from fastsoftmax import cross_entropy, cross_entropy_with_grad

# shape, axis of the classes
SHAPES: dict[str, tuple[tuple[int, ...], int]] = {
    "one-row": ((7,), 0),
    "rows": ((5, 33), 1),
    "columns": ((9, 6), 0),
    "BTV": ((2, 3, 19), -1),
    "NCHW": ((2, 5, 3, 7), 1),
}
kinds = pytest.mark.parametrize("kind", ["indices", "probabilities"])
shapes = pytest.mark.parametrize("shape", SHAPES)
reductions = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
full = pytest.mark.parametrize("dtype", FULL_DTYPES, ids=str)
all_dtypes = pytest.mark.parametrize(
    "dtype",
    [
        *FULL_DTYPES,
        np.dtype(np.float16),
        pytest.param(BFLOAT16, marks=pytest.mark.skipif(BFLOAT16 is None, reason="ml_dtypes is not installed")),
    ],
    ids=["float32", "float64", "float16", "bfloat16"],
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """What threads change is the business of other tests, and each kernel for them takes its time to compile."""
    fastsoftmax.set_num_threads(1)


def rows_of(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    axis %= len(shape)
    return shape[:axis] + shape[axis + 1 :]


def targets(kind: str, rng: np.random.Generator, shape: tuple[int, ...], axis: int, dtype: Any = np.float64) -> Array:
    """Class indices, or rows of any sum, with zeros."""
    if kind == "indices":
        return np.asarray(rng.integers(0, shape[axis], rows_of(shape, axis)))
    return np.asarray(rng.random(shape) * (rng.random(shape) < 0.7)).astype(dtype)


def close(got: Any, exact: Any, dtype: np.dtype[Any], terms: float = 0.0) -> None:
    """Within the rounding of the dtype, half of which is computed in float32; of the largest entry or its `terms`."""
    got, exact = np.asarray(got), np.asarray(exact)
    assert got.dtype == dtype
    assert got.shape == exact.shape
    wide, true = got.astype(LONG), exact.astype(LONG)
    np.testing.assert_array_equal(np.isnan(wide), np.isnan(true))
    fine = ~np.isnan(true)
    if not fine.any():
        return
    eps = float(np.finfo(np.float32 if dtype.itemsize == 2 else dtype).eps)
    allowed = 3 * eps * max(np.abs(true[fine]).max(), terms) + spacing(true[fine], dtype)
    error = np.abs(wide[fine] - true[fine])
    assert (error <= allowed).all(), f"{float((error / allowed).max()):.2f} times the bound"


# --- against PyTorch --------------------------------------------------------------------


@kinds
@shapes
@reductions
@all_dtypes
def test_torch(kind: str, shape: str, reduction: str, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    """Both in float64 from the same logits; with class weights, smoothing and ignored rows or without each."""
    torch = pytest.importorskip("torch")
    size, axis = SHAPES[shape]
    x = rng.normal(0, 3, size).astype(dtype)
    for weighted, smoothing, ignored in itertools.product([False, True], [0.0, 0.1, 1.0], [False, True]):
        target = targets(kind, rng, size, axis, np.float32)
        weight = rng.random(size[axis]) if weighted else None
        options: dict[str, Any] = {"reduction": reduction, "label_smoothing": smoothing}
        theirs = dict(options, weight=None if weight is None else torch.from_numpy(weight))
        if ignored and kind == "probabilities":
            continue
        if ignored:
            options["ignore_index"] = theirs["ignore_index"] = 2
            target[rng.random(target.shape) < 0.4] = 2
        logits = torch.tensor(x.astype(np.float64), requires_grad=True)
        classes_second = logits.movedim(axis, min(1, logits.ndim - 1))
        y = torch.from_numpy(np.asarray(target) if kind == "indices" else target.astype(np.float64))
        if kind == "probabilities":
            y = y.movedim(axis, min(1, y.ndim - 1))
        expected = torch.nn.functional.cross_entropy(classes_second, y, **theirs)
        expected.sum().backward()
        loss, grad = cross_entropy_with_grad(x, target, axis=axis, weight=weight, **options)
        loss_dtype = dtype if dtype.itemsize > 2 else np.dtype(np.float32)
        close(loss, expected.detach().numpy(), loss_dtype)
        exact = loss_reference.cross_entropy(x, target, axis=axis, weight=weight, **options)
        close(grad, logits.grad.numpy(), dtype, exact.terms)
        alone = cross_entropy(x, target, axis=axis, weight=weight, **options)
        np.testing.assert_array_equal(alone, loss)
        assert np.asarray(alone).dtype == loss_dtype


# --- against long double ----------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weight": {"weight": 1},
    "smoothing": {"label_smoothing": 0.1},
    "all-smoothing": {"label_smoothing": 1.0},
    "temperature": {"temperature": 0.7},
    "softcap": {"softcap": 4.0},
    "z_loss": {"z_loss": 0.01},
    "focal": {"focal_gamma": 2.0},
    "focal-below-1": {"focal_gamma": 0.5},
    "sample_weight": {"sample_weight": 1},
    "num_items": {"num_items": 17.5},
    "grad_output": {"grad_output": 1},
    "linear": {
        "weight": 1, "label_smoothing": 0.1, "temperature": 1.3, "z_loss": 0.01, "sample_weight": 1, "grad_output": 1,
    },
    "everything": {
        "weight": 1, "label_smoothing": 0.1, "temperature": 1.3, "softcap": 5.0, "z_loss": 0.01, "focal_gamma": 1.5,
        "sample_weight": 1, "num_items": 3.25, "grad_output": 1,
    },
}  # fmt: skip


def filled_in(
    options: dict[str, Any], rng: np.random.Generator, shape: tuple[int, ...], axis: int, reduction: str
) -> dict[str, Any]:
    """The options with numbers for what is one for each class or row."""
    rows = rows_of(shape, axis)
    made = dict(options, axis=axis, reduction=reduction)
    if "weight" in options:
        made["weight"] = rng.random(shape[axis])
    if "sample_weight" in options:
        made["sample_weight"] = rng.random(rows) + 0.5
    if "grad_output" in options:
        made["grad_output"] = rng.normal(size=rows) if reduction == "none" else -1.7
    if reduction != "mean":
        made.pop("num_items", None)
    return made


def without_gradient(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "grad_output"}


@kinds
@shapes
@full
@pytest.mark.parametrize("option", OPTIONS)
def test_formula(kind: str, shape: str, dtype: np.dtype[Any], option: str, rng: np.random.Generator) -> None:
    """Loss, gradient and log-sum-exp with each option and with all, some class indices ignored."""
    size, axis = SHAPES[shape]
    for reduction in ("mean", "sum", "none"):
        x = rng.normal(0, 3, size).astype(dtype)
        target = targets(kind, rng, size, axis, dtype)
        if target.ndim and kind == "indices":
            target[rng.random(target.shape) < 0.2] = -100
        options = filled_in(OPTIONS[option], rng, size, axis, reduction)
        exact = loss_reference.cross_entropy(x, target, **options)
        loss, grad, lse = cross_entropy_with_grad(x, target, return_lse=True, **options)
        close(loss, exact.value, dtype)
        close(grad, exact.gradient, dtype, exact.terms)
        close(lse, exact.lse, dtype)
        options = without_gradient(options)
        alone, lse_alone = cross_entropy(x, target, return_lse=True, **options)
        np.testing.assert_array_equal(alone, loss)
        np.testing.assert_array_equal(lse_alone, lse)
        np.testing.assert_array_equal(cross_entropy(x, target, **options), loss)


@full
@pytest.mark.parametrize("option", ["plain", "smoothing", "linear"])
@pytest.mark.parametrize("size", [(40, 2), (37, 8), (67, 16), (35, 1)], ids=str)
def test_a_few_classes(size: tuple[int, int], dtype: np.dtype[Any], option: str, rng: np.random.Generator) -> None:
    """Many rows at once, with the ends of their groups."""
    x, target = rng.normal(0, 3, size).astype(dtype), targets("indices", rng, size, -1)
    target[::5] = -100
    options = filled_in(OPTIONS[option], rng, size, -1, "none")
    exact = loss_reference.cross_entropy(x, target, **options)
    loss, grad = cross_entropy_with_grad(x, target, **options)
    close(loss, exact.value, dtype)
    close(grad, exact.gradient, dtype, exact.terms)
    np.testing.assert_array_equal(cross_entropy(x, target, **without_gradient(options)), loss)


@full
@pytest.mark.parametrize("option", ["plain", "linear"])
@pytest.mark.parametrize("size", [65537, 131072])
def test_long_rows(size: int, dtype: np.dtype[Any], option: str, rng: np.random.Generator) -> None:
    x, target = rng.normal(0, 3, (3, size)).astype(dtype), np.array([size - 1, -100, 16384])
    options = filled_in(OPTIONS[option], rng, x.shape, -1, "none")
    exact = loss_reference.cross_entropy(x, target, **options)
    loss, grad = cross_entropy_with_grad(x, target, **options)
    close(loss, exact.value, dtype)
    close(grad, exact.gradient, dtype, exact.terms)


@pytest.mark.parametrize("classes", [70000, 131072])
def test_one_long_row_shared_out(classes: int, rng: np.random.Generator) -> None:
    """By blocks, where there are more threads than rows: the bits of one thread."""
    x, weight = rng.normal(0, 3, classes).astype(np.float32), rng.random(classes)
    for options in ({}, {"weight": weight, "label_smoothing": 0.1, "z_loss": 0.01}):
        one = cross_entropy_with_grad(x, 5, return_lse=True, **options)
        alone = cross_entropy(x, 5, **options)
        fastsoftmax.set_num_threads(2)
        for got, expected in zip(cross_entropy_with_grad(x, 5, return_lse=True, **options), one, strict=True):
            np.testing.assert_array_equal(got, expected)
        assert cross_entropy(x, 5, **options) == alone == one[0]
        fastsoftmax.set_num_threads(1)


# --- against finite differences ---------------------------------------------------------


@kinds
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("shape", ["one-row", "columns", "NCHW"])
def test_finite_differences(kind: str, shape: str, option: str, rng: np.random.Generator) -> None:
    """Of the library's own loss in float64: a central step of 1e-5 is off by about 1e-9."""
    size, axis = SHAPES[shape]
    reduction = {"one-row": "sum", "columns": "mean", "NCHW": "none"}[shape]
    x, target = rng.normal(0, 2, size), targets(kind, rng, size, axis)
    if target.ndim and kind == "indices":
        target.flat[1] = -100
    options = filled_in(OPTIONS[option], rng, size, axis, reduction)
    step = 1e-5
    factor = options.get("grad_output", 1.0)
    slope = np.empty(size)
    for at in np.ndindex(size):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[at] += sign * step
            ends.append(np.sum(cross_entropy(moved, target, **without_gradient(options)) * factor))
        slope[at] = (ends[0] - ends[1]) / (2 * step)
    _, grad = cross_entropy_with_grad(x, target, **options)
    assert np.abs(grad).max() > 1e-3
    np.testing.assert_allclose(grad, slope, rtol=0, atol=2e-8 * max(1.0, float(np.abs(slope).max())))


@kinds
@pytest.mark.parametrize(
    "pair", list(itertools.combinations(["weight", "smoothing", "temperature", "softcap", "z_loss", "focal"], 2)),
    ids="+".join,
)  # fmt: skip
def test_pairs_of_options(kind: str, pair: tuple[str, str], rng: np.random.Generator) -> None:
    size, axis = (6, 11), -1
    x, target = rng.normal(0, 3, size), targets(kind, rng, size, axis)
    options = filled_in(OPTIONS[pair[0]] | OPTIONS[pair[1]], rng, size, axis, "mean")
    exact = loss_reference.cross_entropy(x, target, **options)
    loss, grad = cross_entropy_with_grad(x, target, **options)
    close(loss, exact.value, x.dtype)
    close(grad, exact.gradient, x.dtype, exact.terms)


# --- the oracle itself ------------------------------------------------------------------


@kinds
def test_oracle_against_finite_differences(kind: str, rng: np.random.Generator) -> None:
    """In long double a step of 1e-6 is off by about 1e-11."""
    size = (4, 5)
    x, target = rng.normal(0, 2, size).astype(LONG).astype(np.float64), targets(kind, rng, size, -1)
    options = filled_in(OPTIONS["everything"], rng, size, -1, "none")
    exact = loss_reference.cross_entropy(x, target, **options)
    step = 2.0**-20
    for at in np.ndindex(size):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[at] += sign * step
            ends.append(loss_reference.cross_entropy(moved, target, **options).losses)
        slope = ((ends[0] - ends[1]) * options["grad_output"]).sum() / (2 * step)
        assert abs(slope - exact.gradient[at]) < 1e-9
    assert exact.gradient.shape == size
    assert result_dtype(x.dtype) == np.float64
