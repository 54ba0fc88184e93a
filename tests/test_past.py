"""Results that go past the caches: the same bits as those that do not, and nothing written beside them.

They begin at half of the last cache or at one and a half, so these arrays are as large as the machine's caches ask for.
"""

from __future__ import annotations

import platform
import re
from typing import Any

import numba
import numpy as np
import pytest
from reference import Array

import fastsoftmax
from fastsoftmax._kernels.jit import DTYPES, inlined
from fastsoftmax._kernels.loops import KERNELS
from fastsoftmax._kernels.memory import load
from fastsoftmax._kernels.past import LEAST, goes_past, whole_lines
from fastsoftmax._kernels.shuffles import abreast
from fastsoftmax._kernels.sweeps import over_classes
from fastsoftmax._kernels.target import has_avx512, has_f16c
from fastsoftmax._kernels.tiles import columns_of_line_before
from fastsoftmax._kernels.views import lanes_of, view

GUARD = 7  # elements on either side of a result, whose bytes must stay

of_large_results = pytest.mark.skipif(LEAST > 2**28, reason="they take gigabytes on a machine with such caches")
of_larger_results = pytest.mark.skipif(LEAST > 2**26, reason="they take gigabytes on a machine with such caches")
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
no_half_types = pytest.mark.parametrize("dtype", [np.float32, np.float64])  # whose rows in step go through the caches


def numbers(shape: tuple[int, ...], dtype: Any) -> Array:
    """Some thousand random numbers, over and over: many of them are slow to make."""
    few = np.random.default_rng(0).normal(0, 2, 9973).astype(dtype)
    return np.resize(few, shape)


