"""Text from anywhere, made safe for Markdown tables."""

from __future__ import annotations

_LONGEST_TEXT = 300


def plain(text: str) -> str:
    """Text that stays text: on one line, without table bars or markup of its own, not too long."""
    text = _short(text)
    for character in "\\`*_[]<>|":
        text = text.replace(character, f"\\{character}")
    return text


def code(text: str) -> str:
    """Text as code, safe inside a table."""
    return "`" + _short(text).replace("`", "'").replace("|", "\\|") + "`"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"
