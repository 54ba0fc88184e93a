"""Nothing of the size of the input is allocated behind the user's back.

Two witnesses: `tracemalloc` sees what NumPy and Python allocate, the high-water mark of the process
what compiled code allocates (Numba's own allocations do not pass through `tracemalloc`).
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import BFLOAT16, Array, Axis, reduced_shape, result_dtype
from strategies import LAYOUTS

import fastsoftmax

# Above 32 MiB, the most that glibc's malloc serves from memory it kept: a temporary of this size is
# always mapped afresh, so the high-water mark cannot miss it.
INPUT_BYTES = 40 * 2**20
ALLOWED = 0.10

MAPS = ("softmax", "log_softmax")
BACKWARD = ("softmax_backward", "log_softmax_backward")


@dataclass(frozen=True)
class Case:
    """An input of about INPUT_BYTES; `spread` keeps the rows apart in a wider array."""

    shape: tuple[int, ...]
    axis: Axis = -1
    dtype: Any = np.float32
    layout: str = "contiguous"
    options: dict[str, Any] = field(default_factory=dict)


CASES = {
    "rows": Case((2560, 4096)),
    "rows-float64": Case((1280, 4096), dtype=np.float64),
    "narrow-rows": Case((1048576, 10)),
    "one-row": Case((10485760,)),
    "all-axes": Case((2560, 4096), None),
    "strided-axis": Case((2560, 4096), 0),
    "strided-middle-axis": Case((10, 256, 4096), 1),
    "strided-two-classes": Case((2, 5242880), 0),
    "tuple-of-axes": Case((40, 64, 4096), (0, 2)),
    "tuple-of-leading-axes": Case((40, 64, 4096), (0, 1)),
    "float16": Case((2560, 8192), dtype=np.float16),
    "float16-strided-axis": Case((2560, 8192), 0, dtype=np.float16),
    "bfloat16": Case((2560, 8192), dtype=BFLOAT16),
    "int32": Case((2560, 4096), dtype=np.int32),
    "int8": Case((2560, 16384), dtype=np.int8),
    "int64-strided-axis": Case((2560, 2048), 0, dtype=np.int64),
    "padded-rows": Case((2560, 4096), layout="padded"),
    "fortran": Case((2560, 4096), layout="fortran"),
    "reversed": Case((2560, 4096), layout="reversed"),
    "every-other": Case((2560, 4096), layout="every-other"),
    "misaligned": Case((2560, 4096), layout="misaligned"),
    "byte-swapped": Case((2560, 4096), layout="byte-swapped"),
    "where": Case((2560, 4096), options={"where": "mask"}),
    "where-strided-axis": Case((2560, 4096), 0, options={"where": "mask"}),
    "where-broadcast": Case((2560, 4096), options={"where": "row of mask"}),
}
WITH_TEMPERATURE = {"temperature": Case((2560, 4096), options={"temperature": 0.7})}
LSE_ONLY = {"weights": Case((2560, 4096), options={"b": "weights"})}


def arguments(case: Case) -> tuple[Array, dict[str, Any]]:
    if case.dtype is None:
        pytest.skip("ml_dtypes is not installed")
    x = np.arange(np.prod(case.shape), dtype=np.uint32) % 19  # a pattern: quick to make
    x = LAYOUTS[case.layout](x.astype(case.dtype).reshape(case.shape))
    options = dict(case.options)
    if "where" in options:
        mask = np.ones(case.shape, bool)
        mask[..., ::3] = False
        options["where"] = mask if options["where"] == "mask" else mask[0]
    if "b" in options:
        options["b"] = np.full(case.shape, 0.5, case.dtype)
    return x, options


def high_water() -> int:
    """The most memory that was resident since the last reset, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def resident() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def allocated(call: Callable[[], Any]) -> tuple[int, int]:
    """The peak of a call over what stood before it, by tracemalloc and by the system, in bytes.

    The first call, not measured, compiles what has to be compiled.
    """
    call()
    gc.collect()
    gc.freeze()  # what was compiled stays: later collections, here and in other tests, need not look at it again
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    result = call()
    traced = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    del result
    if sys.platform != "linux":
        return traced, 0
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark, see proc(5)
    before = resident()
    result = call()
    mapped = high_water() - before
    del result
    return traced, mapped


