"""The exact answers, in long double, and the distance of a result from them in its own last place.

Every function computes in x87 extended precision (64 significant bits, 11 more than float64) and
returns long double, so a float64 result can be judged to a few thousandths of an ulp.  Nothing here
shares code or structure with the library: rows are taken one way, plainly, and held whole.

The oracle itself is judged against mpmath in ``test_accuracy.py``.
"""

from __future__ import annotations

import importlib.util
import math
from typing import Any, cast

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Axis = int | tuple[int, ...] | None

LONG = np.longdouble
EXTENDED = np.finfo(LONG).nmant >= 63  # elsewhere (MSVC, Apple silicon) long double is float64

BFLOAT16: np.dtype[Any] | None = None
if importlib.util.find_spec("ml_dtypes"):
    import ml_dtypes

    BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

FULL_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
HALF_DTYPES = (np.dtype(np.float16), *([BFLOAT16] if BFLOAT16 is not None else []))
SMALL_INTEGERS = tuple(np.dtype(c) for c in (np.bool_, np.int8, np.uint8, np.int16, np.uint16))
LARGE_INTEGERS = tuple(np.dtype(c) for c in (np.int32, np.uint32, np.int64, np.uint64))


def result_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """The dtype that the library promises for input of this dtype, always in native byte order."""
    dtype = np.dtype(dtype)
    if dtype in SMALL_INTEGERS or dtype.newbyteorder("=") in SMALL_INTEGERS:
        return np.dtype(np.float32)
    if dtype.kind in "iu":
        return np.dtype(np.float64)
    return dtype if dtype == BFLOAT16 else dtype.newbyteorder("=")


def to_long(x: Any) -> Array:
    """As long double, after the promotion that the library promises (it matters above 2**53)."""
    x = np.asarray(x)
    return x.astype(result_dtype(x.dtype)).astype(LONG)


# --- rows -------------------------------------------------------------------------------


def normalized_axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """The axes of a row as sorted non-negative integers; a 0-d array counts as a row of one."""
    if axis is None:
        return tuple(range(ndim))
    if ndim == 0:
        return ()
    axes = axis if isinstance(axis, tuple) else (axis,)
    return tuple(sorted(a % ndim for a in axes))


def to_rows(x: Array, axis: Axis) -> Array:
    """The class axes moved last and joined into one, contiguous, so that NumPy sums it pairwise."""
    axes = normalized_axes(axis, x.ndim)
    kept = [a for a in range(x.ndim) if a not in axes]
    classes = math.prod(x.shape[a] for a in axes)
    moved = x.transpose(*kept, *axes)
    return np.ascontiguousarray(moved).reshape([x.shape[a] for a in kept] + [classes])


def from_rows(rows: Array, shape: tuple[int, ...], axis: Axis) -> Array:
    """The inverse of `to_rows` for an array of this shape."""
    axes = normalized_axes(axis, len(shape))
    order = [a for a in range(len(shape)) if a not in axes] + list(axes)
    return rows.reshape([shape[a] for a in order]).transpose(np.argsort(order))


def reduced_shape(shape: tuple[int, ...], axis: Axis, keepdims: bool) -> tuple[int, ...]:
    """The shape that a reduction over `axis` leaves."""
    axes = normalized_axes(axis, len(shape))
    if keepdims:
        return tuple(1 if a in axes else n for a, n in enumerate(shape))
    return tuple(n for a, n in enumerate(shape) if a not in axes)


# --- error-free arithmetic: what a single long double operation would round away --------


def two_difference(a: Array, b: Array) -> tuple[Array, Array]:
    """``a - b`` and its rounding error (Knuth, TAOCP 2, 4.2.2, theorem B)."""
    d = a - b
    t = d - a
    return d, (a - (d - t)) - (b + t)


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """``a * b`` and its rounding error (Dekker 1971, with Veltkamp's splitting of 64 bits)."""
    splitter = LONG(2**32 + 1)

    def split(v: Array) -> tuple[Array, Array]:
        t = splitter * v
        high = t - (t - v)
        return high, v - high

    p = a * b
    (ah, al), (bh, bl) = split(a), split(b)
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def _scaled_distance(x: Array, peak: Array, temperature: float) -> tuple[Array, Array]:
    """``(x - peak) / temperature`` as a sum of two: one rounding is |distance|/2 ulp of exp."""
    t = np.asarray(temperature, LONG)
    distance, low = two_difference(x, peak)
    quotient = distance / t
    product, product_low = two_product(quotient, t)
    rest = ((distance - product) - product_low + low) / t
    return quotient, np.where(np.isfinite(rest), rest, 0)


# --- softmax and log_softmax ------------------------------------------------------------


