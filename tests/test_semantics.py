"""The semantics table, row by row, over every region of shapes: which value, which dtype, which place."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from reference import BFLOAT16, LARGE_INTEGERS, SMALL_INTEGERS, Array, Axis, assert_ulp
from strategies import BRIEF_REGIONS, LAYOUTS, REGIONS, WRITABLE_LAYOUTS, Guarded

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
    # A plain sum may cancel to zero in float64: test_accuracy holds that number, here it is not met.
    assert_ulp(got, exact, 1.0 if is_half else ULP[name], floor=0.5 if name == "logsumexp" else 0.0)
    return np.asarray(got)


def drawn(rng: np.random.Generator, region: str, dtype: Any) -> tuple[Array, Axis]:
    shape, axis = REGIONS[region]
    return rng.normal(0, 4, shape).astype(dtype), axis


# --- shapes and axes ---------------------------------------------------------------------------------


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


# --- dtypes ------------------------------------------------------------------------------------------


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


# --- infinities, nan, masks --------------------------------------------------------------------------


def with_special_rows(rng: np.random.Generator, region: str, dtype: Any) -> tuple[Array, Axis]:
    """Rows of plain numbers among which some hold -inf, one +inf, one nan, and one is all -inf."""
    shape, axis = REGIONS[region]
    x = rng.normal(0, 4, shape)
    rows = reference.to_rows(x, axis).copy()
    flat = rows.reshape(-1, rows.shape[-1])
    classes = flat.shape[-1]
    flat[rng.random(flat.shape) < 0.2] = -np.inf
    at = rng.integers(0, classes, 4)
    for row, special in enumerate([np.nan, np.inf, -np.inf, np.nan][: len(flat)]):
        flat[row, at[row]] = special
    if len(flat) > 3:
        flat[2] = -np.inf
        flat[3, at[0]] = np.inf  # beside the nan where there are two classes or more
    return reference.from_rows(rows, shape, axis).astype(dtype), axis


@every_function
@every_region
@all_floats
def test_infinities_and_nan(name: str, region: str, dtype: Any, rng: np.random.Generator) -> None:
    x, axis = with_special_rows(rng, region, dtype)
    check(name, x, axis)


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
    """Wherever in the row it stands, that row is all nan and the others have the same bits as without."""
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
def test_where_meets_special_rows(
    name: str, region: str, dtype: Any, rng: np.random.Generator
) -> None:
    x, axis = with_special_rows(rng, region, dtype)
    check(name, x, axis, where=rng.random(x.shape) < 0.6)


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
def test_where_broadcasts(
    name: str, shape: tuple[int, ...], axis: Axis, rng: np.random.Generator
) -> None:
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


# --- temperature -------------------------------------------------------------------------------------


@every_map
@brief_regions
@pytest.mark.parametrize("temperature", [0.25, 1, 2, np.float32(0.7), np.int64(3), 1e-3, 1e30])
def test_temperature(name: str, region: str, temperature: Any, rng: np.random.Generator) -> None:
    x, axis = drawn(rng, region, np.float32)
    check(name, x, axis, temperature=temperature)


# --- memory layouts ----------------------------------------------------------------------------------


@every_function
@brief_regions
@all_floats
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(
    name: str, region: str, dtype: Any, layout: str, rng: np.random.Generator
) -> None:
    x, axis = drawn(rng, region, dtype)
    laid = LAYOUTS[layout](x)
    got = check(name, laid, axis)
    assert got.flags.writeable
    np.testing.assert_array_equal(laid, x)


@every_function
@floats
@pytest.mark.parametrize("along", [0, 1, 2])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, (0, 2)])
def test_broadcast_input(
    name: str, axis: Axis, along: int, dtype: Any, rng: np.random.Generator
) -> None:
    """A stride of zero among the classes or among the rows."""
    shape = [6, 5, 40]
    shape[along] = 1
    check(name, np.broadcast_to(rng.normal(size=shape).astype(dtype), (6, 5, 40)), axis)


@every_map
@brief_regions
@all_floats
@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
def test_out_in_every_layout(
    name: str, region: str, dtype: Any, layout: str, rng: np.random.Generator
) -> None:
    x, axis = drawn(rng, region, dtype)
    out = LAYOUTS[layout](np.full(x.shape, 7, dtype))
    assert call(name, x, axis, out=out) is out
    np.testing.assert_array_equal(out, call(name, x, axis))


@every_map
@brief_regions
@all_floats
@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
def test_in_place(name: str, region: str, dtype: Any, layout: str, rng: np.random.Generator) -> None:
    x, axis = drawn(rng, region, dtype)
    expected = call(name, x, axis)
    laid = LAYOUTS[layout](x)
    assert call(name, laid, axis, out=laid) is laid
    np.testing.assert_array_equal(laid, expected)


@every_map
@every_region
@floats
@pytest.mark.parametrize("gap", [1, 2])
def test_nothing_is_written_around_out(
    name: str, region: str, dtype: Any, gap: int, rng: np.random.Generator
) -> None:
    x, axis = drawn(rng, region, dtype)
    guarded = Guarded.make(x.shape, dtype, gap=gap)
    call(name, x, axis, out=guarded.array)
    np.testing.assert_array_equal(guarded.array, call(name, x, axis))
    assert guarded.surroundings_untouched()


@every_map
@pytest.mark.parametrize("shift", [1, 5, 40, 64])
@pytest.mark.parametrize("direction", [1, -1])
def test_overlapping_out_is_right_or_refused(
    name: str, shift: int, direction: int, rng: np.random.Generator
) -> None:
    buffer = rng.normal(size=40 * 40 + shift)
    x, out = buffer[: 40 * 40].reshape(40, 40), buffer[shift:].reshape(40, 40)
    x, out = (x, out)[::direction]
    before, expected = buffer.copy(), call(name, x, -1)
    try:
        call(name, x, -1, out=out)
    except ValueError as error:
        assert "overlap" in str(error)
        np.testing.assert_array_equal(buffer, before)
    else:
        np.testing.assert_array_equal(out, expected)


@every_map
def test_out_over_the_same_memory_in_another_order(name: str, rng: np.random.Generator) -> None:
    x = rng.normal(size=(40, 40))
    before, expected = x.copy(), call(name, x, -1)
    try:
        call(name, x, -1, out=x.T)
    except ValueError as error:
        assert "overlap" in str(error)
        np.testing.assert_array_equal(x, before)
    else:
        np.testing.assert_array_equal(x.T, expected)


@every_map
def test_where_over_the_memory_of_out(name: str, rng: np.random.Generator) -> None:
    """A mask that is a view of the output's own bytes must not change under the kernel's hands."""
    x = rng.normal(size=(6, 64))
    out = np.zeros((6, 64))
    mask = out.view(np.bool_)[:, :64]
    out[:, :4] = np.frombuffer(bytes([1, 0] * 4))[0]
    before, expected = out.copy(), call(name, x, -1, where=mask.copy())
    try:
        call(name, x, -1, where=mask, out=out)
    except ValueError as error:
        assert "overlap" in str(error)
        np.testing.assert_array_equal(out, before)
    else:
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2)])
def test_logsumexp_out(axis: Axis, keepdims: bool, rng: np.random.Generator) -> None:
    x = rng.normal(size=(4, 5, 21))
    expected = np.asarray(fastsoftmax.logsumexp(x, axis=axis, keepdims=keepdims))
    guarded = Guarded.make(expected.shape, x.dtype)
    out = guarded.array
    assert fastsoftmax.logsumexp(x, axis=axis, keepdims=keepdims, out=out) is out
    np.testing.assert_array_equal(out, expected, strict=True)
    assert guarded.surroundings_untouched()
    value, sign = fastsoftmax.logsumexp(x, axis, keepdims=keepdims, return_sign=True, out=out)
    assert value is out
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(sign, np.ones(expected.shape))


def test_logsumexp_out_of_zero_dimensions(rng: np.random.Generator) -> None:
    x, out = rng.normal(size=50), np.empty(())
    assert fastsoftmax.logsumexp(x, out=out) is out
    assert out == fastsoftmax.logsumexp(x)


# --- what NumPy can view -----------------------------------------------------------------------------


@every_function
def test_lists_and_tuples(name: str) -> None:
    for x in ([[1, 2, 3], [4, 5, 7]], [[0.5, 1.5]], ((1.0, 2.0), (3.0, 4.0)), [True, False], range(5)):
        check_list = call(name, x, -1)
        np.testing.assert_array_equal(check_list, call(name, np.array(x), -1), strict=True)


@every_function
@pytest.mark.parametrize("mode", ["r", "c"])
def test_memmap(name: str, mode: str, tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.normal(size=(5, 300)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    got = call(name, np.load(tmp_path / "x.npy", mmap_mode=mode), -1)
    assert type(got) is np.ndarray
    np.testing.assert_array_equal(got, call(name, x, -1))


@every_map
def test_memmap_out(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.normal(size=(5, 300)).astype(np.float32)
    out = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float32, x.shape)
    assert call(name, x, -1, out=out) is out
    out.flush()
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), call(name, x, -1))


@every_function
def test_matrix_is_a_plain_array(name: str) -> None:
    """As SciPy's softmax, which gives an ndarray; SciPy's logsumexp fails on one (no `keepdims`)."""
    x = np.array([[1.0, 2.0], [4.0, 3.0]])
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix(x)
    for axis in (None, 0, 1):
        got = call(name, matrix, axis)
        assert not isinstance(got, np.matrix)
        np.testing.assert_array_equal(got, call(name, x, axis), strict=True)


@every_function
@pytest.mark.parametrize("axis", [0, 1, None])
def test_torch_tensors(name: str, axis: Axis, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    x = rng.normal(size=(5, 70)).astype(np.float32)
    for tensor, array in (
        (torch.from_numpy(x), x),
        (torch.from_numpy(x).T, x.T),
        (torch.from_numpy(x).half(), x.astype(np.float16)),
        (torch.arange(10), np.arange(10)[:]),
    ):
        if tensor.ndim == 2 or axis != 1:
            got = call(name, tensor, axis)
            np.testing.assert_array_equal(got, call(name, array, axis), strict=True)


@every_map
def test_torch_tensor_shares_memory_as_out(name: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(rng.normal(size=(5, 70)))
    result = torch.empty_like(x)
    call(name, x, -1, out=result.numpy())
    np.testing.assert_array_equal(result.numpy(), call(name, x.numpy(), -1))


@every_function
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int32])
def test_arrow_arrays(name: str, dtype: Any, rng: np.random.Generator) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    x = (rng.normal(size=70) * 5).astype(dtype)
    got = call(name, pyarrow.array(x))
    np.testing.assert_array_equal(got, call(name, x), strict=True)


class Viewable:
    """Anything with ``__array__``."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.array if dtype is None else self.array.astype(dtype)


@every_function
def test_objects_with_an_array(name: str, rng: np.random.Generator) -> None:
    x = rng.normal(size=(3, 20))
    np.testing.assert_array_equal(call(name, Viewable(x), -1), call(name, x, -1), strict=True)
