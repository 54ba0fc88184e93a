"""Rows of a few lines or less, asked for before they are worked on: their lines do not come in time by themselves."""

from __future__ import annotations

from .jit import inlined
from .memory import prefetch_at
from .past import LEAST, item_bytes
from .simd import LINE, width

# Rows of a few classes are asked for so many rows ahead: between its loads and its stores a group computes for
# longer than processors look ahead.
ROWS_AHEAD = 128
# Rows of some vectors so many bytes ahead, but a batch at least.
BYTES_AHEAD = 4096


@inlined
def ask_for_rows(array, row, count, to_write):
    """Ask for some rows, which need not exist: each line of rows that follow each other, else the first one of each.

    (Of rows of a few lines with gaps or in reverse the others have to come by themselves.)
    """
    stride = array.strides[0]
    close = 0 < stride < array.shape[1] * item_bytes(array) + LINE
    step = LINE if close else stride
    offset = row * stride
    for _ in range((count * stride + LINE - 1) // LINE if close else count):
        prefetch_at(array, offset, to_write)
        offset += step


@inlined
def batches_ahead(like, x):
    """How many batches ahead their rows are asked for; 0 if processors see them coming.

    They do not where all loads are masked, nor where each row is two whole vectors: with twenty million numbers in rows
    of 17 to 32 or of 49 to 63 classes, the two threads of a Zen 5 took 0.36 to 0.86 of the time when they asked, with
    other rows 0.95 to 1.1. What stays in the last cache took 1.03 to 1.07.
    """
    n, w = x.shape[1], width(like)
    unseen = n <= 2 * w or 3 * w < n < 4 * w
    if not unseen or x.shape[0] * n * item_bytes(x) <= LEAST // 2:
        return 0
    return max(1, BYTES_AHEAD // (w * n * item_bytes(x)))
