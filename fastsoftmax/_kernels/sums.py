"""Sums of terms, lane by lane and across lanes, in the order that `online` defines.

A plain sum is a pair of float64 lanes and what they lost, which those of float32 terms do without. It is what
probabilities need: 3 ulp are enough for the rounding of a term, of its additions to others, and of the rest. A loss
near zero has 2 ulp for all that, and an `Exact` sum, whose additions cost it nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba.core import types

from .elementary import two_sum
from .jit import by_type, inlined
from .online import factors_of_term, term
from .shuffles import any_lane, lane, part, rotate, side_by_side
from .simd import VectorType, doubles, fma, full, is_single, select, wide


@by_type
def empty_sum(like):
    """A sum of terms like `like`: float64 lanes and their rest, which float32 terms do without."""
    if is_single(like):
        return lambda like: (full(wide(like), 0.0), 0.0)
    return lambda like: (full(like, 0.0), full(like, 0.0))


class Exact(NamedTuple):
    """A sum whose additions cost nothing: float32 terms are widened before them, float64 terms have a rest.

    A loss near zero is a sum of terms, of which one may be most. In a plain sum each addition before those of the lane
    can cost an ulp, and in float64 so can the rounding of the term.
    """

    lanes: Any
    rest: Any


def is_exact(total: types.Type) -> bool:
    """Whether this is the type of an exact sum, not of a plain one or of a vector of terms."""
    return isinstance(total, types.BaseNamedTuple) and total.instance_class is Exact


def has_rest(total: types.BaseTuple) -> bool:
    """Whether a sum is a pair: the rest of vectors of float32 terms is but a place. Scalars always are pairs."""
    return type(total[0]) is type(total[1])


@inlined
def exact_sum(like):
    """The same to begin an exact sum with."""
    lanes, rest = empty_sum(like)
    return Exact(lanes, rest)


@by_type
def term_and_summand(total, x, frame, scale):
    """The lanes of x as terms, and as what is added to a sum: the same, or an exact sum of one if that has a rest."""
    if not (is_exact(total) and has_rest(total)):

        def alone(total, x, frame, scale):
            e = term(x, frame, scale)
            return e, e

        return alone

    def with_rest(total, x, frame, scale):
        below, t, power = factors_of_term(x, frame, scale)
        e, none = fma(t, power, power), full(x, 0.0)
        return select(below, none, e), Exact(select(below, none, e), select(below, none, fma(t, power, power - e)))

    return with_rest


@by_type
def sum_of_one(terms):
    """What one vector of terms comes to; unlike in sums that begin with 0, a -0 stays what it is."""
    if is_single(terms):
        return lambda terms: (wide(terms), 0.0)
    return lambda terms: (terms, full(terms, 0.0))


@by_type
def add(total, terms):
    """The sum with a vector of terms, or with an exact sum, added lane by lane."""
    if is_exact(terms):
        return lambda total, terms: join(total, terms)
    if is_exact(total):
        return lambda total, terms: Exact(*added(total, terms))
    return lambda total, terms: added(total, terms)


@by_type
def added(total, terms):
    if not has_rest(total):
        return lambda total, terms: (total[0] + wide(terms), 0.0)

    def compensated(total, terms):
        s, lost = two_sum(total[0], terms)
        return s, total[1] + lost

    return compensated


@by_type
def join(a, b):
    """Two sums added lane by lane, to one of the kind of the first."""
    if is_exact(a):
        return lambda a, b: Exact(*joined(a, b))
    return lambda a, b: joined(a, b)


@by_type
def joined(a, b):
    if not has_rest(a):
        return lambda a, b: (a[0] + b[0], 0.0)

    def compensated(a, b):
        s, lost = two_sum(a[0], b[0])
        return s, (a[1] + b[1]) + lost

    return compensated


@by_type
def together(total, a, b):
    """What two vectors of terms, or exact sums, come to before they are added to a sum like `total`."""
    if is_exact(a):
        return lambda total, a, b: add(a, b)
    if is_exact(total):
        return lambda total, a, b: Exact(wide(a) + wide(b), 0.0)
    return lambda total, a, b: a + b


@by_type
def without(equal, terms):
    """Terms, or an exact sum of one that has a rest, with some lanes set to 0."""
    if is_exact(terms):
        return lambda equal, terms: Exact(without(equal, terms.lanes), without(equal, terms.rest))
    return lambda equal, terms: select(equal, full(terms, 0.0), terms)


@by_type
def lanes_in(terms):
    """The lanes of terms or of an exact sum."""
    if is_exact(terms):
        return lambda terms: terms.lanes
    return lambda terms: terms


@by_type
def times(terms, w):
    """Float64 terms, or an exact sum of one, times a weight, of which 0 counts nothing."""
    if not is_exact(terms):
        return lambda terms, w: select(w == 0.0, full(terms, 0.0), w * terms)

    def both(terms, w):
        p, none = w * terms.lanes, full(terms.lanes, 0.0)
        rest = fma(w, terms.rest, fma(w, terms.lanes, 0.0 - p))
        return Exact(select(w == 0.0, none, p), select(w == 0.0, none, rest))

    return both


@by_type
def part_of(terms, index, like):
    """One of the vectors like `like` that terms, or those of an exact sum, are made of."""
    if is_exact(terms):
        return lambda terms, index, like: Exact(part(terms.lanes, index, like), part(terms.rest, index, like))
    return lambda terms, index, like: part(terms, index, like)


@by_type
def beside(a, b):
    """Two vectors of terms, or two exact sums, as one of twice the lanes."""
    if is_exact(a):
        return lambda a, b: Exact(beside(a.lanes, b.lanes), beside(a.rest, b.rest))
    if isinstance(a, VectorType):
        return lambda a, b: side_by_side(a, b)
    return lambda a, b: a  # the place of the rest of float32 terms


@by_type
def any_reaches(terms, peak):
    """Whether a lane of terms, or of an exact sum, is as large as `peak`."""
    if is_exact(terms):
        return lambda terms, peak: any_lane(terms.lanes >= wide(peak))
    return lambda terms, peak: any_lane(terms >= peak)


@by_type
def swapped(like, total, by):
    """A sum with its lanes exchanged at a distance."""
    if is_single(like):
        return lambda like, total, by: (rotate(total[0], by), 0.0)
    return lambda like, total, by: (rotate(total[0], by), rotate(total[1], by))


@by_type
def across(like, total):
    """The lanes of a sum folded by halves to a float64 number and its rest."""
    if is_single(like):

        def halves(like, total):
            s = part(total[0], 0, doubles(0.0)) + part(total[0], 1, doubles(0.0))
            s = s + rotate(s, 4)
            s = s + rotate(s, 2)
            return lane(s + rotate(s, 1), 0), 0.0

        return halves

    def compensated(like, total):
        s = join(total, swapped(like, total, 4))
        s = join(s, swapped(like, s, 2))
        s = join(s, swapped(like, s, 1))
        return lane(s[0], 0), lane(s[1], 0)

    return compensated


@inlined
def whole(total, rest):
    """A sum and its rest as one number; with an infinity the rest is NaN and means nothing."""
    return select(total - total == 0.0, total + rest, total)
