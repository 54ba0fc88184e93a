"""The softmax family."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import fastsoftmax
from fastsoftmax._bench.measure import Call

from ._family import _Family, logits

# name: (shape, axis), one for each kernel and each place of the data, from registers to memory
CASES = {
    "1x10": ((1, 10), -1),
    "256x64": ((256, 64), -1),
    "256x1000": ((256, 1000), -1),
    "262144x10": ((262144, 10), -1),
    "1x128256": ((1, 128256), -1),
    "2048x8192": ((2048, 8192), -1),
    "64x256x256 axis 1": ((64, 256, 256), 1),
}


class _Softmaxes(_Family):
    cases = CASES
    params = tuple(CASES)


class Softmax(_Softmaxes):
    def prepare(self, shape: tuple[int, ...], axis: int) -> Call:
        x = logits(shape)
        out = np.empty_like(x)
        return lambda: fastsoftmax.softmax(x, axis=axis, out=out)


class LogSoftmax(_Softmaxes):
    def prepare(self, shape: tuple[int, ...], axis: int) -> Call:
        x = logits(shape)
        out = np.empty_like(x)
        return lambda: fastsoftmax.log_softmax(x, axis=axis, out=out)


class LogSumExp(_Softmaxes):
    def prepare(self, shape: tuple[int, ...], axis: int) -> Call:
        x = logits(shape)
        out = np.empty(x.max(axis=axis).shape, x.dtype)
        return lambda: fastsoftmax.logsumexp(x, axis=axis, out=out)


class SoftmaxBackward(_Softmaxes):
    def prepare(self, shape: tuple[int, ...], axis: int) -> Call:
        return bound_backward(fastsoftmax.softmax, fastsoftmax.softmax_backward, shape, axis)


class LogSoftmaxBackward(_Softmaxes):
    def prepare(self, shape: tuple[int, ...], axis: int) -> Call:
        return bound_backward(fastsoftmax.log_softmax, fastsoftmax.log_softmax_backward, shape, axis)


def bound_backward(
    forward: Callable[..., np.ndarray],
    backward: Callable[..., np.ndarray],
    shape: tuple[int, ...],
    axis: int,
) -> Call:
    grad_output = logits(shape, seed=1)
    output = forward(logits(shape), axis=axis)
    out = np.empty_like(output)
    return lambda: backward(grad_output, output, axis=axis, out=out)
