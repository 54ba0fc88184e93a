"""What cross_entropy means where it is not obvious: nothing counts, infinities, NaN, labels and arrays of any kind."""

from __future__ import annotations

from typing import Any

import loss_reference
import numpy as np
import pytest
from reference import BFLOAT16, Array, assert_same, result_dtype
from strategies import LAYOUTS, WRITABLE_LAYOUTS, Guarded

import fastsoftmax
from fastsoftmax import cross_entropy, cross_entropy_with_grad

# Index targets through the kernels; the same through blocks of float64.
ROUTES: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.1},
    "z_loss": {"z_loss": 0.01},
    "focal": {"focal_gamma": 2.0},
    "softcap": {"softcap": 30.0},
}
routes = pytest.mark.parametrize("route", ROUTES)
axes = pytest.mark.parametrize("axis", [1, 0], ids=["rows", "columns"])
full = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
sizes = pytest.mark.parametrize("size", [(5, 33), (40, 6)], ids=str)
INTEGERS = [np.dtype(kind + size) for kind in "iu" for size in "1248"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """What threads change is the business of other tests, and each kernel for them takes its time to compile."""
    fastsoftmax.set_num_threads(1)


def problem(rng: np.random.Generator, size: tuple[int, int], dtype: Any = np.float32) -> tuple[Array, Array]:
    return rng.normal(0, 3, size).astype(dtype), rng.integers(0, size[1], size[0])


def both(x: Array, target: Any, axis: int = 1, **options: Any) -> tuple[Any, Array]:
    """Loss and gradient of rows that are given as such, laid along `axis`; the loss alone is the same."""
    lie = x if axis == 1 else np.ascontiguousarray(x.T)
    if np.ndim(target) == 2 and axis == 0:
        target = np.ascontiguousarray(target.T)
    loss, grad = cross_entropy_with_grad(lie, target, axis=axis, **options)
    options.pop("grad_output", None)
    np.testing.assert_array_equal(cross_entropy(lie, target, axis=axis, **options), loss)
    return loss, grad if axis == 1 else grad.T


# --- what counts ------------------------------------------------------------------------


@routes
@axes
@full
def test_all_ignored(route: str, axis: int, dtype: Any, rng: np.random.Generator) -> None:
    """The mean of nothing is NaN as in PyTorch, its gradient 0; the sum is 0, and so is the mean over `num_items`."""
    x, _ = problem(rng, (20, 6), dtype)
    target = np.full(20, -100)
    for reduction, expected in {"mean": np.nan, "sum": 0.0, "none": np.zeros(20)}.items():
        loss, grad = both(x, target, axis, reduction=reduction, **ROUTES[route])
        np.testing.assert_array_equal(loss, expected)
        np.testing.assert_array_equal(grad, 0)
    loss, grad = both(x, target, axis, num_items=12, **ROUTES[route])
    assert loss == 0
    np.testing.assert_array_equal(grad, 0)


def test_no_rows() -> None:
    for x, target in ((np.ones((0, 4)), np.ones(0, int)), (np.ones((0, 4)), np.ones((0, 4)))):
        loss, grad, lse = cross_entropy_with_grad(x, target, return_lse=True)
        assert np.isnan(loss)
        assert (grad.shape, lse.shape) == ((0, 4), (0,))
        assert cross_entropy(x, target, reduction="sum") == 0
        assert cross_entropy(x, target, reduction="none").shape == (0,)


@routes
@full
def test_num_items_adds_up_over_batches(route: str, dtype: Any, rng: np.random.Generator) -> None:
    x, target = problem(rng, (30, 12), dtype)
    target[::4] = -100
    options = dict(ROUTES[route], num_items=int((target >= 0).sum()))
    loss, grad = both(x, target, **ROUTES[route])
    parts = [both(x[some], target[some], **options) for some in (slice(0, 11), slice(11, 30))]
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(sum(part[0] for part in parts), loss, rtol=4 * eps)
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), grad)


@pytest.mark.parametrize("option", ["sample_weight", "weight"])
def test_a_row_of_no_weight_counts_as_an_ignored_one(option: str, rng: np.random.Generator) -> None:
    x, target = problem(rng, (30, 5), np.float64)
    ignored = np.where(target == 2, -100, target)
    weight = {"weight": [1, 1, 0, 1, 1]} if option == "weight" else {"sample_weight": target != 2}
    for reduction in ("mean", "sum", "none"):
        loss, grad = both(x, target, reduction=reduction, **weight)
        expected, slopes = both(x, ignored, reduction=reduction)
        np.testing.assert_allclose(loss, expected, rtol=1e-15)
        np.testing.assert_allclose(grad, slopes, rtol=1e-14, atol=1e-17)


