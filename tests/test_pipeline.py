"""Parts of kernels: compiled once, and linked into whatever calls them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba.extending import intrinsic

from fastsoftmax._kernels.jit import FLAGS, piece
from fastsoftmax._kernels.pipeline import KernelCompiler


@piece
def thrice(x):
    return 3 * x


@piece
def never_thrice(x):
    """A part that calls another where no number comes: that is gone before parts are linked."""
    return thrice(x) if x - x > 0 else x


@piece
def always_thrice(x):
    return thrice(x)


@intrinsic(prefer_literal=True)
def of_its_own(typingctx, number):
    """The number, from a function that belongs to the module alone."""
    value = number.literal_value

    def codegen(context, builder, signature, args):
        word = ir.IntType(64)
        function = ir.Function(builder.module, ir.FunctionType(word, []), builder.module.get_unique_name("own"))
        function.linkage = "internal"
        ir.IRBuilder(function.append_basic_block()).ret(word(value))
        return builder.call(function, [])

    return numba.int64(number), codegen


@piece
def one():
    return of_its_own(1)


@piece
def two():
    return of_its_own(2)


def kernel(function: Callable[..., Any]) -> Any:
    return numba.jit(**FLAGS, pipeline_class=KernelCompiler)(function)


def test_a_part_is_linked_after_all_that_call_it() -> None:
    assert kernel(lambda x: never_thrice(x) + always_thrice(x))(2) == 8
    assert kernel(lambda x: always_thrice(x) + never_thrice(x))(2) == 8


def test_functions_of_parts_stay_theirs() -> None:
    """Parts may have functions of one name, as tasks of a launch have."""
    assert kernel(lambda: 10 * one() + two())() == 12


def test_what_is_no_kernel_may_call_parts() -> None:
    assert numba.njit(lambda x: never_thrice(x) + always_thrice(x))(2) == 8


def test_parts_hold_no_code_but_their_own() -> None:
    """With that of their parts too, kernels took 1.5 to 2.2 times the memory, as long as the process lived."""
    kernel(lambda x: always_thrice(x))(2)
    for compiled in always_thrice.overloads.values():
        assert compiled.library.get_llvm_str().count("define ") == 1
