"""cross_entropy and cross_entropy_with_grad."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import _loss_arguments, _losses
from ._loss_arguments import DEFAULT_IGNORE_INDEX as IGNORED


def cross_entropy(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    axis: int = -1,
    weight: ArrayLike | None = None,
    ignore_index: int = IGNORED,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    sample_weight: ArrayLike | None = None,
    num_items: float | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    focal_gamma: float = 0.0,
    return_lse: bool = False,
) -> Any:
    r"""Cross-entropy of logits with class indices or probabilities: :math:`-\sum_c w_c y_c \log p_c`.

    Parameters
    ----------
    logits : array_like
        Unnormalised log-probabilities, of any shape and memory layout and of the dtypes of `softmax`. Never changed.
    target : array_like
        Class indices of any integer dtype, of the shape of `logits` without `axis`; or probabilities of a floating
        dtype, of the shape of `logits`. The rows of these may have any sum.
    axis : int, default -1
        The axis of the classes: 1 for logits of shape (N, C, H, W).
    weight : array_like, optional
        A finite number for each class, which multiplies its part of the loss.
    ignore_index : int, default -100
        Rows whose class index it is count nothing.
    reduction : {"mean", "sum", "none"}, default "mean"
        What becomes of the losses of the rows. The mean is weighted: with class indices it is the sum divided by the
        sum of ``weight[target] * sample_weight`` over the rows that count; with probabilities, by that of
        `sample_weight`. Without weights that is the number of rows. It is NaN where nothing counts.
    label_smoothing : float, default 0.0
        From 0 to 1: the part of the target that is spread evenly over all classes.
    sample_weight : array_like, optional
        A finite number for each row, which multiplies its loss; a row whose number is 0 counts as ignored.
    num_items : float, optional
        What the sum is divided by instead, for the mean alone: the number of tokens of all micro-batches whose
        gradients are added up.
    temperature : float, default 1.0
        Divides the logits, after `softcap`.
    softcap : float, optional
        Logits become ``softcap * tanh(logits / softcap)``.
    z_loss : float, default 0.0
        Coefficient of the square of the log-sum-exp. A row's is multiplied by the same weights as the row counts in
        the mean with.
    focal_gamma : float, default 0.0
        Each class's part of the loss is multiplied by ``(1 - p)**focal_gamma``.
    return_lse : bool, default False
        Whether to return the log-sum-exps of the rows as well.

    Returns
    -------
    float or ndarray
        The loss (nats): float64 for float64 logits, else float32; of the shape of `logits` without `axis` for "none".
    lse : ndarray
        With `return_lse`: the log-sum-exp of each row, ignored or not, after `softcap` and `temperature`.

    Raises
    ------
    IndexError
        For a class index outside [0, C) that is not `ignore_index`: names the first one.
    TypeError
        For boolean or text targets, floating class indices, and as `softmax`.
    ValueError
        For shapes that do not fit, weights that are not finite, options out of range, an `ignore_index` with
        probabilities, `num_items` with another reduction than the mean.
    numpy.exceptions.AxisError
        For an axis that `logits` does not have.

    Notes
    -----
    The loss of a row, before `sample_weight` multiplies it, is within 2 ulp, also if it is near 0: the largest term
    stays out of the sum, and none is rounded as it is added to others. (A focal loss of float64 is within
    ``3 + 2*focal_gamma``: the error of 1 - p counts so often.) Losses are float64 until they are returned and are added
    up in a fixed order with their rounding errors.

    With class indices the logits are read once (twice if rows are longer than 65536) and nothing of their size is made,
    but some 24 bytes a row. Probabilities, `softcap` and `focal_gamma` go through blocks of float64 of a quarter of the
    second cache, and cost several times as much.

    Smoothing and weights are those of PyTorch; the focal loss is that of Lin et al., arXiv:1708.02002, `z_loss` that of
    PaLM, arXiv:2204.02311, `softcap` that of Gemma 2, arXiv:2408.00118.

    Examples
    --------
    >>> import numpy as np
    >>> import fastsoftmax
    >>> logits = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> fastsoftmax.cross_entropy(logits, [0, 1])
    np.float64(0.39549...)
    >>> fastsoftmax.cross_entropy(logits, [0, -100], reduction="none")
    array([0.23954..., 0.        ])
    """
    options = _loss_arguments.options_of(
        reduction, label_smoothing, num_items, temperature, softcap, z_loss, focal_gamma
    )
    if weight is sample_weight is None and return_lse is False:
        quick = _losses.quick("cross_entropy", logits, target, axis, ignore_index, options, None)
        if quick is not None:
            return quick[0]
    request = _loss_arguments.loss_request(logits, target, axis, ignore_index, sample_weight, weight, options)
    loss = _losses.carry_out(request, return_lse)
    return (loss.value, loss.lse) if return_lse else loss.value


def cross_entropy_with_grad(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    axis: int = -1,
    weight: ArrayLike | None = None,
    ignore_index: int = IGNORED,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    sample_weight: ArrayLike | None = None,
    num_items: float | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    focal_gamma: float = 0.0,
    return_lse: bool = False,
    grad_output: ArrayLike | None = None,
    out: np.ndarray | None = None,
) -> Any:
    r"""Cross-entropy and its gradient with respect to the logits, in one visit.

    Parameters
    ----------
    logits, target, axis, weight, ignore_index, reduction, label_smoothing, sample_weight, num_items
        As in `cross_entropy`.
    temperature, softcap, z_loss, focal_gamma, return_lse
        As in `cross_entropy`.
    grad_output : array_like, optional
        What the gradient is multiplied by: one number, or with ``reduction="none"`` one for each row. By default 1, so
        that for "none" the gradient is that of the sum.
    out : ndarray, optional
        Where to write the gradient: of the shape of `logits` and of its dtype (float32 or float64 for integers), of any
        strides. It may be `logits` itself, which is then replaced.

    Returns
    -------
    loss : float or ndarray
        As `cross_entropy`.
    grad : ndarray
        The gradient of the loss with respect to `logits`; `out` if it was given. 0 for ignored rows.
    lse : ndarray
        With `return_lse`, as `cross_entropy`.

    Raises
    ------
    IndexError, TypeError, ValueError, numpy.exceptions.AxisError
        As `cross_entropy`, and for a `grad_output` or an `out` that does not fit. Nothing has been written then.

    Notes
    -----
    At most 3e-7 of its largest entry from the exact gradient in float32; the entry of the target, ``p - 1``, keeps its
    digits where p is near 1. (With `label_smoothing` or `z_loss` and class indices all entries of a row may be small
    differences, such as ``p - label_smoothing/C`` where a model has learnt that: then 3e-7 of what is subtracted.) In
    place, or into `out`, nothing of the size of the logits is made; they are read once and the gradient is written once
    (rows longer than 65536 are read twice).

    Examples
    --------
    >>> import numpy as np
    >>> import fastsoftmax
    >>> loss, grad = fastsoftmax.cross_entropy_with_grad(np.array([[0.0, 0.0]]), [1])
    >>> grad
    array([[ 0.5, -0.5]])
    """
    options = _loss_arguments.options_of(
        reduction, label_smoothing, num_items, temperature, softcap, z_loss, focal_gamma
    )
    if weight is sample_weight is grad_output is None and return_lse is False:
        quick = _losses.quick("cross_entropy_with_grad", logits, target, axis, ignore_index, options, out)
        if quick is not None:
            return quick
    request = _loss_arguments.loss_request(logits, target, axis, ignore_index, sample_weight, weight, options)
    loss = _losses.carry_out(_loss_arguments.with_gradient(request, grad_output, out), return_lse)
    return (loss.value, loss.gradient, loss.lse) if return_lse else (loss.value, loss.gradient)
