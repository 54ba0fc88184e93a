"""What this machine has: caches, usable processors and why that many; how many threads are asked for."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import operator
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

# What most processors of the last ten years have at least, for where the system does not say.
DEFAULT_CACHES = {"l1d": 32 * 1024, "l2": 512 * 1024, "l3": 4 * 1024 * 1024}
VARIABLE = "FASTSOFTMAX_NUM_THREADS"


class Processors(NamedTuple):
    """How many processors this process may use, and what says so."""

    number: int
    reason: str


@functools.cache
def caches() -> dict[str, int]:
    """Bytes of the caches that one processor sees: l1d, l2, l3."""
    found = dict(DEFAULT_CACHES)
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            level = (index / "level").read_text().strip()
            kind = (index / "type").read_text().strip()
            size = (index / "size").read_text().strip()
            name = {"1": "l1d", "2": "l2", "3": "l3"}.get(level)
            if name and kind != "Instruction":
                unit = {"K": 1024, "M": 1024**2, "G": 1024**3}.get(size[-1:], 1)
                found[name] = int(size.rstrip("KMG")) * unit
        except (OSError, ValueError):
            continue
    return found


def processors() -> Processors:
    """The processors that the affinity mask and the container's quota leave to this process."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
        reason = f"affinity mask of {count}"
    else:
        count = os.cpu_count() or 1
        reason = f"{count} in the machine"
    quota = _quota()
    if quota is not None and quota < count:
        return Processors(max(1, int(quota)), f"container quota of {quota:g}, {reason}")
    return Processors(count, reason)


def _quota(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> float | None:
    """Processors by the quota of the control group, version 2 or 1, and of those around it; None without one."""
    # A container sees its own group at the root; elsewhere the process's lies somewhere below.
    paths = {""}
    try:
        for line in groups.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "cpu" in controllers.split(","):
                inner = Path(path.strip("/"))
                paths |= {str(group) for group in (inner, *inner.parents) if ".." not in group.parts}
    except (OSError, ValueError):
        pass
    quotas = [quota for path in paths for quota in (_version_2(root / path), _version_1(root / "cpu" / path))]
    return min((quota for quota in quotas if quota is not None), default=None)


def _version_2(group: Path) -> float | None:
    try:
        limit, period = (group / "cpu.max").read_text().split()
        return None if limit == "max" else _processors_of(int(limit), int(period))
    except (OSError, ValueError):
        return None


def _version_1(group: Path) -> float | None:
    try:
        limit = int((group / "cpu.cfs_quota_us").read_text())
        return _processors_of(limit, int((group / "cpu.cfs_period_us").read_text()))
    except (OSError, ValueError):
        return None


def _processors_of(limit: int, period: int) -> float | None:
    """What so many microseconds in each period are; None for what is no limit, or none that makes sense."""
    return limit / period if limit > 0 and period > 0 else None


def wanted_threads() -> Processors:
    """The number of threads to start with: the environment variable's, else one for each usable processor.

    Workers of a pool or of a data loader share the processors among themselves, and have one thread each.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        workers = sys.modules.get("multiprocessing.process")  # never imported: this process is nobody's worker
        if workers is not None and workers.current_process().daemon:
            return Processors(1, f"one, in a daemonic worker process; {VARIABLE} overrides it")
        return processors()
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise ValueError(f"{VARIABLE} is {os.environ[VARIABLE]!r}: set it to an integer of at least 1, or unset it")
    return Processors(count, f"{VARIABLE}={count}")


def is_filtered(status: Path = Path("/proc/thread-self/status")) -> bool:
    """Whether the calling thread's system calls are filtered (seccomp), as in most containers, or that is not known.

    A filter may end the process for one that it does not allow.
    """
    if sys.platform != "linux":
        return False
    try:
        return b"\nSeccomp:\t0\n" not in status.read_bytes()
    except OSError:
        return True


# -- how many threads
# --------------------------------------------------------------------------------------

_default: int | None = None  # of the process; None: not asked for yet
_is_set = False  # whether set_num_threads gave it
_local: contextvars.ContextVar[int | None] = contextvars.ContextVar("fastsoftmax_threads", default=None)


def get_num_threads() -> int:
    """Return the number of threads that a call made here would use.

    Returns
    -------
    int
        That of the innermost `threads` block, else of `set_num_threads`, else of the environment
        variable ``FASTSOFTMAX_NUM_THREADS``, else 1 in a daemonic process of `multiprocessing`, as
        the workers of pools and data loaders are, else the processors that the affinity mask and the
        container's quota allow.

    Raises
    ------
    ValueError
        If ``FASTSOFTMAX_NUM_THREADS`` is not an integer of at least 1.

    Examples
    --------
    >>> import fastsoftmax
    >>> with fastsoftmax.threads(1):
    ...     fastsoftmax.get_num_threads()
    1
    """
    global _default
    count = _local.get()
    if count is not None:
        return count
    if _default is None:
        _default = wanted_threads().number
    return _default


def set_num_threads(n: int) -> None:
    """Set the number of threads of all calls in this process.

    Results do not depend on it.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is less than 1.

    Examples
    --------
    >>> import fastsoftmax
    >>> before = fastsoftmax.get_num_threads()
    >>> fastsoftmax.set_num_threads(1)
    >>> fastsoftmax.get_num_threads()
    1
    >>> fastsoftmax.set_num_threads(before)
    """
    global _default, _is_set
    _default, _is_set = _checked(n), True


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """Use `n` threads for the calls in a ``with`` block, in this thread or asyncio task alone.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is less than 1.

    Examples
    --------
    >>> import fastsoftmax
    >>> with fastsoftmax.threads(1):
    ...     fastsoftmax.softmax([0.0, 0.0])
    array([0.5, 0.5])
    """
    token = _local.set(_checked(n))
    try:
        yield
    finally:
        _local.reset(token)


def _checked(n: Any) -> int:
    if isinstance(n, bool):
        raise TypeError(f"the number of threads is {n!r}: give an integer of at least 1")
    try:
        count = operator.index(n)
    except TypeError:
        raise TypeError(f"the number of threads is {n!r}: give an integer of at least 1") from None
    if count < 1:
        raise ValueError(f"the number of threads is {count}: give an integer of at least 1")
    return count


def forget_default() -> None:
    """Find the number of threads out again, unless it was set: this process has become another."""
    global _default
    if not _is_set:
        _default = None


@functools.cache
def cpu() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
