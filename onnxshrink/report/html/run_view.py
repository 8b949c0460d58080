"""What one report's part of a page shows: texts, shares for bars, and charts; long lists cut and counted."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnxshrink.measured import Accuracy
from onnxshrink.report.gates import gate_line
from onnxshrink.report.html import charts
from onnxshrink.report.layers import LayerFacts
from onnxshrink.report.metric_text import change_text, title, value_text, verdict_with_interval
from onnxshrink.report.report import Alternative, PassRecord, Report
from onnxshrink.report.summary import (
    Row,
    SkipGroup,
    Tone,
    alternative_rows,
    bytes_text,
    comparison_rows,
    kernels_text,
    latency_clause,
    milliseconds,
    number,
    pass_outcome,
    percent,
    skip_groups,
)

_MOST_LAYERS = 40
_MOST_WORST = 12
_MOST_HISTOGRAMS = 12
_MOST_OPERATORS = 24
_MOST_OUTPUTS = 24
_MOST_CHANGES = 30
_MOST_SKIP_GROUPS = 40
_MOST_NAMES = 30
_MOST_NOTES = 30
_MOST_PASSES = 60
_MOST_DRAWN_LAYERS = 400
LONGEST_NAME = 160


@dataclass(frozen=True)
class Tile:
    """One figure of the verdict. ``value``: the exact number behind the text, for scripts."""

    label: str
    text: str
    below: str
    value: float | None
    tone: Tone = "plain"


@dataclass(frozen=True)
class Bar:
    """A line with two bars. Shares are of the longest bar; None: there is no such thing in that model."""

    label: str
    original: str
    result: str
    original_share: float | None
    result_share: float | None
    kind: str = ""
    note: str = ""


@dataclass(frozen=True)
class WorstLayer:
    place: int
    name: str
    operator: str
    error: str
    sqnr: str
    macs: str
    rescaled: bool


@dataclass(frozen=True)
class Histogram:
    name: str
    kind: str
    chart: str


@dataclass(frozen=True)
class Step:
    """One pass. ``share``: the model's bytes behind it, of the largest number of bytes in the run."""

    mark: str
    status: str
    text: str
    effect: str
    outcome: str
    seconds: str
    size: str
    share: float
    changes: tuple[str, ...]
    more_changes: int


@dataclass(frozen=True)
class LeftAlone:
    count: int
    text: str
    reason: str
    names: tuple[str, ...]
    more: int


@dataclass(frozen=True)
class Tried:
    cells: tuple[str, ...]
    kept: bool


@dataclass(frozen=True)
class Note:
    """A gate's verdict, or what a reader must know; ``tone`` is ``good``, ``bad`` or empty."""

    text: str
    tone: str = ""


@dataclass(frozen=True)
class RunView:
    """Everything the template shows of one report. ``key`` prefixes the ids of its parts."""

    key: str
    report: Report
    tiles: tuple[Tile, ...]
    notes: tuple[Note, ...]
    rows: tuple[Row, ...]
    kernels: str
    outputs: tuple[tuple[str, ...], ...]
    more_outputs: int
    latency: str
    latency_charts: tuple[str, ...]
    layers: tuple[Bar, ...]
    layer_count: int
    worst: tuple[WorstLayer, ...]
    error_chart: str
    histograms: tuple[Histogram, ...]
    operators: tuple[Bar, ...]
    steps: tuple[Step, ...]
    idle: tuple[str, ...]
    left_alone: tuple[LeftAlone, ...]
    more_left_alone: int
    tried: tuple[Tried, ...]
    tried_charts: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    command: str


_GATE_TONES = {"passed": "good", "failed": "bad"}


def _notes(report: Report) -> Iterator[Note]:
    for gate in report.gates:
        yield Note(gate_line(gate), _GATE_TONES.get(gate.status, ""))
    yield from map(Note, report.notes)


