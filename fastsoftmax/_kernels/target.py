"""The processor that kernels are compiled for."""

from __future__ import annotations

import functools

from numba.core.registry import cpu_target


@functools.cache
def _features() -> frozenset[str]:
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return frozenset(features.split(","))


def has_avx512() -> bool:
    """32 registers of 64 bytes, and masks in registers of their own."""
    return "+avx512f" in _features()


def has_avx2() -> bool:
    """16 registers of 32 bytes."""
    return "+avx2" in _features()


def has_f16c() -> bool:
    """Instructions between float16 and float32, on x86."""
    return "+f16c" in _features()
