"""Arrays as users hold them: the regions of shapes, the layouts of memory, hypothesis over both."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from reference import (
    BFLOAT16,
    FULL_DTYPES,
    HALF_DTYPES,
    LARGE_INTEGERS,
    SMALL_INTEGERS,
    Array,
    Axis,
)

# --- shapes: one or more for every region that the kernels may treat apart --------------

NARROW: dict[str, tuple[tuple[int, ...], Axis]] = {
    f"narrow-{classes}": ((rows, classes), -1)
    for rows, classes in [(70, 1), (67, 2), (65, 3), (66, 7), (67, 10), (5, 15), (69, 16)]
}
SHORT: dict[str, tuple[tuple[int, ...], Axis]] = {
    f"short-{classes}": ((rows, classes), -1)
    for rows, classes in [(66, 17), (65, 64), (5, 129), (13, 1000), (2, 1024), (1, 1025), (4, 4099)]
}
LONG_ROWS: dict[str, tuple[tuple[int, ...], Axis]] = {
    "long-65536": ((2, 65536), -1),
    "long-65537": ((3, 65537), -1),
    "long-one-row": ((131072,), 0),
}
STRIDED: dict[str, tuple[tuple[int, ...], Axis]] = {
    "strided-2d": ((33, 19), 0),
    "strided-two-classes": ((2, 301), 0),
    "strided-few-columns": ((1030, 3), 0),
    "strided-3d": ((3, 40, 37), 1),
    "strided-long": ((65600, 2), 0),
    "tuple-mergeable": ((5, 6, 7), (1, 2)),
    "tuple-leading": ((4, 5, 21), (0, 1)),
    "tuple-split": ((4, 5, 21), (0, 2)),
    "all-axes": ((4, 5, 21), None),
}
REGIONS = NARROW | SHORT | LONG_ROWS | STRIDED
BRIEF_REGIONS = {
    name: REGIONS[name] for name in ("narrow-10", "short-17", "short-1000", "long-65537", "strided-2d", "tuple-split")
}

# --- layouts: the same values, lying otherwise in memory --------------------------------


def _misaligned(x: Array) -> Array:
    buffer = np.empty(x.nbytes + 1, np.uint8)
    view = np.ndarray(x.shape, x.dtype, buffer.data, offset=1)
    view[...] = x
    return view


def _every_other(x: Array) -> Array:
    wide = np.zeros([2 * n + 1 for n in x.shape], x.dtype)
    view = wide[(..., *(slice(1, None, 2) for _ in x.shape))]
    view[...] = x
    return view


def _padded(x: Array) -> Array:
    """A corner of a larger array: no two axes can be merged into one."""
    wide = np.zeros([n + 3 for n in x.shape], x.dtype)
    view = wide[(..., *(slice(0, n) for n in x.shape))]
    view[...] = x
    return view


def _reversed(x: Array) -> Array:
    back = (..., *(slice(None, None, -1) for _ in x.shape))
    return np.ascontiguousarray(x[back]).reshape(x.shape)[back]


def _axes_turned(x: Array) -> Array:
    """The first axis innermost in memory, the others in order: neither C nor Fortran order."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0) if x.ndim else x.copy()


def _read_only(x: Array) -> Array:
    y = x.copy()
    y.flags.writeable = False
    return y


def _byte_swapped(x: Array) -> Array:
    if x.dtype == BFLOAT16:  # NumPy knows no other byte order for it
        return x.copy()
    return x.astype(x.dtype.newbyteorder())


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "contiguous": lambda x: x.copy(order="C"),
    "fortran": lambda x: x.copy(order="F"),
    "axes-turned": _axes_turned,
    "reversed": _reversed,
    "every-other": _every_other,
    "padded": _padded,
    "misaligned": _misaligned,
    "byte-swapped": _byte_swapped,
    "read-only": _read_only,
}
WRITABLE_LAYOUTS = [name for name in LAYOUTS if name not in ("byte-swapped", "read-only")]


@dataclass
class Guarded:
    """An output array inside a larger buffer of known bytes, to see every byte that is written."""

    buffer: npt.NDArray[np.uint8]
    array: Array

    FILL = 0xA5

    @classmethod
    def make(cls, shape: tuple[int, ...], dtype: npt.DTypeLike, *, gap: int = 1) -> Guarded:
        """Rows `gap` times as far apart as they need be, 4096 bytes of guard on either side."""
        dtype = np.dtype(dtype)
        wide = (*shape[:-1], shape[-1] * gap) if shape else ()
        buffer = np.full(2 * 4096 + math.prod(wide) * dtype.itemsize, cls.FILL, np.uint8)
        array: Array = np.ndarray(wide, dtype, buffer.data, offset=4096)
        return cls(buffer, array[..., : shape[-1]] if shape else array)

    def untouched(self) -> bool:
        """Whether not one byte was written, inside or around the array."""
        return bool((self.buffer == self.FILL).all())

    def surroundings_untouched(self) -> bool:
        """Whether every byte outside the array is as it was; the array is spent by the question."""
        self.array.view(np.dtype((np.void, self.array.itemsize)))[...] = np.void(
            bytes([self.FILL]) * self.array.itemsize
        )
        return self.untouched()


