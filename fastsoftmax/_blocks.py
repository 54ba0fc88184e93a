"""Arrays that no kernel reads as they lie, block by block through a buffer that stays in cache.

Masks, integers, other byte orders, class axes that are no single axis: a block of rows is copied
to the buffer in the type it is computed in, worked on there, and its result copied to where it
belongs. Nothing of the input's size is made, unless one row has it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

# What work does with a block: from rows of logits to rows of results, which may be the same array.
Work = Callable[..., None]


class Blocks:
    """The rows of some arrays, in blocks.

    Parameters
    ----------
    arrays
        What is read: arrays of one shape.
    out
        What is written: of that shape, or smaller along the class axes.
    axes
        The class axes, sorted.
    dtype
        The type to compute in.
    room
        Elements of a block, but at least a row.
    where
        A mask of the shape of the arrays, or None.
    absent
        What stands for the elements of each array where the mask is False.
    masked
        What an `out` of the arrays' shape holds there; None if `out` is smaller.
    """

    def __init__(
        self,
        arrays: tuple[np.ndarray, ...],
        out: np.ndarray,
        axes: tuple[int, ...],
        dtype: np.dtype,
        room: int,
        where: np.ndarray | None,
        absent: tuple[float, ...],
        masked: float | None,
    ) -> None:
        ndim = arrays[0].ndim
        order = [i for i in range(ndim) if i not in axes] + list(axes)
        self._arrays = tuple(array.transpose(order) for array in arrays)
        self._out = out.transpose(order)
        self._where = None if where is None else where.transpose(order)
        self._lead = ndim - len(axes)
        self._dtype = dtype
        self._absent = absent
        self._masked = masked
        self._classes = math.prod(self._arrays[0].shape[self._lead :])
        self._results = math.prod(self._out.shape[self._lead :])
        self.indices = list(self._cut(max(1, room // max(1, self._classes))))

    def _cut(self, rows: int) -> Iterator[tuple[int | slice, ...]]:
        """Indices of blocks of at most about `rows` rows: a slice of one axis, whole ones behind it."""
        shape = self._arrays[0].shape[: self._lead]
        axis = self._lead
        inside = 1
        while axis and inside * shape[axis - 1] <= rows:
            axis -= 1
            inside *= shape[axis]
        if axis == 0:
            yield ()
            return
        step = max(1, rows // inside)
        for position in itertools.product(*(range(size) for size in shape[: axis - 1])):
            for start in range(0, shape[axis - 1], step):
                yield (*position, slice(start, start + step))

    def do(self, index: int, work: Work) -> None:
        """Read one block, do the work on it, write its result."""
        at = (*self.indices[index], ...)  # the ellipsis keeps a view where nothing is left to index
        where = None if self._where is None else self._where[at]
        out = self._out[at]
        inputs = [array[at] for array in self._arrays]
        pieces = list(zip(inputs, self._absent, strict=True))
        if self._masked is None:
            rows = self.read(index)
            result = np.empty((len(rows[0]), self._results), self._dtype)
            work(*rows, result)
        else:
            # The result has room for what is read, and often is where it shall go.
            fits = out.flags.c_contiguous and out.dtype == self._dtype
            room = out if fits else np.empty(out.shape, self._dtype)
            rows = [self._read(np.empty(x.shape, self._dtype), x, where, absent) for x, absent in pieces[1:]]
            result = self._read(room, inputs[0], where, self._absent[0])
            work(result, *rows, result)
            if where is not None:
                np.copyto(result.reshape(out.shape), self._masked, where=~where)
            if room is out:
                return
        np.copyto(out, result.reshape(out.shape), casting="same_kind")

    def read(self, index: int) -> list[np.ndarray]:
        """The rows of a block of each array, in buffers of their own."""
        at = (*self.indices[index], ...)
        where = None if self._where is None else self._where[at]
        blocks = zip((array[at] for array in self._arrays), self._absent, strict=True)
        return [self._read(np.empty(block.shape, self._dtype), block, where, absent) for block, absent in blocks]

    def write(self, index: int, rows: np.ndarray) -> None:
        """Put the rows of a block to where they belong in the result."""
        out = self._out[(*self.indices[index], ...)]
        np.copyto(out, rows.reshape(out.shape), casting="same_kind")

    def span(self, index: int) -> slice:
        """Which rows those of a block are, counted along all axes but those of the classes."""
        shape = self._arrays[0].shape[: self._lead]
        at = self.indices[index]
        if not at:
            return slice(0, math.prod(shape))
        *position, last = at
        assert isinstance(last, slice)
        before = 0
        for i, size in zip(position, shape, strict=False):
            before = before * size + i
        inside = math.prod(shape[len(at) :])
        size = shape[len(position)]
        start, stop, _ = last.indices(size)
        return slice((before * size + start) * inside, (before * size + stop) * inside)

    def _read(self, room: np.ndarray, block: np.ndarray, where: np.ndarray | None, absent: float) -> np.ndarray:
        """A block as rows, in `room`, which may be the memory of the block itself."""
        if where is None:
            np.copyto(room, block, casting="unsafe")
        elif np.may_share_memory(room, block):
            np.copyto(room, absent, where=~where)
        else:
            room.fill(absent)
            np.copyto(room, block, where=where, casting="unsafe")
        return room.reshape(-1, self._classes)
