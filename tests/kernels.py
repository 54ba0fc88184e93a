"""Kernels as tests call them: their tasks on the calling thread, one by one, last first."""

from __future__ import annotations

from typing import Any

from fastsoftmax._kernels.jit import Loop


def run(kernel: Loop, dtype: str, *arguments: Any, tasks: int = 1, scaled: bool | None = None) -> None:
    """All of them; it is `scaled` if the last of the arguments is not None, unless something else is said."""
    code = kernel.compiled(dtype, arguments[-1] is not None if scaled is None else scaled)
    for task in reversed(range(tasks)):
        code(arguments, kernel.anywhere, task, task + 1, tasks, 0)
