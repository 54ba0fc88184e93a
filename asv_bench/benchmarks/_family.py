"""What is measured of every function: seconds, the same in copies of the input, and memory allocated.

One copy is the time of `numpy.copyto` for one array of the input's shape, measured in turn with
the function in the same process. Absolute times drift with the machine; copies hold.
"""

from __future__ import annotations

import statistics

import numpy as np

from fastsoftmax._bench.measure import QUICK, Call, medians_in_turn, peak_bytes

# Where arrays come to lie is drawn anew so many times: what fits in the second cache can take 1.7 times as long in one
# process as in another, by the pages of memory that it gets.
PLACES = 9
# Arrays of up to so many bytes are kept, so that the next ones lie elsewhere; the system takes larger ones back.
KEPT_BYTES = 2**22


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
        self.call = self.prepare(*self.cases[case])
        self.call()  # compiles

    def time_call(self, case: str) -> None:
        self.call()

    def track_copies(self, case: str) -> float:
        """The median over places in memory."""
        shape, axis = self.cases[case]
        kept, ratios = [], []
        for _ in range(PLACES):
            source, target = np.ones(shape, np.float32), np.empty(shape, np.float32)
            contenders = {"function": self.prepare(shape, axis), "copy": lambda a=target, b=source: np.copyto(a, b)}
            seconds = medians_in_turn(contenders, QUICK)
            ratios.append(seconds["function"] / seconds["copy"])
            if source.nbytes <= KEPT_BYTES:
                kept.append(contenders)
        return statistics.median(ratios)

    track_copies.unit = "copies"  # type: ignore[attr-defined]

    def track_peak_bytes(self, case: str) -> int:
        return peak_bytes(self.call)

    track_peak_bytes.unit = "bytes"  # type: ignore[attr-defined]