def assert_small(call: Callable[[], Any], input_bytes: int, output_bytes: int = 0) -> None:
    assert input_bytes >= 0.9 * INPUT_BYTES, "too small an input to see a temporary"
    for peak, witness in zip(allocated(call), ("tracemalloc", "the system"), strict=True):
        assert peak <= output_bytes + ALLOWED * input_bytes, (
            f"{peak / 2**20:.1f} MiB by {witness}, beside {input_bytes / 2**20:.0f} MiB of input"
        )


def filled(shape: tuple[int, ...], dtype: Any) -> Array:
    """An output whose pages exist, so that writing it is no new memory."""
    return np.ones(shape, dtype)


def test_the_witnesses_see_a_temporary() -> None:
    x = filled((INPUT_BYTES // 4,), np.float32)
    traced, mapped = allocated(lambda: (x + 1)[0])
    assert traced >= x.nbytes
    assert sys.platform != "linux" or mapped >= 0.9 * x.nbytes


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("case", CASES | WITH_TEMPERATURE)
def test_with_out(name: str, case: str) -> None:
    settings = (CASES | WITH_TEMPERATURE)[case]
    x, options = arguments(settings)
    out = filled(x.shape, result_dtype(x.dtype))
    function = getattr(fastsoftmax, name)
    assert_small(lambda: function(x, axis=settings.axis, out=out, **options), x.nbytes)


@pytest.mark.parametrize("case", CASES | LSE_ONLY)
def test_logsumexp(case: str) -> None:
    """With and without `out` alike, where the result is small beside the input."""
    settings = (CASES | LSE_ONLY)[case]
    x, options = arguments(settings)
    result = reduced_shape(x.shape, settings.axis, False)
    out = filled(result, result_dtype(x.dtype))
    axis = settings.axis
    assert_small(lambda: fastsoftmax.logsumexp(x, axis=axis, out=out, **options), x.nbytes)
    assert_small(lambda: fastsoftmax.logsumexp(x, axis=axis, **options), x.nbytes, out.nbytes)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("case", ["rows", "strided-axis", "tuple-of-axes", "float16", "int32", "where"])
def test_without_out_only_the_output(name: str, case: str) -> None:
    settings = CASES[case]
    x, options = arguments(settings)
    output = x.size * result_dtype(x.dtype).itemsize
    function = getattr(fastsoftmax, name)
    assert_small(lambda: function(x, axis=settings.axis, **options), x.nbytes, output)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("case", ["rows", "one-row", "strided-axis", "tuple-of-axes", "float16"])
def test_in_place(name: str, case: str) -> None:
    settings = CASES[case]
    x, _ = arguments(settings)
    function = getattr(fastsoftmax, name)
    assert_small(lambda: function(x, axis=settings.axis, out=x), x.nbytes)


@pytest.mark.parametrize("name", BACKWARD)
@pytest.mark.parametrize(
    "case",
    ["rows", "one-row", "strided-axis", "tuple-of-axes", "float16", "bfloat16", "padded-rows"],
)
def test_backward(name: str, case: str) -> None:
    settings = CASES[case]
    x, _ = arguments(settings)
    gradient, out = x.copy(), filled(x.shape, x.dtype)
    function = getattr(fastsoftmax, name)
    assert_small(lambda: function(gradient, x, axis=settings.axis, out=out), x.nbytes)
    assert_small(lambda: function(gradient, x, axis=settings.axis, out=gradient), x.nbytes)
    assert_small(lambda: function(gradient, x, axis=settings.axis), x.nbytes, x.nbytes)
