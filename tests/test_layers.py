"""The house: imports point only downwards, files stay short, and importing compiles nothing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import fastsoftmax

PACKAGE = Path(fastsoftmax.__file__).parent
TESTS = Path(__file__).parent
LONGEST_FILE = 399

PUBLIC = {"_softmax", "_cross_entropy"}
# What each module of the package may import of the package, at its top or inside a function: a
# module, or a package with all that is in it.
MAY_IMPORT: dict[str, set[str]] = {
    "_kernels": {"_kernels", "_machine"},  # the sizes of caches
    "_machine": set(),
    "_version": set(),
    "_layout": {"_kernels.lengths"},  # numbers that layouts, plans and kernels agree on
    "_arguments": {"_layout"},
    "_blocks": set(),
    "_plan": {"_machine", "_kernels.lengths"},
    "_threads": {"_kernels.jit", "_machine"},
    "_execute": {"_kernels", "_plan", "_machine", "_threads"},
    "_calls": {"_arguments", "_blocks", "_layout", "_plan", "_execute"},
    "_loss_arguments": {"_arguments", "_layout", "_execute"},
    "_losses": {"_arguments", "_loss_arguments", "_blocks", "_layout", "_plan", "_execute"},
    "_softmax": {"_arguments", "_calls"},
    "_cross_entropy": {"_loss_arguments", "_losses"},
    "_config": {"_machine", "_execute", "_version"},
    "__init__": PUBLIC | {"_config", "_execute", "_version"},
    "cli": {"__init__", "_commands", "_demo"},
    "_commands": {"__init__", "_demo", "_evaluate", "_measured"},
    "_demo": {"__init__"},
    "_bench": {"__init__", "_bench"},
    "_measured": {"__init__", "_bench"},
    "_evaluate": {"__init__"},
    "__main__": {"cli"},
}
ANYWHERE = {"numba", "llvmlite", "numpy", "ml_dtypes"}
THIRD_PARTY = {
    **{name: {"rich", "typer", "numpy"} for name in ("cli", "_commands", "_demo", "_evaluate", "_measured")},
    "_bench": {"numba", "numpy", "ml_dtypes", "onnx", "onnxruntime", "torch", "jax", "scipy"},
}


def module_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The full names of all modules that a file imports, wherever in it."""
    inside = path.relative_to(PACKAGE.parent).with_suffix("").parts
    package = inside[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module == "fastsoftmax" or module == "fastsoftmax._kernels":
                names |= {submodule_or(module, alias.name) for alias in node.names}
            else:
                names.add(module)
    return names


def within(package: str, module: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def submodule_or(module: str, name: str) -> str:
    """`module.name` where that is a module, `module` where it is a name within."""
    folder = PACKAGE.parent.joinpath(*module.split("."))
    is_module = (folder / f"{name}.py").exists() or (folder / name / "__init__.py").exists()
    return f"{module}.{name}" if is_module else module


@pytest.mark.parametrize("path", module_files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    inside = path.relative_to(PACKAGE).with_suffix("").parts
    layer = inside[0]
    assert layer in MAY_IMPORT, f"{layer} has no place in the house yet: give it one in MAY_IMPORT"
    names = imported(path)
    own = {name.partition(".")[2] or "__init__" for name in names if within("fastsoftmax", name)}
    above = {name for name in own if not any(within(low, name) for low in MAY_IMPORT[layer])}
    assert not above, f"{layer} may import only {MAY_IMPORT[layer]} of the package"
    foreign = {name.split(".")[0] for name in names} - {"fastsoftmax"} - sys.stdlib_module_names
    allowed = THIRD_PARTY.get(layer, ANYWHERE)
    assert foreign <= allowed, f"{layer} may import only {sorted(allowed)} from outside"


@pytest.mark.parametrize("layer", ["_arguments", "_layout", "_blocks", "_machine", "_plan", "_softmax", "__init__"])
def test_only_kernels_and_their_launcher_know_the_compiler(layer: str) -> None:
    assert not {name.split(".")[0] for name in imported(PACKAGE / f"{layer}.py")} & {
        "numba",
        "llvmlite",
    }


@pytest.mark.parametrize(
    "path",
    [*module_files(), *sorted(TESTS.glob("*.py"))],
    ids=lambda p: f"{p.parent.name}/{p.name}",
)
def test_files_stay_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE, f"{path.name} has {lines} lines: split it"


def test_the_reader_of_imports_reads_all_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative, absolute, of a submodule, of a name, inside a function."""
    package = tmp_path / "fastsoftmax"
    (package / "_kernels").mkdir(parents=True)
    for name in ("_plan", "_kernels/__init__", "_kernels/rows", "_machine"):
        (package / f"{name}.py").touch()
    source = package / "_execute.py"
    source.write_text(
        textwrap.dedent(
            """
            import os.path
            import fastsoftmax._machine
            from . import _plan, __version__
            from ._kernels import rows
            from fastsoftmax._kernels.rows import softmax
            def f():
                from .cli import main
            """
        )
    )
    monkeypatch.setitem(globals(), "PACKAGE", package)
    assert imported(source) == {
        "os.path",
        "fastsoftmax",
        "fastsoftmax._machine",
        "fastsoftmax._plan",
        "fastsoftmax._kernels.rows",
        "fastsoftmax.cli",
    }


def fresh(code: str) -> dict[str, object]:
    """Run code in a fresh interpreter; what it prints as JSON."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


def test_importing_loads_nothing_heavy() -> None:
    """Beyond what Numba itself loads, which looks for SciPy."""
    seen = fresh(
        """
        import json, sys
        import numba
        before = set(sys.modules)
        import fastsoftmax
        roots = {name.split(".")[0] for name in set(sys.modules) - before}
        print(json.dumps({"loaded": sorted(roots)}))
        """
    )
    assert isinstance(seen["loaded"], list)
    foreign = set(seen["loaded"]) - sys.stdlib_module_names
    assert foreign == {"fastsoftmax"} | foreign & {"numba", "llvmlite", "numpy"}


def test_importing_compiles_nothing() -> None:
    """Numba announces every compilation: none by the import, some by a function of this test."""
    seen = fresh(
        """
        import json, os, tempfile
        os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp()
        import numba
        from numba.core import event
        with event.install_recorder("numba:compile") as recorder:
            import fastsoftmax
            by_import = len(recorder.buffer)
            numba.njit(lambda x: x + 1)(1)
        print(json.dumps({"by_import": by_import, "heard": len(recorder.buffer) > 0}))
        """
    )
    assert seen == {"by_import": 0, "heard": True}
