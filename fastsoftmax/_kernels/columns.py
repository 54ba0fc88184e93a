"""Classes on a strided axis: ``x[0, class, inner]``, one row in each lane, no transpose.

Sums come in the order of `rows`: each lane keeps the partial sums that the lanes of a row would have held, or of a few
classes their terms, in a scratch array that stays in the first cache. `narrow` runs the same code on small transposed
tiles.
"""

from __future__ import annotations

from typing import Any

from .jit import by_type, inlined, piece
from .lengths import KEPT
from .memory import load, store
from .near_zero import FEWEST, NEAR_ZERO, NEARER, plain_columns, refined_below, size_of
from .online import frame, left_out, scaled
from .shuffles import any_lane
from .simd import fma, full, is_single, narrow, select, strands, wide
from .state import at_infinity, factor_of, finite_rest, log_others, log_total, others, plus, with_tops
from .sums import add, empty_sum, has_rest, is_exact, join, sum_of_one, term_and_summand, together
from .sweeps import by_vectors, column_top, nowhere, term_again
from .views import terms_in
from .visits import keep, without_top
from .writes import log_probability, terms_kept_in

# -- the visits of a vector of columns ---------------------------------------------------------------------


@inlined
def visit(like, x, out, top, j, i, count, shape, scale, tops, empty):
    """What is to be added of the terms of one class, which are kept in `out` on the way."""
    v = load(like, x, (0, j, i), count, 0.0)
    e, terms = term_and_summand(empty, v, shape, scale)
    keep(out, (0, j, i), e, count)
    return without_top(v, top, terms, tops)


@inlined
def column_sum(like, x, out, top, few_top, i, count, shape, scale, sums, empty):
    """The sums of the terms of the columns that are not their maximum, and how many are: as `row_sum`.

    For plain sums of no more classes than strands it is `few_top` that counts, None for all terms. Sums begin with
    `empty`.
    """
    n, w = x.shape[1], strands(like)
    if n <= w and n <= most_kept(like, empty):
        return few_sum(like, x, out, few_top, i, count, shape, scale, sums)
    if n <= most_kept(like, empty):
        return few_sum(like, x, out, top, i, count, shape, scale, sums)
    tops = full(like, 0.0)
    for group in range(0, n, 4 * w):
        for k in range(min(w, n - group)):
            j = group + k
            a, tops = visit(like, x, out, top, j, i, count, shape, scale, tops, empty)
            b = c = d = no_terms(like, empty)
            if j + w < n:
                b, tops = visit(like, x, out, top, j + w, i, count, shape, scale, tops, empty)
            if j + 2 * w < n:
                c, tops = visit(like, x, out, top, j + 2 * w, i, count, shape, scale, tops, empty)
            if j + 3 * w < n:
                d, tops = visit(like, x, out, top, j + 3 * w, i, count, shape, scale, tops, empty)
            before = empty_sum(like) if group == 0 else load_sum(like, sums, k, 0)
            store_sum(like, sums, k, 0, add(before, together(empty, together(empty, a, b), together(empty, c, d))))
    return column_fold(like, sums, 0, min(w, n)), tops


@by_type
def most_kept(like, empty):
    """Of how many classes `few_sum` may keep the terms: of exact sums where no two are added as they are."""
    strand = 16 if is_single(like) else 8
    exact = strand if is_single(like) else 0
    known = exact if is_exact(empty) else KEPT * strand
    return lambda like, empty: known


@by_type
def no_terms(like, empty):
    """What absent classes add."""
    if is_exact(empty) and has_rest(empty):
        return lambda like, empty: empty
    return lambda like, empty: full(like, 0.0)


@inlined
def few_sum(like, x, out, top, i, count, shape, scale, sums):
    """The same for so few classes that their terms, not the sums of their strands, are kept, and added as they are."""
    n, terms = x.shape[1], terms_in(like, sums)
    tops = full(like, 0.0)
    for j in range(n):
        e, tops = visit(like, x, out, top, j, i, count, shape, scale, tops, empty_sum(like))
        store(terms, (0, j, 0), e, None)
    return fold_terms(like, terms, n), tops


