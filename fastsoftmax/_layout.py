"""Arrays of any layout as the few views that kernels read: ``x[row, class]`` or ``x[outer, class, inner]``.

Axes that lie one behind the other in all arrays are merged; of what is left, the classes must be
one axis, and either they or another axis must be contiguous. What does not fit goes through
`_blocks`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ._kernels.lengths import SHORT_ROW

# Views that one array may fall into before copying its blocks is the better way.
MOST_VIEWS = 64
# With fewer columns than this next to each other most lanes of a vector would be idle.
LEAST_COLUMNS = 4


def worth_columns(classes: int, inner: int) -> bool:
    """Whether kernels for columns take so many classes, and so many columns next to each other."""
    return classes <= SHORT_ROW and inner >= LEAST_COLUMNS


class View(NamedTuple):
    """One piece of work for a kernel: all arrays seen alike, rows if of two axes, columns if of three."""

    arrays: tuple[np.ndarray, ...]

    @property
    def is_rows(self) -> bool:
        """Whether the classes are contiguous."""
        return self.arrays[0].ndim == 2


class _Axis(NamedTuple):
    """An axis, perhaps of several merged: its size and its stride in each array."""

    size: int
    strides: tuple[int, ...]


def views(arrays: tuple[np.ndarray, ...], axes: tuple[int, ...]) -> list[View] | None:
    """The views through which kernels can work on these arrays, or None if they cannot.

    The arrays have the shape of the first, but others may have size 1 along the class axes: they hold one number a row.
    """
    if all(array.flags.c_contiguous for array in arrays):
        plain = _contiguous(arrays, axes)
        if plain is not None:
            return plain
    return _strided(arrays, axes)


def _contiguous(arrays: tuple[np.ndarray, ...], axes: tuple[int, ...]) -> list[View] | None:
    """Plain arrays with the class axes next to each other: a reshape is all."""
    low, high = (axes[0], axes[-1] + 1) if axes else (0, 0)
    if high - low != len(axes):
        return None
    shape = arrays[0].shape
    outer, inner = math.prod(shape[:low]), math.prod(shape[high:])
    classes = math.prod(shape[low:high])
    if inner == 1:
        return [View(tuple(a.reshape(outer, math.prod(a.shape[low:high])) for a in arrays))]
    if not worth_columns(classes, inner):
        return None
    return [View(tuple(a.reshape(outer, math.prod(a.shape[low:high]), inner) for a in arrays))]


def _strided(arrays: tuple[np.ndarray, ...], axes: tuple[int, ...]) -> list[View] | None:
    shape = arrays[0].shape
    items = tuple(a.itemsize for a in arrays)

    def axis(i: int) -> _Axis:
        return _Axis(shape[i], tuple(a.strides[i] if a.shape[i] > 1 else 0 for a in arrays))

    classes = _merged([axis(i) for i in axes if shape[i] > 1])
    others = [axis(i) for i in range(len(shape)) if i not in axes and shape[i] > 1]
    others = _merged(sorted(others, key=lambda a: [-abs(s) for s in a.strides]))
    if len(classes) > 1:
        return None
    row = classes[0] if classes else _Axis(1, items)
    last: list[_Axis] = [row]
    reduced = [a.size < arrays[0].size for a in arrays]
    if any(s != item for s, item, one in zip(row.strides, items, reduced, strict=True) if not one):
        inner = next((a for a in others if a.strides == items), None)
        if inner is None or not worth_columns(row.size, inner.size):
            return None
        others.remove(inner)
        last.append(inner)
    *loops, outer = others or [_Axis(1, (0,) * len(arrays))]
    if math.prod(axis.size for axis in loops) > MOST_VIEWS:
        return None
    return _cut(arrays, loops, [outer, *last], reduced)


def _merged(axes: list[_Axis]) -> list[_Axis]:
    """Each axis joined with the next where the two lie one behind the other in every array."""
    merged: list[_Axis] = []
    for axis in axes:
        before = merged[-1] if merged else None
        if before is not None and all(s == t * axis.size for s, t in zip(before.strides, axis.strides, strict=True)):
            merged[-1] = _Axis(before.size * axis.size, axis.strides)
        else:
            merged.append(axis)
    return merged


def _cut(arrays: tuple[np.ndarray, ...], loops: list[_Axis], axes: list[_Axis], reduced: list[bool]) -> list[View]:
    """A view along `axes` for each position along `loops`."""
    whole = []
    for k, array in enumerate(arrays):
        sizes = [axis.size for axis in (*loops, *axes)]
        if reduced[k]:
            sizes[len(loops) + 1] = 1
        strides = [axis.strides[k] for axis in (*loops, *axes)]
        whole.append(as_strided(array, sizes, strides, writeable=array.flags.writeable))
    positions = np.ndindex(*(axis.size for axis in loops))
    return [View(tuple(array[position] for array in whole)) for position in positions]
