"""The processor that kernels are compiled for."""

from __future__ import annotations

import functools

from numba.core.registry import cpu_target


@functools.cache
def has_avx512() -> bool:
    """32 registers of 64 bytes, and masks in registers of their own."""
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return "+avx512f" in features.split(",")
