"""Compiled code reads array objects itself: what it must refuse, and what it takes."""

from __future__ import annotations

import _thread
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import pytest

import fastsoftmax
from fastsoftmax import _execute
from fastsoftmax._execute import DONE, LARGE, LARGE_LOSS, OTHER
from fastsoftmax._kernels.jit import piece
from fastsoftmax._kernels.launch import unlocked
from fastsoftmax._kernels.lengths import INTERLEAVED_ROOM, PIECE
from fastsoftmax._kernels.small import NO_LOSS

ELEMENTWISE = ["softmax", "log_softmax"]
BACKWARD = ["softmax_backward", "log_softmax_backward"]
DTYPES = ["float32", "float64", "float16"]


def ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def state_of(operation: str, *arrays: np.ndarray) -> int:
    """What the compiled code for the first array's dtype says."""
    kind = arrays[0].dtype
    code = _execute.small[operation][kind]
    assert code is not None
    state: int = code(*arrays, kind)
    return state


def columns_state_of(operation: str, axis: int, *arrays: np.ndarray) -> int:
    """The same for classes on another axis than the last."""
    kind = arrays[0].dtype
    code = _execute.small_columns[operation][kind]
    assert code is not None
    state: int = code(*arrays, kind, axis)
    return state


def loss_of(operation: str, x: np.ndarray, labels: np.ndarray, out: np.ndarray, most: int = 64) -> float:
    code = _execute.small[operation][x.dtype]
    assert code is not None
    found: float = code(x, labels, out, x.dtype, labels.dtype, -100, most)
    return found


def columns_loss_of(
    operation: str, axis: int, x: np.ndarray, labels: np.ndarray, out: np.ndarray, most: int = 64
) -> float:
    code = _execute.small_columns[operation][x.dtype]
    assert code is not None
    found: float = code(x, labels, out, x.dtype, labels.dtype, -100, most, axis)
    return found


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


ALIKE = ones(70)
OTHERS: dict[str, tuple[Any, Any]] = {
    "no axes": (ones(), ones()),
    "empty": (ones(3, 0), ones(3, 0)),
    "empty, with long axes": (np.empty((0, 2**29, 2**30)), np.empty((0, 2**29, 2**30))),
    "columns before rows": (np.asfortranarray(ones(3, 4)), ones(3, 4)),
    "columns before rows of out": (ones(3, 4), np.asfortranarray(ones(3, 4))),
    "a slice": (ones(3, 8)[:, ::2], ones(3, 4)),
    "broadcast": (np.broadcast_to(np.float32(1), (3, 4)), ones(3, 4)),
    "out that is read-only": (ones(3, 4), read_only(ones(3, 4))),
    "out of another dtype": (ones(3, 4), ones(3, 4, dtype=np.int32)),
    "out of another byte order": (ones(3, 4), ones(3, 4, dtype=">f4")),
    "out of another shape": (ones(3, 4), ones(4, 3)),
    "out of fewer axes": (ones(3, 4), ones(12)),
    "out of more axes": (ones(3, 4), ones(3, 4, 1)),
    "out that begins within": (ALIKE[:60].reshape(6, 10), ALIKE[5:65].reshape(6, 10)),
    "out that ends within": (ALIKE[5:65].reshape(6, 10), ALIKE[:60].reshape(6, 10)),
}


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("operation", ELEMENTWISE)
def test_refused(operation: str, case: str) -> None:
    x, out = OTHERS[case]
    before = out.copy()
    assert state_of(operation, x, out) == OTHER
    assert np.array_equal(out, before)


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("operation", BACKWARD)
def test_refused_backwards(operation: str, case: str) -> None:
    x, out = OTHERS[case]
    before = out.copy()
    assert state_of(operation, x, np.ones(x.shape, x.dtype), out) == OTHER
    assert np.array_equal(out, before)


