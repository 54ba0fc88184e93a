"""From a checked loss to its value and gradient: plan and execute, view by view or block by block."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from . import _arguments, _execute, _layout, _loss_arguments, _plan
from ._blocks import Blocks
from ._loss_arguments import DEFAULT_IGNORE_INDEX, PLAIN, LossRequest, Options

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
ONE_SINGLE, ONE_DOUBLE = np.float32(1.0), np.float64(1.0)
# What is nearer to this than to infinity, is the largest number of float32.
MOST_SINGLE = 2.0**128 - 2.0**103


class Loss(NamedTuple):
    """What came out: the loss, the gradient or None, the log-sum-exp of each row or None."""

    value: Any
    gradient: Any
    lse: Any


class _Rows(NamedTuple):
    """Numbers that go with the rows of the logits, all of the shape of `LossRequest.rows`.

    `table` and `more` are what kernels call so; `more` is None where nothing need be said about single rows.
    """

    table: np.ndarray
    more: np.ndarray | None

    @property
    def arrays(self) -> list[np.ndarray]:
        return [self.table] if self.more is None else [self.table, self.more]


_NO_ROWS = {2: np.empty((0, 1)), 3: np.empty((0, 1, 1))}
_NO_CLASSES = np.empty(0)
# In place of the numbers that compiled code finds itself.
_NO_NUMBERS = {ndim: (rows, rows, _NO_CLASSES, *[0.0] * 6) for ndim, rows in _NO_ROWS.items()}


def quick(
    operation: str, logits: Any, target: Any, axis: Any, ignored: Any, options: Options, out: Any
) -> tuple[Any, np.ndarray | None] | None:
    """The loss of contiguous logits with class indices, and its gradient if asked for; None if this is another call."""
    if options is not PLAIN and (options.softcap is not None or options.focal_gamma):
        return None
    if ignored is not DEFAULT_IGNORE_INDEX and not _loss_arguments.is_int64(ignored):
        return None
    last, gradient = _arguments.on_last_axis(logits, axis, out), None
    if type(target) is np.ndarray and (last or _arguments.on_other_axis(logits, axis, out)):
        kind, label_kind = logits.dtype, target.dtype
        code = (_execute.small if last else _execute.small_columns)[operation][kind]
        if (
            code is not None
            and _loss_arguments.is_for_labels(label_kind)
            and (out is not None or logits.flags.c_contiguous)
        ):
            gradient, few = _gradient(operation, logits, out), _execute.FEW_LABELLED_ROWS if options is PLAIN else 0
            place = logits if gradient is None else gradient  # where there is no gradient, nothing is written
            arrays = logits, target, place, kind, label_kind, ignored, few
            mean = code(*arrays) if last else code(*arrays, axis)
            if not mean < 0.0:
                return _number(mean, kind == FLOAT64), gradient
            if mean == _execute.LARGE_LOSS:
                x, place = _layout.alike((logits, place), axis)
                shape = x.shape
                found = _again(operation, x, shape, target, place, ignored) if options is PLAIN else None
                if found is not None and not found < 0.0:
                    return _number(found, kind == FLOAT64), gradient
                return _quick_rows(operation, x.reshape(shape), target, gradient, ignored, options)
    seen = _loss_arguments.straight(logits, target, axis, out)
    if seen is None:
        return None
    gradient = _gradient(operation, logits, out) if gradient is None else gradient
    return _quick_rows(operation, *seen, gradient, ignored, options)


def _again(
    operation: str, x: np.ndarray, shape: tuple[int, ...], labels: np.ndarray, place: np.ndarray, ignored: int
) -> float | None:
    """The mean loss, if it was found for such arrays before; None or less than 0 if it was not or labels are none."""
    if labels.ndim != 1:
        labels = labels.reshape(-1)
    if len(labels) >= _execute.MANY_LABELS:
        return None
    numbers = _NO_NUMBERS[len(shape)]
    if operation == "cross_entropy":
        place = _NO_ROWS[len(shape)]
    call = operation, x.dtype, shape, _execute.get_num_threads(), True  # as `_linear` names it
    found: float | None = _execute.repeat(call, x, place, numbers, labels, (shape[1], ignored))
    return found


def _gradient(operation: str, logits: np.ndarray, out: np.ndarray | None) -> np.ndarray | None:
    """The place for a gradient, if one is asked for."""
    if operation == "cross_entropy":
        return None
    return np.empty(logits.shape, logits.dtype) if out is None else out


def _quick_rows(
    operation: str, x: np.ndarray, labels: np.ndarray, gradient: np.ndarray | None, ignored: int, options: Options
) -> tuple[Any, np.ndarray | None] | None:
    """The same for logits as kernels see them."""
    # Whatever another thread does to the caller's arrays, these keep their shapes and dtypes, which have to fit.
    flat = labels.reshape(-1)
    if len(flat) * x.shape[1] != x.size or not _loss_arguments.is_for_labels(flat.dtype):
        return None
    table = np.empty((len(flat), 1))
    bad, label, count = _execute.read_labels(flat, table, x.shape[1], ignored)
    if bad >= 0:
        raise _loss_arguments.bad_row(bad, labels.shape, label, x.shape[1], ignored)
    if count == 0:
        return None
    numbers = table if x.ndim == 2 else table.reshape(len(x), 1, x.shape[2])
    place = numbers if gradient is None else gradient.reshape(x.shape)
    denominator = _linear(operation, x, place, numbers, count, options)
    if options.reduction == "none":
        return _each(table.reshape(labels.shape), x.dtype == FLOAT64), gradient
    return _number(_execute.total(table) / denominator, x.dtype == FLOAT64), gradient


def _linear(operation: str, x: np.ndarray, place: np.ndarray, table: np.ndarray, count: int, options: Options) -> float:
    """Carry out a loss of contiguous logits without numbers of rows or classes; what its sum is to be divided by."""
    denominator = (options.num_items or float(count)) if options.reduction == "mean" else 1.0
    numbers: tuple[Any, ...]
    if options is PLAIN:
        numbers = table, _NO_ROWS[x.ndim], _NO_CLASSES, 0.0, 0.0, 0.0, 0.0, 1.0 / denominator, 0.0
        scale = None
    else:
        terms = _terms(options, x.shape[1], x.shape[1], 1.0 / denominator / options.temperature)
        numbers = table, _NO_ROWS[x.ndim], _NO_CLASSES, *terms
        scale = _arguments.scale_of(options.temperature)
    threads = _execute.get_num_threads()
    call = operation, x.dtype, x.shape, threads, scale is None
    extra = numbers if scale is None else (*numbers, *scale)
    if _execute.repeat(call, x, place, extra, *_execute.NO_LABELS) is None:
        _run(operation, _arguments.name_of(x.dtype), x, place, numbers, scale, threads, call)
    return denominator


def carry_out(request: LossRequest, return_lse: bool) -> Loss:
    """Compute the loss and, where the request has a place for it, the gradient."""
    options = request.options
    weighed = _mass(request)
    # As PyTorch: the mean is over what counts, each row by its weight.
    denominator = 1.0
    if options.reduction == "mean":
        denominator = options.num_items or _denominator(request, weighed)
    rows = _rows(request, weighed, denominator, return_lse)
    factor = 1.0
    if rows.more is None:
        factor = _divided(float(request.grad_output), denominator) / options.temperature
    weights = request.classes if request.weight is None else _execute.total(request.weight)
    terms = _terms(options, request.classes, weights, factor)
    if not request.classes:
        rows.table[...] = 0.0  # nothing to lose: class indices are all ignored, distributions empty
        if rows.more is not None:
            rows.more[...] = -np.inf
    elif rows.table.size:
        if request.probabilities is not None or options.softcap is not None or options.focal_gamma > 0:
            _through_soft_targets(request, rows, terms)
        else:
            _through_kernels(request, rows, terms)
    if request.result is not None and request.out is not None and request.private:
        np.copyto(request.result, request.out)
    double = request.kind == FLOAT64
    lse = None if rows.more is None or not return_lse else rows.more.astype(_dtype_of(double))[()]
    losses = rows.table
    if request.sample_weight is not None:
        # An ignored row counts nothing, whatever its weight.
        losses = losses * request.sample_weight
    return Loss(_reduced(losses, options, denominator, double), request.result, lse)


def _mass(request: LossRequest) -> np.ndarray | None:
    """What each row counts in the mean: its target's class weight times its own; None where that is 1."""
    mass = request.sample_weight
    if request.table is not None:
        if request.weight is not None:
            labels = request.table.astype(np.intp)
            weights = request.weight[labels] if request.classes else np.zeros(labels.shape)
            mass = weights if mass is None else mass * weights
        if mass is not None:
            mass = np.where(request.table < 0, 0.0, mass)
    return mass


