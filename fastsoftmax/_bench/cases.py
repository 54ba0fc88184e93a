"""What is measured: functions on shapes, and the share of another contender's time that is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

# Contenders that are no peers: a copy of the input, and the machine's limit, a plain parallel loop over the same bytes.
COPY, MACHINE = "copy", "machine"
NUMPY, SCIPY, JAX, ONNX_RUNTIME, PYTORCH = "NumPy", "SciPy", "JAX", "ONNX Runtime", "PyTorch"
PEERS = (PYTORCH, ONNX_RUNTIME, JAX, SCIPY, NUMPY)
FASTEST = "the fastest peer"

MAPS = ("softmax", "log_softmax")
REDUCTIONS = ("logsumexp", "cross_entropy")
GRADIENT = "cross_entropy_with_grad"
BACKWARD = ("softmax_backward", "log_softmax_backward")
FUNCTIONS = (*MAPS, *REDUCTIONS, GRADIENT, *BACKWARD)
ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}

FLOAT32, BESIDE, DTYPES, WITHOUT_OUT, ONE_THREAD = "float32", "other shapes", "dtypes", "without out", "one thread"

# What is larger than this is in no cache that a process has to itself.
BEYOND_CACHES = 64 * 2**20


@dataclass(frozen=True)
class Limit:
    """At most this share of the time of a contender."""

    share: float
    against: str

    def __str__(self) -> str:
        return f"{self.share:.3g} of {self.against}"


@dataclass(frozen=True)
class Case:
    """One line of a table; all of its limits are to hold."""

    function: str
    shape: tuple[int, ...]
    axis: int = -1
    dtype: str = "float32"
    in_place: bool = False  # the gradient replaces the logits
    out: bool = True  # there is a place for the result
    threads: int = 2
    special: tuple[Limit, ...] = ()

    @property
    def name(self) -> str:
        parts = [self.function, "x".join(map(str, self.shape))]
        parts += [f"axis {self.axis}"] * (self.axis != -1) + [self.dtype] * (self.dtype != "float32")
        parts += ["in place"] * self.in_place + ["without out"] * (not self.out)
        return " ".join([*parts, *["on one thread"] * (self.threads == 1)])

    @property
    def section(self) -> str:
        """The part of the grid that it belongs to."""
        if self.dtype != "float32":
            return DTYPES
        if not self.out:
            return WITHOUT_OUT
        if self.threads == 1:
            return ONE_THREAD
        return BESIDE if (self.shape, self.axis) in OTHER_SHAPES else FLOAT32

    @property
    def bytes(self) -> int:
        """Bytes of the logits."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    @property
    def moved(self) -> int:
        """Bytes read and written at least once."""
        return self.bytes * (1 if self.function in REDUCTIONS else 3 if self.function in BACKWARD else 2)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape without the classes."""
        axis = self.axis % len(self.shape)
        return self.shape[:axis] + self.shape[axis + 1 :]

    @property
    def limits(self) -> tuple[Limit, ...]:
        """All that is asked: ahead of every peer, near the machine's limit where memory counts, and the rest."""
        limits = [Limit(1.0 if self.shape == (1, 10) else 1 / 1.2, FASTEST)]
        if self.bytes > BEYOND_CACHES and self.function not in BACKWARD:
            limits.append(Limit(1 / 0.9, MACHINE))
        return (*limits, *self.special)


# The least geometric mean of the speed-ups over the fastest peer, on two threads in float32.
MEANS = {"softmax": 1.8, "logsumexp": 4.0, GRADIENT: 8.0}

