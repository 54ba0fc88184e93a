"""Renew .ci/requirements.lock and .ci/sbom.cdx.json: what .ci/run installs, and the list of it for others.

    python .ci/lock.py                    # after a change of the requirements: what is locked stays if it can
    python .ci/lock.py --upgrade          # the newest releases; or --upgrade-package NAME

The lock holds every package that any of Python 3.10 to 3.14 needs for the checkers, the extras cli, test and bench and
for building, as wheels with their hashes. The bill of materials (CycloneDX) is made from it and has the same packages;
its scope says what they are for: `required` by the library, `optional` for its command line, `excluded` from both.

.ci/torch.lock is PyTorch's CPU build with what it needs, for one Python on Linux, from wherever pip finds it: indexes
have another build. Where it is not to be had, .ci/run does without.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
LOCK = HERE / "requirements.lock"
TORCH_LOCK = HERE / "torch.lock"
SBOM = HERE / "sbom.cdx.json"
TOOLS = ("uv==0.13.9", "cyclonedx-bom==7.5.0")
TORCH, TORCH_PYTHON = "torch==2.13.0", "3.11"
OLDEST = "3.10"
# Names of hosts say where one machine gets its packages, and nothing about them.
QUIET = ("--quiet", "--no-emit-index-url", "--no-emit-find-links", "--custom-compile-command", "python .ci/lock.py")

Package = tuple[str, str]


def packages(lock: str) -> set[Package]:
    """Names and versions; some packages have several, for different Pythons."""
    return set(re.findall(r"^([a-z0-9-]+)==([^\s;\\]+)", lock, re.M))


def needed_to_build() -> str:
    (line,) = re.findall(r"^requires = (\[.*\])$", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    return "\n".join(json.loads(line))


def compiled(tools: Path, *words: str, lines: str = "") -> str:
    """What uv resolves for every platform and Python."""
    resolve = [tools / "uv", "pip", "compile", "--universal", "--python-version", OLDEST, "--only-binary", ":all:"]
    command = [*map(str, resolve), *QUIET, *words, "pyproject.toml"]
    return subprocess.run(command, cwd=ROOT, input=lines, stdout=subprocess.PIPE, text=True, check=True).stdout


def lock_torch(tools: Path) -> None:
    command = [tools / "uv", "pip", "compile", "--python-version", TORCH_PYTHON, "--only-binary", ":all:"]
    target = ["--generate-hashes", "--output-file", TORCH_LOCK.relative_to(ROOT)]
    places = {"UV_FIND_LINKS": os.environ["PIP_FIND_LINKS"]} if "PIP_FIND_LINKS" in os.environ else {}
    words = [*map(str, (*command, *QUIET, *target)), "-"]
    subprocess.run(
        words, cwd=ROOT, env=os.environ | places, input=TORCH, stdout=subprocess.DEVNULL, text=True, check=True
    )


def bill(tools: Path, scopes: dict[Package, str]) -> dict[str, Any]:
    """What cyclonedx-py makes of the lock, without lines, addresses and hashes: those are in the lock."""
    words = ["requirements", "--output-reproducible", "--short-PURLs", "--mc-type", "library"]
    command = [str(tools / "cyclonedx-py"), *words, "--pyproject", "pyproject.toml", str(LOCK.relative_to(ROOT))]
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    made = json.loads(subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True).stdout)
    for tool in made["metadata"]["tools"]["components"]:
        tool.pop("externalReferences", None)
    for component in made["components"]:
        del component["description"], component["externalReferences"]
        component["bom-ref"] = component["purl"]
        component["scope"] = scopes[component["name"], component["version"]]
    del made["dependencies"]  # it would say that nothing depends on anything
    made["components"].sort(key=lambda component: component["purl"])
    return dict(made)


VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read())
sys.exit(error and str(error))
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        tools = Path(folder) / ("Scripts" if os.name == "nt" else "bin")
        subprocess.run([str(tools / "python"), "-m", "pip", "install", "--quiet", *TOOLS], check=True)

        every = [word for extra in ("cli", "test", "bench") for word in ("--extra", extra)]
        checkers = [".ci/requirements.txt", ".ci/requirements-audit.txt", "-"]
        target = ["--generate-hashes", "--output-file", str(LOCK.relative_to(ROOT))]
        compiled(tools, *every, *target, *sys.argv[1:], *checkers, lines=needed_to_build())

        lock_torch(tools)
        scopes = dict.fromkeys(packages(LOCK.read_text(encoding="utf-8")), "excluded")
        same = ["--constraint", str(LOCK.relative_to(ROOT))]
        scopes |= dict.fromkeys(packages(compiled(tools, *same, "--extra", "cli")), "optional")
        scopes |= dict.fromkeys(packages(compiled(tools, *same)), "required")

        text = json.dumps(bill(tools, scopes), indent=1, ensure_ascii=False) + "\n"
        subprocess.run([str(tools / "python"), "-c", VALIDATE], input=text, text=True, check=True)
        SBOM.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
