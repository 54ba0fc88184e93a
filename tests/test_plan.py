"""Every region of shapes has its kernel: what `_plan` decides, and that execution takes the path it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastsoftmax
from fastsoftmax import _execute, _plan
from fastsoftmax._kernels.lengths import BLOCK, LANES, MOST_BLOCKS, SHORT_ROW
from fastsoftmax._kernels.loops import KERNELS

FORWARD = ("softmax", "log_softmax", "logsumexp")

# rows, classes, threads -> kernel, tasks
ROW_REGIONS = [
    (1, 1, 2, "rows", 1),
    (1, 10, 2, "rows", 1),
    (7, 10, 2, "rows", 1),
    (8, 10, 2, "narrow", 1),
    (262144, 10, 2, "narrow", 16),
    (262144, 15, 1, "narrow", 1),
    (262144, 16, 2, "narrow", 16),
    (64, 17, 2, "batches", 1),
    (4096, 64, 2, "batches", 16),
    (7, 64, 2, "rows", 1),
    (256, 1000, 2, "rows", 6),
    (1, 32000, 2, "rows", 1),
    (8, 32000, 2, "rows", 2),
    (1, SHORT_ROW, 8, "rows", 1),
    (1, SHORT_ROW + 1, 1, "rows", 1),
    (1, SHORT_ROW + 1, 2, "split", 2),
    (1, 1000003, 8, "split", 8),
    (3, 131072, 4, "split", 4),
    (4, 131072, 4, "rows", 4),
    (256, 131072, 4, "rows", 32),
    (256, MOST_BLOCKS * BLOCK, 2, "rows", 16),
    (256, MOST_BLOCKS * BLOCK + 1, 2, "split", 2),
    (256, MOST_BLOCKS * BLOCK + 1, 1, "split", 1),
]


@pytest.mark.parametrize("operation", FORWARD)
@pytest.mark.parametrize(("rows", "classes", "threads", "kernel", "tasks"), ROW_REGIONS)
def test_rows(operation: str, rows: int, classes: int, threads: int, kernel: str, tasks: int) -> None:
    plan = _plan.rows(operation, "float32", rows, classes, threads)
    assert (plan.kernel, plan.tasks) == (kernel, tasks)
    assert plan.block == (classes if classes <= SHORT_ROW else BLOCK)


@pytest.mark.parametrize("operation", ["softmax_backward", "log_softmax_backward"])
@pytest.mark.parametrize(
    ("rows", "classes", "kernel"),
    [
        (1000, 3, "narrow"),
        (1000, 15, "narrow"),
        (1000, 16, "rows"),
        (1000, 1000, "rows"),
        (1, SHORT_ROW, "rows"),
        (1, 10**6, "split"),
        (2, 10**6, "rows"),
    ],
)
def test_backward_plans_by_length(operation: str, rows: int, classes: int, kernel: str) -> None:
    assert _plan.rows(operation, "float32", rows, classes, 2).kernel == kernel


@pytest.mark.parametrize("dtype", LANES)
def test_narrow_means_no_more_classes_than_lanes(dtype: str) -> None:
    lanes = LANES[dtype]
    assert _plan.rows("softmax", dtype, 1000, lanes, 2).kernel == "narrow"
    assert _plan.rows("softmax", dtype, 1000, lanes + 1, 2).kernel == "batches"


@pytest.mark.parametrize("operation", _plan.BATCHED)
@pytest.mark.parametrize("dtype", LANES)
def test_batches_of_rows_of_a_few_vectors(operation: str, dtype: str) -> None:
    most = _plan.BATCHED[operation] * LANES[dtype]
    assert _plan.rows(operation, dtype, 1000, most, 2, True).kernel == "batches"
    assert _plan.rows(operation, dtype, 1000, most + 1, 2, True).kernel == "rows"
    assert _plan.rows(operation, dtype, 3, most, 2, True).kernel == "rows"


@pytest.mark.parametrize(
    ("outer", "classes", "inner", "tasks"),
    [(1, 10, 16, 1), (1, 1000, 4096, 16), (8, 21, 65536, 16), (1, 65536, 8, 1)],
)
def test_columns(outer: int, classes: int, inner: int, tasks: int) -> None:
    plan = _plan.columns("softmax", "float32", outer, classes, inner, 2)
    assert (plan.kernel, plan.tasks) == ("columns", tasks)


def test_a_plan_is_a_value_that_says_why() -> None:
    plan = _plan.rows("softmax", "float32", 262144, 10, 2)
    assert plan == _plan.rows("softmax", "float32", 262144, 10, 2)
    assert hash(plan) == hash(_plan.rows("softmax", "float32", 262144, 10, 2))
    assert repr(plan) == (
        "Plan(operation='softmax', dtype='float32', kernel='narrow', tasks=16, block=10, "
        "reason='at most 16 classes: some vectors of rows at once', cost_ns=4194304)"
    )


@pytest.mark.parametrize("threads", [2, 3, 16])
@pytest.mark.parametrize("classes", [2, 10, 50, 1000, 30000])
@pytest.mark.parametrize("rows", [64, 256, 1000, 65536, 1000000])
def test_tasks_are_large_enough_and_never_fewer_than_threads(rows: int, classes: int, threads: int) -> None:
    """A task is worth 15 us or one thread's share; rows in step are 16 or that share."""
    plan = _plan.rows("softmax", "float32", rows, classes, threads, True)
    if plan.cost_ns < _plan.WORTH_SHARING_NS:
        assert plan.tasks == 1
        return
    assert min(threads, rows // 32) <= plan.tasks <= _plan.MOST_TASKS_EACH * threads
    if plan.tasks > threads:
        assert plan.cost_ns / plan.tasks >= _plan.TASK_NS - 1
        assert rows // plan.tasks >= _plan.TASK_ROWS
    if plan.cost_ns > 1e6 * threads and rows >= 1000:
        assert plan.tasks == _plan.MOST_TASKS_EACH * threads


def test_columns_of_a_tile_are_one_task_or_one_of_a_thread() -> None:
    for inner in (64, 512, 4096, 2**20):
        tasks = _plan.columns("softmax", "float32", 1, 1000, inner, 2).tasks
        assert tasks == min(16, max(2, inner // 16 // _plan.TASK_COLUMNS))


@pytest.mark.parametrize(
    ("rows", "classes", "threads", "kernel", "tasks", "rounds"),
    [
        (2**12, 2**12, 2, "rows", 16, 1),
        (2**14, 2**14, 2, "rows", 16, 4),
        (16, 2**24, 2, "rows", 4, 4),  # two rows for each thread in each round
        (32, 2**24, 4, "rows", 4, 8),
        (128, 2**24, 16, "rows", 16, 8),  # a row for each
        (2, 2**27, 2, "split", 2, 4),
        (2**24, 10, 2, "narrow", 16, 3),
    ],
)
def test_large_arrays_are_cut(
    rows: int, classes: int, threads: int, kernel: str, tasks: int, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread has more elements in one call of compiled code than 2**26, or a row: Ctrl-C comes between calls."""
    monkeypatch.setattr(_execute, "get_num_threads", lambda: threads)
    x = np.broadcast_to(np.float32(0), (rows, classes))
    plan, in_turn = _execute._cut(_plan.rows("softmax", "float32", rows, classes, threads, True), x)
    assert (plan.kernel, plan.tasks, in_turn) == (kernel, tasks, rounds)
    assert x.size / in_turn / threads <= max(_execute.PIECE, classes)


def test_every_plan_names_a_kernel() -> None:
    for operation in KERNELS:
        for outer, classes, inner in ((8, 21, 4096), (9, 100, 3), (9, 1000, 3)):
            assert _plan.columns(operation, "float32", outer, classes, inner, 2).kernel in KERNELS[operation]
        for rows, classes, threads, *_ in ROW_REGIONS:
            kernel = _plan.rows(operation, "float32", rows, classes, threads).kernel
            # A loss without a gradient is known after the states of the blocks: there is no last launch.
            assert kernel in KERNELS[operation] or (operation, kernel) == ("cross_entropy", "split")


CALLS: list[tuple[tuple[int, ...], Any, list[str]]] = [
    ((3, 5), -1, []),  # small, and plain: by a kernel without a plan
    ((3, 5), None, []),
    ((5, 4096), -1, []),
    ((5, 4097), -1, ["rows"]),
    ((2, 32768), None, []),  # one row for one thread
    ((2, 32769), None, ["split"]),
    ((64, 5), -1, []),
    ((65, 2), -1, ["pairs"]),
    ((65, 5), -1, ["narrow"]),
    ((65, 50), -1, ["batches"]),
    ((65, 240), -1, ["batches"]),
    ((65, 241), -1, []),
    ((400, 241), -1, ["rows"]),
    ((30, 50), None, []),
    ((30, 50), 0, []),
    ((300, 50), 0, ["columns"]),
    ((4, 30, 50), 1, []),
    ((4, 300, 50), 1, ["columns"]),
    ((4000, 5, 3), 1, ["columns"]),
    ((40, 400, 3), 1, ["interleaved"]),
    ((4, 30, 50), (1, 2), ["rows"]),
    ((4, 30, 50), (0, 1), ["columns"]),
    ((4, 30, 50), (0, 2), ["batches"]),  # through blocks
    ((4, 30, 90), (0, 2), ["rows"]),
    ((1, 70000), -1, ["split"]),
    ((70000, 3), 0, ["rows"]),  # too long for columns: through blocks of one row
]


@pytest.mark.parametrize(("shape", "axis", "kernels"), CALLS)
def test_calls_take_the_planned_path(
    shape: tuple[int, ...], axis: Any, kernels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[_plan.Plan] = []
    run = _execute.run

    def recorded(plan: _plan.Plan, *arguments: Any) -> None:
        plans.append(plan)
        run(plan, *arguments)

    monkeypatch.setattr(_execute, "run", recorded)
    monkeypatch.setattr(_execute, "repeat", lambda *call: None)
    x = np.zeros(shape, np.float32)
    with fastsoftmax.threads(2):
        y = fastsoftmax.softmax(x, axis=axis)
    assert np.allclose(y.sum(axis=axis, dtype=np.float64), 1)
    assert sorted({plan.kernel for plan in plans}) == kernels


def test_strided_views_that_need_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices, steps and transposes of any two axes are read as they lie."""
    x = np.arange(8 * 40 * 50, dtype=np.float32).reshape(8, 40, 50)
    monkeypatch.setattr("fastsoftmax._calls.Blocks", None)
    for array, axis in [
        (x[:, ::2], 2),
        (x[::-1, :, 5:45], 2),
        (x.transpose(1, 0, 2), 2),
        (x.transpose(2, 1, 0), 0),
        (x[:, ::-3, 4:30], 1),
        (np.broadcast_to(x[0], (5, 40, 50)), 2),
        (np.asfortranarray(x), 1),
    ]:
        got = fastsoftmax.softmax(array, axis=axis)
        assert np.array_equal(got, fastsoftmax.softmax(np.ascontiguousarray(array), axis=axis))