def test_none_with_grad_output(rng: np.random.Generator) -> None:
    """One number for all or one for each row; without it the gradient is that of the sum."""
    x, target = problem(rng, (8, 20), np.float64)
    target[3] = -100
    g = rng.normal(size=8)
    _, one = both(x, target, reduction="none")
    np.testing.assert_array_equal(one, both(x, target, reduction="sum")[1])
    _, each = both(x, target, reduction="none", grad_output=g)
    np.testing.assert_allclose(each, one * g[:, None], rtol=1e-14)
    np.testing.assert_allclose(both(x, target, grad_output=3)[1], both(x, target)[1] * 3, rtol=1e-14)
    assert not each[3].any()


@routes
@axes
def test_return_lse(route: str, axis: int, rng: np.random.Generator) -> None:
    """Of every row, ignored or not, after the cap and the temperature."""
    x, target = problem(rng, (20, 6), np.float64)
    target[::3] = -100
    options = dict(ROUTES[route], temperature=0.7)
    capped = 30 * np.tanh(x / 30) if route == "softcap" else x
    lie = x if axis == 1 else np.ascontiguousarray(x.T)
    expected = fastsoftmax.logsumexp(capped / 0.7, axis=1)
    loss, lse = cross_entropy(lie, target, axis=axis, return_lse=True, **options)
    again, grad, same = cross_entropy_with_grad(lie, target, axis=axis, return_lse=True, **options)
    np.testing.assert_allclose(lse, expected, rtol=1e-14)
    np.testing.assert_array_equal(lse, same)
    assert loss == again
    np.testing.assert_array_equal(grad, cross_entropy_with_grad(lie, target, axis=axis, **options)[1])


def test_types_of_results() -> None:
    for dtype, loss_type in ((np.float64, np.float64), (np.float32, np.float32), (np.float16, np.float32)):
        x = np.ones((2, 3), dtype)
        loss, grad, lse = cross_entropy_with_grad(x, [0, 1], return_lse=True)
        assert type(loss) is loss_type
        assert (grad.dtype, lse.dtype) == (dtype, loss_type)
        assert cross_entropy(x, [0, 1], reduction="none").dtype == loss_type
    assert np.shape(cross_entropy(np.ones(3), 0, reduction="none")) == ()
    assert cross_entropy([0.0, 0.0], 1) == np.log(2)


# --- NaN and infinities -----------------------------------------------------------------


@routes
@axes
@full
@sizes
def test_nan_stays_in_its_row(
    route: str, axis: int, dtype: Any, size: tuple[int, int], rng: np.random.Generator
) -> None:
    x, target = problem(rng, size, dtype)
    options = dict(ROUTES[route], reduction="none")
    loss, grad = both(x, target, axis, **options)
    for spoilt in (np.nan, np.inf):
        x[3, 4] = spoilt
        got, slopes = both(x, target, axis, **options)
        if spoilt == np.inf and route == "softcap":  # capped, an infinity is a number
            continue
        assert np.isnan(got[3])
        assert np.isnan(slopes[3]).all()
        rest = np.arange(size[0]) != 3
        np.testing.assert_array_equal(got[rest], loss[rest])
        np.testing.assert_array_equal(slopes[rest], grad[rest])
        assert np.isnan(both(x, target, axis, **ROUTES[route])[0])


@routes
@axes
@full
@sizes
def test_ignored_rows_count_nothing_whatever_is_in_them(
    route: str, axis: int, dtype: Any, size: tuple[int, int], rng: np.random.Generator
) -> None:
    x, target = problem(rng, size, dtype)
    target[1:4] = -100
    for reduction in ("mean", "none"):
        options = dict(ROUTES[route], reduction=reduction)
        loss, grad = both(x, target, axis, **options)
        spoilt = x.copy()
        spoilt[1], spoilt[2, 3], spoilt[3] = np.nan, np.inf, -np.inf
        own = np.ones(size[0])
        for more in ({}, {"sample_weight": own}, {"weight": np.ones(size[1])}):
            got, slopes = both(spoilt, target, axis, **options, **more)
            np.testing.assert_array_equal(got, loss)
            np.testing.assert_array_equal(slopes, grad)
            assert_same(slopes[1:4], np.zeros_like(x[1:4]))


