"""Carries out plans. The only module that knows threads, threading layers and forks.

A plan of several tasks runs as a `prange` where that is safe, else on Python threads over the same
kernels, which release the GIL. It is not safe in a child forked from a process that had launched
(Numba ends it), nor on the workqueue layer, where two callers at once abort the process.
"""

from __future__ import annotations

import contextlib
import contextvars
import operator
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
from numba.np.ufunc import parallel as numba_parallel

from . import _machine
from ._kernels.cache import folder
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
from ._plan import Plan

# -- how many threads
# --------------------------------------------------------------------------------------

_default: int | None = None  # of the process; None: not asked for yet
_local: contextvars.ContextVar[int | None] = contextvars.ContextVar("fastsoftmax_threads", default=None)


def get_num_threads() -> int:
    """Return the number of threads that a call made here would use.

    Returns
    -------
    int
        That of the innermost `threads` block, else of `set_num_threads`, else of the environment
        variable ``FASTSOFTMAX_NUM_THREADS``, else the processors that the affinity mask and the
        container's quota allow.

    Raises
    ------
    ValueError
        If ``FASTSOFTMAX_NUM_THREADS`` is not an integer of at least 1.

    Examples
    --------
    >>> import fastsoftmax
    >>> with fastsoftmax.threads(1):
    ...     fastsoftmax.get_num_threads()
    1
    """
    global _default
    count = _local.get()
    if count is not None:
        return count
    if _default is None:
        _default = _machine.wanted_threads().number
    return _default


def set_num_threads(n: int) -> None:
    """Set the number of threads of all calls in this process.

    Results do not depend on it.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is less than 1.

    Examples
    --------
    >>> import fastsoftmax
    >>> before = fastsoftmax.get_num_threads()
    >>> fastsoftmax.set_num_threads(1)
    >>> fastsoftmax.get_num_threads()
    1
    >>> fastsoftmax.set_num_threads(before)
    """
    global _default
    _default = _checked(n)


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """Use `n` threads for the calls in a ``with`` block, in this thread or asyncio task alone.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is less than 1.

    Examples
    --------
    >>> import fastsoftmax
    >>> with fastsoftmax.threads(1):
    ...     fastsoftmax.softmax([0.0, 0.0])
    array([0.5, 0.5])
    """
    token = _local.set(_checked(n))
    try:
        yield
    finally:
        _local.reset(token)


def _checked(n: Any) -> int:
    if isinstance(n, (bool, np.bool_)):
        raise TypeError(f"the number of threads is {n!r}: give an integer of at least 1")
    try:
        count = operator.index(n)
    except TypeError:
        raise TypeError(f"the number of threads is {n!r}: give an integer of at least 1") from None
    if count < 1:
        raise ValueError(f"the number of threads is {count}: give an integer of at least 1")
    return count


# -- who runs the tasks
# ------------------------------------------------------------------------------------


class _Team:
    """The threads of this process, found out when first needed and forgotten by a forked child."""

    def __init__(self, *, forked: bool = False) -> None:
        self._forked = forked
        self._lock = threading.Lock()
        self._safe: bool | None = None
        self._pool: tuple[int, ThreadPoolExecutor] | None = None
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
            self.layer = "python threads (workqueue is not thread-safe)"
            return False
        return True

    def pool(self, count: int) -> ThreadPoolExecutor:
        """A pool of `count` Python threads; a smaller one is let go, and its threads with it once they are idle."""
        with self._lock:
            if self._pool is None or self._pool[0] < count:
                self._pool = count, ThreadPoolExecutor(count, thread_name_prefix="fastsoftmax")
            return self._pool[1]


_team = _Team()


def _after_fork() -> None:
    global _team
    _team = _Team(forked=True)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def threading_layer() -> str:
    """What runs parallel work in this process; asks for it to be started."""
    _team.prange_is_safe()
    return _team.layer


