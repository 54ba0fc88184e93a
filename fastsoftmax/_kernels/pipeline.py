"""How kernels and their parts are compiled.

Numba optimises each jitted function, with all that it calls, and makes machine code of it, for somebody may call it
from Python. A kernel has some three hundred parts that nobody calls but the kernel, and they are optimised once more
where they end up: this was half of the time that a first call took. So a part is only tidied, and waits to be linked.

Numba also leaves each part visible, under a name that tells apart what one process compiles but not what another does.
Kernels come from the cache, where any process may have left them: of two parts of one name, the one that is loaded
first would serve both kernels. So a kernel keeps its parts to itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numba import _dynfunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import LoweringPass, register_pass
from numba.core.typed_passes import NativeLowering


class _PartLibrary(JITCodeLibrary):
    """The code of a part, as it will be linked into a kernel; that of its own parts stays with them."""

    def finalize(self) -> None:
        self._raise_if_finalized()
        for library in self._linking_libraries:
            self._reload_init.update(library._reload_init)
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage.name == "external":
                function.linkage = "linkonce_odr"
        self._finalized = True

    def _get_module_for_linking(self) -> Any:
        """The code with that of its parts, for what is no kernel."""
        whole = self._final_module.clone()
        _link(whole, self._linking_libraries)
        return whole


def _callees_first(libraries: Iterable[Any], known: dict[Any, None]) -> dict[Any, None]:
    """Libraries and all the parts that they link, each after what it links itself."""
    for library in libraries:
        if library not in known:
            if isinstance(library, _PartLibrary):
                _callees_first(library._linking_libraries, known)
            known[library] = None
    return known


def _link(module: Any, libraries: Iterable[Any]) -> None:
    """Link libraries and their parts into a module, callers first: LLVM takes only what is called by then."""
    for library in reversed(_callees_first(libraries, {})):
        own = library._final_module if isinstance(library, _PartLibrary) else library._get_module_for_linking()
        module.link_in(own, preserve=True)


class _KernelLibrary(JITCodeLibrary):
    """The code of a kernel."""

    def finalize(self) -> None:
        for library in self._linking_libraries:
            self._reload_init.update(library._reload_init)
        _link(self._final_module, self._linking_libraries)
        self._linking_libraries.clear()
        super().finalize()

    def _optimize_final_module(self) -> None:
        for function in self._final_module.functions:
            if function.linkage.name == "linkonce_odr":  # linked into this
                function.linkage = "internal"
        super()._optimize_final_module()


@register_pass(mutates_CFG=False, analysis_only=False)
class _Declared(LoweringPass):
    """Make the part known to its callers, as Numba does once there is machine code."""

    _name = "fastsoftmax_part_declared"

    def __init__(self) -> None:
        LoweringPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        lowered = state["cr"]
        described = lowered.fndesc
        # What Numba calls the part by: an object of the type that it expects, with no code behind it.
        name = described.qualname.split(".")[-1]
        entry = _dynfunc.make_function(described.lookup_module(), name, "", 0, lowered.env, (state.library,))
        state.targetctx.insert_user_function(entry, described, [state.library])
        state["cr"] = lowered._replace(cfunc=entry)
        return True


class PartCompiler(CompilerBase):
    """Numba's compiler, less the steps after LLVM's instructions."""

    def __init__(self, typing: Any, target: Any, library: Any, args: Any, returns: Any, flags: Any, known: Any) -> None:
        flags = flags.copy()
        flags.no_compile = True
        library = library or _PartLibrary(target.codegen(), "part")
        super().__init__(typing, target, library, args, returns, flags, known)

    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(_Declared, NativeLowering)
        passes.finalize()
        return [passes]


class KernelCompiler(Compiler):
    """Numba's compiler, for code that keeps its parts to itself."""

    def __init__(self, typing: Any, target: Any, library: Any, *others: Any) -> None:
        if library is None:
            library = _KernelLibrary(target.codegen(), "kernel")
            library.enable_object_caching()
        super().__init__(typing, target, library, *others)
