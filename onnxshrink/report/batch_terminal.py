"""A batch on a terminal: the headline, a table of models, then what failed and why."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from onnxshrink.report.batch import Batch, BatchEntry
from onnxshrink.report.batch_summary import (
    BatchLine,
    count_text,
    environment_of,
    headline,
    lines,
    ranked,
)
from onnxshrink.report.summary import Tone

_TONES: dict[Tone, str] = {"good": "green", "bad": "red", "plain": ""}
_MARKS = {
    "failed": ("✗", "red"),
    "gates failed": ("✗", "red"),
    "gates uncertain": ("?", "yellow"),
    "slower": ("!", "yellow"),
    "done": ("✓", "green"),
}
_GATE_STYLES = {"failed": "red", "uncertain": "yellow"}
_WIDEST = 120
_MOST_LINES = 40
_LEAST_NAME = 16
_LEAST_FIRST = ("time", "error", "metric", "latency")


def render_batch(batch: Batch, console: Console, *, verbose: bool = False) -> None:
    """Print a batch. ``verbose``: every model, every gate that was not passed, and the machine."""
    width = min(console.width, _WIDEST)
    console.print(_headline(batch), width=width)
    most = len(batch.entries) if verbose else _MOST_LINES
    found = ranked(lines(batch))
    done = [line for line in found if line.standing != "failed"]
    failed = [line for line in found if line.standing == "failed"]
    if done:
        shown = {line.place for line in done[:most]}
        console.print(_models([line for line in lines(batch) if line.place in shown], width), width=width)
        _print_rest(console, len(done) - len(shown), width)
    if failed:
        console.print()
        console.print(Text(f"Failed: {count_text(len(failed))}", style="bold red"), width=width)
        console.print(_failures(failed[:most]), width=width)
        _print_rest(console, len(failed) - most, width)
    gates = _gates(batch.entries)
    if gates:
        console.print()
        console.print(_gate_table(gates[:most]), width=width)
        _print_rest(console, len(gates) - most, width)
    if verbose:
        console.print()
        console.print(Text(environment_of(batch), style="dim"), width=width)


def _headline(batch: Batch) -> Panel:
    first, *others = headline(batch)
    text = Text(first, style="bold")
    for clause in others:
        text.append(f"\n{clause}", style="not bold")
    return Panel(text, box=ROUNDED, title=Text("batch"), title_align="left", padding=(0, 1))


def _print_rest(console: Console, count: int, width: int) -> None:
    if count > 0:
        console.print(Text(f"and {count:,} more: --verbose lists them, and so do the files", style="dim"), width=width)


def _models(found: Sequence[BatchLine], width: int) -> Table:
    """A line per model, never more; empty columns are left out, and on narrow terminals those that matter least."""
    columns = {
        "result": [Text(line.result_size) for line in found],
        "share": [Text(line.share.replace(" ", "\N{NO-BREAK SPACE}")) for line in found],
        "latency": [Text(line.latency_ratio, style=_TONES[line.latency_tone]) for line in found],
        "error": [Text(line.error) for line in found],
        "metric": [Text(line.values, style=_TONES[line.metric_tone]) for line in found],
    }
    columns["time"] = [Text(line.seconds, style="dim") for line in found]
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    widths = {name: 2 + max(len(name), *map(len, cells)) for name, cells in shown.items()}
    for name in _LEAST_FIRST:
        if width - sum(widths.values()) - 4 < _LEAST_NAME and name in shown:
            del shown[name], widths[name]
    room = max(_LEAST_NAME, width - sum(widths.values()) - 4)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=True, width=1)
    table.add_column("model", no_wrap=True)
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for place, line in enumerate(found):
        mark, style = _MARKS[line.standing]
        table.add_row(Text(mark, style=style), Text(_cut(line.name, room)), *(cells[place] for cells in shown.values()))
    if "latency" in shown and any(line.latency_ratio.endswith("ns") for line in found):
        table.caption = Text("ns: not significant", style="dim")
        table.caption_justify = "left"
    return table


def _cut(name: str, room: int) -> str:
    """The end of a name, which tells more than its beginning."""
    return name if len(name) <= room else f"…{name[1 - room :]}"


def _failures(found: Sequence[BatchLine]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", max_width=40)
    table.add_column(overflow="fold", ratio=1)
    for line in found:
        table.add_row(Text("✗", style="red"), Text(line.name), Text(line.reason))
    return table


def _gates(entries: Sequence[BatchEntry]) -> list[tuple[str, str, str]]:
    """Status, model, and what was judged, of every gate that was not passed; failed ones first."""
    found = [
        (gate.status, entry.name, f"{gate.gate}: {gate.reason}")
        for entry in entries
        for gate in entry.gates
        if gate.status != "passed"
    ]
    return sorted(found, key=lambda one: one[0] != "failed")


def _gate_table(found: Sequence[tuple[str, str, str]]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", max_width=40)
    table.add_column(overflow="fold", ratio=1)
    for status, name, text in found:
        table.add_row(Text(f"gate {status}", style=_GATE_STYLES[status]), Text(name), Text(text))
    return table
