"""What CI installs: the lock has all that is asked for, with hashes, and the bill of materials is that of the lock."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lock, audit = script("lock"), script("audit")
TEXT = lock.LOCK.read_text(encoding="utf-8")


def test_every_package_has_hashes_and_no_address() -> None:
    entries = re.split(r"^(?=[a-z0-9])", "".join(line for line in TEXT.splitlines(True) if "#" not in line), flags=re.M)
    entries = [entry for entry in entries if entry]
    assert len(entries) == len(lock.packages(TEXT)) > 50
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry
    assert "://" not in TEXT
    assert re.findall(r"^\s*-(?!-hash)", TEXT, re.M) == []


def test_the_bill_of_materials_is_that_of_the_lock() -> None:
    bill = json.loads(lock.SBOM.read_text(encoding="utf-8"))
    assert bill["bomFormat"] == "CycloneDX"
    listed = [(component["name"], component["version"]) for component in bill["components"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == lock.packages(TEXT)
    assert {c["name"] for c in bill["components"] if c["scope"] == "required"} == {"llvmlite", "numba", "numpy"}


def test_what_is_asked_for_is_locked() -> None:
    """With the versions that are asked for; `python .ci/lock.py` sees to it."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    wanted += [line for extra in ("cli", "test", "bench") for line in extras[extra]]
    for file in (ROOT / ".ci").glob("requirements*.txt"):
        wanted += [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        versions = [version for locked, version in lock.packages(TEXT) if locked == name]
        assert versions or name == "fastsoftmax", f"{name} is not locked: python .ci/lock.py"
        for version in versions:
            assert version in requirement.specifier, f"{requirement}, but {version} is locked: python .ci/lock.py"


CLEAN = {"name": "a", "version": "1", "vulns": []}
UNKNOWN = {"name": "b", "skip_reason": "not found"}
FLAWED = {"name": "c", "version": "2", "vulns": [{"id": "X-1"}]}


@pytest.mark.parametrize(
    ("answers", "code", "text"),
    [
        ({"pypi": [CLEAN]}, 0, "no known vulnerabilities in 1 packages"),
        ({"pypi": [CLEAN, FLAWED]}, 1, "known vulnerabilities:\nc 2: X-1"),
        ({"pypi": [UNKNOWN], "osv": [CLEAN, UNKNOWN, FLAWED]}, 1, "known vulnerabilities:\nc 2: X-1"),
        ({"pypi": [UNKNOWN, CLEAN]}, 0, "NOTICE: only 1 of 2 packages audited"),
        ({"pypi": [], "osv": []}, 0, "NOTICE: only 0 of "),
    ],
)
def test_the_audit_fails_on_findings_and_tells_of_silence(
    answers: dict[str, list[dict[str, Any]]], code: int, text: str
) -> None:
    got = audit.verdict(answers)
    assert got[0] == code
    assert got[1].startswith(text)
