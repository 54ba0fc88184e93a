"""The grid of benchmarks: what is in it, how it judges, and that every peer computes what it is compared on."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import numba
import pytest
from command_line import invoke

import fastsoftmax
from fastsoftmax._bench import grid, measure, report
from fastsoftmax._bench.cases import (
    BACKWARD,
    COPY,
    FASTEST,
    FLOAT32,
    FUNCTIONS,
    JAX,
    MACHINE,
    NUMPY,
    PEERS,
    PYTORCH,
    SPECIAL,
    Case,
    Limit,
    sections,
)
from fastsoftmax._bench.measure import Effort, medians_in_turn, peak_bytes
from fastsoftmax._bench.peers import ALL, OURS, Data

ASV_BENCH = Path(__file__).parents[1] / "asv_bench"
INSTANT = Effort(rounds=1, warm_ns=0, turn_ns=0, budget_ns=0, least_turns=1)

SHAPES = [
    "1x10", "1x1000", "64x10", "33x257", "256x1000", "1x32000", "1x128256", "1x1000000", "8x32000", "4096x64",
    "4096x1024", "2048x32000", "262144x10", "1000000x2", "65536x32", "8192x8192",
]  # fmt: skip
STRIDED = ["8x21x256x256 axis 1", "1x150x512x512 axis 1", "1000x4096 axis 0", "64x1000x49 axis 1"]


def test_the_grid_has_every_function_on_every_shape() -> None:
    named = {case.name for case in sections()["float32"]}
    assert {f"{function} {shape}" for function in FUNCTIONS for shape in (*SHAPES, *STRIDED)} <= named
    assert set(SPECIAL) <= named


def test_the_other_sections() -> None:
    made = sections()
    assert {case.dtype for case in made["dtypes"]} == {"float64", "bfloat16", "float16"}
    assert not any(case.out for case in made["without out"])
    assert {case.threads for case in made["one thread"]} == {1}
    assert {case.function for case in made["other shapes"]} == set(FUNCTIONS)
    assert all(case.section == name for name, cases in made.items() for case in cases)
    names = [case.name for cases in made.values() for case in cases]
    assert len(set(names)) == len(names)


def result(*runs: dict[str, float], special: tuple[Limit, ...] = (), shape: tuple[int, ...] = (4, 4)) -> grid.Result:
    return grid.Result(Case("softmax", shape, special=special), list(runs))


def test_verdicts() -> None:
    assert result({OURS: 1.0, PYTORCH: 1.3, NUMPY: 9.0}).verdict == grid.MET
    assert result({OURS: 1.0, PYTORCH: 1.1, NUMPY: 9.0}).verdict == grid.MISSED  # 1.2 times as fast is asked
    assert result({OURS: 1.0, PYTORCH: 1.1}, {OURS: 1.0, PYTORCH: 1.3}).verdict == grid.MET  # in either run
    assert result({OURS: 1.0, COPY: 0.1, MACHINE: 0.1}).verdict == grid.NOT_MEASURED  # no peers
    assert result({OURS: 1.0, PYTORCH: 1.0}, shape=(1, 10)).verdict == grid.MET
    # A limit against a library that is not installed is not met, nor is it missed.
    assert result({OURS: 1.0, NUMPY: 9.0}, special=(Limit(0.75, PYTORCH),)).verdict == grid.NOT_MEASURED
    of_a_copy = (Limit(1.0, COPY),)
    assert result({OURS: 1.0, PYTORCH: 9.0, COPY: 0.9}, special=of_a_copy).verdict == grid.MISSED
    assert result({OURS: 1.0, PYTORCH: 9.0, COPY: 1.1}, special=of_a_copy).verdict == grid.MET


def test_beyond_the_caches_the_machine_is_the_limit() -> None:
    large, small = Case("softmax", (8192, 8192)), Case("softmax", (256, 1000))
    assert [limit.against for limit in large.limits] == [FASTEST, MACHINE]
    assert [limit.against for limit in small.limits] == [FASTEST]
    assert grid.Result(large, [{OURS: 1.0, PYTORCH: 9.0, MACHINE: 0.91}]).verdict == grid.MET
    assert grid.Result(large, [{OURS: 1.0, PYTORCH: 9.0, MACHINE: 0.89}]).verdict == grid.MISSED


def test_summary() -> None:
    results = [result({OURS: 1.0, PYTORCH: 2.0}), result({OURS: 1.0, PYTORCH: 8.0}, shape=(5, 5))]
    (line,) = grid.summary(results)
    # Of two cases no mean is asked.
    assert (line.function, line.where, line.verdict) == ("softmax", "softmax 4x4", "")
    assert line.mean == pytest.approx(4.0)
    assert line.least == pytest.approx(2.0)


@pytest.mark.parametrize(("peer", "verdict"), [(1.7, grid.MISSED), (1.9, grid.MET)])
def test_the_mean_is_asked_of_the_whole_section(peer: float, verdict: str) -> None:
    cases = [case for case in sections()[FLOAT32] if case.function == "softmax"]
    (line,) = grid.summary(grid.Result(case, [{OURS: 1.0, PYTORCH: peer}]) for case in cases)
    assert line.verdict == verdict


def test_sections_are_told_apart() -> None:
    cases = [Case("softmax", (4, 4), dtype=dtype) for dtype in ("float32", "float64")]
    results = [grid.Result(case, [{OURS: 1.0, NUMPY: 2.0}]) for case in cases]
    assert list(grid.by_section(results)) == ["float32", "dtypes"]
    assert len(grid.summary(results)) == 2


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "grid.json"
    results = [result({OURS: 1.0, PYTORCH: 2.0}, special=(Limit(0.75, PYTORCH),))]
    grid.write(path, {"cpu": "some"}, results)
    assert list(tmp_path.iterdir()) == [path]
    assert grid.read(path) == ({"cpu": "some"}, results)
    assert json.loads(path.read_text())["cases"][0]["verdict"] == grid.MET


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(("shape", "axis"), [((5, 7), -1), ((5, 7), 0), ((2, 5, 3, 4), 1)])
def test_every_peer_that_is_installed_agrees(function: str, dtype: str, shape: tuple[int, ...], axis: int) -> None:
    for out in (True, False):
        case = Case(function, shape, axis, dtype, out=out, threads=1)
        seconds = grid.measure(case, INSTANT)  # which compares the results
        assert {OURS, COPY} <= set(seconds)
        assert (MACHINE in seconds) == (function not in BACKWARD)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="Numba has one thread")
def test_a_case_of_one_thread_leaves_numba_its_threads() -> None:
    before = numba.get_num_threads()
    assert before > 1
    grid.measure(Case("softmax", (5, 7), -1, threads=1), INSTANT)
    assert numba.get_num_threads() == before


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(("shape", "axis"), [((5, 7), -1), ((5, 7), 0)])
def test_jax_agrees(function: str, shape: tuple[int, ...], axis: int) -> None:
    pytest.importorskip("jax")
    every = fastsoftmax.show_config(mode="dicts")["processors"]
    assert JAX in grid.measure(Case(function, shape, axis, threads=every), INSTANT)
    if every > 1:
        assert JAX not in grid.measure(Case(function, shape, axis, threads=every - 1), INSTANT)


def test_half_types_meet_the_libraries_that_have_them() -> None:
    there = {
        dtype: grid.measure(Case("softmax", (5, 7), dtype=dtype, threads=1), INSTANT)
        for dtype in ("float16", "bfloat16")
    }
    assert NUMPY in there["float16"]
    assert NUMPY not in there["bfloat16"]


def test_a_peer_that_disagrees_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(case: Case, data: Data) -> Any:
        (contender,) = ALL[OURS](case, data)
        yield type(contender)(contender.call, lambda: (contender.results()[0] * 1.01,))

    monkeypatch.setitem(ALL, NUMPY, wrong)
    with pytest.raises(AssertionError, match="softmax 5x7"):
        grid.measure(Case("softmax", (5, 7), threads=1), INSTANT)


@pytest.mark.parametrize("factor", [math.nan, math.inf, 0.0])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_peer_whose_arithmetic_ends_is_left_out(monkeypatch: pytest.MonkeyPatch, dtype: str, factor: float) -> None:
    """As PyTorch's mean loss of 262144 rows of float16, whose number is infinite there; elsewhere it is a fault."""

    def beyond(case: Case, data: Data) -> Any:
        (contender,) = ALL[OURS](case, data)
        yield type(contender)(contender.call, lambda: (contender.results()[0] * factor,))

    monkeypatch.setitem(ALL, NUMPY, beyond)
    case = Case("softmax", (5, 7), dtype=dtype, threads=1)
    if dtype == "float32":
        with pytest.raises(AssertionError, match="NumPy"):
            grid.measure(case, INSTANT)
        return
    measured = grid.measure(case, INSTANT)
    assert OURS in measured
    assert NUMPY not in measured


