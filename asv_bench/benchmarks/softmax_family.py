"""The softmax family: seconds, the same in copies of the input, and memory allocated.

One copy is the time of `numpy.copyto` for one array of the input's shape, measured in turn with
the function in the same process. Absolute times drift with the machine; copies hold.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import fastsoftmax

from ._measure import Call, medians_in_turn, peak_bytes

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
ROUNDS = 9


def logits(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Normal logits of standard deviation 3, as a trained model gives."""
    return 3 * np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


class _Family:
    params = tuple(CASES)
    param_names = ("case",)
    timeout = 300

    def prepare(self, shape: tuple[int, ...], axis: int) -> Call:
        """Make the arrays, and bind the function that the class is named after to them."""
        raise NotImplementedError

    def setup(self, case: str) -> None:
        shape, axis = CASES[case]
        self.call = self.prepare(shape, axis)
        self.call()  # compiles
        source, target = np.ones(shape, np.float32), np.empty(shape, np.float32)
        self.copy = lambda: np.copyto(target, source)

    def time_call(self, case: str) -> None:
        self.call()

    def track_copies(self, case: str) -> float:
        seconds = medians_in_turn({"function": self.call, "copy": self.copy}, ROUNDS)
        return seconds["function"] / seconds["copy"]

    track_copies.unit = "copies"  # type: ignore[attr-defined]

    def track_peak_bytes(self, case: str) -> int:
        return peak_bytes(self.call)

    track_peak_bytes.unit = "bytes"  # type: ignore[attr-defined]


class Softmax(_Family):
    def prepare(self, shape: tuple[int, ...], axis: int) -> Call:
        x = logits(shape)
        out = np.empty_like(x)
        return lambda: fastsoftmax.softmax(x, axis=axis, out=out)


class LogSoftmax(_Family):
    def prepare(self, shape: tuple[int, ...], axis: int) -> Call:
        x = logits(shape)
        out = np.empty_like(x)
        return lambda: fastsoftmax.log_softmax(x, axis=axis, out=out)


class LogSumExp(_Family):
    def prepare(self, shape: tuple[int, ...], axis: int) -> Call:
        x = logits(shape)
        out = np.empty(x.max(axis=axis).shape, x.dtype)
        return lambda: fastsoftmax.logsumexp(x, axis=axis, out=out)


class SoftmaxBackward(_Family):
    def prepare(self, shape: tuple[int, ...], axis: int) -> Call:
        return bound_backward(fastsoftmax.softmax, fastsoftmax.softmax_backward, shape, axis)


class LogSoftmaxBackward(_Family):
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
