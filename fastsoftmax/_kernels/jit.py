"""The one decorator: every compiled function of the package gets its flags, cache and errors here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
from numba.core import types
from numba.extending import overload

from .cache import KernelCache, compiling
from .interrupts import uninterrupted
from .launch import NO_ROOM, address_of, launch, unlocked
from .objects import CHANGED, LoanedType, ObjectType, are_planned
from .pipeline import KernelCompiler, PartCompiler
from .share import LINUX, over_threads
from .simd import bfloat16, float16

# No fast-math flag: the order of each sum is ours. `error_model="numpy"`: a division by zero gives inf or
# nan like any vector instruction; the one error of a kernel is a MemoryError.
FLAGS = {"nopython": True, "nogil": True, "error_model": "numpy", "boundscheck": False}
# Parts of kernels are called by compiled code alone: they need no functions for calls from Python and from C.
PART = {**FLAGS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True, "pipeline_class": PartCompiler}


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a part of a kernel, always inlined so that vectors stay in registers."""
    return numba.jit(**PART, forceinline=True)(function)


def piece(function: Callable[..., Any]) -> Any:
    """Compile a part of a kernel that is worth a call of its own."""
    return numba.jit(**PART)(function)


def by_type(choose: Callable[..., Any]) -> Any:
    """Declare a function for compiled code whose body is chosen by the types of its arguments.

    `choose` gets Numba types and returns the Python function to compile for them.
    """

    @functools.wraps(choose)
    def declared(*arguments: Any) -> Any:
        raise NotImplementedError(f"{choose.__name__} exists in compiled code only")

    options = {flag: value for flag, value in PART.items() if flag != "nopython"}
    overload(declared, jit_options={**options, "forceinline": True})(choose)
    return declared


class Argument(NamedTuple):
    """What a kernel takes in one place: an array of `ndim` axes, a scale, whole numbers, or all that a loss needs.

    Kernels for small arrays take array objects as they are.
    """

    kind: str
    ndim: int = 0
    dtype: types.Type | None = None  # None: that of the kernel
    plan: bool = False  # whether it is an array whose shape the work was planned by

    def numba_type(self, dtype: types.Type, scaled: bool) -> types.Type:
        """The Numba type, one for all arrays whatever their layout, so that each kernel compiles once a dtype."""
        if self.kind == "scale":
            return types.UniTuple(types.float64, 4) if scaled else types.none
        if self.kind == "number":
            return types.int64
        if self.kind == "object":
            return ObjectType(self.dtype or dtype)
        if self.kind == "limits":
            return types.UniTuple(types.int64, 2)
        if self.kind == "terms":
            return types.UniTuple(types.float64, 6)
        if self.kind == "loss":
            rows, weights = LoanedType(types.float64, self.ndim, False), LoanedType(types.float64, 1, False)
            return types.Tuple((rows, rows, weights, *[types.float64] * (10 if scaled else 6)))
        return LoanedType(self.dtype or dtype, self.ndim, self.plan)


def array(ndim: int, dtype: types.Type | None = None) -> Argument:
    """An array."""
    return Argument("array", ndim, dtype)


def planned(ndim: int) -> Argument:
    """The array whose shape work is planned by, or another of that shape."""
    return Argument("array", ndim, plan=True)


def loss(ndim: int) -> Argument:
    """What kernels of losses take besides logits (see `losses`); its rows have `ndim` axes."""
    return Argument("loss", ndim)


OBJECT = Argument("object")
LABELS, TABLE = Argument("object", dtype=types.int64), Argument("object", dtype=types.float64)
SCALE = Argument("scale")
NUMBER = Argument("number")
TERMS = Argument("terms")
LIMITS = Argument("limits")

DTYPES: dict[str, types.Type] = {
    "float32": types.float32,
    "float64": types.float64,
    "float16": float16,
    "bfloat16": bfloat16,
}


