"""The demo: a language model's logits read as probabilities, and the time and error of doing so."""

from __future__ import annotations

import gzip
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

import fastsoftmax

TOP = 5
REPEATS = 21
GAP = "  "


@dataclass(frozen=True)
class Passage:
    """Consecutive positions of a text, and a language model's logits for the token after each."""

    logits: NDArray[np.float16]  # (positions, vocabulary)
    targets: NDArray[np.int32]  # (positions,): the tokens that really follow
    context_ids: NDArray[np.int32]  # the text up to and including the last position
    tokens: list[str]  # (vocabulary,)

    def context(self, position: int) -> NDArray[np.int32]:
        """Return the ids of the text up to and including `position`."""
        return self.context_ids[: len(self.context_ids) - len(self.targets) + position + 1]


@dataclass(frozen=True)
class Prediction:
    """What the model expected at one position, and what came."""

    top: NDArray[np.intp]  # the likeliest tokens, the likeliest first
    top_probabilities: NDArray[np.float32]
    target_probability: float
    perplexity: float  # of the positions up to and including this one


@dataclass(frozen=True)
class Comparison:
    """Median seconds and worst error, in units in the last place, of one function done two ways."""

    name: str
    seconds: float
    error: float
    numpy_seconds: float
    numpy_error: float


@dataclass(frozen=True)
class Training:
    """What a training step asks of logits and true tokens, done one way."""

    loss: float  # mean cross-entropy, nats
    gradient_error: float  # the worst, as a share of the gradient's largest entry
    seconds: float  # median, for loss and gradient


def load_passage() -> Passage:
    """Read the passage that is shipped with the package; ``data/README.md`` tells its origin."""
    folder = files("fastsoftmax") / "data"
    with (folder / "logits.npz").open("rb") as stream, np.load(stream, allow_pickle=False) as data:
        arrays = {name: data[name] for name in ("logits", "targets", "context_ids")}
    text = gzip.decompress((folder / "tokens.json.gz").read_bytes()).decode("utf-8")
    return Passage(tokens=json.loads(text), **arrays)


def predict(passage: Passage) -> list[Prediction]:
    """Read each position's logits as probabilities; perplexity is exp(-mean log-probability)."""
    logits = passage.logits.astype(np.float32)
    rows = np.arange(len(logits))
    probabilities = fastsoftmax.softmax(logits, axis=-1)
    log_probabilities = fastsoftmax.log_softmax(logits, axis=-1)[rows, passage.targets]
    perplexities = np.exp(-np.cumsum(log_probabilities, dtype=np.float64) / (rows + 1))
    # A stable order gives equal logits in the order of their ids, on every machine.
    top = np.argsort(-probabilities, axis=-1, kind="stable")[:, :TOP]
    return [
        Prediction(
            top=top[row],
            top_probabilities=probabilities[row, top[row]],
            target_probability=float(probabilities[row, passage.targets[row]]),
            perplexity=float(perplexities[row]),
        )
        for row in rows
    ]


def numpy_softmax(x: NDArray[Any], out: NDArray[Any]) -> None:
    """Softmax of the last axis by the textbook: exp(x - max) / sum."""
    np.subtract(x, x.max(axis=-1, keepdims=True), out=out)
    np.exp(out, out=out)
    np.divide(out, out.sum(axis=-1, keepdims=True), out=out)


def numpy_log_softmax(x: NDArray[Any], out: NDArray[Any]) -> None:
    """Log-softmax of the last axis by the textbook: (x - max) - log(sum)."""
    np.subtract(x, x.max(axis=-1, keepdims=True), out=out)
    np.subtract(out, np.log(np.exp(out).sum(axis=-1, keepdims=True)), out=out)


def numpy_logsumexp(x: NDArray[Any], out: NDArray[Any]) -> None:
    """Log-sum-exp of the last axis by the textbook: max + log(sum)."""
    top = x.max(axis=-1, keepdims=True)
    np.add(top[..., 0], np.log(np.exp(x - top).sum(axis=-1)), out=out)


