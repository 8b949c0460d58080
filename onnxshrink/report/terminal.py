"""The report on a terminal: the headline first, then the comparison, then what each pass did."""

from __future__ import annotations

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from onnxshrink.report.gate_result import GateResult
from onnxshrink.report.report import PassRecord, Report
from onnxshrink.report.summary import (
    Row,
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

_TONES = {"good": "green", "bad": "red", "plain": ""}
_MARKS = {"applied": ("✓", "green"), "unchanged": ("·", "dim"), "undone": ("✗", "yellow")}
_GATE_MARKS = {"passed": ("✓", "green"), "uncertain": ("?", "yellow"), "failed": ("✗", "red")}
_WIDEST = 120
_SKIP_LINES = 5


def render(report: Report, console: Console, verbose: bool = False) -> None:
    """Print the report. ``verbose``: every change, every skip, every output, the recipe and the machine."""
    width = min(console.width, _WIDEST)
    console.print(_headline(report), width=width)
    console.print(_comparison(report), width=width)
    if report.agreement is not None:
        _print_agreement(report, console, verbose, width)
    if kernels := kernels_text(report):
        console.print(_hanging("integer kernels", kernels, "bold"), width=width)
        console.print()
    if report.alternatives:
        console.print(_alternatives(report), width=width)
        console.print()
    if report.gates:
        console.print(gate_table(report.gates), width=width)
        console.print()
    console.print(_passes(report.passes, verbose), width=width)
    _print_skips(report.passes, console, verbose, width)
    for note in report.notes:
        console.print(_hanging("!", note, "yellow"), width=width)
    if verbose:
        console.print(_hanging("recipe", report.recipe, "bold"), width=width)
        console.print(_hanging("measured with", environment(report), "bold"), width=width)


def _headline(report: Report) -> Panel:
    first, *others = headline(report)
    text = Text(first, style="bold")
    for clause in others:
        text.append(f"\n{clause}", style="not bold")
    title = Text(f"{report.original.name} → {report.result.name}")
    return Panel(text, box=ROUNDED, title=title, title_align="left", padding=(0, 1))


def _comparison(report: Report) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("original", "result"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("result / original", overflow="fold")
    for row in comparison_rows(report):
        table.add_row(row.label, row.original, row.result, _toned(row))
    return table


def _alternatives(report: Report) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("tried", overflow="fold")
    for name in ("size", "error", "latency / cleaned up"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for cells, alternative in zip(alternative_rows(report), report.alternatives, strict=True):
        table.add_row(*cells, style="bold" if alternative.kept else "")
    return table


def gate_table(gates: tuple[GateResult, ...]) -> Table:
    """One line per gate: how it was judged, and the figure."""
    table = _grid()
    for result in gates:
        mark, style = _GATE_MARKS[result.status]
        verdict = "" if result.status == "passed" else f"{result.status}: "
        table.add_row(Text(mark, style=style), Text(f"gate {result.gate}"), Text(verdict + result.reason, style=style))
    return table


def _toned(row: Row) -> Text:
    return Text(row.change, style=_TONES[row.tone])


def _print_agreement(report: Report, console: Console, verbose: bool, width: int) -> None:
    agreement, data = report.agreement, report.data
    if agreement is None:
        return
    source = "" if data is None else f"\non {data.description}"
    console.print()
    console.print(_hanging("outputs", agreement_figures(agreement) + source, "bold"), width=width)
    if verbose and len(agreement.outputs) > 1:
        for output in agreement.outputs:
            console.print(_hanging(f"  {output.name}", agreement_figures(output)), width=width)
    console.print()


def _passes(passes: tuple[PassRecord, ...], verbose: bool) -> Table:
    """One line per pass that did or would have done something; the idle ones share one."""
    table = _grid()
    for record in passes:
        if record.status == "unchanged" and not verbose:
            continue
        mark, style = _MARKS[record.status]
        name, _, fields = record.text.partition("{")
        outcome = Text(pass_outcome(record), style=style if record.status == "undone" else "")
        if fields:
            outcome.append(f"\n{fields.rstrip('}')}", style="dim")
        if verbose:
            outcome.append(f"\n{record.effect}, {record.seconds:.2f} s", style="dim")
            for change in record.changes:
                outcome.append(f"\n{change.node}: {change.what}", style="dim")
        table.add_row(Text(mark, style=style), Text(name), outcome)
    idle = dict.fromkeys(record.text.partition("{")[0] for record in passes if record.status == "unchanged")
    if idle and not verbose:
        table.add_row(Text("·", style="dim"), Text("nothing to do", style="dim"), Text(", ".join(idle), style="dim"))
    return table


def _print_skips(passes: tuple[PassRecord, ...], console: Console, verbose: bool, width: int) -> None:
    groups = list(skip_groups(passes))
    if not groups:
        return
    console.print()
    console.print(Text("Left alone", style="bold"), width=width)
    table = _grid()
    for group in groups if verbose else groups[:_SKIP_LINES]:
        names = ", ".join(group.nodes) if verbose else listing(group.nodes, 2)
        table.add_row(
            Text(f"{len(group.nodes)}×"), Text(group.text.partition("{")[0]), Text(f"{group.reason}: {names}", "dim")
        )
    console.print(table, width=width)
    if len(groups) > _SKIP_LINES and not verbose:
        rest = sum(len(group.nodes) for group in groups[_SKIP_LINES:])
        console.print(Text(f"and {rest} more for other reasons: --verbose lists them", style="dim"), width=width)
    console.print()


def _grid() -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, justify="right")
    table.add_column(overflow="fold", min_width=16)
    table.add_column(overflow="fold", ratio=1)
    return table


def _hanging(label: str, text: str, style: str = "") -> Table:
    """A label and a text whose further lines stay to the right of the label."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text(label, style=style), Text(text))
    return table
