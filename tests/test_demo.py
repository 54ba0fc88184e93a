"""The demo: what it prints, against float64 NumPy on the data that are shipped."""

from __future__ import annotations

import gzip
import json
import os
import re
from ast import literal_eval
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import invoke, run
from reference import Array

import fastsoftmax

Shipped = dict[str, Any]
Page = tuple[int, str]

DATA = Path(fastsoftmax.__file__).parent / "data"
CUT = Path(__file__).parent.parent / "tools" / "cut_demo_data.py"


def softmax64(x: Array, axis: int) -> Array:
    e = np.exp(x.astype(np.float64) - x.max(axis=axis, keepdims=True))
    y: Array = e / e.sum(axis=axis, keepdims=True)
    return y


def logsumexp64(x: Array, axis: int, keepdims: bool = False) -> Array:
    y: Array = np.log(np.exp(x.astype(np.float64)).sum(axis=axis, keepdims=keepdims))
    return y


@pytest.fixture(scope="module")
def shipped() -> Shipped:
    with np.load(DATA / "logits.npz", allow_pickle=False) as archive:
        data = dict(archive)
    data["tokens"] = json.loads(gzip.decompress((DATA / "tokens.json.gz").read_bytes()))
    return data


@pytest.fixture(scope="module", params=[80, 100, 120])
def page(request: pytest.FixtureRequest) -> Page:
    result = invoke("demo", width=request.param)
    assert result.exit_code == 0, result.output
    return request.param, result.stdout


def blocks(text: str) -> list[list[str]]:
    """Return the lines of each position in the first table: a context stands in its first line."""
    table = text.split("What comes next?")[1].split("Speed and accuracy")[0].splitlines()
    header = next(i for i, line in enumerate(table) if "context" in line)
    end = table[header].index("context") + len("context")
    body = table[header + 2 :]  # below the rule
    starts = [i for i, line in enumerate(body) if line[:end].strip()]
    return [body[a:b] for a, b in zip(starts, [*starts[1:], len(body)], strict=True)]


def test_the_demo_fits_the_page_and_has_no_escape_codes(page: Page) -> None:
    width, text = page
    assert "\x1b" not in text
    assert "…" not in text  # what rich writes where it cuts
    assert max(map(len, text.splitlines())) <= width


def test_the_demo_shows_the_right_probabilities(page: Page, shipped: Shipped) -> None:
    _, text = page
    probabilities = softmax64(shipped["logits"], -1)
    rows = blocks(text)
    assert len(rows) == len(shipped["targets"]) == 10
    for lines, p, target in zip(rows, probabilities, shipped["targets"], strict=True):
        block = "\n".join(lines)
        expected = sorted(range(p.size), key=lambda token: (-p[token], token))[:5]
        position = 0
        for token in expected:
            # From the last match on: the likeliest must come first.
            entry = re.compile(re.escape(repr(shipped["tokens"][token])) + r" (\d\S+)")
            match = entry.search(block, position)
            assert match, (token, block)
            assert float(match[1]) == pytest.approx(p[token], rel=6e-3)
            position = match.end()
        assert re.search(re.escape(repr(shipped["tokens"][target])) + r"\s+\d+\.\d{3}\s*$", lines[0])
        assert float(lines[1].split()[-1]) == pytest.approx(p[target], rel=6e-3)


def test_the_demo_shows_the_right_perplexity(page: Page, shipped: Shipped) -> None:
    _, text = page
    p = softmax64(shipped["logits"], -1)[np.arange(10), shipped["targets"]]
    for count, lines in enumerate(blocks(text), start=1):
        perplexity = np.prod(p[:count]) ** (-1 / count)
        assert float(lines[0].split()[-1]) == pytest.approx(perplexity, abs=6e-4)


def test_the_demo_shows_the_end_of_each_context(page: Page, shipped: Shipped) -> None:
    _, text = page
    ids = shipped["context_ids"]
    for lines, end in zip(blocks(text), range(len(ids) - 9, len(ids) + 1), strict=True):
        match = re.match(r"\s*('.*?'|\".*?\")\s{3}", lines[0])
        assert match, lines[0]
        shown = literal_eval(match[1])
        whole = "".join(shipped["tokens"][token] for token in ids[:end])
        assert whole.endswith(shown)
        assert len(shown) >= len(shipped["tokens"][ids[end - 1]])


