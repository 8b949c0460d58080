"""An evaluation on a terminal: what was judged on what, the metrics, the agreement."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxshrink.report.evaluation import Evaluation
from onnxshrink.report.evaluation_summary import environment_of, metric_rows, origin, verdicts
from onnxshrink.report.summary import agreement_figures
from onnxshrink.report.terminal import gate_table

_TONES = {"good": "green", "bad": "red", "plain": ""}
_WIDEST = 120


def render_evaluation(found: Evaluation, console: Console, *, verbose: bool = False) -> None:
    """Print an evaluation. ``verbose``: every output's agreement, and the machine."""
    width = min(console.width, _WIDEST)
    console.print(Text(origin(found), style="bold"), width=width)
    console.print()
    console.print(_metrics(found), width=width)
    console.print()
    for line in verdicts(found):
        console.print(Text(line), width=width)
    if found.gates:
        console.print(gate_table(found.gates), width=width)
    if found.agreement is not None:
        console.print(Text(f"outputs: {agreement_figures(found.agreement)}"), width=width)
        if verbose and len(found.agreement.outputs) > 1:
            for output in found.agreement.outputs:
                console.print(Text(f"  {output.name}: {agreement_figures(output)}"), width=width)
    if found.reason:
        console.print(Text(f"metric chosen because {found.reason}", style="dim"), width=width)
    for note in found.notes:
        console.print(Text(f"! {note}", style="yellow"), width=width)
    if verbose:
        console.print(Text(environment_of(found), style="dim"), width=width)


def _metrics(found: Evaluation) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("metric", overflow="fold")
    if found.against is not None:
        table.add_column(found.against.name, justify="right", overflow="fold")
    table.add_column(found.model.name, justify="right", overflow="fold")
    table.add_column("difference" if found.against is not None else "95 % interval", overflow="fold")
    for row in metric_rows(found):
        values = [row.original, row.result] if found.against is not None else [row.result]
        table.add_row(row.label, *values, Text(row.change, style=_TONES[row.tone]))
    return table
