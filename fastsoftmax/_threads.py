"""Who runs the tasks of a call. The only module that knows threads, threading layers and forks.

Tasks run as a `prange` where that is safe, else on Python threads over the same kernels, which release the GIL. It is
not safe in a child forked from a process that had launched (Numba ends it), nor on the workqueue layer, where two
callers at once abort the process.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numba
from numba.np.ufunc import parallel as numba_parallel

from . import _machine
from ._kernels.jit import launchers
from ._machine import get_num_threads, threads

# More parts than this are of no use to any machine, whatever number of threads was asked for.
MOST_TASKS = 1024
# Kinds of calls that are remembered: as many as plans.
MOST_REMEMBERED = 4096
# Seconds that OpenMP's threads look out for work before they sleep, at least.
AWAKE = 0.003
# Waking them takes a virtual machine 150 us and more, so that half of less is no gain; where they may not leave each
# other's processors, 5 ms.
WORTH_WAKING_NS, WORTH_WAITING_NS = 400_000, 4_000_000


class Work(NamedTuple):
    """What a kind of call comes to: compiled code, tasks, on how many threads, and what it takes one of them."""

    code: Callable[..., Any]
    shape: tuple[int, ...]  # see `jit.Loop`
    tasks: int
    threads: int
    cost_ns: float


class _Had:
    """What a thread has had: how many threads with itself, work for them until when, how much of it alone."""

    __slots__ = ("alone_ns", "count", "until")

    def __init__(self) -> None:
        self.count = 1
        self.until = -math.inf
        self.alone_ns = 0.0  # since they sleep


class _Calling(threading.local):
    """The calling thread: what it has had, in one object, for each question to a thread's own takes 30 ns."""

    def __init__(self) -> None:
        self.had = _Had()


class Team:
    """The threads of this process, found out when first needed and forgotten by a forked child."""

    def __init__(self, *, forked: bool = False) -> None:
        self._forked = forked
        self._lock = threading.Lock()
        self._safe: bool | None = None
        self._pool: tuple[int, ThreadPoolExecutor] | None = None
        self._filtered = False
        self.calling = _Calling()
        self.ready: dict[Hashable, Any] = {}  # what was done before, for `_execute`
        self.layer = "none yet"

    def prange_is_safe(self) -> bool:
        """Whether this process may launch Numba's threads, now and from several threads at once."""
        if self._safe is None:
            with self._lock:
                if self._safe is None:
                    self._safe = self._find_out()
        return self._safe

    def _find_out(self) -> bool:
        if self._forked:
            self.layer = "python threads (forked process)"
            return False
        if not numba_parallel._is_initialized and _layer_to_come() == "workqueue":
            # Asking Numba would start that layer's threads, for nothing.
            self.layer = WORKQUEUE
            return False
        try:
            numba_parallel._launch_threads()
            self.layer = numba.threading_layer()
        except (
            ValueError,
            ImportError,
        ):  # no layer of the kind that NUMBA_THREADING_LAYER asks for
            self.layer = "python threads (no threading layer)"
            return False
        if self.layer == "workqueue":
            self.layer = WORKQUEUE
            return False
        return True

    def pool(self, count: int) -> ThreadPoolExecutor:
        """A pool of `count` Python threads; a smaller one is let go, and its threads with it once they are idle."""
        with self._lock:
            if self._pool is None or self._pool[0] < count:
                self._pool = count, ThreadPoolExecutor(count, thread_name_prefix="fastsoftmax")
            return self._pool[1]

    def at_hand(self, count: int) -> bool:
        """Whether so many threads are to be had and no question need be asked.

        That is the calling one, or all of Numba's where it has had these before.
        """
        return count == 1 or self.calling.had.count == count == numba_parallel.NUM_THREADS

    def remember(self, call: Hashable, work: Any) -> None:
        """Keep what carries out a call of this kind with no more questions."""
        if len(self.ready) >= MOST_REMEMBERED:
            self.ready.clear()
        self.ready[call] = work

    def result_of(self, work: Work, arguments: tuple[Any, ...]) -> Any:
        """What work comes to that threads are at hand for; None where they are not."""
        code, shape, tasks, count, cost_ns = work
        if count == 1:
            return code(arguments, shape, 0, tasks, tasks, 0)
        had = self.calling.had
        if not had.count == count == numba_parallel.NUM_THREADS:
            return None
        result = code(arguments, shape, 0, tasks, tasks, self.launcher_now(cost_ns, had))
        had.until = time.perf_counter()
        return result

    def launcher_now(self, cost_ns: float, had: _Had) -> int:
        """What runs work that takes one thread so long: threads that are awake or worth waking, else the caller's (0).

        Of calls in a row the caller does so many alone as waking would have taken.
        """
        known = launchers()
        in_a_row = time.perf_counter() - had.until < AWAKE
        if in_a_row and not had.alone_ns:
            return known.awake
        had.alone_ns = cost_ns + (had.alone_ns if in_a_row else 0.0)
        if had.alone_ns < WORTH_WAKING_NS or (had.alone_ns < WORTH_WAITING_NS and self._is_filtered()):
            return 0
        had.alone_ns = 0.0
        return known.awake if self._is_filtered() else known.waking

    def _is_filtered(self) -> bool:
        """Whether system calls are filtered by now; no filter is ever taken away."""
        self._filtered = self._filtered or _machine.is_filtered()
        return self._filtered

    @contextlib.contextmanager
    def launcher(self, cost_ns: float) -> Iterator[int | None]:
        """`launcher_now`, for no more of Numba's threads than a call may use; None where they are not to be had."""
        most = numba_parallel.NUM_THREADS
        size = min(get_num_threads(), most)
        # Threads are started on trial right before they are launched: later there may be no memory for them any more.
        chosen = self.launcher_now(cost_ns, self.calling.had) if self.prange_is_safe() else None
        if chosen is None or (chosen and not self.can_start(size)):
            yield None
            return
        before = numba_parallel._get_num_threads()
        if size < most:
            numba_parallel._set_num_threads(min(before, size))
        try:
            yield chosen
        finally:
            self.calling.had.until = time.perf_counter()
            if size < most:  # as many as the calling thread has set
                numba_parallel._set_num_threads(before)

    def can_start(self, count: int) -> bool:
        """Whether the calling thread can have `count` with itself: where one cannot start, OpenMP ends the process."""
        had = self.calling.had
        if count > had.count:
            go, trial = threading.Event(), []
            try:
                for _ in range(had.count, count):
                    thread = threading.Thread(target=go.wait, name="fastsoftmax-trial")
                    thread.start()
                    trial.append(thread)
            except RuntimeError:
                return False
            finally:
                go.set()
                for thread in trial:
                    thread.join()
                    _leave_its_place(thread)
        had.count = count  # if that are fewer, OpenMP lets the others go
        return True


