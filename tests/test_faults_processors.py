"""As many threads as this process may use and no more: affinity, quotas of containers, the variable, workers."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from children import needs_proc, printed

from fastsoftmax import _machine, _threads

# --- quotas -----------------------------------------------------------------------------


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def version_1(folder: str, quota: int, period: int = 100000) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.parametrize(
    ("files", "groups", "quota"),
    [
        ({}, "", None),
        # version 2: in a container, where the root is the process's own group
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 1.5),
        ({"cpu.max": "max 100000\n"}, "0::/\n", None),
        ({"cpu.max": "50000 100000"}, "", 0.5),
        # version 2: a group somewhere below, and the narrowest of those around it
        ({"a/cpu.max": "max 100000", "a/b/cpu.max": "300000 100000"}, "0::/a/b\n", 3.0),
        ({"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b\n", 2.0),
        ({"a/cpu.max": "200000 100000", "a/b/cpu.max": "400000 100000"}, "0::/a/b\n", 2.0),
        ({"a/cpu.max": "200000 100000"}, "0::/b\n", None),
        # version 1
        (version_1("cpu", 250000), "4:cpu,cpuacct:/\n", 2.5),
        (version_1("cpu", -1), "4:cpu,cpuacct:/\n", None),
        (version_1("cpu/docker/x", 200000), "5:memory:/y\n4:cpu,cpuacct:/docker/x\n", 2.0),
        (version_1("cpu/docker/x", 200000), "4:cpuset:/docker/x\n", None),
        # both at once
        ({"cpu.max": "max 100000", **version_1("cpu", 100000)}, "0::/\n1:cpu:/\n", 1.0),
        # files that lie
        ({"cpu.max": ""}, "0::/\n", None),
        ({"cpu.max": "100000"}, "0::/\n", None),
        ({"cpu.max": "many 100000"}, "0::/\n", None),
        ({"cpu.max": "100000 0"}, "0::/\n", None),
        ({"cpu.max": "-100000 100000"}, "0::/\n", None),
        (version_1("cpu", 100000, 0), "1:cpu:/\n", None),
        ({"cpu/cpu.cfs_quota_us": "100000"}, "1:cpu:/\n", None),
        ({"cpu.max": "100000 100000"}, "no colons\n", 1.0),
        ({"x/cpu.max": "100000 100000"}, "0::/../../x\n", None),
    ],
)
def test_quota(tmp_path: Path, files: dict[str, str], groups: str, quota: float | None) -> None:
    write(tmp_path / "root", files)
    (tmp_path / "groups").write_text(groups)
    assert _machine._quota(tmp_path / "root", tmp_path / "groups") == quota


def test_no_control_groups_at_all(tmp_path: Path) -> None:
    assert _machine._quota(tmp_path / "none", tmp_path / "neither") is None


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this platform")
@pytest.mark.parametrize(
    ("quota", "affinity", "number"),
    [(None, 8, 8), (2.0, 8, 2), (2.9, 8, 2), (0.25, 8, 1), (16.0, 8, 8), (4.0, 2, 2), (1e-9, 8, 1)],
)
def test_the_smaller_of_quota_and_affinity(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, affinity: int, number: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(affinity)))
    monkeypatch.setattr(_machine, "_quota", lambda: quota)
    assert _machine.processors().number == number


# --- never more threads than that -------------------------------------------------------

# The most threads beyond those that were there at the start, one of which does the counting. Those that compile do not
# count: the main thread waits for each of them, and they are known for certain only afterwards.
COUNTED = """
    from fastsoftmax import _threads
    from fastsoftmax._kernels import interrupts

    _threads.WORTH_WAITING_NS = 0  # launches, also where system calls are filtered

    def threads():
        return set(os.listdir("/proc/self/task"))

    class Compiling(interrupts._Compiling):
        def run(self):
            compilers.add(str(threading.get_native_id()))
            super().run()

    compilers, stop = set(), threading.Event()
    interrupts._Compiling = Compiling

    def watch():
        while not stop.is_set():
            seen.append(threads())
            time.sleep(0.0005)

    seen = []
    watcher = threading.Thread(target=watch)
    watcher.start()
    before = threads()
    results = answers() + answers()
    time.sleep(0.1)
    stop.set()
    watcher.join()
    seen.append(threads())
    most = max(len(ids - compilers) for ids in seen)
    print(most - len(before), fastsoftmax.get_num_threads(), right(results[:7]), len(compilers) > 0)
