"""How the tasks of a launch are shared among its threads, whoever is fast, late or asleep."""

from __future__ import annotations

import ctypes
import os
import platform
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
from children import printed
from numba.np.ufunc import parallel as numba_parallel

import fastsoftmax
from fastsoftmax import _machine, _threads
from fastsoftmax._kernels import share
from fastsoftmax._kernels.jit import _awake, _waking, launchers

TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
LAUNCHER = ctypes.CFUNCTYPE(ctypes.c_void_p, *[ctypes.c_int64] * 4)
LONG = 10.0  # seconds: whoever waits so long, waits for what will not come

needs_launches = pytest.mark.skipif(
    not _threads.team.prange_is_safe() or numba_parallel.NUM_THREADS < 2,
    reason="this process launches none of Numba's threads",
)
needs_affinity = pytest.mark.skipif(
    sys.platform != "linux" or _machine.is_filtered() or len(os.sched_getaffinity(0)) < 2,
    reason="threads have no other processor to go to",
)


@pytest.fixture(params=["awake", "waking"])
def launcher(request: pytest.FixtureRequest) -> Any:
    """What runs ``function(block, task)``, both addresses, for tasks from one number to another."""
    assert _threads.team.can_start(numba_parallel.NUM_THREADS)
    return LAUNCHER(getattr(launchers(), request.param))


def launch(launcher: Any, do: Callable[[int], None], first: int, last: int) -> None:
    """``do(task)`` for the tasks from `first` to `last`, as kernels have it done."""
    task = TASK(lambda block, number: do(number))
    launcher(ctypes.cast(task, ctypes.c_void_p).value, 0, first, last)


@needs_launches
@pytest.mark.parametrize(("first", "last"), [(0, 1), (0, 2), (0, 7), (3, 4), (5, 69), (1000, 3000)])
def test_each_task_is_done_once(launcher: Any, first: int, last: int) -> None:
    for _ in range(20):
        done: list[int] = []  # appending is one step of the interpreter
        launch(launcher, done.append, first, last)
        assert Counter(done) == Counter(range(first, last))


@needs_launches
def test_each_of_many_short_tasks_is_done_once(launcher: Any) -> None:
    """Of tasks that need no interpreter, so that threads meet at the counters all the time."""
    count = 20000

    @numba.cfunc(numba.void(numba.types.CPointer(numba.int64), numba.int64))
    def task(done, number):
        done[number] += 1
        if number >= count // 2:  # this half takes longer: the others help
            for i in range(100):
                done[count] = max(done[count], done[i])

    for _ in range(50):
        done = np.zeros(count + 1, np.int64)
        launcher(task.address, done.ctypes.data, 0, count)
        assert (done[:-1] == 1).all()


@needs_launches
def test_who_is_done_does_what_is_left_of_others(launcher: Any) -> None:
    """The first task to be begun ends only when all others are done, whose tasks ever they were."""
    for late in (0, 15):
        others, done = threading.Event(), []

        def do(task: int, late: int = late, others: threading.Event = others, done: list[int] = done) -> None:
            if task == late:
                assert others.wait(LONG)
            done.append(task)
            if len(done) == 15:
                others.set()

        launch(launcher, do, 0, 16)
        assert others.is_set()
        assert done[-1] == late
        assert sorted(done) == list(range(16))


@needs_launches
def test_one_of_numbas_threads_does_all_tasks(launcher: Any) -> None:
    numba.set_num_threads(1)
    try:
        done: set[tuple[int, int]] = set()
        launch(launcher, lambda task: done.add((task, threading.get_ident())), 0, 10)
    finally:
        numba.set_num_threads(numba_parallel.NUM_THREADS)
    assert done == {(task, threading.get_ident()) for task in range(10)}


@needs_launches
def test_launches_at_once_have_tasks_of_their_own(launcher: Any) -> None:
    done: dict[int, list[int]] = {caller: [] for caller in range(4)}
    start = threading.Barrier(4)

    def work(caller: int) -> None:
        start.wait()
        for _ in range(10):
            launch(launcher, done[caller].append, 100 * caller, 100 * caller + 20)

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
        room = np.array([0, here + 1, 1, 0])
        leave(room.ctypes.data, 1)
        there = processor()
        assert os.sched_getaffinity(0) == before
        return there != here

    assert sum(in_a_thread(work) for _ in range(20)) > 10


