"""The user's arguments as what kernels take. Every error of a user is raised here, before anything is written."""

from __future__ import annotations

import functools
import math
import operator
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import numpy as np

from ._layout import View, views

SUPPORTED = "float16, bfloat16 (of ml_dtypes), float32, float64, integers and bool"
FLOATING = "float16, bfloat16 (of ml_dtypes), float32 or float64"

# What a temperature may be: beyond it, x/temperature leaves the range in which float32 keeps its
# digits.
LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-30, 1e30

# The very object that stands for no temperature, so that the shortest of calls need not compare numbers.
ONE = 1.0

_NAMES: dict[np.dtype, str] = {np.dtype(name): name for name in ("float32", "float64", "float16")}


class Request(NamedTuple):
    """One call, checked: what to read and write, and how.

    Attributes
    ----------
    arrays, out
        What is read and what is written, of the caller's shape; `out` may be a private copy.
    axes
        The class axes, sorted.
    dtype
        Name of the dtype that kernels see.
    views
        The arrays as kernels take them, `out` last; None if they must go through blocks.
    where
        A mask of the arrays' shape, or None.
    scale
        ``1/temperature`` as kernels take it, or None.
    result
        What is returned: the memory of `out` in its final shape, or the caller's array.
    private
        Whether `out` is not the memory of `result` and must be copied to it at the end.
    """

    arrays: tuple[np.ndarray, ...]
    out: np.ndarray
    axes: tuple[int, ...]
    dtype: str
    views: list[View] | None
    where: np.ndarray | None
    scale: tuple[float, float, float, float] | None
    result: np.ndarray
    private: bool = False


def dtype_name(dtype: np.dtype) -> str | None:
    """The kernels' name of a dtype in this machine's byte order, or None if no kernel computes in it."""
    name = _NAMES.get(dtype)
    if name is None and dtype.kind == "V" and dtype.itemsize == 2 and dtype.name == "bfloat16":
        # Known only once somebody has imported ml_dtypes and made an array with it.
        _NAMES[dtype] = name = "bfloat16"
    return name


def name_of(kind: np.dtype) -> str:
    """The kernels' name of a dtype that they compute in."""
    name = dtype_name(kind)
    assert name is not None
    return name


# -- one argument at a time
# --------------------------------------------------------------------------------


def array_of(x: Any, name: str) -> np.ndarray:
    """`x` as a plain array of a supported dtype, without a copy where NumPy can do without."""
    if type(x) is np.ndarray and x.dtype in _NAMES:
        return x
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: pass {name}.data and where=~{name}.mask")
    try:
        array = np.asarray(x)
    except TypeError as error:
        raise TypeError(f"{name} of type {type(x).__name__} cannot be read as an array: {error}") from error
    kind = array.dtype.kind
    if kind in "iub" or dtype_name(array.dtype.newbyteorder("=")) or dtype_name(array.dtype):
        return array
    advice = {
        "c": "take its real part",
        "O": "convert it, for example with np.asarray(x, dtype=float)",
        "U": "convert the text to numbers",
        "S": "convert the text to numbers",
        "M": "convert it to numbers",
        "m": "convert it to numbers",
        "f": "convert it to float64",
    }.get(kind, "convert it")
    raise TypeError(f"{name} has dtype {array.dtype}: {advice}; supported are {SUPPORTED}")


def axes_of(axis: Any, ndim: int) -> tuple[int, ...]:
    """The class axes, sorted and without sign; None means all."""
    if type(axis) is int and -ndim <= axis < ndim:
        return (axis % ndim,)
    if axis is None:
        return tuple(range(ndim))
    wanted = axis if isinstance(axis, tuple) else (axis,)
    try:
        numbers = tuple(operator.index(a) for a in wanted)
    except TypeError:
        raise TypeError(f"axis is {axis!r}: give an integer, a tuple of integers, or None") from None
    for a in numbers:
        # As in NumPy's reductions, a number has one axis to itself.
        if not -max(ndim, 1) <= a < max(ndim, 1):
            raise np.exceptions.AxisError(a, ndim, "axis")
    if ndim == 0:
        return ()
    normal = tuple(a % ndim for a in numbers)
    if len(set(normal)) < len(normal):
        raise ValueError(f"axis is {axis!r}, which names an axis twice: name each once")
    return tuple(sorted(normal))


def promoted(dtype: np.dtype) -> np.dtype:
    """The dtype of the result for logits of this dtype."""
    if dtype.kind in "iub":
        return np.dtype("float32" if dtype.itemsize <= 2 else "float64")
    native: np.dtype = dtype if dtype_name(dtype) else dtype.newbyteorder("=")
    return native