def guarded(shape: tuple[int, ...], dtype: Any, offset: int) -> tuple[Array, Array]:
    """All bytes of an allocation, and a result in its midst that begins so many bytes after a whole element."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    before = GUARD * np.dtype(dtype).itemsize + offset
    room = np.full(size + 2 * before, 0xA5, np.uint8)
    return room, room[before : before + size].view(dtype).reshape(shape)


def backward(name: str, g: Array, y: Array, axis: int, **out: Array) -> Array:
    result: Array = getattr(fastsoftmax, name)(g, y, axis=axis, **out)
    return result


@of_large_results
@dtypes
@pytest.mark.parametrize("name", ["softmax_backward", "log_softmax_backward"])
@pytest.mark.parametrize(
    ("classes", "offset"), [(4096, 0), (1003, 0), (1003, 1)], ids=["whole lines", "lines shared", "across words"]
)
def test_rows(name: str, classes: int, offset: int, dtype: Any) -> None:
    rows = LEAST // (classes * np.dtype(dtype).itemsize) + 1
    g, y = numbers((rows, classes), dtype), numbers((rows, classes), dtype) * np.asarray(0.01, dtype)
    room, out = guarded(g.shape, dtype, offset)
    assert out.nbytes >= LEAST
    backward(name, g, y, -1, out=out)
    for few in few_of(rows):
        assert out[few].tobytes() == backward(name, g[few], y[few], -1).tobytes()
    assert untouched(room, out)


def untouched(room: Array, out: Array) -> bool:
    """Whether the bytes beside a result are as `guarded` made them."""
    before = GUARD * out.itemsize + (out.ctypes.data - room.ctypes.data) % out.itemsize
    return bool(np.all(room[:before] == 0xA5) and np.all(room[-before:] == 0xA5))


def few_of(rows: int, many: int = 40) -> tuple[slice, ...]:
    """Rows from the beginning, the middle and the end: too few to go past the caches."""
    return slice(0, many), slice(rows // 2, rows // 2 + many), slice(rows - many, rows)


@of_larger_results
@no_half_types
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize(
    ("classes", "offset"),
    [(4096, 0), (1019, 0), (9001, 0), (1019, 1)],
    ids=["whole lines", "lines shared", "two rows in flight", "across words"],
)
def test_rows_in_step(name: str, classes: int, offset: int, dtype: Any) -> None:
    """Two or three rows in flight; terms are kept in rows of their own. Some rows take their maximum out of x."""
    rows = 3 * LEAST // (classes * np.dtype(dtype).itemsize) + 1
    x = numbers((rows, classes), dtype)
    x[5::11] += 2**21
    room, out = guarded(x.shape, dtype, offset)
    function = getattr(fastsoftmax, name)
    function(x, axis=-1, out=out)
    for few in few_of(rows):
        assert out[few].tobytes() == function(x[few], axis=-1).tobytes()
        assert out[few][:1].tobytes() == function(x[few][:1], axis=-1).tobytes()  # a row that is not in step
    assert untouched(room, out)
    in_place = x.copy()
    function(in_place, axis=-1, out=in_place)  # which does not go past them
    assert in_place.tobytes() == out.tobytes()


@of_larger_results
@no_half_types
@pytest.mark.parametrize("classes", [4096, 1019, 9001], ids=["whole lines", "lines shared", "two rows in flight"])
def test_gradients_in_step(classes: int, dtype: Any) -> None:
    """The entry of the target is written last, to a line that is on its way to memory."""
    rows = 3 * LEAST // (classes * np.dtype(dtype).itemsize) + 1
    x = numbers((rows, classes), dtype)
    x[5::11] += 2**21
    target = np.arange(rows) * 7 % classes
    target[::5] = -100
    target[[0, 1, 2]] = 0, classes - 1, 0
    target[-1] = -100 if classes == 4096 else 0
    room, out = guarded(x.shape, dtype, 0)
    call = fastsoftmax.cross_entropy_with_grad
    losses, _ = call(x, target, reduction="none", out=out)
    for few in few_of(rows):
        some, gradient = call(x[few], target[few], reduction="none")
        assert out[few].tobytes() == gradient.tobytes()
        assert losses[few].tobytes() == some.tobytes()
    assert untouched(room, out)
    in_place = x.copy()
    call(in_place, target, reduction="none", out=in_place)
    assert in_place.tobytes() == out.tobytes()


@of_larger_results
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_rows_apart(name: str) -> None:
    """Rows with room between them, from the last to the first: what is between stays."""
    rows = 3 * LEAST // (1019 * 4) + 1
    x, wide = numbers((rows, 1019), np.float32), np.full((rows, 1026), -1, np.float32)
    function = getattr(fastsoftmax, name)
    function(x, axis=-1, out=wide[::-1, 3:1022])
    for few in few_of(rows):
        assert wide[::-1, 3:1022][few].tobytes() == function(x[few], axis=-1).tobytes()
    assert np.all(wide[:, :3] == -1)
    assert np.all(wide[:, 1022:] == -1)


@of_large_results
@pytest.mark.parametrize("name", ["softmax_backward", "log_softmax_backward"])
@pytest.mark.parametrize("rows", [1, 3])
def test_long_rows(name: str, rows: int) -> None:
    """One block of the row after the other, by several threads."""
    classes = LEAST // (rows * 4) + 77
    g, y = numbers((rows, classes), np.float32), numbers((rows, classes), np.float32) * np.float32(0.01)
    out = backward(name, g, y, -1)
    in_place = g.copy()
    assert backward(name, in_place, y, -1, out=in_place) is in_place
    np.testing.assert_array_equal(out.view(np.uint32), in_place.view(np.uint32))  # which does not go past them


@of_large_results
@dtypes
@pytest.mark.parametrize("shape", [(2, 21, 40), (2, 22, 40), (1, 33, 40), (1, 150, 40), (1, 1000, 40)])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmax_backward", "log_softmax_backward"])
def test_columns(name: str, shape: tuple[int, int, int], dtype: Any) -> None:
    """Of an even number of classes all begin at the same place of a line, which tiles then end with."""
    outer, classes, at_edge = shape
    inner = LEAST // (outer * classes * np.dtype(dtype).itemsize) + 5
    inner = inner if classes % 2 else inner // 64 * 64 + 64
    x = numbers((outer, classes, inner), dtype)
    room, out = guarded(x.shape, dtype, 0)
    function = getattr(fastsoftmax, name)
    arrays = (x, x * np.asarray(0.01, dtype)) if "backward" in name else (x,)
    function(*arrays, axis=1, out=out)
    for few in few_of(inner, at_edge):
        parts = [np.ascontiguousarray(array[..., few]) for array in arrays]
        assert np.ascontiguousarray(out[..., few]).tobytes() == function(*parts, axis=1).tobytes()
    assert untouched(room, out)


@of_large_results
def test_gradient_of_a_loss_in_columns() -> None:
    inner = LEAST // (19 * 4) + 5
    x = numbers((1, 19, inner), np.float32)
    labels = np.arange(inner).reshape(1, inner) % 19
    _, gradient = fastsoftmax.cross_entropy_with_grad(x, labels, axis=1, reduction="none")
    for few in (slice(0, 40), slice(inner - 40, inner)):
        part = np.ascontiguousarray(x[..., few])
        _, expected = fastsoftmax.cross_entropy_with_grad(part, labels[:, few], axis=1, reduction="none")
        assert np.ascontiguousarray(gradient[..., few]).tobytes() == expected.tobytes()


@inlined
def sum_at(like: Any, seen: Any, j: Any, i: Any, count: Any, numbers: Any, extra: Any) -> Any:
    """The first number of a column, and what its tile has there."""
    return numbers[0] + load(like, seen[0], (0, j, i), count, 0.0)


@dtypes
@pytest.mark.parametrize("times", [1, 2])
def test_every_length_from_every_place(times: int, dtype: Any) -> None:
    """With one vector at once and two, as for AVX-512; whole lines go past the caches wherever there are some."""
    write = over_classes(sum_at, 2)

    def from_tile(tile: Any, numbers: Any, out: Any, count: int) -> Any:
        like = lanes_of(view(out)) if times == 1 else abreast(lanes_of(view(out)), 2)
        seen, read = (view(tile), view(tile)), (view(tile), None)
        write(like, seen, view(numbers), view(out), count, None, True, read)
        return whole_lines(view(out), (0, 0, 0), count)

    size = np.dtype(dtype).itemsize
    computed = np.float32 if dtype == np.float16 else dtype
    kinds = (array_of(computed, 3), array_of(computed, 3), array_of(dtype, 3), numba.int64)
    copy = numba.njit(from_tile).compile(kinds)
    tile, columns = np.arange(3 * 192, dtype=computed).reshape(1, 3, 192), np.ones((1, 2, 192), computed)
    columns[0, 0] = np.arange(192) % 7
    for count in range(1, 150):
        room = np.full(3 * 211, -1, dtype)
        for start in range(0, 32, 3):
            out = room.reshape(1, 3, 211)[..., start : start + count]
            first, last = copy(tile, columns, out, count)
            before = -out.ctypes.data % 64 // size
            lines = max(0, count - before) // (64 // size)
            assert (first, last - first) == (min(before, count), lines * (64 // size))
            np.testing.assert_array_equal(out, (tile + columns[:, :1])[..., :count])
            out[...] = -1
            assert (room == -1).all()


@dtypes
def test_where_tiles_end(dtype: Any) -> None:
    """With a line, if one of all classes ends there."""

    def lead(out: Any) -> Any:
        return columns_of_line_before(view(out))

    code = numba.njit(lead).compile((array_of(dtype, 3),))
    size = np.dtype(dtype).itemsize
    lane = 64 // size
    for inner, alike in ((4 * lane, True), (4 * lane + 1, False)):
        room = np.zeros((2 * 3 * inner + 2 * lane) * size, np.uint8)
        for start in range(0, 64, size):
            begin = -room.ctypes.data % 64 + start
            out = room[begin : begin + 6 * inner * size].view(dtype).reshape(2, 3, inner)
            assert code(out) == (start // size if alike else 0)
            assert code(out[:, :, lane:]) == (start // size if alike else 0)


def array_of(dtype: Any, ndim: int) -> Any:
    return numba.types.Array(DTYPES[np.dtype(dtype).name], ndim, "A")


@of_large_results
def test_what_goes_past() -> None:
    """Large results in long runs of whole words, and not in place."""

    def asked(out: Any, run: int, x: Any, y: Any) -> bool:
        answer: bool = goes_past(view(out), run, view(x), view(y))
        return answer

    goes = numba.njit(asked).compile((array_of(np.float32, 2), numba.int64, *[array_of(np.float32, 2)] * 2))
    out, x, y = (np.empty((LEAST // 4096 + 1, 1024), np.float32) for _ in range(3))
    odd = np.empty(out.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(out.shape)
    assert goes(out, 1024, x, y)
    assert goes(out[::-1], 1024, x, y)
    assert not goes(out[2:], 1024, x, y)
    assert not goes(out, 95, x, y)
    assert not goes(odd, 1024, x, y)
    assert not goes(out, 1024, out, y)
    assert not goes(out, 1024, x, out)


of_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="looks for instructions of x86")


def assembly_of(name: str, dtype: str) -> str:
    kernel = KERNELS[name]["rows"]
    fresh = numba.jit(nopython=True)(kernel.dispatcher.py_func)  # code from the cache cannot be looked at
    fresh.compile(kernel.kinds(dtype, False))
    (assembly,) = fresh.inspect_asm().values()
    return str(assembly)


@of_x86
@pytest.mark.parametrize("name", ["softmax_backward", "cross_entropy_with_grad"])
def test_such_stores_are_compiled(name: str) -> None:
    if name == "cross_entropy_with_grad" and not has_avx512():
        pytest.skip("rows in step go past the caches only there")
    assembly = assembly_of(name, "float32")
    assert "movntps" in assembly
    assert ("movnti" in assembly) == (name == "cross_entropy_with_grad")
    assert re.search(r"mfence|lock\w*\s", assembly)


@of_x86
@pytest.mark.skipif(not has_f16c(), reason="converts by integers")
def test_no_half_goes_another_way() -> None:
    """Whole aligned registers, but for what is kept on the stack, are stored where results go past the caches alone."""
    assembly = assembly_of("softmax_backward", "float16")
    assert "movnt" in assembly
    assert not re.search(r"vmov(ap|dqa)\w*\s+%ymm\d+, [-\d]*\(%r(?!sp|bp)", assembly)


@of_large_results
@pytest.mark.parametrize("classes", [20, 32, 60])
@dtypes
def test_rows_asked_for_in_advance(dtype: Any, classes: int) -> None:
    """Batches of rows whose lines are asked for, with those that there are not, and the last of them not whole."""
    x = numbers((LEAST // 2 // (classes * np.dtype(dtype).itemsize) + 37, classes), dtype)
    target = np.arange(len(x)) % classes
    few = slice(len(x) - 100, len(x))
    for name in ("softmax", "log_softmax", "logsumexp"):
        function = getattr(fastsoftmax, name)
        np.testing.assert_array_equal(function(x, axis=-1)[few], function(x[few], axis=-1))
    loss, gradient = fastsoftmax.cross_entropy_with_grad(x, target, reduction="none")
    few_losses, few_gradients = fastsoftmax.cross_entropy_with_grad(x[few], target[few], reduction="none")
    np.testing.assert_array_equal(loss[few], few_losses)
    np.testing.assert_array_equal(gradient[few], few_gradients)
    np.testing.assert_array_equal(fastsoftmax.cross_entropy(x, target, reduction="none")[few], few_losses)