def _leave_its_place(thread: threading.Thread) -> None:
    """Wait until a thread that was joined is gone: for a moment it still counts, and OpenMP could start one too few."""
    place = Path(f"/proc/self/task/{thread.native_id}")
    for _ in range(1000):
        if not place.exists():
            return
        time.sleep(1e-5)


WORKQUEUE = "python threads (workqueue is not thread-safe)"


def _layer_to_come() -> str:
    """The threading layer that Numba is about to choose, or what it was asked for where that cannot be told."""
    wanted = str(numba.config.THREADING_LAYER).lower()
    several = {"default": numba.config.THREADING_LAYER_PRIORITY, "forksafe": ["tbb", "workqueue"]}
    for layer in several.get(wanted, [wanted]):
        if layer not in ("tbb", "omp"):
            return str(layer)
        with contextlib.suppress(ImportError):
            importlib.import_module(f"numba.np.ufunc.{layer}pool")
            return str(layer)
    return wanted


team = Team()


def _after_fork() -> None:
    global team
    team = Team(forked=True)
    _machine.forget_default()  # this may be a worker of a pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def threading_layer() -> str:
    """What runs parallel work in this process; asks for it to be started."""
    team.prange_is_safe()
    return team.layer


def each(function: Callable[[int], None], count: int, tasks: int) -> None:
    """``function(i)`` for i in range(count), by `tasks` Python threads; an error is raised when all have stopped."""
    tasks = min(tasks, count, MOST_TASKS)
    if tasks <= 1:
        for i in range(count):
            function(i)
        return
    parts, stop = deque(range(tasks)), threading.Event()
    # Emptied at the end: threads have `work` for a moment after they are done, and not the caller's arrays with it.
    held = [function]

    def work() -> None:
        # The parts are done by threads already: what they call must not share its work again.
        with threads(1):
            while parts:
                try:
                    part = parts.popleft()
                except IndexError:  # another was faster
                    return
                for i in range(count * part // tasks, count * (part + 1) // tasks):
                    if stop.is_set():
                        return
                    held[0](i)

    futures: list[Future[None]] = []
    try:
        # For want of memory, or as the interpreter ends, no thread may start: what none takes is done by this one.
        with contextlib.suppress(RuntimeError):
            pool = team.pool(tasks - 1)
            for _ in range(1, tasks):
                # Known before it is submitted: a pool that cannot start a thread says so, but has it in its queue.
                futures.append(Future())
                pool.submit(_fulfil, futures[-1], work)
        work()
    except BaseException:
        stop.set()
        raise
    finally:
        _wait_for(futures, stop)
        held.clear()


def _fulfil(future: Future[None], work: Callable[[], None]) -> None:
    """Do what somebody may wait for, unless it was cancelled."""
    if future.set_running_or_notify_cancel():
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised by whoever waits
            future.set_exception(error)
        else:
            future.set_result(None)


def _wait_for(futures: list[Future[None]], stop: threading.Event) -> None:
    """Wait until none of them writes to the caller's memory any more, Ctrl-C or not; then raise the first error."""
    errors: list[BaseException] = []
    for future in futures:
        ended = False
        while not ended:
            try:
                error = None if future.cancel() else future.exception()
                ended = True
            except BaseException as interrupt:  # noqa: BLE001 - whatever the handler of a signal raises
                error = interrupt
            if error is not None:
                stop.set()
                errors.append(error)
    if errors:
        raise errors[0]
