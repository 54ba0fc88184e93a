"""Carries out plans. The only module that knows threads, threading layers and forks.

A plan of several tasks runs as a `prange` where that is safe, else on Python threads over the same
kernels, which release the GIL. It is not safe in a child forked from a process that had launched
(Numba ends it), nor on the workqueue layer, where two callers at once abort the process.
Compiled code hears no signal: what takes long is done in several calls, for Ctrl-C to come through between them.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
from numba.np.ufunc import parallel as numba_parallel

from . import _machine
from ._kernels.cache import folder
from ._kernels.jit import Loop, launcher_address
from ._kernels.lengths import BLOCK
from ._kernels.loops import (
    BLOCK_STATES,
    CAP,
    KERNELS,
    READ_LABELS,
    ROWS_OF_BLOCKS,
    SMALL_KERNELS,
    SOFT_TARGETS,
    SUM,
    WEIGHTED,
)
from ._machine import get_num_threads as get_num_threads
from ._machine import set_num_threads as set_num_threads
from ._machine import threads as threads
from ._plan import Plan

# -- who runs the tasks
# ------------------------------------------------------------------------------------


# More parts than this are of no use to any machine, whatever number of threads was asked for.
MOST_TASKS = 1024
# Elements that one call of compiled code goes through: a fraction of a second.
PIECE = 2**26


class _Team:
    """The threads of this process, found out when first needed and forgotten by a forked child."""

    def __init__(self, *, forked: bool = False) -> None:
        self._forked = forked
        self._lock = threading.Lock()
        self._safe: bool | None = None
        self._pool: tuple[int, ThreadPoolExecutor] | None = None
        self._had = threading.local()
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

    def launcher_at_hand(self, tasks: int) -> int | None:
        """What runs so many tasks where that takes no question, None where it does.

        That is the calling thread for one (0), else Numba's threads where it has had that many, all there are, before.
        """
        if tasks == 1:
            return 0
        ready = getattr(self._had, "count", 0) == tasks == numba_parallel.NUM_THREADS
        return launcher_address() if ready else None

    def can_start(self, count: int) -> bool:
        """Whether the calling thread can have `count` with itself: where one cannot start, OpenMP ends the process."""
        had = getattr(self._had, "count", 1)
        if count > had:
            go, trial = threading.Event(), []
            try:
                for _ in range(had, count):
                    thread = threading.Thread(target=go.wait, name="fastsoftmax-trial")
                    thread.start()
                    trial.append(thread)
            except RuntimeError:
                return False
            finally:
                go.set()
                for thread in trial:
                    thread.join()
        self._had.count = count  # if that are fewer, OpenMP lets the others go
        return True


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


_team = _Team()


def _after_fork() -> None:
    global _team
    _team = _Team(forked=True)
    _machine.forget_default()  # this may be a worker of a pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def threading_layer() -> str:
    """What runs parallel work in this process; asks for it to be started."""
    _team.prange_is_safe()
    return _team.layer


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
            pool = _team.pool(tasks - 1)
            futures.extend(pool.submit(work) for _ in range(1, tasks))
        work()
    except BaseException:
        stop.set()
        raise
    finally:
        _wait_for(futures, stop)
        held.clear()


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


def _rounds(size: int) -> int:
    """In how many calls, one after the other, so many elements are gone through."""
    return max(1, -(-size // PIECE))


def _launch(kernel: Loop, dtype: str, scaled: bool, tasks: int, *arguments: Any, rounds: int = 1) -> None:
    """All tasks of a kernel; for each of the rounds there are so many."""
    code = kernel.compiled(dtype, scaled)
    at_hand = _team.launcher_at_hand(tasks) if rounds == 1 else None
    if at_hand is not None:
        code(arguments, 0, tasks, tasks, at_hand)
        return
    tasks = min(tasks, MOST_TASKS)
    total = tasks * rounds
    if tasks > 1 and _team.prange_is_safe():
        size = min(get_num_threads(), numba_parallel.NUM_THREADS)
        if _team.can_start(size):
            launcher = launcher_address()
            with _numba_threads(size) if size < numba_parallel.NUM_THREADS else _AS_IT_IS:
                for first in range(0, total, tasks):
                    code(arguments, first, first + tasks, total, launcher)
            return
    for first in range(0, total, tasks):
        if tasks == 1:
            code(arguments, first, first + 1, total, 0)
            continue

        def part(task: int, first: int = first) -> None:
            code(arguments, first + task, first + task + 1, total, 0)

        each(part, tasks, tasks)


@contextlib.contextmanager
def _numba_threads(most: int) -> Iterator[None]:
    """No more of Numba's threads than `most` for the calling thread; then as many as its owner has set."""
    before = numba_parallel._get_num_threads()
    numba_parallel._set_num_threads(min(before, most))
    try:
        yield
    finally:
        numba_parallel._set_num_threads(before)


_AS_IT_IS = contextlib.nullcontext()


# -- the plans
# ---------------------------------------------------------------------------------------------


