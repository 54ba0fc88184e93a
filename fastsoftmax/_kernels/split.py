"""Long rows fewer than threads: their blocks are shared out, in two launches.

The first finds the state of each block, the second merges those of a row, in order, and writes. The blocks are
those that one thread would have gone through alone (`row_states.row_state`), so the bits are the same. softmax and
gradients keep the terms of the first launch in `out`, so that the second need not compute them again.
"""

from __future__ import annotations

from .in_step import kept_nowhere
from .jit import by_type, inlined, piece
from .lengths import BLOCK
from .memory import store
from .row_states import block_state, refined
from .rows import write_long_row
from .simd import full, is_single
from .state import log_others, log_total, merge, plus
from .sums import empty_sum
from .views import lanes_of, view
from .writes import spread, terms_kept_in, write_log_softmax


@inlined
def set_state(states, row, block, state):
    states[row, block, 0] = state[0]
    states[row, block, 1] = state[1]
    states[row, block, 2] = plus(0.0, state[2])


@by_type
def state_at(like, states, row, block):
    """The state of a block."""
    if is_single(like):
        return lambda like, states, row, block: (states[row, block, 0], states[row, block, 1], None)
    return lambda like, states, row, block: (states[row, block, 0], states[row, block, 1], states[row, block, 2])


def over_block_states(kept_in):
    """First launch: ``states[row, block]`` becomes ``(m, r, rest)`` of that block; its terms stay in `kept_in`."""

    @piece
    def state_of_block(x, out, states, row, block, scale):
        like, start, stop = lanes_of(x), block * BLOCK, min((block + 1) * BLOCK, x.shape[1])
        set_state(states, row, block, block_state(like, x, kept_in(out), row, start, stop, scale, empty_sum(like)))

    return state_of_block


state_of_block = over_block_states(kept_nowhere)
state_and_terms = over_block_states(terms_kept_in)


@piece
def merged(like, states, row, scale):
    """The state of a row from those of its blocks."""
    state = state_at(like, states, row, 0)
    for block in range(1, states.shape[1]):
        state = merge(state, state_at(like, states, row, block), scale)
    return state


@piece
def softmax_blocks(x, out, states, row, start, stop, scale):
    """Second launch: the probabilities of ``x[row, start:stop]``."""
    like, kept, tops = lanes_of(x), terms_kept_in(out), view(states)
    write_long_row(like, x, out, kept, tops, row, row, start, stop, merged(like, states, row, scale), scale, None)


@piece
def log_softmax_blocks(x, out, states, row, start, stop, scale):
    """Second launch: the log-probabilities of ``x[row, start:stop]``."""
    like = lanes_of(x)
    m, r, rest = merged(like, states, row, scale)
    log, log_rest = log_others(r, rest)
    write_log_softmax(like, x, out, row, start, stop, (full(like, m), spread(like, log, log_rest), scale))


@piece
def logsumexp_blocks(x, out, states, row, start, stop, scale):
    """Second launch: the log-sum-exp of the row, by whoever has its first block."""
    if start == 0:
        like = lanes_of(x)
        m, r, rest = merged(like, states, row, scale)
        total = refined(like, x, row, log_total(m, r, rest, scale), scale)
        store(out, (row, 0), full(like, total), 1)