"""
ALONE = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # NumPy's own


@needs_proc
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
@pytest.mark.parametrize("wanted", ["1", "2", "3"])
def test_no_more_threads_than_asked_for(layer: str, wanted: str) -> None:
    """Although Numba would start eight."""
    changes = {"NUMBA_NUM_THREADS": "8", "NUMBA_THREADING_LAYER": layer, "FASTSOFTMAX_NUM_THREADS": wanted}
    assert printed(COUNTED, **changes, **ALONE) == f"{int(wanted) - 1} {wanted} True True"


@needs_proc
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_no_more_threads_than_the_quota(layer: str) -> None:
    """On eight processors of which two may be used."""
    code = """
    from fastsoftmax import _machine
    _machine._quota = lambda: 2.0
    os.sched_getaffinity = lambda process: set(range(8))
    """
    changes = {"NUMBA_NUM_THREADS": "8", "NUMBA_THREADING_LAYER": layer}
    assert printed(code + COUNTED, **changes, **ALONE) == "1 2 True True"


@needs_proc
def test_the_threads_of_other_users_of_numba_stay_theirs() -> None:
    """Numba's pool keeps the size it was started with, and the number that its owner has set."""
    code = """
    import numba
    fastsoftmax.set_num_threads(2)
    expected = answers()
    first = numba.get_num_threads()
    numba.set_num_threads(5)
    print(first, answers() == expected, numba.get_num_threads())
    """
    assert printed(code, NUMBA_NUM_THREADS="8", NUMBA_THREADING_LAYER="omp") == "8 True 5"


def test_more_threads_than_anybody_has() -> None:
    """Of no use, but no error: there is less work than that, and so many cannot be started."""
    code = """
    fastsoftmax.set_num_threads(1)
    expected = answers()
    target = np.zeros(100_000, int)
    logits = np.ones((100_000, 2), np.float32)
    loss = fastsoftmax.cross_entropy(logits, target)
    fastsoftmax.set_num_threads(2**70)
    print(answers() == expected, fastsoftmax.cross_entropy(logits, target) == loss)
    """
    assert printed(code) == "True True"


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_no_thread_can_be_started(layer: str) -> None:
    """For want of memory or processes: the calling thread does it all, each part once."""
    code = """
    fastsoftmax.set_num_threads(1)
    expected = answers()
    fastsoftmax.set_num_threads(4)
    start, allowed = threading.Thread.start, int(sys.argv[1])

    def refuse(thread):
        global allowed
        allowed -= 1
        if allowed < 0:
            raise RuntimeError("can't start new thread")
        start(thread)

    threading.Thread.start = refuse
    good = []
    for _ in range(3):
        good.append(answers() == expected)
        x = inputs[1].copy()
        fastsoftmax.softmax(x, axis=-1, out=x)  # what is done twice in place is wrong
        good.append(x.tobytes() == expected[1])
    print(all(good))
    """
    for allowed in (0, 1, 2):
        assert printed(code, allowed, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="4") == "True"


@needs_proc
def test_no_memory_for_the_stacks_of_threads() -> None:
    """Where OpenMP would end the process."""
    code = """
    import resource
    fastsoftmax.set_num_threads(2)
    expected = answers()
    fastsoftmax.set_num_threads(60)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    limit = used + (150 << 20)  # some of the threads fit, and then nothing else
    results = [np.empty_like(inputs[1]) for _ in range(3)]
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    for result in results:
        fastsoftmax.softmax(inputs[1], axis=-1, out=result)
    resource.setrlimit(resource.RLIMIT_AS, before)
    print([result.tobytes() == expected[1] for result in results])
    """
    assert printed(code, NUMBA_NUM_THREADS="60", NUMBA_THREADING_LAYER="omp", **ALONE) == "[True, True, True]"


def test_a_pool_that_cannot_start_a_thread_has_the_work_in_its_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that it has takes the work from there, and writes to the caller's memory: it is waited for."""
    taken, done = threading.Event(), []

    class Pool:
        def submit(self, *call: Any) -> None:
            threading.Thread(target=call[0], args=call[1:]).start()
            taken.wait(10)
            raise RuntimeError("can't start new thread")

    def part(task: int) -> None:
        taken.set()
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.3)
        done.append(task)

    monkeypatch.setattr(_threads.team, "pool", lambda size: Pool())
    _threads.each(part, 4, 4)
    assert sorted(done) == [0, 1, 2, 3]