def each(function: Callable[[int], None], count: int, tasks: int) -> None:
    """``function(i)`` for i in range(count), by `tasks` Python threads; the first error is raised when all are done."""
    if tasks == 1 or count == 1:
        for i in range(count):
            function(i)
        return

    def part(task: int) -> None:
        # The parts are done by threads already: what they call must not share its work again.
        with threads(1):
            for i in range(count * task // tasks, count * (task + 1) // tasks):
                function(i)

    pool = _team.pool(tasks - 1)
    futures = []
    for task in range(1, tasks):
        try:
            futures.append(pool.submit(part, task))
        except RuntimeError:  # the interpreter is shutting down and starts no more threads
            part(task)
    try:
        part(0)
    finally:
        errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None:
            raise error


def _launch(kernel: Any, dtype: str, scaled: bool, tasks: int, *arguments: Any, extra: Any) -> None:
    """All tasks of a kernel."""
    if tasks == 1:
        kernel.compiled(dtype, scaled, False)(*arguments, 0, 1, 1, extra)
    elif _team.prange_is_safe():
        # No more threads than tasks have work; Numba's own count stays as its owner has set it.
        kernel.compiled(dtype, scaled, True)(*arguments, 0, tasks, tasks, extra)
    else:
        code = kernel.compiled(dtype, scaled, False)
        each(lambda task: code(*arguments, task, task + 1, tasks, extra), tasks, tasks)


# -- the plans
# ---------------------------------------------------------------------------------------------


def run(plan: Plan, x: np.ndarray, out: np.ndarray, extra: Any = None) -> None:
    """Carry out a plan on canonical views; `extra` is the scale of logits, or the output of a backward pass."""
    scaled = extra is not None
    if plan.kernel == "split":
        states = np.empty((x.shape[0], -(-x.shape[1] // BLOCK), 3))
        _launch(BLOCK_STATES[plan.operation], plan.dtype, scaled, plan.tasks, x, out, states, extra=extra)
        kernel = KERNELS[plan.operation]["split"]
        _launch(kernel, plan.dtype, scaled, plan.tasks, x, out, states, extra=extra)
    elif plan.tasks == 1:
        kernel = KERNELS[plan.operation][plan.kernel]
        kernel.compiled(plan.dtype, scaled, False)(x, out, 0, 1, 1, extra)
    else:
        kernel = KERNELS[plan.operation][plan.kernel]
        _launch(kernel, plan.dtype, scaled, plan.tasks, x, out, extra=extra)


def run_loss(plan: Plan, x: np.ndarray, out: np.ndarray, numbers: tuple[Any, ...], scale: Any) -> None:
    """Carry out the plan of a loss; `out` is the gradient's place or, without one, the first of `numbers`."""
    scaled = scale is not None
    extra = numbers if scale is None else (*numbers, *scale)
    kernels = KERNELS[plan.operation]
    if plan.kernel == "split":
        states = np.empty((x.shape[0], -(-x.shape[1] // BLOCK), 7))
        _launch(BLOCK_STATES[plan.operation], plan.dtype, scaled, plan.tasks, x, x, states, extra=scale)
        _launch(ROWS_OF_BLOCKS, plan.dtype, scaled, 1, x, states, extra=extra)
        if "split" in kernels:
            _launch(kernels["split"], plan.dtype, scaled, plan.tasks, x, out, states, extra=extra)
    else:
        _launch(kernels[plan.kernel], plan.dtype, scaled, plan.tasks, x, out, extra=extra)


def run_soft_targets(x: np.ndarray, y: np.ndarray, extra: tuple[Any, ...], gradient: bool) -> None:
    """The losses of float64 rows with targets `y`; with `gradient` that replaces the logits."""
    SOFT_TARGETS.compiled("float64", False, False)(x, y, *extra, int(gradient))


def run_cap(x: np.ndarray, slope: np.ndarray, cap: float) -> None:
    """``x = cap * tanh(x / cap)`` on float64 rows, its derivative in `slope`."""
    CAP.compiled("float64", False, False)(x, slope, (cap,) * 6)


def read_labels(labels: np.ndarray, table: np.ndarray, classes: int, ignored: int) -> tuple[int, int, int]:
    """Labels as a table of rows; the row of the first bad one, or -1, that label, and how many rows count."""
    tasks = get_num_threads() if len(labels) >= MANY_LABELS else 1
    found = np.empty((tasks, 3), np.int64)
    _launch(READ_LABELS, "float64", False, tasks, labels, table, found, extra=(classes, ignored))
    parts = found.tolist()
    bad, label, _ = next((part for part in parts if part[0] >= 0), parts[0])
    return bad, label, sum(count for _, _, count in parts)


# Reading so many takes several times as long as a launch.
MANY_LABELS = 32768


def total(values: np.ndarray) -> float:
    """The sum of float64 numbers in a fixed order, with its rounding errors."""
    if values.ndim != 2 or values.shape[1] != 1 or not values.flags.c_contiguous:
        values = np.ascontiguousarray(values).reshape(-1, 1)
    sum_of: float = SUM.compiled("float64", False, False)(values)
    return sum_of


def small(operation: str, dtype: str) -> Callable[..., Any]:
    """The compiled code for a few small plain rows (see `_kernels.small`), to be called with the arrays."""
    code = _small_code.get((operation, dtype))
    if code is None:
        code = _small_code[operation, dtype] = SMALL_KERNELS[operation].compiled(dtype, False, False)
    return code


_small_code: dict[tuple[str, str], Callable[..., Any]] = {}


def run_weighted(a: np.ndarray, out: np.ndarray, b: np.ndarray) -> None:
    """``out[row] = log|s|, sign(s)`` with ``s = sum(b * exp(a))`` over float64 rows."""
    _launch(WEIGHTED, "float64", True, 1, a, out, extra=b)


def compile_all(dtypes: tuple[str, ...]) -> None:
    """Compile, or read from the cache, every kernel for these dtypes, serial and parallel."""
    parallel = (False, True) if _team.prange_is_safe() else (False,)
    for dtype in dtypes:
        for kernel in SMALL_KERNELS.values():
            kernel.compiled(dtype, False, False)
        for kernel in [
            *BLOCK_STATES.values(),
            *(k for layouts in KERNELS.values() for k in layouts.values()),
        ]:
            for threaded in parallel:
                kernel.compiled(dtype, False, threaded)
        ROWS_OF_BLOCKS.compiled(dtype, False, False)
    for kernel in (READ_LABELS, SUM, SOFT_TARGETS, CAP):
        kernel.compiled("float64", False, False)


def cache_folder() -> str | None:
    """Where compiled kernels are kept; None if nowhere."""
    path = folder()
    return None if path is None else str(path)
