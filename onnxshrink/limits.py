"""The gates of a run: read from where they are given, and refused early when they cannot be judged."""

from __future__ import annotations

from collections.abc import Sequence

from onnxshrink.measured import metric_key
from onnxshrink.metrics.base import Metric
from onnxshrink.recipe import Recipe
from onnxshrink.report.gates import Gate, parse_gates, read_gates, refuse_unlabelled, refuse_unmeasured, refuse_untimed
from onnxshrink.trial import DataLike, Trial


def limits_of(
    gates: Sequence[str | Gate],
    recipe: str | Recipe | None,
    *,
    measure: bool,
    timed: bool = True,
    data: DataLike | None,
    metrics: Sequence[Metric] = (),
) -> tuple[Gate, ...]:
    """The gates of the call and of its recipe; GateError, before any work, for those that cannot be judged."""
    limits = parse_gates(gates)
    if isinstance(recipe, str) and recipe.endswith(".toml"):
        limits += read_gates(recipe)
    if not measure:
        refuse_unmeasured(limits, "nothing is measured")
    if not timed:
        refuse_untimed(limits)
    if data is None:
        refuse_unlabelled(limits, "no data was given", label_free(metrics))
    return limits


def refuse_unanswerable(gates: Sequence[Gate], trial: Trial | None, metrics: Sequence[Metric] = ()) -> None:
    """Refuse gates that turn out to be unanswerable once the data is read, still before the passes run."""
    if trial is None:
        refuse_unmeasured(gates, "the model will not be run (--run-large runs large ones)")
    elif trial.data.labels is None:
        refuse_unlabelled(gates, f"{trial.data.description} has none", label_free(metrics))


def label_free(metrics: Sequence[Metric]) -> frozenset[str]:
    """Figures that these metrics answer without labels; ``accuracy`` is the first of the metrics."""
    free = {metric_key(metric.name) for metric in metrics if not metric.needs_labels}
    return frozenset(free | {"accuracy"} if metrics and not metrics[0].needs_labels else free)
