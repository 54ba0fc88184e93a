"""Errors in units in the last place against long double, so that a change of a kernel that costs digits shows."""

from __future__ import annotations

import numpy as np

import fastsoftmax

from ._family import logits

SHAPE = (64, 1000)


def exact(function: str, x: np.ndarray) -> np.ndarray:
    wide = x.astype(np.longdouble)
    top = wide.max(axis=-1, keepdims=True)
    e = np.exp(wide - top)
    # The largest term stays out of the sum, or a log-probability near 0 has no digits.
    total = (np.sort(e, axis=-1)[:, :-1]).sum(axis=-1, keepdims=True)
    if function == "softmax":
        return e / (1 + total)
    log = np.log1p(total)
    return wide - top - log if function == "log_softmax" else top + log


class UlpErrors:
    """The worst error of a function over rows of normal logits and confident rows."""

    params = (("softmax", "log_softmax", "logsumexp"), ("float32", "float64"))
    param_names = ("function", "dtype")

    def track_worst_ulp(self, function: str, dtype: str) -> float:
        x = logits(SHAPE).astype(dtype)
        x[::2, 7] += 40
        right = exact(function, x)
        got = getattr(fastsoftmax, function)(x, axis=-1).reshape(len(x), -1)
        return float(np.max(np.abs(got - right) / np.spacing(np.abs(right).astype(dtype))))

    track_worst_ulp.unit = "ulp"  # type: ignore[attr-defined]
