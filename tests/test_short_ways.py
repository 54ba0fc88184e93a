"""What is contiguous skips most questions of Python; what is not, is asked all: same bits, same errors."""

from __future__ import annotations

import contextvars
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numba.np.ufunc import parallel as numba_parallel

import fastsoftmax
from fastsoftmax import _execute, _losses, _threads, threads
from fastsoftmax._kernels.jit import launchers

SHAPES = [((5, 9), -1), ((9,), 0), ((3, 4, 7), 2), ((2, 5, 6), 1), ((2, 6, 3, 5), -3), ((300, 90), 1), ((70, 3, 40), 1)]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"reduction": "sum"},
    {"reduction": "none", "temperature": 0.7},
    {"label_smoothing": 0.1, "z_loss": 1e-3},
    {"num_items": 7, "ignore_index": 1},
    {"ignore_index": 2**63},
]
KINDS = [np.int8, np.int32, np.int64, np.uint16, np.uint64, ">i4"]


def strided(x: np.ndarray) -> np.ndarray:
    """The same numbers, with a gap behind each."""
    return np.stack([x, x], -1)[..., 0]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each loss went the short way."""
    went, quick = [], _losses.quick

    def counted(*arguments: Any) -> Any:
        result = quick(*arguments)
        went.append(result is not None)
        return result

    monkeypatch.setattr(_losses, "quick", counted)
    return went


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_losses(shape: tuple[int, ...], axis: int, dtype: str, options: dict[str, Any], calls: list[bool]) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(0, 3, shape).astype(dtype)
    y = np.array(rng.integers(0, x.shape[axis], np.delete(shape, axis)))
    if "ignore_index" not in options and y.size > 1:
        y.flat[0] = -100
    y.flat[-1] = 0  # one row that counts
    long = fastsoftmax.cross_entropy_with_grad(strided(x), y, axis=axis, **options)
    assert not any(calls)
    for kind in (*KINDS, None):
        if kind is not None and not np.can_cast(np.int8, kind) and y.min() < 0:
            continue
        calls.clear()
        labels = y.tolist() if kind is None else y.astype(kind)
        short = fastsoftmax.cross_entropy_with_grad(x, labels, axis=axis, **options)
        alone = fastsoftmax.cross_entropy(x, labels, axis=axis, **options)
        assert all(calls) == (kind is not np.uint64 and options.get("ignore_index") != 2**63)
        for a, b in zip((*short, alone), (*long, long[0]), strict=True):
            assert (type(a), a.dtype, a.shape) == (type(b), b.dtype, b.shape)
            assert np.array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_bad_labels(shape: tuple[int, ...], axis: int, kind: Any) -> None:
    """The same words, and nothing is written."""
    x = np.zeros(shape, np.float32)
    y = np.zeros(np.delete(shape, axis), kind)
    y.flat[-1] = 100
    messages = []
    for logits in (x, strided(x)):
        out = np.full(shape, 7, np.float32)
        with pytest.raises(IndexError, match="is 100: class indices go from 0 to") as caught:
            fastsoftmax.cross_entropy_with_grad(logits, y, axis=axis, out=out)
        messages.append(str(caught.value))
        assert (out == 7).all()
    assert messages[0] == messages[1]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize(("shape", "axis"), [*SHAPES, ((6, 7), None)])
@pytest.mark.parametrize("function", [fastsoftmax.softmax, fastsoftmax.log_softmax])
def test_temperatures(function: Any, shape: tuple[int, ...], axis: int | None, dtype: str) -> None:
    x = np.random.default_rng(6).normal(0, 3, shape).astype(dtype)
    for temperature in (0.7, 3, np.float32(2.5), True):
        expected = function(strided(x), axis=axis, temperature=temperature)
        assert np.array_equal(function(x, axis=axis, temperature=temperature), expected)
        out = x.copy()
        assert function(out, axis=axis, temperature=temperature, out=out) is out
        assert np.array_equal(out, expected)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("rows", [1, 100])
def test_a_loss_beyond_float32_is_infinite_without_a_warning(rows: int, reduction: str) -> None:
    x = np.tile(np.array([3e38, -3e38], np.float32), (rows, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = fastsoftmax.cross_entropy(x, np.ones(rows, int), reduction=reduction)
        largest = fastsoftmax.cross_entropy(x / np.float32(2), np.ones(rows, int), reduction="none")
    assert np.isposinf(loss).all()
    assert np.isfinite(largest).all()


def test_arrays_that_share_memory_go_the_long_way(calls: list[bool]) -> None:
    memory = np.random.default_rng(7).normal(0, 3, 4000).astype(np.float32)
    y = np.random.default_rng(8).integers(0, 30, 100)
    x, out = memory[:3000].reshape(100, 30), memory[500:3500].reshape(100, 30)
    expected = fastsoftmax.cross_entropy_with_grad(x.copy(), y)
    assert calls == [True]
    loss, gradient = fastsoftmax.cross_entropy_with_grad(x, y, out=out)
    assert calls == [True, False]
    assert gradient is out
    assert loss == expected[0]
    assert np.array_equal(out, expected[1])


def test_a_kind_of_call_is_remembered_for_threads_that_have_launched(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second call asks no question, another thread's first does, and what is remembered has an end."""
    if not _threads.team.prange_is_safe() or numba_parallel.NUM_THREADS < 2:
        pytest.skip("this process launches none of Numba's threads")
    done: list[bool] = []
    repeat = _execute.repeat

    def recorded(*call: Any) -> Any:
        result = repeat(*call)
        done.append(result is not None)
        return result

    monkeypatch.setattr(_execute, "repeat", recorded)
    monkeypatch.setattr(_threads.team, "ready", {})
    monkeypatch.setattr(_threads, "WORTH_WAITING_NS", 0)  # launches, also where system calls are filtered
    x = rng.normal(size=(512, 1000))
    labels = rng.integers(0, 1000, 512)

    def results() -> list[bytes]:
        loss, gradient = fastsoftmax.cross_entropy_with_grad(x, labels)
        return [fastsoftmax.softmax(x, axis=-1).tobytes(), loss.tobytes(), gradient.tobytes()]

    with threads(numba_parallel.NUM_THREADS):
        expected = [results() for _ in range(3)]
    assert expected[0] == expected[1] == expected[2]
    assert done[-2:] == [True, True]
    with ThreadPoolExecutor(1) as pool, threads(numba_parallel.NUM_THREADS):
        context = contextvars.copy_context()
        assert pool.submit(context.run, results).result() == expected[0]
    assert done[-2:] == [False, True]  # the softmax after the loss, which has launched
    with threads(1):
        assert results() == expected[0]
    assert done[-2:] == [False, False]
    monkeypatch.setattr(_threads, "MOST_REMEMBERED", 3)
    for rows in range(500, 512):
        fastsoftmax.softmax(x[:rows], axis=-1)
        assert len(_threads.team.ready) <= 3


