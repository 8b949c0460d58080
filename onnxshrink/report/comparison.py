"""Two or more saved reports side by side: what became better or worse, what else changed, and what cannot be compared.

A figure with an interval is better or worse when its interval excludes "no change"; one without when it changes by more
than its margin. Latency, load time and memory are compared as the ratios of both runs' own ratios: milliseconds of two
runs, let alone of two machines, say nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from onnxshrink.errors import OnnxShrinkError
from onnxshrink.passes.fields import split_outside_quotes
from onnxshrink.report.figures import (
    OTHER_DATA,
    figures_between,
    figures_of,
    figures_of_original,
    metric_level,
    share_points,
)
from onnxshrink.report.gate_result import GateResult
from onnxshrink.report.gates import Estimate, Figures, Gate, Reading, Uncertain, estimate_text, judge, value_text
from onnxshrink.report.json_format import kind_of
from onnxshrink.report.report import SCHEMA_VERSION, PassRecord, Report
from onnxshrink.report.summary import kernels_text

Verdict = Literal["better", "worse", "same", "no significant difference", "not comparable", ""]


@dataclass(frozen=True)
class ComparedFigure:
    """One figure of both sides.

    Attributes:
        label: what it is, for people.
        base: its value there, as text; ``new`` likewise.
        change: the new one over the base's, or minus it, as text.
        verdict: empty for figures that are shown, not judged.
        figure: its name, as gates spell it; ``reading`` is that of the change: ``ratio``, ``points``, ``number``.
        value: the change as a number; None when it is unknown.
        low: lower end of its 95 % interval, where it has one; ``high`` the upper end.
    """

    label: str
    base: str
    new: str
    change: str
    verdict: Verdict
    figure: str
    reading: str
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ChangedFact:
    """Something that is not a number and differs."""

    label: str
    base: str
    new: str


@dataclass(frozen=True)
class Pairing:
    """One report, or model, against the base.

    Attributes:
        warnings: what keeps figures from being compared, one sentence each.
    """

    name: str
    figures: tuple[ComparedFigure, ...]
    changes: tuple[ChangedFact, ...] = ()
    warnings: tuple[str, ...] = ()
    gates: tuple[GateResult, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """A base and everything that was compared with it."""

    base: str
    pairings: tuple[Pairing, ...]
    schema_version: int = field(default=SCHEMA_VERSION, kw_only=True)


@dataclass(frozen=True)
class _Line:
    """How one figure is compared.

    Attributes:
        cell: the reading of both sides that is shown.
        change: the reading of the change.
        more_is_better: whether a larger figure is the better one.
        margin: a change of a figure without an interval up to this share of it is none.
        judged: whether there is a better and a worse at all.
    """

    label: str
    figure: str
    cell: Reading
    change: Reading = "ratio"
    more_is_better: bool = False
    margin: float = 0.001
    judged: bool = True


_SIZES = (_Line("file size", "size", "bytes"), _Line("gzip", "gzip", "bytes"))
_COUNTS = (
    _Line("nodes", "nodes", "count", judged=False),  # those that decode weights are gone when the model is loaded
    _Line("parameters", "parameters", "count", judged=False),
    _Line("MACs", "macs", "count"),
)

_BETWEEN_RUNS = (
    _SIZES[0],
    _SIZES[1],
    _Line("latency of original", "latency", "ratio"),
    _Line("load time of original", "load", "ratio"),
    _Line("memory of original", "memory", "ratio", margin=0.05),
    *_COUNTS,
    _Line("output error", "error", "number", margin=0.05),
    _Line("top-1 agreement", "agreement", "share", "points", more_is_better=True),
    _Line("MACs in integers", "integer", "share", judged=False),
)

_WITHIN_RUN = (
    *_SIZES,
    _Line("latency", "latency", "ms"),
    _Line("load time", "load", "ms"),
    _Line("peak memory", "memory", "bytes", margin=0.05),
    *_COUNTS,
)


COMPARED: Mapping[str, str] = {"compression": "onnxshrink.report.comparison:compare_reports"}
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
        raise OnnxShrinkError(f"a saved {kinds[1]} cannot be compared with a saved {kinds[0]}")
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
    changes["error", "ratio"] = _error_ratio(base, new)
    changes["agreement", "points"] = _agreement_points(base, new)
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


def _compared(lines: Sequence[_Line], base: Figures, new: Figures, changes: Figures) -> Iterator[ComparedFigure]:
    """The lines of figures that at least one side has."""
    for line in lines:
        before, after = (side.get((line.figure, line.cell), "not measured") for side in (base, new))
        if isinstance(before, str) and isinstance(after, str):
            continue
        reading: Reading = "ratio" if line.figure == "error" else line.change
        change = changes.get((line.figure, reading), "unknown")
        if isinstance(before, str) or isinstance(after, str):
            change = f"not measured in {'base' if isinstance(before, str) else 'new'}"
        yield _figure(line, reading, _cell(line.cell, before), _cell(line.cell, after), change)


def _metric_line(report: Report) -> Iterator[_Line]:
    """The line of the metric that was measured, if any."""
    accuracy = report.accuracy
    if accuracy is not None:
        figure, reading = metric_level(accuracy)
        label = f"{accuracy.metric} accuracy" if accuracy.metric.startswith("top-") else accuracy.metric
        yield _Line(label, figure, reading, "points", more_is_better=accuracy.higher_is_better, margin=0.0)


def _cell(reading: Reading, estimate: Estimate | str) -> str:
    return "-" if isinstance(estimate, str) else value_text(reading, estimate.value)


def _figure(line: _Line, reading: Reading, base: str, new: str, change: Estimate | str) -> ComparedFigure:
    if isinstance(change, str):
        verdict: Verdict = "not comparable" if line.judged else ""
        return ComparedFigure(line.label, base, new, change if line.judged else "", verdict, line.figure, reading)
    verdict = _verdict(change, 0.0 if reading == "points" else 1.0, line)
    if not line.judged and verdict != "same":
        verdict = ""
    text = "" if verdict == "same" else estimate_text(reading, change)
    values = (change.value, change.low, change.high)
    return ComparedFigure(line.label, base, new, text, verdict, line.figure, reading, *values)


def _verdict(change: Estimate, none: float, line: _Line) -> Verdict:
    """``none``: the change that is no change."""
    if change.low is None or change.high is None:
        if change.value == none:
            return "same"
        certain = abs(change.value - none) > line.margin
    else:
        certain = not change.low <= none <= change.high
    if not certain:
        return "no significant difference"
    return "better" if (change.value > none) == line.more_is_better else "worse"


def _error_ratio(base: Report, new: Report) -> Estimate | str:
    if not _same_data(base, new):
        return OTHER_DATA
    first, second = base.agreement, new.agreement
    if first is None or second is None or first.relative_error is None or second.relative_error is None:
        return "not measured"
    if first.relative_error == 0:
        return Estimate(1.0) if second.relative_error == 0 else Estimate(float("inf"))
    return Estimate(second.relative_error / first.relative_error)


def _agreement_points(base: Report, new: Report) -> Estimate | str:
    if not _same_data(base, new):
        return OTHER_DATA
    first, second = base.agreement, new.agreement
    if first is None or second is None or first.top1 is None or second.top1 is None:
        return "not measured"
    return share_points(first.top1, first.samples, second.top1, second.samples)


def _with_milliseconds(figures: Iterator[ComparedFigure], base: Report, new: Report) -> Iterator[ComparedFigure]:
    """Behind the latency ratio, the milliseconds of both runs; shown, not judged."""
    for figure in figures:
        yield figure
        if figure.figure == "latency":
            before, after = (figures_of(report)["latency", "ms"] for report in (base, new))
            cells = (_cell("ms", before), _cell("ms", after))
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


def changed_text(change: ChangedFact) -> str:
    """Both sides of a fact in one line; of two lists of passes, what each has that the other has not."""
    if change.label != "recipe":
        return f"{change.base} → {change.new}"
    before, after = (split_outside_quotes(text, ",") for text in (change.base, change.new))
    gone = [f"−{one}" for one in before if one not in after]
    added = [f"+{one}" for one in after if one not in before]
    return ", ".join(gone + added) or "the same passes in another order"
