"""``fastsoftmax bench``: the grid of `_bench` on this machine, as a table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

import fastsoftmax
from fastsoftmax._bench import grid, report
from fastsoftmax._bench.cases import FLOAT32, Case, sections
from fastsoftmax._bench.measure import BRISK, QUICK

# With ``--quick``: arrays up to this size, which take a minute or so.
QUICK_BYTES = 2 * 2**20


def show(console: Console, quick: bool, only: str, json_file: Path | None) -> None:
    """Measure and print; raise ValueError for a pattern that is none or fits nothing."""
    cases = chosen(quick, only)
    threads = fastsoftmax.get_num_threads()
    results: list[grid.Result] = []
    about = grid.environment()
    try:
        for case in track(cases, "measuring", console=console, transient=True):
            results.append(grid.Result(case, [grid.measure(case, QUICK if quick else BRISK)]))
            if json_file is not None:
                grid.write(json_file, about, results)
    finally:
        fastsoftmax.set_num_threads(threads)
    console.print(f"{about['cpu']}, {about['instruction_set']}, {about['processors']} processors, {threads} threads")
    console.print(", ".join(f"{name} {version}" for name, version in about["versions"].items()))
    console.print(table(report.header(results)[:-2], (line[:-2] for line in report.rows(results))))
    console.print(table(report.SUMMARY_HEADER[:-1], (line[:-1] for line in report.summary_rows(results))))


def chosen(quick: bool, only: str) -> list[Case]:
    """The cases of float32 on the threads of a call made here."""
    try:
        pattern = re.compile(only)
    except re.error as error:
        raise ValueError(f"--only {only!r} is no regular expression: {error}") from None
    cases = [case for case in sections()[FLOAT32] if pattern.search(case.name)]
    if not cases:
        raise ValueError(f"--only {only!r} matches no case")
    if quick:
        cases = [case for case in cases if case.bytes <= QUICK_BYTES]
        if not cases:
            raise ValueError(f"--only {only!r} matches only cases that --quick leaves out: measure without it")
    # The grid names its cases for two threads; what is asked here is what a call made here takes.
    return [replace(case, threads=fastsoftmax.get_num_threads()) for case in cases]


def table(head: list[str], lines: Iterable[list[str]]) -> Table:
    """A table for the terminal: names to the left, numbers to the right."""
    made = Table(box=box.SIMPLE)
    for i, name in enumerate(head):
        made.add_column(name, justify="left" if i == 0 else "right", overflow="fold")
    for cells in lines:
        made.add_row(*cells)
    return made
