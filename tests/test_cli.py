"""The commands: files in, files out, and what happens when something is wrong."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import reference
from command_line import invoke, run
from reference import Axis
from typer.testing import Result

import fastsoftmax


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    x = np.random.default_rng(1).normal(0, 3, (3, 4, 5)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "axis"),
    [
        ([], -1),
        (["--axis", "-1"], -1),
        (["--axis", "0"], 0),
        (["--axis", "none"], None),
        (["--axis", "0,2"], (0, 2)),
        (["--axis", "-1,-3"], (-1, -3)),
    ],
)
def test_commands_write_what_the_functions_return(folder: Path, words: list[str], axis: Axis) -> None:
    x, out = np.load(folder / "x.npy"), folder / "out.npy"
    for command, expected in (
        ("softmax", reference.softmax(x, axis)),
        ("log-softmax", reference.log_softmax(x, axis)),
        ("logsumexp", reference.logsumexp(x, axis)),
    ):
        result = invoke(command, folder / "x.npy", "-o", out, *words)
        assert result.exit_code == 0, result.output
        got = np.load(out)
        assert got.dtype == np.float32
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=2e-6)
        assert list(folder.glob(".*")) == []


def test_temperature(folder: Path) -> None:
    x, out = np.load(folder / "x.npy"), folder / "out.npy"
    assert invoke("softmax", folder / "x.npy", "-o", out, "--temperature", "0.5").exit_code == 0
    np.testing.assert_allclose(np.load(out), reference.softmax(x, -1, temperature=0.5), rtol=2e-6)
    assert invoke("log-softmax", folder / "x.npy", "-o", out, "--temperature", 2).exit_code == 0
    np.testing.assert_allclose(np.load(out), reference.log_softmax(x, -1, temperature=2), rtol=2e-6)


def test_keepdims(folder: Path) -> None:
    out = folder / "out.npy"
    assert invoke("logsumexp", folder / "x.npy", "-o", out, "--axis", 1, "--keepdims").exit_code == 0
    expected = reference.logsumexp(np.load(folder / "x.npy"), 1, keepdims=True)
    np.testing.assert_allclose(np.load(out), expected, rtol=2e-6)
    assert np.load(out).shape == (3, 1, 5)


@pytest.mark.parametrize("dtype", ["<f2", "<f8", ">f4", "|i1", "|b1"])
def test_other_dtypes_and_layouts(folder: Path, dtype: str) -> None:
    x = np.asfortranarray(np.load(folder / "x.npy").astype(dtype))
    np.save(folder / "y.npy", x)
    assert invoke("softmax", folder / "y.npy", "-o", folder / "out.npy").exit_code == 0
    got, expected = np.load(folder / "out.npy"), fastsoftmax.softmax(x, axis=-1)
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1,)])
def test_small_shapes(folder: Path, shape: tuple[int, ...]) -> None:
    np.save(folder / "y.npy", np.zeros(shape))
    assert invoke("softmax", folder / "y.npy", "-o", folder / "out.npy").exit_code == 0
    assert np.load(folder / "out.npy").shape == shape


def test_the_output_may_be_the_input(folder: Path) -> None:
    path = folder / "x.npy"
    expected = reference.softmax(np.load(path), -1)
    assert invoke("softmax", path, "-o", path).exit_code == 0
    np.testing.assert_allclose(np.load(path), expected, rtol=2e-6)


def test_the_summary_and_quiet(folder: Path) -> None:
    arguments = ("logsumexp", folder / "x.npy", "-o", folder / "out.npy", "--axis", "0,2")
    result = invoke(*arguments)
    assert re.fullmatch(
        r"logsumexp: \S+x\.npy \(3, 4, 5\) float32 -> \S+out\.npy \(4,\) float32, "
        r"axis \(0, 2\), computed in \S+ s\n",
        result.stdout,
    )
    assert "axis -1," in invoke(*arguments[:-2]).stdout
    result = invoke(*arguments, "--quiet")
    assert (result.exit_code, result.output) == (0, "")


@pytest.mark.skipif(os.name != "posix", reason="permissions and links of POSIX")
def test_the_output_keeps_its_permissions_and_its_link(folder: Path) -> None:
    target, link = folder / "out.npy", folder / "link.npy"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    assert invoke("softmax", folder / "x.npy", "-o", link).exit_code == 0
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert np.load(target).shape == (3, 4, 5)


def write_pickle(path: Path) -> None:
    np.save(path, np.array([1, "a", None], object), allow_pickle=True)


def write_bfloat16(path: Path) -> None:
    np.save(path, np.zeros((2, 3), ml_dtypes.bfloat16))


def cut_short(path: Path) -> None:
    np.save(path, np.zeros(100))
    path.write_bytes(path.read_bytes()[:-1])


def cut_in_the_header(path: Path) -> None:
    np.save(path, np.zeros(100))
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "in.npy does not exist"),
        (lambda path: path.mkdir(), "in.npy is not a regular file"),
        (lambda path: path.write_text("logits: 1, 2"), "is not an .npy file: write it with"),
        (lambda path: path.write_bytes(b""), "is not an .npy file"),
        (lambda path: np.savez(path.open("wb"), x=np.zeros(3)), "is not an .npy file"),
        (cut_short, "cut short or damaged"),
        (cut_in_the_header, "cut short or damaged"),
        (write_pickle, "holds Python objects"),
        (write_bfloat16, "writes bfloat16 and other types that NumPy lacks: save x.astype("),
        (lambda path: np.save(path, np.array(["a"])), "<U1"),
        (lambda path: np.save(path, np.zeros(3, complex)), "complex"),
        (lambda path: np.save(path, np.zeros(3, [("a", "f4")])), "'a'"),
    ],
)
@pytest.mark.parametrize("command", ["softmax", "log-softmax", "logsumexp"])
def test_input_errors(tmp_path: Path, command: str, write: Callable[[Path], object], message: str) -> None:
    source, out = tmp_path / "in.npy", tmp_path / "out.npy"
    write(source)
    out.write_bytes(b"old")
    check_refused(invoke(command, source, "-o", out), command, message)
    assert out.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} <= {"in.npy", "out.npy"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--axis", "3"], "axis 3 is out of bounds"),
        (["--axis", "0,0"], "axis"),
        (["--axis", "last"], "--axis 'last' is neither an integer"),
        (["--axis", "1.5"], "--axis '1.5' is neither an integer"),
        (["--axis", "1,"], "--axis '1,' is neither an integer"),
        (["--axis", ""], "--axis '' is neither an integer"),
        (["--temperature", "0"], "temperature"),
        (["--temperature", "nan"], "temperature"),
    ],
)
def test_argument_errors(folder: Path, words: list[str], message: str) -> None:
    check_refused(invoke("softmax", folder / "x.npy", "-o", folder / "out.npy", *words), "softmax", message)
    assert [path.name for path in folder.iterdir()] == ["x.npy"]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("no/such/out.npy", "no/such of the output does not exist: create it first"),
        ("x.npy/out.npy", "x.npy of the output does not exist"),
        (".", "is not a regular file"),
    ],
)
def test_output_errors(folder: Path, out: str, message: str) -> None:
    check_refused(invoke("softmax", folder / "x.npy", "-o", folder / out), "softmax", message)
    assert [path.name for path in folder.iterdir()] == ["x.npy"]


@pytest.mark.skipif(not Path(os.devnull).is_char_device(), reason="needs a device file")
def test_a_device_is_not_replaced(folder: Path) -> None:
    # A pipe, and not the null device itself: a failure of this test must not break the machine.
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    check_refused(invoke("softmax", folder / "x.npy", "-o", pipe), "softmax", "not a regular file")
    assert pipe.is_fifo()


def check_refused(result: Result, command: str, message: str) -> None:
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"fastsoftmax {command}: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_error_is_one_line_even_for_a_name_of_two(folder: Path) -> None:
    check_refused(invoke("softmax", folder / "a\nb", "-o", "o"), "softmax", "a b does not exist")


def test_unknown_words_are_refused(folder: Path) -> None:
    assert invoke("softmax", folder / "x.npy").exit_code == 2  # no output
    assert invoke("logsumexp", folder / "x.npy", "-o", "o", "--temperature", 2).exit_code == 2
    assert invoke("soft-max").exit_code == 2


INTERRUPTED = """
import os, resource, signal, sys
import numpy as np, fastsoftmax
from fastsoftmax.cli import main

