"""Labels read in vectors: the same numbers as one by one, and no label that is none is taken for one."""

from __future__ import annotations

import numpy as np
import pytest

from fastsoftmax import _execute
from fastsoftmax._kernels.labels import BITS_OF_WHOLE

LEAST, MOST = -(2**63), 2**63 - 1
NONE = [-1, -2, 2**31, 2**32, 2**52 - 1, 2**52, 2**53, 2**62, MOST, LEAST, LEAST + 3, -(2**52), BITS_OF_WHOLE]
# What adds up to the bits of small numbers, of NaN and of infinity.
WRAPPED = [-BITS_OF_WHOLE, 3 - BITS_OF_WHOLE, 0x7FF0 * 2**48 - BITS_OF_WHOLE, 0x7FF8 * 2**48 - BITS_OF_WHOLE]


def read(labels: np.ndarray, classes: int, ignored: int) -> tuple[np.ndarray, tuple[int, int, int]]:
    table = np.full((len(labels), 1), 77.0)
    return table[:, 0], _execute.read_labels(labels, table, classes, ignored)


def expected(labels: np.ndarray, classes: int, ignored: int) -> tuple[np.ndarray, tuple[int, int, int]]:
    kept = labels != ignored
    bad = np.flatnonzero(kept & ((labels < 0) | (labels >= classes)))
    first = (int(bad[0]), int(labels[bad[0]])) if bad.size else (-1, 0)
    return np.where(kept, labels.astype(float), -1.0), (*first, int(kept.sum()))


@pytest.mark.parametrize("ignored", [-100, 0, 6, 7, MOST, LEAST])
@pytest.mark.parametrize("count", [*range(1, 20), 64, 1003])
def test_good_ones(rng: np.random.Generator, count: int, ignored: int) -> None:
    labels = rng.integers(0, 7, count)
    labels[rng.random(count) < 0.2] = ignored
    table, found = read(labels, 7, ignored)
    wanted, numbers = expected(labels, 7, ignored)
    assert found == numbers
    np.testing.assert_array_equal(table, wanted)


@pytest.mark.parametrize("wrong", [5, *NONE, *WRAPPED])
def test_a_bad_one_anywhere(wrong: int) -> None:
    for place in range(21):
        labels = np.arange(21) % 5
        labels[place] = wrong
        assert read(labels, 5, -100)[1] == (place, wrong, 21)
        table, found = read(labels, 5, wrong)
        assert found == (-1, 0, 20)
        assert table[place] == -1.0


def test_the_first_of_several_is_named() -> None:
    labels = np.zeros(100, np.int64)
    labels[[37, 36, 99]] = 9, -7, 8
    assert read(labels, 8, -100)[1] == (36, -7, 100)


def test_classes_beyond_what_doubles_tell_apart() -> None:
    """Nobody has as many, but an index that is too large for these is not taken for another."""
    labels = np.array([0, 2**52 - 1, 2**51] * 8)
    table, found = read(labels, 2**52, -100)
    assert found == (-1, 0, 24)
    np.testing.assert_array_equal(table, labels.astype(float))