def _denominator(request: LossRequest, mass: np.ndarray | None) -> float:
    if mass is not None:
        return _execute.total(mass)
    return float(request.counted)


def _rows(request: LossRequest, mass: np.ndarray | None, denominator: float, return_lse: bool) -> _Rows:
    if request.table is not None:
        table = request.table
    else:
        table = _loss_arguments.one_number_a_row(request.logits, request.axis)
        table[...] = 1.0
    if request.sample_weight is not None:
        table[request.sample_weight == 0] = -1.0  # as good as ignored, also if it holds a NaN
    single = request.sample_weight is not None or np.ndim(request.grad_output) > 0
    if not (single or return_lse):
        return _Rows(table, None)
    more = np.empty_like(table)
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.asarray(request.grad_output) / denominator / request.options.temperature
        more[...] = each if request.sample_weight is None else each * request.sample_weight
    return _Rows(table, more)


def _terms(options: Options, classes: int, weights: float, factor: float) -> tuple[float, ...]:
    """What kernels take as `terms`; `weights` is the sum of those of the classes."""
    smooth = options.label_smoothing / max(classes, 1)
    return (
        options.label_smoothing,
        smooth,
        weights,
        options.z_loss,
        factor,
        options.focal_gamma,
    )


def _run(
    operation: str,
    dtype: str,
    x: np.ndarray,
    out: np.ndarray,
    numbers: tuple[Any, ...],
    scale: Any,
    threads: int,
    call: Any = None,
) -> None:
    """Plan and execute one canonical piece of work; the table of the rows is the first of the numbers."""
    table, more = numbers[:2]
    dense = bool(table.flags.c_contiguous and (not more.size or more.flags.c_contiguous))
    plan = _plan.canonical(operation, dtype, x.shape, threads, dense)
    _execute.run_loss(plan, x, out, numbers, scale, call)


