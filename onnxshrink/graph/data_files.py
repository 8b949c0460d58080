"""The files of external data that are written beside a model: ``NAME.HASH.data``."""

from __future__ import annotations

import re
from pathlib import Path


def data_files(model: Path) -> list[Path]:
    """Data files that this tool wrote beside a model, whether or not the model refers to them."""
    ours = re.compile(re.escape(model.name) + r"\.[0-9a-f]{12}\.data")
    return [part for part in sorted(model.parent.iterdir()) if ours.fullmatch(part.name)]
