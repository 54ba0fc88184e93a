"""Rows of several blocks, whose terms are kept in the frame of their block until the maximum of the row is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import reference
from numba.np.ufunc import parallel as numba_parallel
from reference import Array, assert_ulp

import fastsoftmax
from fastsoftmax import _execute, _threads
from fastsoftmax._kernels.lengths import BLOCK, SHORT_ROW

CLASSES = 5 * BLOCK + 77
assert CLASSES > SHORT_ROW
BLOCKS = -(-CLASSES // BLOCK)


def steps(*levels: float) -> Callable[[np.random.Generator], Array]:
    """Logits around another level in each block."""
    assert len(levels) == BLOCKS

    def draw(rng: np.random.Generator) -> Array:
        with np.errstate(over="ignore"):
            return rng.normal(0, 2, CLASSES) + np.repeat(levels, BLOCK)[:CLASSES]

    return draw


ROWS = {
    "falling to subnormal results": steps(0, -60, -80, -90, -95, -100),
    "rising from them": steps(-100, -95, -90, -80, -60, 0),
    "beyond the smallest float64": steps(0, -350, -700, -730, -740, -800),
    "far below": steps(0, -1e4, -1e30, 0, -3e38, 0),
    "below all float32": steps(0, -1e60, 0, -1e200, 0, -1e300),
    "near blocks beside one that is FAR": steps(5e6, 0, -1e3, 5e6, 4e6, 5e6),
    "the last block FAR": steps(0, 0, 0, 0, 0, 3e6),
    "all FAR": steps(3e6, 3e6, 3e6 + 4, 3e6, -3e6, 3e6),
    "blocks of -inf": steps(-np.inf, 0, -np.inf, -np.inf, 1, -np.inf),
    "a row of -inf": steps(*[-np.inf] * 6),
    "+inf in one block": steps(0, 1, 2, np.inf, 1, 0),
    "both infinities": steps(-np.inf, 1, 2, np.inf, 1, -np.inf),
}
DTYPES = [np.float32, np.float64]


def cast(row: Array, dtype: npt.DTypeLike) -> Array:
    """One row of logits, infinite where they are too large for the dtype."""
    with np.errstate(over="ignore"):
        return row.astype(dtype)[np.newaxis]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("draw", ROWS.values(), ids=ROWS)
def test_softmax(draw: Callable[..., Array], dtype: npt.DTypeLike, rng: np.random.Generator) -> None:
    """Within 3 ulp, in place and not, on one thread and shared out by blocks."""
    x = cast(draw(rng), dtype)
    with np.errstate(all="ignore"):
        exact = reference.softmax(x, -1)
    results = []
    for threads in (1, 2):
        with fastsoftmax.threads(threads):
            copy = x.copy()
            results += [fastsoftmax.softmax(x, axis=-1), fastsoftmax.softmax(copy, axis=-1, out=copy)]
    assert_ulp(results[0], exact, 3.0)
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


@pytest.mark.parametrize("temperature", [0.7, 2.0])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["far below", "below all float32", "blocks of -inf", "beyond the smallest float64"])
def test_temperature(name: str, dtype: npt.DTypeLike, temperature: float, rng: np.random.Generator) -> None:
    """What a temperature makes of the distance of a block, however far, is no NaN."""
    x = cast(ROWS[name](rng), dtype)
    with np.errstate(all="ignore"):
        exact = reference.softmax(x, -1, temperature=temperature)
    assert not np.isnan(exact).any()
    for threads in (1, 2):
        with fastsoftmax.threads(threads):
            assert_ulp(fastsoftmax.softmax(x, axis=-1, temperature=temperature), exact, 3.0)
            assert not np.isnan(fastsoftmax.log_softmax(x, axis=-1, temperature=temperature)).any()
            target = np.argmax(x, axis=-1)
            loss, gradient = fastsoftmax.cross_entropy_with_grad(x, target, temperature=temperature)
    assert 0 < loss < np.log(CLASSES)
    exact[0, target[0]] -= 1
    assert np.abs(gradient * temperature - exact).max() <= 3e-7 * np.abs(exact).max()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(ROWS)[:8])
def test_gradient(name: str, dtype: npt.DTypeLike, smoothing: float, rng: np.random.Generator) -> None:
    """That of the loss in place and not, on one thread and shared out by blocks, is ``p - (class is the target)``."""
    x = cast(ROWS[name](rng), dtype)
    target = np.array([BLOCK + 5])
    results: list[tuple[Any, Array]] = []
    for threads in (1, 2):
        with fastsoftmax.threads(threads):
            copy = x.copy()
            results += [
                fastsoftmax.cross_entropy_with_grad(x, target, label_smoothing=smoothing),
                fastsoftmax.cross_entropy_with_grad(copy, target, label_smoothing=smoothing, out=copy),
            ]
    loss, gradient = results[0]
    with np.errstate(all="ignore"):
        exact = reference.softmax(x, -1) - smoothing / CLASSES
    exact[0, target[0]] -= 1 - smoothing
    assert np.abs(gradient - exact).max() <= 3e-7 * np.abs(exact).max()
    for other in results[1:]:
        assert other[0] == loss
        np.testing.assert_array_equal(other[1], gradient)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_in_any_block(dtype: npt.DTypeLike, rng: np.random.Generator) -> None:
    for block in range(BLOCKS):
        x = np.stack([ROWS["blocks of -inf"](rng), ROWS["far below"](rng)]).astype(dtype)
        x[0, block * BLOCK] = np.nan
        p = fastsoftmax.softmax(x, axis=-1, out=x)
        assert np.isnan(p[0]).all()
        assert not np.isnan(p[1]).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_a_row_shared_out_again(
    dtype: npt.DTypeLike, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is known how: the same bits, in place too, and if another thread gives an array a new shape meanwhile."""
    most = numba_parallel.NUM_THREADS
    if most < 2 or not _threads.team.prange_is_safe():
        pytest.skip("this process launches none of Numba's threads")
    x, g = rng.normal(0, 4, (2, 1, 90000)).astype(dtype)
    y, labels = fastsoftmax.softmax(x, axis=-1), np.array([70001])
    calls: dict[str, Callable[[Array, Array], Any]] = {
        "softmax": lambda x, out: fastsoftmax.softmax(x, axis=-1, out=out),
        "log_softmax": lambda x, out: fastsoftmax.log_softmax(x, axis=-1, out=out),
        "logsumexp": lambda x, out: fastsoftmax.logsumexp(x, axis=-1),
        "softmax_backward": lambda x, out: fastsoftmax.softmax_backward(x, y, axis=-1, out=out),
        "log_softmax_backward": lambda x, out: fastsoftmax.log_softmax_backward(g, x, axis=-1, out=out),
    }
    for smoothing in (0.0, 0.1):
        options: dict[str, Any] = {"label_smoothing": smoothing}
        calls[f"loss {smoothing}"] = lambda x, out, options=options: fastsoftmax.cross_entropy(x, labels, **options)
        calls[f"gradient {smoothing}"] = lambda x, out, options=options: np.append(
            *fastsoftmax.cross_entropy_with_grad(x, labels, out=out, **options)
        )
    with fastsoftmax.threads(1):
        expected = {name: np.array(call(x.copy(), np.empty_like(x))) for name, call in calls.items()}
    repeat = _execute.repeat
    monkeypatch.setattr(_threads.team, "ready", {})
    with fastsoftmax.threads(most):
        for _ in range(3):
            for name, call in calls.items():
                given, out = x.copy(), np.empty_like(x)
                np.testing.assert_array_equal(call(given, out), expected[name])
                np.testing.assert_array_equal(given, x)
                np.testing.assert_array_equal(call(given, given), expected[name])
        known = [work for work in _threads.team.ready.values() if isinstance(work, _execute.Split)]
        assert len(known) == 7
        for name, call in calls.items():
            for turned in (0, 1):
                arrays = x.copy(), np.empty_like(x)

                def changed(*given: Any, array: Array = arrays[turned]) -> Any:
                    array.shape = (array.size,)
                    return repeat(*given)

                monkeypatch.setattr(_execute, "repeat", changed)
                got = call(*arrays)
                monkeypatch.setattr(_execute, "repeat", repeat)
                np.testing.assert_array_equal(np.reshape(got, expected[name].shape), expected[name])
