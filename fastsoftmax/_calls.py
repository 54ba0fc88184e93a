"""From a checked request to its result: plan and execute, view by view or block by block."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _arguments, _execute, _plan
from ._arguments import Request
from ._blocks import Blocks


def quick(operation: str, x: Any, axis: Any, out: np.ndarray | None) -> np.ndarray | None:
    """The result of the simplest of calls; None if this is another one."""
    dtype = _arguments.two_axes(x, axis, out)
    if dtype is None:
        return _quick_rows(operation, x, axis, out)
    result = np.empty(x.shape, x.dtype) if out is None else out
    if x.size <= _plan.SMALL and _execute.small(operation, dtype)(x, result):
        return result
    if not _arguments.plain(x, result):
        return None
    plan = _plan.rows(operation, dtype, *x.shape, _execute.get_num_threads(), True)
    _execute.run(plan, x, result)
    return result


def _quick_rows(operation: str, x: Any, axis: Any, out: np.ndarray | None) -> np.ndarray | None:
    """The same for contiguous arrays of another number of axes."""
    rows = _arguments.rows_of(x, axis)
    if rows is None or rows is x:
        return None
    if out is None:
        out = np.empty(x.shape, x.dtype)
    elif not _arguments.takes_the_place(out, x):
        return None
    return None if quick(operation, rows, -1, out.reshape(rows.shape)) is None else out


def quick_sum(a: Any, axis: Any, out: np.ndarray | None) -> Any:
    """The log-sum-exps of contiguous rows; None if this is another call."""
    rows = _arguments.rows_of(a, axis)
    dtype = None if rows is None else _arguments.native_name(rows)
    if rows is None or dtype is None:
        return None
    shape = () if axis is None else a.shape[:-1]
    if out is None:
        sums = np.empty((rows.shape[0], 1), a.dtype)
    elif _arguments.takes_sums(out, a, shape):
        sums = out.reshape(-1, 1)
    else:
        return None
    if not (rows.size <= _plan.SMALL and _execute.small("logsumexp", dtype)(rows, sums)):
        plan = _plan.rows("logsumexp", dtype, *rows.shape, _execute.get_num_threads(), True)
        _execute.run(plan, rows, sums)
    return sums.reshape(shape)[()] if out is None else out


def quick_backward(operation: str, g: Any, y: Any, axis: Any, out: np.ndarray | None) -> np.ndarray | None:
    """The gradients of contiguous rows; None if this is another call."""
    small = _arguments.two_axes(g, axis, out)
    if small is not None and g.size <= _plan.SMALL and _arguments.two_axes(y, axis, g) is not None:
        result = np.empty(g.shape, g.dtype) if out is None else out
        if _execute.small(operation, small)(g, y, result):
            return result
    rows, outputs = _arguments.rows_of(g, axis), _arguments.rows_of(y, axis)
    dtype = None if rows is None else _arguments.native_name(rows)
    if rows is None or outputs is None or dtype is None or g.shape != y.shape or g.dtype is not y.dtype:
        return None
    if out is None:
        result = np.empty(g.shape, g.dtype)
    elif _arguments.takes_the_place(out, g) and (out is y or not np.may_share_memory(out, y)):
        result = out
    else:
        return None
    plan = _plan.rows(operation, dtype, *rows.shape, _execute.get_num_threads(), True)
    _execute.run(plan, rows, result.reshape(rows.shape), outputs)
    return result


def carry_out(operation: str, request: Request, masked: float = 0.0) -> np.ndarray:
    threads = _execute.get_num_threads()
    if request.arrays[0].size == 0:
        request.out[...] = masked
    elif request.views is not None:
        for view in request.views:
            _run(operation, request, view.arrays, threads)
    else:
        _through_blocks(operation, request, masked, threads)
    if request.private:
        np.copyto(request.result, request.out.reshape(request.result.shape))
    return request.result


def _run(operation: str, request: Request, arrays: tuple[np.ndarray, ...], threads: int) -> None:
    """Plan and execute one canonical piece of work."""
    x, out = arrays[0], arrays[-1]
    extra = request.scale if len(arrays) == 2 else arrays[1]
    if x.ndim == 2:
        dense = all(array.flags.c_contiguous for array in arrays)
        plan = _plan.rows(operation, request.dtype, *x.shape, threads, dense)
    else:
        plan = _plan.columns(operation, request.dtype, *x.shape, threads)
    _execute.run(plan, x, out, extra)


def _through_blocks(operation: str, request: Request, masked: float, threads: int) -> None:
    blocks = Blocks(
        request.arrays,
        request.out,
        request.axes,
        request.out.dtype,
        _plan.scratch_elements(request.out.itemsize),
        request.where,
        (-np.inf,) * len(request.arrays),
        None if operation == "logsumexp" else masked,
    )
    # One block may be one long row, and then its work is what is shared.
    inner = threads if len(blocks.indices) == 1 else 1

    def do(index: int) -> None:
        blocks.do(index, lambda *rows: _run(operation, request, rows, inner))

    _execute.each(do, len(blocks.indices), min(threads, len(blocks.indices)))


def weighted(a: Any, axis: Any, b: Any, keepdims: bool, return_sign: bool, where: Any, out: Any) -> Any:
    """`logsumexp` with weights: float64 blocks of both, whatever they are."""
    request = _arguments.weighted(a, axis, b, where, keepdims, out)
    arrays, axes = request.arrays, request.axes
    # Each row gives two numbers, the logarithm and the sign.
    shape = list(arrays[0].shape)
    for i in axes:
        shape[i] = 2 if i == axes[0] else 1
    pairs = np.full(shape, -np.inf)
    np.moveaxis(pairs, axes[0], 0)[1] = 0.0
    if arrays[0].size:
        room = _plan.scratch_elements(pairs.itemsize)
        blocks = Blocks(arrays, pairs, axes, pairs.dtype, room, request.where, (-np.inf, 0.0), None)

        def work(terms: np.ndarray, weights: np.ndarray, result: np.ndarray) -> None:
            terms[weights == 0] = -np.inf
            _execute.run_weighted(terms, result, weights)

        count = len(blocks.indices)
        threads = min(_execute.get_num_threads(), count)
        _execute.each(lambda index: blocks.do(index, work), count, threads)
    log, sign = (part.reshape(request.result.shape) for part in np.split(pairs, 2, axes[0]))
    if not return_sign:
        log = np.where(sign < 0, np.nan, log)
    np.copyto(request.result, log, casting="same_kind")
    total = request.result if out is not None else request.result[()]
    return (total, sign.astype(request.result.dtype)[()]) if return_sign else total
