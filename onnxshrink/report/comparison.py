"""Two or more saved reports side by side: what became better or worse, what else changed, and what cannot be compared.

A figure with an interval is better or worse when its interval excludes "no change"; one without when it changes by more
than its margin. Latency, load time and memory are compared as the ratios of both runs' own ratios: milliseconds of two
runs, let alone of two machines, say nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from onnxshrink.errors import OnnxShrinkError
from onnxshrink.report.compared import ChangedFact, ComparedFigure, Line, Pairing, cell_text, compared_figure
from onnxshrink.report.figures import (
    OTHER_DATA,
    agreement_points,
    error_ratio,
    figures_between,
    figures_of,
    figures_of_original,
    metric_level,
)
from onnxshrink.report.gates import Estimate, Figures, Gate, Reading, Uncertain, judge, value_text
from onnxshrink.report.json_format import kind_of
from onnxshrink.report.metric_text import title
from onnxshrink.report.report import PassRecord, Report
from onnxshrink.report.summary import kernels_text

_SIZES = (Line("file size", "size", "bytes"), Line("gzip", "gzip", "bytes"))
_COUNTS = (
    Line("nodes", "nodes", "count", judged=False),  # those that decode weights are gone when the model is loaded
    Line("parameters", "parameters", "count", judged=False),
    Line("MACs", "macs", "count"),
)

_BETWEEN_RUNS = (
    _SIZES[0],
    _SIZES[1],
    Line("latency of original", "latency", "ratio"),
    Line("load time of original", "load", "ratio"),
    Line("memory of original", "memory", "ratio", margin=0.05),
    *_COUNTS,
    Line("output error", "error", "number", margin=0.05),
    Line("top-1 agreement", "agreement", "share", "points", more_is_better=True),
    Line("MACs in integers", "integer", "share", judged=False),
)

_WITHIN_RUN = (
    *_SIZES,
    Line("latency", "latency", "ms"),
    Line("load time", "load", "ms"),
    Line("peak memory", "memory", "bytes", margin=0.05),
    *_COUNTS,
)


COMPARED: Mapping[str, str] = {
    "compression": "onnxshrink.report.comparison:compare_reports",
    "evaluation": "onnxshrink.report.evaluation_comparison:compare_evaluations",
    "bench": "onnxshrink.report.bench_comparison:compare_benches",
    "batch": "onnxshrink.report.batch_comparison:compare_batches",
}
"""How two documents of one kind are compared: by a function that is called as :func:`compare_reports` is."""


def compare_documents(
    base: Any, new: Any, name: str, gates: Sequence[Gate] = (), uncertain: Uncertain = "warn"
) -> Pairing:
    """Compare two saved documents of the same kind.

    Raises:
        OnnxShrinkError: they are of different kinds, or of one that is not compared.
    """
    kinds = kind_of(base), kind_of(new)
    if kinds[0] != kinds[1]:
        raise OnnxShrinkError(
            f"this is a saved {kinds[1]}, which cannot be compared with a saved {kinds[0]}: give documents of one kind"
        )
    if kinds[0] is None or kinds[0] not in COMPARED:
        raise OnnxShrinkError(f"saved documents of kind {kinds[0]} are not compared ({', '.join(COMPARED)} are)")
    module, _, function = COMPARED[kinds[0]].partition(":")
    pairing: Pairing = getattr(importlib.import_module(module), function)(base, new, name, gates, uncertain)
    return pairing


def compare_reports(
    base: Report, new: Report, name: str, gates: Sequence[Gate] = (), uncertain: Uncertain = "warn"
) -> Pairing:
    """The report of one run against that of another. Gates are judged on the new result against the base's."""
    changes: dict[tuple[str, Reading], Estimate | str] = dict(figures_between(base, new))
    same_data = _same_data(base, new)
    changes["error", "ratio"] = error_ratio(base.agreement, new.agreement) if same_data else OTHER_DATA
    changes["agreement", "points"] = agreement_points(base.agreement, new.agreement) if same_data else OTHER_DATA
    lines = (*_BETWEEN_RUNS, *_metric_line(new if new.accuracy is not None else base))
    figures = _compared(lines, figures_of(base), figures_of(new), changes)
    if _same_conditions(base, new):
        figures = _with_milliseconds(figures, base, new)
    return Pairing(
        name,
        tuple(figures),
        tuple(_changes(base, new)),
        tuple(_warnings(base, new)),
        judge(gates, figures_between(base, new), uncertain),
    )


def compare_within(report: Report, name: str, gates: Sequence[Gate] = (), uncertain: Uncertain = "warn") -> Pairing:
    """Two models that were run side by side: the report's result against its original."""
    figures = figures_of(report)
    lines = [*_compared((*_WITHIN_RUN, *_metric_line(report)), figures_of_original(report), figures, figures)]
    for label, figure, reading in _CLOSENESS:
        estimate = figures[figure, reading]
        if isinstance(estimate, Estimate):
            text = value_text(reading, estimate.value)
            lines.append(ComparedFigure(label, "", text, "", "", figure, reading, estimate.value))
    return Pairing(name, tuple(lines), (), report.notes, judge(gates, figures, uncertain))


