"""The console script's entry, which must answer even where the extra ``cli`` is not installed."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; without typer or rich, say how to install them and exit with 1."""
    # Imported here and not above: a console script imports this module before anything can be
    # caught, and would end in a traceback.
    try:
        from fastsoftmax._commands import app
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in {"rich", "typer"}:
            raise
        print(
            f'The command line needs {package}, which is missing: install it with pip install "fastsoftmax[cli]"',
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    app(prog_name="fastsoftmax")
