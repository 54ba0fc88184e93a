"""From a checked loss to its value and gradient: plan and execute, view by view or block by block."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import _execute, _loss_arguments, _plan
from ._blocks import Blocks
from ._loss_arguments import LossRequest, name_of

FLOAT64 = np.dtype(np.float64)


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


# hit, smooth, smooth * sum of weights, z: a loss without options.
_PLAIN = (1.0, 0.0, 0.0, 0.0)
_NO_ROWS, _NO_CLASSES = np.empty((0, 1)), np.empty(0)


def quick(operation: str, logits: Any, target: Any, axis: Any, out: Any) -> tuple[Any, np.ndarray | None] | None:
    """The mean loss of the simplest of calls and its gradient if it has one; None if this is another call."""
    name = _loss_arguments.plain_name(logits, target, axis, out)
    if name is None:
        return None
    rows, classes = logits.shape
    ignored = _loss_arguments.DEFAULT_IGNORE_INDEX
    gradient = None
    if operation == "cross_entropy_with_grad":
        gradient = np.empty(logits.shape, logits.dtype) if out is None else out
    small = rows <= _plan.FEW_LABELLED_ROWS and logits.size <= _plan.SMALL
    if small:
        place = logits if gradient is None else gradient  # without a gradient nothing is written there
        bad, label, count, total = _execute.small(operation, name)(logits, target, place, (classes, ignored))
    else:
        table = np.empty((rows, 1))
        bad, label, count = _execute.read_labels(target, table, classes, ignored)
    if bad >= 0:
        raise _loss_arguments.bad_label((bad,), label, classes, ignored)
    if count == 0:
        return None
    if not small:
        plan = _plan.rows(operation, name, rows, classes, _execute.get_num_threads(), True)
        numbers = (table, _NO_ROWS, _NO_CLASSES, *_PLAIN, 1.0 / count, 0.0)
        _execute.run_loss(plan, logits, table if gradient is None else gradient, numbers, None)
        total = _execute.total(table)
    return logits.dtype.type(total / count), gradient


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
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = float(np.float64(request.grad_output) / denominator / options.temperature)
    terms = _terms(request, factor)
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
    dtype = np.dtype(np.float64 if request.kind == FLOAT64 else np.float32)
    lse = None if rows.more is None or not return_lse else rows.more.astype(dtype)[()]
    return Loss(_reduced(request, rows.table, denominator, dtype), request.result, lse)


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


def _terms(request: LossRequest, factor: float) -> tuple[float, ...]:
    """What kernels take as `terms`."""
    options = request.options
    smooth = options.label_smoothing / max(request.classes, 1)
    weights = request.classes if request.weight is None else _execute.total(request.weight)
    return (
        1.0 - options.label_smoothing,
        smooth,
        smooth * weights,
        options.z_loss,
        factor,
        options.focal_gamma,
    )


def _through_kernels(request: LossRequest, rows: _Rows, terms: tuple[float, ...]) -> None:
    """Class indices and a loss that is linear in the probabilities."""
    operation = "cross_entropy" if request.out is None else "cross_entropy_with_grad"
    dtype, scale = name_of(request.kind), request.scale
    weights = np.empty(0) if request.weight is None else request.weight
    threads = _execute.get_num_threads()

    def run(x: np.ndarray, out: np.ndarray | None, numbers: list[np.ndarray], threads: int) -> None:
        table = numbers[0]
        more = numbers[1] if len(numbers) > 1 else np.empty((0,) * table.ndim)
        if x.ndim == 2:
            dense = all(array.flags.c_contiguous for array in numbers)
            plan = _plan.rows(operation, dtype, *x.shape, threads, dense)
        else:
            plan = _plan.columns(operation, dtype, *x.shape, threads)
        _execute.run_loss(plan, x, table if out is None else out, (table, more, weights, *terms), scale)

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
        x /= options.temperature
        _execute.run_soft_targets(x, y, (table, more, weights, terms), request.out is not None)
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


def _reduced(request: LossRequest, losses: np.ndarray, denominator: float, dtype: np.dtype) -> Any:
    """The losses of the rows as the caller wants them."""
    if request.sample_weight is not None:
        # An ignored row counts nothing, whatever its weight.
        losses = losses * request.sample_weight
    if request.options.reduction == "none":
        return losses.astype(dtype, order="C")[()]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return dtype.type(np.float64(_execute.total(losses)) / denominator)
