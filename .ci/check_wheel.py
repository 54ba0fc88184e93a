"""Check the one wheel in a folder: pure, small, and with everything that the package needs."""

import sys
import zipfile
from pathlib import Path

LIMIT = 1_500_000
ROOT = Path(__file__).parent.parent


def check(folder: Path) -> None:
    (wheel,) = folder.glob("fastsoftmax-*.whl")
    size = wheel.stat().st_size
    print(f"{wheel.name}: {size} bytes")
    if not wheel.name.endswith("-py3-none-any.whl"):
        raise SystemExit(f"{wheel.name} is not a pure wheel")
    if size >= LIMIT:
        raise SystemExit(f"{wheel.name} takes {size} bytes, the limit is {LIMIT}")
    packed = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "fastsoftmax").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    wanted |= {"fastsoftmax/__init__.py", "fastsoftmax/py.typed"}
    if missing := wanted - packed:
        raise SystemExit(f"{wheel.name} lacks {sorted(missing)}")
    if not any(name.endswith("licenses/LICENSE") for name in packed):
        raise SystemExit(f"{wheel.name} lacks its licence")


if __name__ == "__main__":
    check(Path(sys.argv[1]))