def _through_kernels(request: LossRequest, rows: _Rows, terms: tuple[float, ...]) -> None:
    """Class indices and a loss that is linear in the probabilities."""
    operation = "cross_entropy" if request.out is None else "cross_entropy_with_grad"
    dtype, scale = _arguments.name_of(request.kind), request.scale
    weights = _NO_CLASSES if request.weight is None else request.weight
    threads = _execute.get_num_threads()

    def run(x: np.ndarray, out: np.ndarray | None, numbers: list[np.ndarray], threads: int) -> None:
        table = numbers[0]
        more = numbers[1] if len(numbers) > 1 else _NO_ROWS[x.ndim]
        place = table if out is None else out
        _run(operation, dtype, x, place, (table, more, weights, *terms), scale, threads)

    views = request.views(rows.arrays)
    if views is not None:
        for view in views:
            x, *others = view.arrays
            out = None if request.out is None else others.pop(0)
            run(x, out, others, threads)
        return

    def do(blocks: Blocks, index: int, numbers: list[np.ndarray], threads: int) -> None:
        (x,) = blocks.read(index)
        run(x, None if request.out is None else x, numbers, threads)
        if request.out is not None:
            blocks.write(index, x)

    _through_blocks(request, (request.logits,), request.kind, rows, do)


def _through_soft_targets(request: LossRequest, rows: _Rows, terms: tuple[float, ...]) -> None:
    """Distributions for targets, focal loss and capped logits: blocks of float64."""
    options = request.options
    weights = np.ones(request.classes) if request.weight is None else request.weight
    by_class = request.probabilities is None

    def do(blocks: Blocks, index: int, numbers: list[np.ndarray], threads: int) -> None:
        x, *given = blocks.read(index)
        table = numbers[0]
        more = numbers[1] if len(numbers) > 1 else np.empty((0, 1))
        if by_class:
            labels = table[:, 0].astype(np.intp)
            y = np.zeros_like(x)
            y[np.arange(len(y)), labels] = 1.0
            table[:, 0] = np.where(labels < 0, -1.0, weights[labels])
        else:
            (y,) = given
        ignored = table[:, 0] < 0
        slope = None
        if options.softcap is not None:
            slope = np.empty_like(x)
            _execute.run_cap(x, slope, options.softcap)
        _execute.run_soft_targets(x, y, (table, more, weights, terms), request.scale, request.out is not None)
        if request.out is not None:
            if slope is not None:
                x *= slope
                x[ignored] = 0.0  # a slope of NaN leaves no zero
            blocks.write(index, x)

    arrays = (request.logits,) if request.probabilities is None else (request.logits, request.probabilities)
    _through_blocks(request, arrays, FLOAT64, rows, do)


