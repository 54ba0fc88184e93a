"""Print the shell commands of the README that follow the comment <!-- ci: NAME -->.

The gate runs what the README promises, so the two cannot drift: a block that is missing, doubled
or empty is an error.
"""

import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def block(text: str, name: str) -> str:
    marker = f"<!-- ci: {name} -->\n"
    if text.count(marker) != 1:
        raise SystemExit(f"README.md must have the line {marker.strip()} once")
    opening, _, rest = text.partition(marker)[2].lstrip("\n").partition("\n")
    if opening != "```sh":
        raise SystemExit(f"README.md: a ```sh block must follow {marker.strip()}, not {opening!r}")
    commands, fence, _ = rest.partition("```")
    if not fence or not commands.strip():
        raise SystemExit(f"README.md: the block after {marker.strip()} is empty or never ends")
    return commands


if __name__ == "__main__":
    print(block(README.read_text(encoding="utf-8"), sys.argv[1]), end="")
