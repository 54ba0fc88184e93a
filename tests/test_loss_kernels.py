"""One row, one loss, one gradient: the kernels of all layouts give the same bits, and so does any cut into tasks."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import run
from reference import Array
from strategies import LAYOUTS, WRITABLE_LAYOUTS
from test_memory import INPUT_BYTES, assert_small

import fastsoftmax
from fastsoftmax import cross_entropy, cross_entropy_with_grad
from fastsoftmax._kernels.lengths import BLOCK, LANES, SHORT_ROW
from fastsoftmax._kernels.loops import BLOCK_STATES, KERNELS, ROWS_OF_BLOCKS, SMOOTHING_OF_ROWS
from fastsoftmax._kernels.loss_loops import NO_LABELS
from fastsoftmax._kernels.tiles import CROWDED

LOSS, GRADIENT = "cross_entropy", "cross_entropy_with_grad"
SCALE = (0.699999988079071, 1.1920928955078125e-08, 0.7, 0.0)
SHAPES = [
    (1, 1), (3, 2), (100, 10), (33, 15), (33, 16), (33, 17), (40, 65), (8, 1000), (40, 1025), (2, SHORT_ROW),
]  # fmt: skip

dtypes = pytest.mark.parametrize(
    ("dtype", "scale"),
    [("float32", None), ("float32", SCALE), ("float64", None), ("float64", SCALE), ("float16", None)],
    ids=["float32", "float32-scaled", "float64", "float64-scaled", "float16"],
)

# What is folded into a row's numbers: smoothing, weights, z, and whether each row has a factor of its own.
FOLDED = list(itertools.product([0.0, 0.1], [False, True], [0.0, 0.01], [False, True]))


class Problem:
    """Logits of every kind with class indices, and what a kernel takes with them."""

    def __init__(self, shape: tuple[int, int], dtype: str, folded: tuple[float, bool, float, bool], scale: Any) -> None:
        rng = np.random.default_rng(shape)
        x = rng.normal(0, 3, shape)
        labels = rng.integers(0, shape[1], shape[0]).astype(float)
        if shape[0] > 2:
            x[1] = 0.5
            x[2, int(labels[2])] += 40
        if shape[0] > 16:
            x[3, 0] = -np.inf
            x[4, -1] = np.nan
            x[5, -1] = np.inf
            x[6] = -np.inf
            x[7] -= 30000
            x[8, int(labels[8])] = -np.inf
            x[9] = np.nan
            labels[9:12] = -1
            labels[-1] = -1
        smoothing, weighted, z, own = folded
        self.x, self.labels, self.scale = x.astype(dtype), labels, scale
        self.weights = rng.random(shape[1]) if weighted else np.empty(0)
        if weighted:
            self.weights[shape[1] // 2] = 0
        total = self.weights.sum() if weighted else shape[1]
        smooth = smoothing / shape[1]
        self.terms = (1 - smoothing, smooth, smooth * total, z, 0.37, 0.0)
        self.factors = rng.random(shape[0]) if own else None

    def extra(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        """``(table, more, weights, *terms, *scale)``, the numbers of the rows in this shape."""
        table = self.labels.copy().reshape(shape)
        more = np.empty((0,) * len(shape)) if self.factors is None else self.factors.copy().reshape(shape)
        return (table, more, self.weights, *self.terms, *(self.scale or ()))

    def run(self, operation: str, layout: str, tasks: int = 1) -> tuple[Array, ...]:
        """The gradient, the losses and, of rows with a factor, the log-sum-exps; the tasks one by one, last first."""
        dtype, n = self.x.dtype.name, len(self.x)
        x, shape = self.x, (n, 1)
        if layout in ("columns", "tiles"):
            # So far apart that they go through tiles, or not.
            apart = CROWDED if layout == "tiles" else n
            x, shape = np.full((1, self.x.shape[1], apart), 9, self.x.dtype)[..., :n], (1, 1, n)
            x[0] = self.x.T
            layout = "columns"
        extra = self.extra(shape)
        out = np.full_like(x, 7) if operation == GRADIENT else extra[0]
        run(KERNELS[operation][layout], dtype, x, out, extra, *NO_LABELS, tasks=tasks, scaled=self.scale is not None)
        return self.results(out if operation == GRADIENT else None, extra)

    def run_split(self, operation: str, tasks: int) -> tuple[Array, ...]:
        dtype, n = self.x.dtype.name, len(self.x)
        scaled, extra = self.scale is not None, self.extra((n, 1))
        states = np.full((n, -(-self.x.shape[1] // BLOCK), 7), 7.0)
        # In place, where terms replace the logits.
        x = self.x.copy()
        run(SMOOTHING_OF_ROWS, dtype, x, states, extra, scaled=scaled)
        run(BLOCK_STATES[operation], dtype, x, x, states, extra, tasks=tasks, scaled=scaled)
        run(ROWS_OF_BLOCKS, dtype, x, states, extra, scaled=scaled)
        out = None
        if operation == GRADIENT:
            out = x
            run(KERNELS[operation]["split"], dtype, x, out, states, extra, tasks=tasks, scaled=scaled)
        return self.results(out, extra)

    def results(self, out: Array | None, extra: tuple[Any, ...]) -> tuple[Array, ...]:
        gradient = np.empty(0) if out is None else out if out.ndim == 2 else out[0].T
        return gradient, extra[0].ravel(), extra[1].ravel()


def assert_equal(got: tuple[Array, ...], expected: tuple[Array, ...]) -> None:
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@dtypes
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layouts(dtype: str, scale: Any, shape: tuple[int, int]) -> None:
    for folded in FOLDED:
        problem = Problem(shape, dtype, folded, scale)
        expected = problem.run(GRADIENT, "rows")
        alone = (np.empty(0), *expected[1:])
        assert_equal(problem.run(LOSS, "rows"), alone)
        for layout in ("narrow", "columns", "tiles", "batches")[shape[1] > LANES[dtype] :]:
            assert_equal(problem.run(GRADIENT, layout), expected)
            assert_equal(problem.run(LOSS, layout), alone)


@dtypes
@pytest.mark.parametrize("shape", [(67, 7), (50, 40)], ids=str)
def test_tasks(dtype: str, scale: Any, shape: tuple[int, int]) -> None:
    layouts = ("rows", "columns", "batches", *(("narrow",) if shape[1] <= LANES[dtype] else ()))
    for folded in FOLDED:
        problem = Problem(shape, dtype, folded, scale)
        for operation, layout in itertools.product((GRADIENT, LOSS), layouts):
            expected = problem.run(operation, layout)
            for tasks in (2, 3, 8, 100):
                assert_equal(problem.run(operation, layout, tasks), expected)


@dtypes
@pytest.mark.parametrize("classes", [SHORT_ROW + 1, 5 * BLOCK + 1])
def test_split_rows(dtype: str, scale: Any, classes: int) -> None:
    for folded in (FOLDED[0], FOLDED[-1], FOLDED[4], FOLDED[8]):
        problem = Problem((3, classes), dtype, folded, scale)
        problem.labels[:] = 0, -1, classes - 1
        expected = problem.run(GRADIENT, "rows")
        alone = (np.empty(0), *expected[1:])
        assert_equal(problem.run(LOSS, "rows"), alone)
        for tasks in (1, 2, 5, 64):
            assert_equal(problem.run_split(GRADIENT, tasks), expected)
            assert_equal(problem.run_split(LOSS, tasks), alone)


@dtypes
@pytest.mark.parametrize("layout", ["rows", "columns", "narrow"])
def test_in_place(dtype: str, scale: Any, layout: str) -> None:
    """The gradient over its own logits."""
    problem = Problem((67, 7), dtype, FOLDED[-1], scale)
    expected = problem.run(GRADIENT, layout)
    shape = (1, 1, 67) if layout == "columns" else (67, 1)
    x, extra = (
        np.ascontiguousarray(problem.x.T)[None] if layout == "columns" else problem.x.copy(),
        problem.extra(shape),
    )
    run(KERNELS[GRADIENT][layout], dtype, x, x, extra, *NO_LABELS, scaled=scale is not None)
    assert_equal(problem.results(x, extra), expected)


# --- shapes and layouts through the public functions ------------------------------------


@settings(max_examples=150)
@given(data=st.data())
def test_any_shape_axis_and_layout(data: st.DataObject) -> None:
    """The bits of rows that lie one behind the other, wherever the classes are; the gradient in place too."""
    shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 5, 7, 8, 16, 17, 33]), min_size=1, max_size=4)))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x = rng.normal(0, 3, shape).astype(data.draw(st.sampled_from([np.float32, np.float64])))
    moved = np.ascontiguousarray(np.moveaxis(x, axis, -1))
    target = rng.integers(0, x.shape[axis], moved.shape[:-1])
    target = np.where(rng.random(target.shape) < 0.2, -100, target)
    options: dict[str, Any] = {"label_smoothing": data.draw(st.sampled_from([0.0, 0.1]))}
    if data.draw(st.booleans()):
        options["weight"] = rng.random(x.shape[axis])
    if data.draw(st.booleans()):
        options["sample_weight"] = rng.random(target.shape)
    options["reduction"] = data.draw(st.sampled_from(["mean", "sum", "none"]))
    with fastsoftmax.threads(1):
        loss, grad = cross_entropy_with_grad(moved, target, **options)
        laid = LAYOUTS[data.draw(st.sampled_from(sorted(LAYOUTS)))](x)
        labels = LAYOUTS[data.draw(st.sampled_from(sorted(LAYOUTS)))](target)
        before = laid.copy(), labels.copy()
        got, slopes = cross_entropy_with_grad(laid, labels, axis=axis, **options)
        np.testing.assert_array_equal(got, loss)
        np.testing.assert_array_equal(np.moveaxis(slopes, axis, -1), grad)
        np.testing.assert_array_equal(cross_entropy(laid, labels, axis=axis, **options), loss)
        np.testing.assert_array_equal(laid, before[0])
        np.testing.assert_array_equal(labels, before[1])
        place = LAYOUTS[data.draw(st.sampled_from(WRITABLE_LAYOUTS))](x)
        got, slopes = cross_entropy_with_grad(place, labels, axis=axis, out=place, **options)
        assert slopes is place
        np.testing.assert_array_equal(got, loss)
        np.testing.assert_array_equal(np.moveaxis(place, axis, -1), grad)


# --- memory -----------------------------------------------------------------------------

MEMORY: dict[str, tuple[tuple[int, ...], int, dict[str, Any]]] = {
    "rows": ((2560, 4096), 1, {}),
    "long-rows": ((10, 1048576), 1, {}),
    "columns": ((10, 256, 4096), 1, {}),
    "leading-axis": ((256, 40960), 0, {}),
    "smoothing-weights": ((2560, 4096), 1, {"label_smoothing": 0.1, "weight": np.ones(4096)}),
    "sample-weight-lse": ((2560, 4096), 1, {"sample_weight": np.ones(2560), "return_lse": True}),
    "softcap": ((2560, 4096), 1, {"softcap": 30.0}),
    "probabilities": ((2560, 4096), 1, {}),
    "padded": ((2560, 4096), 1, {}),
}


@pytest.mark.parametrize("case", MEMORY)
def test_nothing_of_the_size_of_the_logits_is_made(case: str) -> None:
    """For the gradient in place, into `out`, and for the loss alone."""
    shape, axis, options = MEMORY[case]
    x = (np.arange(np.prod(shape), dtype=np.uint32) % 19).astype(np.float32).reshape(shape)
    assert x.nbytes >= INPUT_BYTES
    target: Any = np.ones(shape[:axis] + shape[axis + 1 :], np.int64)
    if case == "probabilities":
        target = np.full(shape, 1 / shape[axis], np.float32)
    if case == "padded":
        x = LAYOUTS["padded"](x)
    out = np.ones(shape, np.float32)
    assert_small(lambda: cross_entropy(x, target, axis=axis, **options), x.nbytes)
    assert_small(lambda: cross_entropy_with_grad(x, target, axis=axis, out=out, **options), x.nbytes)
    assert_small(lambda: cross_entropy_with_grad(x, target, axis=axis, out=x, **options), x.nbytes)


def test_a_few_classes_take_16_bytes_a_row() -> None:
    """Which is not little beside 10 classes, so it is said."""
    x = np.ones((1048576, 10), np.float32)
    target = np.zeros(len(x), np.uint8)
    rows = 24 * len(x)
    assert_small(lambda: cross_entropy(x, target), x.nbytes, rows)
    assert_small(lambda: cross_entropy_with_grad(x, target, out=x), x.nbytes, rows)
