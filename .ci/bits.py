"""Print a hash of what every public function gives, bit for bit, on fixed inputs.

The same lines must come out of every instruction set. To compare two of them, run this script once
as it is and once with NUMBA_CPU_NAME and NUMBA_CPU_FEATURES set; arguments choose among the dtypes.
Within a run it checks that one thread and two give the same bits.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import fastsoftmax

Axis = int | tuple[int, ...]
Function = Callable[[np.ndarray, Axis], Iterator[np.ndarray]]

# Shapes that meet each kernel: a lone class, a few classes, one vector and a part of the next,
# short rows, long rows, rows of several blocks, rows that are split over threads, a strided axis: small arrays and
# large ones, columns put together, in tiles, at hand, and as rows.
CASES: list[tuple[tuple[int, ...], Axis]] = [
    ((1, 1), -1),
    ((3, 2), -1),
    ((100, 10), -1),
    ((33, 16), -1),
    ((33, 17), -1),
    ((40, 100), -1),
    ((8, 1000), -1),
    ((4, 32000), -1),
    ((2, 70000), -1),
    ((1, 131072), -1),
    ((4, 33, 50), 1),
    ((1000, 40), 0),
    ((4, 33, 50), (0, 2)),
    ((7, 5, 3), 1),
    ((300, 9, 5), 1),
    ((40, 9, 50), 1),
    ((5, 9, 512), 1),
    ((2, 40, 512), 1),
    ((40, 400, 5), 1),
]
DTYPES = ["float32", "float64", "float16"]
if importlib.util.find_spec("ml_dtypes"):
    import ml_dtypes  # noqa: F401  (registers the name bfloat16 with NumPy)

    DTYPES.append("bfloat16")


def fractions(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Draw from [-16, 16) in steps of a power of two: integers, so that no libm has a say."""
    return np.random.default_rng(seed).integers(-(2**13), 2**13, shape) / 2**9


def logits(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Draw logits of which some rows are moved far away from zero."""
    offsets = np.resize([0.0, 1000.0, -30000.0, 0.25], shape[0])
    return (fractions(1, shape) + offsets.reshape(-1, *[1] * (len(shape) - 1))).astype(dtype)


def mask(shape: tuple[int, ...]) -> np.ndarray:
    """Draw three classes of four, and none of the last row where there are more."""
    kept = np.random.default_rng(2).integers(0, 4, shape) > 0
    if shape[0] > 1:
        kept[-1] = False
    return kept


def softmax(x: np.ndarray, axis: Axis) -> Iterator[np.ndarray]:
    yield from forward(fastsoftmax.softmax, x, axis)


def log_softmax(x: np.ndarray, axis: Axis) -> Iterator[np.ndarray]:
    yield from forward(fastsoftmax.log_softmax, x, axis)


def forward(function: Callable[..., np.ndarray], x: np.ndarray, axis: Axis) -> Iterator[np.ndarray]:
    for temperature in (1.0, 0.7):
        yield function(x, axis=axis, temperature=temperature)
    kept = mask(x.shape)
    yield function(x, axis=axis, where=kept)
    yield function(np.where(kept, x, np.asarray(-np.inf, x.dtype)), axis=axis)


def logsumexp(x: np.ndarray, axis: Axis) -> Iterator[np.ndarray]:
    yield fastsoftmax.logsumexp(x, axis=axis)
    yield fastsoftmax.logsumexp(x, axis=axis, where=mask(x.shape))
    weights = fractions(3, x.shape).astype(x.dtype)
    yield from fastsoftmax.logsumexp(x, axis=axis, b=weights, return_sign=True)


def softmax_backward(x: np.ndarray, axis: Axis) -> Iterator[np.ndarray]:
    grad_output = fractions(4, x.shape).astype(x.dtype)
    yield fastsoftmax.softmax_backward(grad_output, fastsoftmax.softmax(x, axis=axis), axis=axis)


def log_softmax_backward(x: np.ndarray, axis: Axis) -> Iterator[np.ndarray]:
    grad_output = fractions(4, x.shape).astype(x.dtype)
    output = fastsoftmax.log_softmax(x, axis=axis)
    yield fastsoftmax.log_softmax_backward(grad_output, output, axis=axis)


def cross_entropy(x: np.ndarray, axis: Axis) -> Iterator[np.ndarray]:
    for target, options in losses(x, axis):
        yield from fastsoftmax.cross_entropy(x, target, axis=axis, return_lse=True, **options)


def cross_entropy_with_grad(x: np.ndarray, axis: Axis) -> Iterator[np.ndarray]:
    for target, options in losses(x, axis):
        yield from fastsoftmax.cross_entropy_with_grad(x, target, axis=axis, **options)


def losses(x: np.ndarray, axis: Axis) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Targets and options: each kernel of the losses, and each option once."""
    if isinstance(axis, tuple):
        return  # a loss has one axis of classes
    classes = x.shape[axis]
    labels = np.random.default_rng(5).integers(0, classes, np.moveaxis(x, axis, -1).shape[:-1])
    ignored = np.where(np.random.default_rng(6).integers(0, 5, labels.shape) == 0, -100, labels)
    weights = np.abs(fractions(7, (classes,))) + 0.125
    yield labels, {}
    yield ignored, {"weight": weights, "label_smoothing": 0.1, "z_loss": 1e-3, "temperature": 0.7}
    yield ignored, {"sample_weight": fractions(8, labels.shape), "reduction": "none"}
    yield ignored, {"focal_gamma": 2.0, "softcap": 30.0, "label_smoothing": 0.1}
    yield np.abs(fractions(9, x.shape)) / 16, {"weight": weights, "temperature": 0.7}


FUNCTIONS: list[Function] = [
    softmax,
    log_softmax,
    logsumexp,
    softmax_backward,
    log_softmax_backward,
    cross_entropy,
    cross_entropy_with_grad,
]


def digest(function: Function, dtype: str) -> str:
    sha = hashlib.sha256()
    for shape, axis in CASES:
        for result in function(logits(shape, dtype), axis):
            # The sign and payload of a NaN are the processor's choice, and carry no information.
            canonical = np.where(np.isnan(result), np.asarray(np.nan, result.dtype), result)
            sha.update(f"{result.dtype} {result.shape} ".encode())
            sha.update(canonical.tobytes())
    return sha.hexdigest()


def main(dtypes: list[str]) -> None:
    total = hashlib.sha256()
    for function in FUNCTIONS:
        for dtype in dtypes:
            digests = []
            for threads in (1, 2):
                with fastsoftmax.threads(threads):
                    digests.append(digest(function, dtype))
            line = f"{function.__name__} {dtype} {digests[0]}"
            if digests[0] != digests[1]:
                raise SystemExit(f"{line} on one thread, but {digests[1]} on two")
            print(line)
            total.update(line.encode())
    print(f"all {total.hexdigest()}")


if __name__ == "__main__":
    main(sys.argv[1:] or DTYPES)
