"""A comparison on a terminal: a table of figures with verdicts, then what else changed."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxshrink.report.compared import Comparison, Pairing, changed_text
from onnxshrink.report.terminal import gate_table

_TONES = {"better": "green", "worse": "red", "not comparable": "yellow"}
_WIDEST = 120
_LONGEST_FIGURE = 24
_MOST_LINES = 200


def render_comparison(comparison: Comparison, console: Console) -> None:
    """Print every pairing below the other."""
    width = min(console.width, _WIDEST)
    for pairing in comparison.pairings:
        console.print(Text(f"{comparison.base} → {pairing.name}", style="bold"), width=width)
        for warning in pairing.warnings:
            console.print(Text(f"! {warning}", style="yellow"), width=width)
        console.print(_figures(pairing), width=width)
        _print_rest(console, len(pairing.figures))
        console.print()
        if pairing.gates:
            console.print(gate_table(pairing.gates), width=width)
            console.print()
        if pairing.changes:
            console.print(_changes(pairing), width=width)
            _print_rest(console, len(pairing.changes))
            console.print()


def _print_rest(console: Console, count: int) -> None:
    if count > _MOST_LINES:
        console.print(Text(f"and {count - _MOST_LINES:,} more: --json prints them", style="dim"))


def _figures(pairing: Pairing) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("", overflow="fold")
    for name in ("base", "new"):
        table.add_column(name, justify="right")
    table.add_column("new / base", overflow="fold", min_width=10)
    table.add_column("", overflow="fold", min_width=10)
    for figure in pairing.figures[:_MOST_LINES]:
        verdict = Text(figure.verdict, style=_TONES.get(figure.verdict, ""))
        base, new, change = map(_before_interval, (figure.base, figure.new, figure.change))
        table.add_row(Text(figure.label), base, new, change, verdict)
    return table


def _before_interval(text: str) -> str:
    """A cell that is broken between figure and interval only; sentences are broken between words."""
    figure, bracket, interval = text.partition(" [")
    if not any(character.isdigit() for character in figure[:3]):
        return text
    return f"{_unbroken(figure)}{bracket}{_unbroken(interval)}"


def _unbroken(text: str) -> str:
    return text if len(text) > _LONGEST_FIGURE else text.replace(" ", "\N{NO-BREAK SPACE}")


def _changes(pairing: Pairing) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(overflow="fold", max_width=36)
    table.add_column(overflow="fold")
    for change in pairing.changes[:_MOST_LINES]:
        table.add_row(Text(change.label, style="bold"), Text(changed_text(change)))
    return table
