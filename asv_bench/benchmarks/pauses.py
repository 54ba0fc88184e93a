"""A call after a pause, when threads sleep: what it gains by them, and that it does not wait for them."""

from __future__ import annotations

import numpy as np

import fastsoftmax
from fastsoftmax._bench.measure import PAUSED, medians_in_turn

from ._family import logits


class AfterAPause:
    """softmax on all threads after 20 ms without a call, beside the same on one thread.

    5 ms of waiting for threads that were woken on a taken processor made it 15 for the smaller array.
    """

    params = ("256x1000", "2048x1000")
    param_names = ("case",)
    timeout = 300

    def setup(self, case: str) -> None:
        rows, classes = map(int, case.split("x"))
        self.x = logits((rows, classes))
        self.out = np.empty_like(self.x)
        self.on_all()  # compiles

    def on_all(self) -> None:
        fastsoftmax.softmax(self.x, axis=-1, out=self.out)

    def on_one(self) -> None:
        with fastsoftmax.threads(1):
            self.on_all()

    def track_of_one_thread(self, case: str) -> float:
        seconds = medians_in_turn({"all": self.on_all, "one": self.on_one}, PAUSED)
        return seconds["all"] / seconds["one"]

    track_of_one_thread.unit = "times one thread"  # type: ignore[attr-defined]
