"""A sensitivity measurement on a terminal: the nodes that lose most in int8, and the recipe that spares them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from onnxshrink.report.summary import number, percent
from onnxshrink.sensitivity import NodeSensitivity, Sensitivity

_WIDEST = 120


def render_sensitivity(found: Sensitivity, console: Console, top: int = 20) -> None:
    """Print a measurement. ``top``: how many nodes are shown."""
    width = min(console.width, _WIDEST)
    console.print(_headline(found), width=width)
    console.print(_nodes(found.nodes, top), width=width)
    console.print(Text(_advice(found), style="bold"), width=width)
    if 0 < len(found.suggestion.nodes) < len(found.nodes):
        # Never wrapped: the line is there to be pasted.
        console.print(Text(f"  --recipe {shlex.quote(found.suggestion.recipe)}"), soft_wrap=True)


def _headline(found: Sensitivity) -> Panel:
    samples = f"{found.samples} sample{'s' * (found.samples != 1)} of {found.data}"
    text = Text(f"predicted error of the outputs in int8: {number(found.predicted_error)}", style="bold")
    text.append(f"\nnode by node on {samples}", style="not bold")
    return Panel(text, box=ROUNDED, title=Text(found.name), title_align="left", padding=(0, 1))


def _nodes(nodes: Sequence[NodeSensitivity], top: int) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("node", overflow="fold", min_width=24)
    table.add_column("operator", overflow="fold")
    for name in ("error alone", "share", "error left", "MACs"):
        table.add_column(name, justify="right", no_wrap=True)
    for node in nodes[:top]:
        macs = "" if node.mac_share is None else percent(node.mac_share, 1)
        cells = (number(node.error), percent(node.share, 1), number(node.remaining_error), macs)
        table.add_row(Text(node.node), node.op_type, *cells)
    rest = nodes[top:]
    if rest:
        shares = [node.mac_share for node in rest if node.mac_share is not None]
        macs = percent(sum(shares), 1) if len(shares) == len(rest) else ""
        share = percent(sum(node.share for node in rest), 1)
        table.add_row(f"{len(rest)} more", "", "", share, "", macs, style="dim")
    return table


def _advice(found: Sensitivity) -> str:
    suggestion = found.suggestion
    count = len(suggestion.nodes)
    if not count and found.max_error is not None:
        return f"The predicted error is at most {number(found.max_error)} with every node in int8."
    if not count:
        return "No node stands out: the error is spread over all of them."
    if count == len(found.nodes):
        return f"No node can be in int8 when the error is to be at most {number(found.max_error or 0)}."
    what = "the worst node" if count == 1 else f"the {count} worst nodes"
    macs = "" if suggestion.mac_share is None else f", {percent(suggestion.mac_share, 1)} of the MACs,"
    return f"With {what}{macs} in float the predicted error is {number(suggestion.error)}:"
