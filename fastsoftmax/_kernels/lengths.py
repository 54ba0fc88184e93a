"""The numbers that define the order of every sum (see `online`): kernels and plans both need them.

They are part of the numeric definition of a result, not a matter of tuning: changing one changes bits.
"""

from __future__ import annotations

# Lanes of a vector of 64 bytes, by the dtype of the array; half types are computed in float32.
LANES = {"float32": 16, "float16": 16, "bfloat16": 16, "float64": 8}

# A row up to here is one block, visited several times while it is in cache: 256 KB of float32.
SHORT_ROW = 65536
# A longer one is cut into blocks of this many elements, each with a state; the states are merged in order.
BLOCK = 16384

# Rows of more blocks are always shared out by blocks, for a kernel has room on its stack for the maxima of so many.
MOST_BLOCKS = 1024

# Columns of up to so many classes a strand keep their terms until all are there, those of more the sums of strands.
# Both lie in one room of so many float64 vectors with a lane for each of the columns at once: as many terms as that are
# float32 vectors of half the size for 16 strands, or float64 vectors for 8.
KEPT = 4
SUMS_ROOM = 8 * KEPT

# What follows is a matter of speed alone.

# With fewer columns than this next to each other most lanes of a vector would be idle. Those of at most so many classes
# are put together where they are few and become no rows: up to three tiles of these are some 600 KiB.
LEAST_COLUMNS = 4
MOST_PACKED = 1024
# Fewer columns than lanes, of so many classes or more, become rows (see `interleaved`; two to twelve columns on a Zen
# 5: of 300 classes 0.8 to 1.1 of the time, of 500 0.5 to 0.8), those of gradients, with a second array to bring
# together, sooner (64 classes 0.7 to 1.1). Rows come four at a time; all of them have so many numbers at most, those of
# a second array as many again.
INTERLEAVED, INTERLEAVED_GRADIENTS = 320, 64
PIECE, INTERLEAVED_ROOM = 4, 2**17

# Plain arrays of up to this many elements have a kernel that looks at the array itself: what Python asks of an array
# takes longer than a few rows. More where rows are contiguous (on a Zen 5 softmax of 20x1000 took two threads 4.3 us
# and 1.1 of Python, one 3.0; gradients of 32x1000 3.4 and 1.5, one 3.0); fewer where losses of columns are found, which
# take twice as long.
SMALL, SMALL_ROWS, SMALL_GRADIENTS, SMALL_LOSSES = 12288, 20480, 32768, 6144
# It takes rows one by one: so many where a batch would be faster (measured: 64x10 softmax 2.4 us one by one, 3.1 at
# once and with what Python asks; 33x10 log_softmax 3.8 and 3.1).
FEW_ROWS = {"softmax": 64, "log_softmax": 24, "logsumexp": 40}
FEW_LABELLED_ROWS = 64  # of labels Python asks more
# Reading so many labels takes several times as long as a launch.
MANY_LABELS = 65536

# Rows of a few classes go so many vectors of rows at once, at most (see `column_loops.in_flight`).
NARROW_VECTORS = {"softmax": 4, "log_softmax": 4, "logsumexp": 4, "cross_entropy": 4}

# Rows of up to so many vectors have room on the stack for the terms of as many rows as lanes.
BATCH_VECTORS = 15

# In rows of up to so many vectors every four look for the maximum's terms, for some do hold them (Zen 5, 64 and 128
# classes: softmax 0.93 and 0.92 of the time, loss and gradient of 64 0.91; log-sum-exp of 400 1.1).
FEW_VECTORS = 8
# As many rows as lanes are a group. Two of them in step overlap what each waits for, of rows of up to so many vectors,
# which stay in the first cache (Zen 5: softmax of 32 classes 0.89 of the time, 64 0.97, 100 0.95, log_softmax 0.92 to
# 1.02, log-sum-exp 0.95; losses, which have more to keep, 1.0 to 1.3, and so go one group at a time).
GROUPS, GROUPED_VECTORS = 2, 8

# Up to so many vectors a row, as many rows as lanes go faster at once (measured on Emerald Rapids, in cycles a vector:
# softmax of 4 vectors 24 -> 20, log_softmax of 4 43 -> 27, of 16 22 -> 20, loss and gradient of 4 58 -> 34; on a Zen 5
# softmax of 5 to 14 vectors in 0.72 to 0.97 of the time, of 16 in 1.03).
BATCHED = {
    "softmax": BATCH_VECTORS,
    "log_softmax": 16,
    "logsumexp": 32,
    "cross_entropy": 32,
    "cross_entropy_with_grad": 32,
}


def rows_of_pieces(inner: int) -> int:
    """How many rows so many columns take, which are copied by pieces."""
    return (inner + PIECE - 1) // PIECE * PIECE


def worth_columns(classes: int, inner: int) -> bool:
    """Whether kernels for columns take so many classes, and so many columns next to each other."""
    few = inner < LEAST_COLUMNS
    return inner > 1 and classes <= (INTERLEAVED_ROOM // PIECE if few else SHORT_ROW)