def numpy_cross_entropy(x: NDArray[Any], targets: NDArray[np.int32], grad: NDArray[Any]) -> Any:
    """Mean cross-entropy by the textbook; its gradient, (softmax - one-hot) / rows, goes to `grad`."""
    rows = np.arange(len(x))
    numpy_softmax(x, grad)
    loss = -np.log(grad[rows, targets]).mean()
    grad[rows, targets] -= 1
    grad /= len(x)
    return loss


def ulp_error(got: NDArray[Any], exact: NDArray[np.longdouble]) -> float:
    """Return the worst error in units of the spacing of `exact` rounded to the dtype of `got`."""
    spacing = np.spacing(np.abs(exact.astype(got.dtype)))
    return float(np.max(np.abs(got - exact) / spacing))


def median_seconds(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Return the median time of each call; they take turns, so that a busy moment hits all."""
    for call in calls:
        call()  # compiles, and touches the memory
    seconds = np.empty((REPEATS, len(calls)))
    for repeat in seconds:
        for index, call in enumerate(calls):
            start = time.perf_counter()
            call()
            repeat[index] = time.perf_counter() - start
    return [float(median) for median in np.median(seconds, axis=0)]


def compare(x: NDArray[np.float32]) -> list[Comparison]:
    """Measure each function beside NumPy's textbook formula, which in long double is the truth."""
    comparisons = []
    for name, textbook, shape in (
        ("softmax", numpy_softmax, x.shape),
        ("log_softmax", numpy_log_softmax, x.shape),
        ("logsumexp", numpy_logsumexp, x.shape[:-1]),
    ):
        got, plain = np.empty(shape, x.dtype), np.empty(shape, x.dtype)
        function = getattr(fastsoftmax, name)
        seconds, numpy_seconds = median_seconds([partial(function, x, axis=-1, out=got), partial(textbook, x, plain)])
        exact = np.empty(shape, np.longdouble)
        textbook(x.astype(np.longdouble), exact)
        comparisons.append(
            Comparison(
                name=name,
                seconds=seconds,
                error=ulp_error(got, exact),
                numpy_seconds=numpy_seconds,
                numpy_error=ulp_error(plain, exact),
            )
        )
    return comparisons


def compare_training(x: NDArray[np.float32], targets: NDArray[np.int32]) -> tuple[Training, Training]:
    """Measure loss and gradient by fastsoftmax and by NumPy's textbook formula, which in long double is the truth."""
    exact = np.empty(x.shape, np.longdouble)
    numpy_cross_entropy(x.astype(np.longdouble), targets, exact)
    got, plain = np.empty_like(x), np.empty_like(x)
    ours = partial(fastsoftmax.cross_entropy_with_grad, x, targets, out=got)
    textbook = partial(numpy_cross_entropy, x, targets, plain)
    seconds, numpy_seconds = median_seconds([ours, textbook])

    def result(loss: Any, grad: NDArray[np.float32], seconds: float) -> Training:
        error = np.max(np.abs(grad - exact)) / np.max(np.abs(exact))
        return Training(loss=float(loss), gradient_error=float(error), seconds=seconds)

    return result(ours()[0], got, seconds), result(textbook(), plain, numpy_seconds)


def show(console: Console) -> None:
    """Print the whole demo."""
    passage = load_passage()
    positions, classes = passage.logits.shape
    console.print(
        f"Logits of the language model SmolLM2-135M-Instruct (4-bit weights) over {positions} "
        f"consecutive tokens of the Apache License 2.0: {classes} at each position, one for every "
        "token that might come next.",
        highlight=False,
    )
    # The spinner is for the first run, which compiles; "line" is plain ASCII, for any terminal.
    with console.status("Computing (the first run compiles) ...", spinner="line"):
        predictions = predict(passage)
        logits = passage.logits.astype(np.float32)
        comparisons = compare(logits)
        ours, textbook = compare_training(logits, passage.targets)
    console.print(prediction_table(passage, predictions, console.width))
    console.print(comparison_table(comparisons, passage.logits.shape))
    console.print()
    console.print(training_table(ours, textbook))


class Packed:
    """Pieces of text side by side, as many on a line as fit; none is ever broken."""

    def __init__(self, pieces: Sequence[Text]) -> None:
        self.pieces = pieces

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        lengths = [len(piece) for piece in self.pieces]
        return Measurement(max(lengths), sum(lengths) + len(GAP) * (len(lengths) - 1))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Text()
        for piece in self.pieces:
            if line and len(line) + len(GAP) + len(piece) > options.max_width:
                yield line
                line = Text()
            line.append(GAP if line else "").append_text(piece)
        yield line


def prediction_table(passage: Passage, predictions: Sequence[Prediction], width: int) -> Table:
    """Lay out what the model expected at each position, for a page of `width` characters."""
    table = _table(title="What comes next?")
    table.add_column("context", justify="right", no_wrap=True)
    table.add_column(f"{TOP} most likely next tokens, probability")
    table.add_column("true token,\nprobability", no_wrap=True)
    table.add_column("perplexity\nso far", justify="right", no_wrap=True)
    for position, prediction in enumerate(predictions):
        target = passage.targets[position]
        candidates = [
            Text(
                f"{passage.tokens[token]!r} {_probability(probability)}",
                style="bold green" if token == target else "",
            )
            for token, probability in zip(prediction.top, prediction.top_probabilities, strict=True)
        ]
        table.add_row(
            Text(_tail(passage, position, width // 5)),
            Packed(candidates),
            Text(f"{passage.tokens[target]!r}\n{_probability(prediction.target_probability)}"),
            f"{prediction.perplexity:.3f}",
        )
    return table


def _probability(value: float) -> str:
    return f"{value:#.3g}"


def _tail(passage: Passage, position: int, width: int) -> str:
    """Return the last token of the context, and as many before it as fit in `width` characters."""
    tail = ""
    for token in reversed(passage.context(position)):
        longer = passage.tokens[token] + tail
        if tail and len(repr(longer)) > width:
            break
        tail = longer
    return repr(tail)


def comparison_table(comparisons: Sequence[Comparison], shape: tuple[int, ...]) -> Table:
    """Lay out the times and errors of each function."""
    table = _table(
        title=f"Speed and accuracy on these {shape[0]} x {shape[1]} logits as float32",
        caption=(
            f"Time: median of {REPEATS} calls in turn, out= given; fastsoftmax on "
            f"{fastsoftmax.get_num_threads()} thread(s), NumPy's textbook formula (x - max, exp, "
            "sum) on one. Error: the worst, in units in the last place, against long double."
        ),
    )
    table.add_column("function", no_wrap=True)
    for heading in ("fastsoftmax\ntime", "NumPy\ntime", "times\nfaster"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("fastsoftmax\nerror", "NumPy\nerror"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparisons:
        table.add_row(
            row.name,
            f"{row.seconds * 1e3:.4f} ms",
            f"{row.numpy_seconds * 1e3:.4f} ms",
            f"{row.numpy_seconds / row.seconds:.1f}",
            f"{row.error:.2f} ulp",
            f"{row.numpy_error:.2f} ulp",
        )
    return table


def training_table(ours: Training, textbook: Training) -> Table:
    """Lay out the loss, and the time and error of its gradient."""
    table = _table(
        title="Cross-entropy of the true tokens, and its gradient",
        caption=(
            "Perplexity: exp(loss). Gradient error: the worst, as a share of the gradient's largest entry, against "
            "long double."
        ),
    )
    table.add_column("", no_wrap=True)
    for heading in ("fastsoftmax", "NumPy"):
        table.add_column(heading, justify="right", no_wrap=True)
    both = (ours, textbook)
    table.add_row("loss", *(f"{way.loss:.6f} nats" for way in both))
    table.add_row("perplexity", *(f"{math.exp(way.loss):.4f}" for way in both))
    table.add_row("gradient error", *(f"{way.gradient_error:.2e}" for way in both))
    table.add_row("loss and gradient", *(f"{way.seconds * 1e3:.3f} ms" for way in both))
    return table


def _table(*, title: str, caption: str | None = None) -> Table:
    return Table(
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