LAST_AXIS = (
    (1, 10), (1, 1000), (64, 10), (33, 257), (256, 1000), (1, 32000), (1, 128256), (1, 1000000), (8, 32000), (4096, 64),
    (4096, 1024), (2048, 32000), (262144, 10), (1000000, 2), (65536, 32), (8192, 8192),
)  # fmt: skip
STRIDED = (((8, 21, 256, 256), 1), ((1, 150, 512, 512), 1), ((1000, 4096), 0), ((64, 1000, 49), 1))
# Beside those: a few classes of a few columns, and of many; batches and heads of attention as people have them.
OTHER_SHAPES = (
    ((128, 10), -1), ((1000, 17), -1), ((500, 100), -1), ((128, 500), -1), ((64, 3000), -1), ((32, 50257), -1),
    ((4, 12, 128, 128), -1), ((200, 3, 3), 1), ((32, 5, 10), 1), ((64, 1000, 2), 1), ((4, 64, 128), 1),
    ((16, 128, 20), 1), ((2, 8, 64, 64), 1), ((8, 3, 65536), 1), ((8, 10, 65536), 1), ((512, 512), 0), ((10, 10000), 0),
)  # fmt: skip
OF_EACH_DTYPE = ((1, 1000), (256, 1000), (2048, 32000), (262144, 10))

LIKE_A_COPY = (Limit(1.0, COPY), Limit(1 / 12, PYTORCH))
IMAGES = (Limit(1 / 4, PYTORCH), Limit(2.0, COPY))
SPECIAL = {
    "softmax 8192x8192": (Limit(1.0, COPY),),
    "softmax 2048x32000": (Limit(1.0, COPY),),
    "softmax 256x1000": (Limit(0.75, ONNX_RUNTIME),),
    "softmax 8x32000": (Limit(0.75, ONNX_RUNTIME),),
    "softmax 1x128256": (Limit(0.75, ONNX_RUNTIME),),
    "softmax 262144x10": (Limit(0.4, ONNX_RUNTIME),),
    "softmax 1000000x2": (Limit(0.4, ONNX_RUNTIME),),
    "softmax 1x10": (Limit(1.0, PYTORCH),),
    "logsumexp 8192x8192": (Limit(0.6, COPY),),
    "cross_entropy 8192x8192": (Limit(0.6, COPY),),
    f"{GRADIENT} 8192x8192 in place": LIKE_A_COPY,
    f"{GRADIENT} 256x128256 in place": LIKE_A_COPY,
    f"{GRADIENT} 256x1000": (Limit(1 / 6, PYTORCH),),
    f"{GRADIENT} 8x32000": (Limit(1 / 6, PYTORCH),),
    f"{GRADIENT} 262144x10": (Limit(1 / 10, PYTORCH),),
    f"{GRADIENT} 8x21x256x256 axis 1": IMAGES,
    f"{GRADIENT} 1x150x256x256 axis 1": IMAGES,
}


def _special(cases: list[Case]) -> list[Case]:
    return [replace(case, special=SPECIAL.get(case.name, ())) for case in cases]


def _of_all_functions(places: Iterable[tuple[tuple[int, ...], int]]) -> list[Case]:
    return [Case(function, shape, axis) for function in FUNCTIONS for shape, axis in places]


def sections() -> dict[str, list[Case]]:
    """The grid: float32 on two threads, and what else is looked at."""
    grid = _of_all_functions([*((shape, -1) for shape in LAST_AXIS), *STRIDED])
    more = [
        Case(GRADIENT, (8192, 8192), in_place=True),
        Case(GRADIENT, (256, 128256), in_place=True),
        Case(GRADIENT, (1, 150, 256, 256), 1),
    ]
    dtypes = [
        Case(function, shape, dtype=dtype)
        for dtype in ("float64", "bfloat16", "float16")
        for function in FUNCTIONS
        for shape in OF_EACH_DTYPE
    ]
    return {
        FLOAT32: _special([*grid, *more]),
        BESIDE: _of_all_functions(OTHER_SHAPES),
        DTYPES: dtypes,
        WITHOUT_OUT: [replace(case, out=False) for case in grid if case.function != "cross_entropy"],
        ONE_THREAD: [replace(case, threads=1) for case in grid],
    }
