"""A bench on a terminal: the verdicts first, then one block of tables per section."""

from __future__ import annotations

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

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

_WIDEST = 140


def render_bench(bench: Bench, console: Console) -> None:
    """Print a bench."""
    width = min(console.width, _WIDEST)
    title = " · ".join(model.name for model in bench.models)
    text = Text("\n".join(headline(bench)), style="bold")
    console.print(Panel(text, box=ROUNDED, title=Text(title), title_align="left", padding=(0, 1)), width=width)
    for section in bench.sections:
        _print_section(bench, section, console, width)
    for note in all_notes(bench):
        console.print(_marked("!", note, "yellow"), width=width)
    console.print(Text(origin(bench), style="dim"), width=width)


def _print_section(bench: Bench, section: Section, console: Console, width: int) -> None:
    console.print(Text(section_title(section.batch_size, section.threads), style="bold"), width=width)
    ratios = ratio_grid(bench, section)
    if ratios is not None:
        console.print(_table(ratios), width=width)
    console.print(_table(latency_grid(bench, section)), width=width)
    if missing := too_few_runs(section):
        console.print(Text(missing, style="dim"), width=width)
    console.print(_table(cost_grid(bench, section)), width=width)
    operators = operator_grid(bench, section)
    if operators is None:
        return
    console.print(_table(operators), width=width)
    for facts, model in zip(bench.models, section.models, strict=True):
        nodes = node_grid(model)
        if nodes is not None:
            console.print(Text(f"Slowest nodes of {facts.name}", style="bold"), width=width)
            console.print(_table(nodes), width=width)


def _table(grid: Grid) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for index, column in enumerate(grid.columns):
        if index < grid.names:
            table.add_column(Text(column), overflow="fold", min_width=12)
        else:
            table.add_column(Text(column), justify="right", overflow="fold")
    for row in grid.rows:
        table.add_row(*map(Text, row))
    return table


def _marked(mark: str, text: str, style: str) -> Table:
    """Text that stays to the right of its mark when it wraps."""
    grid = Table.grid(padding=(0, 1))
    grid.add_row(Text(mark, style=style), Text(text))
    return grid
