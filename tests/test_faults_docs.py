"""Every test that `docs/reliability.md` names is there, and every test of faults is named."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"


def named() -> set[tuple[str, str]]:
    """File and function; a name without a file is of the file named last."""
    found, file = set(), ""
    for name in re.findall(r"`(test_\w+\.py|(?:test_\w+\.py)?::\w+)`", PAGE.read_text(encoding="utf-8")):
        path, _, function = name.partition("::")
        file = path or file
        found.add((file, function))
    return found


def functions(file: str) -> list[str]:
    return re.findall(r"^def (test_\w+)", (TESTS / file).read_text(encoding="utf-8"), re.M)


def test_what_is_named_exists() -> None:
    assert len(named()) > 40
    for file, function in named():
        assert (TESTS / file).exists(), file
        assert not function or function in functions(file), f"{file}::{function}"


def test_every_file_of_faults_is_named() -> None:
    files = {path.name for path in TESTS.glob("test_faults_*.py")} - {Path(__file__).name}
    assert files <= {file for file, _ in named()}
