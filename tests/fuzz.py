"""Throw anything at the public functions and at the command line's reader of files, for as long as is asked.

    python tests/fuzz.py --seconds 600

Every call must give the right answer or an error that says something, and leave what it may not write to as it was.
What is found is shrunk and printed, and the exit code is 1. `--seed` repeats a run, `--only` names one of the targets.
Where the kernels are not compiled yet, that takes most of a short run: `--compiling` allows that much more time for it.
"""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import math
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import strategies
import test_properties
from command_line import invoke
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numba.core import event
from reference import Array, assert_same
from strategies import LAYOUTS, Guarded, Problem, problems

import fastsoftmax

FUNCTIONS = ("softmax", "log_softmax", "logsumexp", "softmax_backward", "log_softmax_backward")
LOSSES = ("cross_entropy", "cross_entropy_with_grad")
# What a caller is promised to get for what cannot be computed. Others come from the objects that are handed in.
ERRORS = (TypeError, ValueError, IndexError, MemoryError)


class Refusing:
    """An object that does not want to be an array."""

    def __array__(self, *arguments: Any, **options: Any) -> Array:
        raise ValueError("no array")

    def __repr__(self) -> str:
        return "Refusing()"


class Subclass(np.ndarray):
    """An array of another class."""


ODD: list[Any] = [
    None,
    True,
    np.True_,
    "",
    "1",
    b"1",
    "nan",
    float("nan"),
    float("inf"),
    -0.0,
    1e308,
    10**400,
    2**63,
    -(2**63),
    1j,
    (),
    [],
    [[]],
    [[1.0], [1.0, 2.0]],
    {},
    set(),
    object(),
    Refusing(),
    range(3),
    slice(3),
    Ellipsis,
    np.float32,
    np.float64(2.0),
    np.int8(-1),
    np.array(None),
    np.array(1.0),
    np.array(["a"]),
    np.array([b"a", b"b"]),
    np.array([1, None], object),
    np.array([1 + 1j]),
    np.array(["2020-01-01"], "M8[D]"),
    np.zeros(2, [("a", "f4")]),
    np.zeros(3, "V4"),
    np.zeros(3, np.longdouble),
    np.ma.masked_array([1.0, 2.0], [True, False]),
    np.zeros((2, 0)),
    np.zeros((0, 3), np.float16),
    np.zeros((1,) * 32, np.float32),
    np.broadcast_to(np.float32(1), (3, 4)),
    np.arange(4.0).view(Subclass),
    np.eye(2).astype(">f4"),
    memoryview(b"abcd"),
    bytearray(4),
]
odd = st.sampled_from(ODD)
numbers = st.one_of(st.integers(-3, 5), st.floats(), st.floats(0.1, 3.0))
arrays = problems().map(lambda problem: problem.x)
anything = st.one_of(
    odd, numbers, arrays, st.tuples(st.integers(-3, 3), st.integers(-3, 3)), st.lists(st.floats(), max_size=3)
)
OPTIONS: dict[str, tuple[str, ...]] = {
    "softmax": ("where", "temperature", "dtype", "out"),
    "log_softmax": ("where", "temperature", "dtype", "out"),
    "logsumexp": ("b", "keepdims", "return_sign", "where", "out"),
    "softmax_backward": ("out",),
    "log_softmax_backward": ("out",),
}
LOSS_OPTIONS = [
    *("weight", "ignore_index", "reduction", "label_smoothing", "sample_weight", "num_items", "temperature", "softcap"),
    *("z_loss", "focal_gamma", "grad_output", "out", "return_lse"),
]


def attempt(call: Callable[[], Any], *kept: Any) -> Any:
    """The result, or the error if it is one that may be raised and says something; `kept` arrays are as before then."""
    before = [array.tobytes() for array in kept]
    try:
        return call()
    except ERRORS as error:
        raised = error
    assert str(raised).strip(), f"{type(raised).__name__} without a message"
    assert before == [array.tobytes() for array in kept], "an argument was changed before the error"
    return raised


def plain_arrays(*values: Any) -> list[Array]:
    return [value for value in values if isinstance(value, np.ndarray) and not value.dtype.hasobject]


# -- the targets: each a property and what it is tried on ----------------------------------


