"""Carries out plans: which compiled code is called with what, and how often.

Compiled code hears no signal: what takes long is done in several calls, for Ctrl-C to come through between them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from . import _threads
from ._kernels.cache import folder
from ._kernels.jit import DTYPES, Kernel, Loop, launchers
from ._kernels.lengths import BLOCK
from ._kernels.lengths import FEW_LABELLED_ROWS as FEW_LABELLED_ROWS
from ._kernels.lengths import MANY_LABELS as MANY_LABELS
from ._kernels.loops import (
    BLOCK_STATES,
    CAP,
    KERNELS,
    READ_FEW_LABELS,
    READ_LABELS,
    ROWS_OF_BLOCKS,
    SMALL_COLUMN_KERNELS,
    SMALL_KERNELS,
    SMOOTHING_OF_ROWS,
    SOFT_TARGETS,
    SUM,
    WEIGHTED,
)
from ._kernels.loss_loops import NO_LABELS as NO_LABELS
from ._kernels.small import DONE as DONE
from ._kernels.small import LARGE as LARGE
from ._kernels.small import LARGE_LOSS as LARGE_LOSS
from ._kernels.small import OTHER as OTHER
from ._machine import get_num_threads as get_num_threads
from ._machine import set_num_threads as set_num_threads
from ._machine import threads as threads
from ._plan import LOSSES, Plan
from ._threads import Work
from ._threads import each as each
from ._threads import threading_layer as threading_layer

# Elements that one call of compiled code goes through: a fraction of a second.
PIECE = 2**26


def _rounds(size: int) -> int:
    """In how many calls, one after the other, so many elements are gone through."""
    return max(1, -(-size // PIECE))


class Split(NamedTuple):
    """What long rows whose blocks are shared out take, launch by launch, so many rounds of each."""

    shape: tuple[int, ...]  # of what it was planned for
    writes_all: bool  # or but a number of each row
    numbers: int  # of a block's state
    before: Work | None  # of losses: what label smoothing asks of logits that terms may replace
    states: Work
    between: Work | None  # of losses: the numbers of each row
    last: Work | None  # what is written, if that is more than losses
    rounds: int


def repeat(call: Hashable, *arguments: Any) -> Any:
    """Do what `run` or `run_loss` did for a call of this name before, if it takes no question; None if it does.

    It comes to True, a loss to 0 or, with labels, to their mean loss (see `loss_loops`).

    Between arrays of megabytes each line of Python costs ten times what it does in a loop of small calls.
    """
    team = _threads.team
    work = team.ready.get(call)
    if type(work) is Split:
        return _split_again(work, *arguments)
    return None if work is None else team.result_of(work, arguments)


def _split_again(split: Split, x: np.ndarray, out: np.ndarray, extra: Any, *labels: Any) -> bool | None:
    """Carry out a split on arrays that others may know; None for what takes a question, as labels do."""
    if (labels and labels[0].size) or not _threads.team.at_hand(split.states.threads):
        return None
    place = out.reshape(split.shape) if split.writes_all else out
    more = extra.reshape(split.shape) if isinstance(extra, np.ndarray) else extra
    _in_launches(split, x.reshape(split.shape), place, more)
    return True


def _in_launches(split: Split, x: np.ndarray, out: np.ndarray, extra: Any) -> None:
    """The same on arrays that are nobody's else."""
    states = np.empty((x.shape[0], -(-x.shape[1] // BLOCK), split.numbers))
    if split.before is not None and extra[4]:
        _launch(split.before, x, states, extra)
    _launch(split.states, x, x if split.last is None else out, states, extra, rounds=split.rounds)
    if split.between is not None:
        _launch(split.between, x, states, extra)
    if split.last is not None:
        _launch(split.last, x, out, states, extra, rounds=split.rounds)


def _work(
    kernel: Loop, dtype: str, scaled: bool, tasks: int = 1, cost_ns: float = 0.0, shape: tuple[int, ...] | None = None
) -> Work:
    """The tasks of a kernel, which take one thread so long; of the `shape` they were planned for, if that is asked."""
    tasks = min(tasks, _threads.MOST_TASKS)
    anywhere = kernel.anywhere if shape is None else shape
    return Work(kernel.compiled(dtype, scaled), anywhere, tasks, min(tasks, get_num_threads()), cost_ns)


def _launch(work: Work, *arguments: Any, rounds: int = 1) -> None:
    """All tasks of some work; for each of the rounds there are so many."""
    code, shape, tasks, count, cost_ns = work
    team = _threads.team
    if rounds == 1 and team.at_hand(count):
        team.result_of(work, arguments)
        return
    total = tasks * rounds
    if tasks > 1:
        with team.launcher(cost_ns) as launcher:
            if launcher is not None:
                for first in range(0, total, tasks):
                    code(arguments, shape, first, first + tasks, total, launcher)
                return
    for first in range(0, total, tasks):
        if tasks == 1:
            code(arguments, shape, first, first + 1, total, 0)
            continue

        def part(task: int, first: int = first) -> None:
            code(arguments, shape, first + task, first + task + 1, total, 0)

        _threads.each(part, tasks, count)


def _remember(call: Hashable, work: Work | Split, count: int, rounds: int) -> None:
    """For `repeat`: what takes one round, if it has a name and the threads that it takes are at hand."""
    if call is not None and rounds == 1 and _threads.team.at_hand(count):
        _threads.team.remember(call, work)


# -- the plans
# ---------------------------------------------------------------------------------------------


def run(plan: Plan, x: np.ndarray, out: np.ndarray, extra: Any = None, call: Hashable = None) -> None:
    """Carry out a plan on canonical views; `extra` is the scale of logits, or the output of a backward pass.

    `call` names all that the plan was made of, for `repeat`.
    """
    plan, rounds = _cut(plan, x)
    if plan.kernel == "split":
        _run_split(plan, x, out, extra, extra is not None, rounds, call)
    else:
        _run_once(plan, (x, out, extra), extra is not None, rounds, call)


def _run_once(plan: Plan, arguments: tuple[Any, ...], scaled: bool, rounds: int, call: Hashable) -> None:
    """Carry out a plan that is one launch."""
    shape = None if call is None else arguments[0].shape
    work = _work(KERNELS[plan.operation][plan.kernel], plan.dtype, scaled, plan.tasks, plan.cost_ns, shape)
    _remember(call, work, work.threads, rounds)
    _launch(work, *arguments, rounds=rounds)


def _run_split(
    plan: Plan, x: np.ndarray, out: np.ndarray, extra: Any, scaled: bool, rounds: int, call: Hashable
) -> None:
    """Carry out a plan that is several."""
    operation, dtype, last = plan.operation, plan.dtype, KERNELS[plan.operation].get("split")
    is_loss = operation in LOSSES
    split = Split(
        shape=x.shape,
        writes_all=last is not None and out.shape == x.shape,
        numbers=7 if is_loss else 3,
        before=_work(SMOOTHING_OF_ROWS, dtype, scaled) if is_loss else None,
        states=_work(BLOCK_STATES[operation], dtype, scaled, plan.tasks, plan.cost_ns),
        between=_work(ROWS_OF_BLOCKS, dtype, scaled) if is_loss else None,
        last=None if last is None else _work(last, dtype, scaled, plan.tasks, plan.cost_ns),
        rounds=rounds,
    )
    _remember(call, split, split.states.threads, rounds)
    _in_launches(split, x, out, extra)


def _cut(plan: Plan, x: np.ndarray) -> tuple[Plan, int]:
    """The plan with a kernel and tasks that can be done in pieces, and how many rounds of these tasks it takes."""
    rounds = _rounds(x.size)
    if rounds == 1 or plan.kernel != "rows":
        return plan, rounds
    if x.shape[1] > max(PIECE, plan.block):
        return replace(plan, kernel="split"), rounds
    # A task is a row at least, and every thread has one in each round.
    rounds = min(rounds, max(1, len(x) // min(plan.tasks, get_num_threads())))
    return replace(plan, tasks=min(plan.tasks, len(x) // rounds)), rounds


def run_loss(
    plan: Plan, x: np.ndarray, out: np.ndarray, numbers: tuple[Any, ...], scale: Any, call: Hashable = None
) -> None:
    """Carry out the plan of a loss; `out` is the gradient's place or, without one, the first of `numbers`."""
    extra = numbers if scale is None else (*numbers, *scale)
    plan, rounds = _cut(plan, x)
    if plan.kernel == "split":
        _run_split(plan, x, out, extra, scale is not None, rounds, call)
    else:
        _run_once(plan, (x, out, extra, *NO_LABELS), scale is not None, rounds, call)


def run_soft_targets(x: np.ndarray, y: np.ndarray, extra: tuple[Any, ...], scale: Any, gradient: bool) -> None:
    """The losses of float64 rows with targets `y`; with `gradient` that replaces the logits."""
    SOFT_TARGETS.compiled("float64", scale is not None)(x, y, *extra, scale, int(gradient))


def run_cap(x: np.ndarray, slope: np.ndarray, cap: float) -> None:
    """``x = cap * tanh(x / cap)`` on float64 rows, its derivative in `slope`."""
    CAP.compiled("float64")(x, slope, (cap,) * 6)


def read_labels(labels: np.ndarray, table: np.ndarray, classes: int, ignored: int) -> tuple[int, int, int]:
    """Labels as a table of rows; the row of the first bad one, or -1, that label, and how many rows count.

    Both arrays are contiguous, and no other thread knows them.
    """
    if len(labels) < MANY_LABELS:
        few: tuple[int, int, int] = READ_FEW_LABELS.compiled("float64")(labels, table, classes, ignored)
        return few
    tasks, rounds = min(get_num_threads(), _threads.MOST_TASKS), _rounds(len(labels))
    found = np.empty((tasks * rounds, 3), np.int64)
    call, arguments = (READ_LABELS, tasks), (labels, table, found, (classes, ignored))
    if rounds > 1 or repeat(call, *arguments) is None:
        work = _work(READ_LABELS, "float64", False, tasks, len(labels) * LABEL_NS)
        _remember(call, work, work.threads, rounds)
        _launch(work, *arguments, rounds=rounds)
    parts = found.tolist()
    bad, label, count = parts[0]
    for other, wrong, more in parts[1:]:
        count += more
        if bad < 0:
            bad, label = other, wrong
    return bad, label, count


LABEL_NS = 0.2  # about what reading one takes


def total(values: np.ndarray) -> float:
    """The sum of float64 numbers in a fixed order, with its rounding errors."""
    if values.ndim != 2 or values.shape[1] != 1 or not values.flags.c_contiguous:
        values = np.ascontiguousarray(values).reshape(-1, 1)
    sum_of: float = SUM.compiled("float64")(values)
    return sum_of


class _SmallCode(dict[np.dtype, Callable[..., Any] | None]):
    """The compiled code for small arrays (see `_kernels.small`), by the dtype of the first of them.

    It is called with the arrays and that dtype. None for what kernels do not read as it is.
    """

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self._kernel = kernel

    def __missing__(self, dtype: np.dtype) -> Callable[..., Any] | None:
        if not dtype.isnative or dtype.name not in DTYPES:
            return None
        code = self[dtype] = self._kernel.compiled(dtype.name)
        return code


small = {operation: _SmallCode(kernel) for operation, kernel in SMALL_KERNELS.items()}
# The same for classes on another axis, which they are told last.
small_columns = {operation: _SmallCode(kernel) for operation, kernel in SMALL_COLUMN_KERNELS.items()}


def run_weighted(a: np.ndarray, out: np.ndarray, b: np.ndarray) -> None:
    """``out[row] = log|s|, sign(s)`` with ``s = sum(b * exp(a))`` over float64 rows."""
    _launch(_work(WEIGHTED, "float64", True), a, out, b)


def compile_all(dtypes: tuple[str, ...]) -> None:
    """Compile, or read from the cache, every kernel for these dtypes, and what shares their tasks among threads."""
    if _threads.team.prange_is_safe():
        launchers()
    loops = [kernel for layouts in KERNELS.values() for kernel in layouts.values()]
    for dtype in dtypes:
        for kernel in (
            *SMALL_KERNELS.values(),
            *SMALL_COLUMN_KERNELS.values(),
            *BLOCK_STATES.values(),
            *loops,
            ROWS_OF_BLOCKS,
            SMOOTHING_OF_ROWS,
        ):
            kernel.compiled(dtype)
    for kernel in (READ_FEW_LABELS, READ_LABELS, SUM, SOFT_TARGETS, CAP):
        kernel.compiled("float64")


def cache_folder() -> str | None:
    """Where compiled kernels are kept; None if nowhere."""
    path = folder()
    return None if path is None else str(path)
