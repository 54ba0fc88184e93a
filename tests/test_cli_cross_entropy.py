"""The command cross-entropy: its numbers against plain NumPy, and what it says of files that do not fit."""

from __future__ import annotations

import json
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from command_line import invoke, run
from reference import Array
from typer.testing import Result

from fastsoftmax import _evaluate

Values = dict[str, float | None]


def save(folder: Path, logits: Array, targets: Array) -> tuple[Path, Path]:
    np.save(folder / "logits.npy", logits)
    np.save(folder / "targets.npy", targets)
    return folder / "logits.npy", folder / "targets.npy"


def values_of(result: Result) -> Values:
    """Read what --json printed, strictly: NaN and Infinity are no JSON."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    assert result.exit_code == 0, result.output
    values: Values = json.loads(result.stdout, parse_constant=refuse)
    return values


def plain(logits: Array, targets: Array, axis: int, ignored: int) -> dict[str, float]:
    """The same numbers row by row, by the textbook, in float64."""
    rows = np.moveaxis(logits.astype(np.float64), axis, -1)
    rows = rows.reshape(-1, rows.shape[-1])
    losses, hits, near_hits = [], [], []
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    for row, target in zip(rows, targets.ravel(), strict=True):
        if target == ignored:
            continue
        p = np.exp(row - row.max())
        p /= p.sum()
        order = sorted(range(row.size), key=lambda c: (-row[c], c))
        losses.append(-np.log(p[target]))
        hits.append(order[0] == target)
        near_hits.append(target in order[:5])
        (place,) = [m for m in range(15) if m / 15 < p.max() <= (m + 1) / 15]
        bins[place].append((float(p.max()), hits[-1]))
    error = sum(abs(sum(hit - p for p, hit in members)) for members in bins) / len(losses)
    return {
        "loss": float(np.mean(losses)),
        "perplexity": float(np.exp(np.mean(losses))),
        "accuracy": float(np.mean(hits)),
        "top_5_accuracy": float(np.mean(near_hits)),
        "expected_calibration_error": error,
        "rows": len(losses),
    }


def example(shape: tuple[int, ...], axis: int, dtype: str = "<f4") -> tuple[Array, Array]:
    """Logits that often rank their target high, some of equal size, and targets of which some are ignored."""
    rng = np.random.default_rng(3)
    classes = shape[axis]
    targets = rng.integers(0, classes, shape[: axis % len(shape)] + shape[axis % len(shape) + 1 :])
    truth = np.moveaxis(np.eye(classes)[targets], -1, axis)
    logits = np.round(rng.normal(0, 2, shape) + 3 * truth, 1).astype(dtype)
    targets[rng.random(targets.shape) < 0.2] = -100
    return logits, targets


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((300, 10), -1), ((10, 300), 0), ((2, 7, 5, 6), 1), ((2, 7, 5, 6), -3), ((3, 4, 900), 2), ((50, 3), 1)],
)
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", "|i1"])
@pytest.mark.parametrize("chunk", [1, 100, _evaluate.CHUNK])
def test_the_numbers_are_those_of_plain_numpy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], axis: int, dtype: str, chunk: int
) -> None:
    monkeypatch.setattr(_evaluate, "CHUNK", chunk)
    logits, targets = example(shape, axis, dtype)
    files = save(tmp_path, logits, targets)
    values = values_of(invoke("cross-entropy", *files, "--axis", axis, "--json"))
    assert values == pytest.approx(plain(logits, targets, axis, -100), rel=1e-6)


def test_layouts_and_dtypes_of_targets(tmp_path: Path) -> None:
    logits, targets = example((60, 8), -1)
    kept = np.where(targets < 0, 3, targets)
    expected = plain(logits, kept, -1, 3)
    for dtype in ("|u1", "|i1", ">i4", "<u8"):
        files = save(tmp_path, np.asfortranarray(logits), kept.astype(dtype))
        values = values_of(invoke("cross-entropy", *files, "--ignore-index", 3, "--json"))
        assert values == pytest.approx(expected, rel=1e-6)


def test_one_row_and_no_rows(tmp_path: Path) -> None:
    values = values_of(invoke("cross-entropy", *save(tmp_path, np.array([0.0, 1.0]), np.array(1)), "--json"))
    assert values["loss"] == pytest.approx(np.log1p(np.exp(-1)))
    assert (values["accuracy"], values["rows"]) == (1, 1)
    values = values_of(invoke("cross-entropy", *save(tmp_path, np.zeros((0, 4)), np.zeros(0, int)), "--json"))
    assert values.pop("rows") == 0
    assert set(values.values()) == {None}


def test_confidence_far_from_zero_keeps_its_digits(tmp_path: Path) -> None:
    logits = np.full((4, 2), -30000, np.float32)
    logits[:, 1] += 0.5
    files = save(tmp_path, logits, np.array([1, 1, 1, 0]))
    values = values_of(invoke("cross-entropy", *files, "--json"))
    assert values["expected_calibration_error"] == pytest.approx(0.75 - 1 / (1 + np.exp(-0.5)), rel=1e-6)


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    files = save(tmp_path, np.zeros((3, 4)), np.full(3, -100))
    values = values_of(invoke("cross-entropy", *files, "--json"))
    assert values.pop("rows") == 0
    assert set(values.values()) == {None}
    assert len(re.findall(r"\bnan\b", invoke("cross-entropy", *files).stdout)) == 5

    logits = np.zeros((4, 2))
    logits[0, 1], logits[1, 0] = -np.inf, np.nan
    files = save(tmp_path, logits, np.array([1, 1, 0, 0]))
    values = values_of(invoke("cross-entropy", *files, "--json"))
    # The row with the NaN counts as wrong, and so does the class that is impossible.
    assert values["accuracy"] == 0.5
    assert values["top_5_accuracy"] == 0.75
    assert values["loss"] is values["perplexity"] is values["expected_calibration_error"] is None

    # A loss that is finite, but whose exponential is not.
    files = save(tmp_path, np.array([[0.0, 1000.0]]), np.array([0]))
    values = values_of(invoke("cross-entropy", *files, "--json"))
    assert (values["loss"], values["perplexity"], values["expected_calibration_error"]) == (1000, None, 1)


@pytest.mark.parametrize("width", [44, 80])
def test_the_table_shows_the_numbers(tmp_path: Path, width: int) -> None:
    logits, targets = example((300, 10), -1)
    files = save(tmp_path, logits, targets)
    result = invoke("cross-entropy", *files, width=width)
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= width
    for name, value in plain(logits, targets, -1, -100).items():
        shown = re.search(rf"^\s*{name.replace('_', ' ')}\s+(\S+)\s*$", result.stdout, re.M)
        assert shown, (name, result.stdout)
        assert float(shown[1]) == pytest.approx(value, rel=1e-5)


def test_the_help_says_what_the_calibration_error_is() -> None:
    text = " ".join(invoke("cross-entropy", "--help").stdout.split())
    assert "Guo et al., arXiv:1706.04599, with 15 bins of equal width of the confidence" in text
    assert re.search(r"^  cross-entropy\s", invoke("--help").stdout, re.M)


def test_nothing_of_the_size_of_the_logits_is_made(tmp_path: Path) -> None:
    shape = (4096, 4096)
    logits = np.lib.format.open_memmap(tmp_path / "logits.npy", "w+", np.float32, shape)
    logits[:, ::7] = 1
    targets = np.zeros(shape[0], int)
    _evaluate.evaluate(logits[:300], targets[:300], -1, -100)  # compiles
    tracemalloc.start()
    try:
        _evaluate.evaluate(logits, targets, -1, -100)
        assert tracemalloc.get_traced_memory()[1] < logits.nbytes / 8
    finally:
        tracemalloc.stop()


def test_it_runs_as_a_program_of_its_own(tmp_path: Path) -> None:
    logits, targets = example((30, 5), -1)
    result = run("-m", "fastsoftmax", "cross-entropy", *save(tmp_path, logits, targets), "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["rows"] == np.count_nonzero(targets >= 0)


def bad_label(label: int) -> Array:
    targets = np.zeros((2, 3), int)
    targets[1, 2] = label
    return targets


@pytest.mark.parametrize(
    ("logits", "targets", "words", "message"),
    [
        (np.zeros((2, 3, 4)), bad_label(4), [], "target[1, 2] is 4: class indices go from 0 to 3"),
        (np.zeros((2, 3, 4)), bad_label(-1), [], "target[1, 2] is -1: class indices go from 0 to 3"),
        (np.zeros((2, 3, 4)), bad_label(-100), ["--ignore-index", "7"], "is -100: class indices go from 0 to 3, and"),
        (np.zeros(4), np.array(4), [], "target is 4: class indices go from 0 to 3"),
        (np.zeros((4, 2, 3)), bad_label(0), [], "need (4, 2): give --axis 0"),
        (np.zeros((4, 2)), np.zeros(3, int), [], "need (4,): save one class index for each row"),
        (np.zeros((4, 2)), np.zeros(4, int), ["--axis", "2"], "axis 2 is out of bounds"),
        (np.zeros((4, 0)), np.zeros(4, int), [], "there are no classes on axis 1"),
        (np.zeros(()), np.zeros((), int), [], "axis -1 is out of bounds"),
        (np.zeros((4, 2)), np.zeros(4), [], "the targets are float64: class indices are integers"),
        (np.zeros((4, 2)), np.zeros(4, bool), [], "the targets are bool: class indices are integers"),
        (np.zeros((4, 2), complex), np.zeros(4, int), [], "complex"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    tmp_path: Path, logits: Array, targets: Array, words: list[str], message: str
) -> None:
    check_refused(invoke("cross-entropy", *save(tmp_path, logits, targets), *words), message)


@pytest.mark.parametrize("name", ["logits", "targets"])
def test_files_that_cannot_be_read_are_refused(tmp_path: Path, name: str) -> None:
    files = save(tmp_path, np.zeros((4, 2)), np.zeros(4, int))
    path = tmp_path / f"{name}.npy"
    np.save(path, np.array([1, "a"], object), allow_pickle=True)
    check_refused(invoke("cross-entropy", *files), f"{name}.npy cannot be read, it holds Python objects")
    path.write_bytes(path.read_bytes()[:40])
    check_refused(invoke("cross-entropy", *files), f"{name}.npy cannot be read, it is cut short")
    path.unlink()
    check_refused(invoke("cross-entropy", *files), f"{name}.npy does not exist")


def check_refused(result: Result, message: str) -> None:
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("fastsoftmax cross-entropy: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
