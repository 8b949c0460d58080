"""Several recipes for one model: each is run, measured against the cleaned-up model, and the best one for a goal kept.

int8 is not always faster, and not always close enough. What is kept is decided by measurement on this machine and this
data: accuracy first (the allowed drop), then the goal. All that was tried is in the report.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from onnxshrink.calibration.dataset import Dataset
from onnxshrink.errors import OnnxShrinkError
from onnxshrink.evidence import measure_agreement, measure_latency
from onnxshrink.graph.save import stage_model
from onnxshrink.measure.accuracy import Accuracy
from onnxshrink.measure.session import SessionSettings, open_session
from onnxshrink.numerics.agreement import Agreement
from onnxshrink.passes.runner import PassRunner
from onnxshrink.recipe import Recipe
from onnxshrink.report.report import Alternative, PassRecord

Goal = Literal["speed", "size", "balanced"]

_ABOUT_AS_FAST = 0.03
"""Latencies this close are taken as equal, and the closer outputs decide."""

_ABOUT_AS_SMALL = 0.01


@dataclass(frozen=True)
class Wish:
    """What the user asks of the result.

    Attributes:
        goal: ``speed``: the fastest; ``size``: the smallest; ``balanced``: the fastest, and of those about as fast the
            one with the closest outputs. Only ``size`` may give a model slower than the cleaned-up one.
        max_drop: the share of the metric that may be lost, or without labels of the agreement with the original.
    """

    goal: Goal = "balanced"
    max_drop: float = 0.01


@dataclass(frozen=True)
class Chosen:
    """The alternative that was kept: the model, what its passes did, and the report's lines on all of them."""

    model: ir.Model
    recipe: Recipe
    records: tuple[PassRecord, ...]
    tried: tuple[Alternative, ...]


@dataclass(frozen=True)
class _Tried:
    model: ir.Model
    recipe: Recipe
    records: tuple[PassRecord, ...]
    facts: Alternative


def choose(
    cleaned: ir.Model,
    recipes: Sequence[Recipe],
    runner: PassRunner,
    data: Dataset,
    settings: SessionSettings,
    wish: Wish,
    *,
    batch_size: int,
    latency_seconds: float,
    seed: int,
    progress: Callable[[str], None],
) -> Chosen:
    """Run every recipe on the cleaned-up model, measure, and keep one; the cleaned-up model itself when none holds.

    Raises:
        OnnxShrinkError: the cleaned-up model cannot be measured.
    """
    with tempfile.TemporaryDirectory(prefix="onnxshrink-") as folder:
        float_path = _saved(cleaned, Path(folder, "float.onnx"))
        tried: list[_Tried] = []
        for index, recipe in enumerate(recipes):
            progress(f"trying {recipe}")
            model, records = runner.run(cleaned, recipe)
            if records[0].status != "applied":
                continue  # what remains is another alternative
            try:
                path = _saved(model, Path(folder, f"{index}.onnx"))
                facts = _measured(
                    float_path,
                    path,
                    str(recipe),
                    data,
                    settings,
                    batch_size=batch_size,
                    seconds=latency_seconds,
                    seed=seed,
                )
            except OnnxShrinkError as error:
                facts = Alternative(str(recipe), failure=str(error))
            tried.append(_Tried(model, recipe, records, facts))
    best = _best(tried, wish)
    lines = tuple(replace(one.facts, kept=one is best, verdict=_verdict(one, best, wish)) for one in tried)
    if best is None:
        return Chosen(cleaned, Recipe(()), (), lines)
    return Chosen(best.model, best.recipe, best.records, lines)


def _saved(model: ir.Model, path: Path) -> Path:
    with stage_model(model, path, external=False) as staged:
        staged.commit()
    return path


def _measured(
    original: Path,
    path: Path,
    text: str,
    data: Dataset,
    settings: SessionSettings,
    *,
    batch_size: int,
    seconds: float,
    seed: int,
) -> Alternative:
    with open_session(original, settings) as first, open_session(path, settings) as second:
        agreement, accuracy = measure_agreement(first, second, data)
        feed = next(data.batches(first.inputs, batch_size)).feed
    latency, _ = measure_latency((original, path), feed, settings, seconds, seed)
    return Alternative(
        text,
        size_bytes=path.stat().st_size,
        relative_error=agreement.relative_error,
        drop=relative_drop(agreement, accuracy),
        latency_ratio=latency.ratio,
        latency_low=latency.ratio_low,
        latency_high=latency.ratio_high,
        significant=latency.significant,
    )


def relative_drop(agreement: Agreement, accuracy: Accuracy | None) -> float:
    """What is lost of the metric, as a share of it; without labels, of the agreement with the original.

    Agreement is the share of samples with the same best class, or the cosine of the outputs when they are no classes.
    """
    if accuracy is not None:
        return (accuracy.original - accuracy.result) / max(accuracy.original, 1e-9)
    if agreement.top1 is not None:
        return 1 - agreement.top1
    return 1 - agreement.cosine if agreement.cosine is not None else 1.0


def _best(tried: Sequence[_Tried], wish: Wish) -> _Tried | None:
    fit = [one for one in tried if one.facts.failure is None and (one.facts.drop or 0) <= wish.max_drop]
    if wish.goal == "size":
        smallest = min((one.facts.size_bytes or 0 for one in fit), default=0)
        small = [one for one in fit if (one.facts.size_bytes or 0) <= smallest * (1 + _ABOUT_AS_SMALL)]
        return min(small, key=lambda one: _time(one.facts), default=None)
    fit = [one for one in fit if _time(one.facts) <= 1]
    fastest = min((_time(one.facts) for one in fit), default=0.0)
    margin = 0.0 if wish.goal == "speed" else _ABOUT_AS_FAST
    fast = [one for one in fit if _time(one.facts) <= fastest + margin]
    return min(fast, key=lambda one: one.facts.relative_error or 0.0, default=None)


def _time(facts: Alternative) -> float:
    """The latency ratio; 1 when the difference is not significant."""
    return facts.latency_ratio if facts.significant and facts.latency_ratio is not None else 1.0


def _verdict(one: _Tried, best: _Tried | None, wish: Wish) -> str:
    facts = one.facts
    if facts.failure is not None:
        return facts.failure
    if one is best:
        return "kept"
    if (facts.drop or 0) > wish.max_drop:
        return f"loses {facts.drop or 0:.1%}, allowed is {wish.max_drop:.1%}"
    if wish.goal != "size" and _time(facts) > 1:
        return f"{_time(facts):.2f}x slower than the cleaned-up model"
    return "no better than what was kept"
