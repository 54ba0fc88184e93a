"""The examples, each run as a reader would."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import run

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--class-weights", "balanced"],
        ["--label-smoothing", "0.1"],
        ["--class-weights", "balanced", "--label-smoothing", "0.1"],
    ],
    ids=" ".join,
)
def test_digits_are_read(words: list[str]) -> None:
    pytest.importorskip("sklearn")
    result = run(EXAMPLES / "digits.py", *words)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    accuracies = dict(re.findall(r"^(.+): test accuracy (0\.\d+), test loss 0\.\d+$", result.stdout, re.M))
    assert set(accuracies) == {"softmax regression", "two-layer network"}
    assert min(map(float, accuracies.values())) > 0.96


def test_digits_are_read_the_same_way_twice() -> None:
    pytest.importorskip("sklearn")
    first, second = (run(EXAMPLES / "digits.py", "--seed", 1).stdout for _ in range(2))
    assert first == second != ""
