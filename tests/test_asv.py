"""Every benchmark of airspeed velocity runs: each method once, on the first of its parameters."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fastsoftmax

ASV_BENCH = Path(__file__).parents[1] / "asv_bench"


def benchmark_classes() -> list[Any]:
    sys.path.insert(0, str(ASV_BENCH))
    try:
        package = importlib.import_module("benchmarks")
        modules = [importlib.import_module(f"benchmarks.{m.name}") for m in pkgutil.iter_modules(package.__path__)]
    finally:
        sys.path.remove(str(ASV_BENCH))
    return [
        value
        for module in modules
        for name, value in inspect.getmembers(module, inspect.isclass)
        if not name.startswith("_") and value.__module__ == module.__name__
    ]


CLASSES = benchmark_classes()


def methods_of(benchmark: Any) -> Iterator[tuple[str, Any]]:
    for name, method in inspect.getmembers(benchmark, inspect.ismethod):
        if name.startswith(("time_", "track_")):
            yield name, method


def first_parameters(cls: Any) -> list[Any]:
    params = getattr(cls, "params", ())
    if not params:
        return []
    lists = params if isinstance(params[0], (tuple, list)) else (params,)
    return [values[0] for values in lists]


def test_every_public_function_has_benchmarks() -> None:
    names = {cls.__name__ for cls in CLASSES}
    functions = ("softmax", "log_softmax", "logsumexp", "softmax_backward", "log_softmax_backward")
    camel = {"".join(part.title() for part in name.split("_")) for name in functions}
    assert {"LogSumExp" if name == "Logsumexp" else name for name in camel} <= names
    assert {"CrossEntropy", "CrossEntropyWithGrad", "CrossEntropyWithGradInPlace"} <= names


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_benchmark(cls: Any) -> None:
    benchmark, parameters = cls(), first_parameters(cls)
    threads = fastsoftmax.get_num_threads()
    if hasattr(benchmark, "setup"):
        benchmark.setup(*parameters)
    ran = 0
    for name, method in methods_of(benchmark):
        value = method(*parameters)
        assert (value is None) == name.startswith("time_")
        ran += 1
    assert ran
    if hasattr(benchmark, "teardown"):
        benchmark.teardown()
    assert fastsoftmax.get_num_threads() == threads
