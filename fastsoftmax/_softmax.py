"""softmax, log_softmax, logsumexp and the backward passes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _arguments, _calls
from ._arguments import ONE


def softmax(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    *,
    where: ArrayLike | None = None,
    temperature: float = ONE,
    dtype: DTypeLike | None = None,
    out: np.ndarray | None = None,
) -> Any:
    r"""Probabilities from logits: :math:`e^{x_i/T} / \sum_j e^{x_j/T}`.

    Parameters
    ----------
    x : array_like
        Logits, of any shape and memory layout: float16, bfloat16 (of ml_dtypes), float32, float64,
        integers or bool. Never changed, unless it is `out`.
    axis : int, tuple of int or None, default None
        The axes that are summed over; None means all of them, as in SciPy.
    where : array_like of bool, optional
        Classes that count, broadcast to the shape of `x`. The others are not read and get
        probability 0; so does a whole row without any.
    temperature : float, default 1.0
        T, which divides the logits: above 1 flattens, below 1 sharpens. From 1e-30 to 1e30.
    dtype : dtype, optional
        The floating dtype to compute in and return. Default: that of `x`; float32 for bool and
        integers of 8 and 16 bits, float64 for longer ones. Half types are computed in float32.
    out : ndarray, optional
        Where to write, of the result's shape and dtype and of any strides. It may be `x` itself.

    Returns
    -------
    ndarray
        The probabilities, of the shape of `x`; `out` if it was given.

    Raises
    ------
    TypeError
        For masked, complex, object, text and date arrays; for an `out`, `where` or `dtype` of a
        wrong type.
    ValueError
        For an axis named twice, a mask that does not broadcast, a temperature out of range, an
        `out` of a wrong shape or not writable.
    numpy.exceptions.AxisError
        For an axis that `x` does not have.

    Notes
    -----
    At most 3 ulp from the exact result. A row with NaN, with +inf, or of -inf only is NaN; others
    are not touched by it. The array is read once and written once from memory; rows longer than
    65536 are read twice, the second time from cache where it is large enough. Beyond `out`,
    nothing of its size is allocated.

    The sum is that of Milakov & Gimelshein, arXiv:1805.02867, for long rows; exp is kept as
    mantissa and exponent, after Dukhan & Ablavatski, arXiv:2001.04438.

    Examples
    --------
    >>> import numpy as np
    >>> import fastsoftmax
    >>> fastsoftmax.softmax(np.array([[0.0, 0.0], [1000.0, -1000.0]]), axis=-1)
    array([[0.5, 0.5],
           [1. , 0. ]])
    >>> fastsoftmax.softmax([3.0, 1.0, 2.0], where=[True, False, True])
    array([0.73105858, 0.        , 0.26894142])
    """
    if where is None and dtype is None:
        result = _calls.quick("softmax", x, axis, out, temperature)
        if result is not None:
            return result
    request = _arguments.elementwise(x, axis, where, temperature, dtype, out)
    result = _calls.carry_out("softmax", request, masked=0.0)
    return result if result.ndim or out is not None else result[()]


def log_softmax(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    *,
    where: ArrayLike | None = None,
    temperature: float = ONE,
    dtype: DTypeLike | None = None,
    out: np.ndarray | None = None,
) -> Any:
    r"""Logarithms of probabilities from logits: :math:`x_i/T - \log\sum_j e^{x_j/T}`.

    Parameters
    ----------
    x : array_like
        Logits, of any shape and memory layout: float16, bfloat16 (of ml_dtypes), float32, float64,
        integers or bool. Never changed, unless it is `out`.
    axis : int, tuple of int or None, default None
        The axes that are summed over; None means all of them, as in SciPy.
    where : array_like of bool, optional
        Classes that count, broadcast to the shape of `x`. The others are not read and get -inf.
    temperature : float, default 1.0
        T, which divides the logits. From 1e-30 to 1e30.
    dtype : dtype, optional
        The floating dtype to compute in and return; see `softmax`.
    out : ndarray, optional
        Where to write, of the result's shape and dtype and of any strides. It may be `x` itself.

    Returns
    -------
    ndarray
        The log-probabilities (natural logarithms, nats), of the shape of `x`; `out` if it was
        given.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softmax`.

    Notes
    -----
    At most 3 ulp from the exact result, also near zero, where the log-probability of a confident
    row keeps its digits: the largest term stays out of the sum, ``(x - m) - log1p(sum of the
    others)``. Passes and memory as in `softmax`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastsoftmax
    >>> fastsoftmax.log_softmax([0.0, -40.0])
    array([-4.24835426e-18, -4.00000000e+01])
    """
    if where is None and dtype is None:
        result = _calls.quick("log_softmax", x, axis, out, temperature)
        if result is not None:
            return result
    request = _arguments.elementwise(x, axis, where, temperature, dtype, out)
    result = _calls.carry_out("log_softmax", request, masked=-np.inf)
    return result if result.ndim or out is not None else result[()]


def logsumexp(
    a: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
    *,
    where: ArrayLike | None = None,
    out: np.ndarray | None = None,
) -> Any:
    r"""The logarithm of a sum of exponentials: :math:`\log\sum_j b_j e^{a_j}`.

    Parameters
    ----------
    a : array_like
        Logits, as `x` of `softmax`. Never changed.
    axis : int, tuple of int or None, default None
        The axes that are summed over; None means all of them, as in SciPy.
    b : array_like, optional
        Weights, broadcast against `a`; they may be negative. A logit whose weight is 0 counts
        nothing, even if it is infinite or NaN.
    keepdims : bool, default False
        Whether the axes summed over stay, with size 1.
    return_sign : bool, default False
        Whether to return the sign of the sum as well. Without it a negative sum gives NaN.
    where : array_like of bool, optional
        Logits that count, broadcast to the shape of `a`; the others are not read.
    out : ndarray, optional
        Where to write the logarithms, of their shape and dtype and of any strides.

    Returns
    -------
    ndarray or scalar
        The logarithms (nats); a scalar if no axis is left and there is no `out`.
    sign : ndarray or scalar
        With `return_sign`: 1, -1, 0 or NaN, of the same shape and dtype.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softmax`; also for an `out` that overlaps `a`.

    Notes
    -----
    At most 2 ulp from the exact result (float64 results nearer to zero than 0.5: 2 ulp of 0.5). An
    empty sum, and one of -inf only, is -inf. The array is read once, and nothing of its size is
    allocated. With `b` the sum is carried in float64 with its rounding errors, through copies of a
    block at a time.

    Examples
    --------
    >>> import numpy as np
    >>> import fastsoftmax
    >>> fastsoftmax.logsumexp(np.zeros((2, 4)), axis=-1)
    array([1.38629436, 1.38629436])
    >>> fastsoftmax.logsumexp([1.0, 2.0], b=[1, -1], return_sign=True)
    (np.float64(1.5413248546129181), np.float64(-1.0))
    """
    if b is None and where is None and keepdims is False and return_sign is False:
        result = _calls.quick_sum(a, axis, out)
        if result is not None:
            return result
    if b is not None:
        return _calls.weighted(a, axis, b, keepdims, return_sign, where, out)
    request = _arguments.reduction(a, axis, where, keepdims, out)
    total = _calls.carry_out("logsumexp", request, masked=-np.inf)
    total = total if out is not None else total[()]
    if not return_sign:
        return total
    # The sum is positive, but for one of no terms or of exp(-inf) alone.
    sign = np.where(np.isnan(total), total, total != -np.inf).astype(request.out.dtype)
    return total, sign[()]


def softmax_backward(
    grad_output: ArrayLike,
    output: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    *,
    out: np.ndarray | None = None,
) -> Any:
    r"""The gradient of a loss with respect to logits, from that with respect to their softmax.

    :math:`y_i (g_i - \sum_j g_j y_j)`.

    Parameters
    ----------
    grad_output : array_like
        g, the gradient with respect to `output`.
    output : array_like
        y, what `softmax` returned, of the same shape.
    axis : int, tuple of int or None, default None
        The axis that `softmax` was given.
    out : ndarray, optional
        Where to write; it may be `grad_output` or `output` itself.

    Returns
    -------
    ndarray
        The gradient with respect to the logits, of the shape and the common dtype of both; `out`
        if it was given.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softmax`; also if the two shapes differ.

    Notes
    -----
    Both arrays are read once, a second time from cache, and the gradient is written once. Sums are
    carried in float64.

    Examples
    --------
    >>> import numpy as np
    >>> import fastsoftmax
    >>> y = fastsoftmax.softmax(np.array([0.0, 0.0]))
    >>> fastsoftmax.softmax_backward(np.array([1.0, 0.0]), y)
    array([ 0.25, -0.25])
    """
    result = _calls.quick_backward("softmax_backward", grad_output, output, axis, out)
    if result is not None:
        return result
    request = _arguments.gradient(grad_output, output, axis, out)
    return _calls.carry_out("softmax_backward", request)


def log_softmax_backward(
    grad_output: ArrayLike,
    output: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    *,
    out: np.ndarray | None = None,
) -> Any:
    r"""The gradient of a loss with respect to logits, from that with respect to their log-softmax.

    :math:`g_i - e^{y_i} \sum_j g_j`.

    Parameters
    ----------
    grad_output : array_like
        g, the gradient with respect to `output`.
    output : array_like
        y, what `log_softmax` returned, of the same shape.
    axis : int, tuple of int or None, default None
        The axis that `log_softmax` was given.
    out : ndarray, optional
        Where to write; it may be `grad_output` or `output` itself.

    Returns
    -------
    ndarray
        The gradient with respect to the logits, of the shape and the common dtype of both; `out`
        if it was given.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softmax`; also if the two shapes differ.

    Notes
    -----
    As `softmax_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastsoftmax
    >>> y = fastsoftmax.log_softmax(np.array([0.0, 0.0]))
    >>> fastsoftmax.log_softmax_backward(np.array([1.0, 0.0]), y)
    array([ 0.5, -0.5])
    """
    result = _calls.quick_backward("log_softmax_backward", grad_output, output, axis, out)
    if result is not None:
        return result
    request = _arguments.gradient(grad_output, output, axis, out)
    return _calls.carry_out("log_softmax_backward", request)
