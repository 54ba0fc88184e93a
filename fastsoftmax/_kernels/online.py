"""The running state of a row, written once for every layout.

One row is one lane: `rows` reduces the lanes of one row to a scalar at the end, `columns` carries one row in
each lane throughout. The functions here take either, and the order of every sum is the same in both, which is
what makes a row's bits independent of the layout it came in:

* term j of a row goes to lane ``j % L`` (L = 16 for float32, 8 for float64);
* four terms of a lane, L apart, are added as ``(a + b) + (c + d)``: equal terms add without error. Losses do that in
  float64, or with what float64 terms and their sums lose (`sums.Exact`);
* these go, in order, to the lane's sum: in float64 for float32 terms, with its rounding error kept
  (TwoSum) for float64 terms;
* the L sums of a row are folded by halves: lane i and i + L/2, and so on.

Log-sum-exps of a few classes add theirs one after the other, in float64 (`near_zero`).

What comes after the sums is in `state`. A row longer than `SHORT_ROW` has a state ``(m, r)`` for each of its
blocks, with ``sum(exp(x)) = exp(m) * (1 + r)``, merged in order (Milakov & Gimelshein, arXiv:1805.02867).
Keeping the largest term out of `r` keeps the digits of a log-probability near zero (scipy#18295).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.core import types

from .elementary import (
    constants_of,
    exp_near,
    nearest_exponent,
    nearest_power,
)
from .jit import by_type, inlined
from .shuffles import lane
from .simd import fma, full, is_single, select, strands

# From here on m itself is taken out of x: x - m is then exact for every x whose term counts (Sterbenz), while
# the whole number nearest 8 * x / ln 2 would soon have no place left in the mantissa.
FAR = 2.0**18
LN2 = 0.6931471805599453


@inlined
def bigger(a, b):
    """The larger of two; `b` where `a` is NaN. A NaN in a row is found by its sum, not by its maximum."""
    return select(a > b, a, b)


# -- the terms of a row ------------------------------------------------------------------------------------


@by_type
def scaled(v, scale):
    """``v * scale`` and what its rounding lost; ``(v, None)`` without a scale.

    A scale is one number as two pairs, ``(high, rest, high, rest)``: the first in float32, the second in float64.
    """
    if isinstance(scale, types.NoneType):
        return lambda v, scale: (v, None)
    place = 0 if is_single(v) else 2

    def product(v, scale):
        z = v * scale[place]
        return z, fma(v, scale[place + 1], fma(v, scale[place], 0.0 - z))

    return product


@by_type
def least_exponent(like):
    """The exponent, relative to that of the maximum, below which a term would be subnormal, and is 0."""
    c = constants_of(like)
    least = 1.0 - float(c.bias + c.headroom)
    return lambda like: least


@by_type
def rounding_constant(like):
    """The `magic` of `elementary`, with what an exponent field needs besides its exponent."""
    c = constants_of(like)
    magic = float(c.magic) + (c.bias + c.headroom) * c.steps
    return lambda like: magic


@by_type
def in_steps(k):
    """A whole exponent in the steps of `elementary`."""
    steps = float(constants_of(k).steps)
    return lambda k: k * steps


@by_type
def unscaled(z, scale):
    """``z / scale``."""
    if isinstance(scale, types.NoneType):
        return lambda z, scale: z
    return lambda z, scale: z * (1.0 / scale[2])


class Frame(NamedTuple):
    """What turns x into terms: a term is ``unit * exp((x - shift) * scale) * 2**(headroom - k)``.

    Adding `magic` rounds to a whole number of steps and leaves the exponent of the term in a place from where it moves
    to that of a floating number. Below the `floor` a term is exactly 0.
    """

    shift: Any
    floor: Any
    magic: Any
    k: Any  # the exponent of the maximum itself
    peak: Any  # the term of the maximum
    lost: Any  # what its last rounding lost: no more, for a maximum alone must not get a probability above 1


@inlined
def frame(top, scale):
    """The frame of a row, from its maximum."""
    z, _ = scaled(top, scale)
    size = select(z < 0.0, 0.0 - z, z)
    shift = select(size < FAR, full(top, 0.0), top)
    z, tail = scaled(top - shift, scale)
    k = nearest_exponent(z)
    magic = full(top, rounding_constant(top)) - in_steps(k)
    step, power = nearest_power(z, magic)
    t = exp_near(z, tail, step)
    peak = fma(t, power, power)
    return Frame(
        shift=shift,
        floor=unscaled((k + least_exponent(top)) * LN2, scale),
        magic=magic,
        k=k,
        peak=peak,
        lost=fma(t, power, power - peak),
    )


@inlined
def is_near(frame):
    """Whether nothing is taken out of x: almost every row."""
    return lane(frame.shift, 0) == 0.0


@inlined
def without_shift(frame):
    """The frame of such a row, whose terms take an operation less."""
    return Frame(None, frame.floor, frame.magic, frame.k, frame.peak, frame.lost)


@by_type
def from_shift(x, shift):
    if isinstance(shift, types.NoneType):
        return lambda x, shift: x
    return lambda x, shift: x - shift


@inlined
def term(x, frame, scale):
    """The lanes of x as terms; exactly 0 below the floor, so that -inf and absent lanes leave no trace.

    Whatever comes of lanes below the floor, where the power has no exponent left, is switched off at the end.
    """
    below, t, power = factors_of_term(x, frame, scale)
    return select(below, full(x, 0.0), fma(t, power, power))


@inlined
def factors_of_term(x, frame, scale):
    """Whether lanes are below the floor, and `t` and the power of the others: their terms are ``(1 + t) * power``."""
    v = from_shift(x, frame.shift)
    z, tail = scaled(v, scale)
    step, power = nearest_power(z, frame.magic)
    return v < frame.floor, exp_near(z, tail, step), power


@inlined
def left_out(top, classes):
    """The maximum of rows whose sum it is left out of, for the sake of probabilities; else NaN, which equals no logit.

    What is added to the term of the maximum before float64 takes it, rounds it: once for each addition. One such
    rounding is within 3 ulp; a sum of three or four vectors has two.
    """
    return top if classes > 2 * strands(top) else full(top, np.nan)
