"""The promises of cross-entropy's accuracy: a row's loss in ulp, the gradient in parts of its largest entry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import loss_reference
import numpy as np
import pytest
from conftest import SEED
from reference import BFLOAT16, EXTENDED, LONG, Array, assert_ulp, spacing, to_rows
from strategies import LAYOUTS

import fastsoftmax
from fastsoftmax import cross_entropy, cross_entropy_with_grad

LOSS_ULP = 2.0
# Of the largest entry. Class indices alone: of that of the row. Else the terms of an entry may cancel, in a whole row
# where the model has learnt a smoothed target; then of that of the array, in float64 of the terms.
GRADIENT = {np.dtype(np.float32): 3e-7, np.dtype(np.float64): 1e-15}

full = pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(np.dtype(np.float32), id="float32"),
        pytest.param(
            np.dtype(np.float64),
            id="float64",
            marks=pytest.mark.skipif(not EXTENDED, reason="long double is float64 on this platform"),
        ),
    ],
)
half = pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(np.dtype(np.float16), id="float16"),
        pytest.param(
            BFLOAT16,
            id="bfloat16",
            marks=pytest.mark.skipif(BFLOAT16 is None, reason="ml_dtypes is not installed"),
        ),
    ],
)

Draw = Callable[[np.random.Generator, tuple[int, int]], tuple[Array, Array]]


def normal(deviation: float, offset: float = 0.0) -> Draw:
    return lambda rng, shape: (rng.normal(offset, deviation, shape), rng.integers(0, shape[1], shape[0]))


def sure(margin: float, offset: float = 0.0) -> Draw:
    """The target `margin` above all others, so that the loss is about ``classes * exp(-margin)``."""

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
        x, target = normal(1, offset)(rng, shape)
        x[np.arange(shape[0]), target] = x.max(axis=1) + margin
        return x, target

    return draw


def wrong(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Sure of another class than the target."""
    x, target = normal(1)(rng, shape)
    x[np.arange(shape[0]), (target + 1) % shape[1]] += 60
    return x, target


