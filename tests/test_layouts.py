"""Any layout of memory, any place for the result, anything that NumPy can view."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import Array, Axis, assert_same
from strategies import LAYOUTS, WRITABLE_LAYOUTS, Guarded
from test_semantics import (
    all_floats,
    brief_regions,
    call,
    check,
    drawn,
    every_function,
    every_map,
    every_region,
    floats,
)

import fastsoftmax
from fastsoftmax import _arguments, _loss_arguments

pytestmark = pytest.mark.filterwarnings("error")

# --- memory layouts ---------------------------------------------------------------------


@every_function
@brief_regions
@all_floats
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(name: str, region: str, dtype: Any, layout: str, rng: np.random.Generator) -> None:
    x, axis = drawn(rng, region, dtype)
    laid = LAYOUTS[layout](x)
    got = check(name, laid, axis)
    assert got.flags.writeable
    np.testing.assert_array_equal(laid, x)


@every_function
@floats
@pytest.mark.parametrize("along", [0, 1, 2])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, (0, 2)])
def test_broadcast_input(name: str, axis: Axis, along: int, dtype: Any, rng: np.random.Generator) -> None:
    """A stride of zero among the classes or among the rows."""
    shape = [6, 5, 40]
    shape[along] = 1
    check(name, np.broadcast_to(rng.normal(size=shape).astype(dtype), (6, 5, 40)), axis)


@every_map
@brief_regions
@all_floats
@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
def test_out_in_every_layout(name: str, region: str, dtype: Any, layout: str, rng: np.random.Generator) -> None:
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
def test_nothing_is_written_around_out(name: str, region: str, dtype: Any, gap: int, rng: np.random.Generator) -> None:
    x, axis = drawn(rng, region, dtype)
    guarded = Guarded.make(x.shape, dtype, gap=gap)
    call(name, x, axis, out=guarded.array)
    np.testing.assert_array_equal(guarded.array, call(name, x, axis))
    assert guarded.surroundings_untouched()


@pytest.mark.parametrize("name", ["softmax", "softmax_backward", "log_softmax_backward", "cross_entropy_with_grad"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("classes", [1, 2, 7, 8, 9, 14, 15, 16, 17, 33, 65, 80, 129, 511, 512, 513, 1000])
def test_rows_from_every_place_in_a_line(name: str, dtype: Any, classes: int, rng: np.random.Generator) -> None:
    """Whole lines may be written apart from the ends of a row: the bits are those of the row alone."""
    x, y = rng.normal(0, 3, (2, 7, classes)).astype(dtype)
    target = rng.integers(0, classes, len(x))

    def written(rows: slice, out: np.ndarray) -> np.ndarray:
        if name == "softmax":
            fastsoftmax.softmax(x[rows], axis=1, out=out)
        elif name == "cross_entropy_with_grad":
            fastsoftmax.cross_entropy_with_grad(x[rows], target[rows], axis=1, reduction="sum", out=out)
        else:
            getattr(fastsoftmax, name)(x[rows], y[rows], axis=1, out=out)
        return out

    alone = np.concatenate([written(slice(i, i + 1), np.empty((1, classes), dtype)) for i in range(len(x))])
    for place in range(64 // x.itemsize):
        room = np.full(x.size + 128, 7, dtype)
        out = written(slice(None), room[place : place + x.size].reshape(x.shape))
        np.testing.assert_array_equal(out, alone)
        assert (room[:place] == 7).all()
        assert (room[place + x.size :] == 7).all()


def right_or_refused(call: Callable[[], Any], out: Array, expected: Array, memory: Array) -> None:
    """Overlap is handled, or refused with nothing written: never a wrong number."""
    before = memory.copy()
    try:
        call()
    except ValueError as error:
        message = str(error)
    else:
        assert_same(out, expected)
        return
    assert "overlap" in message
    np.testing.assert_array_equal(memory, before)


@every_map
@pytest.mark.parametrize("shift", [1, 5, 40, 64])
@pytest.mark.parametrize("direction", [1, -1])
def test_out_that_overlaps_the_input(name: str, shift: int, direction: int, rng: np.random.Generator) -> None:
    buffer = rng.normal(size=40 * 40 + shift)
    x, out = (buffer[: 40 * 40].reshape(40, 40), buffer[shift:].reshape(40, 40))[::direction]
    expected = call(name, x, -1)
    right_or_refused(lambda: call(name, x, -1, out=out), out, expected, buffer)


@every_map
@brief_regions
def test_out_over_the_input_in_reverse(name: str, region: str, rng: np.random.Generator) -> None:
    x, axis = drawn(rng, region, np.float32)
    out = x[(slice(None, None, -1),) * x.ndim]
    expected = call(name, x, axis)
    right_or_refused(lambda: call(name, x, axis, out=out), out, expected, x)


@every_map
def test_out_over_the_input_transposed(name: str, rng: np.random.Generator) -> None:
    x = rng.normal(size=(40, 40))
    expected = call(name, x, -1)
    right_or_refused(lambda: call(name, x, -1, out=x.T), x.T, expected, x)


@every_map
def test_out_over_broadcast_input(name: str, rng: np.random.Generator) -> None:
    """Every row reads the memory of the first row of the output."""
    out = rng.normal(size=(40, 64))
    x = np.broadcast_to(out[0], (40, 64))
    expected = call(name, x, -1)
    right_or_refused(lambda: call(name, x, -1, out=out), out, expected, out)


@every_map
@pytest.mark.parametrize("classes", [8, 64, 1000])
def test_out_over_the_mask(name: str, classes: int, rng: np.random.Generator) -> None:
    """A mask that is a view of the output's own bytes must not change beneath the kernel."""
    x = rng.normal(size=(6, classes))
    out = rng.integers(0, 2, (6, classes * 8)).astype(bool).view(np.float64)
    mask = out.view(np.bool_)[:, :classes]
    expected = call(name, x, -1, where=mask.copy())
    memory = out.view(np.uint8)
    right_or_refused(lambda: call(name, x, -1, where=mask, out=out), out, expected, memory)


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


