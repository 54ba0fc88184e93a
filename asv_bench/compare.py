"""Compare fastsoftmax with a copy of the same bytes and with other libraries: are the targets met?

Everything is measured in turn in one process, on two threads, with float32 logits and a
preallocated result wherever a library can take one; the whole table is measured twice, and a target
is met when either run meets it. Peers that are not installed, or lack the function, are shown as '-'.

    python asv_bench/compare.py
    python asv_bench/compare.py --only 'softmax 1x' --json compare.json

Exit code 1: a target was missed in both runs.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import platform
import re
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from benchmarks._measure import medians_in_turn
from cases import CASES, COPY, Case, Limit
from peers import OURS, PEERS, THREADS, Contender, Data

import fastsoftmax

RUNS = 2


def measure(case: Case) -> dict[str, float]:
    """Give the median seconds per call of every peer that is installed."""
    data = Data.of(case)
    contenders: dict[str, Contender] = {}
    for peer, prepare in PEERS.items():
        try:
            for way, contender in enumerate(prepare(case, data)):
                contenders[f"{peer}#{way}"] = contender
        except ImportError:
            continue
    seconds = medians_in_turn({name: c.call for name, c in contenders.items()}, case.rounds)
    check_results(case, contenders)
    best: dict[str, float] = {}
    for name, value in seconds.items():
        peer = name.partition("#")[0]
        best[peer] = min(value, best.get(peer, value))
    return best


def check_results(case: Case, contenders: dict[str, Contender]) -> None:
    """Make sure that all of them computed the same thing: the first rows are enough to tell."""
    expected = contenders[f"{OURS}#0"].results()
    for name, contender in contenders.items():
        if name.startswith(COPY):
            continue
        for got, right in zip(contender.results(), expected, strict=True):
            # The gradient of a target is a difference, of which others lose digits.
            atol = 1e-6 * float(np.max(np.abs(right))) if case.function == "cross_entropy_with_grad" else 0
            np.testing.assert_allclose(head(got), head(right), rtol=1e-4, atol=atol, err_msg=f"{name}: {case.name}")


def head(result: np.ndarray) -> np.ndarray:
    return np.atleast_1d(result)[:8]


def ratio(limit: Limit, seconds: dict[str, float]) -> float | None:
    against = seconds.get(limit.against)
    return None if against is None else seconds[OURS] / against


def verdict(case: Case, runs: list[dict[str, float]]) -> str:
    """Judge each limit by the run that does best on it, and the case by all of its limits."""
    words = set()
    for limit in case.limits:
        ratios = [r for r in (ratio(limit, seconds) for seconds in runs) if r is not None]
        words.add(("met" if min(ratios) <= limit.share else "MISSED") if ratios else "not measured")
    return next(word for word in ("MISSED", "not measured", "met") if word in words)


def environment() -> dict[str, object]:
    """Say what a reader must know to judge the numbers."""
    packages = {"onnxruntime": "ONNX Runtime", "torch": "PyTorch", "scipy": "SciPy"}
    versions = {}
    for package, name in packages.items():
        try:
            versions[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "-"
    config = fastsoftmax.show_config(mode="dicts")
    keys = ["cpu", "instruction_set", "processors", "caches", "threading_layer"]
    own = ["fastsoftmax", "numpy", "numba", "llvmlite"]
    return {
        **{key: config[key] for key in keys},
        "platform": platform.platform(),
        "threads": THREADS,
        "versions": {
            "Python": platform.python_version(),
            **{key: config[key] for key in own},
            **versions,
        },
    }


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    unit, scale = ("ms", 1e3) if seconds >= 1e-3 else ("µs", 1e6)
    return f"{seconds * scale:.3g} {unit}" if seconds * scale < 100 else f"{seconds * scale:.0f} {unit}"


def table_line(case: Case, runs: list[dict[str, float]]) -> str:
    """Give the times of the run that is farthest below its limits, and the ratios of all runs."""

    def distance(seconds: dict[str, float]) -> float:
        ratios = [(ratio(limit, seconds), limit.share) for limit in case.limits]
        return max(math.inf if r is None else r / share for r, share in ratios)

    shown = min(runs, key=distance)
    ratios = [[ratio(limit, seconds) for seconds in runs] for limit in case.limits]
    cells = [
        case.name,
        *(duration(shown.get(peer)) for peer in PEERS),
        "; ".join(", ".join("-" if r is None else f"{r:.2f}" for r in of_limit) for of_limit in ratios),
        "; ".join(map(str, case.limits)),
        verdict(case, runs),
    ]
    return "| " + " | ".join(cells) + " |"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="REGEX", default="", help="lines whose name it matches")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all the numbers there too")
    arguments = parser.parse_args(argv)
    cases = [case for case in CASES if re.search(arguments.only, case.name)]
    if not cases:
        names = ", ".join(case.name for case in CASES)
        parser.error(f"--only {arguments.only!r} matches none of: {names}")

    fastsoftmax.set_num_threads(THREADS)
    about = environment()
    for key, value in about.items():
        print(f"{key}: {value}")
    runs: dict[Case, list[dict[str, float]]] = {case: [] for case in cases}
    for run in range(RUNS):
        for case in cases:
            print(f"run {run + 1} of {RUNS}: {case.name}", file=sys.stderr)
            runs[case].append(measure(case))

    print()
    print("| float32 | " + " | ".join(PEERS) + " | ratios | at most | |")
    print("|---|" + "---|" * (len(PEERS) + 3))
    for case in cases:
        print(table_line(case, runs[case]))
    verdicts = {case: verdict(case, runs[case]) for case in cases}
    if arguments.json:
        lines = [
            {
                "name": case.name,
                "limits": [asdict(limit) for limit in case.limits],
                "verdict": verdicts[case],
                "seconds": runs[case],
            }
            for case in cases
        ]
        report = {"environment": about, "cases": lines}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 1 if "MISSED" in verdicts.values() else 0


if __name__ == "__main__":
    sys.exit(main())