def test_contenders_take_turns() -> None:
    calls: list[str] = []
    effort = Effort(rounds=3, warm_ns=0, turn_ns=0, budget_ns=10**12, least_turns=1)
    seconds = medians_in_turn({name: lambda name=name: calls.append(name) for name in "ab"}, effort)
    assert set(seconds) == {"a", "b"}
    turns = [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]
    assert turns == list("ab") * 4  # the first time for warming up, then the rounds


def test_what_is_slow_sits_the_rounds_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one sample from finding out how long it takes is its time."""
    monkeypatch.setattr(measure, "turn", lambda *_: pytest.fail("had its budget already"))
    assert (
        medians_in_turn({"a": lambda: None}, Effort(rounds=9, warm_ns=0, turn_ns=0, budget_ns=0, least_turns=0))["a"]
        > 0
    )


def test_a_call_that_is_timed_after_a_pause_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[float | str] = []
    monkeypatch.setattr(measure.time, "sleep", events.append)
    effort = Effort(rounds=3, warm_ns=0, turn_ns=0, budget_ns=10**12, least_turns=1, pause_ns=20_000_000)
    medians_in_turn({"a": lambda: events.append("call")}, effort)
    first = events.index(0.02)
    assert events[first - 1 :] == ["call", 0.02, "call"] * 3


def test_peak_bytes() -> None:
    assert peak_bytes(lambda: bytearray(10**6)) >= 10**6
    assert peak_bytes(lambda: None) < 10**4


def test_the_command_measures(tmp_path: Path) -> None:
    path = tmp_path / "grid.json"
    done = invoke("bench", "--quick", "--only", "^softmax 1x10$", "--json", path, width=200)
    assert done.exit_code == 0, done.output
    assert "softmax 1x10" in done.output
    _, (measured,) = grid.read(path)
    assert set(measured.best) <= {OURS, COPY, MACHINE, *PEERS}


@pytest.mark.parametrize("pattern", ["nothing like it", "("])
def test_the_command_refuses_patterns(pattern: str) -> None:
    done = invoke("bench", "--only", pattern)
    assert done.exit_code == 2
    assert "--only" in done.output


def test_tables_show_what_was_measured() -> None:
    results = [result({OURS: 2e-6, PYTORCH: 3e-3, COPY: 1e-6}, special=(Limit(1.0, COPY),))]
    table = report.markdown(report.header(results), report.rows(results))
    assert "| case | fastsoftmax | copy | PyTorch | speed-up |" in table
    assert "| softmax 4x4 | 2 µs | 1 µs | 3 ms | 1500.00 | - | 1 of copy (2.00) | MISSED |" in table


def test_the_command_uses_the_threads_of_the_caller(tmp_path: Path) -> None:
    path = tmp_path / "grid.json"
    fastsoftmax.set_num_threads(1)
    assert invoke("bench", "--quick", "--only", "^softmax 1x10$", "--json", path, width=200).exit_code == 0
    _, (measured,) = grid.read(path)
    assert measured.case.threads == 1
    assert fastsoftmax.get_num_threads() == 1


def test_the_command_says_that_quick_leaves_large_cases_out() -> None:
    done = invoke("bench", "--quick", "--only", "^softmax 8192x8192$")
    assert done.exit_code == 2
    assert "--quick" in done.output


def test_targets_are_judged_by_their_own_limits() -> None:
    of_a_copy = result({OURS: 2e-6, PYTORCH: 1e-6, COPY: 4e-6}, special=(Limit(1.0, COPY),))
    lines = list(report.target_rows([of_a_copy, result({OURS: 1.0})]))
    assert lines == [["softmax 4x4", "2 µs", "4 µs", "-", "1 µs", "-", "0.50", "1 of copy", grid.MET]]
    assert of_a_copy.verdict == grid.MISSED


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`asv_bench/compare.py` as a module."""
    pytest.importorskip("tqdm")
    monkeypatch.syspath_prepend(str(ASV_BENCH))
    spec = importlib.util.spec_from_file_location("compare", ASV_BENCH / "compare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SLOW, FAST = {OURS: 1.0, PYTORCH: 1.1}, {OURS: 1.0, PYTORCH: 1.3}
ONLY = ["--only", "^softmax (1x1000|64x10)$", "--section", "float32"]


@pytest.mark.parametrize(("second", "code"), [(FAST, 0), (SLOW, 1)])
def test_what_misses_is_measured_again(
    compare: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, second: dict[str, float], code: int
) -> None:
    path, runs = tmp_path / "grid.json", iter([SLOW, FAST, second])
    monkeypatch.setattr(grid, "measure", lambda case, effort: next(runs))
    assert compare.main([*ONLY, "--json", str(path)]) == code
    _, results = grid.read(path)
    assert [len(some.runs) for some in results] == [2, 1]


def test_targets_are_told_of_a_file_of_the_whole_grid(compare: Any, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "grid.json"
    of_a_copy = result({OURS: 2e-6, PYTORCH: 1e-6, COPY: 4e-6}, special=(Limit(1.0, COPY),))
    grid.write(path, {}, [of_a_copy, result(SLOW)])
    assert compare.main(["--draw", str(path), "--targets"]) == 0
    assert "0 of 1 cases miss a target" in capsys.readouterr().out


def test_a_run_cut_off_leaves_what_it_had(compare: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(case: Case, effort: Effort) -> dict[str, float]:
        if case.shape == (64, 10):
            raise KeyboardInterrupt
        return FAST

    monkeypatch.setattr(grid, "measure", interrupted)
    path = tmp_path / "grid.json"
    with pytest.raises(KeyboardInterrupt):
        compare.main([*ONLY, "--json", str(path)])
    _, (only,) = grid.read(path)
    assert only.case.name == "softmax 1x1000"


def test_a_file_is_drawn_again(compare: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.delitem(sys.modules, "pictures", raising=False)
    run = {OURS: 1e-6, PYTORCH: 2e-6, COPY: 1e-6, MACHINE: 1e-6}
    results = [grid.Result(Case(function, (n, 10)), [run]) for function in FUNCTIONS for n in (4, 40)]
    grid.write(tmp_path / "grid.json", grid.environment(), results)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    assert compare.main(["--draw", str(tmp_path / "grid.json"), "--pictures", str(pictures)]) == 0
    assert sorted(path.name for path in pictures.iterdir()) == ["peers.png", "roofline.png"]
