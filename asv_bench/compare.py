"""Compare fastsoftmax with a copy of the same bytes, the machine's limit and other libraries: are the targets met?

Everything is measured in turn in one process. Peers that are not installed, or lack the function, are left out; of
several ways to call one the fastest counts.

    python asv_bench/compare.py                                  # float32, two threads: some ten minutes
    python asv_bench/compare.py --section dtypes --section 'one thread'
    python asv_bench/compare.py --only 'softmax 1x' --quick
    python asv_bench/compare.py --json grid.json --pictures docs
    python asv_bench/compare.py --draw grid.json --pictures docs

Exit code 1: a target was missed in all runs.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from tqdm import tqdm

from fastsoftmax._bench import grid, report
from fastsoftmax._bench.cases import Case, sections
from fastsoftmax._bench.measure import BRISK, QUICK, THOROUGH

EFFORTS = {"quick": QUICK, "brisk": BRISK, "thorough": THOROUGH}


def chosen(names: list[str], pattern: str, targets: bool) -> list[Case]:
    """The cases of some sections whose names fit the pattern; with `targets`, only those with targets of their own."""
    cases = [case for name in names for case in sections()[name]]
    return [case for case in cases if re.search(pattern, case.name) and (case.special or not targets)]


def tell(results: list[grid.Result]) -> None:
    print(report.markdown(report.header(results), report.rows(results)), end="\n\n")
    print(report.markdown(report.SUMMARY_HEADER, report.summary_rows(results)))
    missed = [result.case.name for result in results if result.verdict == grid.MISSED]
    print(f"\n{len(results) - len(missed)} of {len(results)} cases meet their targets")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", action="append", choices=list(sections()), help="default: float32")
    parser.add_argument("--only", metavar="REGEX", default="", help="cases whose name it matches")
    parser.add_argument("--targets", action="store_true", help="only cases that have targets of their own")
    parser.add_argument("--quick", dest="effort", action="store_const", const="quick", default="brisk")
    parser.add_argument("--thorough", dest="effort", action="store_const", const="thorough")
    parser.add_argument("--runs", type=int, default=1, help="go through all cases so many times; the best run counts")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all the numbers there too, case by case")
    parser.add_argument("--draw", metavar="FILE", type=Path, help="measure nothing: show the numbers of this file")
    parser.add_argument("--pictures", metavar="FOLDER", type=Path, help="draw them there (needs matplotlib)")
    arguments = parser.parse_args(argv)
    if arguments.draw:
        about, results = grid.read(arguments.draw)
    else:
        cases = chosen(arguments.section or ["float32"], arguments.only, arguments.targets)
        if not cases:
            parser.error(f"--only {arguments.only!r} matches no case of these sections")
        about, results = grid.environment(), [grid.Result(case) for case in cases]
        for run in range(arguments.runs):
            for result in tqdm(results, desc=f"run {run + 1} of {arguments.runs}", file=sys.stderr):
                result.runs.append(grid.measure(result.case, EFFORTS[arguments.effort]))
                if arguments.json:
                    grid.write(arguments.json, about, [some for some in results if some.runs])
    for key, value in about.items():
        print(f"{key}: {value}")
    print()
    tell(results)
    if arguments.pictures:
        from pictures import draw

        draw(results, about, arguments.pictures)
    return 1 if any(result.verdict == grid.MISSED for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
