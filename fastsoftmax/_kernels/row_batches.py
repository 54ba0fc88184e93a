"""softmax, log_softmax and logsumexp of rows of a few vectors: the stages of `batches`."""

from __future__ import annotations

from .batches import (
    COUNT,
    TOP,
    all_of_two,
    find_frames,
    folded,
    frames_kept,
    frames_of,
    in_groups,
    keep_numbers,
    keep_pair,
    kept,
    lane_sums_of,
    number_at,
    pair_at,
    states_of,
    tops_of,
)
from .columns import column_factor, column_logs
from .jit import inlined, piece
from .lengths import BATCH_VECTORS
from .memory import load, put, store
from .near_zero import refined_below, size_of
from .online import left_out
from .row_states import refined
from .rows import softmax_rows
from .shuffles import abreast, any_lane, lane, rarely, with_lane
from .simd import full, narrow, width
from .state import log_total
from .sums import empty_sum
from .views import rows_of_vectors
from .writes import Terms, log_softmax_at, probability, write_log_softmax, write_probabilities

# -- softmax -----------------------------------------------------------------------------------------------------------


@inlined
def find_counted(like, x, out, row, count, scale, rooms):
    top = tops_of(like, x, count, rooms)
    frames_of(like, top, scale, rooms.numbers)
    keep_numbers(rooms.numbers, TOP, left_out(top, x.shape[1]))


# Where rows are no multiple of a vector, terms that are kept in `out` would be loaded next to the store of the row
# before, and wait for it. In the room for terms no two rows touch, nor lie a power of two apart if all of them take
# more than a page: a load also waits for any earlier store whose address ends in the same twelve bits. Terms of rows of
# up to two vectors are stored whole there, for a masked store is no source for the load that follows; those of up to
# four lie a distance apart that the compiler knows (0.87 to 0.94 of the time).


@inlined
def add_terms(like, x, out, row, count, scale, rooms):
    n, w = x.shape[1], width(like)
    if n <= 2 * w:
        terms = rows_of_vectors(rooms.terms, 4)
        keep_numbers(rooms.numbers, COUNT, full(like, 0.0))  # of such rows no term is left out
        if n == 2 * w:
            all_of_two(like, x, terms, None, None, count, scale, rooms, empty_sum(like))
        else:
            all_of_two(like, x, terms, n, None, count, scale, rooms, empty_sum(like))
    elif n <= 4 * w:
        lane_sums_of(like, x, rows_of_vectors(rooms.terms, 4), count, scale, rooms, empty_sum(like))
    else:
        lane_sums_of(like, x, rows_of_vectors(rooms.terms, (n + w - 1) // w | 1), count, scale, rooms, empty_sum(like))


@inlined
def settle_factors(like, x, out, row, count, scale, rooms):
    numbers = rooms.numbers
    total, tops = folded(like, rooms, count), kept(like, numbers, COUNT)
    keep_pair(numbers, column_factor(like, total, tops, frames_kept(like, numbers)))


@inlined
def write_terms(like, x, out, row, count, scale, rooms):
    n, w = x.shape[1], width(like)
    if n == 2 * w:
        write_two(like, out, None, count, rooms)
    elif n < 2 * w:
        write_two(like, out, n, count, rooms)
    elif n <= 4 * w:
        write_more(like, out, n, count, rows_of_vectors(rooms.terms, 4), rooms)
    else:
        write_more(like, out, n, count, rows_of_vectors(rooms.terms, (n + w - 1) // w | 1), rooms)


@inlined
def write_two(like, out, n, count, rooms):
    two, terms = abreast(like, 2), rows_of_vectors(rooms.terms, 4)
    for k in range(count):
        e = load(two, terms, (k, 0), None, 0.0)
        store(out, (k, 0), probability(two, e, pair_at(like, rooms.numbers, k)), n)


@inlined
def write_more(like, out, n, count, terms, rooms):
    for k in range(count):
        more = Terms(terms, None, None, None), pair_at(like, rooms.numbers, k)
        write_probabilities(like, terms, out, k, 0, n, more)


softmax_of_few = in_groups(find_counted, add_terms, settle_factors, write_terms)


@piece
def softmax_batch(like, x, out, row, count, scale, rooms):
    if x.shape[1] <= BATCH_VECTORS * width(like):
        softmax_of_few(like, x, out, row, count, scale, rooms)
    else:  # no plan sends such rows here, but the room on the stack must not depend on that
        softmax_rows(x, out, 0, count, scale)


# -- logarithms --------------------------------------------------------------------------------------------------------


@inlined
def find_states(like, x, out, row, count, scale, rooms):
    find_frames(like, x, tops_of(like, x, count, rooms), count, scale, rooms)


@inlined
def add_others(like, x, out, row, count, scale, rooms):
    lane_sums_of(like, x, None, count, scale, rooms, empty_sum(like))


@inlined
def settle_logs(like, x, out, row, count, scale, rooms):
    keep_pair(rooms.numbers, column_logs(like, states_of(like, count, scale, rooms)))


@inlined
def write_logs(like, x, out, row, count, scale, rooms):
    n, w, numbers = x.shape[1], width(like), rooms.numbers
    if n == 2 * w:
        write_logs_of_two(like, x, out, None, count, scale, numbers)
    elif n < 2 * w:
        write_logs_of_two(like, x, out, n, count, scale, numbers)
    else:
        for k in range(count):
            more = number_at(like, numbers, TOP, k), pair_at(like, numbers, k), scale
            write_log_softmax(like, x, out, k, 0, n, more)


@inlined
def write_logs_of_two(like, x, out, n, count, scale, numbers):
    for k in range(count):
        more = number_at(like, numbers, TOP, k), pair_at(like, numbers, k), scale
        store(out, (k, 0), log_softmax_at(abreast(like, 2), x, k, 0, n, more), n)


log_softmax_batch = in_groups(find_states, add_others, settle_logs, write_logs)


@piece
def refined_rows(like, x, totals, count, scale):
    """The log-sum-exps of the rows of a batch: as `refined` of one."""
    for k in range(count):
        totals = with_lane(totals, k, refined(like, x, k, lane(totals, k), scale))
    return totals


@inlined
def settle_totals(like, x, out, row, count, scale, rooms):
    m, r, rest = states_of(like, count, scale, rooms)
    totals = log_total(m, r, rest, scale)
    if rarely(any_lane(size_of(totals) < refined_below(x))):
        totals = refined_rows(like, x, totals, count, scale)
    totals = narrow(like, totals)
    for k in range(count):
        put(out, (k, 0), lane(totals, k))


@inlined
def write_nothing(like, x, out, row, count, scale, rooms):
    return None


logsumexp_batch = in_groups(find_states, add_others, settle_totals, write_nothing)