_CLOSENESS: tuple[tuple[str, str, Reading], ...] = (
    ("output difference", "error", "number"),
    ("top-1 agreement", "agreement", "share"),
)


def _compared(lines: Sequence[Line], base: Figures, new: Figures, changes: Figures) -> Iterator[ComparedFigure]:
    """The lines of figures that at least one side has."""
    for line in lines:
        before, after = (side.get((line.figure, line.cell), "not measured") for side in (base, new))
        if isinstance(before, str) and isinstance(after, str):
            continue
        reading: Reading = "ratio" if line.figure == "error" else line.change
        change = changes.get((line.figure, reading), "unknown")
        if isinstance(before, str) or isinstance(after, str):
            change = f"not measured in {'base' if isinstance(before, str) else 'new'}"
        yield compared_figure(line, reading, cell_text(line.cell, before), cell_text(line.cell, after), change)


def _metric_line(report: Report) -> Iterator[Line]:
    """The line of the metric that was measured, if any."""
    accuracy = report.accuracy
    if accuracy is not None:
        figure, reading = metric_level(accuracy)
        better = accuracy.higher_is_better
        yield Line(title(accuracy), figure, reading, "points", more_is_better=better, margin=0.0)


def _with_milliseconds(figures: Iterator[ComparedFigure], base: Report, new: Report) -> Iterator[ComparedFigure]:
    """Behind the latency ratio, the milliseconds of both runs; shown, not judged."""
    for figure in figures:
        yield figure
        if figure.figure == "latency":
            before, after = (figures_of(report)["latency", "ms"] for report in (base, new))
            cells = (cell_text("ms", before), cell_text("ms", after))
            yield ComparedFigure("latency, across runs", *cells, "not judged", "", "latency", "ms")


def _same_data(base: Report, new: Report) -> bool:
    return base.data is not None and new.data is not None and base.data.digest == new.data.digest


def _same_conditions(base: Report, new: Report) -> bool:
    """Whether latencies of both runs are of the same machine, in the same setting."""
    return (base.machine, base.threads, base.batch_size) == (new.machine, new.threads, new.batch_size)


_FACTS: tuple[tuple[str, Callable[[Report], str]], ...] = (
    ("original", lambda report: f"{report.original.name} {report.original.sha256[:12]}"),
    ("preset", lambda report: report.preset or "none, a recipe"),
    ("recipe", lambda report: report.recipe),
    ("seed", lambda report: str(report.seed)),
    ("data", lambda report: "none" if report.data is None else f"{report.data.description} {report.data.digest[:12]}"),
    ("integer kernels", lambda report: kernels_text(report) or "none"),
    ("missed kernels", lambda report: str(len(report.missed_kernels))),
    ("machine", lambda report: f"{report.machine.cpu}, {report.machine.cores} cores"),
    ("system", lambda report: report.machine.system),
    ("CPU features", lambda report: ", ".join(report.machine.cpu_features) or "none"),
    ("threads", lambda report: str(report.threads) if report.threads else "default"),
    ("batch size", lambda report: "not timed" if report.batch_size is None else str(report.batch_size)),
)


def _changes(base: Report, new: Report) -> Iterator[ChangedFact]:
    for label, fact in _FACTS:
        before, after = fact(base), fact(new)
        if before != after:
            yield ChangedFact(label, before, after)
    yield from _changed_passes(base.passes, new.passes)
    for name in dict.fromkeys([*base.versions, *new.versions]):
        before, after = base.versions.get(name, "none"), new.versions.get(name, "none")
        if before != after:
            yield ChangedFact(f"{name} version", before, after)


def _changed_passes(base: Sequence[PassRecord], new: Sequence[PassRecord]) -> Iterator[ChangedFact]:
    """Passes that ended otherwise, or were undone; the n-th of several equal ones belongs to the n-th."""
    before, after = _outcomes(base), _outcomes(new)
    for key in dict.fromkeys([*before, *after]):
        first, second = before.get(key, "not run"), after.get(key, "not run")
        in_both = key in before and key in after  # the recipes say which passes are not
        if first != second and (in_both or "undone" in first + second):
            yield ChangedFact(f"pass {key[0]}", first, second)


def _outcomes(passes: Sequence[PassRecord]) -> dict[tuple[str, int], str]:
    found: dict[tuple[str, int], str] = {}
    for record in passes:
        count = sum(text == record.text for text, _ in found)
        reason = f": {record.reason}" if record.reason else ""
        found[record.text, count] = f"{record.status}{reason}"
    return found


def _warnings(base: Report, new: Report) -> Iterator[str]:
    if base.machine != new.machine:
        yield "the machines differ: only ratios within a run are compared, no milliseconds"
    if (base.threads, base.batch_size) != (new.threads, new.batch_size) and None not in (base.latency, new.latency):
        yield "threads or batch size differ: the latency ratios are of different settings"
    tools = [name for name in ("onnxruntime", "onnxshrink") if base.versions.get(name) != new.versions.get(name)]
    if tools:
        yield f"versions of {' and '.join(tools)} differ: changes may come from there"
    if base.original.sha256 != new.original.sha256:
        yield "the originals differ: ratios are each to its own original"
    if base.data is not None and new.data is not None and base.data.digest != new.data.digest:
        yield "the data differs: output error, agreement and metric are not compared"
