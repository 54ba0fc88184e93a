"""Files from outside: headers that lie, files cut while they are read, full disks, SIGKILL (more in `test_cli`)."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import environment, finish, in_a_mount, program, run, start
from command_line import invoke

needs_posix = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")


def npy(
    header: str | bytes, content: bytes = b"", *, version: tuple[int, int] = (1, 0), length: int | None = None
) -> bytes:
    """A file with this header, which says that it is `length` bytes long."""
    header = header.encode("latin1") if isinstance(header, str) else header
    size = struct.pack("<H" if version == (1, 0) else "<I", len(header) if length is None else length)
    return b"\x93NUMPY" + bytes(version) + size + header + content


def says(descr: str = "'<f4'", shape: str = "(4,)", fortran: str = "False", more: str = "") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, {more}}}\n"


NUMBERS = np.arange(4, dtype=np.float32).tobytes()
LYING = {
    "10^15 elements": npy(says(shape="(10**15,)".replace("10**15", "1" + "0" * 15)), NUMBERS),
    "2^62 squared": npy(says(shape=f"({2**62}, {2**62})"), NUMBERS),
    "more than any integer": npy(says(shape="(" + "9" * 40 + ",)"), NUMBERS),
    "2^64 that is 0": npy(says(shape=f"({2**32}, {2**32})"), NUMBERS),
    "negative": npy(says(shape="(-4,)"), NUMBERS),
    "negative twice": npy(says(shape="(-2, -2)"), NUMBERS),
    "one more": npy(says(shape="(5,)"), NUMBERS),
    "bool": npy(says(shape="(True,)"), NUMBERS[:3]),
    "no tuple": npy(says(shape="4"), NUMBERS),
    "floats": npy(says(shape="(4.0,)"), NUMBERS),
    "100 axes": npy(says(shape="(" + "1," * 100 + ")"), NUMBERS),
    "no shape": npy("{'descr': '<f4', 'fortran_order': False}\n", NUMBERS),
    "another key": npy(says(more="'x': 1"), NUMBERS),
    "no dict": npy("[1, 2]\n", NUMBERS),
    "nothing": npy("", NUMBERS),
    "open bracket": npy("{'descr': '<f4', (\n", NUMBERS),
    "open quote": npy("{'descr': '<f4\n", NUMBERS),
    "a call": npy("__import__('os').abort()\n", NUMBERS),
    "brackets": npy("(" * 3000 + ")" * 3000 + "\n", NUMBERS, version=(2, 0)),
    "very long": npy(" " * 20000 + says(), NUMBERS, version=(2, 0)),
    "zeros": npy(bytes(118), NUMBERS),
    "not utf-8": npy(b"\xff\xfe{}\n", NUMBERS, version=(3, 0)),
    "shorter than it says": npy(says(), NUMBERS, length=5000),
    "4 GB of header": npy(says(), NUMBERS, version=(2, 0), length=2**32 - 1),
    "version 9": npy(says(), NUMBERS, version=(9, 9)),
    "no type": npy(says(descr="'nothing'"), NUMBERS),
    "a type of no size": npy(says(descr="'V0'"), NUMBERS),
    "a huge type": npy(says(descr="'V2000000000'"), NUMBERS),
    "an empty type": npy(says(descr="[]"), NUMBERS),
    "a tuple of a type": npy(says(descr="('<f4', (2, 2, 2))"), NUMBERS),
    "a tuple of nothing": npy(says(descr="()"), NUMBERS),
    "objects": npy(says(descr="'|O'"), NUMBERS),
    "text": npy(says(descr="'<U1'"), NUMBERS),
    "dates": npy(says(descr="'<M8[s]'", shape="(2,)"), NUMBERS),
    "complex": npy(says(descr="'<c8'", shape="(2,)"), NUMBERS),
    "order": npy(says(fortran="3"), NUMBERS),
}


@pytest.mark.parametrize("kind", LYING)
def test_lying_headers(tmp_path: Path, kind: str) -> None:
    source, out = tmp_path / "in.npy", tmp_path / "out.npy"
    source.write_bytes(LYING[kind])
    out.write_bytes(b"old")
    for words in (["softmax", source, "-o", out], ["cross-entropy", source, source]):
        result = invoke(*words)
        assert (result.exit_code, result.stdout) == (2, ""), result.output
        assert result.stderr.startswith(f"fastsoftmax {words[0]}: ")
        assert result.stderr.count("\n") == 1
    assert out.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"in.npy", "out.npy"}


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "opened",)

    (tmp_path / "in.npy").write_bytes(npy(says(descr="'|O'", shape="(1,)"), pickle.dumps(Bomb())))
    (tmp_path / "plain.npy").write_bytes(pickle.dumps(Bomb()))
    for name in ("in.npy", "plain.npy"):
        assert invoke("softmax", tmp_path / name, "-o", tmp_path / "out.npy").exit_code == 2
    assert not (tmp_path / "opened").exists()


@needs_posix
def test_a_claim_allocates_nothing(tmp_path: Path) -> None:
    """Where it would not even fit; the file with holes is as long as it says, and does not fit either."""
    (tmp_path / "claim.npy").write_bytes(LYING["10^15 elements"])
    with (tmp_path / "holes.npy").open("wb") as stream:
        stream.write(npy(says(shape=f"({2**36},)")))
        try:
            stream.truncate(2**38 + stream.tell())
        except OSError:
            pytest.skip("no files of this length here")
    code = """
    from fastsoftmax.cli import main
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
    sys.argv = ["fastsoftmax", "softmax", sys.argv[1], "-o", sys.argv[2]]
    main()
    """
    for name, message in (("claim.npy", "cut short or damaged"), ("holes.npy", "")):
        done = run(code, tmp_path / name, tmp_path / "out.npy")
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out.npy").exists()


CUT_MEANWHILE = """
    from fastsoftmax import _commands
    from fastsoftmax.cli import main
    source, out = sys.argv[1:]
    original = np.empty

    def cut(*arguments, **options):
        # Between the look at the header and the reading.
        os.truncate(source, 5000)
        return original(*arguments, **options)

    class Numpy:
        def __getattr__(self, name):
            return cut if name == "empty" else getattr(np, name)

    _commands.np = Numpy()
    sys.argv = ["fastsoftmax", "softmax", source, "-o", out]
    main()
