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

# Arrays of up to this many elements and rows are never shared among threads, nor set side by side: they have a
# kernel that looks at the array itself. A matter of speed alone.
SMALL, FEW_ROWS = 4096, 3

# Rows of up to so many vectors have room on the stack for the terms of as many rows as lanes.
BATCH_VECTORS = 4