@pytest.mark.parametrize("case", [name for name in OTHERS if "dtype" in name or "shape" in name or "order" in name])
@pytest.mark.parametrize("operation", BACKWARD)
def test_outputs_that_are_refused(operation: str, case: str) -> None:
    x, wrong = OTHERS[case]
    out = ones(3, 4)
    assert state_of(operation, x, wrong, out) == OTHER
    assert (out == 1).all()
    assert state_of(operation, x, read_only(x), out) == DONE


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 4), (2, 3, 4), (1, 2, 1, 3, 4)])
def test_taken(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> None:
    """Rows of any number of axes, with the bits of two."""
    x, y = rng.normal(size=(2, *shape)).astype(dtype)
    flat = x.reshape(-1, shape[-1])
    for operation in ELEMENTWISE:
        out = np.empty_like(x)
        assert state_of(operation, x, out) == DONE
        assert np.array_equal(out, getattr(fastsoftmax, operation)(flat[:, ::-1][:, ::-1], -1).reshape(shape))
        same = x.copy()
        assert state_of(operation, same, same) == DONE
        assert np.array_equal(same, out)
    sums = np.empty(shape[:-1], dtype)
    assert state_of("logsumexp", x, sums) == DONE
    assert np.array_equal(sums, fastsoftmax.logsumexp(x[..., ::-1][..., ::-1], -1))
    for operation in BACKWARD:
        out = np.empty_like(x)
        assert state_of(operation, x, y, out) == DONE
        assert np.array_equal(out, getattr(fastsoftmax, operation)(x, y[..., ::-1][..., ::-1], -1))


def test_sums_are_apart_from_what_they_sum_up() -> None:
    x = ones(3, 4)
    assert state_of("logsumexp", x, x.reshape(-1)[:3]) == OTHER
    assert state_of("logsumexp", x, ones(4)) == OTHER
    assert state_of("logsumexp", x, ones(3, 1)) == OTHER
    assert state_of("logsumexp", x, ones(3)) == DONE


def test_what_is_large_is_left_to_others() -> None:
    x = ones(400, 100)
    assert state_of("softmax", x, np.empty_like(x)) == LARGE
    assert state_of("softmax_backward", x, x, np.empty_like(x)) == LARGE
    assert loss_of("cross_entropy", x, np.zeros(400, np.int64), x) == LARGE_LOSS
    assert columns_state_of("softmax", 0, x, np.empty_like(x)) == LARGE
    assert columns_state_of("logsumexp", 0, x, ones(100)) == LARGE
    assert columns_state_of("softmax_backward", 0, x, x, np.empty_like(x)) == LARGE
    assert columns_loss_of("cross_entropy", 0, x, np.zeros(100, np.int64), x) == LARGE_LOSS


@pytest.mark.parametrize("operation", ["cross_entropy", "cross_entropy_with_grad"])
def test_losses(operation: str) -> None:
    x, out, labels = ones(2, 3, 4), np.full((2, 3, 4), 7, np.float32), np.array([[0, 1, 2], [3, -100, 0]])
    wrong = labels.copy()
    wrong[1, 2] = 4
    assert loss_of(operation, x, wrong, out) == NO_LOSS
    for others in (labels.T, labels[:1], labels.reshape(-1), labels[:, ::-1]):
        assert loss_of(operation, x, others, out) == NO_LOSS
    assert loss_of(operation, x, np.full((2, 3), -100), out) == NO_LOSS
    assert loss_of(operation, x, labels, out, most=5) == LARGE_LOSS
    assert (out == 7).all()
    assert loss_of(operation, x, labels, out) == pytest.approx(np.log(4))
    if operation == "cross_entropy":
        assert loss_of(operation, read_only(x), labels, read_only(x)) > 0
    else:
        assert loss_of(operation, x, labels, read_only(x)) == NO_LOSS
        assert (out != 7).all()


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("operation", [*ELEMENTWISE, *BACKWARD])
def test_columns_refused(operation: str, case: str) -> None:
    x, out = OTHERS[case]
    before = out.copy()
    arrays = (x, np.ones(x.shape, x.dtype), out) if operation in BACKWARD else (x, out)
    assert columns_state_of(operation, 0, *arrays) == OTHER
    assert np.array_equal(out, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "axis"), [((5, 2), 0), ((3, 40), -2), ((7, 5, 3), 1), ((2, 3, 2, 9), 1), ((2, 3, 2, 9), -4)]
)
def test_columns_taken(rng: np.random.Generator, shape: tuple[int, ...], axis: int, dtype: str) -> None:
    """Classes on any axis but the last, with the bits of rows."""
    x, y = rng.normal(size=(2, *shape)).astype(dtype)
    moved = [np.ascontiguousarray(np.moveaxis(array, axis, -1)) for array in (x, y)]
    for operation in (*ELEMENTWISE, *BACKWARD):
        arrays, out = ((x, y) if operation in BACKWARD else (x,)), np.empty_like(x)
        assert columns_state_of(operation, axis, *arrays, out) == DONE
        expected = getattr(fastsoftmax, operation)(*moved[: len(arrays)], -1)
        assert np.array_equal(np.moveaxis(out, axis, -1), expected)
        same = x.copy()
        assert columns_state_of(operation, axis, same, *arrays[1:], same) == DONE
        assert np.array_equal(same, out)
    sums = np.empty(moved[0].shape[:-1], dtype)
    assert columns_state_of("logsumexp", axis, x, sums) == DONE
    assert np.array_equal(sums, fastsoftmax.logsumexp(moved[0], -1))


