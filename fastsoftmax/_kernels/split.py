"""Long rows fewer than threads: their blocks are shared out, in two launches.

The first finds the state of each block, the second merges those of a row, in order, and writes. The blocks are
those that one thread would have gone through alone (`rows.row_state`), so the bits are the same.
"""

from __future__ import annotations

from .jit import piece
from .lengths import BLOCK
from .memory import lanes_of, store
from .online import frame, log_others, log_total, merge
from .rows import block_state, refined, softmax_factor
from .simd import full
from .visits import spread, write_log_softmax, write_softmax


@piece
def state_of_block(x, states, row, block, scale):
    """First launch: ``states[row, block]`` becomes ``(m, r, rest)`` of that block."""
    start = block * BLOCK
    m, r, rest = block_state(lanes_of(x), x, row, start, min(start + BLOCK, x.shape[1]), scale)
    states[row, block, 0] = m
    states[row, block, 1] = r
    states[row, block, 2] = rest


@piece
def merged(states, row, scale):
    """The state of a row from those of its blocks."""
    state = states[row, 0, 0], states[row, 0, 1], states[row, 0, 2]
    for block in range(1, states.shape[1]):
        other = states[row, block, 0], states[row, block, 1], states[row, block, 2]
        state = merge(state, other, scale)
    return state


@piece
def softmax_blocks(x, out, states, row, start, stop, scale):
    """Second launch: the probabilities of ``x[row, start:stop]``."""
    like = lanes_of(x)
    state = merged(states, row, scale)
    shape = frame(full(like, state[0]), scale)
    factor = softmax_factor(like, state, shape, scale)
    write_softmax(like, x, out, row, start, stop, shape, scale, factor)


@piece
def log_softmax_blocks(x, out, states, row, start, stop, scale):
    """Second launch: the log-probabilities of ``x[row, start:stop]``."""
    like = lanes_of(x)
    m, r, rest = merged(states, row, scale)
    log, log_rest = log_others(r, rest)
    write_log_softmax(like, x, out, row, start, stop, full(like, m), spread(like, log, log_rest), scale)


@piece
def logsumexp_blocks(x, out, states, row, start, stop, scale):
    """Second launch: the log-sum-exp of the row, by whoever has its first block."""
    if start == 0:
        like = lanes_of(x)
        m, r, rest = merged(states, row, scale)
        total = refined(like, x, row, log_total(m, r, rest, scale), scale)
        store(out, (row, 0), full(like, total), 1)
