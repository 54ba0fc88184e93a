"""Arrays of any layout as the few views that kernels read: ``x[row, class]`` or ``x[outer, class, inner]``.

Axes that lie one behind the other in all arrays are merged; of what is left, the classes must be
one axis, and either they or another axis must be contiguous. What does not fit goes through
`_blocks`.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from ._kernels.lengths import worth_columns

# Views that one array may fall into before copying its blocks is the better way.
MOST_VIEWS = 64


def in_rows(x: np.ndarray) -> np.ndarray:
    """A contiguous array as rows of its last axis: an array of its own, to which other threads give no other shape."""
    return x.reshape(-1, x.shape[-1])


def in_columns(x: np.ndarray, axis: int) -> np.ndarray:
    """A contiguous array as ``[outer, class, inner]``, the classes on an axis but the last; likewise its own."""
    shape = x.shape
    return x.reshape(math.prod(shape[:axis]), shape[axis], -1)


def alike(arrays: tuple[np.ndarray, ...], axis: int) -> tuple[np.ndarray, ...]:
    """Contiguous arrays of one shape, as kernels take them; those that are so already may be the caller's own."""
    x = arrays[0]
    ndim = x.ndim
    if axis in (-1, ndim - 1):
        if ndim == 2:
            return arrays
        seen = in_rows(x)
    else:
        if ndim == 3 and axis % 3 == 1:
            return arrays
        seen = in_columns(x, axis)
    return seen, *[array.reshape(seen.shape) for array in arrays[1:]]


def contiguous(x: Any, axis: Any) -> np.ndarray | None:
    """A contiguous array as kernels take it, ``[row, class]`` or ``[outer, class, inner]``; None for any other."""
    if type(x) is not np.ndarray or not x.flags.c_contiguous or not x.size or not x.ndim:
        return None
    if axis is None:
        return x.reshape(1, -1)
    ndim = x.ndim
    if type(axis) is not int or not -ndim <= axis < ndim:
        return None
    if axis in (-1, ndim - 1):
        return in_rows(x)
    seen = in_columns(x, axis)
    _, classes, inner = seen.shape
    if inner == 1:
        return seen.reshape(-1, classes)
    return seen if worth_columns(classes, inner) else None


class View(NamedTuple):
    """One piece of work for a kernel: all arrays seen alike, rows if of two axes, columns if of three."""

    arrays: tuple[np.ndarray, ...]

    @property
    def is_rows(self) -> bool:
        """Whether the classes are contiguous."""
        return self.arrays[0].ndim == 2


class _Axis(NamedTuple):
    """An axis, perhaps of several merged: which these are, its size, and its stride in each array."""

    axes: tuple[int, ...]
    size: int
    strides: tuple[int, ...]


class _Recipe(NamedTuple):
    """How to see arrays as kernels do: the order of their axes, and into what sizes these are merged.

    The first `loops` of the merged axes have a view for each position; the next are rows, classes and perhaps columns.
    """

    order: tuple[int, ...]
    loops: int
    sizes: tuple[int, ...]


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
    if 0 in shape:
        return None
    recipe = _recipe(shape, tuple((a.itemsize, a.shape == shape, a.strides) for a in arrays), axes)
    if recipe is None:
        return None
    order, loops, sizes = recipe
    numbers = (*sizes[: loops + 1], 1, *sizes[loops + 2 :])
    # Only what lies one behind the other is merged, so nothing is copied here.
    whole = [a.transpose(order).reshape(sizes if a.shape == shape else numbers) for a in arrays]
    if not loops:
        return [View(tuple(whole))]
    return [View(tuple(a[position] for a in whole)) for position in np.ndindex(sizes[:loops])]


@functools.lru_cache(maxsize=1024)
def _recipe(
    shape: tuple[int, ...], arrays: tuple[tuple[int, bool, tuple[int, ...]], ...], axes: tuple[int, ...]
) -> _Recipe | None:
    """The recipe for arrays of that shape, or with size 1 along the class axes; None where there is none.

    Of each array `arrays` has the size of an element, whether it has the shape, and the strides.
    """

    def axis(i: int) -> _Axis:
        return _Axis((i,), shape[i], tuple(strides[i] if full or i not in axes else 0 for _, full, strides in arrays))

    items = tuple(item for item, _, _ in arrays)
    classes = _merged([axis(i) for i in axes if shape[i] > 1])
    others = [axis(i) for i in range(len(shape)) if i not in axes and shape[i] > 1]
    others = _merged(sorted(others, key=lambda a: [-abs(s) for s in a.strides]))
    if len(classes) > 1:
        return None
    row = classes[0] if classes else _Axis((), 1, items)
    last = [row]
    if any(full and s != item for s, (item, full, _) in zip(row.strides, arrays, strict=True)):
        inner = next((a for a in others if a.strides == items), None)
        if inner is None or not worth_columns(row.size, inner.size):
            return None
        others.remove(inner)
        last.append(inner)
    *loops, outer = others or [_Axis((), 1, (0,) * len(arrays))]
    if math.prod(axis.size for axis in loops) > MOST_VIEWS:
        return None
    merged = [*loops, outer, *last]
    order = [i for axis in merged for i in axis.axes]
    alone = [i for i in range(len(shape)) if i not in order]  # of size 1
    return _Recipe((*order, *alone), len(loops), tuple(axis.size for axis in merged))


def _merged(axes: list[_Axis]) -> list[_Axis]:
    """Each axis joined with the next where the two lie one behind the other in every array."""
    merged: list[_Axis] = []
    for axis in axes:
        before = merged[-1] if merged else None
        if before is not None and all(s == t * axis.size for s, t in zip(before.strides, axis.strides, strict=True)):
            merged[-1] = _Axis(before.axes + axis.axes, before.size * axis.size, axis.strides)
        else:
            merged.append(axis)
    return merged
