"""Ctrl-C while a kernel is compiled: it ends the call at once, and Numba stays whole.

Python runs the handler of a signal in the main thread, between any two of its instructions. Within Numba that may be
in a callback of LLVM, where the exception is lost; in the finaliser of an object that is then freed twice, which aborts
the process; or in the iterator of a registry, after which nothing compiles any more. So a thread of its own compiles,
and the main thread waits for it. Interrupted, it tells that thread to end at the next pass of the compiler, and does
not wait for that.

Where memory is so short that a thread has no room of its own, the calling thread compiles, interrupted or not.
"""

from __future__ import annotations

import mmap
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from numba.core import entrypoints, event
from numba.core.compiler_lock import global_compiler_lock

Result = TypeVar("Result")

# What glibc asks for when a thread first allocates, twice 64 MiB, and the thread's stack. Where it does not get that,
# the thread takes a page for each small thing, and Numba as many as end the process.
THREAD_BYTES = 160 << 20


class _Ended(BaseException):
    """Nobody waits for this thread any more; no `except Exception` of the compiler may hold it up."""


class _Compiling(threading.Thread):
    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__(name="fastsoftmax-compiling")
        self._function = function
        self.unwanted = False
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self._function()
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
            self.error = error


class _Passes(event.Listener):
    """Numba tells of each pass before it begins: there it is ready for an exception."""

    def on_start(self, event: Any) -> None:
        end_if_unwanted()

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:run_pass", _Passes())


def end_if_unwanted() -> None:
    """Raise in a thread for whose result nobody waits any more, there alone."""
    if getattr(threading.current_thread(), "unwanted", False):
        raise _Ended


def _has_room() -> bool:
    """Whether there are addresses for the memory of a thread; asks for no memory."""
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return True
    try:
        mmap.mmap(-1, THREAD_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0).close()
    except OSError:
        return False
    return True


def uninterrupted(function: Callable[[], Result]) -> Result:
    """What `function` returns, called where no handler of a signal runs."""
    # Within a compilation of Numba's another thread would wait for this one; at the end of the interpreter none starts.
    alone = threading.current_thread() is not threading.main_thread() or sys.is_finalizing()
    if alone or global_compiler_lock.is_locked() or not _has_room():
        return function()
    # Numba imports its extensions once. Here, for one of them may call this while it is imported itself.
    entrypoints.init_all()
    thread = _Compiling(function)
    try:
        try:
            thread.start()
        except RuntimeError:
            if thread.ident is not None:  # what a handler of a signal raised
                raise
            return function()  # there is no memory for a thread
        # Not without a limit: on Windows nothing interrupts that.
        while thread.is_alive():
            thread.join(0.1)
    except BaseException:
        thread.unwanted = True
        raise
    if thread.error is not None:
        raise thread.error
    result: Result = thread.result
    return result
