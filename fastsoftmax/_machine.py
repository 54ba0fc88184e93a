"""What this machine has: caches, usable processors and why that many, the instruction set."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path
from typing import NamedTuple

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


def _quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Processors by the quota of the control group, version 2 or 1; None without one."""
    try:
        limit, period = (root / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
        period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        return None if int(limit) <= 0 else int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def wanted_threads() -> Processors:
    """The number of threads to start with: the environment variable's, else one for each usable processor."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return processors()
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise ValueError(f"{VARIABLE} is {os.environ[VARIABLE]!r}: set it to an integer of at least 1, or unset it")
    return Processors(count, f"{VARIABLE}={count}")


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
