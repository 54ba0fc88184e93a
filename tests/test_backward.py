"""The gradients: against long double, finite differences and PyTorch.

The bound.  The kernels round each product, add four of them in the dtype, and from there on keep
the sum better than that (float32 in float64, float64 with its rounding errors) until it is rounded
to the dtype: with u the unit roundoff and S the sum of the magnitudes, an error of at most 4 u S
however long the row.  The subtraction and the product at the end round once each, exp by an ulp,
2 u.  To first order, and with R = 8 for what the second order adds,

    softmax:      dx_i = y_i (g_i - s), s = sum(g y):       |error| <= R u |y_i| (|g_i| + sum|g y|)
    log_softmax:  dx_i = g_i - p_i s, p = exp(y), s = sum(g): |error| <= R u (|g_i| + p_i sum|g|)

R u is 5e-7 in float32 and 9e-16 in float64.  It is an element's own bound: a small y_i must have a
small error.  A result below the normal range adds a step of its own, half types add one of theirs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from reference import BFLOAT16, LONG, Array, Axis
from strategies import BRIEF_REGIONS, LAYOUTS, REGIONS, WRITABLE_LAYOUTS, Guarded

import fastsoftmax

FORWARD = {"softmax_backward": "softmax", "log_softmax_backward": "log_softmax"}
ROUNDINGS = 8

every_function = pytest.mark.parametrize("name", FORWARD)
every_region = pytest.mark.parametrize("region", REGIONS)
brief_regions = pytest.mark.parametrize("region", BRIEF_REGIONS)
floats = pytest.mark.parametrize("dtype", [np.float32, np.float64])
all_floats = pytest.mark.parametrize(
    "dtype",
    [
        np.float32,
        np.float64,
        np.float16,
        pytest.param(
            BFLOAT16,
            id="bfloat16",
            marks=pytest.mark.skipif(BFLOAT16 is None, reason="ml_dtypes is not installed"),
        ),
    ],
)


def allowed(name: str, g: Array, y: Array, axis: Axis, exact: Array) -> Array:
    """The bound of the module's docstring, element by element."""
    computed = np.dtype(np.float32) if g.dtype.itemsize == 2 else g.dtype
    unit = LONG(np.finfo(computed).eps) / 2
    wide_g, wide_y = np.abs(reference.to_long(g)), reference.to_long(y)
    axes = reference.normalized_axes(axis, g.ndim)
    if name == "softmax_backward":
        scale = np.abs(wide_y) * (wide_g + (wide_g * np.abs(wide_y)).sum(axes, keepdims=True))
    else:
        scale = wide_g + np.exp(wide_y) * wide_g.sum(axes, keepdims=True)
    last_step = reference.spacing(exact if computed != g.dtype else 0.0, g.dtype)
    return ROUNDINGS * unit * scale + last_step


def check(name: str, g: Array, y: Array, axis: Axis = None, **options: Any) -> Array:
    exact = getattr(reference, name)(g, y, axis)
    limit = allowed(name, g, y, axis, exact)
    got: Array = getattr(fastsoftmax, name)(g, y, axis=axis, **options)
    assert got.dtype == reference.result_dtype(g.dtype)
    assert got.shape == y.shape
    error = np.abs(got.astype(LONG) - exact)
    excess = np.where(error <= limit, 0, error / limit)
    assert not excess.any(), f"{float(excess.max()):.2f} times the bound, {(excess > 0).sum()} places"
    return got


def pair(name: str, rng: np.random.Generator, shape: tuple[int, ...], axis: Axis, dtype: Any) -> tuple[Array, Array]:
    """A gradient, and an output rounded from the exact one: no kernel at work but the tested."""
    y = getattr(reference, FORWARD[name])(rng.normal(0, 3, shape), axis).astype(dtype)
    return rng.normal(0, 1, shape).astype(dtype), y


@every_function
@every_region
@all_floats
def test_formula(name: str, region: str, dtype: Any, rng: np.random.Generator) -> None:
    shape, axis = REGIONS[region]
    check(name, *pair(name, rng, shape, axis, dtype), axis)


@every_function
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -2, (0, 1), (2, 0), (0, 1, 2)])
def test_axes(name: str, axis: Axis, rng: np.random.Generator) -> None:
    check(name, *pair(name, rng, (5, 6, 7), axis, np.float64), axis)