def close_calls(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Margins from 0 to 40, every size of the loss from 1 to 1e-17."""
    x, target = normal(1)(rng, shape)
    x[np.arange(shape[0]), target] = x.max(axis=1) + np.linspace(0, 40, shape[0])
    return x, target


def rivals(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Few classes come near to the target, and their terms are added to each other: each rounding shows in the loss.

    (They lie sixteen classes apart, which is the same lane of a vector.)
    """
    x = rng.normal(-30, 1, shape)
    x[:, 5:64:16] = rng.uniform(-4, 0, x[:, 5:64:16].shape)
    x[:, 0] = rng.uniform(0, 12, shape[0])
    return x, np.zeros(shape[0], int)


CASES: dict[str, tuple[Draw, tuple[int, int]]] = {
    "normal-2": (normal(3), (1000, 2)),
    "normal-10": (normal(3), (1000, 10)),
    "normal-100": (normal(3), (200, 100)),
    "normal-1000": (normal(3), (64, 1000)),
    "normal-131072": (normal(3), (2, 131072)),
    "wide-10": (normal(20), (1000, 10)),
    "wide-1000": (normal(20), (64, 1000)),
    "wide-131072": (normal(20), (2, 131072)),
    "offset+1000-10": (normal(3, 1000), (1000, 10)),
    "offset+1000-1000": (normal(3, 1000), (64, 1000)),
    "offset-30000-10": (normal(3, -30000), (1000, 10)),
    "offset-30000-1000": (normal(3, -30000), (64, 1000)),
    "offset-30000-131072": (normal(3, -30000), (2, 131072)),
    "sure-10": (sure(18), (1000, 10)),
    "sure-1000": (sure(22), (64, 1000)),
    "sure-131072": (sure(26), (2, 131072)),
    "sure-offset-1000": (sure(22, 1000), (64, 1000)),
    "surer-10": (sure(60), (1000, 10)),
    "surer-1000": (sure(60), (64, 1000)),
    "wrong-10": (wrong, (1000, 10)),
    "wrong-1000": (wrong, (64, 1000)),
    "close-calls-2": (close_calls, (1000, 2)),
    "close-calls-33": (close_calls, (400, 33)),
    "wide-24": (normal(20), (20000, 24)),
    "rivals-24": (rivals, (20000, 24)),
    "rivals-64": (rivals, (20000, 64)),
    "rivals-1000": (rivals, (2000, 1000)),
}
cases = pytest.mark.parametrize("case", CASES)
axes = pytest.mark.parametrize("axis", [1, 0], ids=["rows", "strided"])


def problem(case: str, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    draw, shape = CASES[case]
    x, target = draw(np.random.default_rng(SEED), shape)
    return x.astype(dtype), target


def laid(x: Array, axis: int) -> Array:
    return x if axis == 1 else np.ascontiguousarray(x.T)


def excess(got: Array, exact: loss_reference.Exact, plain: bool = True) -> float:
    """The gradient's error over what is allowed of it, and a step of half types."""
    true, computed = exact.gradient, np.dtype(np.float32 if got.dtype.itemsize == 2 else got.dtype)
    largest = np.abs(true).max(axis=None if not plain else -1, keepdims=True)
    if computed == np.float64 and not plain:
        largest = LONG(exact.terms)
    allowed = GRADIENT[computed] * largest + spacing(LONG(0), np.float32)
    if computed != got.dtype:
        allowed = allowed + spacing(true, got.dtype)
    return float((np.abs(got.astype(LONG) - true) / allowed).max())


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """One test alone asks what threads change."""
    fastsoftmax.set_num_threads(1)


# --- the loss of a row ------------------------------------------------------------------


@full
@cases
@axes
def test_loss(case: str, dtype: np.dtype[Any], axis: int) -> None:
    x, target = problem(case, dtype)
    exact = loss_reference.cross_entropy(x, target, reduction="none").losses
    got = cross_entropy(laid(x, axis), target, axis=axis, reduction="none")
    assert got.dtype == dtype
    assert_ulp(got, exact, LOSS_ULP)
    beside, _ = cross_entropy_with_grad(laid(x, axis), target, axis=axis, reduction="none")
    np.testing.assert_array_equal(beside, got)


def test_the_cases_are_as_sure_as_they_say() -> None:
    for case in ("sure-10", "sure-1000", "sure-131072"):
        exact = loss_reference.cross_entropy(*problem(case, np.dtype(np.float32)), reduction="none").losses
        assert 1e-9 < np.median(exact) < 1e-7


@full
@pytest.mark.parametrize("temperature", [0.01, 0.7, 3.0])
@pytest.mark.parametrize(
    "case", ["normal-10", "normal-1000", "offset-30000-1000", "sure-1000", "normal-131072", "wide-24", "rivals-64"]
)
def test_temperature(case: str, temperature: float, dtype: np.dtype[Any]) -> None:
    x, target = problem(case, dtype)
    exact = loss_reference.cross_entropy(x, target, reduction="none", temperature=temperature)
    loss, grad = cross_entropy_with_grad(x, target, reduction="none", temperature=temperature)
    assert_ulp(loss, exact.losses, LOSS_ULP)
    assert excess(grad, exact) <= 1


@full
@pytest.mark.parametrize("temperature", [0.01, 0.1, 3.0])
@pytest.mark.parametrize("case", ["normal-10", "sure-1000", "offset-30000-10", "close-calls-33", "rivals-64"])
def test_probabilities_with_a_temperature(case: str, temperature: float, dtype: np.dtype[Any]) -> None:
    x, target = problem(case, dtype)
    y = np.zeros(x.shape, dtype)
    y[np.arange(len(x)), target] = 1
    exact = loss_reference.cross_entropy(x, target, reduction="none", temperature=temperature).losses
    assert_ulp(cross_entropy(x, y, reduction="none", temperature=temperature), exact, LOSS_ULP)


@full
@pytest.mark.parametrize(
    "options",
    [{}, {"focal_gamma": 0.5}, {"focal_gamma": 2.0}, {"focal_gamma": 10.0}, {"softcap": 1e5}],
    ids=["plain", "focal-half", "focal-2", "focal-10", "softcap"],
)
@pytest.mark.parametrize(
    "case", ["normal-10", "wide-1000", "sure-10", "sure-1000", "surer-10", "close-calls-2", "offset-30000-10"]
)
def test_probabilities(case: str, options: dict[str, Any], dtype: np.dtype[Any]) -> None:
    """A distribution that is all on one class, with the options that have the same kernels."""
    x, target = problem(case, dtype)
    y = np.zeros(x.shape, dtype)
    y[np.arange(len(x)), target] = 1
    exact = loss_reference.cross_entropy(x, target, reduction="none", **options)
    loss, grad = cross_entropy_with_grad(x, y, reduction="none", **options)
    if dtype == np.float32 or not options:
        assert_ulp(loss, exact.losses, LOSS_ULP)
    elif "focal_gamma" in options:  # the error of 1 - p counts gamma times in (1 - p)**gamma
        assert_ulp(loss, exact.losses, 3 + 2 * options["focal_gamma"])
    # In float64 the capped logits are rounded to it, up to 30000 of them, before they become p.
    of_float64 = 40_000 if "softcap" in options else 1 + options.get("focal_gamma", 0) / 4
    assert excess(grad, exact) <= (1 if dtype == np.float32 else of_float64)


# --- the gradient, and the loss beside it -----------------------------------------------

WEIGHING: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.1},
    "z_loss": {"z_loss": 1e-4},
    "weight": {"weight": 1},
    "weight-smoothing": {"weight": 1, "label_smoothing": 0.1},
    "all": {"weight": 1, "label_smoothing": 0.07, "z_loss": 0.01, "temperature": 0.7},
}


