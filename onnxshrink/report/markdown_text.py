"""Text inside Markdown that stays what it is."""

from __future__ import annotations

_LONGEST_TEXT = 300


def plain(text: str) -> str:
    """Text that stays text: on one line, without table bars or markup of its own, not too long."""
    text = " ".join(text.split())
    if len(text) > _LONGEST_TEXT:
        text = text[: _LONGEST_TEXT - 1] + "…"
    for character in "\\`*_[]<>|":
        text = text.replace(character, f"\\{character}")
    return text


def code(text: str) -> str:
    """Text as code, safe inside a table."""
    text = " ".join(text.split())
    if len(text) > _LONGEST_TEXT:
        text = text[: _LONGEST_TEXT - 1] + "…"
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"
