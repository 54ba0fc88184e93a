"""Compiled code reads array objects itself: what it must refuse, and what it takes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import pytest

import fastsoftmax
from fastsoftmax import _execute
from fastsoftmax._execute import BAD_LABEL, DONE, OTHER, PLAIN
from fastsoftmax._kernels.jit import piece
from fastsoftmax._kernels.launch import unlocked

ELEMENTWISE = ["softmax", "log_softmax"]
BACKWARD = ["softmax_backward", "log_softmax_backward"]
DTYPES = ["float32", "float64", "float16"]


def ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


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
    assert _execute.small[operation][x.dtype](x, out) == OTHER
    assert np.array_equal(out, before)


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("operation", BACKWARD)
def test_refused_backwards(operation: str, case: str) -> None:
    x, out = OTHERS[case]
    code, before = _execute.small[operation][x.dtype], out.copy()
    assert code(x, np.ones(x.shape, x.dtype), out) == OTHER
    if "out" in case:  # what cannot be a place, for another dtype or shape, cannot be the output of a forward pass
        place = np.ones(x.shape, x.dtype)
        expected = DONE if case == "out that is read-only" or out.base is ALIKE else OTHER
        if x.flags.c_contiguous:
            assert code(x, out, place) == expected
    assert np.array_equal(out, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 4), (2, 3, 4), (1, 2, 1, 3, 4)])
def test_taken(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> None:
    """Rows of any number of axes, with the bits of two."""
    x, y = rng.normal(size=(2, *shape)).astype(dtype)
    flat = x.reshape(-1, shape[-1])
    for operation in ELEMENTWISE:
        out = np.empty_like(x)
        assert _execute.small[operation][x.dtype](x, out) == DONE
        assert np.array_equal(out, getattr(fastsoftmax, operation)(flat[:, ::-1][:, ::-1], -1).reshape(shape))
        same = x.copy()
        assert _execute.small[operation][x.dtype](same, same) == DONE
        assert np.array_equal(same, out)
    sums = np.empty(shape[:-1], dtype)
    assert _execute.small["logsumexp"][x.dtype](x, sums) == DONE
    assert np.array_equal(sums, fastsoftmax.logsumexp(x[..., ::-1][..., ::-1], -1))
    for operation in BACKWARD:
        out = np.empty_like(x)
        assert _execute.small[operation][x.dtype](x, y, out) == DONE
        assert np.array_equal(out, getattr(fastsoftmax, operation)(x, y[..., ::-1][..., ::-1], -1))


def test_sums_are_apart_from_what_they_sum_up() -> None:
    x = ones(3, 4)
    code = _execute.small["logsumexp"][x.dtype]
    assert code(x, x.reshape(-1)[:3]) == OTHER
    assert code(x, ones(4)) == OTHER
    assert code(x, ones(3, 1)) == OTHER
    assert code(x, ones(3)) == DONE


def test_what_is_large_is_left_to_others() -> None:
    x = ones(300, 100)
    assert _execute.small["softmax"][x.dtype](x, np.empty_like(x)) == PLAIN
    assert _execute.small["softmax_backward"][x.dtype](x, x, np.empty_like(x)) == PLAIN
    labels = np.zeros(300, np.int64)
    assert _execute.small["cross_entropy"][x.dtype](x, labels, x, -100, 64)[0] == PLAIN


@pytest.mark.parametrize("operation", ["cross_entropy", "cross_entropy_with_grad"])
def test_losses(operation: str) -> None:
    x, out, labels = ones(2, 3, 4), np.full((2, 3, 4), 7, np.float32), np.array([[0, 1, 2], [3, -100, 0]])
    code = _execute.small[operation][x.dtype]
    wrong = labels.copy()
    wrong[1, 2] = 4
    assert code(x, wrong, out, -100, 64)[:3] == (BAD_LABEL, 5, 4)
    for others in (labels.T, labels[:1], labels.reshape(-1), labels[:, ::-1]):
        assert code(x, others, out, -100, 64)[0] == OTHER
    assert code(x, np.full((2, 3), -100), out, -100, 64)[0] == OTHER
    assert code(x, labels, out, -100, 5)[0] == PLAIN
    assert (out == 7).all()
    state, _, _, count, total = code(x, labels, out, -100, 64)
    assert (state, count) == (DONE, 5)
    assert total == pytest.approx(5 * np.log(4))
    if operation == "cross_entropy":
        assert code(read_only(x), labels, read_only(x), -100, 64)[0] == DONE
    else:
        assert code(x, labels, read_only(x), -100, 64)[0] == OTHER
        assert (out != 7).all()


def test_equal_dtypes_are_enough() -> None:
    x, out = ones(3, 4, dtype=np.dtype(np.float32, metadata={"of": "its owner"})), ones(3, 4)
    assert x.dtype == out.dtype
    assert x.dtype is not out.dtype
    assert np.array_equal(fastsoftmax.softmax(x, -1, out=out), ones(3, 4) / 4)
    assert np.array_equal(fastsoftmax.softmax_backward(x, out, -1), np.zeros((3, 4)))


@pytest.mark.parametrize("dtype", [">f4", "int32", "object", "complex64", "U3", "float32,float32"])
def test_other_dtypes_have_no_code(dtype: str) -> None:
    x = np.zeros((3, 4), dtype)
    assert _execute.small["softmax"][x.dtype](x, x) == OTHER
    assert x.dtype not in _execute.small["softmax"]


@piece
def fails_from_one_on(number: int) -> None:
    if number > 0:
        raise MemoryError


def test_an_error_comes_back_to_whom_has_the_lock() -> None:
    def asked(number: int, lets_go: bool) -> Any:
        return unlocked(fails_from_one_on, (number,), lets_go)

    code = numba.njit(asked).compile((numba.int64, numba.boolean))
    for lets_go in (False, True):
        for number in (0, 1):
            assert code(number, lets_go) == (number > 0)


def test_rows_that_let_go_of_the_lock_have_the_same_bits() -> None:
    x = np.random.default_rng(3).normal(size=(4, 1, 60000)).astype(np.float32)
    expected = [fastsoftmax.softmax(row, -1) for row in x]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(50):
            results = list(pool.map(lambda row: fastsoftmax.softmax(row, -1), x))
            assert all(np.array_equal(a, b) for a, b in zip(results, expected, strict=True))
