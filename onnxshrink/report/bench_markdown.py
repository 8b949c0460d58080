"""A bench as Markdown: the verdicts, one table of latencies per section, and the rest folded away."""

from __future__ import annotations

from onnxshrink.report.bench import Bench, Section
from onnxshrink.report.bench_summary import (
    Grid,
    all_notes,
    cost_grid,
    headline,
    latency_grid,
    node_grid,
    operator_grid,
    origin,
    ratio_grid,
    section_title,
    too_few_runs,
)
from onnxshrink.report.markdown_text import code, plain


def bench_to_markdown(bench: Bench) -> str:
    """The bench as Markdown."""
    parts = ["### " + " · ".join(code(model.name) for model in bench.models)]
    parts.append("\n".join(f"- **{plain(clause)}**" for clause in headline(bench)))
    parts += [_section(bench, section) for section in bench.sections]
    parts.append("\n".join(f"> ⚠️ {plain(note)}" for note in all_notes(bench)))
    parts.append(f"<sub>{plain(origin(bench))}</sub>")
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(bench: Bench, section: Section) -> str:
    ratios = ratio_grid(bench, section)
    parts = [
        f"#### {section_title(section.batch_size, section.threads)}",
        *([] if ratios is None else [_table(ratios)]),
    ]
    parts.append(_table(latency_grid(bench, section)))
    if missing := too_few_runs(section):
        parts.append(f"<sub>{plain(missing)}</sub>")
    parts.append(_details("Spread, loading, memory", _table(cost_grid(bench, section))))
    operators = operator_grid(bench, section)
    if operators is not None:
        parts.append(_details("Time by operator", _table(operators)))
    for facts, model in zip(bench.models, section.models, strict=True):
        nodes = node_grid(model)
        if nodes is not None:
            parts.append(_details(f"Slowest nodes of {plain(facts.name)}", _table(nodes)))
    return "\n\n".join(parts)


def _table(grid: Grid) -> str:
    lines = [_line(_plain_cells(grid.columns)), "|" + "---|" * grid.names + "---:|" * (len(grid.columns) - grid.names)]
    for row in grid.rows:
        lines.append(_line([*map(code, row[: grid.names]), *_plain_cells(row[grid.names :])]))
    return "\n".join(lines)


def _plain_cells(cells: tuple[str, ...]) -> list[str]:
    return [plain(cell) for cell in cells]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _details(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"