def weighed(options: dict[str, Any], classes: int) -> dict[str, Any]:
    """The options with weights of classes where they ask for any."""
    if "weight" not in options:
        return options
    return options | {"weight": np.random.default_rng(SEED).random(classes) + 0.1}


@full
@cases
@axes
@pytest.mark.parametrize("weighing", WEIGHING)
def test_loss_and_gradient(case: str, dtype: np.dtype[Any], axis: int, weighing: str) -> None:
    x, target = problem(case, dtype)
    options = weighed(WEIGHING[weighing], x.shape[1])
    exact = loss_reference.cross_entropy(x, target, reduction="none", **options)
    loss, grad = cross_entropy_with_grad(laid(x, axis), target, axis=axis, reduction="none", **options)
    assert_ulp(loss, exact.losses, LOSS_ULP)
    assert grad.dtype == dtype
    assert excess(to_rows(grad, axis), exact, weighing in ("plain", "weight")) <= 1


@full
@pytest.mark.parametrize("case", ["normal-2", "normal-10", "normal-1000", "wide-24", "sure-10", "close-calls-33"])
@pytest.mark.parametrize("weighing", WEIGHING)
def test_loss_of_distributions(case: str, dtype: np.dtype[Any], weighing: str) -> None:
    x, _ = problem(case, dtype)
    y = np.random.default_rng(SEED).dirichlet(np.full(x.shape[1], 0.3), len(x)).astype(dtype)
    options = weighed(WEIGHING[weighing], x.shape[1])
    exact = loss_reference.cross_entropy(x, y, reduction="none", **options).losses
    assert_ulp(cross_entropy(x, y, reduction="none", **options), exact, LOSS_ULP)