def test_threads_that_sleep_are_woken_for_much_work_alone(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a pause the calling thread does alone as much as waking would take, in one call or several.

    Whatever the call, whether it is remembered or not; where threads may not be moved, for longer.
    """
    if not _threads.team.prange_is_safe() or numba_parallel.NUM_THREADS < 2:
        pytest.skip("this process launches none of Numba's threads")
    alone, known = 0, launchers()
    now = 1000.0
    used: list[int] = []
    chosen = _threads.Team.launcher_now
    monkeypatch.setattr(_threads.team, "ready", {})
    monkeypatch.setattr(_threads.time, "perf_counter", lambda: now)
    monkeypatch.setattr(_threads.Team, "launcher_now", lambda *work: used.append(chosen(*work)) or used[-1])
    x = rng.normal(size=(20000, 500)).astype(np.float32)
    labels = rng.integers(0, 500, len(x))
    calls = (
        lambda x: fastsoftmax.softmax(x, axis=-1),
        lambda x: fastsoftmax.softmax(x[:, 4:], axis=-1),
        lambda x: fastsoftmax.cross_entropy_with_grad(x, labels[: len(x)])[1],
    )
    for filtered in (False, True):
        monkeypatch.setattr(_threads._machine, "is_filtered", lambda filtered=filtered: filtered)
        monkeypatch.setattr(_threads.team, "_filtered", False)
        waking = known.awake if filtered else known.waking
        # Of 215 ns a row: 0.15 ms, 0.43 and 4.3.
        for rows, before_waking in ((700, 26 if filtered else 2), (2000, 9 if filtered else 0), (20000, 0)):
            for call in calls:
                with threads(numba_parallel.NUM_THREADS):
                    expected = call(x[:rows])
                    used.clear()
                    for pause in (1.0, *[0.001] * before_waking, 0.0029, 0.0, 0.0031):
                        now += pause
                        np.testing.assert_array_equal(call(x[:rows]), expected)
                last = alone if before_waking else waking
                assert used == [alone] * before_waking + [waking, known.awake, known.awake, last]