class Kernel:
    """A function of arrays, compiled for each dtype when first asked for.

    Callers go to the compiled code directly: Numba's dispatcher would look at the type of every argument on
    every call and compile again for another layout. What it would check is the plan's business.
    """

    def __init__(self, name: str, function: Callable[..., Any], arguments: tuple[Argument, ...]) -> None:
        self.name = name
        # What looks at objects of Python needs Python's lock.
        free = not any(argument.kind == "object" for argument in arguments)
        # At once: made when first needed, two threads might make two, or a fork come in between.
        self.dispatcher = _dispatcher(name, function, nogil=free, no_cfunc_wrapper=True, pipeline_class=KernelCompiler)
        self._arguments = arguments
        self._compiled: dict[tuple[str, bool], Callable[..., Any]] = {}

    def compiled(self, dtype: str, scaled: bool = False) -> Callable[..., Any]:
        """The machine code for arrays of `dtype`, compiled or read from the cache if need be."""
        key = (dtype, scaled)
        code = self._compiled.get(key)
        if code is None:
            code = self._compiled[key] = uninterrupted(lambda: self._compile(*key))
        return code

    def _compile(self, dtype: str, scaled: bool) -> Callable[..., Any]:
        kinds = self.kinds(dtype, scaled)
        with compiling(self.dispatcher._cache.file(kinds, self.dispatcher.targetctx.codegen())):
            code: Callable[..., Any] = self.dispatcher.compile(kinds)
        return code

    def kinds(self, dtype: str, scaled: bool) -> tuple[types.Type, ...]:
        """The Numba types of the arguments."""
        return tuple(argument.numba_type(DTYPES[dtype], scaled) for argument in self._arguments)

    @property
    def signatures(self) -> int:
        """How many signatures are compiled or loaded."""
        return len(self._compiled)


class Loop(Kernel):
    """A loop over rows or tiles, ``function(first, last, tasks, *arguments)``, whose work is shared among tasks.

    Its compiled code is called with ``(arguments, shape, first, last, tasks, launcher)`` and does the tasks from
    `first` to `last`: one after the other on the calling thread if `launcher` is 0, else on several (`launchers`).
    Which thread does what never changes a result. `shape` is what the plan was made for, where another thread may know
    the arrays and give them a new one; else zeros.
    """

    def __init__(self, name: str, function: Callable[..., Any], arguments: tuple[Argument, ...]) -> None:
        super().__init__(name, self.over(shared(function)), arguments)
        self.anywhere = (0,) * arguments[0].ndim

    def over(self, run: Any) -> Callable[..., Any]:
        """The function to compile; ``run(arguments, first, last, tasks, launcher)`` says whether there was an error."""

        def loop(arguments, shape, first, last, tasks, launcher):
            if not are_planned(arguments, shape):
                raise ValueError(CHANGED)
            if run(arguments, first, last, tasks, launcher):
                raise MemoryError(NO_ROOM)
            return True

        return loop

    def kinds(self, dtype: str, scaled: bool) -> tuple[types.Type, ...]:
        """The Numba types of the arguments."""
        kinds = super().kinds(dtype, scaled)
        return types.Tuple(kinds), types.UniTuple(types.int64, kinds[0].ndim), *[types.int64] * 4


def shared(function: Callable[..., Any]) -> Any:
    """The work of a loop on the calling thread or on several; whether it had an error."""
    work = piece(function)

    @inlined
    def run(arguments, first, last, tasks, launcher):
        if launcher == 0:
            return unlocked(work, (first, last, tasks, *arguments), False)
        return launch(launcher, work, arguments, first, last, tasks)

    return run


def _dispatcher(name: str, function: Callable[..., Any], **flags: Any) -> Any:
    # Machine code goes by this name, and comes from the cache: no two kernels may have one.
    function.__qualname__ = name
    dispatcher = numba.jit(**{**FLAGS, **flags})(function)
    dispatcher._cache = KernelCache(name)
    return dispatcher


_awake = _dispatcher("launcher", over_threads(wakes=False), parallel=True)
_waking = _dispatcher("waking_launcher", over_threads(wakes=True), parallel=True) if LINUX else _awake


class Launchers(NamedTuple):
    """What makes a `Loop` run its tasks on Numba's threads, which must have been started."""

    awake: int
    waking: int  # where these sleep


@functools.cache
def launchers() -> Launchers:
    """The addresses, once compiled."""
    return uninterrupted(lambda: Launchers(address_of(_awake), address_of(_waking)))