def run_view(report: Report, key: str) -> RunView:
    """The view of one report; ``key`` is unique on the page."""
    outputs = _outputs(report)
    groups = list(skip_groups(report.passes))
    layers = [layer for layer in report.layers if layer.layers == 1]
    latency = report.latency
    return RunView(
        key=key,
        report=report,
        tiles=_tiles(report),
        notes=tuple(_notes(report))[:_MOST_NOTES],
        rows=comparison_rows(report),
        kernels=kernels_text(report),
        outputs=tuple(outputs[:_MOST_OUTPUTS]),
        more_outputs=max(0, len(outputs) - _MOST_OUTPUTS),
        latency="" if latency is None else latency_clause(latency),
        latency_charts=()
        if latency is None
        else (
            charts.latency_histogram(latency, f"{key}-times"),
            charts.latency_sequence(latency, f"{key}-sequence"),
        ),
        layers=_layer_bars(report),
        layer_count=sum(layer.layers for layer in report.layers),
        worst=_worst_layers(layers),
        error_chart=_error_chart(layers, key),
        histograms=_histograms(layers, key),
        operators=_operator_bars(report.original.nodes, report.result.nodes),
        steps=_steps(report.passes),
        idle=tuple(dict.fromkeys(one.text for one in report.passes if one.status == "unchanged"))[:_MOST_PASSES],
        left_alone=tuple(_left_alone(group) for group in groups[:_MOST_SKIP_GROUPS]),
        more_left_alone=sum(len(group.nodes) for group in groups[_MOST_SKIP_GROUPS:]),
        tried=tuple(
            Tried(cells, one.kept) for cells, one in zip(alternative_rows(report), report.alternatives, strict=True)
        ),
        tried_charts=_tried_charts(report.alternatives, key),
        facts=_facts(report),
        command=rebuild_command(report),
    )


def rebuild_command(report: Report) -> str:
    """The command line that makes the result again from the original."""
    words = ["onnxshrink", "compress", report.original.path or report.original.name]
    words += ["-o", report.result.path or report.result.name, "--recipe", report.recipe]
    if report.seed:
        words += ["--seed", str(report.seed)]
    command = shlex.join(words)
    return command + (" --data DATA.npz" if report.data is not None and not report.data.synthetic else "")


def _tiles(report: Report) -> tuple[Tile, ...]:
    before, after = report.original.size.file_bytes, report.result.size.file_bytes
    tone: Tone = "good" if report.size_ratio < 0.995 else "bad" if report.size_ratio > 1.005 else "plain"
    exact = f"{bytes_text(before)} → {bytes_text(after)} ({before:,} → {after:,} bytes)"
    tiles = [Tile("of the size", percent(report.size_ratio, 1), exact, report.size_ratio, tone)]
    latency, agreement, accuracy = report.latency, report.agreement, report.accuracy
    if latency is not None:
        low, high = latency.ratio_low, latency.ratio_high
        below = f"{milliseconds(latency.original_median_ms)} → {milliseconds(latency.result_median_ms)}; "
        below += f"ratio {latency.ratio:.2f}, 95 % interval {low:.2f} to {high:.2f}"
        tone = "plain" if not latency.significant else "good" if latency.ratio < 1 else "bad"
        tiles.append(Tile("latency", latency.verdict, below, latency.ratio, tone))
    if agreement is not None:
        where = "on made-up inputs" if report.data is not None and report.data.synthetic else "of the outputs"
        below = f"{where}, {agreement.samples:,} samples"
        if agreement.top1 is not None:
            below += f"; top-1 agreement {percent(agreement.top1)}"
        error = agreement.relative_error
        if error is None or agreement.equal_share == 1:
            tiles.append(Tile("equal elements", percent(agreement.equal_share), below, error))
        else:
            tiles.append(Tile("relative error", number(error), below, error))
    if accuracy is not None:
        values = [value_text(value, accuracy.unit) for value in (accuracy.original, accuracy.result)]
        below = f"{values[0]} → {values[1]}, {accuracy.samples:,} samples; {verdict_with_interval(accuracy)}"
        moved = change_text(accuracy)
        lost_or_gained = accuracy.drop_points if accuracy.unit == "share" else accuracy.difference
        tiles.append(Tile(title(accuracy), moved, below, lost_or_gained, _tone(accuracy)))
    return tuple(tiles)


def _tone(accuracy: Accuracy) -> Tone:
    if not accuracy.significant:
        return "plain"
    return "bad" if accuracy.drop > 0 else "good"


