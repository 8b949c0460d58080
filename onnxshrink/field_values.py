"""Values of fields that users write in TOML and JSON, read strictly: ValueError says what the value must be."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def text(value: Any) -> str:
    """Text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError("text")
    return value


def flag(value: Any) -> bool:
    """true or false, and nothing that only counts as one of them."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def integer(lowest: int | None = None, highest: int | None = None) -> Callable[[Any], int]:
    """Reads whole numbers within these limits."""

    def read(value: Any) -> int:
        fits = isinstance(value, int) and not isinstance(value, bool)
        if not fits or (lowest is not None and value < lowest) or (highest is not None and value > highest):
            limits = "" if lowest is None else f" from {lowest}" + ("" if highest is None else f" to {highest}")
            raise ValueError(f"an integer{limits}")
        return int(value)

    return read


def number(lowest: float, highest: float = math.inf) -> Callable[[Any], float]:
    """Reads numbers within these limits."""

    def read(value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not lowest <= value <= highest:
            limits = f" from {lowest:g}" + ("" if highest == math.inf else f" to {highest:g}")
            raise ValueError(f"a number{limits}")
        return float(value)

    return read


def choice(*names: str) -> Callable[[Any], str]:
    """Reads one of these names."""

    def read(value: Any) -> str:
        if value not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return str(value)

    return read