def run(plan: Plan, x: np.ndarray, out: np.ndarray, extra: Any = None) -> None:
    """Carry out a plan on canonical views; `extra` is the scale of logits, or the output of a backward pass."""
    scaled = extra is not None
    layout, rounds = _cut(plan, x)
    kernel = KERNELS[plan.operation][layout]
    if layout == "split":
        states = np.empty((x.shape[0], -(-x.shape[1] // BLOCK), 3))
        first = BLOCK_STATES[plan.operation]
        _launch(first, plan.dtype, scaled, plan.tasks, x, out, states, extra, rounds=rounds)
        _launch(kernel, plan.dtype, scaled, plan.tasks, x, out, states, extra, rounds=rounds)
    else:
        _launch(kernel, plan.dtype, scaled, plan.tasks, x, out, extra, rounds=rounds)


def _cut(plan: Plan, x: np.ndarray) -> tuple[str, int]:
    """The layout whose kernel can do this in pieces, and how many rounds of these it takes."""
    if x.size <= PIECE:
        return plan.kernel, 1
    if plan.kernel == "rows":
        if x.shape[1] > max(PIECE, plan.block):
            return "split", _rounds(x.size)
        return "rows", min(_rounds(x.size), max(1, x.shape[0] // plan.tasks))
    return plan.kernel, _rounds(x.size)


def run_loss(plan: Plan, x: np.ndarray, out: np.ndarray, numbers: tuple[Any, ...], scale: Any) -> None:
    """Carry out the plan of a loss; `out` is the gradient's place or, without one, the first of `numbers`."""
    scaled = scale is not None
    extra = numbers if scale is None else (*numbers, *scale)
    kernels = KERNELS[plan.operation]
    layout, rounds = _cut(plan, x)
    if layout == "split":
        states = np.empty((x.shape[0], -(-x.shape[1] // BLOCK), 7))
        first = BLOCK_STATES[plan.operation]
        _launch(first, plan.dtype, scaled, plan.tasks, x, x, states, scale, rounds=rounds)
        _launch(ROWS_OF_BLOCKS, plan.dtype, scaled, 1, x, states, extra)
        if "split" in kernels:
            _launch(kernels["split"], plan.dtype, scaled, plan.tasks, x, out, states, extra, rounds=rounds)
    else:
        _launch(kernels[layout], plan.dtype, scaled, plan.tasks, x, out, extra, rounds=rounds)


def run_soft_targets(x: np.ndarray, y: np.ndarray, extra: tuple[Any, ...], gradient: bool) -> None:
    """The losses of float64 rows with targets `y`; with `gradient` that replaces the logits."""
    SOFT_TARGETS.compiled("float64")(x, y, *extra, int(gradient))


def run_cap(x: np.ndarray, slope: np.ndarray, cap: float) -> None:
    """``x = cap * tanh(x / cap)`` on float64 rows, its derivative in `slope`."""
    CAP.compiled("float64")(x, slope, (cap,) * 6)


def read_labels(labels: np.ndarray, table: np.ndarray, classes: int, ignored: int) -> tuple[int, int, int]:
    """Labels as a table of rows; the row of the first bad one, or -1, that label, and how many rows count."""
    tasks = min(get_num_threads(), MOST_TASKS) if len(labels) >= MANY_LABELS else 1
    rounds = _rounds(len(labels))
    found = np.empty((tasks * rounds, 3), np.int64)
    _launch(READ_LABELS, "float64", False, tasks, labels, table, found, (classes, ignored), rounds=rounds)
    parts = found.tolist()
    bad, label, count = parts[0]
    for other, wrong, more in parts[1:]:
        count += more
        if bad < 0:
            bad, label = other, wrong
    return bad, label, count


# Reading so many takes several times as long as a launch.
MANY_LABELS = 32768


def total(values: np.ndarray) -> float:
    """The sum of float64 numbers in a fixed order, with its rounding errors."""
    if values.ndim != 2 or values.shape[1] != 1 or not values.flags.c_contiguous:
        values = np.ascontiguousarray(values).reshape(-1, 1)
    sum_of: float = SUM.compiled("float64")(values)
    return sum_of


def small(operation: str, dtype: str) -> Callable[..., Any]:
    """The compiled code for a few small plain rows (see `_kernels.small`), to be called with the arrays."""
    code = _small_code.get((operation, dtype))
    if code is None:
        code = _small_code[operation, dtype] = SMALL_KERNELS[operation].compiled(dtype)
    return code


_small_code: dict[tuple[str, str], Callable[..., Any]] = {}


def run_weighted(a: np.ndarray, out: np.ndarray, b: np.ndarray) -> None:
    """``out[row] = log|s|, sign(s)`` with ``s = sum(b * exp(a))`` over float64 rows."""
    _launch(WEIGHTED, "float64", True, 1, a, out, b)


def compile_all(dtypes: tuple[str, ...]) -> None:
    """Compile, or read from the cache, every kernel for these dtypes, and what shares their tasks among threads."""
    if _team.prange_is_safe():
        launcher_address()
    loops = [kernel for layouts in KERNELS.values() for kernel in layouts.values()]
    for dtype in dtypes:
        for kernel in (*SMALL_KERNELS.values(), *BLOCK_STATES.values(), *loops, ROWS_OF_BLOCKS):
            kernel.compiled(dtype)
    for kernel in (READ_LABELS, SUM, SOFT_TARGETS, CAP):
        kernel.compiled("float64")


def cache_folder() -> str | None:
    """Where compiled kernels are kept; None if nowhere."""
    path = folder()
    return None if path is None else str(path)