# --- what NumPy can view ----------------------------------------------------------------


@every_function
def test_lists_and_tuples(name: str) -> None:
    for x in (
        [[1, 2, 3], [4, 5, 7]],
        [[0.5, 1.5]],
        ((1.0, 2.0), (3.0, 4.0)),
        [True, False],
        range(5),
    ):
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
    """As SciPy's softmax, which gives an ndarray; SciPy's logsumexp fails on a matrix."""
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


def test_arrays_from_a_pickle_take_the_short_way(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their dtypes are objects of their own: equal to those of other arrays, and not the same."""

    def refuse(*_: Any) -> None:
        raise AssertionError("this call went the long way")

    for module, name in (
        (_arguments, "elementwise"),
        (_arguments, "gradient"),
        (_arguments, "reduction"),
        (_loss_arguments, "loss_request"),
    ):
        monkeypatch.setattr(module, name, refuse)
    x, labels = rng.normal(size=(100, 10)).astype(np.float32), rng.integers(0, 10, 100)
    x_too, labels_too, out = pickle.loads(pickle.dumps((x, labels, np.empty_like(x))))
    assert x_too.dtype is not x.dtype
    for axis in (-1, 0):
        assert fastsoftmax.softmax(x_too, axis=axis, out=out) is out
        np.testing.assert_array_equal(out, fastsoftmax.softmax(x, axis=axis))
        gradient = fastsoftmax.softmax_backward(x, x, axis=axis)
        np.testing.assert_array_equal(fastsoftmax.softmax_backward(x, x_too, axis=axis, out=out), gradient)
        np.testing.assert_array_equal(fastsoftmax.logsumexp(x_too, axis=axis), fastsoftmax.logsumexp(x, axis=axis))
    loss, gradient = fastsoftmax.cross_entropy_with_grad(x, labels_too, out=out)
    assert gradient is out
    assert loss == fastsoftmax.cross_entropy(x, labels)
