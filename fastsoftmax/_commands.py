"""The commands: files in, files out, what the machine offers, and the demo."""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NoReturn

import numpy as np
import typer
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import fastsoftmax
from fastsoftmax import _demo, _evaluate, _measured

app = typer.Typer(
    name="fastsoftmax",
    help="Softmax, log-softmax, log-sum-exp and cross-entropy of .npy files.",
    no_args_is_help=True,
    add_completion=False,
    # Plain help and plain errors: a message must survive a pipe or a log file in one piece.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Source = Annotated[Path, typer.Argument(metavar="IN.npy", help="The array to read.")]
Target = Annotated[Path, typer.Option("--output", "-o", metavar="OUT.npy", help="The file to write; may be IN.")]
AxisText = Annotated[
    str,
    typer.Option("--axis", metavar="AXIS", help="An integer, a list like 0,2, or none for all."),
]
Temperature = Annotated[float, typer.Option("--temperature", help="Divide the logits by this number > 0.")]
Keepdims = Annotated[bool, typer.Option("--keepdims", help="Keep the reduced axes, with length 1.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Do not print the summary.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

Axis = int | tuple[int, ...] | None


class UserError(Exception):
    """A request that cannot be met, told in a message that names the value and the fix."""


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fastsoftmax {fastsoftmax.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


@app.command()
def softmax(
    source: Source,
    output: Target,
    axis: AxisText = "-1",
    temperature: Temperature = 1.0,
    quiet: Quiet = False,
) -> None:
    """Write the probabilities of the logits in IN.npy."""
    _transform_file(
        "softmax",
        lambda x, axis: fastsoftmax.softmax(x, axis=axis, temperature=temperature, out=_in_place(x)),
        source,
        output,
        axis,
        quiet,
    )


@app.command("log-softmax")
def log_softmax(
    source: Source,
    output: Target,
    axis: AxisText = "-1",
    temperature: Temperature = 1.0,
    quiet: Quiet = False,
) -> None:
    """Write the log-probabilities of the logits in IN.npy."""
    _transform_file(
        "log-softmax",
        lambda x, axis: fastsoftmax.log_softmax(x, axis=axis, temperature=temperature, out=_in_place(x)),
        source,
        output,
        axis,
        quiet,
    )


@app.command()
def logsumexp(
    source: Source,
    output: Target,
    axis: AxisText = "-1",
    keepdims: Keepdims = False,
    quiet: Quiet = False,
) -> None:
    """Write log(sum(exp(x))) of the array in IN.npy."""
    _transform_file(
        "logsumexp",
        lambda x, axis: fastsoftmax.logsumexp(x, axis=axis, keepdims=keepdims),
        source,
        output,
        axis,
        quiet,
    )


@app.command("cross-entropy")
def cross_entropy(
    logits: Annotated[Path, typer.Argument(metavar="LOGITS.npy", help="The logits.")],
    targets: Annotated[
        Path,
        typer.Argument(metavar="TARGETS.npy", help="The true class indices, integers; no axis of classes."),
    ],
    axis: Annotated[int, typer.Option("--axis", metavar="AXIS", help="The axis of the classes.")] = -1,
    ignore_index: Annotated[
        int,
        typer.Option("--ignore-index", metavar="INDEX", help="Rows with this class index do not count."),
    ] = -100,
    as_json: AsJson = False,
) -> None:
    """Score the logits in LOGITS.npy against the classes in TARGETS.npy.

    Prints the mean cross-entropy loss (nats), the perplexity (its exponential), the accuracy, the
    top-5 accuracy, the expected calibration error and the number of rows that count. The
    calibration error is that of Guo et al., arXiv:1706.04599, with 15 bins of equal width of the
    confidence, the probability of the likeliest class. JSON has null for what is not finite, for
    example every mean if no row counts.
    """
    try:
        evaluation = _evaluate.evaluate(_read(logits), _read(targets), axis, ignore_index)
    except (UserError, OSError, MemoryError, TypeError, ValueError) as error:
        _fail(f"cross-entropy: {error}")
    values = asdict(evaluation)
    if as_json:
        # JSON has neither NaN nor infinity.
        typer.echo(json.dumps({name: x if math.isfinite(x) else None for name, x in values.items()}, indent=2))
        return
    _print_table({name: f"{x:.6g}" if isinstance(x, float) else str(x) for name, x in values.items()})


@app.command()
def info(as_json: AsJson = False) -> None:
    """Show the versions, the processor and the threads in use."""
    config: dict[str, Any] = fastsoftmax.show_config(mode="dicts")
    if as_json:
        typer.echo(json.dumps(config, indent=2))
        return
    caches = ", ".join(f"{level} {size // 1024} KiB" for level, size in config["caches"].items())
    _print_table({name: str(value) for name, value in (config | {"caches": caches}).items()})


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="A few cases, measured briefly.")] = False,
    only: Annotated[str, typer.Option("--only", metavar="REGEX", help="Cases whose name it matches.")] = "",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all numbers there.")] = None,
) -> None:
    """Measure it here against whatever other libraries are installed.

    PyTorch, ONNX Runtime, JAX and SciPy take part where they are installed, plain NumPy always does, and so do a copy
    of the logits and the machine's limit, a parallel loop over the same bytes.
    """
    try:
        _measured.show(Console(), quick, only, json_file)
    except ValueError as error:
        _fail(f"bench: {error}")


@app.command()
def demo() -> None:
    """Try it on the logits of a language model."""
    _demo.show(Console())


def _transform_file(
    name: str,
    function: Callable[[NDArray[Any], Axis], Any],
    source: Path,
    output: Path,
    axis: str,
    quiet: bool,
) -> None:
    """Apply `function` to the array in `source` and write the result to `output`."""
    try:
        parsed_axis = _parse_axis(axis)
        array = _read(source)
        before = f"{source} {array.shape} {array.dtype}"
        with _replacing(output) as stream:
            start = time.perf_counter()
            result = np.asarray(function(array, parsed_axis))
            seconds = time.perf_counter() - start
            try:
                np.save(stream, result, allow_pickle=False)
            except OSError as error:
                raise UserError(f"{output} cannot be written ({error}): make room on its disk") from None
    except (UserError, OSError, MemoryError, TypeError, ValueError) as error:
        # AxisError is a ValueError.
        _fail(f"{name}: {error}")
    if not quiet:
        typer.echo(
            f"{name}: {before} -> {output} {result.shape} {result.dtype}, "
            f"axis {parsed_axis}, computed in {seconds:.3g} s"
        )


def _print_table(values: dict[str, str]) -> None:
    """Print a line for each name and its value."""
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name.replace("_", " "), Text(value))
    Console().print(table)


