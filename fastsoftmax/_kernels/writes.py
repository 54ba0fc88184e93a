"""What is written of a row of contiguous classes: its terms as probabilities or gradients, or log-probabilities."""

from __future__ import annotations

from typing import Any, NamedTuple

from numba.core import types

from .jit import by_type, inlined
from .memory import load, store
from .online import scaled, term
from .shuffles import abreast, repeated
from .simd import HalfType, bits, fma, from_bits, full, is_single, select, width
from .state import plus
from .visits import repeated_frame, scalar


@inlined
def spread(like, q, rest):
    """The float64 pair ``q + rest`` as a pair of vectors in the type of `like`; `rest` may be None."""
    high = full(like, q)
    return high, full(like, plus(q - scalar(high), rest))


@by_type
def normal(like, low):
    """The low part of a factor, or 0 where it is subnormal in float32: some processors multiply those very slowly."""
    if not is_single(like):
        return lambda like, low: low
    return lambda like, low: from_bits(select((bits(low) << 1) >> 24 == 0, bits(full(low, 0.0)), bits(low)))


def along(result: Any) -> Any:
    """Store ``result(like, x, row, j, count, more)`` for a run of classes: four vectors abreast, then the rest."""

    @inlined
    def run(like, x, out, row, start, stop, more):
        # Written out: a function for it would be compiled once more for each result and width.
        w = width(like)
        j = start
        while j + 4 * w <= stop:
            store(out, (row, j), result(abreast(like, 4), x, row, j, None, more), None)
            j += 4 * w
        if stop - j == 2 * w:
            store(out, (row, j), result(abreast(like, 2), x, row, j, None, more), None)
        elif stop - j > 3 * w:
            store(out, (row, j), result(abreast(like, 4), x, row, j, stop - j, more), stop - j)
        elif stop - j > 2 * w:
            store(out, (row, j), result(abreast(like, 2), x, row, j, None, more), None)
            store(out, (row, j + 2 * w), result(like, x, row, j + 2 * w, stop - j - 2 * w, more), stop - j - 2 * w)
        elif stop - j > w:
            store(out, (row, j), result(abreast(like, 2), x, row, j, stop - j, more), stop - j)
        elif stop > j:
            store(out, (row, j), result(like, x, row, j, stop - j, more), stop - j)

    return run


@by_type
def probability(like, e, factor):
    """A term times the pair that turns terms into probabilities; of three numbers, the last is added."""
    if len(factor) == 2:
        return lambda like, e, factor: fma(e, repeated(factor[0], like), e * repeated(factor[1], like))

    def shifted(like, e, factor):
        return fma(e, repeated(factor[0], like), fma(e, repeated(factor[1], like), repeated(factor[2], like)))

    return shifted


class Terms(NamedTuple):
    """Where the terms of a run of classes come from, and a power of two that they still lack, or None."""

    kept: Any  # the array that they were kept in, or None: then from x, in the frame
    shape: Any
    scale: Any
    power: Any


@by_type
def term_at(like, x, kept, row, j, count, shape, scale):
    """Terms from where they were kept, or from x once more."""
    if isinstance(kept, types.NoneType):

        def again(like, x, kept, row, j, count, shape, scale):
            return term(load(like, x, (row, j), count, 0.0), repeated_frame(shape, like), scale)

        return again
    return lambda like, x, kept, row, j, count, shape, scale: load(like, kept, (row, j), count, 0.0)


@by_type
def times(e, power):
    if isinstance(power, types.NoneType):
        return lambda e, power: e
    return lambda e, power: e * repeated(power, e)


@inlined
def terms_at(like, x, terms, row, j, count):
    e = term_at(like, x, terms.kept, row, j, count, terms.shape, terms.scale)
    return times(e, terms.power)


@inlined
def probability_at(like, x, row, j, count, more):
    """Terms as probabilities or, with three numbers of a factor, as gradients ``a * p + b``."""
    terms, factor = more
    return probability(like, terms_at(like, x, terms, row, j, count), factor)


@inlined
def probability_of_kept(like, kept, row, j, count, factor):
    """The same from rows of terms."""
    return probability(like, load(like, kept, (row, j), count, 0.0), factor)


@inlined
def log_probability(v, top, log, scale):
    """``(x - m) * scale - log(1 + r)``: two numbers of one sign, so that nothing cancels."""
    high, rest = log
    z, tail = scaled(v - top, scale)
    return (z - high) - minus(rest, tail)


@by_type
def minus(rest, tail):
    """``rest - tail``, or `rest` where there is no tail."""
    if isinstance(tail, types.NoneType):
        return lambda rest, tail: rest
    # The tail of a product that is infinite, or became so, is NaN or infinite and means nothing.
    return lambda rest, tail: rest - select(tail - tail == 0.0, tail, full(tail, 0.0))


@inlined
def log_softmax_at(like, x, row, j, count, more):
    """The log-probabilities, from x."""
    top, log, scale = more
    v = load(like, x, (row, j), count, 0.0)
    log = repeated(log[0], like), repeated(log[1], like)
    return log_probability(v, repeated(top, like), log, scale)


write_probabilities, write_log_softmax = along(probability_at), along(log_softmax_at)


@by_type
def terms_kept_in(out):
    """`out` if it can hold terms between two visits, None if it is of a half type."""
    if isinstance(out.dtype, HalfType):
        return lambda out: None
    return lambda out: out