def any_arguments(name: str, x: Any, other: Any, axis: Any, chosen: dict[str, Any]) -> None:
    options = {option: value for option, value in chosen.items() if option in OPTIONS[name]}
    first = (x, other) if "backward" in name else (x,)
    result = attempt(
        lambda: getattr(fastsoftmax, name)(*first, axis=axis, **options), *plain_arrays(*first, *options.values())
    )
    if not isinstance(result, (Exception, tuple)) and "out" in options and options["out"] is not None:
        assert result is options["out"]


def any_problem(problem: Problem, name: str) -> None:
    test_properties.test_maps.hypothesis.inner_test(problem=problem, name=name)  # type: ignore[attr-defined]


def any_sum(problem: Problem, keepdims: bool) -> None:
    inner = test_properties.test_logsumexp.hypothesis.inner_test  # type: ignore[attr-defined]
    inner(problem=problem, keepdims=keepdims, return_sign=keepdims)


def any_loss_arguments(name: str, x: Any, target: Any, axis: Any, chosen: dict[str, Any]) -> None:
    attempt(
        lambda: getattr(fastsoftmax, name)(x, target, axis=axis, **chosen), *plain_arrays(x, target, *chosen.values())
    )


def any_labels(
    problem: Problem, seed: int, dtype: str, layout: str, bad: float, reduction: str, smoothing: float
) -> None:
    """Right labels give one result however they lie; wrong ones an error, and nothing is written."""
    x = problem.x
    if x.ndim == 0 or not x.size:
        return
    rng = np.random.default_rng(seed)
    axis = int(rng.integers(-x.ndim, x.ndim))
    classes = x.shape[axis]
    info = np.iinfo(dtype)
    shape = np.moveaxis(x, axis, -1).shape[:-1]
    labels = rng.integers(0, min(classes, info.max), shape).astype(np.int64)
    wrong = np.asarray(rng.random(shape) < bad)
    values = [v for v in (-1, classes, -(2**40), 2**62, info.min, info.max) if not 0 <= v < classes and v != -100]
    values = [v for v in values if info.min <= v <= info.max and v < 2**63]
    if not values:
        return
    labels = np.where(wrong, rng.choice(np.array(values, np.int64)), labels)
    wrong &= (labels < 0) | (labels >= classes)
    given_labels = LAYOUTS[layout](np.asarray(labels.astype(dtype)))
    kind = fastsoftmax.softmax(x, axis=axis).dtype
    out = Guarded.make(x.shape, kind)
    options: dict[str, Any] = {"axis": axis, "reduction": reduction, "label_smoothing": smoothing}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = attempt(lambda: fastsoftmax.cross_entropy_with_grad(x, given_labels, out=out.array, **options))
        if wrong.any():
            position = tuple(int(i) for i in np.argwhere(wrong)[0])
            assert isinstance(result, IndexError), result
            assert f"is {labels[position]}:" in str(result), result
            assert out.untouched()
            return
        again = fastsoftmax.cross_entropy_with_grad(
            np.ascontiguousarray(x).astype(kind).reshape(x.shape), labels, **options
        )
        alone = fastsoftmax.cross_entropy(x, given_labels, **options)
    assert not isinstance(result, Exception), result
    assert_same(result[0], again[0])
    assert_same(alone, again[0])
    assert_same(result[1], again[1])
    assert out.surroundings_untouched()


HEADERS = [
    b"'shape'",
    b"'descr'",
    b"'<f4'",
    b"False",
    b"True",
    b"(",
    b")",
    b",",
    b"9" * 20,
    b"-",
    b"|O",
    b"<f8",
    b"{",
    b"'",
    b"\n",
]


def any_file(folder: Path, x: Array, edits: list[tuple[float, int, bytes]], axis: str, command: str) -> None:
    """An .npy file with bytes changed, cut out and put in."""
    source, out = folder / "in.npy", folder / "out.npy"
    np.save(source, x)
    content = bytearray(source.read_bytes())
    for place, removed, put in edits:
        # Most of them within the header.
        at = int(place * len(content)) if removed % 3 == 0 else int(place * min(len(content), 140))
        content[at : at + removed] = put
    source.write_bytes(content)
    out.write_bytes(b"old")
    words: list[Any] = [command, source, "-o", out, "--axis", axis]
    if command == "cross-entropy":
        words = [command, source, source]
    result = invoke(*words)
    assert result.exit_code in (0, 2), result.exception
    if result.exit_code:
        assert result.stderr.startswith(f"fastsoftmax {command}: "), result.stderr
        assert result.stderr.count("\n") == 1
        assert out.read_bytes() == b"old"
    assert {path.name for path in folder.iterdir()} == {"in.npy", "out.npy"}


