"""Every mistake a user can make: the type of the error, the value and the remedy in its message.

Calls are made with a guarded ``out=``, so that a refused one is also seen to have written nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from reference import BFLOAT16
from strategies import Guarded

import fastsoftmax

MAPS = ("softmax", "log_softmax")
FUNCTIONS = (*MAPS, "logsumexp")
BACKWARD = ("softmax_backward", "log_softmax_backward")

every_map = pytest.mark.parametrize("name", MAPS)
every_function = pytest.mark.parametrize("name", FUNCTIONS)
every_backward = pytest.mark.parametrize("name", BACKWARD)

X = np.arange(12, dtype=np.float32).reshape(3, 4)


def refused(error: type[Exception], *says: str, call: Callable[..., Any], out: Guarded | None = None) -> None:
    """Assert that the call fails with this very type, that its message says all that it must.

    `says` are regular expressions, case ignored: the first ones the value, the last one the remedy.
    """
    with pytest.raises(error) as caught:
        call()
    assert caught.type is error
    for pattern in says:
        assert re.search(pattern, str(caught.value), re.IGNORECASE), (
            f"the message should say {pattern!r}: {caught.value}"
        )
    assert out is None or out.untouched()


def result_shape(name: str, shape: tuple[int, ...], reduced: tuple[int, ...]) -> tuple[int, ...]:
    return reduced if name == "logsumexp" else shape


# --- the input --------------------------------------------------------------------------

UNFIT = {
    "object": (np.array([1.5, None, 2], object), ["object", r"float"]),
    "fractions": ([Fraction(1, 2), Fraction(1, 3), 1], ["object", r"float"]),
    "none": (None, ["object", r"float"]),
    "string": (["1", "2", "3"], [r"str|<U1", r"float"]),
    "bytes": (np.array([b"1", b"2", b"3"]), [r"bytes|S1", r"float"]),
    "datetime": (np.array([datetime(2026, 1, 1)] * 3, "M8[s]"), ["datetime64", r"float|int"]),
    "timedelta": (np.arange(3).astype("m8[s]"), ["timedelta64", r"float|int"]),
    "complex": (np.array([1 + 2j, 3, 4]), ["complex128", r"\.real|real part|abs"]),
    "complex64": (np.array([1 + 2j, 3, 4], np.complex64), ["complex64", r"\.real|real part|abs"]),
    "structured": (np.zeros(3, "f4,i4"), [r"f0|void|structured", r"field|float"]),
    "masked": (np.ma.masked_array([1.0, 2, 3], [0, 1, 0]), ["masked", r"where"]),
    "masked-nothing": (np.ma.masked_array([1.0, 2, 3]), ["masked", r"where"]),
}


@every_function
@pytest.mark.parametrize("kind", UNFIT)
def test_dtype_of_the_input(name: str, kind: str) -> None:
    x, says = UNFIT[kind]
    out = Guarded.make(result_shape(name, np.shape(x), ()), np.float64)
    function = getattr(fastsoftmax, name)
    refused(TypeError, *says, call=lambda: function(x), out=out)
    refused(TypeError, *says, call=lambda: function(x, out=out.array), out=out)


@every_function
@pytest.mark.skipif(np.dtype(np.longdouble) == np.dtype(np.float64), reason="long double is float64 here")
def test_long_double_names_what_is_supported(name: str) -> None:
    x = np.ones(3, np.longdouble)
    says = [str(x.dtype), "float16", "bfloat16", "float32", "float64"]
    refused(TypeError, *says, call=lambda: getattr(fastsoftmax, name)(x))


@every_function
@pytest.mark.skipif(BFLOAT16 is None, reason="ml_dtypes is not installed")
@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_float8_names_what_is_supported(name: str, dtype: str) -> None:
    import ml_dtypes

    x = np.ones(3, getattr(ml_dtypes, dtype))
    says = [dtype, "float16", "bfloat16", "float32", "float64"]
    refused(TypeError, *says, call=lambda: getattr(fastsoftmax, name)(x))


@every_function
def test_ragged_lists(name: str) -> None:
    with pytest.raises(ValueError, match="inhomogeneous"):
        getattr(fastsoftmax, name)([[1.0, 2.0], [3.0]])


# --- axis -------------------------------------------------------------------------------


@every_function
@pytest.mark.parametrize("axis", [2, -3, 100, (0, 2), (-3, 1)])
def test_axis_out_of_range(name: str, axis: Any) -> None:
    out = Guarded.make(result_shape(name, X.shape, (3,)), np.float32)
    wrong = [a for a in np.atleast_1d(axis) if not -2 <= a < 2]
    refused(
        np.exceptions.AxisError,
        rf"(?<![\d-]){wrong[0]}\b",
        r"\b2\b",
        call=lambda: getattr(fastsoftmax, name)(X, axis=axis, out=out.array),
        out=out,
    )


@every_function
@pytest.mark.parametrize("axis", [1, -2])
def test_axis_of_a_scalar(name: str, axis: int) -> None:
    with pytest.raises(np.exceptions.AxisError, match=rf"(?<![\d-]){axis}\b"):
        getattr(fastsoftmax, name)(3.0, axis=axis)


@every_function
@pytest.mark.parametrize("axis", [(0, 0), (0, -2), (1, 0, -1)])
def test_axis_twice(name: str, axis: tuple[int, ...]) -> None:
    out = Guarded.make(result_shape(name, X.shape, ()), np.float32)
    call = lambda: getattr(fastsoftmax, name)(X, axis=axis, out=out.array)  # noqa: E731
    refused(ValueError, re.escape(str(axis)), "duplicate|twice|once|repeat", call=call, out=out)


@every_function
@pytest.mark.parametrize("axis", [1.5, "0", [0, 1], (0, 1.0), 1j, (0, None)])
def test_axis_that_is_no_integer(name: str, axis: Any) -> None:
    call = lambda: getattr(fastsoftmax, name)(X, axis=axis)  # noqa: E731
    refused(TypeError, re.escape(repr(axis)), "int", "tuple", call=call)


# --- where ------------------------------------------------------------------------------


@every_function
@pytest.mark.parametrize("shape", [(4, 3), (3,), (2, 4), (2, 3, 4), (3, 4, 1)])
def test_where_that_does_not_broadcast(name: str, shape: tuple[int, ...]) -> None:
    out = Guarded.make(result_shape(name, X.shape, (3,)), np.float32)
    refused(
        ValueError,
        "where",
        re.escape(str(shape)),
        re.escape(str(X.shape)),
        "broadcast",
        call=lambda: getattr(fastsoftmax, name)(X, axis=-1, where=np.ones(shape, bool), out=out.array),
        out=out,
    )


@every_function
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32, object])
def test_where_that_is_not_boolean(name: str, dtype: Any) -> None:
    """NumPy too refuses: 0/1, weights and indices all look like this."""
    where = np.ones(X.shape, dtype)
    call = lambda: getattr(fastsoftmax, name)(X, axis=-1, where=where)  # noqa: E731
    refused(TypeError, "where", str(where.dtype), "bool", call=call)


# --- temperature ------------------------------------------------------------------------


@every_map
@pytest.mark.parametrize("value", [0, 0.0, -0.0, -1.5, np.inf, -np.inf, np.nan, np.float32(-2)])
def test_temperature_out_of_range(name: str, value: Any) -> None:
    out = Guarded.make(X.shape, np.float32)
    call = lambda: getattr(fastsoftmax, name)(X, temperature=value, out=out.array)  # noqa: E731
    refused(
        ValueError,
        "temperature",
        re.escape(str(value)),
        "finite",
        "positive|> 0|above 0|greater",
        call=call,
        out=out,
    )


@every_map
@pytest.mark.parametrize("value", ["1", None, [1.0, 2.0], np.ones(3), 1j])
def test_temperature_that_is_no_number(name: str, value: Any) -> None:
    call = lambda: getattr(fastsoftmax, name)(X, temperature=value)  # noqa: E731
    refused(TypeError, "temperature", re.escape(repr(value)), "number|float|scalar", call=call)


# --- dtype ------------------------------------------------------------------------------


@every_map
@pytest.mark.parametrize("dtype", [np.int32, bool, complex, np.longdouble, "S4", object])
def test_dtype_that_is_no_result(name: str, dtype: Any) -> None:
    call = lambda: getattr(fastsoftmax, name)(X, dtype=dtype)  # noqa: E731
    says = ["dtype", str(np.dtype(dtype)), "float16", "bfloat16", "float32", "float64"]
    refused(TypeError, *says, call=call)


@every_map
def test_dtype_that_does_not_exist(name: str) -> None:
    with pytest.raises(TypeError, match="nonsense"):
        getattr(fastsoftmax, name)(X, dtype="nonsense")


# --- out --------------------------------------------------------------------------------


@every_function
@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.complex64, ">f4"])
def test_dtype_of_out(name: str, dtype: Any) -> None:
    out = Guarded.make(result_shape(name, X.shape, (3,)), dtype)
    wrong = ">f4|big|byte" if dtype == ">f4" else str(np.dtype(dtype))
    call = lambda: getattr(fastsoftmax, name)(X, axis=1, out=out.array)  # noqa: E731
    refused(TypeError, "out", wrong, "float32", call=call, out=out)


@every_function
@pytest.mark.parametrize("dtype", [np.int8, np.int64])
def test_dtype_of_out_for_integers(name: str, dtype: Any) -> None:
    """An integer array cannot be its own output."""
    x = np.ones(4, dtype)
    out = Guarded.make(result_shape(name, x.shape, ()), dtype)
    needed = "float32" if dtype == np.int8 else "float64"
    call = lambda: getattr(fastsoftmax, name)(x, out=out.array)  # noqa: E731
    refused(TypeError, "out", str(np.dtype(dtype)), needed, call=call, out=out)


@every_map
def test_dtype_of_out_with_dtype(name: str) -> None:
    out = Guarded.make(X.shape, np.float32)
    call = lambda: getattr(fastsoftmax, name)(X, dtype=np.float64, out=out.array)  # noqa: E731
    refused(TypeError, "out", "float32", "float64", call=call, out=out)


@every_map
@pytest.mark.parametrize("shape", [(4, 3), (12,), (3, 4, 1), (1, 3, 4), (3, 5), ()])
def test_shape_of_out(name: str, shape: tuple[int, ...]) -> None:
    """No broadcasting into a larger output either: that writes the same row many times."""
    out = Guarded.make(shape, np.float32)
    call = lambda: getattr(fastsoftmax, name)(X, axis=1, out=out.array)  # noqa: E731
    refused(ValueError, "out", re.escape(str(shape)), re.escape(str(X.shape)), call=call, out=out)


@pytest.mark.parametrize(("keepdims", "shape"), [(False, (3, 1)), (False, (4,)), (True, (3,)), (True, ())])
def test_shape_of_out_of_a_reduction(keepdims: bool, shape: tuple[int, ...]) -> None:
    out = Guarded.make(shape, np.float32)
    needed = (3, 1) if keepdims else (3,)
    refused(
        ValueError,
        "out",
        re.escape(str(shape)),
        re.escape(str(needed)),
        call=lambda: fastsoftmax.logsumexp(X, axis=1, keepdims=keepdims, out=out.array),
        out=out,
    )


@every_function
def test_read_only_out(name: str) -> None:
    out = Guarded.make(result_shape(name, X.shape, (3,)), np.float32)
    out.array.flags.writeable = False
    call = lambda: getattr(fastsoftmax, name)(X, axis=1, out=out.array)  # noqa: E731
    refused(ValueError, "out", "read-only|writ[e]?able", call=call, out=out)


@every_function
@pytest.mark.parametrize("out", [[0.0] * 4, "here", 3.5, (np.zeros(4),), bytearray(32)])
def test_out_that_is_no_array(name: str, out: Any) -> None:
    call = lambda: getattr(fastsoftmax, name)(np.ones(4), out=out)  # noqa: E731
    refused(TypeError, "out", type(out).__name__, "ndarray|array", call=call)


@every_function
def test_masked_out(name: str) -> None:
    """Its mask would go on hiding results."""
    out = np.ma.masked_array(np.full(result_shape(name, (4,), ()), 7.0), True)
    refused(TypeError, "out", "masked", call=lambda: getattr(fastsoftmax, name)(np.ones(4), out=out))
    assert (out.data == 7).all()


@every_map
def test_out_with_elements_at_one_address(name: str) -> None:
    out = Guarded.make((4,), np.float32)
    several = np.lib.stride_tricks.as_strided(out.array, (3, 4), (0, 4))
    call = lambda: getattr(fastsoftmax, name)(X, axis=1, out=several)  # noqa: E731
    refused(ValueError, "out", "overlap|same memory|one address|stride", call=call, out=out)


# --- logsumexp's weights ----------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4), (5, 1, 3)])
def test_weights_that_do_not_broadcast(shape: tuple[int, ...]) -> None:
    out = Guarded.make((3,), np.float32)
    b = np.ones(shape, np.float32)
    says = [r"\bb\b", re.escape(str(shape)), re.escape(str(X.shape)), "broadcast"]
    call = lambda: fastsoftmax.logsumexp(X, axis=1, b=b, out=out.array)  # noqa: E731
    refused(ValueError, *says, call=call, out=out)


@pytest.mark.parametrize("kind", [kind for kind in UNFIT if kind != "none"])
def test_dtype_of_the_weights(kind: str) -> None:
    b, says = UNFIT[kind]
    refused(TypeError, r"\bb\b", *says, call=lambda: fastsoftmax.logsumexp(np.ones(3), b=b))


# --- the calls themselves ---------------------------------------------------------------


@every_map
@pytest.mark.parametrize("option", [{"b": 1}, {"dim": -1}, {"keepdims": True}])
def test_options_that_do_not_exist(name: str, option: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(option))):
        getattr(fastsoftmax, name)(X, **option)


@every_map
def test_only_the_axis_is_positional(name: str) -> None:
    with pytest.raises(TypeError, match="positional"):
        getattr(fastsoftmax, name)(X, -1, None)


# --- backward ---------------------------------------------------------------------------


@every_backward
@pytest.mark.parametrize("shape", [(4, 3), (3, 1), (4,), (3, 5), (1, 3, 4), ()])
def test_backward_shapes(name: str, shape: tuple[int, ...]) -> None:
    """A gradient has the shape of what it is the gradient of; broadcasting hides mistakes."""
    out = Guarded.make(X.shape, np.float32)
    gradient = np.ones(shape, np.float32)
    says = ["grad_output", re.escape(str(shape)), re.escape(str(X.shape)), "same shape|shape"]
    call = lambda: getattr(fastsoftmax, name)(gradient, X, axis=-1, out=out.array)  # noqa: E731
    refused(ValueError, *says, call=call, out=out)


@every_backward
@pytest.mark.parametrize(("which", "argument"), [(0, "grad_output"), (1, "output")])
@pytest.mark.parametrize("kind", [kind for kind in UNFIT if kind != "none"])
def test_backward_dtypes(name: str, which: int, argument: str, kind: str) -> None:
    x, says = UNFIT[kind]
    arrays: list[Any] = [np.ones(3), np.ones(3)]
    arrays[which] = x
    refused(TypeError, rf"\b{argument}\b", *says, call=lambda: getattr(fastsoftmax, name)(*arrays))


@every_backward
def test_backward_out(name: str) -> None:
    function = getattr(fastsoftmax, name)
    wrong = Guarded.make((4, 3), np.float32)
    call = lambda: function(X, X, axis=-1, out=wrong.array)  # noqa: E731
    refused(ValueError, "out", r"\(4, 3\)", r"\(3, 4\)", call=call, out=wrong)
    wrong = Guarded.make(X.shape, np.float64)
    call = lambda: function(X, X, axis=-1, out=wrong.array)  # noqa: E731
    refused(TypeError, "out", "float64", "float32", call=call, out=wrong)
    wrong = Guarded.make(X.shape, np.float32)
    wrong.array.flags.writeable = False
    call = lambda: function(X, X, axis=-1, out=wrong.array)  # noqa: E731
    refused(ValueError, "out", "read-only|writ[e]?able", call=call, out=wrong)


@every_backward
@pytest.mark.parametrize("axis", [2, -3])
def test_backward_axis(name: str, axis: int) -> None:
    out = Guarded.make(X.shape, np.float32)
    call = lambda: getattr(fastsoftmax, name)(X, X, axis=axis, out=out.array)  # noqa: E731
    refused(np.exceptions.AxisError, str(axis), call=call, out=out)
