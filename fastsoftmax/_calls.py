"""From a checked request to its result: plan and execute, view by view or block by block."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _arguments, _execute, _layout, _plan
from ._arguments import Request
from ._blocks import Blocks


def quick(operation: str, x: Any, axis: Any, out: np.ndarray | None, temperature: Any) -> np.ndarray | None:
    """The result of the simplest of calls; None if this is another one.

    Calls of microseconds feel any line of Python, those between arrays that fill the second cache most: what Python
    needs is not there any more. So what there is to ask of arrays compiled code asks (see `_kernels.small`).
    """
    scale = None if temperature is _arguments.ONE else _arguments.scale_of(temperature)
    if scale is None and _arguments.on_last_axis(x, axis, out):
        kind = x.dtype
        code = _execute.small[operation][kind]
        if code is not None and (out is not None or x.flags.c_contiguous):
            result = np.empty(x.shape, kind) if out is None else out
            state = code(x, result, kind)
            if state == _execute.LARGE:
                seen, place = _layout.alike((x, result), axis)
                _run_plain(operation, seen, place, None)
            if state != _execute.OTHER:
                return result
    return _quick_others(operation, (x,), axis, out, scale)


def quick_backward(operation: str, g: Any, y: Any, axis: Any, out: np.ndarray | None) -> np.ndarray | None:
    """The gradients of the simplest of calls; None if this is another one."""
    if type(y) is np.ndarray and _arguments.on_last_axis(g, axis, out):
        kind = g.dtype
        code = _execute.small[operation][kind]
        if code is not None and (out is not None or g.flags.c_contiguous):
            result = np.empty(g.shape, kind) if out is None else out
            state = code(g, y, result, kind)
            if state == _execute.LARGE:
                seen, place, outputs = _layout.alike((g, result, y), axis)
                _run_plain(operation, seen, place, outputs)
            if state != _execute.OTHER:
                return result
    return _quick_others(operation, (g, y), axis, out, None)


def _quick_others(
    operation: str, arrays: tuple[Any, ...], axis: Any, out: np.ndarray | None, scale: Any
) -> np.ndarray | None:
    """The same, forwards or backwards, for whatever else is contiguous: classes on other axes, temperatures."""
    x = arrays[0]
    if scale is None and _arguments.on_other_axis(x, axis, out) and type(arrays[-1]) is np.ndarray:
        result = _quick_columns(operation, arrays, axis, out)
        if result is not None:
            return result
    seen = _layout.contiguous(x, axis)
    if seen is None or _arguments.dtype_name(x.dtype) is None:
        return None
    if out is not None and not _arguments.takes_the_place(out, x):
        return None
    read: tuple[np.ndarray, ...] = (seen,)
    if len(arrays) == 2:
        y = arrays[1]
        if not _arguments.is_like(y, x, x.shape) or (out is not None and not _arguments.takes_the_place(out, y)):
            return None
        read = seen, y.reshape(seen.shape)
    if out is None:
        out = np.empty(x.shape, x.dtype)
    place = out.reshape(seen.shape)
    if scale is None and seen.ndim == 2 and _is_done(operation, *read, place):
        return out
    _run_plain(operation, seen, place, scale if len(read) == 1 else read[1])
    return out


def _quick_columns(
    operation: str, arrays: tuple[np.ndarray, ...], axis: int, out: np.ndarray | None
) -> np.ndarray | None:
    """The same for classes on an axis but the last, of which compiled code asks what there is to ask."""
    x = arrays[0]
    kind = x.dtype
    code = _execute.small_columns[operation][kind]
    if code is None or (out is None and not x.flags.c_contiguous):
        return None
    result = np.empty(x.shape, kind) if out is None else out
    state = code(*arrays, result, kind, axis)
    if state == _execute.LARGE:
        seen = _layout.alike((x, result, *arrays[1:]), axis)
        _run_plain(operation, seen[0], seen[1], seen[2] if len(seen) == 3 else None)
    return None if state == _execute.OTHER else result


def quick_sum(a: Any, axis: Any, out: np.ndarray | None) -> Any:
    """The log-sum-exps of a contiguous array; None if this is another call."""
    if _arguments.on_last_axis(a, axis, out):
        kind = a.dtype
        code = _execute.small["logsumexp"][kind]
        if code is not None and (out is not None or a.flags.c_contiguous):
            sums = np.empty(a.shape[:-1], kind) if out is None else out
            state = code(a, sums, kind)
            if state == _execute.LARGE:
                seen = _layout.in_rows(a)
                _run_plain("logsumexp", seen, sums.reshape(len(seen), 1), None)
            if state != _execute.OTHER:
                return sums if sums.ndim or out is not None else sums[()]
    if _arguments.on_other_axis(a, axis, out):
        sums = _quick_column_sums(a, axis, out)
        if sums is not None:
            return sums
    x = _layout.contiguous(a, axis)
    if x is None or _arguments.dtype_name(x.dtype) is None:
        return None
    shape = () if axis is None else _arguments.without_axis(a.shape, axis)
    if out is None:
        sums = np.empty(shape, a.dtype)
    elif _arguments.is_apart(out, a, shape):
        sums = out
    else:
        return None
    if x.ndim == 3 or not _is_done("logsumexp", x, sums.reshape(-1)):
        kept = sums.reshape(len(x), 1) if x.ndim == 2 else sums.reshape(len(x), 1, x.shape[2])
        _run_plain("logsumexp", x, kept, None)
    return sums[()] if out is None else out


def _quick_column_sums(a: np.ndarray, axis: int, out: np.ndarray | None) -> Any:
    """The same for an axis but the last, as `_quick_columns`."""
    kind = a.dtype
    code = _execute.small_columns["logsumexp"][kind]
    if code is None or (out is None and not a.flags.c_contiguous):
        return None
    sums = np.empty(_arguments.without_axis(a.shape, axis), kind) if out is None else out
    state = code(a, sums, kind, axis)
    if state == _execute.LARGE:
        seen = _layout.in_columns(a, axis)
        _run_plain("logsumexp", seen, sums.reshape(len(seen), 1, seen.shape[2]), None)
    return None if state == _execute.OTHER else sums


def _is_done(operation: str, *arrays: np.ndarray) -> bool:
    """Whether the arrays, of which the first is rows of the last axis, were small enough for the one compiled call."""
    kind = arrays[0].dtype
    code = _execute.small[operation][kind]
    return code is not None and bool(code(*arrays, kind) == _execute.DONE)


def _run_plain(operation: str, x: np.ndarray, out: np.ndarray, extra: Any) -> None:
    """Plan and execute what contiguous arrays hold, or do once more what was done for such arrays before.

    Those of one shape may be the caller's, to which another thread may give another meanwhile; what is not, as the
    sums of `logsumexp` are not, is nobody's else.
    """
    threads, shape = _execute.get_num_threads(), x.shape
    call = operation, x.dtype, shape, threads, extra is None
    if _execute.repeat(call, x, out, extra) is None:
        plan = _plan.canonical(operation, _arguments.name_of(x.dtype), shape, threads, True)
        # From here on they are nobody's else: this may take several calls of compiled code.
        place = out if operation == "logsumexp" else out.reshape(shape)
        more = extra.reshape(shape) if isinstance(extra, np.ndarray) else extra
        _execute.run(plan, x.reshape(shape), place, more, call)


def carry_out(operation: str, request: Request, masked: float = 0.0) -> np.ndarray:
    if request.arrays[0].size == 0:
        request.out[...] = masked
    elif request.views is not None:
        for view in request.views:
            _run(operation, request.dtype, view.arrays, request.scale)
    else:
        _through_blocks(operation, request, masked)
    if request.private:
        np.copyto(request.result, request.out.reshape(request.result.shape))
    return request.result


def _run(operation: str, dtype: str, arrays: tuple[np.ndarray, ...], scale: Any, threads: int | None = None) -> None:
    """Plan and execute one canonical piece of work."""
    x, out = arrays[0], arrays[-1]
    extra = scale if len(arrays) == 2 else arrays[1]
    dense = all(array.flags.c_contiguous for array in arrays)
    plan = _plan.canonical(operation, dtype, x.shape, threads or _execute.get_num_threads(), dense)
    _execute.run(plan, x, out, extra)


def _through_blocks(operation: str, request: Request, masked: float) -> None:
    threads = _execute.get_num_threads()
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
        blocks.do(index, lambda *rows: _run(operation, request.dtype, rows, request.scale, inner))

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
