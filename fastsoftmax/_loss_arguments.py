"""The arguments of losses as what kernels take. Every error of a user is raised here, before anything is written."""

from __future__ import annotations

import functools
import math
import operator
from typing import Any, NamedTuple

import numpy as np

from . import _execute
from ._arguments import (
    array_of,
    axes_of,
    collide,
    dtype_name,
    new_like,
    number_of,
    out_of,
    promoted,
    scale_of,
    takes_the_place,
    without_axis,
)
from ._layout import View, contiguous, views

REDUCTIONS = ("mean", "sum", "none")
DEFAULT_IGNORE_INDEX = -100
INT64 = np.dtype(np.int64)


class Options(NamedTuple):
    """What shapes a loss, checked."""

    reduction: str
    label_smoothing: float
    temperature: float
    softcap: float | None
    z_loss: float
    focal_gamma: float
    num_items: float | None


class LossRequest(NamedTuple):
    """One call, checked.

    Attributes
    ----------
    logits, axis
        As given, the axis without sign.
    kind
        The dtype of the gradient.
    out, result, private
        Where kernels write the gradient, where the caller wants it, and whether these differ; None without a gradient.
    table
        For each row its class index, -1 if it is ignored; None with probabilities.
    probabilities
        The target distributions, or None.
    weight, sample_weight, grad_output
        In float64; None if not given. `weight` has a number for each class, the others for each row.
    scale
        ``1/temperature`` as kernels take it.
    options
        The rest.
    """

    logits: np.ndarray
    axis: int
    kind: np.dtype
    out: np.ndarray | None
    result: np.ndarray | None
    private: bool
    table: np.ndarray | None
    probabilities: np.ndarray | None
    counted: int  # rows that are not ignored
    weight: np.ndarray | None
    sample_weight: np.ndarray | None
    grad_output: np.ndarray | float
    scale: tuple[float, float, float, float] | None
    options: Options

    @property
    def rows(self) -> tuple[int, ...]:
        """The shape of the logits without their classes."""
        return self.logits.shape[: self.axis] + self.logits.shape[self.axis + 1 :]

    @property
    def classes(self) -> int:
        return int(self.logits.shape[self.axis])

    def views(self, numbers: list[np.ndarray]) -> list[View] | None:
        """The logits, the gradient's place if there is one, and numbers of rows as kernels read them, or None."""
        if self.logits.dtype != self.kind:
            return None
        place = (slice(None),) * self.axis + (None,)
        spread = (array[place] for array in numbers)
        arrays = (self.logits, *(() if self.out is None else (self.out,)), *spread)
        return views(arrays, (self.axis,))


def loss_request(
    logits: Any, target: Any, axis: Any, ignore_index: Any, sample_weight: Any, weight: Any, options: Options
) -> LossRequest:
    """The arguments of `cross_entropy`."""
    array = array_of(logits, "logits")
    if array.ndim == 0:
        raise ValueError("logits has no axes: give it one of classes")
    if axis is None or isinstance(axis, tuple):
        raise TypeError(f"axis is {axis!r}: give one integer, the axis of the classes")
    (number,) = axes_of(axis, array.ndim)
    kind = promoted(array.dtype)
    rows = array.shape[:number] + array.shape[number + 1 :]
    ignored = _ignore_index(ignore_index)
    labels = _target(target, array.shape, rows, number)
    table = probabilities = None
    counted = math.prod(rows)
    if labels.dtype.kind in "iu":
        table, counted = _table(labels, array, number, ignored)
    else:
        if ignored != DEFAULT_IGNORE_INDEX:
            raise ValueError(
                f"ignore_index is {ignored}, but target holds probabilities: mask rows with sample_weight=0 instead"
            )
        probabilities = labels
    return LossRequest(
        logits=array,
        axis=number,
        kind=kind,
        out=None,
        result=None,
        private=False,
        table=table,
        probabilities=probabilities,
        counted=counted,
        weight=_numbers(weight, "weight", (array.shape[number],), "one for each class"),
        sample_weight=_numbers(sample_weight, "sample_weight", rows, "one for each row"),
        grad_output=1.0,
        scale=scale_of(options.temperature),
        options=options,
    )


