"""Long rows fewer than threads: their blocks are shared out, in two launches.

The first finds the state of each block, the second merges those of a row, in order, and writes. The blocks are
those that one thread would have gone through alone (`rows.row_state`), so the bits are the same.

softmax keeps the terms of the first launch in `out`. They are those of the whole row but for a power of two, 2**(k of
the block - k of the row), so that the second launch need not compute them again: with the exponents of the terms in
range the product is exact, and the bits are again the same.
"""

from __future__ import annotations

from .elementary import power_of_two
from .jit import by_type, inlined, piece
from .lengths import BLOCK
from .memory import address, lanes_of, store
from .online import frame
from .rows import block_state, refined, softmax_factor
from .simd import full, is_single
from .state import log_others, log_total, merge, plus
from .visits import rescale_row, scalar, spread, terms_kept_in, write_log_softmax, write_softmax

# A block this far below the row, in powers of two, is computed again: its factor might not be a normal number.
FAR_BELOW = 100.0


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


@piece
def state_of_block(x, out, states, row, block, scale):
    """First launch: ``states[row, block]`` becomes ``(m, r, rest)`` of that block."""
    start = block * BLOCK
    state = block_state(lanes_of(x), x, None, row, start, min(start + BLOCK, x.shape[1]), scale)
    set_state(states, row, block, state)


@piece
def state_and_terms(x, out, states, row, block, scale):
    """The same, with the terms of the block kept in `out`, unless that is `x` and they might be needed again."""
    like, kept, start = lanes_of(x), terms_kept_in(out), block * BLOCK
    stop = min(start + BLOCK, x.shape[1])
    if address(x) == address(out):
        set_state(states, row, block, block_state(like, x, None, row, start, stop, scale))
    else:
        set_state(states, row, block, block_state(like, x, kept, row, start, stop, scale))


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
    like = lanes_of(x)
    state = merged(like, states, row, scale)
    shape = frame(full(like, state[0]), scale)
    factor = softmax_factor(like, state, shape, scale)
    kept = terms_kept_in(out)
    if kept is None or address(x) == address(out):
        write_softmax(like, x, out, row, start, stop, (shape, scale, factor))
        return
    for first in range(start, stop, BLOCK):
        last = min(first + BLOCK, stop)
        of_block = frame(full(like, states[row, first // BLOCK, 0]), scale)
        below = scalar(of_block.k) - scalar(shape.k)
        in_place = scalar(of_block.shift) == 0.0 and scalar(shape.shift) == 0.0
        if in_place and below >= -FAR_BELOW:
            rescale_row(like, x, out, row, first, last, (full(like, power_of_two(below)), factor))
        else:
            write_softmax(like, x, out, row, first, last, (shape, scale, factor))


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
