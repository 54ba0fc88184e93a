"""The first result in a fresh process, and what has to be compiled for it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import numpy as np

import fastsoftmax
from fastsoftmax._kernels.loops import KERNELS, SMALL_COLUMN_KERNELS, SMALL_KERNELS

FIRST_CALL = "import numpy, fastsoftmax; fastsoftmax.softmax(numpy.zeros((256, 1000), numpy.float32), axis=-1)"


def run(code: str, cache: str) -> None:
    """Run code in a process of its own, with a cache of kernels of its own."""
    environment = {**os.environ, "FASTSOFTMAX_CACHE_DIR": cache}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=300)


class Start:
    """Seconds of whole processes. Numba's own import is most of the first; compare with `time_import_of_numba`."""

    timeout = 600
    number = 1
    repeat = (3, 9, 20.0)
    warmup_time = 0

    def setup(self) -> None:
        self.cache = tempfile.TemporaryDirectory()
        run(FIRST_CALL, self.cache.name)

    def teardown(self) -> None:
        self.cache.cleanup()

    def time_import_of_numba(self) -> None:
        run("import numba", self.cache.name)

    def time_import(self) -> None:
        run("import fastsoftmax", self.cache.name)

    def time_first_call_with_a_warm_cache(self) -> None:
        run(FIRST_CALL, self.cache.name)


class ColdStart:
    """The first call ever: kernels are compiled."""

    timeout = 600
    number = 1
    repeat = (2, 3, 60.0)
    warmup_time = 0

    def time_first_call_with_a_cold_cache(self) -> None:
        with tempfile.TemporaryDirectory() as cache:
            run(FIRST_CALL, cache)


class Signatures:
    """How often kernels are compiled for calls that differ in layout and writability alone: once."""

    def track_signatures(self) -> int:
        wide = np.zeros((120, 192), np.float32)
        x = wide[:, :96]
        frozen = x.copy()
        frozen.flags.writeable = False
        before = compiled()
        for array in (frozen, x, x[::2], x[5:], frozen[::-1]):
            fastsoftmax.softmax(array, axis=-1)
        return compiled() - before

    track_signatures.unit = "signatures"  # type: ignore[attr-defined]


def compiled() -> int:
    kernels = [kernel for layouts in KERNELS.values() for kernel in layouts.values()]
    return sum(kernel.signatures for kernel in (*kernels, *SMALL_KERNELS.values(), *SMALL_COLUMN_KERNELS.values()))