"""


@needs_posix
def test_a_file_that_is_cut_while_it_is_read(tmp_path: Path) -> None:
    """What is mapped would end the process with SIGBUS."""
    np.save(tmp_path / "in.npy", np.zeros((300, 1000), np.float32))
    (tmp_path / "out.npy").write_bytes(b"old")
    done = run(CUT_MEANWHILE, tmp_path / "in.npy", tmp_path / "out.npy")
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "was cut short while it was read" in done.stderr
    assert (tmp_path / "out.npy").read_bytes() == b"old"


@needs_posix
def test_a_file_that_is_cut_again_and_again(tmp_path: Path) -> None:
    """By another process at whatever moment: the whole result or an error."""
    whole = np.arange(3_000_000, dtype=np.float32).reshape(3000, 1000) % 7
    np.save(tmp_path / "whole.npy", whole)
    code = """
    import shutil
    from command_line import invoke
    source, out = sys.argv[1], sys.argv[2]
    until, seen = time.monotonic() + 3, set()
    expected = fastsoftmax.softmax(np.load(sys.argv[3]), axis=-1)
    while time.monotonic() < until:
        result = invoke("softmax", source, "-o", out)
        seen.add(result.exit_code)
        if result.exit_code == 0:
            # What was there when it was read: for the time of a copy, the end may be missing but never be wrong.
            assert np.array_equal(np.load(out), expected)
        else:
            assert result.exit_code == 2 and result.stderr.count(chr(10)) == 1, result.output
    print(sorted(seen))
    """
    source = tmp_path / "in.npy"
    shutil.copy(tmp_path / "whole.npy", source)
    child = start(
        program(code),
        source,
        tmp_path / "out.npy",
        tmp_path / "whole.npy",
        PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]),
    )
    generator = random.Random(1)
    while child.poll() is None:
        time.sleep(generator.random() * 0.05)
        os.truncate(source, generator.randrange(12_000_128))
        time.sleep(generator.random() * 0.02)
        shutil.copy(tmp_path / "whole.npy", tmp_path / "fresh.npy")
        (tmp_path / "fresh.npy").replace(source)
    done = finish(child)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() in ("[0]", "[0, 2]", "[2]")


@needs_posix
@pytest.mark.parametrize("seed", range(6))
def test_sigkill_at_any_moment_leaves_the_old_file_or_the_new(tmp_path: Path, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(4000, 2000)).astype(np.float32)
    source, out = tmp_path / "in.npy", tmp_path / "out.npy"
    np.save(source, x)
    np.save(out, np.zeros(5))
    command = [sys.executable, "-m", "fastsoftmax", "softmax", str(source), "-o", str(out)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment())
    until = time.monotonic() + 120
    # The moments that matter are those from the first byte of the new file on.
    while child.poll() is None and not list(tmp_path.glob(".fastsoftmax-*")) and time.monotonic() < until:
        time.sleep(0.001)
    time.sleep(0.04 * seed)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert np.array_equal(np.load(source), x)
    result = np.load(out)
    if result.shape != (5,):
        np.testing.assert_allclose(result.sum(axis=1), 1, rtol=1e-5)
    # Whoever comes next is not hindered by what the killed one left.
    assert subprocess.run(command, capture_output=True, env=environment(), check=False).returncode == 0
    assert np.load(out).shape == x.shape


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.zeros((100, 1000), np.float32))
    command = [
        "printf old > out.npy",
        f"{sys.executable} -m fastsoftmax softmax {tmp_path / 'in.npy'} -o out.npy; echo $?",
        "cat out.npy",
        "ls -A",
    ]
    done = in_a_mount(tmp_path / "disk", "size=64k", command)
    assert done.stdout == "2\noldout.npy\n", done
    assert "out.npy cannot be written" in done.stderr
    assert done.stderr.count("\n") == 1
