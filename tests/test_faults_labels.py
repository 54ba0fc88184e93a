"""Class indices from outside: of every dtype, anywhere in millions of rows, and changed while they are read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from children import printed
from reference import Array
from strategies import Guarded

import fastsoftmax
from fastsoftmax import cross_entropy, cross_entropy_with_grad

ROWS, CLASSES = 3_000_000, 3
POSITIONS = (0, ROWS // 2, ROWS - 1)
INTEGERS = [np.dtype(kind + size) for kind in "iu" for size in "1248"]
BAD = (-1, CLASSES, 2**31, 2**62, -(2**62))


def _every_other(labels: Array) -> Array:
    wide = np.zeros(2 * len(labels), labels.dtype)
    wide[::2] = labels
    return wide[::2]


def _misaligned(labels: Array) -> Array:
    buffer = np.empty(labels.nbytes + 1, np.uint8)
    view = np.ndarray(labels.shape, labels.dtype, buffer.data, offset=1)
    view[...] = labels
    return view


def _read_only(labels: Array) -> Array:
    labels = labels.copy()
    labels.flags.writeable = False
    return labels


LAYOUTS = {
    "contiguous": lambda labels: labels.copy(),
    "every-other": _every_other,
    "reversed": lambda labels: labels[::-1].copy()[::-1],
    "misaligned": _misaligned,
    "byte-swapped": lambda labels: labels.astype(labels.dtype.newbyteorder()),
    "read-only": _read_only,
}


@pytest.fixture(scope="module")
def logits() -> Array:
    return np.ones((ROWS, CLASSES), np.float32)


@pytest.fixture(scope="module")
def guarded(logits: Array) -> Iterator[Guarded]:
    """One place for all gradients: not a byte of it is written by any call that fails."""
    out = Guarded.make(logits.shape, logits.dtype)
    yield out
    assert out.untouched()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_bad_labels_among_millions(dtype: np.dtype[Any], layout: str, logits: Array, guarded: Guarded) -> None:
    fastsoftmax.set_num_threads(2)
    info = np.iinfo(dtype)
    values = [value for value in BAD if info.min <= value <= info.max]
    for number, position in enumerate(POSITIONS):
        labels = np.zeros(ROWS, dtype)
        value = values[number % len(values)]
        labels[position] = value
        message = rf"target\[{position}\] is {value}: class indices go from 0 to {CLASSES - 1}"
        with pytest.raises(IndexError, match=message):
            cross_entropy_with_grad(logits, LAYOUTS[layout](labels), out=guarded.array)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("position", POSITIONS)
def test_every_bad_value_at_every_position(value: int, position: int, logits: Array, guarded: Guarded) -> None:
    fastsoftmax.set_num_threads(2)
    labels = np.zeros(ROWS, np.int64)
    labels[position] = value
    message = re.escape(f"target[{position}] is {value}:")
    with pytest.raises(IndexError, match=message):
        cross_entropy_with_grad(logits, labels, out=guarded.array)
    with pytest.raises(IndexError, match=message):
        cross_entropy(logits, labels, reduction="none")
    columns = np.ones((CLASSES, ROWS), np.float32)
    with pytest.raises(IndexError, match=message):
        cross_entropy_with_grad(columns, labels, axis=0, out=columns)
    assert (columns == 1).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bad_labels_among_five_millions(layout: str) -> None:
    rows = 5_000_000
    logits = np.ones((rows, CLASSES), np.float32)
    out = Guarded.make(logits.shape, logits.dtype)
    for dtype in (np.int8, np.int64):
        for position in (0, rows // 2, rows - 1):
            labels = np.zeros(rows, dtype)
            labels[position] = CLASSES
            with pytest.raises(IndexError, match=rf"target\[{position}\] is {CLASSES}:"):
                cross_entropy_with_grad(logits, LAYOUTS[layout](labels), out=out.array)
    assert out.untouched()


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_good_labels_of_every_dtype_and_layout(dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    """With nothing written around the gradient."""
    x = rng.normal(size=(5000, 7)).astype(np.float32)
    labels = rng.integers(0, 7, 5000).astype(dtype)
    expected = cross_entropy_with_grad(x, labels.astype(np.int64))
    for layout in LAYOUTS.values():
        out = Guarded.make(x.shape, x.dtype)
        loss, gradient = cross_entropy_with_grad(x, layout(labels), out=out.array)
        assert loss == expected[0]
        np.testing.assert_array_equal(gradient, expected[1])
        assert out.surroundings_untouched()


CHANGING = """
    classes = 7
    rows = int(sys.argv[1])
    good = np.arange(rows) % classes
    labels = good.copy()
    guard = 1 << 20
    buffer = np.full(2 * guard + rows * classes * 4, 0xA5, np.uint8)
    out = np.ndarray((rows, classes), np.float32, buffer.data, offset=guard)
    x = np.ones((rows, classes), np.float32)
    done = threading.Event()
    calls = 0

    def hold():
        # Until a call has begun and ended meanwhile, however slowly: the second to end from now on did.
        first = calls
        while calls < first + 2 and not done.is_set():
            time.sleep(1e-4)

    def change():
        # Each would write into the guard, or far from it, if it were used. At full speed, but for every 100th round:
        # calls that are shorter than a turn of the other thread may else all see one state.
        wild = [-9000, classes + 9000, 2**40, 2**62 + 5, -(2**62), 2**63 - 1]
        turn = 0
        while not done.is_set():
            for value in wild:
                labels[0] = labels[-1] = labels[rows // 2] = value
                labels[rows // 3 : rows // 2] = value
                if turn % 100 == 0:
                    hold()
                labels[:] = good
            if turn % 100 == 0:
                hold()
            turn += 1

    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=change, daemon=True)  # a failure of the caller ends the process
    thread.start()
    until = time.monotonic() + 2
    seen = {"error": 0, "result": 0}
    options = [{}, {"label_smoothing": 0.1}, {"softcap": 3.0}, {"weight": np.ones(classes)}, {"reduction": "none"}]
    while time.monotonic() < until or not all(seen.values()):
        for choice in options:
            try:
                loss, gradient = fastsoftmax.cross_entropy_with_grad(x, labels, out=out, **choice)
                assert np.isfinite(loss).all() and np.isfinite(gradient).all()
                seen["result"] += 1
            except IndexError as error:
                assert "class indices go from 0 to 6" in str(error)
                seen["error"] += 1
            calls += 1
    done.set()
    thread.join()
    assert (buffer[:guard] == 0xA5).all() and (buffer[-guard:] == 0xA5).all()
    print(all(seen.values()))
"""


@pytest.mark.parametrize("rows", [2, 300, 100_000])
def test_labels_that_another_thread_changes_meanwhile(rows: int) -> None:
    """Each call gives a result or an error, and nothing is written outside: in a process that a wild write may end."""
    assert printed(CHANGING, rows) == "True"
