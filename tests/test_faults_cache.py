"""The cache of compiled kernels, spoilt in every way: a kernel is then compiled again, and the result is right."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import environment, finish, in_a_mount, printed, program, run, start
from numba.core import event

import fastsoftmax
from fastsoftmax._kernels import cache
from fastsoftmax._kernels.jit import Kernel, array, piece


def doubled(x: Any, out: Any) -> None:
    """A kernel that compiles in no time."""
    for i in range(x.shape[0]):
        out[i] = 2 * x[i]


X = np.arange(5.0)


def compilations(times: int = 1) -> int:
    """Get the kernel as a new process does, and use it; how often it was compiled and not read from the cache."""
    with event.install_recorder("numba:compile") as recorder:
        for _ in range(times):
            out = np.empty_like(X)
            Kernel("doubled", doubled, (array(1), array(1))).compiled("float64")(X, out)
            np.testing.assert_array_equal(out, 2 * X)
    return int(len(recorder.buffer) > 0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache"
    path.mkdir(mode=0o700)
    monkeypatch.setattr(cache, "folder", lambda: path)
    return path


def kept(folder: Path) -> Path:
    (file,) = (path for path in folder.iterdir() if not path.name.endswith(".lock"))
    return file


def test_compiled_once(folder: Path) -> None:
    assert compilations() == 1
    assert compilations(3) == 0
    assert kept(folder).stat().st_mode & 0o077 == 0


def flip(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "1 byte": lambda content: content[:1],
    "31 bytes": lambda content: content[:31],
    "the hash alone": lambda content: content[:32],
    "33 bytes": lambda content: content[:33],
    "half": lambda content: content[: len(content) // 2],
    "less one": lambda content: content[:-1],
    "one more": lambda content: content + b"\0",
    "garbage": lambda content: bytes(range(256)) * (len(content) // 256),
    "zeros": lambda content: bytes(len(content)),
    "a bit of the hash": lambda content: flip(content, 5),
    "a bit in the middle": lambda content: flip(content, len(content) // 2),
    "the last bit": lambda content: flip(content, len(content) - 1),
    "a good hash of nothing": lambda content: hashlib.sha256(b"").digest(),
    "a good hash of no pickle": lambda content: hashlib.sha256(b"no pickle").digest() + b"no pickle",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files(folder: Path, kind: str) -> None:
    """And the file is good again afterwards."""
    compilations()
    file = kept(folder)
    file.write_bytes(DAMAGE[kind](file.read_bytes()))
    assert compilations() == 1
    assert compilations() == 0


@pytest.mark.parametrize("what", ["a folder", "a broken link"])
def test_something_else_in_the_place_of_a_file(folder: Path, what: str) -> None:
    compilations()
    file = kept(folder)
    file.unlink()
    if what == "a folder":
        file.mkdir()
    else:
        file.symlink_to("nowhere")
    assert compilations() == 1


def test_the_folder_goes_away(folder: Path) -> None:
    compilations()
    shutil.rmtree(folder)
    assert compilations() == 1


def test_a_folder_that_may_not_be_entered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its permissions are no obstacle to root, the system's functions say it."""

    def refusing(original: Callable[..., Any]) -> Callable[..., Any]:
        def function(path: Any, *arguments: Any, **options: Any) -> Any:
            if str(folder) in str(path):
                raise PermissionError(13, "Permission denied", str(path))
            return original(path, *arguments, **options)

        return function

    for name in ("stat", "open", "mkdir", "lstat"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    assert compilations() == 1


def test_a_file_system_without_locks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for them."""
    fcntl = pytest.importorskip("fcntl")

    def refused(*arguments: Any) -> None:
        raise OSError(37, "No locks available")

    def awaited(seconds: float) -> None:
        raise AssertionError("waits for a lock that cannot be had")

    monkeypatch.setattr(fcntl, "flock", refused)
    monkeypatch.setattr(cache.time, "sleep", awaited)
    assert compilations() == 1
    assert compilations() == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_lock_is_let_go_although_a_child_has_it_open(folder: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with cache.compiling(folder / "kernel"):
        child = multiprocessing.get_context("fork").Process(target=__import__("time").sleep, args=(30,))
        child.start()
    try:
        with (folder / "kernel.lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        child.kill()
        child.join()


def test_another_processor_or_signature_has_a_file_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compilations()
    monkeypatch.setattr(cache, "_environment", lambda: b"another version")
    assert compilations() == 1
    assert len([path for path in folder.iterdir() if path.suffix != ".lock"]) == 2
    monkeypatch.setattr(cache, "_environment", lambda: None)  # no sources to tell versions apart by
    assert compilations() == 1
    assert compilations() == 1


# --- whole processes --------------------------------------------------------------------

TOTAL = """
    from fastsoftmax import _execute
    print(_execute.total(np.ones(5)), _execute.cache_folder())
"""


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_folder_that_others_may_write_to_is_refused_once(tmp_path: Path) -> None:
    for mode in (0o777, 0o770, 0o1777):
        folder = tmp_path / oct(mode)
        folder.mkdir()
        folder.chmod(mode)
        done = run(
            TOTAL + "    _execute.total(np.ones(5)); fastsoftmax.show_config()", FASTSOFTMAX_CACHE_DIR=str(folder)
        )
        assert done.stdout.startswith("5.0 None\n")
        assert done.stderr.count("RuntimeWarning") == 1
        assert "chmod go-w" in done.stderr
        assert str(folder) in done.stderr
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"HOME": "", "XDG_CACHE_HOME": ""},
        {"HOME": "/nonexistent/home", "XDG_CACHE_HOME": ""},
        {"HOME": "/dev/null", "XDG_CACHE_HOME": ""},
        {"XDG_CACHE_HOME": "/proc/nothing"},
        {"FASTSOFTMAX_CACHE_DIR": "/dev/null/cache"},
        {"FASTSOFTMAX_CACHE_DIR": "/dev/null"},
        {"FASTSOFTMAX_CACHE_DIR": "/" + "n" * 300},
        {"FASTSOFTMAX_CACHE_DIR": "relative/cache"},
    ],
    ids=str,
)
def test_no_folder_to_be_had(tmp_path: Path, changes: dict[str, str]) -> None:
    given = environment(**{"FASTSOFTMAX_CACHE_DIR": "", **changes})
    given["TMPDIR"] = str(tmp_path)
    code = f"import os; os.chdir({str(tmp_path)!r})\n" + program(TOTAL)
    if changes.get("HOME") == "/nonexistent/home":
        # Root could make it.
        code = (
            "import pathlib; pathlib.Path.mkdir = lambda *a, **k: (_ for _ in ()).throw(PermissionError(13, 'no'))\n"
            + code
        )
    done = finish(start(code, **given))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("5.0 ")


def test_home_unset() -> None:
    code = """
    import os
    for name in ("HOME", "XDG_CACHE_HOME", "FASTSOFTMAX_CACHE_DIR"):
        os.environ.pop(name, None)
    import pathlib
    def no_home(): raise RuntimeError("Could not determine home directory.")
    pathlib.Path.home = no_home
    """
    assert printed(code + TOTAL) == "5.0 None"


@pytest.mark.parametrize(
    "options", ["ro", "size=4k", *(pytest.param(o, marks=pytest.mark.slow) for o in ("size=16k", "nr_inodes=3"))]
)
def test_a_read_only_or_full_disk(tmp_path: Path, options: str) -> None:
    script = tmp_path / "main.py"
    script.write_text(program(TOTAL))
    command = [f"{sys.executable} {script}", f"{sys.executable} {script}"]
    done = in_a_mount(tmp_path / "disk", f"mode=700,{options}", command, FASTSOFTMAX_CACHE_DIR=str(tmp_path / "disk"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["5.0", "5.0"]


def copied(target: Path) -> Path:
    package = Path(fastsoftmax.__file__).parent
    shutil.copytree(package, target / "fastsoftmax", ignore=shutil.ignore_patterns("__pycache__", "data"))
    return target


def test_a_changed_module_is_compiled_anew_and_versions_take_turns(tmp_path: Path) -> None:
    """A function that a kernel calls from another module: Numba's own cache would not see it."""
    versions = [copied(tmp_path / name) for name in ("one", "two")]
    changed = versions[1] / "fastsoftmax" / "_kernels" / "soft_targets.py"
    source = changed.read_text()
    assert source.count("return whole(s, rest)") == 1
    changed.write_text(source.replace("return whole(s, rest)", "return whole(s, rest) + 1.0"))
    folder = tmp_path / "cache"
    seen = []
    for _ in range(2):
        for version, total in zip(versions, ("5.0", "6.0"), strict=True):
            code = f"import sys; sys.path.insert(0, {str(version)!r})\n" + program(TOTAL)
            done = finish(start(code, FASTSOFTMAX_CACHE_DIR=str(folder)))
            assert (done.returncode, done.stdout) == (0, f"{total} {folder}\n"), done.stderr
        seen.append({path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.suffix != ".lock"})
    assert len(seen[0]) == 2
    assert seen[0] == seen[1]


SHARED = """
    from fastsoftmax import _execute
    names = sys.argv[1].split(",")
    small = np.arange(6.0).reshape(2, 3)
    for name in names:
        if name == "total":
            assert _execute.total(np.ones(5)) == 5.0
        elif name == "cap":
            x, slope = small.copy(), small.copy()
            _execute.run_cap(x, slope, 3.0)
            assert np.allclose(x, 3 * np.tanh(small / 3))
        else:
            got = fastsoftmax.softmax(small.astype(name), axis=-1)
            assert np.allclose(got, plain(small, -1), rtol=1e-2), got
    print("right")
"""


def at_once(folder: Path, wanted: list[str]) -> None:
    children = [start(program(SHARED), names, FASTSOFTMAX_CACHE_DIR=str(folder)) for names in wanted]
    for child in children:
        done = finish(child)
        assert (done.returncode, done.stdout, done.stderr) == (0, "right\n", "")


def test_nine_processes_on_a_cold_cache(tmp_path: Path) -> None:
    at_once(tmp_path / "cache", ["total,cap", "cap,total", "total"] * 3)
    names = sorted(path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock")
    assert [name.split("-")[0] for name in names] == ["cap_rows", "sum_numbers"]


@pytest.mark.slow
def test_nine_processes_with_different_dtypes_on_a_cold_cache(tmp_path: Path) -> None:
    at_once(tmp_path / "cache", ["float32,float64", "float64,float16", "float16,float32"] * 3)
    names = [path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]
    assert len(names) == 3


def scaled_by(factor: float) -> Callable[..., None]:
    """A kernel whose part has the name of the parts of its like."""

    @piece
    def part(x: Any, out: Any) -> None:
        for i in range(x.shape[0]):
            out[i] = factor * x[i]

    def whole(x: Any, out: Any) -> None:
        part(x, out)

    return whole


def test_kernels_share_no_code(folder: Path) -> None:
    """One may come from the cache, with names from another process: others see its entry alone, under its own name."""
    names = []
    for number in (2, 3):
        kernel = Kernel(f"by_{number}", scaled_by(number), (array(1), array(1)))
        out = np.empty_like(X)
        kernel.compiled("float64")(X, out)
        np.testing.assert_array_equal(out, number * X)
        (compiled,) = kernel.dispatcher.overloads.values()
        functions = compiled.library.get_defined_functions()
        seen = [function.name for function in functions if function.linkage.name != "internal"]
        names += [name.partition(f"by_{number}")[1] for name in seen]
    assert set(names) == {"by_2", "by_3"}, "code that others can take for theirs"


def test_no_warnings_of_its_own(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compilations(2)
