"""Every mistake with cross_entropy: the error's type, what it says, and that nothing was written before it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from reference import Array
from strategies import Guarded

import fastsoftmax
from fastsoftmax import cross_entropy, cross_entropy_with_grad

X = np.arange(12, dtype=np.float32).reshape(3, 4)
TARGET = np.array([0, 3, 1])
PROBABILITIES = np.full((3, 4), 0.25, np.float32)
INTEGERS = [np.dtype(kind + size) for kind in "iu" for size in "1248"]

IMAGES = np.zeros((2, 5, 3, 4), np.float32)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """What threads change is the business of other tests, and each kernel for them takes its time to compile."""
    fastsoftmax.set_num_threads(1)


def refused(error: type[Exception], *says: str, call: Callable[..., Any]) -> str:
    """Assert that the call fails with this very type, that its message says all that it must."""
    with pytest.raises(error) as caught:
        call()
    assert caught.type is error
    message = str(caught.value)
    for pattern in says:
        assert re.search(pattern, message, re.IGNORECASE), f"the message should say {pattern!r}: {message}"
    return message


def both_refused(error: type[Exception], *says: str, x: Any = X, target: Any = TARGET, **options: Any) -> None:
    """By the loss alone, by the gradient into a guarded array, and by that in place; nothing is written."""
    x = np.asanyarray(x)
    refused(error, *says, call=lambda: cross_entropy(x, target, **options))
    kind = x.dtype if x.dtype.kind == "f" else np.dtype(np.float64)
    for gap in (1, 2):
        out = Guarded.make(x.shape, kind, gap=gap)
        refused(error, *says, call=lambda out=out: cross_entropy_with_grad(x, target, out=out.array, **options))
        assert out.untouched()
    before = x.tobytes()
    if x.flags.writeable and x.dtype.kind == "f":
        refused(error, *says, call=lambda: cross_entropy_with_grad(x, target, out=x, **options))
    assert x.tobytes() == before


# --- labels -----------------------------------------------------------------------------


def says_where(position: int | tuple[int, ...], value: int, classes: int, ignored: int = -100) -> list[str]:
    place = position if isinstance(position, tuple) else (position,)
    return [
        re.escape(str(list(place))),
        rf"(?<![\d-]){value}\b",
        rf"\b0 to {classes - 1}\b",
        rf"ignore_index is {ignored}",
    ]


@pytest.mark.parametrize("row", [0, 20, 39])
@pytest.mark.parametrize(
    "value", [-1, -2, -99, -101, 7, 8, 2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1, -(2**62), -(2**63)]
)
def test_bad_labels(value: int, row: int) -> None:
    target = np.arange(40) % 7
    target[3] = -100
    target[row] = value
    both_refused(IndexError, *says_where(row, value, 7), x=np.ones((40, 7), np.float32), target=target)
    both_refused(IndexError, *says_where(row, value, 7), x=np.ones((7, 40), np.float64), target=target, axis=0)


@pytest.mark.parametrize("options", [{"softcap": 3.0}, {"focal_gamma": 1.0}, {"weight": np.ones(7)}, {"z_loss": 0.1}])
def test_bad_labels_whatever_the_options(options: dict[str, Any]) -> None:
    target = np.arange(40) % 7
    target[39] = 7
    both_refused(IndexError, *says_where(39, 7, 7), x=np.ones((40, 7), np.float32), target=target, **options)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_bad_labels_of_every_integer_dtype(dtype: np.dtype[Any]) -> None:
    info = np.iinfo(dtype)
    for value in {int(info.max), 7, *([-1, int(info.min)] if dtype.kind == "i" else [])}:
        target = np.zeros(40, dtype)
        target[-1] = value
        both_refused(IndexError, *says_where(39, value, 7), x=np.ones((40, 7), np.float32), target=target)
        swapped = target.astype(dtype.newbyteorder())
        both_refused(IndexError, *says_where(39, value, 7), x=np.ones((40, 7), np.float32), target=swapped)


def test_the_first_bad_label_is_named() -> None:
    """In the order of the indices, however the labels lie."""
    target = np.zeros((2, 3, 4), int)
    target[0, 2, 3], target[1, 0, 0] = 9, -7
    for labels in (target, np.asfortranarray(target), target[:, ::-1].copy()[:, ::-1]):
        both_refused(IndexError, *says_where((0, 2, 3), 9, 5), x=IMAGES, target=labels, axis=1)
        both_refused(IndexError, *says_where((0, 2, 3), 9, 5), x=np.asfortranarray(IMAGES), target=labels, axis=1)


def test_bad_label_of_one_row() -> None:
    refused(IndexError, r"target is 4\b", "0 to 3", call=lambda: cross_entropy(X[0], 4))


@pytest.mark.parametrize("value", [-1, 4, 2**62])
def test_bad_label_in_the_last_of_a_million_rows(value: int) -> None:
    fastsoftmax.set_num_threads(2)
    target = np.arange(1_000_000) % 4
    target[-1] = value
    x = np.ones((1_000_000, 4), np.float32)
    out = Guarded.make(x.shape, np.float32)
    says = says_where(999_999, value, 4)
    refused(IndexError, *says, call=lambda: cross_entropy_with_grad(x, target, out=out.array))
    assert out.untouched()
    refused(IndexError, *says, call=lambda: cross_entropy_with_grad(x, target, out=x))
    assert (x == 1).all()


def test_bad_labels_from_threads() -> None:
    """Each thread gets its own error, others their results."""
    x, good = np.random.default_rng(0).normal(size=(500, 10)).astype(np.float32), np.arange(500) % 10
    expected = cross_entropy(x, good)
    problems: list[str] = []

    def work(number: int) -> None:
        for turn in range(20):
            target = good.copy()
            row = (number * 20 + turn) % 500
            target[row] = 10 + number
            out = Guarded.make(x.shape, np.float32)
            try:
                cross_entropy_with_grad(x, target, out=out.array)
                problems.append("no error")
            except IndexError as error:
                if f"[{row}] is {10 + number}:" not in str(error) or not out.untouched():
                    problems.append(str(error))
            if cross_entropy(x, good) != expected:
                problems.append("another result")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


@pytest.mark.parametrize("ignored", [0, 3, -1, 255, 2**40, -(2**63)])
def test_ignore_index_can_be_any_integer(ignored: int) -> None:
    target = np.array([0, 3, 1])
    target[1] = ignored
    counted = target != ignored
    loss = cross_entropy(X, target, ignore_index=ignored, reduction="sum")
    assert loss == cross_entropy(X[counted], target[counted], reduction="sum")


def test_labels_next_to_a_large_ignore_index() -> None:
    """Which float64 takes for it."""
    for wrong, ignored in ((2**53, 2**53 + 1), (2**62 + 1, 2**62)):
        target = np.array([0, wrong, 1])
        both_refused(IndexError, *says_where(1, wrong, 4, ignored), target=target, ignore_index=ignored)


def test_no_classes() -> None:
    """No label is valid then."""
    with pytest.raises(IndexError, match=r"\[0\] is 0"):
        cross_entropy(np.ones((2, 0)), [0, 0])
    assert cross_entropy_with_grad(np.ones((0, 4)), np.ones(0, int), reduction="none")[1].shape == (0, 4)


# --- targets that are none --------------------------------------------------------------

UNFIT: dict[str, tuple[Any, list[str]]] = {
    "float": (np.array([0.0, 3.0, 1.0]), ["float64", r"astype\(int\)"]),
    "float32": (np.array([0, 3, 1], np.float32), ["float32", r"astype\(int\)"]),
    "bool": (np.array([False, True, True]), ["bool", r"astype\(int\)"]),
    "string": (["0", "3", "1"], [r"<U1|str"]),
    "bytes": (np.array([b"0", b"3", b"1"]), [r"S1|bytes"]),
    "object": (np.array([0, 3, 1], object), ["object"]),
    "none": (None, ["object"]),
    "datetime": (np.array([0, 3, 1], "M8[s]"), ["datetime64"]),
    "complex": (np.array([0, 3, 1], complex), ["complex128"]),
    "masked": (np.ma.masked_array([0, 3, 1], [0, 1, 0]), ["masked", r"filled\(ignore_index\)"]),
    "masked-nothing": (np.ma.masked_array([0, 3, 1]), ["masked", r"filled\(ignore_index\)"]),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_dtype_of_the_target(kind: str) -> None:
    target, says = UNFIT[kind]
    both_refused(TypeError, "target", *says, target=target)


@pytest.mark.parametrize("dtype", [bool, complex, object, "U3"])
def test_dtype_of_probabilities(dtype: Any) -> None:
    both_refused(TypeError, "target", target=np.ones(X.shape).astype(dtype))


def test_masked_logits() -> None:
    x = np.ma.masked_array(X.copy(), False)
    refused(TypeError, "logits", "masked", call=lambda: cross_entropy(x, TARGET))


# --- shapes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "target", "axis", "fix"),
    [
        (IMAGES, np.zeros((2, 3, 4), int), -1, r"axis=1\b"),
        (IMAGES, np.zeros((2, 5, 3), int), 1, r"axis=3\b"),
        (IMAGES, np.zeros((5, 3, 4), int), 1, r"axis=0\b"),
        (X, np.zeros(4, int), -1, r"axis=0\b"),
        (X, np.zeros(3, int), 0, r"axis=1\b"),
        (X, np.zeros((3, 4), int), -1, "probabilities.*floating"),
        (X, np.zeros((3, 1), int), -1, r"\(3,\)"),
        (X, np.zeros(2, int), -1, r"\(3,\)"),
        (X, 0, -1, r"\(3,\)"),
        (X, np.zeros((4, 3)), -1, r"\(3, 4\)"),
        (X, np.zeros((1, 4)), -1, r"\(3, 4\)"),
        (X, np.zeros(4), -1, r"\(3, 4\)"),
    ],
)
def test_shape_of_the_target(x: Array, target: Any, axis: int, fix: str) -> None:
    says = ["target", re.escape(str(np.shape(target))), re.escape(str(x.shape)), fix]
    both_refused(ValueError, *says, x=x, target=target, axis=axis)


@pytest.mark.parametrize("axis", [2, -3])
def test_axis_out_of_range(axis: int) -> None:
    both_refused(np.exceptions.AxisError, str(axis), axis=axis)


@pytest.mark.parametrize("axis", [None, (0, 1), 1.0, "1"])
def test_axis_that_is_no_integer(axis: Any) -> None:
    both_refused(TypeError, "axis", re.escape(repr(axis)), axis=axis)


def test_logits_without_axes() -> None:
    refused(ValueError, "logits", "axes", call=lambda: cross_entropy(1.0, 0))


# --- numbers of rows and classes --------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("name", "size"), [("weight", 4), ("sample_weight", 3), ("grad_output", 3)], ids=lambda v: str(v)
)
def test_numbers_that_are_not_finite(name: str, size: int, bad: float) -> None:
    values = np.ones(size)
    values[2] = bad
    says = [rf"{name}\[2\]", re.escape(str(bad)), "finite"]
    if name == "grad_output":
        call = lambda: cross_entropy_with_grad(X, TARGET, reduction="none", grad_output=values)  # noqa: E731
        refused(ValueError, *says, call=call)
    else:
        both_refused(ValueError, *says, **{name: values})
        both_refused(ValueError, *says, target=PROBABILITIES, **{name: values})


@pytest.mark.parametrize(
    ("name", "shape", "needed"),
    [("weight", (3,), (4,)), ("weight", (1, 4), (4,)), ("sample_weight", (4,), (3,)), ("sample_weight", (3, 1), (3,))],
)
def test_shape_of_weights(name: str, shape: tuple[int, ...], needed: tuple[int, ...]) -> None:
    says = [name, re.escape(str(shape)), re.escape(str(needed))]
    both_refused(ValueError, *says, **{name: np.ones(shape)})


@pytest.mark.parametrize("name", ["weight", "sample_weight"])
@pytest.mark.parametrize("values", [["a"] * 3, [None] * 3, np.ones(3, complex), np.ma.masked_array(np.ones(3))])
def test_dtype_of_weights(name: str, values: Any) -> None:
    both_refused(TypeError, name, x=np.ones((3, 3), np.float32), target=[0, 1, 2], **{name: values})


@pytest.mark.parametrize(("reduction", "shape"), [("none", (4,)), ("none", (3, 4)), ("mean", (3,)), ("sum", (3,))])
def test_shape_of_grad_output(reduction: str, shape: tuple[int, ...]) -> None:
    out = Guarded.make(X.shape, X.dtype)
    options: dict[str, Any] = {"reduction": reduction, "grad_output": np.ones(shape), "out": out.array}
    call = lambda: cross_entropy_with_grad(X, TARGET, **options)  # noqa: E731
    refused(ValueError, "grad_output", re.escape(str(shape)), "shape", call=call)
    assert out.untouched()


# --- options ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("label_smoothing", value) for value in (-0.1, 1.1, np.nan, np.inf)),
        *(("temperature", value) for value in (0, -1.0, np.nan, np.inf)),
        *(("softcap", value) for value in (0, -30.0, np.nan, np.inf)),
        *(("z_loss", value) for value in (-1e-4, np.nan, np.inf)),
        *(("focal_gamma", value) for value in (-2.0, np.nan, np.inf)),
        *(("num_items", value) for value in (0, -5, np.nan, np.inf)),
        ("reduction", "average"),
        ("reduction", None),
        ("reduction", "MEAN"),
    ],
)
def test_options_out_of_range(name: str, value: Any) -> None:
    both_refused(ValueError, name, re.escape(repr(value)), "give", **{name: value})


@pytest.mark.parametrize("name", ["label_smoothing", "temperature", "softcap", "z_loss", "focal_gamma", "num_items"])
@pytest.mark.parametrize("value", ["1", [0.5, 0.5], np.ones(2), 1j, {}])
def test_options_that_are_no_numbers(name: str, value: Any) -> None:
    both_refused(TypeError, name, "number", **{name: value})


@pytest.mark.parametrize("value", [1.5, "0", None, [1]])
def test_ignore_index_that_is_no_integer(value: Any) -> None:
    both_refused(TypeError, "ignore_index", re.escape(repr(value)), "integer", ignore_index=value)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_num_items_is_for_the_mean(reduction: str) -> None:
    both_refused(ValueError, "num_items", "mean", num_items=3, reduction=reduction)


def test_ignore_index_is_for_class_indices() -> None:
    both_refused(ValueError, "ignore_index", "probabilities", "sample_weight", target=PROBABILITIES, ignore_index=0)


def test_options_that_do_not_exist() -> None:
    for option in ({"dim": 1}, {"size_average": True}, {"reduce": True}):
        with pytest.raises(TypeError, match=next(iter(option))):
            cross_entropy(X, TARGET, **option)
    with pytest.raises(TypeError, match="positional"):
        cross_entropy(X, TARGET, 1)  # type: ignore[misc]


# --- out --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32])
def test_dtype_of_out(dtype: Any) -> None:
    out = Guarded.make(X.shape, dtype)
    call = lambda: cross_entropy_with_grad(X, TARGET, out=out.array)  # noqa: E731
    refused(TypeError, "out", str(np.dtype(dtype)), "float32", call=call)
    assert out.untouched()


def test_integers_cannot_be_their_own_gradient() -> None:
    x = X.astype(np.int64)
    refused(TypeError, "out", "int64", "float64", call=lambda: cross_entropy_with_grad(x, TARGET, out=x))


@pytest.mark.parametrize("shape", [(4, 3), (3, 5), (12,), (1, 3, 4)])
def test_shape_of_out(shape: tuple[int, ...]) -> None:
    out = Guarded.make(shape, np.float32)
    call = lambda: cross_entropy_with_grad(X, TARGET, out=out.array)  # noqa: E731
    refused(ValueError, "out", re.escape(str(shape)), re.escape(str(X.shape)), call=call)
    assert out.untouched()


def test_read_only_out() -> None:
    x = X.copy()
    x.flags.writeable = False
    refused(ValueError, "out", "read-only|writ", call=lambda: cross_entropy_with_grad(x, TARGET, out=x))
    assert cross_entropy(x, TARGET) == cross_entropy(X, TARGET)


@pytest.mark.parametrize("out", [[0.0], "here", np.ma.masked_array(np.ones((3, 4), np.float32))], ids=lambda v: str(v))
def test_out_that_is_no_array(out: Any) -> None:
    refused(TypeError, "out", "array", call=lambda: cross_entropy_with_grad(X, TARGET, out=out))
