"""Cross-entropy of long rows fewer than threads: the blocks of a row are shared out, as in `split`.

The first launch finds the states of the blocks, between the launches a row gets its numbers, the last writes gradients.
What is asked of the logits is so asked before their terms take their place.
"""

from __future__ import annotations

import numpy as np

from .in_step import kept_nowhere
from .jit import piece
from .lengths import BLOCK
from .losses import long_gradient, opened, settle, smoothing_before, target_logit
from .memory import number
from .row_states import block_state
from .split import merged, set_state
from .sums import exact_sum
from .views import lanes_of, view
from .writes import terms_kept_in

# Where ``states[row, block]`` holds what was asked of the logits, until numbers of the row take its place.
TARGET, SMOOTHING = 3, 4


@piece
def smoothing_of_row(x, states, row, extra):
    """Before the launches: the smoothing sum of a row."""
    _, _, weights, terms, _ = opened(extra)
    states[row, 0, SMOOTHING] = smoothing_before(lanes_of(x), x, row, weights, terms[1])


def over_block_states(kept_in):
    """First launch: the state of each block, whose terms stay in `kept_in`, and the target's logit if it has that."""

    @piece
    def state_of_block(x, out, states, row, block, extra):
        table, _, _, _, scale = opened(extra)
        like, start, stop = lanes_of(x), block * BLOCK, min((block + 1) * BLOCK, x.shape[1])
        label = number(table, (row, 0))
        if start <= max(label, 0.0) < stop:
            states[row, block, TARGET] = target_logit(x, row, label)
        set_state(states, row, block, block_state(like, x, kept_in(out), row, start, stop, scale, exact_sum(like)))

    return state_of_block


state_of_block = over_block_states(kept_nowhere)
state_and_terms = over_block_states(terms_kept_in)


@piece
def row_of_blocks(x, states, row, extra):
    """Between the launches: the loss of a row, and what its gradient is written with."""
    table, _, _, terms, scale = opened(extra)
    state = merged(lanes_of(x), states, row, scale)
    target = max(np.int64(number(table, (row, 0))), 0) // BLOCK
    smoothing = states[row, 0, SMOOTHING] if terms[1] != 0.0 else 0.0
    label, a, smooth, at_target = settle(row, state, states[row, target, TARGET], smoothing, extra)
    states[row, 0, 3] = label
    states[row, 0, 4] = a
    states[row, 0, 5] = smooth
    states[row, 0, 6] = at_target


@piece
def gradient_blocks(x, out, states, row, start, stop, extra):
    """Last launch: the gradient of ``x[row, start:stop]``."""
    like, state = lanes_of(x), merged(lanes_of(x), states, row, opened(extra)[4])
    numbers = np.int64(states[row, 0, 3]), states[row, 0, 4], states[row, 0, 5], states[row, 0, 6]
    kept, tops = terms_kept_in(out), view(states)
    long_gradient(like, x, out, kept, tops, row, row, start, stop, state, numbers, extra)
