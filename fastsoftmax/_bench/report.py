"""What a person reads of the results: a table as Markdown or for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .cases import COPY, FASTEST, MACHINE, MEANS, ONNX_RUNTIME, PEERS, PYTORCH, SCIPY, Limit
from .grid import Result, summary
from .peers import OURS

SUMMARY_HEADER = ["function", "geometric mean", "least", "at", "mean asked"]

TARGET_PEERS = (COPY, ONNX_RUNTIME, PYTORCH, SCIPY)
TARGET_HEADER = ["float32", OURS, *TARGET_PEERS, "ratios", "at most", ""]


def duration(seconds: float | None) -> str:
    """Seconds in three digits."""
    if seconds is None:
        return "-"
    unit, scale = ("ms", 1e3) if seconds >= 1e-3 else ("µs", 1e6)
    return f"{seconds * scale:.3g} {unit}" if seconds * scale < 1000 else f"{seconds * scale:.0f} {unit}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _ratios(result: Result, limit: Limit) -> str:
    """The ratio of each run."""
    return ", ".join(_number(result.ratio(limit, run)) for run in result.runs)


def shown_peers(results: Sequence[Result]) -> list[str]:
    """The contenders that were there, in the order of the grid."""
    return [peer for peer in (COPY, MACHINE, *PEERS) if any(peer in run for result in results for run in result.runs)]


def header(results: Sequence[Result]) -> list[str]:
    return ["case", OURS, *shown_peers(results), "speed-up", "of machine", "asked", ""]


def rows(results: Sequence[Result]) -> Iterable[list[str]]:
    """A line for each case; ratios of limits that were missed are told."""
    columns = shown_peers(results)
    for result in results:
        run, machine = result.best, result.ratio(Limit(1.0, MACHINE), result.best)
        asked = "; ".join(
            f"{limit} ({_ratios(result, limit)})" for limit in result.case.limits if limit.against != FASTEST
        )
        yield [
            result.case.name,
            duration(run[OURS]),
            *(duration(run.get(peer)) for peer in columns),
            _number(result.speed_up),
            "-" if machine is None else f"{1 / machine:.2f}",
            asked,
            result.verdict,
        ]


def summary_rows(results: Iterable[Result]) -> Iterable[list[str]]:
    for line in summary(results):
        asked = f"{line.verdict} ({MEANS[line.function]:g})" if line.verdict else ""
        yield [line.function, f"{line.mean:.2f}", f"{line.least:.2f}", line.where, asked]


def target_rows(results: Iterable[Result]) -> Iterable[list[str]]:
    """A line for each case with limits of its own, judged by these alone."""
    for result in results:
        limits = result.case.special
        if limits:
            yield [
                result.case.name,
                *(duration(result.best.get(peer)) for peer in (OURS, *TARGET_PEERS)),
                "; ".join(_ratios(result, limit) for limit in limits),
                "; ".join(map(str, limits)),
                result.judged(limits),
            ]


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines))
