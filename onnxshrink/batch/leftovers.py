"""Files that writing a result leaves behind when the process that writes it is ended in the middle."""

from __future__ import annotations

import glob
import shutil
from pathlib import Path


def remove_leftovers(*destinations: Path) -> None:
    """Remove what was being written for these files, beside them under names of its own, and leave the files.

    Whoever calls this knows that nobody is writing them.
    """
    for destination in destinations:
        # Both kinds of temporary files are named by tempfile: .NAME. and eight characters.
        for found in destination.parent.glob(f".{glob.escape(destination.name)}.{'?' * 8}"):
            if found.is_dir():
                shutil.rmtree(found, ignore_errors=True)
            else:
                found.unlink(missing_ok=True)