@inlined
def fold_terms(like, terms, n):
    """The sum of kept terms, at most four a strand: these become one in place, the strands are folded in registers."""
    w = strands(like)
    for j in range(3 * w, n):
        merge(like, terms, j - w, j)
    for j in range(w, min(n, 2 * w)):
        merge(like, terms, j - w, j)
    for j in range(2 * w, min(n, 3 * w)):
        merge(like, terms, j - 2 * w, j)
    return fold_strands(like, terms, 0, n)


@inlined
def merge(like, terms, k, j):
    """Add term j to term k."""
    both = load(like, terms, (0, k, 0), None, 0.0) + load(like, terms, (0, j, 0), None, 0.0)
    store(terms, (0, k, 0), both, None)


def folded(leaf: Any) -> Any:
    """Fold ``leaf(like, source, k, at)``, the sums of n strands of a term each, by halves; the absent are not added."""
    fold, step = _of_eight(leaf), 4
    while step:
        fold, step = _halves(fold, step), step // 2

    @inlined
    def run(like, source, at, n):
        return fold(like, source, 0, at, n)

    return run


def _halves(below: Any, step: int) -> Any:
    @inlined
    def fold(like, source, k, at, n):
        first = below(like, source, k, at, n)
        return join(first, below(like, source, k + step, at, n)) if k + step < n else first

    return fold


def _of_eight(leaf: Any) -> Any:
    @by_type
    def fold_by_8(like, source, k, at, n):
        if not is_single(like):  # eight strands have no eighth neighbour
            return lambda like, source, k, at, n: leaf(like, source, k, at)

        def fold(like, source, k, at, n):
            first = leaf(like, source, k, at)
            return join(first, leaf(like, source, k + 8, at)) if k + 8 < n else first

        return fold

    return fold_by_8


@inlined
def leaf_of_terms(like, terms, k, i):
    """The term of strand k as a sum of one."""
    return sum_of_one(load(like, terms, (0, k, i), None, 0.0))


fold_strands = folded(leaf_of_terms)


@inlined
def column_fold(like, sums, i, present):
    """The partial sums of the columns folded by halves, as `across` folds lanes; absent ones are zero."""
    step = strands(like) // 2
    while step:
        for k in range(min(step, present - step)):
            store_sum(like, sums, k, i, join(load_sum(like, sums, k, i), load_sum(like, sums, k + step, i)))
        step //= 2
    return load_sum(like, sums, 0, i)


@by_type
def load_sum(like, sums, k, i):
    """The sum of strand k of the columns from i on."""
    if is_single(like):
        return lambda like, sums, k, i: (load(wide(like), sums, (0, k, i), None, 0.0), 0.0)

    def both(like, sums, k, i):
        return load(like, sums, (0, 2 * k, i), None, 0.0), load(like, sums, (0, 2 * k + 1, i), None, 0.0)

    return both


@by_type
def store_sum(like, sums, k, i, total):
    """Keep it."""
    if is_single(like):
        return lambda like, sums, k, i, total: store(sums, (0, k, i), total[0], None)

    def both(like, sums, k, i, total):
        store(sums, (0, 2 * k, i), total[0], None)
        store(sums, (0, 2 * k + 1, i), total[1], None)

    return both


# -- from sums to results, all in float64 ------------------------------------------------------------------


@by_type
def lanes_pair(like, value, rest):
    """A pair of float64 vectors as a pair in the lanes' type."""
    if not is_single(like):
        return lambda like, value, rest: (value, rest)

    def single(like, value, rest):
        high = narrow(like, value)
        return high, narrow(like, plus(value - wide(high), rest))

    return single


@inlined
def column_factor(like, total, tops, shape):
    """What turns terms into probabilities, from the sums of those that are not the maximum, and how many are."""
    high, low = with_tops(like, wide(tops), wide(shape.peak), wide(shape.lost), total[0], total[1])
    return factor_of(*lanes_pair(like, high, low))


