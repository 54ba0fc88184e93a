"""The command line, called in this process or in one of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from typer.testing import CliRunner, Result

from fastsoftmax._commands import app


def invoke(*arguments: object, width: int = 80) -> Result:
    """Call the command line with these words, on a page of this width."""
    # Colours asked for by the environment would put escape codes into the text.
    environment = {"COLUMNS": str(width), "FORCE_COLOR": None, "PY_COLORS": None}
    return CliRunner(env=environment).invoke(app, [str(word) for word in arguments])


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python with these words."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )
