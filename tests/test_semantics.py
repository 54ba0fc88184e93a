"""The semantics table, row by row, over every region of shapes: which value, which dtype."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import reference
from reference import BFLOAT16, LARGE_INTEGERS, SMALL_INTEGERS, Array, Axis, assert_ulp
from strategies import BRIEF_REGIONS, LAYOUTS, REGIONS

import fastsoftmax

# None of these functions may so much as warn: no case below is an error.
pytestmark = pytest.mark.filterwarnings("error")

FUNCTIONS = ("softmax", "log_softmax", "logsumexp")
MAPS = ("softmax", "log_softmax")
ULP = {"softmax": 3.0, "log_softmax": 3.0, "logsumexp": 2.0}

every_function = pytest.mark.parametrize("name", FUNCTIONS)
every_map = pytest.mark.parametrize("name", MAPS)
every_region = pytest.mark.parametrize("region", REGIONS)
brief_regions = pytest.mark.parametrize("region", BRIEF_REGIONS)
floats = pytest.mark.parametrize("dtype", [np.float32, np.float64])
needs_bfloat16 = pytest.mark.skipif(BFLOAT16 is None, reason="ml_dtypes is not installed")
all_floats = pytest.mark.parametrize(
    "dtype",
    [np.float32, np.float64, np.float16, pytest.param(BFLOAT16, id="bf16", marks=needs_bfloat16)],
)


def call(name: str, x: Any, axis: Axis = None, **options: Any) -> Any:
    return getattr(fastsoftmax, name)(x, axis=axis, **options)


def check(name: str, x: Array, axis: Axis = None, **options: Any) -> Array:
    """Call, and compare value, dtype and shape with the oracle; the result for more questions."""
    got = call(name, x, axis, **options)
    exact = getattr(reference, name)(x, axis, **options)
    assert got.dtype == reference.result_dtype(x.dtype)
    assert got.dtype.isnative
    is_half = got.dtype.itemsize == 2
    # A log-sum-exp may cancel to nearly zero: see LOGSUMEXP_FLOOR in test_accuracy.py.
    assert_ulp(got, exact, 1.0 if is_half else ULP[name], floor=0.5 if name == "logsumexp" else 0.0)
    return np.asarray(got)


def drawn(rng: np.random.Generator, region: str, dtype: Any) -> tuple[Array, Axis]:
    shape, axis = REGIONS[region]
    return rng.normal(0, 4, shape).astype(dtype), axis


# --- shapes and axes --------------------------------------------------------------------


@every_function
@every_region
@all_floats
def test_every_region(name: str, region: str, dtype: Any, rng: np.random.Generator) -> None:
    x, axis = drawn(rng, region, dtype)
    before = x.copy()
    check(name, x, axis)
    np.testing.assert_array_equal(x, before)


@every_function
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1, -3, (0,), (0, 1), (1, 2), (2, 0), (-1, 0, 1)])
def test_axes(name: str, axis: Axis, rng: np.random.Generator) -> None:
    check(name, rng.normal(0, 4, (5, 6, 7)), axis)
    assert call(name, np.ones((5, 6, 7)), axis).shape == (
        (5, 6, 7) if name in MAPS else reference.reduced_shape((5, 6, 7), axis, False)
    )


@every_function
def test_the_default_axis_is_all_axes(name: str, rng: np.random.Generator) -> None:
    x = rng.normal(size=(4, 5))
    np.testing.assert_array_equal(getattr(fastsoftmax, name)(x), call(name, x, (0, 1)))


@every_map
def test_no_axis_at_all_makes_every_element_a_row(name: str, rng: np.random.Generator) -> None:
    check(name, rng.normal(size=(4, 5)), ())


def test_logsumexp_over_no_axis_is_the_input(rng: np.random.Generator) -> None:
    x = rng.normal(size=(4, 5))
    np.testing.assert_array_equal(fastsoftmax.logsumexp(x, axis=()), x)


@pytest.mark.parametrize("axis", [None, 0, 1, 2, (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_keepdims(axis: Axis, keepdims: bool, rng: np.random.Generator) -> None:
    x = rng.normal(size=(5, 6, 7))
    got = fastsoftmax.logsumexp(x, axis=axis, keepdims=keepdims)
    assert np.shape(got) == reference.reduced_shape(x.shape, axis, keepdims)
    np.testing.assert_array_equal(np.ravel(got), np.ravel(fastsoftmax.logsumexp(x, axis=axis)))


@every_function
@all_floats
@pytest.mark.parametrize("axis", [None, 0, -1])
@pytest.mark.parametrize("value", [2.5, -np.inf, np.inf, np.nan])
def test_zero_dimensions(name: str, value: float, axis: Axis, dtype: Any) -> None:
    check(name, np.array(value, dtype), axis)


@every_function
@pytest.mark.parametrize("value", [3, 2.5, True, np.float32(2.5), np.int8(3)])
def test_python_and_numpy_scalars(name: str, value: Any) -> None:
    got = call(name, value)
    assert np.shape(got) == ()
    assert got.dtype == reference.result_dtype(np.asarray(value).dtype)
    assert got == {"softmax": 1, "log_softmax": 0, "logsumexp": float(value)}[name]


@every_map
@all_floats
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4), (0, 0), (0, 70000)])
def test_empty(name: str, shape: tuple[int, ...], dtype: Any) -> None:
    for axis in (None, *range(-len(shape), len(shape))):
        got = call(name, np.empty(shape, dtype), axis)
        assert got.shape == shape
        assert got.dtype == dtype
        out = np.empty(shape, dtype)
        assert call(name, np.empty(shape, dtype), axis, out=out) is out


@all_floats
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4), (0, 0), (0, 70000)])
def test_empty_logsumexp(shape: tuple[int, ...], dtype: Any) -> None:
    """A sum of nothing is 0, its logarithm -inf; a batch of nothing has no result."""
    for axis in (None, *range(-len(shape), len(shape))):
        got, sign = fastsoftmax.logsumexp(np.empty(shape, dtype), axis=axis, return_sign=True)
        expected = np.full(reference.reduced_shape(shape, axis, False), -np.inf)
        np.testing.assert_array_equal(np.asarray(got, np.float64), expected)
        np.testing.assert_array_equal(np.asarray(sign, np.float64), np.zeros(expected.shape))
        assert got.dtype == sign.dtype == dtype


# --- dtypes -----------------------------------------------------------------------------


@every_function
@brief_regions
@pytest.mark.parametrize("dtype", SMALL_INTEGERS + LARGE_INTEGERS, ids=str)
def test_integers(name: str, region: str, dtype: Any, rng: np.random.Generator) -> None:
    """All values of a byte; of the wider types as much as makes a distribution."""
    shape, axis = REGIONS[region]
    low, high = {"b": (0, 2), "u": (0, 256), "i": (-128, 128)}[dtype.kind]
    check(name, rng.integers(low, high, shape).astype(dtype), axis)


@every_function
@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int32, np.uint32, np.int16, np.uint16])
def test_integers_are_promoted_before_any_arithmetic(name: str, dtype: Any) -> None:
    """Neither a difference nor a negation may wrap around in the integer type."""
    info = np.iinfo(dtype)
    check(name, np.array([[info.min, info.max, 0], [info.max, info.max - 1, info.min]], dtype), -1)


@every_map
@all_floats
def test_dtype_casts_before_computing(name: str, dtype: Any, rng: np.random.Generator) -> None:
    for x in (rng.normal(size=(3, 40)), rng.integers(-9, 9, (3, 40)), rng.normal(size=40) > 0):
        got = call(name, x, -1, dtype=dtype)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, call(name, x.astype(dtype), -1))


def test_float16_is_not_computed_in_float16(rng: np.random.Generator) -> None:
    """4000 probabilities of 1/4000: a sum in float16 stops growing at 2048."""
    x = np.zeros((2, 4000), np.float16)
    np.testing.assert_array_equal(fastsoftmax.softmax(x, axis=-1), np.float16(1 / 4000))


# --- infinities, nan, masks -------------------------------------------------------------


def with_special_rows(rng: np.random.Generator, region: str, dtype: Any, first: float = np.nan) -> tuple[Array, Axis]:
    """Rows with some -inf; the first holds `first`, one +inf, one nan and +inf, one is all -inf."""
    shape, axis = REGIONS[region]
    x = rng.normal(0, 4, shape)
    rows = reference.to_rows(x, axis).copy()
    flat = rows.reshape(-1, rows.shape[-1])
    classes = flat.shape[-1]
    flat[rng.random(flat.shape) < 0.2] = -np.inf
    at = rng.integers(0, classes, 4)
    for row, special in enumerate([first, np.inf, -np.inf, np.nan][: len(flat)]):
        flat[row, at[row]] = special
    if len(flat) > 3:
        flat[2] = -np.inf
        flat[3, at[0]] = np.inf  # beside the nan where there are two classes or more
    return reference.from_rows(rows, shape, axis).astype(dtype), axis


@every_function
@every_region
@all_floats
@pytest.mark.parametrize("first", [np.nan, np.inf])
def test_infinities_and_nan(name: str, region: str, dtype: Any, first: float, rng: np.random.Generator) -> None:
    x, axis = with_special_rows(rng, region, dtype, first)
    check(name, x, axis)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("classes", [2, 5, 16, 40, 300])
@pytest.mark.parametrize(("dtype", "least"), [(np.float32, -3e38), (np.float64, -1.5e308)])
def test_a_temperature_that_takes_a_logit_out_of_its_dtype(dtype: Any, least: float, classes: int, axis: int) -> None:
    """Its log-probability is -inf, what the number would be rounded to."""
    x = np.zeros((3, classes), dtype)
    x[1, 1] = least
    got = fastsoftmax.log_softmax(x.T if axis == 0 else x, axis=axis, temperature=0.7)
    got = got.T if axis == 0 else got
    assert np.isneginf(got[1, 1])
    np.testing.assert_array_equal(np.isfinite(got), x == 0)
    np.testing.assert_allclose(got[1, 0], -np.log(classes - 1), rtol=1e-6)


@brief_regions
@floats
@pytest.mark.parametrize("special", [-np.inf, np.inf, np.nan])
def test_rows_of_one_special_value(region: str, dtype: Any, special: float) -> None:
    shape, axis = REGIONS[region]
    x = np.full(shape, special, dtype)
    assert np.isnan(fastsoftmax.softmax(x, axis=axis)).all()
    assert np.isnan(fastsoftmax.log_softmax(x, axis=axis)).all()
    np.testing.assert_array_equal(fastsoftmax.logsumexp(x, axis=axis), special)


@every_function
@every_region
@floats
def test_nan_stays_in_its_row(name: str, region: str, dtype: Any, rng: np.random.Generator) -> None:
    """Wherever it stands, that row is all nan and the others have the same bits as without."""
    x, axis = drawn(rng, region, dtype)
    clean = reference.to_rows(np.asarray(call(name, x, axis)), axis if name in MAPS else ())
    rows, classes = math.prod(x.shape), reference.to_rows(x, axis).shape[-1]
    rows //= classes
    for place in {0, classes // 3, classes - 1}:
        row = place % rows
        spoilt_rows = reference.to_rows(x, axis).copy()
        spoilt_rows.reshape(rows, classes)[row, place] = np.nan
        got = call(name, reference.from_rows(spoilt_rows, x.shape, axis), axis)
        got = reference.to_rows(np.asarray(got), axis if name in MAPS else ()).reshape(rows, -1)
        assert np.isnan(got[row]).all()
        others = np.arange(rows) != row
        np.testing.assert_array_equal(got[others], clean.reshape(rows, -1)[others])


@every_function
@every_region
@all_floats
def test_where(name: str, region: str, dtype: Any, rng: np.random.Generator) -> None:
    """Masked elements are never read: nan and inf beneath the mask change nothing."""
    x, axis = drawn(rng, region, dtype)
    mask = rng.random(x.shape) < 0.6
    x[~mask] = rng.choice([np.nan, np.inf, -np.inf], x.shape).astype(dtype)[~mask]
    got = check(name, x, axis, where=mask)
    if name in MAPS:
        np.testing.assert_array_equal(got[~mask], 0 if name == "softmax" else -np.inf)


@every_function
@brief_regions
@floats
def test_where_meets_special_rows(name: str, region: str, dtype: Any, rng: np.random.Generator) -> None:
    x, axis = with_special_rows(rng, region, dtype)
    check(name, x, axis, where=rng.random(x.shape) < 0.6)


@every_region
@all_floats
def test_where_with_weights(region: str, dtype: Any, rng: np.random.Generator) -> None:
    """A weight that is masked is read no more than its logit."""
    a, axis = drawn(rng, region, dtype)
    b = rng.uniform(0.5, 2, a.shape).astype(dtype)
    mask = rng.random(a.shape) < 0.6
    a[~mask], b[~mask] = np.nan, np.nan
    check("logsumexp", a, axis, b=b, where=mask)
    unmasked = np.full(a.shape, -np.inf, dtype)
    got, sign = fastsoftmax.logsumexp(unmasked, axis, b, return_sign=True, where=mask)
    np.testing.assert_array_equal(got, -np.inf)
    np.testing.assert_array_equal(sign, 0)


@every_region
@all_floats
def test_rows_all_masked(region: str, dtype: Any, rng: np.random.Generator) -> None:
    x, axis = drawn(rng, region, dtype)
    x.flat[0] = np.nan
    for mask in (False, np.zeros(x.shape, bool), np.zeros((1,) * x.ndim, bool)):
        np.testing.assert_array_equal(fastsoftmax.softmax(x, axis=axis, where=mask), 0)
        np.testing.assert_array_equal(fastsoftmax.log_softmax(x, axis=axis, where=mask), -np.inf)
        np.testing.assert_array_equal(fastsoftmax.logsumexp(x, axis=axis, where=mask), -np.inf)


@every_function
@pytest.mark.parametrize("axis", [None, 0, 1, 2, (0, 2), (1, 2)])
@pytest.mark.parametrize("shape", [(4, 5, 21), (5, 21), (21,), (1,), (4, 1, 1), (1, 5, 1), ()])
def test_where_broadcasts(name: str, shape: tuple[int, ...], axis: Axis, rng: np.random.Generator) -> None:
    x = rng.normal(size=(4, 5, 21))
    check(name, x, axis, where=rng.random(shape) < 0.5)
    check(name, x, axis, where=(rng.random(shape) < 0.5).tolist())


@every_function
def test_where_true_is_no_mask(name: str, rng: np.random.Generator) -> None:
    x = rng.normal(size=(7, 33))
    np.testing.assert_array_equal(call(name, x, -1, where=True), call(name, x, -1))


@every_function
@pytest.mark.parametrize("layout", LAYOUTS)
def test_where_in_every_layout(name: str, layout: str, rng: np.random.Generator) -> None:
    x, mask = rng.normal(size=(6, 5, 40)), rng.random((6, 5, 40)) < 0.5
    for axis in (-1, 1, None):
        check(name, x, axis, where=LAYOUTS[layout](mask))


# --- temperature ------------------------------------------------------------------------


@every_map
@brief_regions
@pytest.mark.parametrize("temperature", [0.25, 1, 2, np.float32(0.7), np.int64(3), 1e-3, 1e30])
def test_temperature(name: str, region: str, temperature: Any, rng: np.random.Generator) -> None:
    x, axis = drawn(rng, region, np.float32)
    check(name, x, axis, temperature=temperature)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [2, 3, 40, 1000, 70000])
def test_no_probability_is_above_one(classes: int, dtype: type) -> None:
    """A maximum alone is 1, whatever the rounding of its term: what comes after may take the logarithm of 1 - p."""
    x = np.full((max(50, 200000 // classes), classes), -1000, dtype)
    x[:, 0] = np.random.default_rng(classes).uniform(-30, 30, len(x))
    if classes == 2:
        x[0, 0] = -5.187496185302734
    assert fastsoftmax.softmax(x, axis=-1).max() == 1
    assert fastsoftmax.softmax(np.ascontiguousarray(x.T), axis=0).max() == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [2, 4, 16, 64, 1024])
def test_equal_logits_have_equal_shares(classes: int, dtype: type) -> None:
    values = np.random.default_rng(classes).uniform(-30, 30, (2000, 1)).astype(dtype)
    x = np.repeat(values, classes, axis=1)
    assert (fastsoftmax.softmax(x, axis=-1) == 1 / classes).all()


@pytest.mark.parametrize("classes", [1000, 65537])
def test_an_infinite_gradient_stays_where_the_formula_puts_it(classes: int) -> None:
    g, y = np.zeros((1, classes), np.float32), np.full((1, classes), 1 / classes, np.float32)
    g[0, 0] = np.inf
    got = fastsoftmax.softmax_backward(g, y, axis=-1)[0]
    assert np.isnan(got[0])
    assert np.isneginf(got[1:]).all()
