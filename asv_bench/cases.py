"""What `compare.py` measures: functions on shapes, and the share of another contender's time that is allowed."""

from __future__ import annotations

import math
from dataclasses import dataclass

COPY, ONNX_RUNTIME, PYTORCH, SCIPY = "copy", "ONNX Runtime", "PyTorch", "SciPy"


@dataclass(frozen=True)
class Limit:
    """At most this share of the time of a contender."""

    share: float
    against: str

    def __str__(self) -> str:
        return f"{self.share:.3g} of {self.against}"


@dataclass(frozen=True)
class Case:
    """One line of the table; all of its limits hold."""

    function: str
    shape: tuple[int, ...]
    limits: tuple[Limit, ...]
    axis: int = -1
    in_place: bool = False  # the gradient replaces the logits

    @property
    def name(self) -> str:
        where = " in place" if self.in_place else ""
        axis = "" if self.axis == -1 else f" axis {self.axis}"
        return f"{self.function}{where} {'x'.join(map(str, self.shape))}{axis}"

    @property
    def rounds(self) -> int:
        """Give fewer rounds to large arrays: one call of theirs is a long sample."""
        return 11 if math.prod(self.shape) > 2**24 else 21

    @property
    def row_shape(self) -> tuple[int, ...]:
        axis = self.axis % len(self.shape)
        return self.shape[:axis] + self.shape[axis + 1 :]


LIKE_A_COPY = (Limit(1.0, COPY), Limit(1 / 12, PYTORCH))
IMAGES = (Limit(1 / 4, PYTORCH), Limit(2.0, COPY))

CASES = (
    Case("softmax", (8192, 8192), (Limit(1.0, COPY),)),
    Case("softmax", (2048, 32000), (Limit(1.0, COPY),)),
    Case("softmax", (256, 1000), (Limit(0.75, ONNX_RUNTIME),)),
    Case("softmax", (8, 32000), (Limit(0.75, ONNX_RUNTIME),)),
    Case("softmax", (1, 128256), (Limit(0.75, ONNX_RUNTIME),)),
    Case("softmax", (262144, 10), (Limit(0.4, ONNX_RUNTIME),)),
    Case("softmax", (1000000, 2), (Limit(0.4, ONNX_RUNTIME),)),
    Case("softmax", (1, 10), (Limit(1.0, PYTORCH),)),
    Case("logsumexp", (8192, 8192), (Limit(0.6, COPY),)),
    Case("cross_entropy", (8192, 8192), (Limit(0.6, COPY),)),
    Case("cross_entropy_with_grad", (8192, 8192), LIKE_A_COPY, in_place=True),
    Case("cross_entropy_with_grad", (256, 128256), LIKE_A_COPY, in_place=True),
    Case("cross_entropy_with_grad", (256, 1000), (Limit(1 / 6, PYTORCH),)),
    Case("cross_entropy_with_grad", (8, 32000), (Limit(1 / 6, PYTORCH),)),
    Case("cross_entropy_with_grad", (262144, 10), (Limit(1 / 10, PYTORCH),)),
    Case("cross_entropy_with_grad", (8, 21, 256, 256), IMAGES, axis=1),
    Case("cross_entropy_with_grad", (1, 150, 256, 256), IMAGES, axis=1),
)
