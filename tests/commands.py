"""What the tests of the command line share."""

from __future__ import annotations

from pathlib import Path

EVALUATE = ["evaluate", "--preset", "smoke", "--images", "6", "--draws", "4"]


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """When and as which inode every file was written."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_ino) for path in found}
