"""Changing the import is all that a user of SciPy does."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import numpy as np
import pytest
import scipy.special
from reference import Array, Axis

import fastsoftmax

NAMES = ("softmax", "log_softmax", "logsumexp")
AXES: tuple[Axis, ...] = (None, 0, 1, 2, -1, -2, (0,), (0, 1), (0, 2), (2, 1), (0, 1, 2), (-1, 0))
# SciPy itself is off by tens of ulp: agreement is asked to what it delivers, exactness elsewhere.
RTOL = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 1e-12, np.dtype(np.float16): 2e-2}

# Older ones widen by a Python number as weight, and give some infinite sums another sign.
as_of_scipy_1_17 = pytest.mark.skipif(
    tuple(map(int, scipy.__version__.split(".")[:2])) < (1, 17),
    reason=f"SciPy {scipy.__version__} answers otherwise",
)

every_name = pytest.mark.parametrize("name", NAMES)
every_axis = pytest.mark.parametrize("axis", AXES)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def same(ours: Any, theirs: Any) -> None:
    """The same kind of object (array or scalar), dtype, shape and, nearly, values."""
    if isinstance(theirs, tuple):
        assert isinstance(ours, tuple)
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other)
        return
    assert type(ours) is type(theirs)
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    rtol = RTOL[theirs.dtype]
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol / 4)


def both(name: str, *args: Any, **options: Any) -> None:
    with np.errstate(all="ignore"):
        theirs = getattr(scipy.special, name)(*args, **options)
    same(getattr(fastsoftmax, name)(*args, **options), theirs)


@every_name
def test_signature(name: str) -> None:
    """SciPy's parameters come first, with the same kinds and defaults; ours are keyword-only."""
    theirs = inspect.signature(getattr(scipy.special, name)).parameters
    ours = inspect.signature(getattr(fastsoftmax, name)).parameters
    head = list(ours.values())[: len(theirs)]
    assert [(p.name, p.kind, p.default) for p in head] == [(p.name, p.kind, p.default) for p in theirs.values()]
    extra = list(ours.values())[len(theirs) :]
    assert all(p.kind is p.KEYWORD_ONLY for p in extra)


@every_name
@every_axis
@dtypes
def test_random_inputs(name: str, axis: Axis, dtype: Any, rng: np.random.Generator) -> None:
    for scale in (1, 5):
        both(name, rng.normal(0, scale, (4, 5, 6)).astype(dtype), axis)
    both(name, rng.normal(1000, 3, (4, 5, 6)).astype(dtype), axis=axis)


@every_axis
@dtypes
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("return_sign", [False, True])
@pytest.mark.parametrize("weights", [None, "positive", "signed", "some zero", "all zero", "negative"])
def test_logsumexp(
    axis: Axis,
    dtype: Any,
    keepdims: bool,
    return_sign: bool,
    weights: str | None,
    rng: np.random.Generator,
) -> None:
    a = rng.normal(0, 3, (4, 5, 6)).astype(dtype)
    b = drawn_weights(weights, a.shape, rng)
    both("logsumexp", a, axis, None if b is None else b.astype(dtype), keepdims, return_sign)


def drawn_weights(kind: str | None, shape: tuple[int, ...], rng: np.random.Generator) -> Array | None:
    b = rng.uniform(0.5, 2, shape)
    if kind == "signed":
        b *= rng.choice([-1, 1], shape, p=[0.3, 0.7])
    elif kind == "some zero":
        b *= rng.random(shape) < 0.7
    elif kind == "all zero":
        b *= 0
    elif kind == "negative":
        b *= -1
    return None if kind is None else b


@pytest.mark.parametrize("shape", [(), (1,), (6,), (5, 1), (4, 1, 1), (1, 5, 6), (2, 1, 1, 6)])
@pytest.mark.parametrize("axis", [None, -1, -2, (-1, -3)])
def test_weights_broadcast(shape: tuple[int, ...], axis: Axis, rng: np.random.Generator) -> None:
    """Either way: the weights may have axes that the terms have not."""
    a = rng.normal(0, 3, (4, 5, 6))
    both("logsumexp", a, axis, rng.normal(size=shape), return_sign=True)
    if axis is None:
        both("logsumexp", a[0, 0], axis, rng.normal(size=(4, 5, 6)), return_sign=True)