def _parse_axis(text: str) -> Axis:
    """Read ``none``, an integer or a comma list of integers."""
    if text.strip().lower() == "none":
        return None
    try:
        axes = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--axis {text!r} is neither an integer, a list of integers like 0,2, nor none") from None
    return axes if len(axes) > 1 else axes[0]


def _in_place(x: NDArray[Any]) -> NDArray[Any] | None:
    """The array for its own result, if that is of its type: a file's array then takes its memory once."""
    return x if x.dtype in (np.float16, np.float32, np.float64) and x.dtype.isnative else None


def _read(source: Path) -> NDArray[Any]:
    """Read the array in `source`.

    Into memory of its own: of a file that is mapped and then cut by somebody else, the missing pages would end the
    process.
    """
    if not source.exists():
        raise UserError(f"{source} does not exist")
    if not source.is_file():
        raise UserError(f"{source} is not a regular file")
    with source.open("rb") as stream:
        # NumPy takes a file without this mark for a pickle or an archive and says so, which
        # would send the user the wrong way.
        if stream.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
            raise UserError(f"{source} is not an .npy file: write it with numpy.save")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a lying header overflows
                # Checks the header, and that the file is as long as it says, before anything is allocated.
                mapped = np.load(source, mmap_mode="r", allow_pickle=False)
                offset = mapped.offset
                order: Literal["C", "F"] = "C" if mapped.flags.c_contiguous else "F"
                shape, dtype = mapped.shape, mapped.dtype
                del mapped
        except Exception as error:  # noqa: BLE001 - there is no end to what a header can make NumPy raise
            reason = (
                "it holds Python objects, which would have to be unpickled: save numbers"
                if "objects" in str(error)
                else "it is cut short or damaged: write it again"
            )
            raise UserError(f"{source} cannot be read, {reason} ({error})") from None
        _check_numbers(source, dtype)
        array = np.empty(shape, dtype, order)
        stream.seek(offset)
        content = array.reshape(-1, order=order).view(np.uint8).data
        if stream.readinto(content) != array.nbytes:
            raise UserError(f"{source} was cut short while it was read: write it again")
    return array


def _check_numbers(source: Path, dtype: np.dtype[Any]) -> None:
    if dtype.kind == "V" and dtype.names is None:
        raise UserError(
            f"{source} holds raw {dtype.itemsize}-byte records ({dtype.str}), which is "
            "how numpy.save writes bfloat16 and other types that NumPy lacks: save "
            "x.astype(numpy.float32) instead"
        )
    if dtype.kind not in "biuf":
        raise UserError(f"{source} holds {dtype}: save real numbers")


@contextmanager
def _replacing(output: Path) -> Iterator[BinaryIO]:
    """Open a file beside `output` that takes its place at the end; on an error, leave no trace.

    A process that is killed leaves the old file or the new one under the name, never a part.
    """
    target = output.resolve()  # through a link, to the file that the user means
    if not target.parent.is_dir():
        raise UserError(f"the folder {output.parent} of the output does not exist: create it first")
    if target.exists() and not target.is_file():
        # Replacing would destroy a device or a pipe.
        raise UserError(f"the output {output} is not a regular file")
    temporary = target.with_name(f".fastsoftmax-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())  # before the name is given, should the machine itself go down
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _fail(message: str) -> NoReturn:
    """Print `message` in one line on the error stream and exit with 2."""
    typer.echo(f"fastsoftmax {' '.join(message.split())}", err=True)
    raise typer.Exit(2)