@every_function
@floats
def test_gradient_of_one_sign_does_not_drift(name: str, dtype: Any) -> None:
    """Equal terms round the same way each time: the worst a sum can meet."""
    for classes in (10, 1000, 70000):
        y = getattr(reference, FORWARD[name])(np.zeros((2, classes)), -1).astype(dtype)
        check(name, np.full((2, classes), 0.1, dtype), y, -1)


@every_function
@floats
@pytest.mark.parametrize(("shape", "axis"), [((3, 9), -1), ((9, 3), 0), ((4, 3, 5), (0, 2)), ((70,), None)])
def test_finite_differences(
    name: str, shape: tuple[int, ...], axis: Axis, dtype: Any, rng: np.random.Generator
) -> None:
    """Of the exact forward pass in long double: a central step of 1e-5 is off by about 1e-10."""
    forward, step = getattr(reference, FORWARD[name]), LONG("1e-5")
    x = rng.normal(0, 1, shape).astype(dtype).astype(LONG)
    g = rng.normal(0, 1, shape).astype(dtype)

    def loss(point: Array) -> Any:
        return (g * forward(point, axis)).sum()

    slope = np.empty(shape, LONG)
    for at in np.ndindex(shape):
        bump = np.zeros(shape, LONG)
        bump[at] = step
        slope[at] = (loss(x + bump) - loss(x - bump)) / (2 * step)
    y = forward(x, axis).astype(dtype)
    got = getattr(fastsoftmax, name)(g, y, axis=axis)
    # The output handed in is rounded: sum|g| eps of the dtype on top of the 1e-9 of the step.
    tolerance = 1e-9 + 4 * float(np.abs(g).sum()) * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(got, slope.astype(np.float64), rtol=0, atol=tolerance)