def _through_blocks(
    request: LossRequest, arrays: tuple[np.ndarray, ...], dtype: np.dtype, rows: _Rows, do: Any
) -> None:
    """``do(blocks, index, numbers, threads)`` for each block, the numbers those of its rows, contiguous."""
    room = _plan.scratch_elements(dtype.itemsize)
    out = request.logits if request.out is None else request.out
    blocks = Blocks(arrays, out, (request.axis,), dtype, room, None, (0.0,) * len(arrays), 0.0)
    # Blocks count rows in the order of the axes, whatever their order in memory.
    ordered = [np.ascontiguousarray(array).reshape(-1, 1) for array in rows.arrays]
    threads, count = _execute.get_num_threads(), len(blocks.indices)
    inner = threads if count == 1 else 1

    def one(index: int) -> None:
        do(blocks, index, [array[blocks.span(index)] for array in ordered], inner)

    _execute.each(one, count, min(threads, count))
    for array, values in zip(rows.arrays, ordered, strict=True):
        np.copyto(array, values.reshape(array.shape))


def _dtype_of(double: bool) -> np.dtype:
    """The dtype of losses: float64 for logits of that dtype, else float32."""
    return FLOAT64 if double else FLOAT32


def _reduced(losses: np.ndarray, options: Options, denominator: float, double: bool) -> Any:
    """The losses of the rows as the caller wants them."""
    if options.reduction == "none":
        return _each(losses, double)
    return _number(_divided(_execute.total(losses), denominator), double)


def _each(losses: np.ndarray, double: bool) -> Any:
    """The losses of single rows, of the shape that the caller wants them in."""
    with np.errstate(over="ignore"):
        return losses.astype(_dtype_of(double), order="C")[()]


def _divided(number: float, denominator: float) -> float:
    """The quotient as NumPy has it: by 0 too."""
    if denominator:
        return number / denominator
    return math.nan if math.isnan(number) or not number else math.copysign(math.inf, number)


def _number(loss: float, double: bool) -> Any:
    """A loss in its dtype, without NumPy's warning where that has no number as large.

    A product takes a fifth of the time of the conversion that it is.
    """
    if double:
        return ONE_DOUBLE * loss
    if MOST_SINGLE < abs(loss) < math.inf:
        loss = math.copysign(math.inf, loss)
    return ONE_SINGLE * loss
