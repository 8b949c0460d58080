"""A comparison as Markdown, for a pull request or the summary of a CI job."""

from __future__ import annotations

from collections.abc import Iterator

from onnxshrink.report.compared import Comparison, Pairing, changed_text
from onnxshrink.report.markdown import gate_section
from onnxshrink.report.markdown_text import code, plain

_MARKS = {"better": "✅ better", "worse": "🔺 worse", "not comparable": "⚠️ not comparable"}
_MOST_CHANGES = 60
_MOST_FIGURES = 120


def comparison_markdown(comparison: Comparison) -> str:
    """One section per pairing: figures, gates, and what else changed, folded away."""
    sections = [section for pairing in comparison.pairings for section in _sections(comparison.base, pairing)]
    return "\n\n".join(sections) + "\n"


def _sections(base: str, pairing: Pairing) -> Iterator[str]:
    yield f"### {code(base)} → {code(pairing.name)}"
    yield f"**{counts_text(pairing)}**"
    if pairing.warnings:
        yield "\n".join(f"> ⚠️ {plain(warning)}" for warning in pairing.warnings)
    if pairing.gates:
        yield gate_section(pairing.gates)
    lines = ["| | base | new | new / base | |", "|---|---:|---:|---|---|"]
    for figure in pairing.figures[:_MOST_FIGURES]:
        verdict = _MARKS.get(figure.verdict, figure.verdict)
        cells = (plain(figure.label), plain(figure.base), plain(figure.new), plain(figure.change), verdict)
        lines.append(f"| {' | '.join(cells)} |")
    if len(pairing.figures) > _MOST_FIGURES:
        lines.append(f"| … and {len(pairing.figures) - _MOST_FIGURES} more | | | | |")
    yield "\n".join(lines)
    if pairing.changes:
        yield "\n".join(("<details><summary>What else changed</summary>", "", *_changes(pairing), "", "</details>"))


def counts_text(pairing: Pairing) -> str:
    """How many figures are better and worse."""
    count = {word: sum(figure.verdict == word for figure in pairing.figures) for word in ("better", "worse")}
    return f"{count['better']} better, {count['worse']} worse"


def _changes(pairing: Pairing) -> Iterator[str]:
    for change in pairing.changes[:_MOST_CHANGES]:
        yield f"- {plain(change.label)}: {plain(changed_text(change))}"
    if len(pairing.changes) > _MOST_CHANGES:
        yield f"- … and {len(pairing.changes) - _MOST_CHANGES} more"