def kill(stream, array, **options):
    stream.write(b"half")
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)

fastsoftmax.softmax(np.load("x.npy"), axis=-1)  # what is compiled is cached before the limit holds
if sys.argv[1] == "kill":
    np.save = kill
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
sys.argv = ["fastsoftmax", "softmax", "x.npy", "-o", "out.npy"]
main()
"""


@pytest.mark.skipif(os.name != "posix", reason="needs file-size limits and SIGKILL")
@pytest.mark.parametrize(("way", "code", "temporaries"), [("limit", 2, 0), ("kill", -9, 1)])
def test_an_interrupted_write_leaves_the_old_file(folder: Path, way: str, code: int, temporaries: int) -> None:
    np.save(folder / "x.npy", np.zeros((64, 1024)))
    (folder / "out.npy").write_bytes(b"old")
    result = run("-c", INTERRUPTED, way, cwd=folder)
    assert result.returncode == code, result.stderr
    assert (folder / "out.npy").read_bytes() == b"old"
    # Nobody can clean up after SIGKILL; after an error nothing may be left.
    assert len(list(folder.iterdir())) == 2 + temporaries
    if way == "limit":
        assert re.fullmatch(r"fastsoftmax softmax: .+\n", result.stderr)


# --- The rest


def test_info_shows_the_configuration() -> None:
    config = fastsoftmax.show_config(mode="dicts")
    assert json.loads(invoke("info", "--json").stdout) == config
    text = invoke("info", width=60).stdout
    assert max(map(len, text.splitlines())) <= 60
    squeezed = re.sub(r"\s", "", text)  # a long path is folded
    for name, value in config.items():
        shown = f"l1d {value['l1d'] // 1024} KiB" if name == "caches" else str(value)
        assert re.sub(r"\s", "", name.replace("_", " ")) in squeezed
        assert re.sub(r"\s", "", shown) in squeezed


def test_version() -> None:
    expected = f"fastsoftmax {fastsoftmax.__version__}\n"
    assert invoke("--version").stdout == expected
    assert run("-m", "fastsoftmax", "--version").stdout == expected


def test_help_names_every_command() -> None:
    text = invoke("--help").stdout
    for command in ("demo", "info", "softmax", "log-softmax", "logsumexp"):
        assert re.search(rf"^  {command}\s", text, re.M)


@pytest.mark.parametrize("package", ["typer", "rich"])
@pytest.mark.parametrize(
    "start",
    [
        "from fastsoftmax.cli import main; main()",  # what the console script does
        "import runpy; runpy.run_module('fastsoftmax', run_name='__main__')",
    ],
)
def test_without_the_extra_the_fix_is_named(package: str, start: str) -> None:
    result = run("-c", f"import sys; sys.modules[{package!r}] = None; {start}")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == (
        f'The command line needs {package}, which is missing: install it with pip install "fastsoftmax[cli]"\n'
    )


def test_another_missing_module_is_not_blamed_on_the_extra() -> None:
    program = "import sys; from fastsoftmax.cli import main; sys.modules['gzip'] = None; main()"
    result = run("-c", program)
    assert "ModuleNotFoundError" in result.stderr
    assert "fastsoftmax[cli]" not in result.stderr
