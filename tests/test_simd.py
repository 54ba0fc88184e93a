"""The vectors, the half types and the elementary functions that kernels are built of."""

from __future__ import annotations

import math
import re
from typing import Any

import mpmath
import numba
import numpy as np
import pytest
from reference import BFLOAT16

from fastsoftmax._kernels import memory, shuffles, simd
from fastsoftmax._kernels.elementary import (
    DOUBLE,
    SINGLE,
    exp_and_others,
    exp_normal,
    exp_pair,
    log1p_pair,
    log1p_short,
    log_pair,
)
from fastsoftmax._kernels.jit import DTYPES, inlined
from fastsoftmax._kernels.loops import KERNELS
from fastsoftmax._kernels.memory import load, store
from fastsoftmax._kernels.online import FAR, frame, term
from fastsoftmax._kernels.shuffles import abreast, one_of_eight
from fastsoftmax._kernels.simd import bits, doubles, from_bits
from fastsoftmax._kernels.views import lanes_of, view


def compiled(function: Any, *dtypes: str) -> Any:
    """The machine code of a function of one-dimensional arrays; it does not look at what it is given."""
    kinds = tuple(numba.types.Array(DTYPES[dtype], 1, "A") for dtype in dtypes)
    return numba.njit(error_model="numpy")(function).compile(kinds)


def every_half() -> Any:
    return np.arange(65536, dtype=np.uint16)


def widen(x: Any, out: Any) -> None:
    source, target = view(x), view(out)
    for i in range(0, x.shape[0], 16):
        store(target, (i,), load(lanes_of(source), source, (i,), None, 0.0), None)


narrow = widen  # the dtypes of the arrays say which