@as_of_scipy_1_17
@pytest.mark.parametrize(
    "b",
    [2.0, 2, True, np.float32(2), np.float64(2), [1.0, 2.0, 3.0], [1, 2, 3], (True, False, True)]
    + [np.array([1, 2, 3], t) for t in (np.int64, np.int8, np.bool_, np.float64, np.float32)],
    ids=repr,
)
@dtypes
def test_dtype_with_weights(b: Any, dtype: Any, rng: np.random.Generator) -> None:
    """The usual promotion of a and b together; Python's own numbers do not widen."""
    both("logsumexp", rng.normal(size=(2, 3)).astype(dtype), -1, b)


SPECIAL = (-np.inf, np.inf, np.nan, 0.0, 1.5)


@every_name
def test_special_values(name: str) -> None:
    """Every row of three of these values, alone and all together in one array."""
    rows = np.array(list(itertools.product(SPECIAL, repeat=3)))
    both(name, rows, axis=-1)
    both(name, rows.T, axis=0)
    for row in rows:
        both(name, row)


@as_of_scipy_1_17
@pytest.mark.parametrize("return_sign", [False, True])
def test_special_values_with_weights(return_sign: bool) -> None:
    """Every two terms with every two weights, but for an infinite or nan term of weight zero.

    There SciPy contradicts its own rule, "it adds nothing to the sum if the corresponding weight is
    zero": beside another infinity it says nan.  Our answer to those is in the next test.
    """
    weights = (-2.0, 0.0, 1.0)
    for a in itertools.product(SPECIAL, repeat=2):
        for b in itertools.product(weights, repeat=2):
            unread = any(w == 0 and not v < np.inf for v, w in zip(a, b, strict=True))
            if not unread:
                both("logsumexp", np.array(a), b=np.array(b), return_sign=return_sign)


@pytest.mark.parametrize("term", [np.inf, np.nan])
@pytest.mark.parametrize(("other", "expected"), [(1.5, 1.5), (np.inf, np.inf), (-np.inf, -np.inf)])
def test_weight_of_zero_adds_nothing(term: float, other: float, expected: float) -> None:
    for classes in (2, 40, 70000):
        a, b = np.full(classes, term), np.zeros(classes)
        a[classes // 2], b[classes // 2] = other, 1
        assert fastsoftmax.logsumexp(a, b=b) == expected


@every_name
@pytest.mark.parametrize("x", [3.0, np.float32(3), np.array(3.0), np.array(-np.inf), np.array(np.inf)])
def test_scalars(name: str, x: Any) -> None:
    for axis in (None, 0, -1):
        both(name, x, axis)


@every_name
@dtypes
def test_full_reductions_give_scalars(name: str, dtype: Any, rng: np.random.Generator) -> None:
    both(name, rng.normal(size=7).astype(dtype))
    both(name, rng.normal(size=(7, 3)).astype(dtype))


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("return_sign", [False, True])
def test_full_reductions_of_logsumexp(keepdims: bool, return_sign: bool) -> None:
    for x in (np.arange(6.0), np.arange(6.0).reshape(2, 3), [1, 2]):
        both("logsumexp", x, keepdims=keepdims, return_sign=return_sign)
    both("logsumexp", 2.0, return_sign=return_sign)


def test_keepdims_of_a_scalar_keeps_no_dimension() -> None:
    """As NumPy's reductions; SciPy makes one dimension of none."""
    assert np.shape(fastsoftmax.logsumexp(2.0, keepdims=True)) == np.shape(np.sum(2.0, keepdims=True))


@every_name
def test_half_precision(name: str, rng: np.random.Generator) -> None:
    both(name, rng.normal(0, 2, (4, 50)).astype(np.float16), -1)


@every_name
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_integers(name: str, dtype: Any, rng: np.random.Generator) -> None:
    """Signed and of 32 bits or more: elsewhere SciPy computes in float16, or wraps around."""
    both(name, rng.integers(-9, 9, (4, 7)).astype(dtype), -1)


@pytest.mark.parametrize(("shape", "axis"), [((0, 3), 1), ((3, 0), 0), ((0, 3), 0), ((3, 0), 1), ((0,), None)])
def test_empty(shape: tuple[int, ...], axis: Axis) -> None:
    both("logsumexp", np.empty(shape), axis)
    both("logsumexp", np.empty(shape), axis, keepdims=True)
    if shape[axis or 0]:  # SciPy's softmax fails on a row of nothing
        both("softmax", np.empty(shape), axis)
        both("log_softmax", np.empty(shape), axis)