@pytest.mark.parametrize("route", [name for name in ROUTES if name != "softcap"])  # capped, it is a number
@axes
@full
def test_masked_logits(route: str, axis: int, dtype: Any, rng: np.random.Generator) -> None:
    """A logit of -inf is a class that cannot be: it gets no gradient, and as a target it costs infinity."""
    x, target = problem(rng, (20, 6), dtype)
    x[:, 5], target[target == 5] = -np.inf, 0
    expected, slopes = both(x[:, :5], target, axis, reduction="none")
    if route == "plain":
        loss, grad = both(x, target, axis, reduction="none")
        np.testing.assert_array_equal(loss, expected)
        np.testing.assert_array_equal(grad[:, :5], slopes)
        assert not grad[:, 5].any()
    elif route == "smoothing":  # every class is a little bit the target
        assert np.isposinf(both(x, target, axis, reduction="none", **ROUTES[route])[0]).all()
    target[2] = 5
    loss, grad = both(x, target, axis, reduction="none", **ROUTES[route])
    assert np.isposinf(loss[2])
    exact = loss_reference.cross_entropy(x[2:3], target[2:3], reduction="none", **ROUTES[route])
    np.testing.assert_allclose(grad[2], exact.gradient[0].astype(dtype), rtol=0, atol=1e-6)
    if route != "smoothing":
        assert np.isfinite(np.delete(loss, 2)).all()
    assert grad[2, 5] == -1 or route in ("smoothing", "z_loss")


@axes
@full
def test_an_infinite_loss_makes_the_mean_infinite(axis: int, dtype: Any, rng: np.random.Generator) -> None:
    """Not NaN: every addend is positive."""
    x, target = problem(rng, (20, 6), dtype)
    x[2, 5], target[2] = -np.inf, 5
    for reduction in ("mean", "sum"):
        assert np.isposinf(both(x, target, axis, reduction=reduction)[0])


@axes
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("size", [1e25, 1e30, 1e45, 1e60, 1e200, 1e300])
@pytest.mark.parametrize("kind", ["labels", "probabilities", "focal"])
def test_huge_logits(kind: str, size: float, temperature: float, axis: int) -> None:
    """Differences far beyond where an exponential is 0: it stays that, and losses are what they are."""
    x, target = size * np.array([[1.0, -0.3, -0.7], [0.2, 0.9, 0.9]]), np.array([1, 0])
    options: dict[str, Any] = {"focal_gamma": 2.0} if kind == "focal" else {}
    y: Array = np.eye(3)[target] if kind == "probabilities" else target
    loss, grad = both(x, y, axis, reduction="none", temperature=temperature, **options)
    np.testing.assert_allclose(loss, np.array([1.3, 0.7]) * size / temperature, rtol=1e-14)
    np.testing.assert_allclose(grad * temperature, [[1, -1, 0], [-1, 0.5, 0.5]], rtol=1e-14)


@axes
def test_a_row_of_nothing(axis: int) -> None:
    """All logits -inf: no probabilities, as softmax."""
    x = np.full((20, 6), -np.inf, np.float32)
    loss, grad = both(x, np.zeros(20, int), axis, reduction="none")
    assert np.isnan(loss).all()
    assert np.isnan(grad).all()
    _, lse = cross_entropy(x, np.zeros(20, int), return_lse=True)
    assert np.isneginf(lse).all()


@axes
def test_a_class_of_no_probability_costs_nothing(axis: int) -> None:
    """As a target, 0 times an infinite distance is 0; infinity times anything else is not."""
    x, y = np.array([[0.0, 0.0, -np.inf]] * 5), np.array([[0.5, 0.5, 0.0]] * 5)
    loss, grad = both(x, y, axis, reduction="none")
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-15)
    np.testing.assert_allclose(grad, 0, atol=1e-16)
    y[1, 2] = 0.1
    loss, _ = both(x, y, axis, reduction="none")
    assert np.isposinf(loss[1])
    assert np.isfinite(loss[2:]).all()


# --- arrays of any kind -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64])
@axes
def test_integer_logits(dtype: Any, axis: int, rng: np.random.Generator) -> None:
    x, target = rng.integers(0, 2 if dtype == np.bool_ else 20, (9, 12)).astype(dtype), rng.integers(0, 12, 9)
    kind = result_dtype(dtype)
    loss, grad = both(x, target, axis)
    expected, slopes = both(x.astype(kind), target, axis)
    assert_same(loss, expected)
    assert_same(np.ascontiguousarray(grad), np.ascontiguousarray(slopes))
    assert grad.dtype == kind


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_of_every_kind(dtype: np.dtype[Any], layout: str, rng: np.random.Generator) -> None:
    x = rng.normal(0, 3, (2, 11, 3, 5)).astype(np.float32)
    target = rng.integers(0, 11, (2, 3, 5)).astype(dtype)
    target[0, 1] = 100
    expected = cross_entropy_with_grad(x, target.astype(np.int64), axis=1, ignore_index=100)
    labels = LAYOUTS[layout](target)
    before = labels.copy()
    got = cross_entropy_with_grad(x, labels, axis=1, ignore_index=100)
    assert got[0] == expected[0]
    np.testing.assert_array_equal(got[1], expected[1])
    np.testing.assert_array_equal(labels, before)
    assert got[0] == cross_entropy(x, labels.tolist(), axis=1, ignore_index=100)