@needs_affinity
@pytest.mark.parametrize("launches", [False, True])
@pytest.mark.parametrize("processor_is_taken", [False, True])
def test_who_comes_second_goes_elsewhere_but_for_the_callers_thread(launches: bool, processor_is_taken: bool) -> None:
    start = compiled(lambda room, size, own: share.begin(room, size, own), 3)

    def work() -> bool:
        before, here = os.sched_getaffinity(0), processor()
        room = np.zeros(6, np.int64)
        room[2] = here + 1 if processor_is_taken else 0
        room[5] = threading.get_ident() if launches else 0
        start(room.ctypes.data, 2, 1)
        assert room[4] == 1
        assert os.sched_getaffinity(0) == before
        return bool(room[3] != here + 1)

    moved = sum(in_a_thread(work) for _ in range(20))
    assert (moved > 10) == (processor_is_taken and not launches)


def test_a_mask_loses_what_is_taken_and_nothing_else() -> None:
    take = compiled(lambda mask, processor: share.without(mask, processor), 2)
    nothing_left = compiled(lambda mask: share.is_empty(mask), 1)
    for processor in (0, 1, 62, 63, 64, 130, 1023, -1, 1024, 2**40):
        mask = np.full(16, -1, np.int64)
        take(mask.ctypes.data, processor)
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
        assert np.flatnonzero(bits == 0).tolist() == [processor] * (0 <= processor < 1024)
        assert not nothing_left(mask.ctypes.data)
        alone = np.zeros(16, np.int64)
        assert nothing_left(alone.ctypes.data)
        alone.view(np.uint8)[:] = np.packbits(bits == 0, bitorder="little")
        assert nothing_left(alone.ctypes.data) == (not 0 <= processor < 1024)


def test_launchers_are_kept_under_names_of_their_own() -> None:
    """One that never moves a thread must not be found by who asks for the other."""
    assert (
        _awake._cache.file((numba.int64,) * 4, _awake.targetctx.codegen())
        != _waking._cache.file((numba.int64,) * 4, _waking.targetctx.codegen())
        or sys.platform != "linux"
    )


@needs_affinity
@pytest.mark.parametrize("more", [[], [1024], [-1], [2**40]])
def test_a_thread_stays_where_there_is_no_other_processor(more: list[int]) -> None:
    """All it may run on are taken, and numbers that no mask has."""
    leave = compiled(lambda room, size: share.go_elsewhere(room, size), 2)
    taken = [*sorted(os.sched_getaffinity(0)), *more]

    def work() -> None:
        before = os.sched_getaffinity(0)
        room = np.concatenate([np.zeros(len(taken), np.int64), np.array(taken) + 1, [len(taken), 0]])
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
    ("status", "filtered"),
    [
        (b"Name:\tpython\nSeccomp:\t0\nSeccomp_filters:\t0\n", False),
        (b"Name:\t\xd0\nSeccomp:\t0\n", False),  # cut in the middle of a letter
        (b"Name:\tpython\nSeccomp:\t2\nSeccomp_filters:\t1\n", True),
        (b"Name:\tSeccomp:\t0\nSeccomp:\t1\n", True),
        (b"Name:\tpython\n", True),
        (b"", True),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="Linux filters system calls")
def test_filters_of_system_calls_are_seen(tmp_path: Path, status: bytes, filtered: bool) -> None:
    (tmp_path / "status").write_bytes(status)
    assert _machine.is_filtered(tmp_path / "status") == filtered
    assert _machine.is_filtered(tmp_path / "none")


@needs_launches
@needs_affinity
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter knows system calls by their numbers there")
def test_a_filter_that_comes_later_does_not_end_the_process() -> None:
    """It kills who asks for another processor or yields this one; calls after pauses ask for neither then."""
    printed("""
        import ctypes, struct, time
        import numpy as np
        import fastsoftmax

        x = np.ones((2048, 500), np.float32)
        expected = fastsoftmax.softmax(x, axis=-1)
        kill, allow = (0x06, 0, 0, 0x80000000), (0x06, 0, 0, 0x7FFF0000)
        code = [(0x20, 0, 0, 0), (0x15, 1, 0, 203), (0x15, 0, 1, 24), kill, allow]
        program = b"".join(struct.pack("HBBI", *line) for line in code)
        buffer = ctypes.create_string_buffer(program)
        filters = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code), ctypes.addressof(buffer)))
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
        assert libc.prctl(22, 2, filters, 0, 0) == 0
        for _ in range(50):
            time.sleep(0.02)
            assert np.array_equal(fastsoftmax.softmax(x, axis=-1), expected)
        print("alive")
    """)
