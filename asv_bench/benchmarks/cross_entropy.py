"""Cross-entropy with class indices: the loss, and the loss with its gradient."""

from __future__ import annotations

import numpy as np

import fastsoftmax
from fastsoftmax._bench.measure import Call

from ._family import _Family, logits

# name: (shape, axis), one for each kernel and each place of the data, from registers to memory
CASES = {
    "1x10": ((1, 10), -1),
    "256x1000": ((256, 1000), -1),
    "8x32000": ((8, 32000), -1),
    "262144x10": ((262144, 10), -1),
    "2048x8192": ((2048, 8192), -1),
    "64x128256": ((64, 128256), -1),
    "8x21x256x256 axis 1": ((8, 21, 256, 256), 1),
    "1x150x256x256 axis 1": ((1, 150, 256, 256), 1),
}


class _Losses(_Family):
    cases = CASES
    params = tuple(CASES)


class CrossEntropy(_Losses):
    def prepare(self, shape: tuple[int, ...], axis: int) -> Call:
        x = logits(shape)
        labels = labels_of(x, axis)
        return lambda: fastsoftmax.cross_entropy(x, labels, axis=axis)


class CrossEntropyWithGrad(_Losses):
    def prepare(self, shape: tuple[int, ...], axis: int) -> Call:
        x = logits(shape)
        labels, out = labels_of(x, axis), np.empty_like(x)
        return lambda: fastsoftmax.cross_entropy_with_grad(x, labels, axis=axis, out=out)


class CrossEntropyWithGradInPlace(_Losses):
    """Each call takes the last one's gradient for its logits, which does not change the time."""

    def prepare(self, shape: tuple[int, ...], axis: int) -> Call:
        x = logits(shape)
        labels = labels_of(x, axis)
        return lambda: fastsoftmax.cross_entropy_with_grad(x, labels, axis=axis, out=x)


def labels_of(x: np.ndarray, axis: int) -> np.ndarray:
    rows = x.shape[:axis] + x.shape[axis:][1:]
    return np.random.default_rng(1).integers(0, x.shape[axis], rows)
