"""Labels: data from outside, read once to a table and checked, so that what is used is what was checked."""

from __future__ import annotations

import numpy as np

from .jit import inlined, piece
from .memory import load, store
from .objects import array_as, extent
from .shuffles import lane
from .simd import bits, doubles, from_bits, full, select, width
from .sums import across
from .views import as_doubles, view

# A whole number of at most 52 bits, put into these of a double, is the digits behind 2**52.
WHOLE = 2.0**52
BITS_OF_WHOLE = 0x4330000000000000


def read_labels(first, last, tasks, labels, table, found, limits):
    """Copy the labels to the table, as -1 the ignored. `limits` is the number of classes and ignore_index.

    ``found[task]`` becomes the row of the first bad one, or -1, that label, and how many rows count.
    """
    n = labels.shape[0]
    for task in range(first, last):
        start, stop = n * task // tasks, n * (task + 1) // tasks
        found[task, 0], found[task, 1], found[task, 2] = labels_read(labels, table, start, stop, limits)


def read_few_labels(labels, table, classes, ignored):
    """The same on the calling thread, of contiguous array objects (see `objects`); the three numbers."""
    count = extent(labels, 0)
    return labels_read(array_as(labels, (count,)), array_as(table, (count, 1)), 0, count, (classes, ignored))


@piece
def labels_read(labels, table, start, stop, limits):
    """The first bad row or -1, its label, and how many rows count; both arrays are contiguous."""
    at = stop - (stop - start) % width(doubles(0.0))
    bad, count = whole_vectors(view(labels), view(table), start, at, limits)
    wrong = bits(table[bad, 0]) if bad >= 0 else 0
    for row in range(at, stop):
        label = labels[row]
        if label == limits[1]:
            table[row, 0] = -1.0
        else:
            table[row, 0] = label
            count += 1
            if bad < 0 and (label < 0 or label >= limits[0]):
                bad, wrong = row, label
    return bad, wrong, count


@inlined
def whole_vectors(labels, table, start, stop, limits):
    """The first bad row or -1, whose label the table then has bit for bit, and how many rows count."""
    like = doubles(0.0)
    numbers, classes = as_doubles(labels), float(limits[0])
    counted, first_bad = full(like, 0.0), full(like, np.inf)
    for row in range(start, stop, width(like)):
        given = load(like, numbers, (row,), None, 0.0)
        ignored = bits(given) == limits[1]
        # What is no number of a class is 2**52 off or more, or negative.
        number = select(ignored, full(like, -1.0), from_bits(bits(given) + BITS_OF_WHOLE) - WHOLE)
        in_range = select(number < 0.0, full(like, 0.0), select(number < classes, full(like, 1.0), full(like, 0.0)))
        good = select(ignored, full(like, 1.0), in_range)
        counted = counted + select(ignored, full(like, 0.0), full(like, 1.0))
        here = full(like, float(row))
        first_bad = select(good == 0.0, select(first_bad < here, first_bad, here), first_bad)
        store(table, (0, row), select(good == 0.0, given, number), None)
    count, _ = across(like, (counted, full(like, 0.0)))
    bad = np.inf
    for k in range(width(like)):
        bad = min(bad, lane(first_bad, k) + k)
    return (int(bad) if bad < np.inf else -1), int(count)
