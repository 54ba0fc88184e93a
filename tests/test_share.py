"""How the tasks of a launch are shared among its threads, whoever is fast, late or asleep."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numba.np.ufunc import parallel as numba_parallel

import fastsoftmax
from fastsoftmax import _machine, _threads
from fastsoftmax._kernels import share
from fastsoftmax._kernels.jit import launcher_address

TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
LAUNCHER = ctypes.CFUNCTYPE(ctypes.c_void_p, *[ctypes.c_int64] * 4)
LONG = 60.0  # seconds: whoever waits so long, waits for what will not come

needs_launches = pytest.mark.skipif(
    not _threads.team.prange_is_safe() or numba_parallel.NUM_THREADS < 2,
    reason="this process launches none of Numba's threads",
)
needs_affinity = pytest.mark.skipif(
    sys.platform != "linux" or not _machine.may_set_affinity() or len(os.sched_getaffinity(0)) < 2,
    reason="threads have no other processor to go to",
)


def launch(do: Callable[[int], None], first: int, last: int) -> None:
    """``do(task)`` for the tasks from `first` to `last`, as kernels have it done."""
    assert _threads.team.can_start(numba_parallel.NUM_THREADS)
    task = TASK(lambda block, number: do(number))
    LAUNCHER(launcher_address())(ctypes.cast(task, ctypes.c_void_p).value, 0, first, last)


@needs_launches
@pytest.mark.parametrize(("first", "last"), [(0, 1), (0, 2), (0, 7), (3, 4), (5, 69), (1000, 3000)])
def test_each_task_is_done_once(first: int, last: int) -> None:
    for _ in range(20):
        done: list[int] = []  # appending is one step of the interpreter
        launch(done.append, first, last)
        assert Counter(done) == Counter(range(first, last))


@needs_launches
def test_who_is_done_does_what_is_left_of_others() -> None:
    """The first task to be begun ends only when all others are done, whose tasks ever they were."""
    for late in (0, 15):
        others, done = threading.Event(), []

        def do(task: int, late: int = late, others: threading.Event = others, done: list[int] = done) -> None:
            if task == late:
                assert others.wait(LONG)
            done.append(task)
            if len(done) == 15:
                others.set()

        launch(do, 0, 16)
        assert others.is_set()
        assert done[-1] == late
        assert sorted(done) == list(range(16))


@needs_launches
def test_one_of_numbas_threads_does_all_tasks() -> None:
    numba.set_num_threads(1)
    try:
        done: set[tuple[int, int]] = set()
        launch(lambda task: done.add((task, threading.get_ident())), 0, 10)
    finally:
        numba.set_num_threads(numba_parallel.NUM_THREADS)
    assert done == {(task, threading.get_ident()) for task in range(10)}


@needs_launches
def test_a_launch_within_a_launch_of_another_thread() -> None:
    """Threads that launch at once have tasks of their own."""
    done: dict[int, list[int]] = {caller: [] for caller in range(4)}
    start = threading.Barrier(4)

    def work(caller: int) -> None:
        start.wait()
        for _ in range(10):
            launch(done[caller].append, 100 * caller, 100 * caller + 20)

    callers = [threading.Thread(target=work, args=(caller,)) for caller in done]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    for caller, tasks in done.items():
        assert Counter(tasks) == dict.fromkeys(range(100 * caller, 100 * caller + 20), 10)


# --- processors ---------------------------------------------------------------------------


def in_a_thread(work: Callable[[], Any]) -> Any:
    """What it returns, from a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def processor() -> int:
    """Where the calling thread runs."""
    return int(ctypes.CDLL(None).sched_getcpu())


def compiled(function: Any, arguments: int) -> Any:
    dispatcher = numba.njit(function)
    dispatcher.compile((numba.int64,) * arguments)
    return dispatcher


@needs_affinity
def test_a_thread_leaves_the_processors_of_others_and_may_come_back() -> None:
    """It may run wherever it might before, and so the system may move it back at once: many try."""
    leave = compiled(lambda room, size: share.go_elsewhere(room, size), 2)

    def work() -> bool:
        before, here = os.sched_getaffinity(0), processor()
        room = np.array([0, here + 1, 1])
        leave(room.ctypes.data, 1)
        there = processor()
        assert os.sched_getaffinity(0) == before
        return there != here

    assert sum(in_a_thread(work) for _ in range(20)) > 10


@needs_affinity
@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("own", [0, 1])
def test_only_who_comes_second_goes_elsewhere(moves: bool, own: int) -> None:
    begin, _ = share.beginning(moves)
    start = compiled(lambda room, size, own: begin(room, size, own), 3)

    def work() -> bool:
        here = processor()
        room = np.zeros(5, np.int64)
        room[2 + 1 - own] = here + 1
        start(room.ctypes.data, 2, own)
        assert room[4] == 1
        return bool(room[2 + own] != here + 1)

    moved = sum(in_a_thread(work) for _ in range(20))
    assert (moved > 10) == (moves and own == 1)


@needs_affinity
@pytest.mark.parametrize("more", [[], [1023], [1024], [-1], [2**40]])
def test_a_thread_stays_where_there_is_no_other_processor(more: list[int]) -> None:
    """All it may run on are taken, and numbers that no mask has."""
    leave = compiled(lambda room, size: share.go_elsewhere(room, size), 2)
    taken = [*sorted(os.sched_getaffinity(0)), *more]

    def work() -> None:
        before = os.sched_getaffinity(0)
        room = np.concatenate([np.zeros(len(taken), np.int64), np.array(taken) + 1, [len(taken)]])
        leave(room.ctypes.data, len(taken))
        assert os.sched_getaffinity(0) == before

    in_a_thread(work)


@needs_launches
@needs_affinity
def test_calls_leave_every_thread_where_it_may_run() -> None:
    x = np.random.default_rng(0).normal(size=(2048, 500)).astype(np.float32)
    allowed = os.sched_getaffinity(0)
    with fastsoftmax.threads(numba_parallel.NUM_THREADS):
        for pause in (0.0, 0.02, 0.02, 0.02):
            threading.Event().wait(pause)
            fastsoftmax.softmax(x, axis=-1)
            for thread in Path("/proc/self/task").iterdir():
                assert os.sched_getaffinity(int(thread.name)) == allowed


@pytest.mark.parametrize(
    ("status", "may"),
    [
        ("Name:\tpython\nSeccomp:\t0\nSeccomp_filters:\t0\n", True),
        ("Name:\tpython\nSeccomp:\t2\nSeccomp_filters:\t1\n", False),
        ("Name:\tSeccomp:\t0\nSeccomp:\t1\n", False),
        ("Name:\tpython\n", False),
        ("", False),
    ],
)
def test_no_thread_is_moved_where_system_calls_are_filtered(tmp_path: Path, status: str, may: bool) -> None:
    (tmp_path / "status").write_text(status)
    assert _machine.may_set_affinity(tmp_path / "status") == (may and hasattr(os, "sched_setaffinity"))
    assert not _machine.may_set_affinity(tmp_path / "none")