def test_the_demo_shows_the_measured_errors(page: Page, shipped: Shipped) -> None:
    _, text = page
    x = shipped["logits"].astype(np.float32)
    shifted = x - x.max(-1, keepdims=True)
    total = np.exp(shifted).sum(-1, keepdims=True)
    naive = {
        "softmax": np.exp(shifted) / total,
        "log_softmax": shifted - np.log(total),
        "logsumexp": x.max(-1) + np.log(total)[:, 0],
    }
    exact = {
        "softmax": softmax64(x, -1),
        "log_softmax": x - logsumexp64(x, -1, keepdims=True),
        "logsumexp": logsumexp64(x, -1),
    }
    promised = {"softmax": 3, "log_softmax": 3, "logsumexp": 2}
    for name, truth in exact.items():
        number = r"\s+(\d+\.\d+)"
        row = re.search(rf"^ {name}{number} ms{number} ms{number}{number} ulp{number} ulp", text, re.M)
        assert row, (name, text)
        seconds, numpy_seconds, ratio, error, numpy_error = map(float, row.groups())
        assert seconds > 0
        # Each time is rounded to a tenth of a microsecond, and the ratio to a tenth.
        assert ratio == pytest.approx(numpy_seconds / seconds, rel=2e-2, abs=0.06)
        ulp = np.spacing(np.abs(truth).astype(np.float32)).astype(np.float64)
        ours = getattr(fastsoftmax, name)(x, axis=-1)
        assert error == pytest.approx(np.max(np.abs(ours - truth) / ulp), abs=0.01)
        assert numpy_error == pytest.approx(np.max(np.abs(naive[name] - truth) / ulp), abs=0.01)
        assert error <= promised[name]


def test_the_demo_shows_the_loss_and_the_error_of_its_gradient(page: Page, shipped: Shipped) -> None:
    _, text = page
    x, rows, targets = shipped["logits"].astype(np.float32), np.arange(10), shipped["targets"]
    exact = softmax64(x, -1)
    loss = -np.log(exact[rows, targets]).mean()
    exact[rows, targets] -= 1
    exact /= 10
    e = np.exp(x - x.max(-1, keepdims=True))
    naive = e / e.sum(-1, keepdims=True)
    naive[rows, targets] -= 1
    naive /= 10

    def shown(name: str, unit: str) -> tuple[float, float]:
        row = re.search(rf"^ {name}\s+([\d.e+-]+){unit}\s+([\d.e+-]+){unit}\s*$", text, re.M)
        assert row, (name, text)
        return float(row[1]), float(row[2])

    assert shown("loss", " nats") == pytest.approx((loss, loss), abs=3e-6)
    assert shown("perplexity", "") == pytest.approx((np.exp(loss),) * 2, abs=1e-4)
    assert min(shown("loss and gradient", " ms")) > 0
    _, grad = fastsoftmax.cross_entropy_with_grad(x, targets)
    errors = [np.max(np.abs(got - exact)) / np.max(np.abs(exact)) for got in (grad, naive)]
    assert shown("gradient error", "") == pytest.approx(errors, rel=1e-2)
    assert errors[0] <= 3e-7


def test_the_demo_runs_as_a_module_where_only_ascii_can_be_printed() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    result = run("-m", "fastsoftmax", "demo", env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    # rich then draws the rules with bars and plus signs.
    lines = [line.replace("|", " ") for line in result.stdout.splitlines() if not line.startswith("+")]
    assert len(blocks("\n".join(lines))) == 10


def test_the_data_stay_small() -> None:
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 1_200_000


def test_cutting_the_data_is_reproducible(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    context = rng.integers(0, 7, 50, dtype=np.int32)
    logits = rng.normal(size=(20, 7)).astype(np.float16)
    targets = np.append(context[-19:], np.int32(3))
    tokens = ["a", " b", "\n", "é", "\0", "\ufffd", '"']
    np.savez(tmp_path / "l.npz", logits=logits, targets=targets, context_ids=context)
    (tmp_path / "v.json").write_text(json.dumps(tokens), encoding="utf-8")
    written = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        result = run(CUT, tmp_path / "l.npz", tmp_path / "v.json", "--output", folder)
        assert result.returncode == 0, result.stderr
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    assert json.loads(gzip.decompress(written[0]["tokens.json.gz"])) == tokens
    with np.load(tmp_path / "one" / "logits.npz") as cut:
        np.testing.assert_array_equal(cut["logits"], logits[3:13])
        np.testing.assert_array_equal(cut["targets"], targets[3:13])
        np.testing.assert_array_equal(cut["context_ids"], context[:43])
        # The context ends with the last position's own token: each target but the last is in it.
        np.testing.assert_array_equal(cut["context_ids"][-9:], cut["targets"][:-1])


def test_cutting_refuses_targets_that_do_not_follow(tmp_path: Path) -> None:
    context = np.arange(50, dtype=np.int32)
    logits = np.zeros((20, 60), np.float16)
    np.savez(tmp_path / "l.npz", logits=logits, targets=context[-20:], context_ids=context)
    result = run(CUT, tmp_path / "l.npz", tmp_path / "v.json", "--output", tmp_path)
    assert result.returncode == 1
    assert "each target must be the next position's context token" in result.stderr
