"""Any array, any axis, any place for the result: hypothesis against the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import Array, assert_same, assert_ulp
from strategies import LAYOUTS, Guarded, Problem, problems, values

import fastsoftmax

pytestmark = pytest.mark.filterwarnings("error")

# float64 rows may cancel to a log-sum-exp of nearly zero: see LOGSUMEXP_FLOOR in test_accuracy.py.
FLOOR = 0.5
HALF_STEP = 1.0
ULP = {"softmax": 3.0, "log_softmax": 3.0, "logsumexp": 2.0}


some = settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])


def bound(name: str, dtype: np.dtype[Any], temperature: float = 1.0) -> float:
    return HALF_STEP if dtype.itemsize == 2 else ULP[name]


def destination(problem: Problem, dtype: np.dtype[Any]) -> tuple[Array | None, Guarded | None]:
    """The array to hand in as `out`, and the guard around it where there is one."""
    if problem.out_kind == "in place":
        return problem.x, None
    if problem.out_kind == "given":
        return np.empty(problem.x.shape, dtype), None
    if problem.out_kind == "guarded":
        guarded = Guarded.make(problem.x.shape, dtype, gap=2)
        return guarded.array, guarded
    if problem.out_kind == "every-other":
        return LAYOUTS["every-other"](np.zeros(problem.x.shape, dtype)), None
    return None, None


@some
@given(problem=problems(), name=st.sampled_from(["softmax", "log_softmax"]))
def test_maps(problem: Problem, name: str) -> None:
    x, axis = problem.x, problem.axis
    options: dict[str, Any] = {"where": problem.where, "temperature": problem.temperature}
    exact = getattr(reference, name)(x, axis, **options)
    dtype = reference.result_dtype(x.dtype)
    before = x.copy()
    out, guarded = destination(problem, dtype)

    got = getattr(fastsoftmax, name)(x, axis=axis, out=out, **options)

    assert out is None or got is out
    assert got.dtype == dtype
    assert_ulp(got, exact, bound(name, dtype, problem.temperature))
    if out is not x:
        assert x.tobytes() == before.tobytes()
    assert guarded is None or guarded.surroundings_untouched()


@some
@given(problem=problems(), keepdims=st.booleans(), return_sign=st.booleans())
def test_logsumexp(problem: Problem, keepdims: bool, return_sign: bool) -> None:
    x, axis = problem.x, problem.axis
    exact, exact_sign = reference.signed_logsumexp(x, axis, None, keepdims, where=problem.where)
    got = fastsoftmax.logsumexp(x, axis, None, keepdims, return_sign, where=problem.where)
    if return_sign:
        got, sign = got
        np.testing.assert_array_equal(np.asarray(sign, np.float64), exact_sign.astype(np.float64))
    dtype = reference.result_dtype(x.dtype)
    assert got.dtype == dtype
    assert_ulp(got, exact, bound("logsumexp", dtype), floor=FLOOR)


@some
@given(problem=problems(), seed=st.integers(0, 2**32 - 1), signs=st.sampled_from([0.0, 0.3, 1.0]))
def test_weighted_logsumexp(problem: Problem, seed: int, signs: float) -> None:
    """Signed weights cancel, so the allowance grows with the condition number of the sum."""
    x, axis = problem.x, problem.axis
    dtype = reference.result_dtype(x.dtype)
    rng = np.random.default_rng(seed)
    b = np.asarray(rng.uniform(0.25, 2, x.shape)) * np.where(rng.random(x.shape) < signs, -1, 1)
    b = np.asarray(b)
    b[rng.random(x.shape) < 0.1] = 0
    b = b.astype(dtype)
    options: dict[str, Any] = {"where": problem.where}
    exact, exact_sign = reference.signed_logsumexp(x, axis, b, **options)
    plain = reference.logsumexp(x, axis, np.abs(b), **options)

    got, sign = fastsoftmax.logsumexp(x, axis, b, return_sign=True, **options)

    assert got.dtype == sign.dtype == dtype
    # b's logarithm and the sum are relative to sum|b exp(a)|: condition = exp(plain - exact).
    with np.errstate(all="ignore"):
        condition = np.where(np.isfinite(exact), np.exp(plain - exact), 1)
        difference = np.abs(np.asarray(got).astype(reference.LONG) - exact)
    wide = np.float32 if dtype.itemsize == 2 else dtype
    allowed = 4 * condition * reference.spacing(FLOOR, wide) + 3 * reference.spacing(exact, dtype)
    sure = condition < 1 / (16 * np.finfo(wide).eps)
    finite = np.isfinite(exact) & sure
    assert (difference[finite] <= allowed[finite]).all()
    special = ~np.isfinite(exact)
    got, sign = np.asarray(got, np.float64), np.asarray(sign, np.float64)
    np.testing.assert_array_equal(got[special], exact[special].astype(np.float64))
    known = (finite | special) & ~np.isnan(exact)
    np.testing.assert_array_equal(sign[known], exact_sign[known])


@some
@given(problem=problems(), name=st.sampled_from(["softmax", "log_softmax", "logsumexp"]))
def test_bits_do_not_depend_on_the_layout(problem: Problem, name: str) -> None:
    """A row's result depends on the row alone: not on strides, alignment, byte order or batch."""
    x, axis = problem.x, problem.axis
    function = getattr(fastsoftmax, name)
    rows = reference.to_rows(x.astype(reference.result_dtype(x.dtype)), axis)
    expected = function(rows, axis=-1)
    got = np.asarray(function(x, axis=axis))
    if name != "logsumexp":
        got = reference.to_rows(got, axis)
    assert_same(got, expected)
    if rows.ndim == 2 and len(rows):
        assert_same(function(rows[-1:], axis=-1), expected[-1:])


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    classes=st.sampled_from([2, 10, 16, 17, 100, 1024, 1025]),
    dtype=st.sampled_from([np.float32, np.float64]),
    offset=st.sampled_from([-30000.0, -64.0, 1024.0]),
)
def test_what_must_hold_of_any_softmax(seed: int, classes: int, dtype: type[np.floating[Any]], offset: float) -> None:
    """Sum of one, order kept, indifference to a constant added exactly, coherence of the three."""
    x = np.round(values(np.random.default_rng(seed), (3, classes), "normal") * 64) / 64
    x = x.astype(dtype)
    y, log_y = fastsoftmax.softmax(x, axis=-1), fastsoftmax.log_softmax(x, axis=-1)
    eps = np.finfo(dtype).eps
    assert np.abs(y.astype(reference.LONG).sum(axis=-1) - 1).max() <= 3 * eps
    order = np.argsort(x, axis=-1, kind="stable")
    assert (np.diff(np.take_along_axis(y, order, -1), axis=-1) >= 0).all()
    assert (np.diff(np.take_along_axis(log_y, order, -1), axis=-1) >= 0).all()
    assert (y.argmax(axis=-1) == x.argmax(axis=-1)).all()
    shifted = fastsoftmax.log_softmax(x + dtype(offset), axis=-1)
    assert_ulp(shifted, reference.log_softmax(x, -1), 3.0)
    lse = fastsoftmax.logsumexp(x, axis=-1, keepdims=True)
    np.testing.assert_allclose(x - lse, log_y, rtol=0, atol=16 * eps * max(1, np.abs(x).max()))