def _probabilities(x: Any, axis: Axis, where: Any, temperature: float) -> tuple[Array, Array, Array, Array, Array]:
    """Rows of x, of the mask, of distances to the peak, of their exponentials; the sum less one."""
    x = to_long(x)
    mask = np.broadcast_to(True if where is None else np.asarray(where), x.shape)
    x, mask = to_rows(x, axis), to_rows(mask, axis)
    x = np.where(mask, x, -np.inf)
    peak = x.max(axis=-1, keepdims=True, initial=-np.inf)
    shift = np.where(np.isfinite(peak), peak, 0)
    high, low = _scaled_distance(x, shift, temperature)
    e = np.exp(high) * (1 + low)
    others = e.copy()
    if x.shape[-1]:  # the largest term is exactly 1: kept out, it does not round the others away
        np.put_along_axis(others, x.argmax(axis=-1, keepdims=True), 0, axis=-1)
    return x, mask, high + low, e, others.sum(axis=-1, keepdims=True)


def softmax(x: Any, axis: Axis = None, *, where: Any = None, temperature: float = 1.0) -> Array:
    """exp(x/T) / sum(exp(x/T)); nan for a row with nan, +inf or only -inf; 0 where masked."""
    with np.errstate(all="ignore"):
        rows, mask, _, e, rest = _probabilities(x, axis, where, temperature)
        y = e / (1 + rest)
    peak = rows.max(axis=-1, keepdims=True, initial=-np.inf)
    y = np.where(np.isfinite(peak), y, np.nan)
    return from_rows(np.where(mask, y, 0), np.shape(x), axis)


def log_softmax(x: Any, axis: Axis = None, *, where: Any = None, temperature: float = 1.0) -> Array:
    """x/T - log(sum(exp(x/T))); in a row with +inf, nan there and -inf elsewhere, as SciPy."""
    with np.errstate(all="ignore"):
        rows, mask, distance, _, rest = _probabilities(x, axis, where, temperature)
        y = distance - np.log1p(rest)
    peak = rows.max(axis=-1, keepdims=True, initial=-np.inf)
    beside_inf = np.where(rows == np.inf, np.nan, -np.inf)
    y = np.where(np.isfinite(peak), y, np.where(peak == np.inf, beside_inf, np.nan))
    return from_rows(np.where(mask, y, -np.inf), np.shape(x), axis)


# --- logsumexp --------------------------------------------------------------------------


def signed_logsumexp(
    a: Any, axis: Axis = None, b: Any = None, keepdims: bool = False, *, where: Any = None
) -> tuple[Array, Array]:
    """log|sum(b * exp(a))| and the sign of the sum; a term masked or with b == 0 adds nothing."""
    a, b = np.broadcast_arrays(to_long(a), LONG(1) if b is None else to_long(b))
    shape = a.shape
    mask = np.broadcast_to(True if where is None else np.asarray(where), shape)
    a, b, mask = to_rows(a, axis), to_rows(b, axis), to_rows(mask, axis)
    counted = mask & (b != 0)
    a, b = np.where(counted, a, -np.inf), np.where(counted, b, 1)

    with np.errstate(all="ignore"):
        value, sign = _finite_logsumexp(a, b)
        # Terms that are infinite or nan decide alone, by the rules of b * exp(a) and of a sum.
        term = np.where(a == -np.inf, b * 0, np.copysign(np.inf, b))
        term = np.where(np.isnan(a) | np.isnan(b), np.nan, term)
        decisive = counted & ~(np.isfinite(b) & (np.isfinite(a) | (a == -np.inf)))
        total = np.where(decisive, term, 0).sum(axis=-1)
        decided = decisive.any(axis=-1)
        value = np.where(decided, np.abs(total), value)
        sign = np.where(decided, np.sign(total), sign)
    result = reduced_shape(shape, axis, keepdims)
    return value.reshape(result), sign.reshape(result)


def _finite_logsumexp(a: Array, b: Array) -> tuple[Array, Array]:
    """For rows without nan and +inf: pull the largest term out, add log1p of the rest over it."""
    if a.shape[-1] == 0:
        return np.full(a.shape[:-1], -np.inf, LONG), np.zeros(a.shape[:-1], LONG)
    log_b = np.log(np.abs(b))
    size = a + log_b
    pivot = size.argmax(axis=-1, keepdims=True)
    a_pivot, b_pivot, log_b_pivot = (np.take_along_axis(v, pivot, -1) for v in (a, b, log_b))
    distance, low = two_difference(a, np.where(np.isfinite(a_pivot), a_pivot, 0))
    ratio = np.exp(distance) * (1 + np.where(np.isfinite(low), low, 0)) * (b / b_pivot)
    np.put_along_axis(ratio, pivot, 0, axis=-1)
    rest = ratio.sum(axis=-1)
    sum_over_pivot = 1 + rest
    # 1 + rest is exact for rest in [-2, -1/2] (Sterbenz), so the log keeps its digits below -1.
    log_sum = np.where(rest > -1, np.log1p(rest), np.log(np.abs(sum_over_pivot)))
    value = (a_pivot + log_b_pivot)[..., 0] + log_sum
    empty = (a_pivot == -np.inf)[..., 0]
    sign = np.where(empty, 0, np.sign(sum_over_pivot) * np.sign(b_pivot[..., 0]))
    return np.where(empty, -np.inf, value), sign