def _outputs(report: Report) -> list[tuple[str, ...]]:
    if report.agreement is None:
        return []
    return [
        (
            _short(output.name),
            _optional(output.relative_error, number),
            _optional(output.max_abs_difference, number),
            _optional(output.cosine, lambda cosine: f"{cosine:.6f}"),
            _optional(output.sqnr_db, lambda db: f"{db:.1f} dB"),
            _optional(output.top1, percent),
            percent(output.equal_share),
        )
        for output in report.agreement.outputs
    ]


def _optional(value: float | None, text: Callable[[float], str]) -> str:
    return "–" if value is None else text(value)


def _layer_bars(report: Report) -> tuple[Bar, ...]:
    """The largest layers, the others summed up, and what no layer accounts for."""
    if not report.layers:
        return ()
    ranked = sorted((layer for layer in report.layers if layer.layers == 1), key=lambda layer: -_largest(layer))
    shown, others = ranked[:_MOST_LAYERS], ranked[_MOST_LAYERS:]
    others += [layer for layer in report.layers if layer.layers > 1]
    lines: list[tuple[str, int | None, int | None, str, str]] = [
        (_short(layer.name), layer.original_bytes, layer.result_bytes, _operator(layer), _dtypes(layer))
        for layer in shown
    ]
    if others:
        sums = [sum(one or 0 for one in column) for column in zip(*map(_both_bytes, others), strict=True)]
        lines.append((f"{sum(layer.layers for layer in others):,} smaller layers", sums[0], sums[1], "", ""))
    rests = [
        max(0, facts.size.file_bytes - sum(_both_bytes(layer)[side] or 0 for layer in report.layers))
        for side, facts in enumerate((report.original, report.result))
    ]
    lines.append(("everything else in the file", rests[0], rests[1], "", "graph, names, other constants"))
    longest = max(1, *(max(before or 0, after or 0) for _, before, after, _, _ in lines))
    return tuple(
        Bar(
            label,
            "–" if before is None else bytes_text(before),
            "–" if after is None else bytes_text(after),
            None if before is None else before / longest,
            None if after is None else after / longest,
            operator,
            note,
        )
        for label, before, after, operator, note in lines
    )


def _both_bytes(layer: LayerFacts) -> tuple[int | None, int | None]:
    return layer.original_bytes, layer.result_bytes


def _largest(layer: LayerFacts) -> int:
    return max(layer.original_bytes or 0, layer.result_bytes or 0)


def _operator(layer: LayerFacts) -> str:
    kinds = [kind for kind in dict.fromkeys((layer.op_type, layer.result_op_type)) if kind]
    return " → ".join(kinds)


def _dtypes(layer: LayerFacts) -> str:
    if layer.original_dtype is None:
        return f"{(layer.result_dtype or '').lower()}, only in the result"
    if layer.result_dtype is None:
        return f"{layer.original_dtype.lower()}, only in the original"
    return " → ".join(dict.fromkeys((layer.original_dtype.lower(), layer.result_dtype.lower())))


def _worst_layers(layers: Sequence[LayerFacts]) -> tuple[WorstLayer, ...]:
    known = [(layer.output_error, place, layer) for place, layer in enumerate(layers, 1) if layer.output_error]
    known.sort(key=lambda entry: (-entry[0], entry[1]))
    return tuple(
        WorstLayer(
            place,
            _short(layer.name),
            _operator(layer),
            number(error),
            _optional(layer.sqnr_db, lambda db: f"{db:.1f} dB"),
            "–" if layer.macs is None else f"{layer.macs:,}",
            layer.rescaled,
        )
        for error, place, layer in known[:_MOST_WORST]
    )


def _error_chart(layers: Sequence[LayerFacts], key: str) -> str:
    known = [(place, layer.output_error) for place, layer in enumerate(layers, 1) if layer.output_error is not None]
    if len(known) < 2 or not any(error for _, error in known):
        return ""
    known = known[:: math.ceil(len(known) / _MOST_DRAWN_LAYERS)]
    return charts.layer_errors([place for place, _ in known], [error for _, error in known], f"{key}-errors")


