"""Cross-entropy of long rows fewer than threads: the blocks of a row are shared out, as in `split`.

The first launch finds the states of the blocks, between the launches a row gets its numbers, the last writes gradients.
What is asked of the logits is so asked before the first of them is overwritten.
"""

from __future__ import annotations

import numpy as np

from .jit import piece
from .losses import long_gradient, opened, settle, smoothing_sum, target_logit
from .memory import number
from .split import merged
from .views import lanes_of, view


@piece
def row_of_blocks(x, states, row, extra):
    """Between the launches: the loss of a row, and in ``states[row, 0, 3:]`` what its gradient is written with."""
    table, _, weights, terms, scale = opened(extra)
    like = lanes_of(x)
    state = merged(like, states, row, scale)
    x_t = target_logit(x, row, number(table, (row, 0)))
    smoothing = smoothing_sum(like, x, row, state[0], weights, terms[1])
    label, a, smooth, at_target = settle(row, state, x_t, smoothing, extra)
    states[row, 0, 3] = label
    states[row, 0, 4] = a
    states[row, 0, 5] = smooth
    states[row, 0, 6] = at_target


@piece
def gradient_blocks(x, out, states, row, start, stop, extra):
    """Last launch: the gradient of ``x[row, start:stop]``."""
    like, state = lanes_of(x), merged(lanes_of(x), states, row, opened(extra)[4])
    numbers = np.int64(states[row, 0, 3]), states[row, 0, 4], states[row, 0, 5], states[row, 0, 6]
    long_gradient(like, x, out, None, view(states), row, row, start, stop, state, numbers, extra)
