"""Reports as Markdown for a pull request: a headline, a table, what each pass did, and the rest folded away.

Code forges refuse long comments. What does not fit is counted instead of shown, so that no table and no ``<details>``
is ever cut open.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence

from onnxshrink.report.gate_result import GateResult
from onnxshrink.report.layers import LayerFacts
from onnxshrink.report.markdown_sections import CLOSING, LIMIT_BYTES, Section, details, fitted, section_text
from onnxshrink.report.markdown_text import code, one_line, plain
from onnxshrink.report.overview import overview_lines
from onnxshrink.report.report import PassRecord, Report
from onnxshrink.report.summary import (
    agreement_figures,
    alternative_rows,
    bytes_text,
    comparison_rows,
    environment,
    headline,
    kernels_text,
    listing,
    number,
    pass_outcome,
    skip_groups,
)

_MOST_ROWS = 50
_MOST_LAYERS = 20
_GATE_MARKS = {"passed": "✅ passed", "uncertain": "❔ uncertain", "failed": "❌ failed"}
_MARKS = {"applied": "✅", "unchanged": "➖", "undone": "⚠️"}


def to_markdown(report: Report) -> str:
    """The report as Markdown of at most ``LIMIT_BYTES`` bytes; what does not fit is counted, not shown."""
    return fitted(_sections(report), LIMIT_BYTES)


def overview_to_markdown(reports: Sequence[Report]) -> str:
    """Several reports: a table over all, and each of them folded away, within the same limit."""
    text = fitted([_overview(reports)], LIMIT_BYTES // 2)
    for place, report in enumerate(reports, 1):
        title = f"{place}: {_html(report.original.name)} → {_html(report.result.name)}"
        before, after = f"\n<details><summary>{title}</summary>\n\n", "\n</details>\n"
        left = LIMIT_BYTES - len((text + CLOSING).encode())
        share = left // (len(reports) - place + 1) - len((before + after).encode())
        body = fitted(_sections(report), share)
        if not body:
            return text + CLOSING
        text += before + body + after
    return text


def _sections(report: Report) -> Iterator[Section]:
    """What a report says, the most important first."""
    yield Section([_headline(report)])
    yield Section(
        _comparison(report),
        "| | original | result | result / original |\n|---|---:|---:|---|\n",
        more="| … and {} more | | | |",
    )
    yield _gates(report.gates)
    yield Section([f"> ⚠️ {plain(note)}" for note in report.notes[:_MOST_ROWS]], more="> … and {} more")
    yield _passes(report.passes)
    yield details(
        "What was tried",
        ["| " + " | ".join([code(text), *map(plain, cells)]) + " |" for text, *cells in alternative_rows(report)],
        "| tried | size | error | latency / cleaned up | |\n|---|---:|---:|---:|---|\n",
        "| … and {} more | | | | |",
    )
    yield _layers(report.layers)
    yield details("What was left alone, and why", list(_skips(report.passes)))
    yield details("How to rebuild it, and what it was measured with", _origin(report))


def _headline(report: Report) -> str:
    names = f"{code(report.original.name)} → {code(report.result.name)}"
    return f"### {names}\n\n**{headline(report)[0]}**" + "".join(f"; {clause}" for clause in headline(report)[1:]) + "."


def _comparison(report: Report) -> list[str]:
    lines = [f"| {row.label} | {row.original} | {row.result} | {row.change} |" for row in comparison_rows(report)]
    if report.agreement is not None:
        source = "" if report.data is None else f" on {plain(report.data.description)}"
        figures = agreement_figures(report.agreement).replace("|", "\\|")
        lines.append(f"| outputs{source} | | | {figures} |")
    if kernels := kernels_text(report):
        lines.append(f"| computed from integers | | {plain(kernels)} | |")
    return lines


def gate_section(gates: tuple[GateResult, ...]) -> str:
    """The gates as a table; empty when there are none."""
    section = _gates(gates)
    return section_text(section, len(section.rows)) if gates else ""


def _gates(gates: tuple[GateResult, ...]) -> Section:
    lines = [f"| {_GATE_MARKS[gate.status]} | {code(gate.gate)} | {plain(gate.reason)} |" for gate in gates]
    return Section(lines, "| | gate | figure |\n|---|---|---|\n", more="| … and {} more | | |")


def _passes(passes: tuple[PassRecord, ...]) -> Section:
    """What each pass did; the idle ones share the last row."""
    busy = [record for record in passes if record.status != "unchanged"]
    idle = list(dict.fromkeys(code(record.text) for record in passes if record.status == "unchanged"))[:_MOST_ROWS]
    lines = [f"| {_MARKS['unchanged']} | {', '.join(idle)} | | nothing to do |"] if idle else []
    busy_lines = [
        f"| {_MARKS[record.status]} | {code(record.text)} | {record.effect} | {plain(pass_outcome(record))} |"
        for record in busy
    ]
    head = "| | pass | effect | what it did |\n|---|---|---|---|\n"
    return Section(busy_lines + lines, head, more="| | … and {} more | | |")


def _layers(layers: tuple[LayerFacts, ...]) -> Section:
    """The largest layers."""
    ranked = sorted(layers, key=lambda layer: -max(layer.original_bytes or 0, layer.result_bytes or 0))
    lines = [
        f"| {code(layer.name)} | {layer.op_type or layer.result_op_type or ''} | {_bytes(layer.original_bytes)} "
        f"| {_bytes(layer.result_bytes)} | {'' if layer.output_error is None else number(layer.output_error)} |"
        for layer in ranked[:_MOST_LAYERS]
    ]
    head = "| layer | operator | original | result | error of its output |\n|---|---|---:|---:|---:|\n"
    return details(f"The largest of {len(layers)} layers", lines, head, "| … and {} more | | | | |")


def _bytes(size: int | None) -> str:
    return "–" if size is None else bytes_text(size)


def _skips(passes: tuple[PassRecord, ...]) -> Iterator[str]:
    for group in skip_groups(passes):
        names = listing(tuple(code(name) for name in group.nodes))
        yield f"- {code(group.text)}: {plain(group.reason)} ({len(group.nodes)}×: {names})"


def _origin(report: Report) -> list[str]:
    recipe = f"recipe `{one_line(report.recipe, None).replace('`', chr(39))}`"
    preset = "" if report.preset is None else f" (preset {plain(report.preset)})"
    return [f"{recipe}{preset}; input SHA-256 {report.original.sha256[:12]}…; {plain(environment(report))}"]


def _overview(reports: Sequence[Report]) -> Section:
    lines = [
        f"| {line.place} | {code(f'{line.original} → {line.result}')} | {code(line.recipe)} | {line.size} "
        f"| {line.size_share} | {line.latency} | {line.error} | {line.accuracy} |"
        for line in overview_lines(reports)
    ]
    head = "| | model | recipe | size | of original | latency, result / original | relative error | accuracy |\n"
    head += "|---:|---|---|---:|---:|---|---:|---|\n"
    return Section(lines, f"### {len(reports)} compressions\n\n{head}", more="| | … and {} more | | | | | | |")


def _html(text: str) -> str:
    """Text inside an HTML element."""
    return html.escape(one_line(text))
