"""exp and log1p, on vectors and scalars alike: no kernel calls libm.

libm differs between systems, so its results are not the same bits everywhere, and a scalar call in a loop
costs ten times a vector's. The coefficients come from ``tools/coefficients.py``.

exp is left in two parts (Dukhan & Ablavatski, arXiv:2001.04438): ``exp(v) = (1 + t) * 2**k`` with a small `t`. Cody
and Waite's reduction works on `v` itself, not on ``v - max``, whose rounding alone costs 20 ulp at a distance of 20;
the maximum enters later, as an exact power of two.

float32 takes k in eighths, whose powers come from a table in a register (Tang, ACM TOMS 15(2), 1989): two coefficients
less are enough. As what multiplies all terms of a row alike is of no account, the powers are multiplied by a number
that makes all eight of them nearly float32 (as Gal & Bachelis, ACM TOMS 17(1), 1991, choose their points).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba.core import types

from .jit import by_type, inlined
from .shuffles import one_of_eight
from .simd import bits, fma, from_bits, full, is_single, polynomial, select


class Exponential(NamedTuple):
    """The constants of exp in one floating type."""

    steps: int  # so many parts of a power of two are taken out of a number, of as many bits
    step_bits: int
    log2e: Any
    ln2: Any  # the leading part of ln 2
    ln2_rest: Any
    magic: Any  # adding it leaves round-to-nearest in the lowest bits
    mantissa: int  # bits of it
    bias: int  # of the exponent
    headroom: int  # terms are kept times 2**headroom, so that none that counts is subnormal,
    unit: float  # and times this, which makes the powers of the steps nearly floating numbers
    coefficients: tuple[Any, ...]  # (exp(r) - 1 - r)/r**2


_STEPS, _STEP_BITS = 8, 3
# Times this, 2**(j/8) is within 0.08 ulp of a float32 for each j (`tools/coefficients.py`).
_UNIT = 9124414 / 2**23
# ln 2 to 106 bits as two doubles; the second is below half an ulp of the first.
_LN2, _LN2_REST = math.log(2.0), 2.3190468138462996e-17
_LN2_SINGLE = np.float32(_LN2)

SINGLE = Exponential(
    steps=_STEPS,
    step_bits=_STEP_BITS,
    log2e=np.float32(1 / _LN2),
    ln2=_LN2_SINGLE,
    ln2_rest=np.float32(_LN2 - float(_LN2_SINGLE)),
    magic=np.float32(1.5 * 2**23),
    mantissa=23,
    bias=127,
    headroom=64,
    unit=_UNIT,
    coefficients=tuple(np.float32(c) for c in (0.5, 0.1666802614927292, 0.041660431772470474)),
)
DOUBLE = Exponential(
    steps=1,
    step_bits=0,
    log2e=1 / _LN2,
    ln2=_LN2,
    ln2_rest=_LN2_REST,
    magic=1.5 * 2.0**52,
    mantissa=52,
    bias=1023,
    headroom=512,
    unit=1.0,
    coefficients=tuple(
        float.fromhex(c)
        for c in (
            "0x1.000000000000ap-1",
            "0x1.55555555554fap-3",
            "0x1.555555555087dp-5",
            "0x1.1111111127bdcp-7",
            "0x1.6c16c1842a0c6p-10",
            "0x1.a01a012a5a426p-13",
            "0x1.a0199a0c700fcp-16",
            "0x1.71df254da5cd1p-19",
            "0x1.28ad72ca41a01p-22",
            "0x1.ad7f74af9144cp-26",
        )
    ),
)


def constants_of(kind: types.Type) -> Exponential:
    """The constants for lanes of this type; scalars are float64."""
    return SINGLE if is_single(kind) else DOUBLE


# The bits of ``unit * 2**(j/8)`` without those of 1, and without j, which stands where the mantissa begins.
_EIGHTHS = tuple(
    int(np.float32(_UNIT * 2.0 ** (j / _STEPS)).view(np.int32))
    - (_STEPS * SINGLE.bias + j << SINGLE.mantissa - _STEP_BITS)
    for j in range(_STEPS)
)


@by_type
def nearest_exponent(v):
    """``round(v / ln 2)``; for ``|v|`` below 2**21."""
    c = constants_of(v)
    log2e, magic = c.log2e, c.magic
    return lambda v: fma(v, log2e, magic) - magic


@by_type
def nearest_power(v, magic):
    """``step = round(steps * v / ln 2)``, and the unit times the power of two of it and of what `magic` holds besides.

    Whatever whole number is added to 1.5 * 2**mantissa comes out in the lowest bits, and moves to where an exponent
    stands without another addition.
    """
    c = constants_of(v)
    steps_per_e, shift = c.log2e * c.steps, c.mantissa - c.step_bits

    def whole(v, magic):
        shifted = fma(v, steps_per_e, magic)
        return shifted - magic, from_bits(bits(shifted) << shift)

    def eighths(v, magic):
        shifted = fma(v, steps_per_e, magic)
        return shifted - magic, from_bits((bits(shifted) << shift) + one_of_eight(_EIGHTHS, bits(shifted)))

    return eighths if is_single(v) else whole


@by_type
def exp_near(v, tail, step):
    """``exp(v + tail) * 2**(-step/steps) - 1`` for the `step` of `nearest_power`.

    `tail` is what `v` lost to rounding, or None. With an fma, ``v - step*size`` is exact.
    """
    c = constants_of(v)
    size, size_rest, curve = -c.ln2 / c.steps, -c.ln2_rest / c.steps, c.coefficients

    def plain(v, tail, step):
        r = fma(step, size_rest, fma(step, size, v))
        return fma(polynomial(r, r * r, curve), r * r, r)

    def tailed(v, tail, step):
        # The first product is exact and what is added to it small: r is rounded once.
        r = fma(step, size, v) + fma(step, size_rest, tail)
        return fma(polynomial(r, r * r, curve), r * r, r)

    return plain if isinstance(tail, types.NoneType) else tailed


@inlined
def two_sum(a, b):
    """``a + b`` and what its rounding lost, exactly (Knuth, TAOCP 2, 4.2.2)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