def logsumexp(a: Any, axis: Axis = None, b: Any = None, keepdims: bool = False, *, where: Any = None) -> Array:
    """log(sum(b * exp(a))), nan where the sum is negative."""
    value, sign = signed_logsumexp(a, axis, b, keepdims, where=where)
    return np.where(sign < 0, np.nan, value)


# --- backward ---------------------------------------------------------------------------


def softmax_backward(grad_output: Any, output: Any, axis: Axis = None) -> Array:
    """y * (g - sum(g * y)), with y the rounded output that was handed in."""
    g, y = to_rows(to_long(grad_output), axis), to_rows(to_long(output), axis)
    return from_rows(y * (g - (g * y).sum(axis=-1, keepdims=True)), np.shape(output), axis)


def log_softmax_backward(grad_output: Any, output: Any, axis: Axis = None) -> Array:
    """g - exp(y) * sum(g), with y the rounded output that was handed in."""
    g, y = to_rows(to_long(grad_output), axis), to_rows(to_long(output), axis)
    return from_rows(g - np.exp(y) * g.sum(axis=-1, keepdims=True), np.shape(output), axis)


# --- units in the last place ------------------------------------------------------------


def _format(dtype: np.dtype[Any]) -> tuple[int, int, Any]:
    """Stored significand bits, exponent of the smallest normal number, largest number."""
    if dtype == BFLOAT16:
        return 7, -126, LONG(2) ** 128 - LONG(2) ** 120
    info = np.finfo(dtype)
    return info.nmant, int(info.minexp), info.max.astype(LONG)


def spacing(exact: Any, dtype: npt.DTypeLike) -> Array:
    """The distance to the next number of `dtype` above ``|exact|`` rounded to it."""
    bits, smallest, largest = _format(np.dtype(dtype))
    magnitude = np.minimum(np.abs(np.asarray(exact, LONG)), largest)
    exponent = np.frexp(magnitude)[1] - 1
    rounds_up = np.rint(np.ldexp(magnitude, bits - exponent)) >= LONG(2) ** (bits + 1)
    exponent = np.maximum(np.where(magnitude > 0, exponent + rounds_up, smallest), smallest)
    return cast(Array, np.ldexp(LONG(1), exponent - bits))


def ulp_error(got: Any, exact: Any, *, floor: float = 0.0) -> Array:
    """|got - exact| in spacings of `got`'s dtype at ``max(|exact|, floor)``.

    nan for nan and infinity for the same infinity count 0, and so does infinity for an exact value
    that rounds to it; every other mismatch of specials counts infinity.
    """
    got, exact = np.asarray(got), np.asarray(exact, LONG)
    if got.shape != exact.shape:
        raise AssertionError(f"the result has shape {got.shape}, the exact one {exact.shape}")
    largest = _format(got.dtype)[2]
    value = got.astype(LONG)
    unit = spacing(np.fmax(np.abs(exact), floor), got.dtype)
    with np.errstate(all="ignore"):
        error = np.abs(value - exact) / unit
        overflows = np.abs(exact) >= largest + spacing(largest, got.dtype) / 2
    same_infinity = np.isinf(value) & overflows & (np.signbit(value) == np.signbit(exact))
    equal = (value == exact) | (np.isnan(value) & np.isnan(exact)) | same_infinity
    return np.where(equal, 0, np.where(np.isnan(error), np.inf, error))


def assert_ulp(got: Any, exact: Any, bound: float, *, floor: float = 0.0) -> None:
    """Fail, naming the worst element, when `got` is farther than `bound` ulp from `exact`."""
    error = ulp_error(got, exact, floor=floor)
    if error.size and not error.max() <= bound:
        at = np.unravel_index(int(error.argmax()), error.shape)
        value, best = np.asarray(got)[at], np.asarray(exact)[at]
        place = tuple(int(i) for i in at)
        count = int((error > bound).sum())
        raise AssertionError(
            f"{float(error[at]):.3f} ulp at {place}: {value!r} for {best!r} (bound {bound}); "
            f"{count} of {error.size} beyond it"
        )


def assert_same(got: Any, expected: Any) -> None:
    """Fail unless shape, dtype and every number are the same, the sign of zero too; nan is nan.

    (NumPy's own assertion does not know that the nan of bfloat16 is one.)
    """
    got, expected = np.asarray(got), np.asarray(expected)
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    one, other = got.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_array_equal(one, other)
    numbers = ~np.isnan(one)
    np.testing.assert_array_equal(np.signbit(one[numbers]), np.signbit(other[numbers]))
