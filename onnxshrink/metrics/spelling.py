"""All metrics by name, and their spelling: ``top1,f1{average=macro}``, as recipes spell passes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from onnxshrink.errors import RecipeError
from onnxshrink.metrics.base import Metric
from onnxshrink.metrics.custom import Custom
from onnxshrink.passes.fields import build, parse_spelled, spelled, split_outside_quotes
from onnxshrink.passes.registry import nearest

METRICS: Mapping[str, str] = {
    "top1": "classification:Top1",
    "top5": "classification:Top5",
    "f1": "classification:F1",
    "precision": "classification:Precision",
    "recall": "classification:Recall",
    "mse": "regression:MeanSquaredError",
    "rmse": "regression:RootMeanSquaredError",
    "mae": "regression:MeanAbsoluteError",
    "r2": "regression:R2",
    "spearman": "regression:Spearman",
    "pearson": "regression:Pearson",
    "cer": "text:Cer",
    "wer": "text:Wer",
    "miou": "masks:MeanIou",
    "detection": "detection:Detection",
    "si-sdr": "waveform:SiSdr",
    "top1-agreement": "fidelity:Top1Agreement",
    "cosine": "fidelity:Cosine",
    "sqnr": "fidelity:Sqnr",
    "relative-error": "fidelity:RelativeError",
}


def metric_class(name: str) -> type[Metric]:
    """The class of the metric called ``name``.

    Raises:
        RecipeError: there is no such metric; the message holds the nearest name.
    """
    if name not in METRICS:
        raise RecipeError(
            f"unknown metric '{name}'{nearest(name, METRICS)} "
            f"(metrics: {', '.join(METRICS)}, or package.module:function)"
        )
    module, class_name = METRICS[name].split(":")
    found: type[Metric] = getattr(importlib.import_module(f"onnxshrink.metrics.{module}"), class_name)
    return found


def parse_metrics(text: str) -> tuple[Metric, ...]:
    """Read metrics from one line: ``top1``, ``detection{iou=0.5,score=0.7},my.module:function{unit=dB}``.

    Raises:
        RecipeError: bad syntax, an unknown metric or option, or a value out of range.
    """
    parts = [part.strip() for part in split_outside_quotes(text, ",")]
    if not all(parts):
        raise RecipeError(f"cannot read the metrics '{text}': write NAME or NAME{{option=value}}, separated by commas")
    return tuple(map(_parse_metric, parts))


def metric_text(metric: Metric) -> str:
    """A metric as ``--metric`` spells it, with the options that differ from their defaults."""
    if isinstance(metric, Custom):
        text = spelled(Custom(**{**vars(metric), "function": ""}), metric.function)
        return text
    return spelled(metric)


def _parse_metric(part: str) -> Metric:
    name, values = parse_spelled(part, "metrics", part)
    if ":" in name:
        return build(Custom, {**values, "function": name})
    return build(metric_class(name), values)