def is_for_labels(kind: np.dtype) -> bool:
    """Whether kernels read labels of this dtype as they are."""
    return kind is INT64 or kind == INT64


def straight(logits: Any, target: Any, axis: Any, out: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Contiguous logits of any axes as kernels see them, and labels of any kind; None where more has to be asked."""
    x = contiguous(logits, axis)
    if (
        x is None
        or axis is None
        or dtype_name(x.dtype) is None
        or (out is not None and not takes_the_place(out, logits))
    ):
        return None
    if type(target) is list or type(target) is int:
        target = np.asarray(target)
    if type(target) is not np.ndarray or target.shape != without_axis(logits.shape, axis):
        return None
    if target.dtype != INT64:
        kind = target.dtype
        if kind.kind != "i" and (kind.kind != "u" or kind.itemsize == INT64.itemsize):
            return None
        target = target.astype(INT64)
    return (x, target) if target.flags.c_contiguous else None


def is_int64(ignored: Any) -> bool:
    """Whether kernels can compare labels with this."""
    return type(ignored) is int and -(2**63) <= ignored < 2**63


def bad_row(row: int, shape: tuple[int, ...], label: int, classes: int, ignored: int) -> IndexError:
    """The error for a class index that is none, of a row of so many."""
    return bad_label(tuple(int(i) for i in np.unravel_index(row, shape)), label, classes, ignored)


def bad_label(position: tuple[int, ...], label: int, classes: int, ignored: int) -> IndexError:
    """The error for a class index that is none."""
    return IndexError(
        f"target{list(position) if position else ''} is {label}: class indices go from 0 to {classes - 1}, "
        f"and ignore_index is {ignored}"
    )


def with_gradient(request: LossRequest, grad_output: Any, out: Any) -> LossRequest:
    """The request with a place for the gradient: the arguments of `cross_entropy_with_grad`."""
    given: Any = 1.0
    if grad_output is not None:
        shape = request.rows if request.options.reduction == "none" else ()
        given = _numbers(grad_output, "grad_output", shape, "the shape of the loss")
        given = given if given.ndim else float(given)
    logits = request.logits
    result = new_like(logits, request.kind) if out is None else out_of(out, logits.shape, request.kind)
    read = [array for array in (logits, request.probabilities) if array is not None]
    private = any(collide(array, result) for array in read) or (
        request.probabilities is not None and np.may_share_memory(request.probabilities, result)
    )
    place = np.empty(result.shape, request.kind) if private else np.asarray(result)
    return request._replace(out=place, result=result, private=private, grad_output=given)


PLAIN = Options("mean", 0.0, 1.0, None, 0.0, 0.0, None)


def options_of(*given: Any) -> Options:
    """The options of a loss that are numbers and words, from reduction to focal_gamma: `PLAIN` itself for none."""
    try:
        return _options(*given)
    except TypeError:
        pass
    return _options.__wrapped__(*given)  # explains the error: an array, which cannot be looked up, or another


@functools.lru_cache(maxsize=256)
def _options(
    reduction: Any,
    label_smoothing: Any,
    num_items: Any,
    temperature: Any,
    softcap: Any,
    z_loss: Any,
    focal_gamma: Any,
) -> Options:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}: give one of {', '.join(map(repr, REDUCTIONS))}")
    if num_items is not None and reduction != "mean":
        raise ValueError(
            f"num_items is {num_items!r}, but it replaces the denominator of the mean: give it with 'mean'"
        )
    scale_of(temperature)
    made = Options(
        reduction=reduction,
        label_smoothing=_number(label_smoothing, "label_smoothing", 0.0, 1.0, "from 0 to 1"),
        temperature=float(temperature),
        softcap=None if softcap is None else _number(softcap, "softcap", 1e-30, 1e30, "above 0"),
        z_loss=_number(z_loss, "z_loss", 0.0, math.inf, "of at least 0"),
        focal_gamma=_number(focal_gamma, "focal_gamma", 0.0, 1e6, "of at least 0"),
        num_items=None if num_items is None else _number(num_items, "num_items", 1e-300, math.inf, "above 0"),
    )
    return PLAIN if made == PLAIN else made


def _number(value: Any, name: str, low: float, high: float, range_of: str) -> float:
    number = number_of(value)
    if number is None:
        raise TypeError(f"{name} is {value!r}: give one number {range_of}")
    if not low <= number <= high or math.isinf(number):
        raise ValueError(f"{name} is {value!r}: give a finite number {range_of}")
    return number


def _ignore_index(value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"ignore_index is {value!r}: give an integer") from None


def _numbers(values: Any, name: str, shape: tuple[int, ...], what: str) -> Any:
    """Finite float64 numbers of a shape, as a copy, or None."""
    if values is None:
        return None
    array = array_of(values, name)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}: give {what}, shape {shape}")
    numbers = np.array(array, np.float64)
    if not np.isfinite(numbers).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(numbers))[0])
        raise ValueError(f"{name}{list(where) if where else ''} is {numbers[where]}: give finite numbers")
    return numbers


def _target(target: Any, shape: tuple[int, ...], rows: tuple[int, ...], axis: int) -> np.ndarray:
    """The target as class indices or probabilities of a shape that fits."""
    if isinstance(target, np.ma.MaskedArray):
        raise TypeError("target is a masked array: pass target.filled(ignore_index)")
    array = np.asarray(target)
    if array.dtype.kind == "b":
        raise TypeError("target is boolean: give class indices, for example target.astype(int), or probabilities")
    if array.dtype.kind not in "iu":
        array = array_of(array, "target")
        if array.shape != shape:
            if array.shape == rows:
                raise TypeError(f"target has dtype {array.dtype}: class indices are integers, target.astype(int)")
            raise ValueError(
                f"target holds probabilities ({array.dtype}) of shape {array.shape}, the logits have {shape}: "
                f"{_fix(array, shape, axis)}"
            )
        return array
    if array.shape != rows:
        raise ValueError(
            f"target has shape {array.shape}, but logits of shape {shape} with classes on axis {axis} "
            f"need class indices of shape {rows}: {_fix(array, shape, axis)}"
        )
    return array


def _fix(target: np.ndarray, shape: tuple[int, ...], axis: int) -> str:
    """What a caller with these shapes most likely wants."""
    for other in range(len(shape)):
        if other != axis and target.shape == shape[:other] + shape[other + 1 :]:
            return f"pass axis={other}"
    if target.dtype.kind in "iu" and target.shape == shape:
        return "for probabilities convert it to floating point"
    return "give class indices, or probabilities of the shape of the logits"


def _table(labels: np.ndarray, logits: np.ndarray, axis: int, ignored: int) -> tuple[np.ndarray, int]:
    """Class indices as float64 numbers, -1 where ignored, in memory as the logits lie; and how many are not ignored.

    What is copied and checked here is what kernels use, whatever becomes of the caller's array meanwhile.
    """
    classes = logits.shape[axis]
    table = one_number_a_row(logits, axis)
    if (
        labels.flags.c_contiguous
        and table.flags.c_contiguous
        and labels.dtype == np.int64
        and -(2**63) <= ignored < 2**63
    ):
        bad, label, counted = _execute.read_labels(labels.reshape(-1), table.reshape(-1, 1), classes, ignored)
        if bad >= 0:
            raise bad_row(bad, labels.shape, label, classes, ignored)
        return table, counted
    mine = np.array(labels)
    counted = mine.size
    if mine.size:
        least, most = int(mine.min()), int(mine.max())
        if least < 0 or most >= classes or least <= ignored <= most:
            left_out = mine == ignored
            bad = ((mine < 0) | (mine >= classes)) & ~left_out
            if bad.any():
                position = tuple(int(i) for i in np.unravel_index(np.argmax(bad), bad.shape))
                raise bad_label(position, int(mine[position]), classes, ignored)
            counted -= int(np.count_nonzero(left_out))
            mine = np.where(left_out, -1.0, mine)
    np.copyto(table, mine)
    return table, counted


def one_number_a_row(logits: np.ndarray, axis: int) -> np.ndarray:
    """An empty float64 array for a number of each row, in memory as the logits lie."""
    if logits.shape[axis]:
        return new_like(logits[(slice(None),) * axis + (0,)], np.dtype(np.float64))
    return np.empty(logits.shape[:axis] + logits.shape[axis + 1 :])