@inlined
def power_of_two(k):
    """``2**k`` for a whole float64 number from -1022 to 1023."""
    return from_bits((np.int64(k) + DOUBLE.bias) << DOUBLE.mantissa)


@inlined
def nearest_whole(v):
    """``k = round(v / ln 2)`` in float64, and k as an integer that stands where an exponent does."""
    shifted = fma(v, DOUBLE.log2e, DOUBLE.magic)
    return shifted - DOUBLE.magic, bits(shifted) << DOUBLE.mantissa


@by_type
def tail_above(v, least, tail):
    """The tail of `v`, or 0 where `v` is below `least`: that of a huge number is huge too, of an infinite one NaN."""
    if isinstance(tail, types.NoneType):
        return lambda v, least, tail: None
    return lambda v, least, tail: select(v < least, full(v, 0.0), tail)


@inlined
def exp_pair(v, tail):
    """``exp(v + tail)`` for ``v <= 0`` in float64, as a leading part and its rest; 0 far below -745."""
    tail = tail_above(v, -760.0, tail)
    v = select(v < -760.0, full(v, -760.0), v)
    k, exponent = nearest_whole(v)
    t = exp_near(v, tail, k)
    e = t + 1.0
    # Two factors, for 2**-1097 is no number.
    first = ((exponent >> 52) >> 1) << 52
    one = bits(full(v, 1.0))
    scale, other = from_bits(one + first), from_bits(one + (exponent - first))
    return (e * scale) * other, ((t - (e - 1.0)) * scale) * other


@inlined
def exp_short(v, k):
    """``exp(v - k*ln 2)`` in float64, enough for float32, for ``k = round(v / ln 2)`` below 2**20.

    To 34 bits, and to 31 where float32 found `k`: of a large `v` that leaves up to 0.36 instead of ``ln(2)/2``.
    """
    r = fma(k, -_LN2, v)
    return fma(polynomial(r, r * r, _EXP_SHORT), r * r, r + 1.0)


@inlined
def exp_normal(v):
    """``exp(v)`` for ``v <= 0`` in float64 to 34 bits; ``exp(-700)`` and no less."""
    v = select(v < -700.0, full(v, -700.0), v)
    k, exponent = nearest_whole(v)
    return exp_short(v, k) * from_bits(bits(full(v, 1.0)) + exponent)


@inlined
def exp_plain(v):
    """``exp(v)`` for ``v <= 0`` in float64; ``exp(-700)`` and no less."""
    v = select(v < -700.0, full(v, -700.0), v)
    k, exponent = nearest_whole(v)
    power = from_bits(bits(full(v, 1.0)) + exponent)
    return fma(exp_near(v, None, k), power, power)


@inlined
def exp_and_others(v, tail):
    """``e = exp(v + tail)`` and ``1 - e``, with what that lost, for ``v <= 0`` and a tail of half an ulp in float64."""
    e, rest = exp_pair(v, tail)
    others, lost = two_sum(1.0, 0.0 - e)
    # Near 1 the digits of 1 - e are those of v.
    r = select(v < -1.0, full(v, -1.0), v)
    k, _ = nearest_whole(r)
    curve = polynomial(r, r * r, DOUBLE.coefficients)
    t = fma(curve, r * r, r)
    near_lost = (t - r) - fma(curve, r * r, tail * (1.0 + t))
    others, lost = select(k == 0.0, 0.0 - t, others), select(k == 0.0, near_lost, lost - rest)
    total = others + lost
    return e, total, lost - (total - others)


