"""An evaluation as Markdown for a pull request: a headline, a table, and where the figures come from."""

from __future__ import annotations

from collections.abc import Iterator

from onnxshrink.report.evaluation import Evaluation
from onnxshrink.report.evaluation_summary import environment_of, metric_rows, verdicts
from onnxshrink.report.markdown import gate_section
from onnxshrink.report.markdown_text import code, plain
from onnxshrink.report.summary import agreement_figures


def evaluation_to_markdown(found: Evaluation) -> str:
    """The evaluation as Markdown."""
    return "\n\n".join(section for section in _sections(found) if section) + "\n"


def _sections(found: Evaluation) -> Iterator[str]:
    against = "" if found.against is None else f" against {code(found.against.name)}"
    yield f"### {code(found.model.name)}{against}"
    yield f"On {found.data.samples} samples of {plain(found.data.description)}."
    yield _table(found)
    yield "\n".join(f"- {plain(line)}" for line in verdicts(found))
    if found.agreement is not None:
        yield f"Outputs: {plain(agreement_figures(found.agreement))}."
    yield gate_section(found.gates)
    if found.reason:
        yield f"Metric chosen because {plain(found.reason)}."
    yield "\n".join(f"> ⚠️ {plain(note)}" for note in found.notes)
    yield f"<sub>SHA-256 {found.model.sha256[:12]}…; {plain(environment_of(found))}</sub>"


def _table(found: Evaluation) -> str:
    if found.against is None:
        lines = [f"| | {code(found.model.name)} | 95 % interval |", "|---|---:|---|"]
        return "\n".join(
            lines + [f"| {plain(row.label)} | {row.result} | {plain(row.change)} |" for row in metric_rows(found)]
        )
    lines = [f"| | {code(found.against.name)} | {code(found.model.name)} | difference |", "|---|---:|---:|---|"]
    return "\n".join(
        lines
        + [
            f"| {plain(row.label)} | {row.original} | {row.result} | {plain(row.change)} |"
            for row in metric_rows(found)
        ]
    )