@full
@axes
@pytest.mark.parametrize("case", ["sure-10", "sure-1000", "sure-131072", "surer-10", "close-calls-2", "close-calls-33"])
def test_entry_of_the_target_keeps_its_digits(case: str, dtype: np.dtype[Any], axis: int) -> None:
    """``p - 1`` to a few ulp of itself, not of 1."""
    x, target = problem(case, dtype)
    exact = loss_reference.cross_entropy(x, target, reduction="none").gradient
    _, grad = cross_entropy_with_grad(laid(x, axis), target, axis=axis, reduction="none")
    at = np.arange(len(x)), target
    assert_ulp(to_rows(grad, axis)[at], exact[at], 3)


@full
def test_gradient_of_a_row_adds_up_to_nothing(dtype: np.dtype[Any]) -> None:
    x, target = problem("normal-1000", dtype)
    _, grad = cross_entropy_with_grad(x, target, reduction="none")
    assert np.abs(grad.astype(LONG).sum(axis=1)).max() <= 4 * np.finfo(dtype).eps


@half
@axes
@pytest.mark.parametrize(
    "case", ["normal-2", "normal-10", "normal-100", "normal-1000", "wide-1000", "sure-10", "offset+1000-1000"]
)
@pytest.mark.parametrize("weighing", ["plain", "smoothing"])
def test_half(case: str, dtype: np.dtype[Any], axis: int, weighing: str) -> None:
    """The loss is float32 and as exact; the gradient is within one step of the format, of a float32 gradient."""
    x, target = problem(case, dtype)
    exact = loss_reference.cross_entropy(x, target, reduction="none", **WEIGHING[weighing])
    loss, grad = cross_entropy_with_grad(laid(x, axis), target, axis=axis, reduction="none", **WEIGHING[weighing])
    assert loss.dtype == np.float32
    assert_ulp(loss, exact.losses, LOSS_ULP)
    assert grad.dtype == dtype
    assert excess(to_rows(grad, axis), exact, weighing == "plain") <= 1


# --- the mean ---------------------------------------------------------------------------


@full
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(20000, 10), (700, 129)])
def test_mean_is_exact(shape: tuple[int, int], reduction: str, dtype: np.dtype[Any]) -> None:
    """Losses of very different sizes; half an ulp would be the best."""
    x, target = close_calls(np.random.default_rng(SEED), shape)
    x = x.astype(dtype)
    exact = loss_reference.cross_entropy(x, target, reduction=reduction)
    got = cross_entropy(x, target, reduction=reduction)
    assert type(got) is dtype.type
    assert_ulp(got, exact.value, LOSS_ULP)


@full
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("size", [(31, 67, 10), (5, 41, 150)])
def test_mean_is_the_same_everywhere(size: tuple[int, ...], reduction: str, dtype: np.dtype[Any]) -> None:
    """Whatever the threads, the axis of the classes and the layout: the same bits of loss and gradient."""
    rng = np.random.default_rng(SEED)
    x, target = rng.normal(0, 3, size).astype(dtype), rng.integers(0, size[-1], size[:-1])
    target[rng.random(target.shape) < 0.1] = -100
    weight, own = rng.random(size[-1]), rng.random(target.shape)
    for options in ({}, {"weight": weight, "sample_weight": own, "label_smoothing": 0.1}):
        fastsoftmax.set_num_threads(1)
        loss, grad = cross_entropy_with_grad(x, target, reduction=reduction, **options)
        for threads in (1, 2, 3, 7):
            fastsoftmax.set_num_threads(threads)
            for axis in (0, 1, 2):
                lie = np.ascontiguousarray(np.moveaxis(x, 2, axis))
                for where in ("contiguous", "fortran", "every-other"):
                    mine = LAYOUTS[where](lie)
                    got, slopes = cross_entropy_with_grad(mine, target, axis=axis, reduction=reduction, **options)
                    assert got == loss, (threads, axis, where)
                    np.testing.assert_array_equal(np.moveaxis(slopes, axis, 2), grad)
                    alone = cross_entropy(mine, target, axis=axis, reduction=reduction, **options)
                    assert alone == loss, (threads, axis, where)
