"""Compiled kernels on disk: one file for each, private to the user, safe to share between processes.

Numba's own cache keeps an index that two writers can spoil (numba#4807, #8578), does not see that a function
called by a kernel has changed (#1833), and raises where a folder cannot be written or a file is damaged.
Here a file's name is the hash of all that its code depends on, so that nothing needs an index and nothing is
ever stale; its first bytes are the hash of the rest; it is written aside and renamed; and whatever fails,
the kernel is compiled instead.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import stat
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import CompileResultCacheImpl, _Cache
from numba.core.compiler_lock import global_compiler_lock

from fastsoftmax._machine import caches

from .interrupts import end_if_unwanted

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK_SECONDS = 120.0


@functools.cache
def folder() -> Path | None:
    """The folder of compiled kernels, made if need be; None if there is none to be had.

    ``FASTSOFTMAX_CACHE_DIR`` names it, else it lies in the user's cache folder. What is unpickled from it runs
    as code, so a folder that others may write to is refused.
    """
    try:
        path = _wanted_folder()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(path):
            warnings.warn(
                f"fastsoftmax does not use its cache folder {path}: other users can write to it. "
                "Run `chmod go-w` on it, or name another one in FASTSOFTMAX_CACHE_DIR.",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
    except (OSError, RuntimeError):
        return None
    return path


def _wanted_folder() -> Path:
    named = os.environ.get("FASTSOFTMAX_CACHE_DIR")
    if named:
        return Path(named)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "fastsoftmax"


def _is_private(path: Path) -> bool:
    if os.name != "posix":
        return True
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


@functools.cache
def _environment() -> bytes | None:
    """What all code depends on: the sources beside this file, the compiler, the caches; None without sources."""
    digest = hashlib.sha256()
    try:
        sources = [source.read_bytes() for source in sorted(Path(__file__).parent.glob("*.py"))]
    except OSError:
        return None
    if not sources:  # in an archive: nothing would tell one version's code from another's
        return None
    for source in sources:
        digest.update(source)
    digest.update(repr((numba.__version__, llvmlite.__version__, sys.version, caches())).encode())
    return digest.digest()


class KernelCache(_Cache):
    """What a Numba dispatcher asks for compiled code and hands it to; never raises."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._impl = CompileResultCacheImpl.__new__(CompileResultCacheImpl)

    @property
    def cache_path(self) -> str | None:
        path = folder()
        return None if path is None else str(path)

    def file(self, signature: Any, codegen: Any) -> Path | None:
        """The file of one signature on one kind of processor."""
        path, environment = folder(), _environment()
        if path is None or environment is None:
            return None
        key = repr((self._name, str(signature), codegen.magic_tuple())).encode()
        return path / f"{self._name}-{hashlib.sha256(environment + key).hexdigest()[:32]}"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        path = self.file(sig, target_context.codegen())
        if path is None:
            return None
        try:
            content = path.read_bytes()
            if hashlib.sha256(content[32:]).digest() != content[:32]:
                return None
            return self._impl.rebuild(target_context, pickle.loads(content[32:]))
        except Exception:  # noqa: BLE001 - a damaged or foreign file is as good as none: compile
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        path = self.file(sig, data.codegen)
        if path is None or not self._impl.check_cachable(data):
            return
        try:
            content = pickle.dumps(self._impl.reduce(data), protocol=pickle.HIGHEST_PROTOCOL)
            _write(path, hashlib.sha256(content).digest() + content)
        except (OSError, MemoryError, pickle.PicklingError):
            return  # a full or read-only disk costs the next process a compilation, no more

    def enable(self) -> None:
        """Nothing to do: the folder decides."""

    def disable(self) -> None:
        """Nothing to do: the folder decides."""

    def flush(self) -> None:
        """Nothing to do: a file is never stale."""


def _write(path: Path, content: bytes) -> None:
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(aside).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(aside).unlink()
        raise


@contextlib.contextmanager
def compiling(path: Path | None) -> Iterator[None]:
    """Hold off other processes that would compile for the same file; they find it when this one is done.

    A lock that cannot be had, or not in time, is no reason to fail: the work is then done twice.
    """
    lock = None
    if path is not None and not os.path.exists(path):  # noqa: PTH110 - Path.exists raises where a folder is closed
        lock = _lock(path.with_suffix(".lock"))
    try:
        yield
    finally:
        if lock is not None:
            # Not by closing it alone: a child that was forked meanwhile holds it open.
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_UN)
            os.close(lock)


def _lock(path: Path) -> int | None:
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    held = False
    try:
        held = _wait_for(descriptor)
    except OSError:  # file systems without locks
        pass
    finally:
        if not held:
            os.close(descriptor)
    return descriptor if held else None


def _wait_for(descriptor: int) -> bool:
    """Whether the lock on a file is had in time."""
    deadline = time.monotonic() + LOCK_SECONDS
    while time.monotonic() < deadline:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            end_if_unwanted()
            time.sleep(0.02)
        else:
            return True
    return False


# -- forks
# ---------------------------------------------------------------------------------------------


def _hold_compiler() -> None:
    """Let another thread finish compiling before this one forks: the child would wait for it for ever.

    A bounded wait, for that thread may itself be waiting for something that this one has.
    """
    _forking.holds = False  # should what follows be interrupted
    _forking.holds = global_compiler_lock._lock.acquire(timeout=60)


def _release_compiler() -> None:
    if _forking.holds:
        global_compiler_lock._lock.release()


_forking = threading.local()  # several threads may be about to fork
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_compiler, after_in_parent=_release_compiler, after_in_child=_release_compiler)