@pytest.mark.parametrize("by_integers", [False, True])
def test_every_float16(by_integers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_integers:
        monkeypatch.setattr("fastsoftmax._kernels.half._converts_float16", lambda context: False)
    halves, singles = every_half().view(np.float16), np.empty(65536, np.float32)
    compiled(widen, "float16", "float32")(halves, singles)
    np.testing.assert_array_equal(singles, halves.astype(np.float32))
    # Each number, the middles between neighbours and their neighbours in float32.
    finite = np.sort(singles[np.isfinite(singles)])
    middles = (finite[:-1] + finite[1:]) / 2
    tries = [finite, middles, np.nextafter(middles, np.inf), np.nextafter(middles, -np.inf)]
    extremes = np.array([65519.996, 65520, 1e30, -1e30, np.inf, -np.inf, np.nan, 1e-30, -0.0])
    x = np.concatenate([*tries, extremes]).astype(np.float32)
    x = np.resize(x, -(-len(x) // 16) * 16)
    back = np.empty(len(x), np.float16)
    compiled(narrow, "float32", "float16")(x, back)
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    np.testing.assert_array_equal(back, expected)
    np.testing.assert_array_equal(np.signbit(back[~np.isnan(x)]), np.signbit(x[~np.isnan(x)]))


@pytest.mark.skipif(BFLOAT16 is None, reason="ml_dtypes is not installed")
def test_every_bfloat16() -> None:
    halves, singles = every_half().view(BFLOAT16), np.empty(65536, np.float32)
    compiled(widen, "bfloat16", "float32")(halves, singles)
    np.testing.assert_array_equal(singles, halves.astype(np.float32))
    patterns = np.random.default_rng(0).integers(0, 2**32, 2**20, dtype=np.uint32)
    patterns[:65536] = (every_half().astype(np.uint32) << 16) + 0x8000
    x = patterns.view(np.float32)
    back = np.empty(len(x), BFLOAT16)
    compiled(narrow, "float32", "bfloat16")(x, back)
    with np.errstate(all="ignore"):
        expected = x.astype(BFLOAT16)
    np.testing.assert_array_equal(back.astype(np.float32), expected.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_terms(dtype: str) -> None:
    """A term is exp within 0.6 ulp (float64: an ulp) at any offset, and below the floor exactly 0."""

    def split(x: Any, tops: Any, out: Any, exponents: Any) -> None:
        source = view(x)
        like = lanes_of(source)
        shape = frame(load(like, view(tops), (0,), None, 0.0), None)
        store(view(out), (0,), term(load(like, source, (0,), None, 0.0), shape, None), None)
        store(view(exponents), (0,), shape.k, None)

    code = compiled(split, dtype, dtype, dtype, dtype)
    lanes = 16 if dtype == "float32" else 8
    constants = SINGLE if dtype == "float32" else DOUBLE
    rng = np.random.default_rng(0)
    worst, zeros = 0.0, 0
    with mpmath.workdps(40):
        for scale in (0.3, 3, 80, 30000, FAR):
            for _ in range(40):
                tops = rng.normal(0, scale, lanes).astype(dtype)
                if scale == FAR:  # on either side of it
                    tops = np.copysign(FAR, tops) * rng.uniform(0.9995, 1.0005, lanes).astype(dtype)
                x = (tops - rng.exponential(constants.headroom / 2, lanes)).astype(dtype)
                out, k = np.empty_like(x), np.empty_like(x)
                code(x, tops, out, k)
                shift = np.where(np.abs(tops) < FAR, 0, tops)
                for xi, ei, ki, si in zip(x, out, k, shift, strict=True):
                    exact = mpmath.exp(mpmath.mpf(float(xi)) - float(si) - int(ki) * mpmath.log(2))
                    exact *= mpmath.mpf(2) ** constants.headroom * constants.unit
                    # Next to the smallest normal number a term may be one or 0.
                    if exact < 0.9 * np.finfo(dtype).tiny:
                        zeros += 1
                        assert ei == 0.0
                    elif exact > 2 * np.finfo(dtype).tiny:
                        error = abs(mpmath.mpf(float(ei)) - exact) / float(np.spacing(ei))
                        worst = max(worst, float(error))
    assert zeros > 10
    assert 0.3 < worst < (0.6 if dtype == "float32" else 1.0)


@pytest.mark.parametrize("has_instruction", [True, False])
def test_one_of_eight(has_instruction: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the three lowest bits of a place count, with an instruction for it or by selections."""
    if not has_instruction:
        monkeypatch.setattr(shuffles, "has_avx2", lambda: False)
    table = (5, -1, 7, 2**31 - 1, 0, -(2**31), 3, 11)

    def looked_up(x: Any, out: Any) -> None:
        like = lanes_of(view(x))
        four = load(abreast(like, 4), view(x), (0,), None, 0.0)
        found = from_bits(one_of_eight(table, bits(four)))
        store(view(out), (0,), found, None)

    places = np.random.default_rng(0).integers(-(2**31), 2**31, 64, dtype=np.int32)
    out = np.empty(64, np.float32)
    compiled(looked_up, "float32", "float32")(places.view(np.float32), out)
    np.testing.assert_array_equal(out.view(np.int32), np.array(table, np.int32)[places & 7])


def test_pairs_of_float64() -> None:
    """exp, log and log1p as pairs: all bits of a float64, on scalars and on vectors with the same bits."""

    @inlined
    def all_of(x: Any) -> Any:
        e, e_rest = exp_pair(x * -1.0, None)
        a, a_rest = log1p_pair(x, x * 0.0)
        b, b_rest = log_pair(x, x * 0.0)
        return e, e_rest, a, a_rest, b, b_rest

    def vector(x: Any, out: Any) -> None:
        target = view(out)
        found = all_of(load(doubles(0.0), view(x), (0,), None, 0.0))
        for i in range(6):
            store(target, (8 * i,), found[i], None)

    def scalar(x: Any, out: Any) -> None:
        for lane in range(8):
            found = all_of(x[lane])
            for i in range(6):
                out[8 * i + lane] = found[i]

    vectors, scalars = (compiled(f, "float64", "float64") for f in (vector, scalar))
    rng = np.random.default_rng(0)
    with mpmath.workdps(60):
        for scale in (1e-12, 1e-3, 1, 30, 700):
            for _ in range(20):
                x = np.abs(rng.normal(0, scale, 8)) + 1e-15
                out, again = np.empty(48), np.empty(48)
                vectors(x, out)
                scalars(x, again)
                np.testing.assert_array_equal(out, again)
                for lane in range(8):
                    pair = [mpmath.mpf(out[16 * i + lane]) + out[16 * i + 8 + lane] for i in range(3)]
                    xi = mpmath.mpf(x[lane])
                    exact = [mpmath.exp(-xi), mpmath.log1p(xi), mpmath.log(xi)]
                    # Below 1e-290 the rest of exp's pair has no digits left.
                    errors = [abs(p - q) / max(q, 1e-290) for p, q in zip(pair, exact, strict=True)]
                    # The correction of log is a plain float64 of at most half the square of f, 0.09.
                    assert max(errors[:2]) < 2.0**-53
                    assert abs(pair[2] - exact[2]) < 2.0**-56 * max(1, abs(exact[2]))


def test_short_exp_and_log1p() -> None:
    """What float32 terms need of them: all digits of a small result, scalars and vectors with the same bits."""

    def vector(x: Any, out: Any) -> None:
        v = load(doubles(0.0), view(x), (0,), None, 0.0)
        store(view(out), (0,), exp_normal(v * -1.0), None)
        store(view(out), (8,), log1p_short(v), None)

    def scalar(x: Any, out: Any) -> None:
        for lane in range(8):
            out[lane], out[8 + lane] = exp_normal(x[lane] * -1.0), log1p_short(x[lane])

    vectors, scalars = (compiled(f, "float64", "float64") for f in (vector, scalar))
    # Where log1p changes its power of two, one term of many, all terms of the longest block, and some of each size.
    edges = [math.sqrt(2) - 1 + d for d in (-1e-15, 0, 1e-15)] + [2 * math.sqrt(2) - 1, 1.0, 65535.0, 1e-300, 699.0]
    rng = np.random.default_rng(0)
    scales = np.repeat([1e-12, 1e-3, 0.3, 1, 30, 200], 20)
    drawn = [np.abs(rng.normal(0, scale, 8)).clip(None, 699) for scale in scales]
    with mpmath.workdps(40):
        for x in (np.array(edges), *drawn):
            out, again = np.empty(16), np.empty(16)
            vectors(x, out)
            scalars(x, again)
            np.testing.assert_array_equal(out, again)
            for value, exp, log in zip(x, out[:8], out[8:], strict=True):
                least = mpmath.exp(-min(value, 700))
                assert abs(exp - least) < 2.0**-34 * least
                assert abs(log - mpmath.log1p(value)) < 2.0**-30 * mpmath.log1p(value)
    out = np.empty(16)
    scalars(np.array([0.0, np.nan, 1e5, 1e300, np.inf, 3.0, 4.0, 5.0]), out)
    np.testing.assert_array_equal(out[[0, 8]], [1.0, 0.0])
    assert np.isnan(out[[1, 9, 12]]).all()
    assert 0 < out[2] == out[3] < 1.1e-304  # the least there is


def test_exp_and_what_it_lacks_of_one() -> None:
    """The exponential of a pair, and its distance from 1 as a pair."""

    def scalar(x: Any, out: Any) -> None:
        out[0], out[1], out[2] = exp_and_others(x[0], x[1])

    function = compiled(scalar, "float64", "float64")
    rng, out = np.random.default_rng(0), np.empty(3)
    with mpmath.workdps(60):
        for scale in np.repeat([1e-12, 1e-3, 0.1, 0.3, 0.7, 1, 30], 200):
            v = -abs(rng.normal(0, scale)) - 1e-15
            tail = v * 2.0**-54 * rng.uniform(-1, 1)
            function(np.array([v, tail]), out)
            e = mpmath.exp(mpmath.mpf(v) + tail)
            assert abs(out[0] - e) < 2.0**-52 * e
            others = mpmath.mpf(out[1]) + out[2]
            assert abs(out[1] - (1 - e)) < 2.0**-52 * (1 - e)
            assert abs(others - (1 - e)) < 2.0**-53 * (1 - e)
    function(np.zeros(2), out)
    np.testing.assert_array_equal(out, [1.0, 0.0, 0.0])
    for far, tail in ((-np.inf, 0.0), (-np.inf, np.nan), (-1e60, 1e44), (-1e300, -1e284), (-761.0, 1e-13)):
        function(np.array([far, tail]), out)
        np.testing.assert_array_equal(out, [0.0, 1.0, 0.0])


def test_code_has_vectors_and_no_libm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The assembly of a kernel calls no exp, log or fma, and holds vectors as wide as the machine's."""
    monkeypatch.setenv("FASTSOFTMAX_CACHE_DIR", "/dev/null/no such folder")
    features = numba.config.CPU_FEATURES or ""
    for layout in ("rows", "narrow", "columns"):
        kernel = KERNELS["log_softmax"][layout]
        fresh = numba.njit(error_model="numpy", nogil=True)(kernel.dispatcher.py_func)
        fresh.compile(kernel.kinds("float32", False))
        (assembly,) = fresh.inspect_asm().values()
        # Calls go by the address of a symbol: `movabsq $symbol, %reg`.
        symbols = set(re.findall(r"\$(\w+), %r", assembly)) | set(re.findall(r"call\w*\s+(\w+)", assembly))
        assert not {s for s in symbols if re.fullmatch(r"(exp|log|log1p|fma|expm1|pow)f?\d*", s)}
        if not features and "zmm" in assembly:
            assert assembly.count("%zmm") > assembly.count("%ymm")


def test_modules_export_what_kernels_use() -> None:
    assert simd.f32x16.lanes * 4 == simd.f64x8.lanes * 8 == simd.VECTOR_BYTES
    assert set(memory.COMPUTED_IN) == set(DTYPES.values())
