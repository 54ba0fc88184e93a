"""The fuzzer runs, finds nothing in some seconds, and would find something."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from children import LIMIT, environment

UNCHECKED = "_loss_arguments._table = lambda labels, *rest: (np.zeros(labels.shape), labels.size)"
FUZZ = Path(__file__).parent / "fuzz.py"


def fuzz(*words: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run it, after changing the library if need be."""
    start = f"import runpy, sys; sys.path.insert(0, {str(FUZZ.parent)!r}); sys.argv = ['fuzz.py', *sys.argv[1:]]\n"
    code = f"{start}{before}\nrunpy.run_path({str(FUZZ)!r}, run_name='__main__')"
    command = [sys.executable, "-c", code, "--dtypes", "float32,float64", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=environment(), check=False)


def test_some_seconds_find_nothing() -> None:
    done = fuzz("--seconds", "10", "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed: none" in done.stdout


@pytest.mark.slow
def test_a_minute_finds_nothing() -> None:
    done = fuzz("--seconds", "60")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("only", "bug"),
    [
        # An error of a kind that is not promised.
        ("arguments", "from fastsoftmax import _arguments; _arguments.axes_of = lambda axis, ndim: 1 // 0"),
        # Labels that are not looked at before they are used.
        (
            "labels",
            "import numpy as np\nfrom fastsoftmax import _loss_arguments\n" + UNCHECKED,
        ),
        # A reader that lets an unforeseen error through.
        pytest.param(
            "files",
            "from fastsoftmax import _commands; _commands._read = lambda source: 1 // 0",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["arguments", "labels", "files"],
)
def test_what_it_is_there_to_find(only: str, bug: str) -> None:
    done = fuzz("--seconds", "60", "--seed", "1", "--only", only, before=bug)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"failed: ['{only}']" in done.stdout