@pytest.mark.parametrize("layout", [*LAYOUTS, "broadcast"])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@full
def test_layouts_of_logits_and_targets(layout: str, kind: str, dtype: Any, rng: np.random.Generator) -> None:
    """The same bits, and the arguments as they were."""
    x, target = rng.normal(0, 3, (4, 7, 9)).astype(dtype), rng.integers(0, 7, (4, 9))
    if kind == "probabilities":
        target = rng.random((4, 7, 9)).astype(np.float32)
    if layout == "broadcast":
        x, target = x[:1].repeat(4, 0), target[:1].repeat(4, 0)
        laid, labels = np.broadcast_to(x[:1], x.shape), np.broadcast_to(target[:1], target.shape)
    else:
        laid, labels = LAYOUTS[layout](x), LAYOUTS[layout](target)
    weight, own = rng.random(7), rng.random((4, 9))
    options: dict[str, Any] = {"axis": 1, "weight": weight, "sample_weight": own, "label_smoothing": 0.1}
    kept = [array.copy() for array in (laid, labels, weight, own)]
    loss, grad = cross_entropy_with_grad(x, target, **options)
    got, slopes = cross_entropy_with_grad(laid, labels, **options)
    assert got == loss
    np.testing.assert_array_equal(slopes, grad)
    assert cross_entropy(laid, labels, **options) == loss
    for array, before in zip((laid, labels, weight, own), kept, strict=True):
        np.testing.assert_array_equal(array, before)


@routes
@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_in_place(route: str, layout: str, kind: str, rng: np.random.Generator) -> None:
    """To the bit what it is out of place; so is what goes into another array, and nothing around that is touched."""
    for shape, axis in (((6, 40), 1), ((4, 7, 9), 1), ((70, 5), 1)):
        x = rng.normal(0, 3, shape).astype(np.float32)
        target = rng.integers(0, shape[axis], shape[:axis] + shape[axis + 1 :])
        if kind == "probabilities":
            target = rng.random(shape).astype(np.float32)
        loss, grad = cross_entropy_with_grad(x, target, axis=axis, **ROUTES[route])
        place = LAYOUTS[layout](x)
        got, slopes = cross_entropy_with_grad(place, target, axis=axis, out=place, **ROUTES[route])
        assert slopes is place
        assert got == loss
        np.testing.assert_array_equal(place, grad)
        other = LAYOUTS[layout](np.full_like(x, 7))
        assert cross_entropy_with_grad(x, target, axis=axis, out=other, **ROUTES[route])[1] is other
        np.testing.assert_array_equal(other, grad)
        for gap in (1, 2):
            guarded = Guarded.make(shape, x.dtype, gap=gap)
            cross_entropy_with_grad(x, target, axis=axis, out=guarded.array, **ROUTES[route])
            np.testing.assert_array_equal(guarded.array, grad)
            assert guarded.surroundings_untouched()


def test_out_that_overlaps(rng: np.random.Generator) -> None:
    """The logits shifted by a row, the probabilities themselves, the memory of the labels and of the weights."""
    base, target = problem(rng, (30, 12), np.float64)
    expected = cross_entropy_with_grad(base[1:], target[1:])
    memory = base.copy()
    got = cross_entropy_with_grad(memory[1:], target[1:], out=memory[:-1])
    assert got[0] == expected[0]
    np.testing.assert_array_equal(memory[:-1], expected[1])
    y = rng.random(base.shape)
    expected = cross_entropy_with_grad(base, y)
    got = cross_entropy_with_grad(base, y, out=y)
    assert got[0] == expected[0]
    np.testing.assert_array_equal(y, expected[1])
    out = np.empty(base.shape)
    labels, own = out.view(np.int64)[:, 0], out[:, 1]
    labels[:], own[:] = target, rng.random(30)
    expected = cross_entropy_with_grad(base, labels.copy(), sample_weight=own.copy())
    got = cross_entropy_with_grad(base, labels, sample_weight=own, out=out)
    assert got[0] == expected[0]
    np.testing.assert_array_equal(out, expected[1])


@pytest.mark.skipif(BFLOAT16 is None, reason="ml_dtypes is not installed")
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_bfloat16_targets_and_weights(kind: str, rng: np.random.Generator) -> None:
    x, target = problem(rng, (6, 9))
    weight = rng.random(9).astype(BFLOAT16)
    if kind == "probabilities":
        target = rng.random(x.shape).astype(BFLOAT16)
    wide = target.astype(np.float64) if kind == "probabilities" else target
    assert cross_entropy(x, target, weight=weight) == cross_entropy(x, wide, weight=weight.astype(np.float64))