@every_function
@pytest.mark.parametrize(("shape", "dim"), [((64, 10), 1), ((7, 1000), 1), ((40, 30), 0), ((3, 5, 40), 1)])
def test_torch_autograd(name: str, shape: tuple[int, ...], dim: int, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor(rng.normal(0, 3, shape), requires_grad=True)
    g = rng.normal(0, 1, shape)
    y = getattr(torch, FORWARD[name])(x, dim=dim)
    y.backward(torch.from_numpy(g))
    got = getattr(fastsoftmax, name)(g, y.detach().numpy(), axis=dim)
    np.testing.assert_allclose(got, x.grad.numpy(), rtol=1e-12, atol=1e-14 * np.abs(g).sum())


@every_function
@brief_regions
@all_floats
@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
def test_in_place_of_the_gradient(name: str, region: str, dtype: Any, layout: str, rng: np.random.Generator) -> None:
    shape, axis = REGIONS[region]
    g, y = pair(name, rng, shape, axis, dtype)
    function = getattr(fastsoftmax, name)
    expected = function(g, y, axis=axis)
    laid, before = LAYOUTS[layout](g), y.copy()
    assert function(laid, y, axis=axis, out=laid) is laid
    np.testing.assert_array_equal(laid, expected)
    np.testing.assert_array_equal(y, before)


@every_function
@brief_regions
@floats
def test_in_place_of_the_output(name: str, region: str, dtype: Any, rng: np.random.Generator) -> None:
    shape, axis = REGIONS[region]
    g, y = pair(name, rng, shape, axis, dtype)
    function = getattr(fastsoftmax, name)
    expected = function(g, y, axis=axis)
    assert function(g, y, axis=axis, out=y) is y
    np.testing.assert_array_equal(y, expected)


@every_function
@brief_regions
@all_floats
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(name: str, region: str, dtype: Any, layout: str, rng: np.random.Generator) -> None:
    """Of either input alone and of both: the same bits."""
    shape, axis = REGIONS[region]
    g, y = pair(name, rng, shape, axis, dtype)
    function = getattr(fastsoftmax, name)
    expected = function(g, y, axis=axis)
    lay = LAYOUTS[layout]
    for one, other in ((lay(g), y), (g, lay(y)), (lay(g), lay(y))):
        np.testing.assert_array_equal(function(one, other, axis=axis), expected)


@every_function
@brief_regions
@floats
def test_out(name: str, region: str, dtype: Any, rng: np.random.Generator) -> None:
    shape, axis = REGIONS[region]
    g, y = pair(name, rng, shape, axis, dtype)
    function = getattr(fastsoftmax, name)
    for gap in (1, 2):
        guarded = Guarded.make(shape, dtype, gap=gap)
        assert function(g, y, axis=axis, out=guarded.array) is guarded.array
        np.testing.assert_array_equal(guarded.array, function(g, y, axis=axis))
        assert guarded.surroundings_untouched()


@every_function
@brief_regions
def test_broadcast_gradient(name: str, region: str, rng: np.random.Generator) -> None:
    """The gradient of a sum comes as a broadcast 1."""
    shape, axis = REGIONS[region]
    _, y = pair(name, rng, shape, axis, np.float64)
    check(name, np.broadcast_to(np.float64(1), shape), y, axis)


@every_function
@floats
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
def test_empty(name: str, shape: tuple[int, ...], dtype: Any) -> None:
    empty = np.empty(shape, dtype)
    for axis in (None, *range(-len(shape), len(shape))):
        got = getattr(fastsoftmax, name)(empty, empty, axis=axis)
        assert got.shape == shape
        assert got.dtype == dtype


@every_function
@floats
def test_zero_dimensions(name: str, dtype: Any) -> None:
    """One class: its probability is 1 whatever the logit, so no gradient passes."""
    y = np.array(1 if name == "softmax_backward" else 0, dtype)
    got = getattr(fastsoftmax, name)(np.array(2.5, dtype), y)
    assert np.shape(got) == ()
    assert got == 0


@every_function
@brief_regions
@floats
def test_nan_stays_in_its_row(name: str, region: str, dtype: Any, rng: np.random.Generator) -> None:
    shape, axis = REGIONS[region]
    g, y = pair(name, rng, shape, axis, dtype)
    clean = reference.to_rows(getattr(fastsoftmax, name)(g, y, axis=axis), axis)
    rows = reference.to_rows(g, axis)
    spoilt = rows.copy().reshape(-1, rows.shape[-1])
    spoilt[0, rows.shape[-1] // 2] = np.nan
    g = reference.from_rows(spoilt.reshape(rows.shape), shape, axis)
    got = reference.to_rows(getattr(fastsoftmax, name)(g, y, axis=axis), axis)
    got, clean = got.reshape(spoilt.shape), clean.reshape(spoilt.shape)
    assert np.isnan(got[0]).all()
    np.testing.assert_array_equal(got[1:], clean[1:])


@brief_regions
def test_masked_classes_get_no_gradient(region: str, rng: np.random.Generator) -> None:
    """A probability of exactly 0 passes exactly nothing back."""
    shape, axis = REGIONS[region]
    g, y = pair("softmax_backward", rng, shape, axis, np.float32)
    masked = rng.random(shape) < 0.4
    y[masked] = 0
    got = fastsoftmax.softmax_backward(g, y, axis=axis)
    np.testing.assert_array_equal(got[masked], 0)
    log_y = np.where(masked, -np.inf, np.log(np.where(masked, 1, y))).astype(np.float32)
    got = fastsoftmax.log_softmax_backward(g, log_y, axis=axis)
    np.testing.assert_array_equal(got[masked], g[masked])


@pytest.mark.parametrize(
    ("dtype", "y", "total"),
    [(np.float32, y, total) for y in (-80, -88, -95, -103, -110) for total in (1e6, 1e30)]
    + [(np.float64, y, total) for y in (-700, -708, -730, -745, -760) for total in (1e20, 1e200)],
)
def test_unlikely_classes_of_large_gradients(dtype: Any, y: float, total: float) -> None:
    """A probability may be smaller than any number, and what it is multiplied by large."""
    log_probabilities = np.array([[0, y, y, y]], dtype)
    grad = np.array([[total, 0, 0, 0]], dtype)
    result = fastsoftmax.log_softmax_backward(grad, log_probabilities, axis=-1)
    exact = -np.exp(np.longdouble(y)) * np.longdouble(grad[0, 0])
    spacing = np.spacing(np.abs(exact).astype(dtype)).astype(np.longdouble)
    assert (np.abs(result[0, 1:] - exact) <= 2 * spacing).all()
    assert result[0, 0] == 0.0