def result_dtype(dtype: Any, x: np.ndarray) -> np.dtype:
    """The dtype to compute and return, from the argument `dtype` and the logits."""
    if dtype is None:
        return promoted(x.dtype)
    try:
        wanted: np.dtype = np.dtype(dtype)
    except TypeError as error:
        raise TypeError(f"dtype is {dtype!r}: give {FLOATING}") from error
    if dtype_name(wanted) is None:
        raise TypeError(f"dtype is {wanted}: give {FLOATING}")
    return wanted


def mask_of(where: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """`where` as a mask of the logits' shape, or None."""
    if where is None or where is True:
        return None
    mask = np.asarray(where)
    if mask.dtype != bool:
        raise TypeError(f"where has dtype {mask.dtype}: give booleans, for example where != 0")
    try:
        return np.broadcast_to(mask, shape)
    except ValueError:
        raise ValueError(
            f"where has shape {mask.shape}, which does not broadcast to the shape {shape} of the logits"
        ) from None


def number_of(value: Any) -> float | None:
    """A number as float, infinite if it is too large; None if it is no number."""
    if type(value) is float:
        return value
    try:
        return None if isinstance(value, (str, bytes)) or np.ndim(value) else float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return None


def scale_of(temperature: Any) -> tuple[float, float, float, float] | None:
    """``1/temperature`` as a pair of float32 and a pair of float64 numbers; None for 1."""
    t = number_of(temperature)
    if t is None:
        raise TypeError(f"temperature is {temperature!r}: give one positive number")
    if not LEAST_TEMPERATURE <= t <= MOST_TEMPERATURE:
        raise ValueError(
            f"temperature is {temperature!r}: give a finite number above 0 "
            f"(from {LEAST_TEMPERATURE:g} to {MOST_TEMPERATURE:g})"
        )
    return None if t == 1.0 else _reciprocal(t)


@functools.lru_cache(maxsize=256)
def _reciprocal(t: float) -> tuple[float, float, float, float]:
    exact = 1 / Fraction(t)
    scale = float(exact)
    single = float(np.float32(scale))
    return (
        single,
        float(np.float32(exact - Fraction(single))),
        scale,
        float(exact - Fraction(scale)),
    )


def out_of(out: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The caller's `out`, if it can take the result."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out is a {type(out).__name__}: give a plain NumPy array")
    if out.dtype != dtype:
        raise TypeError(f"out has dtype {out.dtype}: the result has dtype {dtype}")
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}: the result has shape {shape}")
    if not out.flags.writeable:
        raise ValueError("out is read-only: give an array that can be written")
    if out.size and any(s == 0 and n > 1 for s, n in zip(out.strides, out.shape, strict=True)):
        raise ValueError("out is broadcast, elements of it overlap: give an array of its own memory")
    return out


# -- whole calls
# -------------------------------------------------------------------------------------------


def on_last_axis(x: Any, axis: Any, out: Any) -> bool:
    """Whether these are NumPy arrays and classes are on the last axis: all that kernels for small arrays do not ask."""
    return (
        type(x) is np.ndarray
        and type(axis) is int
        and (axis == -1 or axis == x.ndim - 1)
        and (out is None or type(out) is np.ndarray)
    )


def on_other_axis(x: Any, axis: Any, out: Any) -> bool:
    """The same for classes on another axis, which kernels for small columns take."""
    return (
        type(x) is np.ndarray
        and type(axis) is int
        and -x.ndim <= axis < x.ndim - 1
        and axis != -1
        and (out is None or type(out) is np.ndarray)
    )


def same_dtype(y: np.ndarray, x: np.ndarray) -> bool:
    """Whether two arrays have one dtype: most often one object, but what comes from a pickle has one of its own."""
    return y.dtype is x.dtype or bool(y.dtype == x.dtype)


def takes_the_place(out: Any, x: np.ndarray) -> bool:
    """Whether `out` can be written while the contiguous `x` is read: `x` itself, or contiguous memory of its own."""
    return is_apart(out, x, x.shape) if out is not x else bool(x.flags.writeable)


def is_apart(out: Any, x: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether `out` is a contiguous array of that shape that can be written, and has no memory in common with `x`."""
    return is_like(out, x, shape) and bool(out.flags.writeable) and not np.may_share_memory(x, out)


def without_axis(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The shape of an array reduced over one axis."""
    return shape[:-1] if axis == -1 else shape[:axis] + shape[axis % len(shape) + 1 :]


def is_like(y: Any, x: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether this is a contiguous array of that shape, and of the dtype of `x`."""
    return type(y) is np.ndarray and same_dtype(y, x) and y.shape == shape and bool(y.flags.c_contiguous)


def elementwise(x: Any, axis: Any, where: Any, temperature: Any, dtype: Any, out: Any) -> Request:
    """The arguments of `softmax` and `log_softmax`."""
    array = array_of(x, "x")
    axes = axes_of(axis, array.ndim)
    kind = result_dtype(dtype, array)
    mask = mask_of(where, array.shape)
    scale = scale_of(temperature)
    result = new_like(array, kind) if out is None else out_of(out, array.shape, kind)
    return _request((array,), result, axes, kind, mask, scale)


def new_like(array: np.ndarray, kind: np.dtype) -> np.ndarray:
    """A new array that lies in memory as `array` does, so that one kernel can go along both."""
    order: Literal["C", "K"] = "C" if 0 in array.strides else "K"
    new: np.ndarray = np.empty_like(array, kind, order=order, subok=False)
    return new


def gradient(grad_output: Any, output: Any, axis: Any, out: Any) -> Request:
    """The arguments of the backward functions."""
    g, y = array_of(grad_output, "grad_output"), array_of(output, "output")
    if g.shape != y.shape:
        raise ValueError(
            f"grad_output has shape {g.shape} and output {y.shape}: they must be the same, that of the logits"
        )
    axes = axes_of(axis, g.ndim)
    kind = np.result_type(promoted(g.dtype), promoted(y.dtype))
    result = new_like(g, kind) if out is None else out_of(out, g.shape, kind)
    return _request((g, y), result, axes, kind, None, None)


def reduction(a: Any, axis: Any, where: Any, keepdims: Any, out: Any) -> Request:
    """The arguments of `logsumexp` without weights; `out` of the request keeps the reduced axes."""
    array = array_of(a, "a")
    axes = axes_of(axis, array.ndim)
    kind = promoted(array.dtype)
    mask = mask_of(where, array.shape)
    result = _reduced(array.shape, axes, keepdims, kind, out)
    # The same elements with the axes summed over kept: a view, for only axes of size 1 are added.
    kept = result if keepdims else np.expand_dims(result, axes)
    return _request((array,), kept, axes, kind, mask, None)._replace(result=result)


def weighted(a: Any, axis: Any, b: Any, where: Any, keepdims: Any, out: Any) -> Request:
    """The arguments of `logsumexp` with weights: `arrays` are both, of one shape and at least one axis."""
    array, weight = array_of(a, "a"), array_of(b, "b")
    # Python's own numbers do not widen, as everywhere in NumPy.
    kind = np.result_type(array, b if isinstance(b, (bool, int, float)) else weight)
    try:
        wide, heavy = np.broadcast_arrays(array, weight)
    except ValueError:
        raise ValueError(
            f"a has shape {array.shape} and b {weight.shape}, which do not broadcast: make them fit"
        ) from None
    axes = axes_of(axis, wide.ndim)
    mask = mask_of(where, wide.shape)
    result = _reduced(wide.shape, axes, keepdims, promoted(kind), out)
    if wide.ndim == 0:
        wide, heavy, axes = wide.reshape(1), heavy.reshape(1), (0,)
        mask = None if mask is None else mask.reshape(1)
    elif not axes:  # every element is a row of its own
        wide, heavy, axes = wide[..., None], heavy[..., None], (wide.ndim,)
        mask = None if mask is None else mask[..., None]
    return Request((wide, heavy), result, axes, name_of(result.dtype), None, mask, None, result)


def _reduced(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: Any, kind: np.dtype, out: Any) -> np.ndarray:
    """The caller's `out` for a reduction over `axes`, or a new one."""
    if keepdims:
        shape = tuple(1 if i in axes else n for i, n in enumerate(shape))
    else:
        shape = tuple(n for i, n in enumerate(shape) if i not in axes)
    return np.empty(shape, kind) if out is None else out_of(out, shape, kind)


def _request(
    arrays: tuple[np.ndarray, ...],
    out: np.ndarray,
    axes: tuple[int, ...],
    kind: np.dtype,
    mask: np.ndarray | None,
    scale: tuple[float, float, float, float] | None,
) -> Request:
    result, out = out, np.asarray(out)
    private = any(collide(array, out) for array in (*arrays, *(() if mask is None else (mask,))))
    if private:
        out = np.empty(out.shape, kind)
    pieces = None
    if mask is None and all(array.dtype == kind for array in arrays):
        pieces = views((*arrays, out), axes)
    return Request(arrays, out, axes, name_of(kind), pieces, mask, scale, result, private)


def collide(array: np.ndarray, out: np.ndarray) -> bool:
    """Whether writing `out` would spoil elements of `array` that are still to be read."""
    if not np.may_share_memory(array, out):
        return False
    same = (
        array.__array_interface__["data"][0] == out.__array_interface__["data"][0]
        and array.strides == out.strides
        and array.shape == out.shape
        and array.dtype == out.dtype
    )
    return not same
