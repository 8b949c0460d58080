"""An inspection on a terminal: what is in the model, where its bytes are, what would help."""

from __future__ import annotations

import math

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from onnxshrink.advice import Hint
from onnxshrink.inspection import Inspection, TensorFacts, WeightFacts
from onnxshrink.report.summary import bytes_text, count_text, listing, number, percent

_WIDEST = 120
_MOST_OPERATORS = 12
_WIDE_ENOUGH_FOR_ALL = 110


def render_inspection(inspection: Inspection, console: Console, layers: bool = False) -> None:
    """Print an inspection. ``layers``: also a line per weight with the distribution of its values."""
    width = min(console.width, _WIDEST)
    parts: list[RenderableType] = [_headline(inspection), _facts(inspection), "", _operators(inspection)]
    if layers:
        parts += ["", _layers(inspection.weights, width)]
    if inspection.hints:
        parts += ["", Text("What would help", style="bold"), _hints(inspection.hints)]
    for part in parts:
        console.print(part, width=width)


def _headline(inspection: Inspection) -> Panel:
    size = inspection.size
    nodes = sum(count for op_type, count in inspection.nodes.items() if op_type != "Constant")
    text = (
        f"{bytes_text(size.file_bytes)}, {count_text(size.parameters)} parameters, {nodes} nodes, {_macs(inspection)}"
    )
    title = Text(inspection.name)
    return Panel(Text(text, style="bold"), box=ROUNDED, title=title, title_align="left", padding=(0, 1))


def _macs(inspection: Inspection) -> str:
    if inspection.macs is not None:
        return f"{count_text(inspection.macs)} MACs"
    return "MACs depend on open shapes"


def _facts(inspection: Inspection) -> Table:
    """Label and value of everything that is worth a line in this model."""
    opsets = ", ".join(f"{domain or 'onnx'} {version}" for domain, version in inspection.opset_imports.items())
    control_flow = ", ".join(f"{count} {op_type}" for op_type, count in inspection.control_flow.items())
    files = ", ".join(f"{name} ({bytes_text(size)})" for name, size in inspection.size.files.items())
    zeros = inspection.size.zeros / max(inspection.size.parameters, 1)
    rows = [
        ("format", f"IR version {inspection.ir_version}, opset {opsets}"),
        ("producer", inspection.producer),
        ("inputs", _tensors(inspection.inputs)),
        ("outputs", _tensors(inspection.outputs)),
        ("zeros", f"{percent(zeros, 1)} of the parameters" if zeros >= 0.01 else ""),
        ("control flow", control_flow),
        ("functions", listing(inspection.functions, 5)),
        ("custom operators", ", ".join(inspection.custom_domains)),
        ("files", files if inspection.external_data else ""),
    ]
    table = _grid(2)
    for label, value in rows:
        if value:
            table.add_row(Text(label, style="bold"), Text(value))
    return table


def _tensors(tensors: tuple[TensorFacts, ...]) -> str:
    return listing(tuple(_tensor(tensor) for tensor in tensors), 6)


def _tensor(tensor: TensorFacts) -> str:
    shape = "of any rank" if tensor.shape is None else f"({', '.join(map(str, tensor.shape))})"
    return f"{tensor.name} {tensor.type.lower()} {shape}"


def _operators(inspection: Inspection) -> Table:
    """Operators by the bytes of the constants they read, then by how many there are."""
    stored = inspection.size.bytes_by_op
    names = sorted(inspection.nodes, key=lambda name: (-stored.get(_op_type(name), 0), -inspection.nodes[name]))
    names = [name for name in names if name != "Constant"]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("operator", overflow="fold")
    table.add_column("nodes", justify="right")
    table.add_column("constants", justify="right")
    table.add_column("of the file", justify="right")
    for name in names[:_MOST_OPERATORS]:
        size = stored.get(_op_type(name), 0)
        share = percent(size / max(inspection.size.file_bytes, 1), 1) if size else ""
        table.add_row(Text(name), str(inspection.nodes[name]), bytes_text(size) if size else "", share)
    rest = names[_MOST_OPERATORS:]
    if rest:
        size = sum(stored.get(_op_type(name), 0) for name in rest)
        nodes = sum(inspection.nodes[name] for name in rest)
        table.add_row(f"{len(rest)} others", str(nodes), bytes_text(size) if size else "", "", style="dim")
    return table


def _op_type(name: str) -> str:
    return name.rpartition("::")[2]


def _layers(weights: tuple[WeightFacts, ...], width: int) -> Table:
    """One line per weight; narrow terminals show fewer figures (``--json`` has all)."""
    wide = width >= _WIDE_ENOUGH_FOR_ALL
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("weight", overflow="fold", min_width=12)
    for name in ("shape", "bytes", *(("min", "max", "mean", "std", "kurtosis") if wide else ("std",))):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("zeros", "range used", "int8 SQNR"):
        table.add_column(name, justify="right")
    for weight in weights:
        table.add_row(*_layer(weight, wide))
    return table


def _layer(weight: WeightFacts, wide: bool) -> list[Text]:
    shape = "×".join(map(str, weight.shape))
    zeros = percent(weight.zeros / math.prod(weight.shape), 1) if weight.zeros else "0"
    facts = weight.distribution
    head, figures, grid = [weight.name, shape, bytes_text(weight.size_bytes)], ["not finite"], ["", ""]
    if facts is not None:
        sqnr = "" if facts.int8_sqnr_db is None else f"{facts.int8_sqnr_db:.1f} dB"
        figures, grid = [number(facts.std)], [f"{facts.range_used:.0%}", sqnr]
    if wide:
        spread = ["", "", ""] if facts is None else list(map(number, (facts.minimum, facts.maximum, facts.mean)))
        figures = [*spread, *figures, "" if facts is None else f"{facts.kurtosis:.1f}"]
    return [Text(cell) for cell in (*head, *figures, zeros, *grid)]


def _hints(hints: tuple[Hint, ...]) -> Table:
    table = _grid(3)
    for hint in hints:
        table.add_row("•", Text(hint.pass_name or "", style="green"), Text(hint.text))
    return table


def _grid(columns: int) -> Table:
    table = Table.grid(padding=(0, 1))
    for _ in range(columns - 1):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table
