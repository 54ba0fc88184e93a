"""Goes through cases, and judges what was measured."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numba
import numpy as np

import fastsoftmax

from . import peers
from .cases import FASTEST, FLOAT32, GRADIENT, MEANS, PEERS, Case, Limit, sections
from .measure import BRISK, Effort, medians_in_turn
from .peers import OURS, Contender, Data

MET, MISSED, NOT_MEASURED = "met", "MISSED", "not measured"
PACKAGES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "jax": "JAX", "scipy": "SciPy"}


@dataclass
class Result:
    """What was measured of a case: the median seconds per call of each contender, in one run or several."""

    case: Case
    runs: list[dict[str, float]] = field(default_factory=list)

    def ratio(self, limit: Limit, run: dict[str, float]) -> float | None:
        """Our time over that of the contender of a limit."""
        if limit.against == FASTEST:
            times = [run[peer] for peer in PEERS if peer in run]
            return run[OURS] / min(times) if times else None
        return run[OURS] / run[limit.against] if limit.against in run else None

    def verdict_on(self, limit: Limit) -> str:
        """Judge by the run that does best."""
        ratios = [r for r in (self.ratio(limit, run) for run in self.runs) if r is not None]
        return (MET if min(ratios) <= limit.share else MISSED) if ratios else NOT_MEASURED

    def judged(self, limits: Iterable[Limit]) -> str:
        """Several limits together: what could not be measured is not met."""
        words = {self.verdict_on(limit) for limit in limits}
        return next(word for word in (MISSED, NOT_MEASURED, MET) if word in words)

    @property
    def verdict(self) -> str:
        """All limits of the case together."""
        return self.judged(self.case.limits)

    @property
    def best(self) -> dict[str, float]:
        """The run in which we came nearest to the fastest peer, or were quickest where there is none."""
        return min(self.runs, key=lambda run: (self.ratio(Limit(1.0, FASTEST), run) or 1.0, run[OURS]))

    @property
    def speed_up(self) -> float | None:
        """How many times as fast as the fastest peer."""
        ratio = self.ratio(Limit(1.0, FASTEST), self.best)
        return None if ratio is None else 1 / ratio


def measure(case: Case, effort: Effort = BRISK) -> dict[str, float]:
    """Give the median seconds per call of every contender that is installed, called in the fastest way there is."""
    before = numba.get_num_threads()
    numba.set_num_threads(min(case.threads, numba.config.NUMBA_NUM_THREADS))  # for the machine's loop
    try:
        return _measured_in_turn(case, effort)
    finally:
        numba.set_num_threads(before)


def _measured_in_turn(case: Case, effort: Effort) -> dict[str, float]:
    data = Data.of(case)
    contenders: dict[str, Contender] = {}
    for peer, prepare in peers.ALL.items():
        try:
            for way, contender in enumerate(prepare(case, data)):
                contenders[f"{peer}#{way}"] = contender
        except ImportError:
            continue
    seconds = medians_in_turn({name: contender.call for name, contender in contenders.items()}, effort)
    beyond = check_results(case, contenders)
    best: dict[str, float] = {}
    for name, value in seconds.items():
        if name not in beyond:
            peer = name.partition("#")[0]
            best[peer] = min(value, best.get(peer, value))
    return best


def check_results(case: Case, contenders: dict[str, Contender]) -> set[str]:
    """Make sure that all of them computed the same thing: the first rows are enough to tell.

    Returned are those whose arithmetic ends before the result: in float16 PyTorch's mean of 262144 losses is NaN, its
    gradients of them are all 0, and NumPy's loss from a probability is infinite.
    """
    beyond, half = set(), case.dtype in ("float16", "bfloat16")
    expected = contenders[f"{OURS}#0"].results()
    # Sums of a million float32 numbers one after the other are no better than this.
    digits = {"float64": 1e-10, "float32": 1e-3, "float16": 4e-3, "bfloat16": 4e-2}[case.dtype]
    # A gradient is a difference, of which others lose digits, and so is a log-probability near 0.
    part = 1.0 if case.function == GRADIENT or case.function.endswith("_backward") else 0.1 if digits > 1e-3 else 0.01
    # Gradients of a mean of 262144 losses are a few of the smallest steps that float16 has.
    step = 2.0**-24 if case.dtype == "float16" and case.function == GRADIENT else 0.0
    for name, contender in contenders.items():
        if name.partition("#")[0] not in PEERS:
            continue
        for got, right in zip(contender.results(), expected, strict=True):
            mine, theirs = (np.atleast_1d(np.asarray(v))[:8].astype(np.float64) for v in (right, got))
            if (
                half
                and np.isfinite(mine).all()
                and (not np.isfinite(theirs).all() or (mine.any() and not theirs.any()))
            ):
                beyond.add(name)
                continue
            scale = float(np.max(np.abs(mine))) if mine.size else 0.0
            np.testing.assert_allclose(
                theirs, mine, rtol=digits, atol=scale * digits * part + step, err_msg=f"{name}: {case.name}"
            )
    return beyond


@dataclass(frozen=True)
class Summary:
    """The speed-ups of one function over the fastest peer, in one section."""

    function: str
    mean: float  # geometric
    least: float
    where: str  # the name of the case with the least
    verdict: str  # on the mean; empty where none is asked or not all of its cases were measured


def by_section(results: Iterable[Result]) -> dict[str, list[Result]]:
    """The results of each section that has any."""
    parts: dict[str, list[Result]] = {}
    for result in results:
        parts.setdefault(result.case.section, []).append(result)
    return parts


def summary(results: Iterable[Result]) -> list[Summary]:
    """A line for each function of each section."""
    parts: dict[tuple[str, str], dict[str, float]] = {}
    for result in results:
        if result.speed_up is not None:
            names = parts.setdefault((result.case.section, result.case.function), {})
            names[result.case.name] = result.speed_up
    lines = []
    for (section, function), ups in parts.items():
        mean = math.exp(math.fsum(map(math.log, ups.values())) / len(ups))
        where = min(ups, key=ups.__getitem__)
        lines.append(Summary(function, mean, ups[where], where, _verdict_on_mean(section, function, mean, set(ups))))
    return lines


def _verdict_on_mean(section: str, function: str, mean: float, measured: set[str]) -> str:
    asked = {case.name for case in sections()[FLOAT32] if case.function == function}
    if section != FLOAT32 or function not in MEANS or not asked <= measured:
        return ""
    return MET if mean >= MEANS[function] else MISSED


def environment() -> dict[str, Any]:
    """Say what a reader must know to judge the numbers."""
    config = fastsoftmax.show_config(mode="dicts")
    versions = {key: config[key] for key in ("fastsoftmax", "numpy", "numba", "llvmlite")}
    for package, name in PACKAGES.items():
        try:
            versions[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    keys = ("cpu", "instruction_set", "processors", "caches", "threading_layer")
    return {
        **{key: config[key] for key in keys},
        "platform": platform.platform(),
        "versions": {"Python": platform.python_version(), **versions},
    }


def write(path: Path, about: dict[str, Any], results: Iterable[Result]) -> None:
    """Write all numbers as JSON: aside, then renamed, so that a run cut off leaves what it had."""
    cases = [
        {**asdict(result.case), "name": result.case.name, "verdict": result.verdict, "seconds": result.runs}
        for result in results
    ]
    aside = path.with_name(path.name + ".part")
    aside.write_text(json.dumps({"environment": about, "cases": cases}, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, path)  # noqa: PTH105 - the word that says what it is


def read(path: Path) -> tuple[dict[str, Any], list[Result]]:
    """Read what `write` wrote."""
    report = json.loads(path.read_text(encoding="utf-8"))
    results = []
    for line in report["cases"]:
        special = tuple(Limit(**limit) for limit in line["special"])
        known = {key: line[key] for key in ("function", "axis", "dtype", "in_place", "out", "threads")}
        results.append(Result(Case(shape=tuple(line["shape"]), special=special, **known), line["seconds"]))
    return report["environment"], results
