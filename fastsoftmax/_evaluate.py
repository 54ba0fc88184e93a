"""What logits are worth against the true classes: loss, accuracy and calibration, some rows at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index
from numpy.typing import NDArray

import fastsoftmax

# Logits at a time: enough rows to share out among threads, few enough to stay in cache.
CHUNK = 2**20
BINS = 15
TOP = 5


@dataclass(frozen=True)
class Evaluation:
    """Means over the rows that count; NaN where there are none."""

    loss: float  # cross-entropy in nats
    perplexity: float  # exp(loss)
    accuracy: float
    top_5_accuracy: float
    expected_calibration_error: float
    rows: int  # how many count


def evaluate(logits: NDArray[Any], target: NDArray[Any], axis: int, ignore_index: int) -> Evaluation:
    """Compare logits with class indices; nothing of the size of the logits is made.

    Parameters
    ----------
    logits : ndarray
        Of any dtype that `fastsoftmax.cross_entropy` takes; it may be mapped from a file.
    target : ndarray
        Class indices, of the shape of `logits` without `axis`.
    axis : int
        The axis of the classes.
    ignore_index : int
        Rows whose class index it is count nothing.

    Raises
    ------
    TypeError
        For a target that is no array of integers, and as `fastsoftmax.cross_entropy`.
    ValueError
        For shapes that do not fit, no classes, and class indices out of range.

    Notes
    -----
    Of equal logits the one of the lower index ranks higher. A row whose loss is NaN is predicted wrongly.

    The expected calibration error is that of Guo et al., arXiv:1706.04599: rows are sorted by the probability of their
    likeliest class into bins ``((m - 1) / 15, m / 15]``; the distance between a bin's accuracy and its mean
    probability is averaged over the bins, each by its number of rows.
    """
    number = normalize_axis_index(axis, logits.ndim)
    _check(logits.shape, target, number, ignore_index)
    by_row = np.moveaxis(logits, number, -1)
    losses, rows, hits, near_hits = [], 0, 0, 0
    gaps = np.zeros(BINS)
    for index in _chunks(target.shape, CHUNK // logits.shape[number]):
        x, given = by_row[index], target[index]
        counts = given != ignore_index
        labels = np.where(counts, given, 0).astype(np.intp)
        loss = _losses(x, labels)
        ranks = _ranks(x, labels)
        # The loss of the likeliest class tells its probability to the last digits, which the
        # log-sum-exp of logits far from zero does not.
        confidence = np.exp(-_losses(x, np.argmax(x, axis=-1)))[counts]
        right = ((ranks == 0) & ~np.isnan(loss))[counts]
        losses.append(math.fsum(loss[counts]))
        rows += right.size
        hits += int(np.count_nonzero(right))
        near_hits += int(np.count_nonzero((ranks < TOP) & ~np.isnan(loss) & counts))
        bins = np.clip(np.ceil(np.nan_to_num(confidence) * BINS) - 1, 0, BINS - 1).astype(np.intp)
        gaps += np.bincount(bins, right - confidence, BINS)
    mean_loss = _mean(math.fsum(losses), rows)
    with np.errstate(over="ignore"):
        perplexity = float(np.exp(mean_loss))
    return Evaluation(
        loss=mean_loss,
        perplexity=perplexity,
        accuracy=_mean(hits, rows),
        top_5_accuracy=_mean(near_hits, rows),
        expected_calibration_error=_mean(float(np.abs(gaps).sum()), rows),
        rows=rows,
    )


def _losses(x: NDArray[Any], labels: NDArray[np.intp]) -> NDArray[np.float64]:
    return np.asarray(fastsoftmax.cross_entropy(x, labels, axis=-1, reduction="none"), np.float64)


def _ranks(x: NDArray[Any], labels: NDArray[np.intp]) -> NDArray[np.intp]:
    """Count the classes that come before the labels."""
    own = np.take_along_axis(x, labels[..., None], axis=-1)
    tied_before = (x == own) & (np.arange(x.shape[-1]) < labels[..., None])
    ranks: NDArray[np.intp] = np.count_nonzero((x > own) | tied_before, axis=-1)
    return ranks


def _chunks(shape: tuple[int, ...], rows: int) -> Iterator[tuple[int | slice, ...]]:
    """Indices of chunks of about `rows` rows: a slice of one axis, whole ones behind it."""
    axis, inside = len(shape) - 1, 1
    while axis > 0 and inside * shape[axis] <= rows:
        inside *= shape[axis]
        axis -= 1
    if axis < 0:
        yield ()
        return
    step = max(1, rows // max(1, inside))
    for position in itertools.product(*map(range, shape[:axis])):
        for start in range(0, shape[axis], step):
            yield (*position, slice(start, start + step))


def _check(shape: tuple[int, ...], target: NDArray[Any], axis: int, ignore_index: int) -> None:
    """Refuse targets that do not fit logits of this shape, all of them before anything is computed."""
    classes, rows = shape[axis], shape[:axis] + shape[axis + 1 :]
    if target.dtype.kind not in "iu":
        raise TypeError(f"the targets are {target.dtype}: class indices are integers, save target.astype(int)")
    if target.shape != rows:
        fitting = [i for i in range(len(shape)) if shape[:i] + shape[i + 1 :] == target.shape]
        fix = f"give --axis {fitting[0]}" if fitting else "save one class index for each row"
        raise ValueError(
            f"the targets have shape {target.shape}, but logits of shape {shape} with classes on axis {axis} need "
            f"{rows}: {fix}"
        )
    if not classes:
        raise ValueError(f"the logits have shape {shape}: there are no classes on axis {axis}")
    bad = ((target < 0) | (target >= classes)) & (target != ignore_index)
    if bad.any():
        position = tuple(int(i) for i in np.unravel_index(np.argmax(bad), bad.shape))
        raise ValueError(
            f"target{list(position) if position else ''} is {target[position]}: class indices go from 0 to "
            f"{classes - 1}, and the ignored one is {ignore_index}"
        )


def _mean(total: float, rows: int) -> float:
    return total / rows if rows else math.nan
