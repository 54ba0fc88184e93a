"""Look for known vulnerabilities of what .ci/requirements.lock holds for this Python; fail on any.

pip-audit asks a service. Where none answers, or it does not know a package, that is said and is no failure: a gate
that is closed whenever somebody else's service is down tells nothing of a change. (pip-audit itself ends well when the
service knows none of the packages, so its exit code alone would pass for "clean".)
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCK = Path(__file__).parent / "requirements.lock"
SERVICES = ("pypi", "osv")


def ask(service: str) -> list[dict[str, Any]]:
    """What the service says of each package; nothing if it does not answer."""
    words = ["--require-hashes", "--disable-pip", "--progress-spinner", "off", "--timeout", "15", "--format", "json"]
    command = [sys.executable, "-m", "pip_audit", *words, "--vulnerability-service", service, "--requirement", LOCK]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        return list(json.loads(done.stdout)["dependencies"])
    except (subprocess.TimeoutExpired, ValueError):
        return []


def verdict(answers: dict[str, list[dict[str, Any]]]) -> tuple[int, str]:
    """The exit code, and what is to be said, of what each service answered."""
    known, found = set(), set()
    for answer in answers.values():
        for package in answer:
            if "skip_reason" not in package:
                known.add(package["name"])
            found |= {f"{package['name']} {package['version']}: {v['id']}" for v in package.get("vulns", ())}
    if found:
        return 1, "\n".join(["known vulnerabilities:", *sorted(found)])
    asked = {package["name"] for answer in answers.values() for package in answer}
    total = len(asked) or len(set(re.findall(r"^([a-z0-9-]+)==", LOCK.read_text(encoding="utf-8"), re.M)))
    if len(known) < total:
        return 0, f"NOTICE: only {len(known)} of {total} packages audited, no service answered for the others"
    return 0, f"no known vulnerabilities in {total} packages"


def main() -> int:
    answers: dict[str, list[dict[str, Any]]] = {}
    for service in SERVICES:
        answers[service] = ask(service)
        if any("skip_reason" not in package for package in answers[service]):
            break
    code, text = verdict(answers)
    print(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
