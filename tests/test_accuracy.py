"""The promise of accuracy, in units in the last place of the exact result, over a registry."""

from __future__ import annotations

import importlib.resources
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mpmath
import numpy as np
import pytest
import reference
from conftest import SEED
from reference import BFLOAT16, EXTENDED, Array, Axis, assert_ulp
from strategies import REGIONS

import fastsoftmax

SOFTMAX_ULP = 3.0
LOG_SOFTMAX_ULP = 3.0
LOGSUMEXP_ULP = 2.0
HALF_ULP = 1.0
# Where a log-sum-exp cancels to nearly zero, float64 is judged in the ulp of this number instead:
# two terms near 1 leave a rounding of 2**-53 behind whatever the algorithm, short of double-double.
# float32 has float64 beneath it and gets no such allowance.
LOGSUMEXP_FLOOR = {np.dtype(np.float32): 2.0**-30, np.dtype(np.float64): 0.5}

Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]


@dataclass(frozen=True)
class Case:
    """Logits of one kind: how to draw them, in which shape, and the axis of the classes."""

    draw: Draw
    shape: tuple[int, ...]
    axis: Axis = -1


def normal(deviation: float, offset: float = 0.0) -> Draw:
    return lambda rng, shape: rng.normal(offset, deviation, shape)


def confident(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """One logit 40 above the rest of its row: its log-probability is all in the other terms."""
    x = rng.normal(0, 1, shape)
    top = rng.integers(0, shape[-1], (*shape[:-1], 1))
    np.put_along_axis(x, top, x.max(axis=-1, keepdims=True) + 40, axis=-1)
    return x


def ascending(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """A new maximum at every element: each step of an online sum rescales."""
    return np.sort(rng.normal(0, 10, shape), axis=-1)


def descending(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return -ascending(rng, shape)


def equal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(rng.normal(0, 3, (*shape[:-1], 1)), shape).copy()


def real(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """The logits of a language model that the package ships."""
    for file in sorted(importlib.resources.files(fastsoftmax).joinpath("data").iterdir(), key=str):
        if file.name.endswith(".npz"):
            with np.load(io.BytesIO(file.read_bytes())) as archive:
                return archive["logits"][: shape[0]].astype(np.float64)
    raise FileNotFoundError("fastsoftmax/data holds no .npz with logits")


CASES: dict[str, Case] = {
    "normal-3": Case(normal(3), (64, 1000)),
    "normal-20": Case(normal(20), (64, 1000)),
    "offset+1000": Case(normal(3, 1000), (64, 1000)),
    "offset-30000": Case(normal(3, -30000), (64, 1000)),
    "offset+1000-wide": Case(normal(20, 1000), (64, 1000)),
    "2-classes": Case(normal(3), (20000, 2)),
    "2-classes-wide": Case(normal(20), (20000, 2)),
    "2-classes-offset": Case(normal(3, 1000), (20000, 2)),
    "10-classes": Case(normal(3), (6000, 10)),
    "10-classes-wide": Case(normal(20), (6000, 10)),
    "17-classes": Case(normal(3), (3000, 17)),
    "64-classes": Case(normal(3), (1000, 64)),
    "100-classes": Case(normal(3), (700, 100)),
    "100-classes-wide": Case(normal(20), (700, 100)),
    "127-classes-wide": Case(normal(20), (10000, 127)),
    "32000-classes": Case(normal(3), (3, 32000)),
    "65536-classes": Case(normal(3), (2, 65536)),
    "65537-classes": Case(normal(3), (2, 65537)),
    "131072-classes": Case(normal(3), (1, 131072)),
    "131072-classes-wide": Case(normal(20), (1, 131072)),
    "1000003-classes": Case(normal(3), (1, 1000003)),
    "1000003-classes-wide": Case(normal(20), (1, 1000003)),
    "confident-10": Case(confident, (2000, 10)),
    "confident-1000": Case(confident, (64, 1000)),
    "confident-131072": Case(confident, (1, 131072)),
    "ascending-16": Case(ascending, (1000, 16)),
    "ascending-1000": Case(ascending, (64, 1000)),
    "ascending-131072": Case(ascending, (1, 131072)),
    "descending-131072": Case(descending, (1, 131072)),
    "equal-10": Case(equal, (1000, 10)),
    "equal-1000": Case(equal, (64, 1000)),
    "equal-131072": Case(equal, (1, 131072)),
    "strided-axis": Case(normal(3), (500, 130), 0),
    "strided-axis-wide": Case(normal(20), (3, 500, 47), 1),
    "strided-axis-offset": Case(normal(3, 1000), (500, 130), 0),
    "strided-axis-long": Case(normal(3), (70000, 2), 0),
    "strided-axis-2-classes": Case(normal(3), (2, 20000), 0),
    "strided-axis-ascending": Case(lambda rng, shape: ascending(rng, shape[::-1]).T, (500, 130), 0),
    "real-logits": Case(real, (2, 0)),
} | {f"region-{name}": Case(normal(5), *region) for name, region in REGIONS.items()}

HALF_CASES = [name for name in CASES if not name.startswith("1000003")]
TEMPERATURE_CASES = [
    "normal-3",
    "normal-20",
    "offset+1000",
    "offset-30000",
    "2-classes",
    "10-classes-wide",
    "100-classes",
    "131072-classes",
    "confident-1000",
    "strided-axis",
    "strided-axis-offset",
]

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
temperatures = pytest.mark.parametrize("temperature", [0.7, 3.0])


@lru_cache(maxsize=2)
def logits(name: str, dtype: np.dtype[Any]) -> Array:
    case = CASES[name]
    return case.draw(np.random.default_rng(SEED), case.shape).astype(dtype)


@full
@pytest.mark.parametrize("name", CASES)
def test_softmax(name: str, dtype: np.dtype[Any]) -> None:
    x, axis = logits(name, dtype), CASES[name].axis
    assert_ulp(fastsoftmax.softmax(x, axis=axis), reference.softmax(x, axis), SOFTMAX_ULP)


@full
@pytest.mark.parametrize("name", CASES)
def test_log_softmax(name: str, dtype: np.dtype[Any]) -> None:
    x, axis = logits(name, dtype), CASES[name].axis
    exact = reference.log_softmax(x, axis)
    assert_ulp(fastsoftmax.log_softmax(x, axis=axis), exact, LOG_SOFTMAX_ULP)


@full
@pytest.mark.parametrize("name", CASES)
def test_logsumexp(name: str, dtype: np.dtype[Any]) -> None:
    x, axis = logits(name, dtype), CASES[name].axis
    got, exact = fastsoftmax.logsumexp(x, axis=axis), reference.logsumexp(x, axis)
    assert_ulp(got, exact, LOGSUMEXP_ULP, floor=LOGSUMEXP_FLOOR[dtype])


@full
@pytest.mark.parametrize("name", CASES)
def test_logsumexp_of_normalized_rows(name: str, dtype: np.dtype[Any]) -> None:
    """Log-probabilities in: the exact result is what their rounding left, nearly zero."""
    axis = CASES[name].axis
    x = reference.log_softmax(logits(name, dtype), axis).astype(dtype)
    exact = reference.logsumexp(x, axis)
    assert np.abs(exact).max() < 1e-5
    got = fastsoftmax.logsumexp(x, axis=axis)
    assert_ulp(got, exact, LOGSUMEXP_ULP, floor=LOGSUMEXP_FLOOR[dtype])


@full
@temperatures
@pytest.mark.parametrize("name", TEMPERATURE_CASES)
def test_temperature(name: str, temperature: float, dtype: np.dtype[Any]) -> None:
    x, axis = logits(name, dtype), CASES[name].axis
    exact = reference.softmax(x, axis, temperature=temperature)
    assert_ulp(fastsoftmax.softmax(x, axis=axis, temperature=temperature), exact, SOFTMAX_ULP)
    exact = reference.log_softmax(x, axis, temperature=temperature)
    got = fastsoftmax.log_softmax(x, axis=axis, temperature=temperature)
    assert_ulp(got, exact, LOG_SOFTMAX_ULP)


@full
@pytest.mark.parametrize("name", TEMPERATURE_CASES)
def test_where(name: str, dtype: np.dtype[Any]) -> None:
    x, axis = logits(name, dtype), CASES[name].axis
    mask = np.random.default_rng(SEED).random(x.shape) < 0.7
    got = fastsoftmax.softmax(x, axis=axis, where=mask)
    assert_ulp(got, reference.softmax(x, axis, where=mask), SOFTMAX_ULP)
    got = fastsoftmax.log_softmax(x, axis=axis, where=mask)
    assert_ulp(got, reference.log_softmax(x, axis, where=mask), LOG_SOFTMAX_ULP)
    got = fastsoftmax.logsumexp(x, axis=axis, where=mask)
    exact = reference.logsumexp(x, axis, where=mask)
    assert_ulp(got, exact, LOGSUMEXP_ULP, floor=LOGSUMEXP_FLOOR[dtype])


@half
@pytest.mark.parametrize("name", HALF_CASES)
def test_half(name: str, dtype: np.dtype[Any]) -> None:
    """Within one step of the format: one rounding from an exact enough float32."""
    x, axis = logits(name, dtype), CASES[name].axis
    for function in ("softmax", "log_softmax", "logsumexp"):
        got = getattr(fastsoftmax, function)(x, axis=axis)
        assert got.dtype == dtype
        assert_ulp(got, getattr(reference, function)(x, axis), HALF_ULP)


@half
@temperatures
@pytest.mark.parametrize("name", TEMPERATURE_CASES)
def test_half_temperature(name: str, temperature: float, dtype: np.dtype[Any]) -> None:
    x, axis = logits(name, dtype), CASES[name].axis
    for function in ("softmax", "log_softmax"):
        got = getattr(fastsoftmax, function)(x, axis=axis, temperature=temperature)
        exact = getattr(reference, function)(x, axis, temperature=temperature)
        assert_ulp(got, exact, HALF_ULP)


def test_half_logsumexp_does_not_overflow_inside() -> None:
    """4096 terms of exp(65504) are far beyond float32, yet the result rounds to 65504."""
    x = np.full((3, 4096), 65504, np.float16)
    np.testing.assert_array_equal(fastsoftmax.logsumexp(x, axis=-1), np.full(3, 65504, np.float16))
    np.testing.assert_array_equal(fastsoftmax.softmax(x, axis=-1), np.full_like(x, 1 / 4096), strict=True)


@full
@pytest.mark.parametrize("classes", [10, 1000, 70000])
def test_the_ends_of_the_range(classes: int, dtype: np.dtype[Any]) -> None:
    """Logits as large as the dtype goes, where a difference of two of them overflows."""
    largest = np.finfo(dtype).max
    rng = np.random.default_rng(SEED)
    x = rng.choice([-largest, -largest / 2, 0, 1, largest / 2], (2, classes)).astype(dtype)
    x[0, 1], x[1, -1] = largest, largest
    got, exact = fastsoftmax.softmax(x, axis=-1), reference.softmax(x, -1)
    assert_ulp(got, exact, SOFTMAX_ULP)
    assert_ulp(fastsoftmax.log_softmax(x, axis=-1), reference.log_softmax(x, -1), LOG_SOFTMAX_ULP)
    assert_ulp(fastsoftmax.logsumexp(x, axis=-1), reference.logsumexp(x, -1), LOGSUMEXP_ULP)


# --- the oracle itself ------------------------------------------------------------------


def _spot_rows() -> list[Array]:
    rng = np.random.default_rng(SEED)
    offset = rng.normal(-30000, 20, 50)
    near_zero = reference.log_softmax(rng.normal(0, 5, 40)).astype(np.float64)
    spread = np.concatenate([rng.normal(0, 300, 20), [1e-300, 5e-324, 705.123456789]])
    return [rng.normal(0, 20, 33), offset, near_zero, spread, np.array([40.0, 0.1, -0.3])]


def _exact_enough(got: Array, exact: list[Any], absolute: float = 0.0) -> None:
    """Within 2**-60 of mpmath's 60 digits: 1/128 ulp of float64."""
    for value, true in zip(got.ravel(), exact, strict=True):
        significand, exponent = np.frexp(value)
        whole = mpmath.mpf(int(np.ldexp(significand, 64)))
        error = abs(mpmath.ldexp(whole, int(exponent) - 64) - true)
        assert error <= 2.0**-60 * max(abs(true), absolute)


@pytest.mark.skipif(not EXTENDED, reason="long double is float64 on this platform")
@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
@pytest.mark.parametrize("row", range(len(_spot_rows())))
def test_oracle_against_mpmath(row: int, temperature: float) -> None:
    x = _spot_rows()[row]
    with mpmath.workdps(60):
        scaled = [mpmath.mpf(float(v)) / mpmath.mpf(temperature) for v in x]
        total = mpmath.fsum(mpmath.exp(v) for v in scaled)
        lse = mpmath.log(total)
        got = reference.softmax(x, temperature=temperature)
        _exact_enough(got, [mpmath.exp(v) / total for v in scaled])
        top = max(range(len(x)), key=lambda i: x[i])
        rest = mpmath.fsum(mpmath.exp(v - scaled[top]) for i, v in enumerate(scaled) if i != top)
        got = reference.log_softmax(x, temperature=temperature)
        _exact_enough(got, [v - scaled[top] - mpmath.log1p(rest) for v in scaled])
        if temperature == 1:
            _exact_enough(reference.logsumexp(x), [lse], absolute=1.0)


@pytest.mark.skipif(not EXTENDED, reason="long double is float64 on this platform")
def test_signed_oracle_against_mpmath(rng: np.random.Generator) -> None:
    for _ in range(50):
        a, b = rng.normal(0, 3, 12), rng.normal(0, 1, 12)
        with mpmath.workdps(60):
            terms = [mpmath.mpf(float(w)) * mpmath.exp(float(v)) for v, w in zip(a, b, strict=True)]
            total = mpmath.fsum(terms)
            condition = mpmath.fsum(abs(t) for t in terms) / abs(total)
            value, sign = reference.signed_logsumexp(a, b=b)
            assert float(sign) == math.copysign(1, total)
            _exact_enough(value, [mpmath.log(abs(total))], absolute=float(4 * condition))


def test_ulp_error_measures_what_it_says() -> None:
    for dtype in (*reference.FULL_DTYPES, np.dtype(np.float16)):
        info = np.finfo(dtype)
        tiny = [info.smallest_subnormal, info.smallest_normal, 3 * info.smallest_normal]
        x = np.array([*tiny, 0.3, 1, 1.5, 2, 1000], dtype)
        np.testing.assert_array_equal(reference.spacing(x, dtype), np.spacing(x))
        np.testing.assert_array_equal(reference.ulp_error(np.nextafter(x, dtype.type(0)), x) > 0, True)
        np.testing.assert_array_equal(reference.ulp_error(np.nextafter(x, dtype.type(np.inf)), x), np.ones(x.shape))
    got = np.array([np.inf, np.inf, np.nan, np.nan, 1, -np.inf, 0], np.float16)
    exact = np.array([65520, 65519, np.nan, 1, np.nan, np.inf, 0], reference.LONG)
    expected = [0, np.inf, 0, np.inf, np.inf, np.inf, 0]
    np.testing.assert_array_equal(reference.ulp_error(got, exact), expected)
    with pytest.raises(AssertionError, match=r"1\.000 ulp at \(0,\)"):
        assert_ulp(np.array([np.nextafter(np.float32(1), np.float32(2))]), np.array([1.0]), 0.5)
