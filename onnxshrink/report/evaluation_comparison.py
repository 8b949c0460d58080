"""Two saved evaluations side by side: metric by metric, and how close each model is to the one it was compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from onnxshrink.measured import MetricValue
from onnxshrink.report.compared import ChangedFact, ComparedFigure, Line, Pairing, compared_figure
from onnxshrink.report.evaluation import EvaluatedModel, Evaluation
from onnxshrink.report.evaluation_figures import (
    OTHER_REFERENCE,
    figures_between_evaluations,
    metric_change,
    metrics_by_spelling,
    same_data,
    same_reference,
)
from onnxshrink.report.figures import OTHER_DATA, agreement_points, error_ratio, metric_level
from onnxshrink.report.gates import Estimate, Gate, Reading, Uncertain, judge, value_text
from onnxshrink.report.metric_text import interval_text, title
from onnxshrink.report.metric_text import value_text as metric_value_text


def compare_evaluations(
    base: Evaluation, new: Evaluation, name: str, gates: Sequence[Gate] = (), uncertain: Uncertain = "warn"
) -> Pairing:
    """One evaluation against another. Gates are judged on the new model against the base's."""
    return Pairing(
        name,
        (*_metrics(base, new), *_agreement(base, new)),
        tuple(_changes(base, new)),
        tuple(_warnings(base, new)),
        judge(gates, figures_between_evaluations(base, new), uncertain),
    )


def _metrics(base: Evaluation, new: Evaluation) -> Iterator[ComparedFigure]:
    before, after = metrics_by_spelling(base), metrics_by_spelling(new)
    titles = [title(value) for value in {**before, **after}.values()]
    for spelling in dict.fromkeys([*before, *after]):
        first, second = before.get(spelling), after.get(spelling)
        value = second or first
        assert value is not None
        key, reading = metric_level(value)
        label = spelling if titles.count(title(value)) > 1 else title(value)
        line = Line(label, key, reading, "points", more_is_better=value.higher_is_better, margin=0.0)
        if first is None or second is None:
            change: Estimate | str = f"not measured in {'base' if first is None else 'new'}"
        else:
            change = metric_change(base, new, spelling)
        figure = compared_figure(line, "points", _cell(first), _cell(second), change)
        yield _unjudged(figure) if isinstance(change, Estimate) and _from_too_few(change) else figure


def _from_too_few(change: Estimate) -> bool:
    return change.low is None and change.value != 0 and math.isfinite(change.value)


def _unjudged(figure: ComparedFigure) -> ComparedFigure:
    return replace(figure, verdict="", change=f"{figure.change}, from too few samples to tell whether by chance")


def _cell(value: MetricValue | None) -> str:
    if value is None:
        return "-"
    return f"{metric_value_text(value.value, value.unit)} {interval_text(value.low, value.high, value.unit)}".strip()


def _agreement(base: Evaluation, new: Evaluation) -> Iterator[ComparedFigure]:
    """How close both are to the model that they were compared with."""
    first, second = base.agreement, new.agreement
    why = OTHER_DATA if not same_data(base, new) else OTHER_REFERENCE if not same_reference(base, new) else None
    lines: tuple[tuple[Line, Reading, float | None, float | None, Estimate | str], ...] = (
        (
            Line("output error", "error", "number", margin=0.05),
            "ratio",
            None if first is None else first.relative_error,
            None if second is None else second.relative_error,
            error_ratio(first, second),
        ),
        (
            Line("top-1 agreement", "agreement", "share", "points", more_is_better=True),
            "points",
            None if first is None else first.top1,
            None if second is None else second.top1,
            agreement_points(first, second),
        ),
    )
    for line, reading, before, after, change in lines:
        cells = ["-" if value is None else value_text(line.cell, value) for value in (before, after)]
        if before is None and after is None:
            continue
        if before is None or after is None:
            change = f"not measured in {'base' if before is None else 'new'}"
        yield compared_figure(line, reading, cells[0], cells[1], why if why and "-" not in cells else change)


def _named(model: EvaluatedModel | None) -> str:
    return "none" if model is None else f"{model.name} {model.sha256[:12]}"


_FACTS: tuple[tuple[str, Callable[[Evaluation], str]], ...] = (
    ("model", lambda found: _named(found.model)),
    ("compared with", lambda found: _named(found.against)),
    ("data", lambda found: f"{found.data.samples} samples of {found.data.description} {found.data.digest[:12]}"),
    ("labels", lambda found: found.labels_digest[:12] or "none"),
    ("metrics", lambda found: ", ".join(metrics_by_spelling(found))),
    ("machine", lambda found: f"{found.machine.cpu}, {found.machine.cores} cores"),
    ("system", lambda found: found.machine.system),
    ("CPU features", lambda found: ", ".join(found.machine.cpu_features) or "none"),
    ("threads", lambda found: str(found.threads) if found.threads else "default"),
    ("batch size", lambda found: str(found.batch_size)),
    ("seed", lambda found: str(found.seed)),
)


def _changes(base: Evaluation, new: Evaluation) -> Iterator[ChangedFact]:
    for label, fact in _FACTS:
        before, after = fact(base), fact(new)
        if before != after:
            yield ChangedFact(label, before, after)
    for name in dict.fromkeys([*base.versions, *new.versions]):
        before, after = base.versions.get(name, "none"), new.versions.get(name, "none")
        if before != after:
            yield ChangedFact(f"{name} version", before, after)


def _warnings(base: Evaluation, new: Evaluation) -> Iterator[str]:
    if not same_data(base, new):
        other = base.data.digest != new.data.digest or base.data.samples != new.data.samples
        yield f"the {'data differs' if other else 'labels differ'}: metrics and agreement are not compared"
    elif base.against is not None and new.against is not None and not same_reference(base, new):
        yield "the models that they were compared with differ: agreement is not compared"
    if base.machine != new.machine:
        yield "the machines differ: outputs may differ in their last digits for that reason alone"
    tools = [name for name in ("onnxruntime", "onnxshrink") if base.versions.get(name) != new.versions.get(name)]
    if tools:
        yield f"versions of {' and '.join(tools)} differ: changes may come from there"
