"""The report as Markdown for a pull request: a headline, two tables, and the rest folded away."""

from __future__ import annotations

from collections.abc import Iterator

from onnxshrink.report.markdown_text import code as _code
from onnxshrink.report.markdown_text import plain as _plain
from onnxshrink.report.report import PassRecord, Report
from onnxshrink.report.summary import (
    agreement_figures,
    alternative_rows,
    comparison_rows,
    environment,
    headline,
    kernels_text,
    listing,
    pass_outcome,
    skip_groups,
)

LIMIT_BYTES = 60_000
"""Longer comments are refused by code forges (GitHub: 65,536 characters)."""

_MOST_ROWS = 50
_MARKS = {"applied": "✅", "unchanged": "➖", "undone": "⚠️"}


def to_markdown(report: Report) -> str:
    """The report as Markdown of at most ``LIMIT_BYTES`` bytes; what does not fit is counted, not shown."""
    sections = [
        _headline(report),
        _comparison(report),
        _alternatives(report),
        _notes(report),
        _passes(report.passes),
        _details("What was left alone, and why", list(_skips(report.passes))),
        _origin(report),
    ]
    text = "\n\n".join(section for section in sections if section) + "\n"
    return text if len(text.encode()) <= LIMIT_BYTES else _cut(text)


def _headline(report: Report) -> str:
    names = f"{_code(report.original.name)} → {_code(report.result.name)}"
    return f"### {names}\n\n**{headline(report)[0]}**" + "".join(f"; {clause}" for clause in headline(report)[1:]) + "."


def _comparison(report: Report) -> str:
    lines = ["| | original | result | result / original |", "|---|---:|---:|---|"]
    lines += [f"| {row.label} | {row.original} | {row.result} | {row.change} |" for row in comparison_rows(report)]
    if report.agreement is not None:
        source = "" if report.data is None else f" on {_plain(report.data.description)}"
        figures = agreement_figures(report.agreement).replace("|", "\\|")
        lines.append(f"| outputs{source} | | | {figures} |")
    return "\n".join(lines)


def _alternatives(report: Report) -> str:
    """What was tried to choose from, and how much is computed from integers."""
    lines = []
    if kernels := kernels_text(report):
        lines.append(f"Integer kernels: {_plain(kernels)}.")
    if report.alternatives:
        lines += ["", "| tried | size | error | latency / cleaned up | |", "|---|---:|---:|---:|---|"]
        for text, *cells in alternative_rows(report):
            lines.append("| " + " | ".join([_code(text), *map(_plain, cells)]) + " |")
    return "\n".join(lines)


def _notes(report: Report) -> str:
    return "\n".join(f"> ⚠️ {_plain(note)}" for note in report.notes[:_MOST_ROWS])


def _passes(passes: tuple[PassRecord, ...]) -> str:
    """What each pass did; the idle ones share the last row."""
    busy = [record for record in passes if record.status != "unchanged"]
    lines = ["| | pass | effect | what it did |", "|---|---|---|---|"]
    for record in busy[:_MOST_ROWS]:
        outcome = _plain(pass_outcome(record))
        lines.append(f"| {_MARKS[record.status]} | {_code(record.text)} | {record.effect} | {outcome} |")
    idle = list(dict.fromkeys(_code(record.text) for record in passes if record.status == "unchanged"))[:_MOST_ROWS]
    if idle:
        lines.append(f"| {_MARKS['unchanged']} | {', '.join(idle)} | | nothing to do |")
    return "\n".join(lines)


def _skips(passes: tuple[PassRecord, ...]) -> Iterator[str]:
    for group in skip_groups(passes):
        names = listing(tuple(_code(name) for name in group.nodes))
        yield f"- {_code(group.text)}: {_plain(group.reason)} ({len(group.nodes)}×: {names})"


def _details(title: str, lines: list[str]) -> str:
    if not lines:
        return ""
    more = [f"- … and {len(lines) - _MOST_ROWS} more reasons"] if len(lines) > _MOST_ROWS else []
    body = "\n".join(lines[:_MOST_ROWS] + more)
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"


def _origin(report: Report) -> str:
    recipe = f"recipe {_code(report.recipe)}" + ("" if report.preset is None else f" (preset {report.preset})")
    return f"<sub>{recipe}; input SHA-256 {report.original.sha256[:12]}…; {_plain(environment(report))}</sub>"


def _cut(text: str) -> str:
    """The head of the text in whole lines, with a sentence about the rest."""
    note = "\n\n… cut here: the JSON report has everything.\n"
    closing = "\n\n</details>"
    head = text.encode()[: LIMIT_BYTES - len((closing + note).encode())].decode(errors="ignore").rsplit("\n", 1)[0]
    return head + (closing if head.count("<details>") > head.count("</details>") else "") + note