@inlined
def column_state(like, total, tops, top, shape, nan, scale):
    """The states ``(m, r, rest)`` of the columns: as `state_of_sums` of rows."""
    m = wide(top)
    z, tail = scaled(m - wide(shape.shift), scale)
    r, r_rest = others(like, wide(tops), total[0], total[1], z, tail, wide(shape.k))
    if any_lane(top - top != 0.0):
        return m, at_infinity(m, r, wide(nan)), finite_rest(m, r_rest)
    return m, r, r_rest


@inlined
def column_logs(like, state):
    """``log(1 + r)`` of the columns, as a pair in the lanes' type."""
    log, rest = log_others(state[1], state[2])
    return lanes_pair(like, log, rest)


@inlined
def column_states(like, x, kept, top, i, count, scale, sums, empty):
    """The states of the columns, and their frames; the terms stay in `kept` unless that is None."""
    nan = full(like, 0.0)
    if any_lane(top - top != 0.0):
        for j in range(x.shape[1]):
            v = load(like, x, (0, j, i), count, 0.0)
            nan = select(v == v, nan, v)
    shape = frame(top, scale)
    total, tops = column_sum(like, x, kept, top, top, i, count, shape, scale, sums, empty)
    return column_state(like, total, tops, top, shape, nan, scale), shape


# -- the numbers of a vector of columns, and what is written of a class ------------------------------------


@inlined
def softmax_factor(like, x, kept, top, i, count, place, scale, sums, wides):
    shape = frame(top, scale)
    counted = left_out(top, x.shape[1])
    total, tops = column_sum(like, x, kept, counted, None, i, count, shape, scale, sums, empty_sum(like))
    return column_factor(like, total, tops, shape)


@inlined
def softmax_at(like, seen, j, i, count, factor, scale):
    q, rest = factor
    e = term_again(like, seen, j, i, count, scale)
    return fma(e, q, e * rest)


softmax_columns = by_vectors(softmax_factor, softmax_at, 2, terms_kept_in)


@inlined
def top_and_log(like, x, kept, top, i, count, place, scale, sums, wides):
    state, _ = column_states(like, x, None, top, i, count, scale, sums, empty_sum(like))
    high, rest = column_logs(like, state)
    return top, high, rest


@inlined
def log_softmax_at(like, seen, j, i, count, numbers, scale):
    top, high, rest = numbers
    return log_probability(load(like, seen.x, (0, j, i), count, 0.0), top, (high, rest), scale)


log_softmax_columns = by_vectors(top_and_log, log_softmax_at, 3, nowhere)


@inlined
def totals_of_terms(like, x, top, i, count, scale, sums):
    """The log-sum-exps of the columns from terms like `like`."""
    (m, r, rest), _ = column_states(like, x, None, top, i, count, scale, sums, empty_sum(like))
    return log_total(m, r, rest, scale)


@piece
def totals_of_doubles(like, x, i, count, scale, sums):
    return totals_of_terms(like, x, column_top(like, x, i, count), i, count, scale, sums)


@by_type
def column_totals(like, x, top, i, count, scale, sums):
    """The same, once more from float64 terms where they were float32: as `refined` of rows."""
    if not is_single(like):
        return lambda like, x, top, i, count, scale, sums: totals_of_terms(like, x, top, i, count, scale, sums)

    def refined(like, x, top, i, count, scale, sums):
        few = x.shape[1] <= strands(like)
        if x.shape[1] <= FEWEST and not any_lane(top - top != 0.0):
            totals = plain_columns(like, x, top, i, count, scale)
        else:
            totals = totals_of_terms(like, x, top, i, count, scale, sums)
            near = size_of(totals) < refined_below(x)
            if few and any_lane(near):
                totals = select(near, plain_columns(like, x, top, i, count, scale), totals)
        near = size_of(totals) < (NEARER if few else NEAR_ZERO)
        if any_lane(near):
            return select(near, totals_of_doubles(wide(like), x, i, count, scale, sums), totals)
        return totals

    return refined


@inlined
def total_of_columns(like, x, kept, top, i, count, place, scale, sums, wides):
    return (narrow(like, column_totals(like, x, top, i, count, scale, sums)),)


@inlined
def total_at(like, seen, j, i, count, numbers, scale):
    return numbers[0]


logsumexp_columns = by_vectors(total_of_columns, total_at, 1, nowhere)
