"""What is measured of every function: seconds, the same in copies of the input, and memory allocated.

One copy is the time of `numpy.copyto` for one array of the input's shape, measured in turn with
the function in the same process. Absolute times drift with the machine; copies hold.
"""

from __future__ import annotations

import numpy as np

from fastsoftmax._bench.measure import BRISK, Call, medians_in_turn, peak_bytes


def logits(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Normal logits of standard deviation 3, as a trained model gives."""
    return 3 * np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


class _Family:
    """What the benchmarks of one function have in common."""

    cases: dict[str, tuple[tuple[int, ...], int]]  # name: (shape, axis)
    params: tuple[str, ...]  # the names of `cases`
    param_names = ("case",)
    timeout = 300

    def prepare(self, shape: tuple[int, ...], axis: int) -> Call:
        """Make the arrays, and bind the function that the class is named after to them."""
        raise NotImplementedError

    def setup(self, case: str) -> None:
        shape, axis = self.cases[case]
        self.call = self.prepare(shape, axis)
        self.call()  # compiles
        source, target = np.ones(shape, np.float32), np.empty(shape, np.float32)
        self.copy = lambda: np.copyto(target, source)

    def time_call(self, case: str) -> None:
        self.call()

    def track_copies(self, case: str) -> float:
        seconds = medians_in_turn({"function": self.call, "copy": self.copy}, BRISK)
        return seconds["function"] / seconds["copy"]

    track_copies.unit = "copies"  # type: ignore[attr-defined]

    def track_peak_bytes(self, case: str) -> int:
        return peak_bytes(self.call)

    track_peak_bytes.unit = "bytes"  # type: ignore[attr-defined]
