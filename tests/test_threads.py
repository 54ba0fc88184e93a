"""Threads, forks and the thread count: the same bits from everywhere, and never a dead process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import pytest
from numba.np.ufunc import parallel as numba_parallel
from strategies import REGIONS

import fastsoftmax
from fastsoftmax import _threads, get_num_threads, set_num_threads, threads

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
BAD_COUNTS = [0, -1, 2.5, True, "2", None, float("nan")]


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Code in a fresh interpreter.  A crash is a negative return code, a hang a TimeoutExpired."""
    kept = {k: v for k, v in os.environ.items() if k != "FASTSOFTMAX_NUM_THREADS"}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=300,
        env=kept | environment,
    )


def printed(code: str, **environment: str) -> str:
    done = run(code, **environment)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr}"
    return done.stdout.strip()


# --- the count --------------------------------------------------------------------------


def test_set_and_get() -> None:
    for n in (1, 2, np.int64(1)):
        set_num_threads(n)
        assert get_num_threads() == n
        assert type(get_num_threads()) is int


def test_the_default_is_what_this_process_may_use() -> None:
    default = int(printed("import fastsoftmax; print(fastsoftmax.get_num_threads())"))
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert 1 <= default <= (usable or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this platform")
def test_the_default_follows_the_affinity() -> None:
    code = """
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        import fastsoftmax
        print(fastsoftmax.get_num_threads())
        """
    assert printed(code) == "1"


@pytest.mark.parametrize("value", BAD_COUNTS, ids=repr)
def test_bad_counts(value: Any) -> None:
    before = get_num_threads()
    expected = ValueError if value in (0, -1) else TypeError
    for refused in (set_num_threads, lambda n: threads(n).__enter__()):
        with pytest.raises(expected) as caught:
            refused(value)
        message = str(caught.value)
        assert repr(value) in message
        assert "integer" in message or "at least 1" in message
        assert get_num_threads() == before


def test_context_manager() -> None:
    set_num_threads(2)
    with threads(1):
        assert get_num_threads() == 1
        with threads(2):
            assert get_num_threads() == 2
            with threads(1):
                assert get_num_threads() == 1
            assert get_num_threads() == 2
        assert get_num_threads() == 1
    assert get_num_threads() == 2


def test_context_manager_and_exceptions() -> None:
    set_num_threads(2)
    with pytest.raises(KeyError), threads(1):
        raise KeyError("passed on")
    assert get_num_threads() == 2


def test_the_innermost_block_wins_over_what_is_set_within() -> None:
    """`set_num_threads` sets the process's count: it shows once this thread's block has ended."""
    with threads(1):
        set_num_threads(2)
        assert get_num_threads() == 1
    assert get_num_threads() == 2


def test_a_block_is_its_threads_own() -> None:
    """And what is set is everyone's."""
    set_num_threads(2)
    entered, seen = threading.Barrier(2), []

    def other() -> None:
        entered.wait(timeout=60)
        seen.append(get_num_threads())
        set_num_threads(3)
        entered.wait(timeout=60)

    worker = threading.Thread(target=other)
    worker.start()
    with threads(1):
        entered.wait(timeout=60)
        entered.wait(timeout=60)
        assert get_num_threads() == 1
    worker.join()
    assert seen == [2]
    assert get_num_threads() == 3


@pytest.mark.parametrize("value", ["1", "2", " 2 "])
def test_environment(value: str) -> None:
    code = """
        import numpy as np, fastsoftmax
        fastsoftmax.softmax(np.ones((500, 500)))
        print(fastsoftmax.get_num_threads())
        """
    assert printed(code, FASTSOFTMAX_NUM_THREADS=value) == value.strip()


@pytest.mark.parametrize("value", ["0", "-3", "two", "1.5", "nan"])
def test_bad_environment(value: str) -> None:
    code = "import fastsoftmax; fastsoftmax.get_num_threads(); fastsoftmax.softmax([1.0])"
    done = run(code, FASTSOFTMAX_NUM_THREADS=value)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError")
    assert "FASTSOFTMAX_NUM_THREADS" in last
    assert repr(value) in last
    assert "at least 1" in last or "integer" in last


def test_an_empty_environment_variable_is_none() -> None:
    code = "import fastsoftmax; print(fastsoftmax.get_num_threads())"
    assert printed(code, FASTSOFTMAX_NUM_THREADS="") == printed(code)


# --- the same bits every time -----------------------------------------------------------

LARGER = {
    "many-rows": ((6000, 100), -1),
    "many-narrow-rows": ((300000, 10), -1),
    "few-long-rows": ((3, 300000), -1),
    "one-long-row": ((1000003,), 0),
    "columns": ((300, 3000), 0),
    "long-columns": ((100000, 9), 0),
    "blocks-of-columns": ((70, 100, 130), 1),
    "split-tuple": ((30, 100, 200), (0, 2)),
}
OPERATIONS = ("softmax", "log_softmax", "logsumexp", "softmax_backward", "log_softmax_backward")


def results(x: Any, axis: Any) -> list[bytes]:
    y, log_y = fastsoftmax.softmax(x, axis=axis), fastsoftmax.log_softmax(x, axis=axis)
    outputs = [
        y,
        log_y,
        fastsoftmax.logsumexp(x, axis=axis),
        fastsoftmax.softmax_backward(x, y, axis=axis),
        fastsoftmax.log_softmax_backward(x, log_y, axis=axis),
    ]
    return [np.asarray(output).tobytes() for output in outputs]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("region", LARGER | REGIONS)
def test_bits_do_not_depend_on_threads(region: str, dtype: Any, rng: np.random.Generator) -> None:
    shape, axis = (LARGER | REGIONS)[region]
    x = rng.normal(0, 4, shape).astype(dtype)
    alone, *others = ([threads_results(n, x, axis)] for n in (1, 2, 3))
    for other in others:
        assert dict(zip(OPERATIONS, alone[0], strict=True)) == dict(zip(OPERATIONS, other[0], strict=True))


def threads_results(n: int, x: Any, axis: Any) -> list[bytes]:
    with threads(n):
        return results(x, axis)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("classes", [2, 3, 7, 10, 16, 17, 64, 100, 128, 129, 1000, 1025, 5000, 65536, 65537, 200000])
def test_a_batch_of_one_is_the_row_of_a_batch(classes: int, dtype: Any, rng: np.random.Generator) -> None:
    rows = min(1000, max(3, 300000 // classes))
    x = rng.normal(0, 4, (rows, classes)).astype(dtype)
    outputs = {name: getattr(fastsoftmax, name)(x, axis=-1) for name in OPERATIONS[:3]}
    columns = {name: getattr(fastsoftmax, name)(x.T, axis=0) for name in OPERATIONS[:2]}
    contiguous = np.ascontiguousarray(x.T)
    for row in (0, 1, rows // 2, rows - 1):
        for name, batch in outputs.items():
            alone = getattr(fastsoftmax, name)(x[row : row + 1], axis=-1)
            np.testing.assert_array_equal(alone[0], batch[row])
            np.testing.assert_array_equal(getattr(fastsoftmax, name)(x[row]), batch[row])
        for name, batch in columns.items():
            np.testing.assert_array_equal(batch[:, row], outputs[name][row])
            as_column = getattr(fastsoftmax, name)(contiguous[:, row : row + 2], axis=0)
            np.testing.assert_array_equal(as_column[:, 0], outputs[name][row])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [3, 17, 33, 64, 100, 129, 500])
def test_a_row_of_huge_logits_leaves_others_as_they_are(classes: int, dtype: Any, rng: np.random.Generator) -> None:
    """Its terms are taken as distances from its maximum, and perhaps those of all rows that go with it."""
    x, labels = rng.normal(0, 4, (70, classes)).astype(dtype), rng.integers(0, classes, 70)
    huge = x.copy()
    huge[5] *= 1e7
    others = np.arange(70) != 5
    for name in OPERATIONS[:3]:
        of_all = getattr(fastsoftmax, name)(huge, axis=-1)
        np.testing.assert_array_equal(of_all[others], getattr(fastsoftmax, name)(x, axis=-1)[others])
        np.testing.assert_array_equal(of_all[5], getattr(fastsoftmax, name)(huge[5]))
    loss, gradient = fastsoftmax.cross_entropy_with_grad(huge, labels, reduction="none")
    expected, slopes = fastsoftmax.cross_entropy_with_grad(x, labels, reduction="none")
    np.testing.assert_array_equal(loss[others], expected[others])
    np.testing.assert_array_equal(gradient[others], slopes[others])


@pytest.mark.parametrize("name", OPERATIONS[3:])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize(
    "classes", [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 100, 1000, 65536, 65537]
)
def test_a_gradient_of_one_row_is_that_of_a_batch(
    name: str, classes: int, dtype: Any, rng: np.random.Generator
) -> None:
    """Rows one by one, transposed, on a strided axis near and far; with what is no number among them."""
    gradient = getattr(fastsoftmax, name)
    rows = min(300, max(9, 300000 // classes))
    g, y = rng.normal(0, 4, (rows, classes)).astype(dtype), -rng.random((rows, classes)).astype(dtype)
    g[1, 0], g[2, -1], y[3, 0], y[4] = np.nan, np.inf, -np.inf, -0.0
    g[5] = -0.0
    batch = gradient(g, y, axis=-1)
    for row in (0, 1, 2, 3, 4, 5, rows // 2, rows - 1):
        np.testing.assert_array_equal(gradient(g[row : row + 1], y[row : row + 1], axis=-1)[0], batch[row])
        np.testing.assert_array_equal(gradient(g[row], y[row]), batch[row])
    same = np.broadcast_to(g[0], g.shape)
    np.testing.assert_array_equal(gradient(same, y, axis=-1), gradient(np.array(same), y, axis=-1))
    np.testing.assert_array_equal(gradient(g.T, y.T, axis=0).T, batch)
    columns = np.ascontiguousarray(g.T), np.ascontiguousarray(y.T)
    np.testing.assert_array_equal(gradient(*columns, axis=0).T, batch)
    np.testing.assert_array_equal(gradient(*columns, axis=0, out=columns[1]).T, batch)


def test_threads_are_at_hand_only_where_nothing_need_be_asked(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not _threads.team.prange_is_safe() or numba_parallel.NUM_THREADS < 2:
        pytest.skip("this process launches none of Numba's threads")
    most = numba_parallel.NUM_THREADS
    monkeypatch.setattr(_threads, "WORTH_WAITING_NS", 0)  # launches, also where system calls are filtered
    x = rng.normal(size=(512, 1000))
    with threads(most):
        expected = fastsoftmax.softmax(x, axis=-1)
    at_hand = _threads.team.at_hand
    assert at_hand(most)
    assert at_hand(1)
    assert not at_hand(most - 1) or most == 2
    assert not at_hand(most + 1)
    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(at_hand, most).result()
    numba.set_num_threads(1)
    try:
        with threads(most):
            np.testing.assert_array_equal(fastsoftmax.softmax(x, axis=-1), expected)
    finally:
        numba.set_num_threads(most)


# --- many callers -----------------------------------------------------------------------


def test_eight_python_threads_at_once(rng: np.random.Generator) -> None:
    """Small and large, so that plain calls and launches meet; each against its own answer."""
    inputs = [
        (rng.normal(0, 4, shape).astype(dtype), axis)
        for shape, axis in LARGER.values()
        for dtype in (np.float32, np.float64)
    ] + [(rng.normal(size=(4, 10)), -1)]
    expected = [results(x, axis) for x, axis in inputs]
    start = threading.Barrier(8)

    def work(seed: int) -> int:
        start.wait()
        order = np.random.default_rng(seed).permutation(len(inputs))
        return sum(results(*inputs[i]) == expected[i] for i in order)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [len(inputs)] * 8


COMPARE = """
    import os, sys, threading
    import numpy as np
    import fastsoftmax

    rng = np.random.default_rng(1)
    inputs = [rng.normal(0, 4, shape).astype(np.float32)
              for shape in [(4, 10), (6000, 100), (300000, 10), (3, 300000), (1, 1000003)]]

    def answers():
        return [fastsoftmax.softmax(x, axis=axis).tobytes() for x in inputs for axis in (-1, 0)]
"""


@needs_fork
@pytest.mark.parametrize("layer", ["", "workqueue"])
def test_forked_child_after_use(layer: str) -> None:
    """And its child in turn; the parent goes on."""
    code = textwrap.dedent(COMPARE) + textwrap.dedent(
        """
        expected = answers()

        def in_a_child(work):
            child = os.fork()
            if not child:
                os._exit(work())
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        def grandchild():
            return 0 if answers() == expected else 3

        def child():
            if answers() != expected:
                return 4
            return in_a_child(grandchild)

        print(in_a_child(child), in_a_child(child), answers() == expected)
        """
    )
    environment = {"NUMBA_THREADING_LAYER": layer} if layer else {}
    assert printed(code, **environment) == "0 0 True"


@needs_fork
def test_multiprocessing_by_fork() -> None:
    """The workers of a data loader: forked after use, several at once."""
    code = textwrap.dedent(COMPARE) + textwrap.dedent(
        """
        import multiprocessing
        expected = answers()
        def work(_):
            return answers() == expected
        with multiprocessing.get_context("fork").Pool(3) as pool:
            print(all(pool.map(work, range(6))))
        """
    )
    assert printed(code) == "True"


def test_workqueue_layer_with_eight_threads() -> None:
    """That layer aborts the process when two threads launch at once."""
    code = textwrap.dedent(COMPARE) + textwrap.dedent(
        """
        expected = answers()
        right = []
        def work():
            right.append(all(answers() == expected for _ in range(5)))
        workers = [threading.Thread(target=work) for _ in range(8)]
        for worker in workers: worker.start()
        for worker in workers: worker.join()
        print(len(right), all(right), fastsoftmax.show_config(mode="dicts")["threading_layer"])
        """
    )
    count, right, layer = printed(code, NUMBA_THREADING_LAYER="workqueue").split(maxsplit=2)
    assert (count, right) == ("8", "True")
    assert "workqueue" in layer


def test_the_layers_agree_to_the_bit() -> None:
    code = textwrap.dedent(COMPARE) + textwrap.dedent(
        """
        import hashlib
        print(hashlib.sha256(b"".join(answers())).hexdigest())
        """
    )
    assert printed(code) == printed(code, NUMBA_THREADING_LAYER="workqueue")
