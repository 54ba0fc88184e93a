"""The exact cross-entropy and its gradient in long double, for every option, row by row and held whole.

As `reference`, it shares nothing with the library but the formulas: the loss of a row is
``sum(a * (1 - p)**gamma * nll) + z * mass * lse**2``, with ``nll = -log p`` of the capped and divided logits and
``a = w * ((1 - eps) * y + eps/C)``. Class indices become rows y of 0 and a 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from reference import LONG, Array, from_rows, to_long, to_rows, two_difference, two_product


@dataclass
class Exact:
    """The losses of the rows, what `reduction` makes of them, the gradient, the log-sum-exps; all long double.

    `terms` is the largest sum of magnitudes that an entry of the gradient is made of: they may cancel.
    """

    losses: Array
    value: Any
    gradient: Array
    lse: Array
    terms: float


@dataclass
class _Logits:
    """Rows of negative log-probabilities, probabilities, their distances from 1; the log-sum-exps."""

    nll: Array
    p: Array
    others: Array
    lse: Array


def _logits(x: Array, temperature: float) -> _Logits:
    peak = x.max(axis=-1, keepdims=True, initial=-np.inf)
    shift = np.where(np.isneginf(peak), 0, peak)
    t = np.asarray(temperature, LONG)
    distance, low = two_difference(x, shift)
    quotient = distance / t
    product, product_low = two_product(quotient, t)
    rest = ((distance - product) - product_low + low) / t
    rest = np.where(np.isfinite(rest), rest, 0)
    e = np.exp(quotient) * (1 + rest)
    if x.shape[-1]:
        np.put_along_axis(e, x.argmax(axis=-1, keepdims=True), 0, axis=-1)
    log = np.log1p(e.sum(axis=-1, keepdims=True))
    nll = log - quotient - rest
    nothing = np.isneginf(peak)
    nll = np.where(nothing, np.nan, nll)
    lse = np.where(nothing, -np.inf, np.where(np.isposinf(peak), np.inf, peak / t + log))
    return _Logits(nll, np.exp(-nll), -np.expm1(-nll), lse[..., 0])


def cross_entropy(
    logits: Any,
    target: Any,
    *,
    axis: int = -1,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    sample_weight: Any = None,
    num_items: float | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    focal_gamma: float = 0.0,
    grad_output: Any = 1.0,
) -> Exact:
    """All that `fastsoftmax.cross_entropy_with_grad` says, exactly."""
    given, target = to_long(logits), np.asarray(target)
    rows = to_rows(given, axis)
    classes, shape = rows.shape[-1], rows.shape[:-1]
    w = np.ones(classes, LONG) if weight is None else np.asarray(weight, LONG)
    own = np.ones(shape, LONG) if sample_weight is None else np.asarray(sample_weight, LONG)
    if target.dtype.kind in "iu":
        counts = np.array([int(label) != ignore_index for label in target.flat], bool).reshape(shape)
        labels = np.where(counts, target, 0).astype(np.intp)
        y = np.zeros(rows.shape, LONG)
        np.put_along_axis(y, labels[..., None], 1, axis=-1)
        mass = np.where(counts, w[labels], 0)
    else:
        counts, mass, y = np.ones(shape, bool), np.ones(shape, LONG), to_rows(to_long(target), axis)
    with np.errstate(all="ignore"):
        inner, slope = rows, LONG(1)
        if softcap is not None:
            cap = np.asarray(softcap, LONG)
            inner, slope = cap * np.tanh(rows / cap), 1 / np.cosh(rows / cap) ** 2
        at = _logits(inner, temperature)
        eps = np.asarray(label_smoothing, LONG)
        a = w * ((1 - eps) * y + eps / classes)
        focal = at.others ** LONG(focal_gamma) if focal_gamma else LONG(1)
        ratio = np.where(at.others == 0, 1, np.where(at.p == 0, 0, at.p * at.nll / at.others))
        value = np.where(a == 0, 0, a * focal * at.nll)
        h = np.where(a == 0, 0, -a * focal * (1 + focal_gamma * ratio))
        spoilt = np.where(np.isnan(at.nll).any(axis=-1), np.nan, LONG(0))
        penalty = z_loss * mass * at.lse if z_loss else np.zeros(shape, LONG)
        losses = value.sum(axis=-1) + penalty * (at.lse if z_loss else 0) + spoilt
        # What belongs to a class itself is kept out of the sum: p - 1 has its digits where p is near 1.
        pull = h.sum(axis=-1, keepdims=True) - h
        gradient = h * at.others - at.p * (pull - 2 * penalty[..., None]) + spoilt[..., None]
        losses = np.where(counts, losses, 0) * own
        denominator: Any = LONG(1)
        if reduction == "mean":
            denominator = LONG(num_items) if num_items is not None else (mass * own).sum()
        factor = own * np.asarray(grad_output, LONG) / denominator / LONG(temperature)
        gradient = np.where(counts[..., None], gradient * slope * factor[..., None], 0)
        sizes = (np.abs(h).sum(axis=-1) + 2 * np.abs(penalty)) * np.abs(factor)
        terms = float(np.where(counts & np.isfinite(sizes), sizes, 0).max(initial=0))
        result = losses if reduction == "none" else losses.sum() / denominator
    return Exact(losses, result, from_rows(gradient, given.shape, axis), at.lse, terms)
