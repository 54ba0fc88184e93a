"""Compare fastsoftmax with a copy of the same bytes and with other libraries: are the targets met?

Everything is measured in turn in one process, on two threads, with float32 logits, the last axis
and a preallocated result wherever a library can take one; the whole table is measured twice, and a
target is met when either run meets it. Peers that are not installed are shown as '-'.

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from benchmarks._measure import Call, medians_in_turn

import fastsoftmax

THREADS = 2
RUNS = 2


@dataclass(frozen=True)
class Case:
    """One line of the table: at most `limit` of the time of the contender `against`."""

    function: str
    shape: tuple[int, int]
    against: str
    limit: float

    @property
    def name(self) -> str:
        return f"{self.function} {self.shape[0]}x{self.shape[1]}"

    @property
    def rounds(self) -> int:
        """Give fewer rounds to large arrays: one call of theirs is a long sample."""
        return 11 if self.shape[0] * self.shape[1] > 2**24 else 21


CASES = (
    Case("softmax", (8192, 8192), "copy", 1.0),
    Case("softmax", (2048, 32000), "copy", 1.0),
    Case("softmax", (256, 1000), "ONNX Runtime", 0.75),
    Case("softmax", (8, 32000), "ONNX Runtime", 0.75),
    Case("softmax", (1, 128256), "ONNX Runtime", 0.75),
    Case("softmax", (262144, 10), "ONNX Runtime", 0.4),
    Case("softmax", (1000000, 2), "ONNX Runtime", 0.4),
    Case("softmax", (1, 10), "PyTorch", 1.0),
    Case("logsumexp", (8192, 8192), "copy", 0.6),
)


@dataclass(frozen=True)
class Contender:
    """A call to time, and the way to read its result back afterwards."""

    call: Call
    result: Callable[[], np.ndarray]


# A peer turns a function's name and the logits into contenders. There may be several ways to call a
# library: its fastest counts. A module that is missing raises ImportError.
Peer = Callable[[str, np.ndarray], Iterator[Contender]]


def result_like(function: str, x: np.ndarray) -> np.ndarray:
    return np.empty(x.shape if function == "softmax" else x.shape[:-1], x.dtype)


def ours(function: str, x: np.ndarray) -> Iterator[Contender]:
    out = result_like(function, x)
    yield Contender(partial(getattr(fastsoftmax, function), x, axis=-1, out=out), lambda: out)


def copy(function: str, x: np.ndarray) -> Iterator[Contender]:
    """Copy the logits, whatever the function: the least that reading and writing them can take."""
    out = np.empty_like(x)
    yield Contender(partial(np.copyto, out, x), lambda: out)


def onnx_runtime(function: str, x: np.ndarray) -> Iterator[Contender]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(onnx_model(function), options, providers=["CPUExecutionProvider"])
    out = result_like(function, x)
    # Both values share the memory of the NumPy arrays: nothing is copied or allocated in a call.
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
    binding.bind_ortvalue_output("y", onnxruntime.OrtValue.ortvalue_from_numpy(out))
    yield Contender(partial(session.run_with_iobinding, binding), lambda: out)
    if x.size < 2**16:
        # Where an allocation is nothing, the plain call is the quicker one.
        plain = partial(session.run, ["y"], {"x": x})
        yield Contender(plain, lambda: plain()[0])


def onnx_model(function: str) -> bytes:
    """Build a model of the one node, for two-dimensional float32 input."""
    from onnx import TensorProto, checker, helper

    if function == "softmax":
        node = helper.make_node("Softmax", ["x"], ["y"], axis=-1)
        result = ["rows", "classes"]
    else:
        node = helper.make_node("ReduceLogSumExp", ["x"], ["y"], axes=[-1], keepdims=0)
        result = ["rows"]
    graph = helper.make_graph(
        [node],
        function,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", "classes"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, result)],
    )
    # Opset 13, and the file format of its time, are read by every release of ONNX Runtime in use.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    checker.check_model(model)
    return model.SerializeToString()


def pytorch(function: str, x: np.ndarray) -> Iterator[Contender]:
    import torch

    torch.set_num_threads(THREADS)
    out = result_like(function, x)
    call = partial(getattr(torch, function), torch.from_numpy(x), -1, out=torch.from_numpy(out))
    yield Contender(call, lambda: out)


def scipy(function: str, x: np.ndarray) -> Iterator[Contender]:
    from scipy import special

    call = partial(getattr(special, function), x, axis=-1)
    yield Contender(call, call)


PEERS: dict[str, Peer] = {
    "fastsoftmax": ours,
    "copy": copy,
    "ONNX Runtime": onnx_runtime,
    "PyTorch": pytorch,
    "SciPy": scipy,
}


def measure(case: Case) -> dict[str, float]:
    """Give the median seconds per call of every peer that is installed."""
    x = np.random.default_rng(0).standard_normal(case.shape, dtype=np.float32)
    x *= 3
    contenders: dict[str, Contender] = {}
    for peer, prepare in PEERS.items():
        try:
            for way, contender in enumerate(prepare(case.function, x)):
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
    expected = contenders["fastsoftmax#0"].result()[:8]
    for name, contender in contenders.items():
        if not name.startswith("copy"):
            np.testing.assert_allclose(contender.result()[:8], expected, rtol=1e-4, err_msg=f"{name}: {case.name}")


def ratio(case: Case, seconds: dict[str, float]) -> float | None:
    against = seconds.get(case.against)
    return None if against is None else seconds["fastsoftmax"] / against


def verdict(case: Case, runs: list[dict[str, float]]) -> str:
    ratios = [r for r in (ratio(case, seconds) for seconds in runs) if r is not None]
    if not ratios:
        return "not measured"
    return "met" if min(ratios) <= case.limit else "MISSED"


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
    """Give the times of the run with the better ratio, and the ratios of all runs."""
    ratios = [ratio(case, seconds) for seconds in runs]
    shown = min(runs, key=lambda seconds: ratio(case, seconds) or math.inf)
    cells = [
        case.name,
        *(duration(shown.get(peer)) for peer in PEERS),
        ", ".join("-" if r is None else f"{r:.2f}" for r in ratios),
        f"{case.limit:g} of {case.against}",
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
    print("| float32, last axis | " + " | ".join(PEERS) + " | ratios | at most | |")
    print("|---|" + "---|" * (len(PEERS) + 3))
    for case in cases:
        print(table_line(case, runs[case]))
    verdicts = {case: verdict(case, runs[case]) for case in cases}
    if arguments.json:
        lines = [
            {
                "name": case.name,
                "against": case.against,
                "limit": case.limit,
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
