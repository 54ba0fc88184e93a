"""Tasks on several threads: one parallel loop that calls the compiled code of any kernel.

Numba compiles what stands in a `prange` several times over. Here that is the loop of `share`, which calls a function by
its address with the address of what it works on, so that no kernel is compiled more than once and an error in a task is
not lost.
"""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic

from .share import TASK

# What an error in a task comes to: the one that there can be.
NO_ROOM = "no memory for what a task works in"

_I32, _I64, _POINTER = ir.IntType(32), ir.IntType(64), ir.IntType(8).as_pointer()
_LAUNCHER = ir.FunctionType(_POINTER, [_I64] * 4)


def address_of(dispatcher: numba.core.dispatcher.Dispatcher) -> int:
    """Where compiled code finds the parallel loop, compiled for its one signature if need be."""
    kinds = (types.int64,) * 4
    with global_compiler_lock:  # which a fork waits for
        dispatcher.compile(kinds)
        code = dispatcher.overloads[kinds]
        address: int = code.library.get_pointer_to_function(code.fndesc.llvm_cfunc_wrapper_name)
    if not address:
        raise RuntimeError("Numba has no function for calls from C of its own parallel loop")
    return address


@intrinsic
def launch(typingctx: Any, launcher: Any, work: Any, arguments: Any, first: Any, last: Any, tasks: Any) -> Any:
    """``work(task, task + 1, tasks, *arguments)`` for the tasks from `first` to `last`; whether one had an error.

    The one error that a task can have is a MemoryError. `launcher` is the address of the parallel loop.
    """
    number = types.int64
    call = work.get_call_type(typingctx, (number, number, number, *arguments.types), {})

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        where, _, values, start, stop, count = args
        compiled = work.dispatcher.get_compile_result(call)
        context.active_code_library.add_linking_library(compiled.library)
        block = cgutils.alloca_once(builder, ir.LiteralStructType([values.type, _I64, _I32]))
        for place, value in enumerate((values, count, _I32(0))):
            builder.store(value, _field(builder, block, place))
        task = _task(context, builder.module, compiled.fndesc, block.type, arguments)
        code = builder.inttoptr(where, _LAUNCHER.as_pointer())
        builder.call(code, [builder.ptrtoint(task, _I64), builder.ptrtoint(block, _I64), start, stop])
        return builder.icmp_signed("!=", builder.load(_field(builder, block, 2)), _I32(0))

    return types.boolean(number, work, arguments, number, number, number), codegen


@intrinsic
def unlocked(typingctx: Any, work: Any, arguments: Any, lets_go: Any) -> Any:
    """``work(*arguments)``, while others may have Python's lock if it `lets_go`; whether it had an error.

    That is a MemoryError, for whom has the lock to raise.
    """
    if not isinstance(arguments, types.BaseTuple) or not isinstance(lets_go, types.Boolean):
        return None
    call = work.get_call_type(typingctx, arguments.types, {})

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, values, wanted = args
        compiled = work.dispatcher.get_compile_result(call)
        context.active_code_library.add_linking_library(compiled.library)
        python = context.get_python_api(builder)
        state = cgutils.alloca_once_value(builder, cgutils.get_null_value(_POINTER))
        with builder.if_then(wanted):
            builder.store(python.save_thread(), state)
        code = context.declare_function(builder.module, compiled.fndesc)
        given = cgutils.unpack_tuple(builder, values, len(arguments.types))
        status, _ = context.call_conv.call_function(
            builder, code, compiled.fndesc.restype, compiled.fndesc.argtypes, given
        )
        with builder.if_then(wanted):
            python.restore_thread(builder.load(state))
        return status.is_error

    return types.boolean(work, arguments, lets_go), codegen


def _field(builder: Any, block: Any, place: int) -> Any:
    return builder.gep(block, [_I32(0), _I32(place)], inbounds=True)


def _task(context: Any, module: Any, work: Any, block_type: Any, arguments: Any) -> Any:
    """The function for one task of `work`, whose arguments and number of tasks, and place for errors, are a block."""
    function = ir.Function(module, TASK, module.get_unique_name("task"))
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    block, task = builder.bitcast(function.args[0], block_type), function.args[1]
    values = cgutils.unpack_tuple(builder, builder.load(_field(builder, block, 0)), len(arguments.types))
    count = builder.load(_field(builder, block, 1))
    code = context.declare_function(module, work)
    status, _ = context.call_conv.call_function(
        builder, code, work.restype, work.argtypes, [task, builder.add(task, _I64(1)), count, *values]
    )
    with builder.if_then(status.is_error, likely=False):
        builder.store(_I32(1), _field(builder, block, 2))  # several may: they write the same
    builder.ret_void()
    return function
