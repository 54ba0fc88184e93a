"""Compare fastsoftmax with a copy of the same bytes, the machine's limit and other libraries: are the targets met?

Everything is measured in turn in one process. Peers that are not installed, or lack the function, are left out; of
several ways to call one the fastest counts.

    python asv_bench/compare.py                                  # float32 and the other dtypes, two threads
    python asv_bench/compare.py --all                            # on one thread and without `out` too
    python asv_bench/compare.py --section dtypes --section 'one thread'
    python asv_bench/compare.py --targets                        # only cases with limits of their own
    python asv_bench/compare.py --only 'softmax 1x' --quick
    python asv_bench/compare.py --only '^softmax' --paused --runs 1
    python asv_bench/compare.py --json grid.json --pictures docs
    python asv_bench/compare.py --draw grid.json --pictures docs

A case that misses a target is measured once more. Exit code 1: a target was missed in all runs.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from fastsoftmax._bench import grid, report
from fastsoftmax._bench.cases import DTYPES, FLOAT32, Case, sections
from fastsoftmax._bench.measure import BRISK, PAUSED, QUICK, THOROUGH

EFFORTS = {"quick": QUICK, "brisk": BRISK, "thorough": THOROUGH, "paused": PAUSED}


def is_chosen(case: Case, arguments: argparse.Namespace) -> bool:
    return bool(re.search(arguments.only, case.name)) and bool(case.special or not arguments.targets)


def missed(result: grid.Result, targets: bool) -> bool:
    return result.judged(result.case.special if targets else result.case.limits) == grid.MISSED


def tell(results: Sequence[grid.Result], targets: bool) -> None:
    if targets:
        print(report.markdown(report.TARGET_HEADER, report.target_rows(results)), end="\n\n")
    else:
        for section, part in grid.by_section(results).items():
            print(f"## {section}\n\n{report.markdown(report.header(part), report.rows(part))}\n")
            print(report.markdown(report.SUMMARY_HEADER, report.summary_rows(part)), end="\n\n")
    print(f"{sum(missed(result, targets) for result in results)} of {len(results)} cases miss a target")


def measure(results: Sequence[grid.Result], arguments: argparse.Namespace, about: dict[str, object]) -> None:
    """Add a run to each result, and then to those that miss a target, which either of the runs may meet."""
    for run in range(arguments.runs):
        due = [result for result in results if not run or missed(result, arguments.targets)]
        for result in tqdm(due, desc=f"run {run + 1} of {arguments.runs}", file=sys.stderr):
            result.runs.append(grid.measure(result.case, EFFORTS[arguments.effort]))
            if arguments.json:
                grid.write(arguments.json, about, [some for some in results if some.runs])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", action="append", choices=list(sections()), help="default: float32, dtypes")
    parser.add_argument("--all", action="store_true", help="all sections")
    parser.add_argument("--only", metavar="REGEX", default="", help="cases whose name it matches")
    parser.add_argument("--targets", action="store_true", help="only cases that have targets of their own")
    parser.add_argument("--quick", dest="effort", action="store_const", const="quick", default="brisk")
    parser.add_argument("--thorough", dest="effort", action="store_const", const="thorough")
    parser.add_argument(
        "--paused",
        dest="effort",
        action="store_const",
        const="paused",
        help="each call after 20 ms without any, as servers have them (the targets are those of calls without pauses)",
    )
    parser.add_argument(
        "--runs", type=int, help="at most so many; what misses is measured again (default: 2; quick: 1)"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all the numbers there too, case by case")
    parser.add_argument("--draw", metavar="FILE", type=Path, help="measure nothing: show the numbers of this file")
    parser.add_argument("--pictures", metavar="FOLDER", type=Path, help="draw them there (needs matplotlib)")
    arguments = parser.parse_args(argv)
    arguments.runs = arguments.runs or (1 if arguments.effort == "quick" else 2)
    if arguments.draw:
        about, results = grid.read(arguments.draw)
        results = [result for result in results if is_chosen(result.case, arguments)]
    else:
        names = list(sections()) if arguments.all else arguments.section or [FLOAT32, DTYPES]
        cases = [case for name in names for case in sections()[name] if is_chosen(case, arguments)]
        if not cases:
            parser.error(f"--only {arguments.only!r} matches no case of these sections")
        about, results = grid.environment(), [grid.Result(case) for case in cases]
        measure(results, arguments, about)
    for key, value in about.items():
        print(f"{key}: {value}")
    print()
    tell(results, arguments.targets)
    if arguments.pictures:
        from pictures import draw

        draw(results, about, arguments.pictures)
    # A mean is asked of whole functions, not of cases with targets of their own.
    means = [] if arguments.targets else [line.verdict for line in grid.summary(results)]
    return 1 if grid.MISSED in means or any(missed(result, arguments.targets) for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
