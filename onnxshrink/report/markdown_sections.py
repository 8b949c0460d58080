"""Markdown within a limit: sections are filled row by row, the most important first, and what is left is counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LIMIT_BYTES = 60_000
"""Longer comments are refused by code forges (GitHub: 65,536 characters)."""

CLOSING = "\n… not all of it fits here: the JSON report has everything.\n"


@dataclass(frozen=True)
class Section:
    """Lines of which any number from the first on may be shown between ``before`` and ``after``.

    Attributes:
        more: a line that says how many are missing, with ``{}`` for the count; of as many columns as the rows.
    """

    rows: Sequence[str]
    before: str = ""
    after: str = ""
    more: str = "- … and {} more"


def details(title: str, rows: Sequence[str], head: str = "", more: str = "- … and {} more") -> Section:
    """A section that is folded away."""
    return Section(rows, f"<details><summary>{title}</summary>\n\n{head}", "\n\n</details>", more)


def fitted(sections: Iterable[Section], limit: int = LIMIT_BYTES) -> str:
    """The sections one behind the other, each with as many rows as fit; empty when not even the first one does."""
    shown: list[str] = []
    left, cut = limit - len(CLOSING.encode()) - 1, False
    for section in sections:
        if not section.rows:
            continue
        lines = _lines_that_fit(section, left)
        cut |= lines < len(section.rows)
        if lines:
            shown.append(section_text(section, lines))
            left -= len(shown[-1].encode()) + 2
        elif not shown:
            return ""
    return "\n\n".join(shown) + "\n" + (CLOSING if cut else "")


def section_text(section: Section, lines: int) -> str:
    """The section with its first ``lines`` rows, and how many there are more."""
    rows, missing = list(section.rows[:lines]), len(section.rows) - lines
    if missing:
        rows.append(section.more.format(f"{missing:,}"))
    return section.before + "\n".join(rows) + section.after


def _lines_that_fit(section: Section, limit: int) -> int:
    """How many rows of the section fit into so many bytes, together with the line about the others."""
    used = len((section.before + section.after + section.more).encode()) + 10
    for count, row in enumerate(section.rows):
        used += len(row.encode()) + 1
        if used > limit:
            return count
    return len(section.rows)
