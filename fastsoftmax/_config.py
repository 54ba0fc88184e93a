"""What this installation runs on, and compiling ahead of time."""

from __future__ import annotations

import platform
from typing import Any, Literal, overload

import llvmlite
import llvmlite.binding
import numba
import numpy as np

from . import _execute, _machine
from ._version import __version__

# From the widest: the first that the code generator may use names the instruction set.
_FEATURES = {
    "+avx512f": ("AVX-512", 512),
    "+avx2": ("AVX2", 256),
    "+avx": ("AVX", 256),
    "+sve": ("SVE", 128),
    "+neon": ("NEON", 128),
    "+sse4.2": ("SSE4.2", 128),
    "+sse2": ("SSE2", 128),
}


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...


@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...


def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Show versions, instruction set, caches, processors, threads and the cache folder.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, default "stdout"
        Whether to print, or to return a dict.

    Returns
    -------
    dict or None
        With "dicts": the keys fastsoftmax, python, numpy, numba, llvmlite, platform, cpu,
        instruction_set, vector_bits, caches (bytes), processors, processors_reason, num_threads,
        threading_layer, cache_folder.

    Raises
    ------
    ValueError
        For another mode.

    Examples
    --------
    >>> import fastsoftmax
    >>> sorted(fastsoftmax.show_config(mode="dicts")["caches"])
    ['l1d', 'l2', 'l3']
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode is {mode!r}: give 'stdout' or 'dicts'")
    processors = _machine.wanted_threads()
    name, bits = _instruction_set()
    found = {
        "fastsoftmax": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "platform": platform.platform(),
        "cpu": _machine.cpu(),
        "instruction_set": name,
        "vector_bits": bits,
        "caches": dict(_machine.caches()),
        "processors": processors.number,
        "processors_reason": processors.reason,
        "num_threads": _execute.get_num_threads(),
        "threading_layer": _execute.threading_layer(),
        "cache_folder": _execute.cache_folder(),
    }
    if mode == "dicts":
        return found
    width = max(map(len, found))
    for key, value in found.items():
        print(f"{key:{width}}  {value}")
    return None


def _instruction_set() -> tuple[str, int]:
    """The widest vectors that compiled code may use: of NUMBA_CPU_FEATURES, else of the processor."""
    features = numba.config.CPU_FEATURES
    if features is None:
        flags = llvmlite.binding.get_host_cpu_features()
        features = ",".join(f"+{name}" for name, on in flags.items() if on)
    present = set(features.split(","))
    for flag, found in _FEATURES.items():
        if flag in present:
            return found
    return platform.machine(), 128


def warmup(dtypes: tuple[str, ...] = ("float32",)) -> None:
    """Compile every kernel now, or read it from the cache, so that no later call waits for it.

    Parameters
    ----------
    dtypes : tuple of str, default ("float32",)
        Any of "float32", "float64", "float16", "bfloat16".

    Raises
    ------
    ValueError
        For another dtype.

    Notes
    -----
    About half a minute for a dtype on first use, a second when the cache holds them.

    Examples
    --------
    >>> import fastsoftmax
    >>> fastsoftmax.warmup(())
    """
    known = ("float32", "float64", "float16", "bfloat16")
    for dtype in dtypes:
        if dtype not in known:
            raise ValueError(f"dtypes holds {dtype!r}: give names out of {', '.join(known)}")
    _execute.compile_all(tuple(dtypes))