# --- hypothesis -------------------------------------------------------------------------

SCALES = ("normal", "wide", "offset", "equal", "confident", "specials")
OUT_KINDS = ("fresh", "given", "guarded", "every-other", "in place")
SIZES = st.one_of(
    st.integers(0, 5),
    st.sampled_from([7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 129, 255, 257]),
    st.sampled_from([1000, 1023, 1024, 1025, 2049, 4097]),
)
LARGEST = 20_000


def values(rng: np.random.Generator, shape: tuple[int, ...], scale: str) -> Array:
    """Logits in float64 of one of the SCALES."""
    x = np.asarray(rng.normal(0, 20 if scale == "wide" else 3, shape))
    if scale == "offset":
        x += rng.choice([1000.0, -30000.0])
    elif scale == "equal":
        x = np.full(shape, x.flat[0] if x.size else 0.0)
    elif scale == "confident":
        x[rng.random(shape) < 0.05] += 40
    elif scale == "specials":
        for special in (np.inf, np.nan):
            x[rng.random(shape) < 1 / (2 + x.size)] = special
        x[rng.random(shape) < 0.3] = -np.inf
    return x


def cast(x: Array, dtype: np.dtype[Any]) -> Array:
    """To the dtype; integers are drawn around zero, or around the middle of an unsigned range."""
    if dtype.kind in "iu":
        with np.errstate(invalid="ignore"):
            whole = np.nan_to_num(np.rint(x), nan=0, posinf=100, neginf=-100).astype(np.int64)
        shift = 100 if dtype.kind == "u" else 0
        return np.asarray(np.clip(whole, -100, 100) + shift).astype(dtype)
    return np.asarray(x > 0) if dtype.kind == "b" else x.astype(dtype)


@dataclass
class Problem:
    """One call: the array, its axis, the mask or None, the temperature, where the result goes."""

    x: Array
    axis: Axis
    where: Array | None
    temperature: float
    layout: str
    out_kind: str

    def __repr__(self) -> str:
        mask = None if self.where is None else self.where.shape
        return (
            f"Problem({self.x.dtype.str} {self.x.shape} strides {self.x.strides}, {self.layout}, "
            f"axis={self.axis}, where={mask}, T={self.temperature}, out={self.out_kind})"
        )


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, ...]:
    """0 to 4 axes, not more than LARGEST elements: the long axis anywhere."""
    sizes = draw(st.lists(SIZES, max_size=4))
    while math.prod(n + 1 for n in sizes) > LARGEST:  # beside an empty axis too: layouts pad
        sizes[sizes.index(max(sizes))] //= 2
    return tuple(sizes)


@st.composite
def axes(draw: st.DrawFn, ndim: int) -> Axis:
    """None, one axis counted from either end, or a tuple in any order."""
    if ndim == 0:
        return draw(st.sampled_from([None, 0, -1]))
    one = st.integers(-ndim, ndim - 1)
    some = st.lists(st.integers(0, ndim - 1), min_size=1, unique=True).map(tuple)
    return draw(st.one_of(one, one, some, st.none()))


@st.composite
def masks(draw: st.DrawFn, shape: tuple[int, ...], rng: np.random.Generator) -> Array | None:
    """None, or a mask of the same shape or of one that broadcasts to it; some rows masked whole."""
    if not draw(st.booleans()):
        return None
    kept = tuple(n if draw(st.integers(0, 3)) else 1 for n in shape)
    share = draw(st.sampled_from([0.2, 0.8]))
    return np.asarray(rng.random(kept[draw(st.integers(0, len(kept))) :]) < share)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """dtype x shape x values x layout x axis x mask x temperature x kind of out."""
    dtype = draw(st.sampled_from(FULL_DTYPES * 3 + HALF_DTYPES + SMALL_INTEGERS + LARGE_INTEGERS))
    shape = draw(shapes())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = cast(values(rng, shape, draw(st.sampled_from(SCALES))), dtype)
    layout = draw(st.sampled_from([*LAYOUTS, "broadcast", "permuted"]))
    if layout == "broadcast" and shape:
        along = draw(st.integers(0, len(shape) - 1))
        x = np.broadcast_to(np.take(x, [0] if shape[along] else [], along), shape)
    elif layout == "permuted":
        order = draw(st.permutations(range(len(shape))))
        x = np.ascontiguousarray(x.transpose(order)).reshape([shape[a] for a in order])
        x = x.transpose(np.argsort(order)) if order else x
    elif layout != "broadcast":
        x = LAYOUTS[layout](x)
    floating = dtype.kind == "f" or dtype == BFLOAT16
    may_be_in_place = floating and x.flags.writeable and x.dtype.isnative
    out_kinds = OUT_KINDS if may_be_in_place else OUT_KINDS[:-1]
    return Problem(
        x,
        draw(axes(len(shape))),
        draw(masks(shape, rng)),
        draw(st.sampled_from([1.0, 1.0, 0.7, 3.0])),
        layout,
        draw(st.sampled_from(out_kinds)),
    )