def targets(folder: Path) -> dict[str, Callable[..., None]]:
    """By name: properties that hypothesis calls, each not yet told how often."""
    axes = st.one_of(st.integers(-3, 3), st.none(), st.tuples(st.integers(-3, 3), st.integers(-3, 3)), odd)
    some = st.dictionaries(
        st.sampled_from(sorted({o for names in OPTIONS.values() for o in names})), anything, max_size=3
    )
    loss_options = st.dictionaries(st.sampled_from(LOSS_OPTIONS), anything, max_size=2)
    names, losses = st.sampled_from(FUNCTIONS), st.sampled_from(LOSSES)
    edits = st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 12), st.one_of(st.binary(max_size=8), st.sampled_from(HEADERS))),
        max_size=4,
    )
    seeds = st.integers(0, 2**32 - 1)

    def edited(x: Array, changes: list[tuple[float, int, bytes]], axis: str, command: str) -> None:
        any_file(folder, x, changes, axis, command)

    return {
        "arguments": given(names, anything, anything, axes, some)(any_arguments),
        "problems": given(problems(), st.sampled_from(["softmax", "log_softmax"]))(any_problem),
        "sums": given(problems(), st.booleans())(any_sum),
        "loss-arguments": given(losses, anything, anything, axes, loss_options)(any_loss_arguments),
        "labels": given(
            problems(),
            seeds,
            st.sampled_from(["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64"]),
            st.sampled_from(sorted(LAYOUTS)),
            st.sampled_from([0.0, 0.0, 0.1, 1.0]),
            st.sampled_from(["mean", "sum", "none"]),
            st.sampled_from([0.0, 0.1]),
        )(any_labels),
        "files": given(
            arrays,
            edits,
            st.sampled_from(["-1", "0", "none", "0,1"]),
            st.sampled_from(["softmax", "logsumexp", "cross-entropy"]),
        )(edited),
    }


class Compiling(event.Listener):  # type: ignore[misc]
    """Counts the seconds that compiling takes."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth, self._begun = 0, 0.0  # what compiles calls what has to be compiled first

    def on_start(self, event: Any) -> None:
        if not self._depth:
            self._begun = time.monotonic()
        self._depth += 1

    def on_end(self, event: Any) -> None:
        self._depth -= 1
        if not self._depth:
            self.seconds += time.monotonic() - self._begun


def fuzz(seconds: float, compiling: float, seed: int, only: str | None, dtypes: list[str]) -> int:
    """Run the targets in turn until the time is over; the number of those that failed."""
    chosen = [np.dtype(name) for name in dtypes]
    if chosen:
        strategies.FULL_DTYPES = tuple(d for d in strategies.FULL_DTYPES if d in chosen)
        strategies.HALF_DTYPES = tuple(d for d in strategies.HALF_DTYPES if d in chosen)
    until, done, compiler = time.monotonic() + seconds, 0, Compiling()
    event.register("numba:compile", compiler)
    with tempfile.TemporaryDirectory() as folder:
        failed: set[str] = set()
        for turn in itertools.count():
            properties = {name: test for name, test in targets(Path(folder)).items() if only in (None, name)}
            for name, test in properties.items():
                over = time.monotonic() > until + min(compiling, compiler.seconds)
                if over or len(failed) == len(properties):
                    print(f"{done} batches of examples, {compiler.seconds:.0f} s of compiling, ", end="")
                    print(f"seed {seed}, failed: {sorted(failed) or 'none'}")
                    return len(failed)
                if name in failed:
                    continue
                checks = settings(
                    max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck)
                )
                fastsoftmax.set_num_threads(turn % 3 + 1)
                try:
                    hypothesis.seed(seed + turn)(checks(test))()
                except Exception:  # noqa: BLE001 - that is what is looked for
                    traceback.print_exc()
                    failed.add(name)
                done += 1
    return math.inf  # type: ignore[return-value] # never reached: the loop has no end of its own


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--compiling", type=float, default=0, help="seconds more, if compiling takes them")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", choices=["arguments", "problems", "sums", "loss-arguments", "labels", "files"])
    parser.add_argument(
        "--dtypes", type=lambda text: text.split(","), default=[], help="of the logits; all if not given"
    )
    options = parser.parse_args()
    faulthandler.enable()
    warnings.simplefilter("ignore")
    return 1 if fuzz(options.seconds, options.compiling, options.seed, options.only, options.dtypes) else 0


if __name__ == "__main__":
    sys.exit(main())