def test_what_columns_do_not_take() -> None:
    """One column beside none, three of very many classes, sums elsewhere or of another shape."""
    for shape in ((4, 3, 1), (INTERLEAVED_ROOM // PIECE + 1, 3)):
        assert columns_state_of("softmax", -2, ones(*shape), ones(*shape)) == OTHER
        assert (
            columns_loss_of("cross_entropy", -2, ones(*shape), np.zeros(shape[:-2] + shape[-1:], int), ones(*shape)) < 0
        )
    x = ones(2, 3, 4)
    for wrong in (x.reshape(-1)[:8].reshape(2, 4), ones(2, 3), ones(3, 4), ones(8), ones(2, 1, 4)):
        assert columns_state_of("logsumexp", 1, x, wrong) == OTHER
    assert columns_state_of("logsumexp", 1, x, ones(2, 4)) == DONE


@pytest.mark.parametrize("operation", ["cross_entropy", "cross_entropy_with_grad"])
@pytest.mark.parametrize("inner", [2, 5, 40])
def test_column_losses(operation: str, inner: int) -> None:
    x, out, labels = ones(3, 4, inner), np.full((3, 4, inner), 7, np.float32), np.zeros((3, inner), np.int64)
    labels[1] = -100
    wrong = labels.copy()
    wrong[2, -1] = 4
    assert columns_loss_of(operation, 1, x, wrong, out) == NO_LOSS
    for others in (labels.T, labels[:1], labels.reshape(-1), labels[:, ::-1]):
        assert columns_loss_of(operation, 1, x, others, out) == NO_LOSS
    assert columns_loss_of(operation, 1, x, np.full_like(labels, -100), out) == NO_LOSS
    assert columns_loss_of(operation, 1, x, labels, out, most=0) == LARGE_LOSS
    assert (out == 7).all()
    assert columns_loss_of(operation, 1, x, labels, out) == pytest.approx(np.log(4))
    if operation == "cross_entropy_with_grad":
        assert columns_loss_of(operation, 1, x, labels, read_only(x)) == NO_LOSS
        assert (out[::2] != 7).all()
        assert (out[1] == 0).all()


def test_arrays_that_have_got_another_dtype_are_refused() -> None:
    """Another thread may change it between Python's question and the call."""
    x, out, labels = ones(3, 4), ones(3, 4), np.zeros(3, np.int64)
    for operation in (*ELEMENTWISE, "logsumexp", *BACKWARD):
        code, kind = _execute.small[operation][x.dtype], np.dtype(np.float64)
        assert code is not None
        arrays = (x, out, out) if operation in BACKWARD else (x, ones(3) if operation == "logsumexp" else out)
        assert code(*arrays, x.dtype) == DONE
        assert code(*arrays, kind) == OTHER
        assert code(*(array.astype(float) for array in arrays), x.dtype) == OTHER
    code = _execute.small["cross_entropy"][x.dtype]
    assert code is not None
    assert code(x, labels, x, x.dtype, labels.dtype, -100, 64) > 0
    assert code(x, labels.astype(np.int8), x, x.dtype, labels.dtype, -100, 64) == NO_LOSS
    assert code(x.astype(float), labels, x.astype(float), x.dtype, labels.dtype, -100, 64) == NO_LOSS


@pytest.mark.parametrize("shape", [(2**22, 2**22), (2**20, 4, 2**20)])
def test_nothing_is_made_before_all_is_asked(shape: tuple[int, ...]) -> None:
    """Results of terabytes would be a MemoryError."""
    huge = np.broadcast_to(np.complex64(1), shape)
    for function in (fastsoftmax.softmax, fastsoftmax.log_softmax, fastsoftmax.logsumexp):
        with pytest.raises(TypeError, match="complex64"):
            function(huge, -1)
    real = np.broadcast_to(np.float32(1), shape)
    with pytest.raises(ValueError, match="target has shape"):
        fastsoftmax.cross_entropy_with_grad(real, np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="grad_output has shape"):
        fastsoftmax.softmax_backward(real, ones(3), -1)


def test_equal_dtypes_are_enough() -> None:
    x, out = ones(3, 4, dtype=np.dtype(np.float32, metadata={"of": "its owner"})), ones(3, 4)
    assert x.dtype == out.dtype
    assert x.dtype is not out.dtype
    assert np.array_equal(fastsoftmax.softmax(x, -1, out=out), ones(3, 4) / 4)
    assert np.array_equal(fastsoftmax.softmax_backward(x, out, -1), np.zeros((3, 4)))


@pytest.mark.parametrize("dtype", [">f4", "int32", "object", "complex64", "U3", "float32,float32"])
def test_other_dtypes_have_no_code(dtype: str) -> None:
    x = np.zeros((3, 4), dtype)
    assert _execute.small["softmax"][x.dtype] is None
    assert x.dtype not in _execute.small["softmax"]


@piece
def turns(count: int, start: float) -> None:
    """Work for a while; an error if that comes to NaN."""
    for i in range(count):
        start = start * 0.5 + i
    if start != start:
        raise MemoryError


def unlocked_turns() -> Any:
    def asked(count: int, start: float, lets_go: bool) -> Any:
        return unlocked(turns, (count, start), lets_go)

    return numba.njit(asked).compile((numba.int64, numba.float64, numba.boolean))


@pytest.mark.parametrize("lets_go", [False, True])
def test_an_error_comes_back_to_whom_has_the_lock(lets_go: bool) -> None:
    code = unlocked_turns()
    assert [code(9, start, lets_go) for start in (0.0, np.nan, 2.0)] == [False, True, False]


@pytest.mark.parametrize("lets_go", [False, True])
def test_the_lock_is_let_go(lets_go: bool) -> None:
    """Another thread gets it, which nothing else here would give it for minutes."""
    code, came, before = unlocked_turns(), [], sys.getswitchinterval()
    sys.setswitchinterval(600)
    try:
        _thread.start_new_thread(came.append, (1,))
        for _ in range(100):
            code(10_000_000, 0.0, lets_go)
            if came or not lets_go:
                break
        had = list(came)
    finally:
        sys.setswitchinterval(before)
    assert bool(had) == lets_go
    while not came:
        time.sleep(0.001)


def test_rows_that_let_go_of_the_lock_have_the_same_bits() -> None:
    x = np.random.default_rng(3).normal(size=(4, 1, 60000)).astype(np.float32)
    expected = [fastsoftmax.softmax(row, -1) for row in x]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(50):
            results = list(pool.map(lambda row: fastsoftmax.softmax(row, -1), x))
            assert all(np.array_equal(a, b) for a, b in zip(results, expected, strict=True))
