"""Text from anywhere, made safe for Markdown."""

from __future__ import annotations

_LONGEST_TEXT = 300


def plain(text: str) -> str:
    """Text that stays text: on one line, without table bars or markup of its own, not too long."""
    text = one_line(text).replace("&", "&amp;")
    for character in "\\`*_[]<>|~$":
        text = text.replace(character, f"\\{character}")
    return text


def code(text: str) -> str:
    """Text as code, safe inside a table."""
    return "`" + (one_line(text).replace("`", "'").replace("|", "\\|") or "?") + "`"


def one_line(text: str, longest: int | None = _LONGEST_TEXT) -> str:
    """White space folded, and cut to ``longest`` characters."""
    text = " ".join(text.split())
    return text if longest is None or len(text) <= longest else text[: longest - 1] + "…"