@inlined
def log_parts(whole):
    """What ``log(whole)`` is made of: ``k, f, square, s, curve``, and k as an integer.

    ``whole = 2**k * u`` with `u` in [sqrt(1/2), sqrt(2)); ``log u = 2*atanh(s)``, ``s = (u-1)/(u+1)``, which is
    ``f - (square - s*curve)`` with ``f = u - 1``: the scheme of fdlibm's e_log.c.
    """
    exponent = ((bits(whole) + _TO_SQRT_2) >> 52) - DOUBLE.bias
    f = from_bits(bits(whole) - (exponent << 52)) - 1.0
    s = f / (f + 2.0)
    z = s * s
    square = 0.5 * f * f
    k = from_bits(exponent + _MAGIC_BITS) - _MAGIC
    return k, f, square, s, fma(polynomial(z, None, _ATANH), z, square), exponent


@inlined
def log_pair(whole, lost):
    """``log(whole + lost)`` in float64 for a positive normal `whole`, as a leading part and its rest.

    In two parts, so that ``m + log(...)`` rounds once.
    """
    k, f, square, s, curve, _ = log_parts(whole)
    lead, low = two_sum(k * _LN2_SHORT, f)
    low = low + (s * curve - square) + fma(k, _LN2_SHORT_REST, lost / whole)
    total = lead + low
    return total, (lead - total) + low


@inlined
def log_plain(whole):
    """``log(whole)`` in float64 for a positive normal number."""
    k, f, square, s, curve, _ = log_parts(whole)
    return fma(k, _LN2, f - (square - s * curve))


@inlined
def log1p_short(r):
    """``log(1 + r)`` in float64 to 30 bits, enough for float32, for ``r`` from above -1 to 2**1023.

    As in `log_parts`, but ``u - 1`` and ``u + 1`` times ``2**k`` are ``r - (2**k - 1)`` and ``(1 + r) + 2**k``. So a
    small `r` keeps its digits without what the sum lost.
    """
    whole = 1.0 + r
    exponent = (bits(whole) + _TO_SQRT_2) >> 52
    power = from_bits(exponent << 52)
    s = (r - (power - 1.0)) / (whole + power)
    k = from_bits(exponent + _MAGIC_BITS) - (_MAGIC + DOUBLE.bias)
    return fma(k, _LN2, s * polynomial(s * s, None, _ATANH_SHORT))


@inlined
def log1p_pair(r, rest):
    """``log(1 + r + rest)`` in float64 for ``r > -1``, as a pair; all digits hold for a small `r`."""
    whole, lost = two_sum(full(r, 1.0), r)
    return log_pair(whole, lost + rest)


# The distance of the bits of sqrt(1/2) and 1 carries into the exponent where u would reach sqrt(2).
_TO_SQRT_2 = 0x95F619980C433
_MAGIC = DOUBLE.magic
_MAGIC_BITS = 0x4338000000000000
# ln 2 cut to 32 bits, so that its product with an exponent is exact.
_LN2_SHORT, _LN2_SHORT_REST = 0.6931471803691238, 1.9082149292705877e-10
_ATANH = tuple(
    float.fromhex(c)
    for c in (
        "0x1.5555555555592p-1",
        "0x1.999999997fd73p-2",
        "0x1.24924941f52c3p-2",
        "0x1.c71c5205e6a3bp-3",
        "0x1.74663fa838138p-3",
        "0x1.39a1a666c249fp-3",
        "0x1.2f0639e939f1cp-3",
    )
)
# The same for 2*atanh(s)/s, and exp as `Exponential` has it, to the digits that float32 terms need.
_ATANH_SHORT = tuple(
    float.fromhex(c)
    for c in (
        "0x1.fffffffa138a6p+0",
        "0x1.5555877092d63p-1",
        "0x1.9957835a6a29fp-2",
        "0x1.3270a93a83c0ep-2",
    )
)
_EXP_SHORT = tuple(
    float.fromhex(c)
    for c in (
        "0x1.0000003a22c08p-1",
        "0x1.5555544350826p-3",
        "0x1.55548dc623fdap-5",
        "0x1.1112709541ea2p-7",
        "0x1.6d8d05abb6de1p-10",
        "0x1.9f08be6ef4e65p-13",
    )
)
