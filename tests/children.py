"""Programs in a process of their own: a crash is a negative return code, a hang a failure after a time limit."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
LIMIT = 240.0  # seconds; most take one, but kernels may have to be compiled first

# What most programs start with. `answers()` are the results of kernels of every kind, `check()` compares them with
# those of the start and ends the process if they differ.
PRELUDE = """
    import os, sys, threading, time
    import numpy as np
    import fastsoftmax

    rng = np.random.default_rng(1)
    shapes = [(4, 10), (600, 1000), (60000, 10), (3, 300000), (7, 90, 130)]
    inputs = [rng.normal(0, 4, shape).astype(np.float32) for shape in shapes]
    labels = rng.integers(0, 1000, 600)

    def one(number):
        if number < 4:
            return fastsoftmax.softmax(inputs[number], axis=-1).tobytes()
        if number == 4:
            return fastsoftmax.softmax(inputs[4], axis=1).tobytes()
        if number == 5:
            return fastsoftmax.logsumexp(inputs[1], axis=-1).tobytes()
        loss, gradient = fastsoftmax.cross_entropy_with_grad(inputs[1], labels)
        return loss.tobytes() + gradient.tobytes()

    def answers():
        return [one(number) for number in range(7)]

    def plain(x, axis):
        e = np.exp(x.astype(float) - x.max(axis, keepdims=True))
        return e / e.sum(axis, keepdims=True)

    def right(results):
        # Against NumPy alone: that a process agrees with itself is not enough.
        for number in range(5):
            axis = 1 if number == 4 else -1
            got = np.frombuffer(results[number], np.float32).reshape(inputs[number].shape)
            if not np.allclose(got, plain(inputs[number], axis), rtol=1e-5, atol=1e-30):
                return False
        return True

    def several_tasks():
        # Whether this process shares work among threads.
        from fastsoftmax import _plan
        return _plan.rows("softmax", "float32", 600, 1000, fastsoftmax.get_num_threads()).tasks > 1
"""


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what others would set for the number of threads, and with these changes."""
    unwanted = {"FASTSOFTMAX_NUM_THREADS", "NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER", "OMP_NUM_THREADS"}
    return {name: value for name, value in os.environ.items() if name not in unwanted} | changes


def program(code: str) -> str:
    """The prelude and this code, each indented as it may be."""
    return textwrap.dedent(PRELUDE) + textwrap.dedent(code)


def start(code: str, *arguments: object, **changes: str) -> subprocess.Popen[str]:
    """Start a program, in a session of its own so that it can be ended with all its children."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**changes),
        start_new_session=True,
    )


def finish(child: subprocess.Popen[str], limit: float = LIMIT) -> subprocess.CompletedProcess[str]:
    """What a program printed and how it ended; a failure if it takes longer than the limit."""
    try:
        out, err = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
        _, err = child.communicate()
        pytest.fail(f"still running after {limit} s: {err[-2000:]}")
    return subprocess.CompletedProcess(child.args, child.returncode, out, err)


def run(code: str, *arguments: object, limit: float = LIMIT, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run the prelude and this code."""
    return finish(start(program(code), *arguments, **changes), limit)


def printed(code: str, *arguments: object, limit: float = LIMIT, **changes: str) -> str:
    """The last line that the prelude and this code print; a failure if they end otherwise than well."""
    done = run(code, *arguments, limit=limit, **changes)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr[-3000:]}"
    lines = done.stdout.strip().splitlines()
    return lines[-1] if lines else ""


def in_a_mount(folder: Path, options: str, commands: list[str], **changes: str) -> subprocess.CompletedProcess[str]:
    """Run shell commands in a file system of its own in `folder`, which ends with them; skipped without the right."""
    folder.mkdir()
    mount = f"mount -t tmpfs -o {options} none {folder} && cd {folder} && "
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "-m", "sh", "-c", mount + "true"], capture_output=True).returncode:
        pytest.skip("needs root and mounts")
    return subprocess.run(
        [unshare, "-m", "sh", "-c", mount + " && ".join(commands)],
        capture_output=True,
        text=True,
        env=environment(**changes),
        timeout=LIMIT,
    )


class Busy:
    """Python threads that keep the processors busy meanwhile."""

    def __init__(self, count: int = 2) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]

    def _work(self) -> None:
        import numpy as np

        x = np.ones((300, 300))
        while not self._stop.is_set():
            x = np.minimum(x @ x, 1.0)

    def __enter__(self) -> Busy:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
