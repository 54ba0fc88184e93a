"""Kernels take the caller's arrays as they are: shapes that change meanwhile, odd strides, labels of known calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastsoftmax
from fastsoftmax import _execute, _layout, threads


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp", "softmax_backward", "cross_entropy"])
def test_a_shape_that_changes_meanwhile(name: str, axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread gives an array a new shape after compiled code has looked at it: an answer, or an error."""
    x = np.random.default_rng(9).normal(size=(2, 512, 64)).astype(np.float32)
    more: tuple[Any, ...] = (x.copy(),) if name == "softmax_backward" else ()
    if name == "cross_entropy":
        more = (np.zeros((2, 512) if axis == -1 else (2, 64), np.int64),)
    for seen in ("in_rows", "in_columns"):
        original = getattr(_layout, seen)

        def changed(array: Any, *axes: int, original: Any = original) -> Any:
            array.shape = (2, 64, 512)
            return original(array, *axes)

        monkeypatch.setattr(_layout, seen, changed)
    for _ in range(20):
        x.shape = (2, 512, 64)
        try:
            result = getattr(fastsoftmax, name)(x, *more, axis=axis)
        except ValueError:
            continue
        assert np.size(result) > 0
    monkeypatch.undo()
    x.shape = (2, 512, 64)
    assert np.isfinite(getattr(fastsoftmax, name)(x, *more, axis=axis)).all()


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize(
    "name", ["softmax", "log_softmax", "logsumexp", "softmax_backward", "cross_entropy", "cross_entropy_with_grad"]
)
def test_a_shape_that_changes_after_python_has_looked(
    name: str, axis: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels take the caller's arrays as they are, and are told what they were planned for.

    It is the right answer, or an error and nothing is written: whether the call is remembered or not, and whichever of
    its arrays it is.
    """
    shape = (700, 64) if axis == -1 else (4, 64, 128)
    x = rng.normal(size=shape).astype(np.float32)
    rest = np.delete(shape, axis)
    out = np.full(rest if name == "logsumexp" else shape, 7, np.float32)
    others: tuple[np.ndarray, ...] = ()
    if name == "softmax_backward":
        others = (rng.normal(size=shape).astype(np.float32),)
    if name.startswith("cross_entropy"):
        others = (rng.integers(0, 64, rest),)
    into = {} if name == "cross_entropy" else {"out": out}

    def value() -> Any:
        with threads(1):  # others need not be at hand
            result = getattr(fastsoftmax, name)(x, *others, axis=axis, **into)
        return result[0] if name == "cross_entropy_with_grad" else result

    expected = np.array(value())
    alike = (x, *([] if name.startswith("cross") else others), *([out] if out.shape == shape and into else []))
    repeat = _execute.repeat
    for remembered in (False, True):
        for array in alike:
            for other in ((array.size,), (*shape[:-2], shape[-1], shape[-2])):
                out.fill(7)

                def changed(*given: Any, array: Any = array, other: Any = other, remembered: Any = remembered) -> Any:
                    array.shape = other
                    return repeat(*given) if remembered else None

                monkeypatch.setattr(_execute, "repeat", changed)
                got, refused = None, ""
                try:
                    got = value()
                except ValueError as error:
                    refused = str(error)
                if got is None:
                    assert "shape" in refused
                    assert (out == 7).all()
                else:
                    np.testing.assert_array_equal(got.reshape(expected.shape), expected)
                    assert not remembered or name == "logsumexp"  # which takes views of its own
                array.shape = shape
                monkeypatch.setattr(_execute, "repeat", repeat)
    np.testing.assert_array_equal(value(), expected)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp", "softmax_backward", "log_softmax_backward"])
@pytest.mark.parametrize("shape", [(64, 4096), (2, 2**18)])
def test_a_shape_that_changes_between_two_questions(
    name: str, shape: tuple[int, int], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before arrays are seen as kernels take them, and between the launches of long rows: nothing around `out`."""
    x, y = rng.normal(size=(2, *shape)).astype(np.float32)
    more = (y,) if name.endswith("backward") else ()
    size = shape[0] if name == "logsumexp" else x.size
    room = np.full(3 * x.size, 7, np.float32)
    out = room[x.size : x.size + size].reshape(shape[:1] if name == "logsumexp" else shape)
    alike, rows, launch = _layout.alike, _layout.in_rows, _execute._launch
    turned = (shape[1], shape[0])

    def changed(original: Any, array: np.ndarray, other: tuple[int, ...]) -> Any:
        def run(*given: Any, **named: Any) -> Any:
            array.shape = other
            return original(*given, **named)

        return run

    with threads(4):
        expected = getattr(fastsoftmax, name)(x, *more, axis=-1)
        for array, other in ((x, turned), (out, (1, out.size)), *((given, (1, given.size)) for given in more)):
            before = array.shape
            for where, attribute, original in (
                (_layout, "alike", alike),
                (_layout, "in_rows", rows),
                (_execute, "_launch", launch),
            ):
                room.fill(7)
                monkeypatch.setattr(where, attribute, changed(original, array, other))
                try:
                    result = getattr(fastsoftmax, name)(x, *more, axis=-1, out=out)
                except ValueError:
                    result = None
                monkeypatch.setattr(where, attribute, original)
                array.shape = before
                assert (room[: x.size] == 7).all()
                assert (room[x.size + size :] == 7).all()
                if result is not None and where is _execute:
                    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("shape", [(300, 100), (3000, 10), (4, 21, 300), (40, 3000)])
def test_labels_of_calls_that_are_remembered(
    shape: tuple[int, ...], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read anew each time: the first bad one is named and nothing is written, none that counts is NaN."""
    x = rng.normal(size=shape).astype(np.float32)
    labels = rng.integers(0, shape[1], (*shape[:1], *shape[2:]))
    out = np.empty_like(x)
    done: list[Any] = []
    repeat = _execute.repeat

    def recorded(*call: Any) -> Any:
        done.append(repeat(*call))
        return done[-1]

    monkeypatch.setattr(_execute, "repeat", recorded)
    for count in (1, 2):
        with threads(count):
            expected = fastsoftmax.cross_entropy_with_grad(x, labels, axis=1)
            for _ in range(3):
                loss, gradient = fastsoftmax.cross_entropy_with_grad(x, labels, axis=1, out=out)
                if count == 1:  # threads need not be at hand
                    assert np.float32(done[-1]) == loss
                assert loss == expected[0] == fastsoftmax.cross_entropy(x, labels, axis=1)
                np.testing.assert_array_equal(gradient, expected[1])
            for bad in (shape[1], -1, 2**40, -(2**63)):
                wrong = labels.copy()
                wrong[..., -1] = bad
                out.fill(7)
                with pytest.raises(IndexError, match=str(bad)):
                    fastsoftmax.cross_entropy_with_grad(x, wrong, axis=1, out=out)
                assert (out == 7).all()
            some = np.where(rng.random(labels.shape) < 0.5, -100, labels)
            loss, gradient = fastsoftmax.cross_entropy_with_grad(x, some, axis=1, out=out)
            again = fastsoftmax.cross_entropy_with_grad(x.astype(np.float32, order="F"), some, axis=1)
            assert loss == again[0]
            np.testing.assert_array_equal(gradient, again[1])
            assert np.isnan(fastsoftmax.cross_entropy(x, np.full_like(labels, -100), axis=1))


@pytest.mark.parametrize(
    ("shape", "axis"), [((1, 300, 128), 1), ((1, 40000), -1), ((50000, 1), -1), ((1, 2, 30000), 1)]
)
def test_strides_of_axes_of_one(shape: tuple[int, ...], axis: int, rng: np.random.Generator) -> None:
    """Such an axis may have any stride, and the array is contiguous nevertheless."""

    def odd(array: np.ndarray) -> np.ndarray:
        strides = [11 * step if length == 1 else step for step, length in zip(array.strides, array.shape, strict=True)]
        return np.lib.stride_tricks.as_strided(array, array.shape, strides)

    x, y = rng.normal(size=(2, *shape)).astype(np.float32)
    labels = rng.integers(0, shape[axis], np.delete(shape, axis))
    same, out = odd(x), odd(np.empty_like(x))
    assert same.flags.c_contiguous
    assert same.strides != x.strides
    for _ in range(2):
        np.testing.assert_array_equal(fastsoftmax.softmax(same, axis, out=out), fastsoftmax.softmax(x, axis))
        np.testing.assert_array_equal(fastsoftmax.logsumexp(same, axis), fastsoftmax.logsumexp(x, axis))
        expected = fastsoftmax.softmax_backward(x, y, axis)
        np.testing.assert_array_equal(fastsoftmax.softmax_backward(same, odd(y), axis, out=out), expected)
        loss, gradient = fastsoftmax.cross_entropy_with_grad(x, labels, axis=axis)
        assert fastsoftmax.cross_entropy(same, odd(labels), axis=axis) == loss
        found = fastsoftmax.cross_entropy_with_grad(same, odd(labels), axis=axis, out=out)
        assert found[0] == loss
        np.testing.assert_array_equal(found[1], gradient)