def _histograms(layers: Sequence[LayerFacts], key: str) -> tuple[Histogram, ...]:
    shown = sorted((layer for layer in layers if layer.histogram is not None), key=lambda layer: -_largest(layer))
    found = []
    for index, layer in enumerate(shown[:_MOST_HISTOGRAMS]):
        assert layer.histogram is not None
        chart = charts.weight_histogram(layer.histogram, f"{key}-weights-{index}")
        found.append(Histogram(_short(layer.name), f"{_operator(layer)}, {_dtypes(layer)}", chart))
    return tuple(found)


def _operator_bars(before: Mapping[str, int], after: Mapping[str, int]) -> tuple[Bar, ...]:
    names = sorted(
        {*before, *after} - {"Constant"}, key=lambda name: (-max(before.get(name, 0), after.get(name, 0)), name)
    )
    lines = [(_short(name), before.get(name, 0), after.get(name, 0)) for name in names[:_MOST_OPERATORS]]
    if rest := names[_MOST_OPERATORS:]:
        sums = [sum(counts.get(name, 0) for name in rest) for counts in (before, after)]
        lines.append((f"{len(rest):,} other operators", sums[0], sums[1]))
    longest = max([1, *(max(first, second) for _, first, second in lines)])
    return tuple(
        Bar(label, f"{first:,}", f"{second:,}", first / longest, second / longest) for label, first, second in lines
    )


def _steps(passes: Sequence[PassRecord]) -> tuple[Step, ...]:
    marks = {"applied": "✓", "undone": "✗"}
    largest = max([1, *(max(record.bytes_before, record.bytes_after) for record in passes)])
    return tuple(
        Step(
            marks[record.status],
            record.status,
            record.text,
            record.effect,
            pass_outcome(record),
            f"{record.seconds:.2f} s",
            bytes_text(record.bytes_after),
            record.bytes_after / largest,
            tuple(f"{_short(change.node)}: {_short(change.what)}" for change in record.changes[:_MOST_CHANGES]),
            max(0, len(record.changes) - _MOST_CHANGES),
        )
        for record in [one for one in passes if one.status in marks][:_MOST_PASSES]
    )


def _left_alone(group: SkipGroup) -> LeftAlone:
    names = tuple(map(_short, group.nodes[:_MOST_NAMES]))
    return LeftAlone(len(group.nodes), group.text, group.reason, names, len(group.nodes) - len(names))


def _tried_charts(alternatives: Sequence[Alternative], key: str) -> tuple[str, ...]:
    """Error against latency and against size, the alternatives by their number in the table."""
    by_latency, by_size = [], []
    for place, one in enumerate(alternatives, 1):
        if one.relative_error is None or math.isinf(one.relative_error):
            continue
        if one.latency_ratio is not None:
            interval = one.latency_low, one.latency_high
            by_latency.append(charts.Dot(str(place), one.latency_ratio, one.relative_error, *interval, kept=one.kept))
        if one.size_bytes is not None:
            by_size.append(charts.Dot(str(place), one.size_bytes / 1e6, one.relative_error, kept=one.kept))
    drawn = []
    if len(by_latency) > 1:
        drawn.append(charts.scatter(by_latency, f"{key}-by-latency", "latency / cleaned up", "relative error"))
    if len(by_size) > 1:
        drawn.append(charts.scatter(by_size, f"{key}-by-size", "size, MB", "relative error"))
    return tuple(drawn)


def _facts(report: Report) -> tuple[tuple[str, str], ...]:
    machine = report.machine
    facts = [
        ("original", f"{report.original.path or 'a model in memory'}; SHA-256 {report.original.sha256}"),
        ("result", f"{report.result.path or 'not written'}; SHA-256 {report.result.sha256}"),
    ]
    if report.data is not None:
        facts.append(("data", f"{report.data.description}; SHA-256 {report.data.digest}"))
    facts += [
        ("software", ", ".join(f"{name} {version}" for name, version in report.versions.items())),
        (
            "processor",
            f"{machine.cpu}; {machine.cores} cores; {', '.join(machine.cpu_features) or 'no features known'}",
        ),
        ("system", machine.system),
        ("threads", str(report.threads or "as ONNX Runtime decides")),
        ("batch size", "–" if report.batch_size is None else str(report.batch_size)),
        ("seed", str(report.seed)),
    ]
    return tuple((label, _short(text, 400)) for label, text in facts)


def _short(text: str, longest: int = LONGEST_NAME) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"
