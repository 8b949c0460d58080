"""Several recipes for one model: each is run, measured against the cleaned-up model, and the best one for a goal kept.

int8 is not always faster, and not always close enough. What is kept is decided by measurement on this machine and this
data: accuracy first (the allowed drop), then the goal. All that was tried is in the report.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir

from onnxshrink.calibration.dataset import Dataset
from onnxshrink.calibration.layer_errors import exclusions
from onnxshrink.errors import OnnxShrinkError
from onnxshrink.evidence import measure_agreement, measure_latency
from onnxshrink.graph.save import stage_model
from onnxshrink.integer_regions import layers_for_float
from onnxshrink.measure.exclusive import exclusive
from onnxshrink.measure.session import SessionSettings, open_session
from onnxshrink.measured import Accuracy, Agreement
from onnxshrink.metrics.base import Metric
from onnxshrink.passes.base import Pass
from onnxshrink.passes.quantize_static import QuantizeStatic
from onnxshrink.passes.runner import PassRunner
from onnxshrink.recipe import Recipe
from onnxshrink.report.report import Alternative, PassRecord
from onnxshrink.sensitivity import Sensitivity, leaving_in_float, measure_sensitivity

Goal = Literal["speed", "size", "balanced"]

_WORTH_ITS_ERROR = 0.1
"""Latencies closer than this share of the float model's are balanced as equal, and the closer outputs decide."""

_ABOUT_AS_SMALL = 0.01

_LEAST = 1e-9
"""Losses are divided by no less than this."""

_SPARED_ERRORS = (0.5, 0.25, 0.125)
"""Shares of the predicted error to which the most sensitive nodes are taken out, one after the other."""


@dataclass(frozen=True)
class Wish:
    """What the user asks of the result.

    Attributes:
        goal: ``speed``: the fastest; ``size``: the smallest; ``balanced``: of those within a tenth of the float model's
            latency from the fastest, the one with the closest outputs. Only ``size`` may give a model slower than the
            cleaned-up one.
        max_drop: the share of the metric that may be lost, or without labels of the outputs' variance.
        ladder: the alternatives go from mild to strong: no stronger one is tried than one that loses too much, and no
            milder one than one that does not.
    """

    goal: Goal = "balanced"
    max_drop: float = 0.01
    ladder: bool = False


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


@dataclass(frozen=True)
class Trials:
    """How alternatives are run and measured.

    Attributes:
        runner: applies their passes.
        data: samples to compare on, with labels where there are any.
        settings: of the sessions that are compared.
        batch_size: samples per run when latency is measured.
        latency_seconds: time to spend on each latency; None measures none, and all count as equally fast.
        seed: seeds the statistics.
        metrics: what the outputs are judged by, the first deciding; empty chooses by labels and outputs.
    """

    runner: PassRunner
    data: Dataset
    settings: SessionSettings
    batch_size: int = 1
    latency_seconds: float | None = 3.0
    seed: int = 0
    metrics: tuple[Metric, ...] = ()


def choose(cleaned: ir.Model, recipes: Sequence[Recipe], trials: Trials, wish: Wish) -> Chosen:
    """Run every recipe on the cleaned-up model, measure, and keep one; the cleaned-up model itself when none holds.

    What is tried are drafts, with weights rounded to nearest; the one that is kept is then made with care. A static one
    is tried again with the layers in float that a profile shows to be faster so, and, when it is faster but loses too
    much, with its most sensitive nodes in float.

    Raises:
        OnnxShrinkError: the cleaned-up model cannot be measured.
    """
    with tempfile.TemporaryDirectory(prefix="onnxshrink-") as folder:
        bench = _Bench(trials, cleaned, Path(folder))
        tried = list(_attempts(bench, recipes, wish))
        tried += [faster for one in tried if (faster := _with_float_regions(one, bench)) is not None]
        tried += [spared for one in tried if (spared := _spared(one, bench, wish)) is not None]
        best = _best(tried, wish)
        if best is not None and _careful(best.recipe) != best.recipe:
            better = bench.attempt(_careful(best.recipe))
            if better is not None and _best([better, best], replace(wish, goal="balanced")) is better:
                tried[tried.index(best)] = best = better
    lines = tuple(replace(one.facts, kept=one is best, verdict=_verdict(one, best, wish)) for one in tried)
    if best is None:
        return Chosen(cleaned, Recipe(()), (), lines)
    return Chosen(best.model, best.recipe, best.records, lines)


def _attempts(bench: _Bench, recipes: Sequence[Recipe], wish: Wish) -> Iterator[_Tried]:
    if wish.ladder:
        return _climbed(bench, recipes, wish)
    return (one for recipe in map(_draft, recipes) if (one := bench.attempt(recipe)) is not None)


def _climbed(bench: _Bench, recipes: Sequence[Recipe], wish: Wish) -> Iterator[_Tried]:
    """The attempts of a bisection for the strongest recipe that holds; one with nothing to do loses nothing."""
    holds, fails = -1, len(recipes)
    while fails - holds > 1:
        middle = (holds + fails) // 2
        one = bench.attempt(recipes[middle])
        if one is not None and (one.facts.failure is not None or (one.facts.drop or 0) > wish.max_drop):
            fails = middle
        else:
            holds = middle
        if one is not None:
            yield one


def _draft(recipe: Recipe) -> Recipe:
    """The recipe with every pass that can compensate for rounding rounding to nearest instead."""
    return Recipe(tuple(_with_rounding(one_pass, "compensated", "nearest") for one_pass in recipe))


def _careful(recipe: Recipe) -> Recipe:
    """The inverse of :func:`_draft`, for passes that compensate by default."""
    return Recipe(
        tuple(
            _with_rounding(one_pass, "nearest", "compensated")
            if getattr(type(one_pass), "rounding", None) == "compensated"
            else one_pass
            for one_pass in recipe
        )
    )


def _with_rounding(one_pass: Pass, old: str, new: str) -> Pass:
    if getattr(one_pass, "rounding", None) != old:
        return one_pass
    fields: dict[str, Any] = {"rounding": new}
    return replace(one_pass, **fields)


def _with_float_regions(one: _Tried, bench: _Bench) -> _Tried | None:
    """A static alternative with the layers in float that should be faster so; None when there are no such layers."""
    position = _static_position(one.recipe)
    if position is None or one.facts.failure is not None:
        return None
    names = bench.layers_for_float(Recipe(one.recipe.passes[: position + 1]))
    return bench.attempt(leaving_in_float(one.recipe, names)) if names else None


def _static_position(recipe: Recipe) -> int | None:
    return next((index for index, each in enumerate(recipe) if isinstance(each, QuantizeStatic)), None)


def _spared(one: _Tried, bench: _Bench, wish: Wish) -> _Tried | None:
    """A static alternative with its most sensitive nodes in float, as few as hold what was asked; None if none do."""
    position = _static_position(one.recipe)
    if position is None or _time(one.facts) >= 1 or (one.facts.drop or 0) <= wish.max_drop:
        return None
    found = bench.sensitivity(Recipe(one.recipe.passes[: position + 1]))
    errors = {node.node: node.error for node in found.nodes}
    for share in _SPARED_ERRORS:
        spared = bench.attempt(leaving_in_float(one.recipe, exclusions(errors, share * found.predicted_error)))
        if spared is None or _time(spared.facts) >= 1:
            return spared
        if (spared.facts.drop or 0) <= wish.max_drop:
            return spared
    return None


class _Bench:
    """Runs recipes on one model and measures what comes out beside it."""

    def __init__(self, trials: Trials, cleaned: ir.Model, folder: Path) -> None:
        self._trials, self._cleaned, self._folder = trials, cleaned, folder
        self._original = _saved(cleaned, folder / "float.onnx")
        self._count = 0

    def attempt(self, recipe: Recipe) -> _Tried | None:
        """The recipe's result, measured; None when its first pass had nothing to do: that is another alternative."""
        self._trials.runner.progress(f"trying {recipe.passes[0].name}")
        try:
            model, records = self._trials.runner.run(self._cleaned, recipe)
        except OnnxShrinkError as error:  # what it asks for cannot be had of this model
            return _Tried(self._cleaned, recipe, (), Alternative(str(recipe), failure=str(error)))
        if records[0].status != "applied":
            return None
        self._count += 1
        try:
            facts = self._measured(_saved(model, self._folder / f"{self._count}.onnx"), str(recipe))
        except OnnxShrinkError as error:
            facts = Alternative(str(recipe), failure=str(error))
        return _Tried(model, recipe, records, facts)

    def layers_for_float(self, recipe: Recipe) -> tuple[str, ...]:
        """The layers that a profile of the recipe's result shows to be better left in float; none untimed."""
        if self._trials.latency_seconds is None:
            return ()
        self._trials.runner.progress("profiling")
        quantized, _ = self._trials.runner.run(self._cleaned, recipe)
        with open_session(self._original, self._trials.settings) as session:
            feed = next(self._trials.data.batches(session.inputs, self._trials.batch_size)).feed
        try:
            with exclusive():
                return layers_for_float(self._cleaned, quantized, feed)
        except OnnxShrinkError:
            return ()  # a guide that cannot be had

    def sensitivity(self, recipe: Recipe) -> Sensitivity:
        return measure_sensitivity(self._cleaned, self._trials.data, recipe=recipe, seed=self._trials.seed)

    def _measured(self, path: Path, text: str) -> Alternative:
        trials = self._trials
        with open_session(self._original, trials.settings) as first, open_session(path, trials.settings) as second:
            outputs = measure_agreement(first, second, trials.data, trials.metrics, seed=trials.seed)
            feed = next(trials.data.batches(first.inputs, trials.batch_size)).feed
        facts = Alternative(
            text,
            size_bytes=path.stat().st_size,
            relative_error=outputs.agreement.relative_error,
            drop=relative_drop(outputs.agreement, next(iter(outputs.accuracies), None)),
        )
        if trials.latency_seconds is None:
            return facts
        latency, _ = measure_latency((self._original, path), feed, trials.settings, trials.latency_seconds)
        return replace(
            facts,
            latency_ratio=latency.ratio,
            latency_low=latency.ratio_low,
            latency_high=latency.ratio_high,
            significant=latency.significant,
        )


def _saved(model: ir.Model, path: Path) -> Path:
    with stage_model(model, path, external=False) as staged:
        staged.commit()
    return path


def relative_drop(agreement: Agreement, accuracy: Accuracy | None) -> float:
    """What is lost of the metric, as a share of it; without labels, of what the original's outputs say.

    That is their variance over the samples, and of several outputs the one that loses most counts: an output that is
    nearly constant has much energy and says little. Where there is no variance, it is the energy, ‖f − f'‖²/‖f‖². The
    share of samples with another best class is no measure of loss: as many may get better as worse.
    """
    if accuracy is not None:
        return _metric_drop(accuracy)
    if agreement.unexplained_variance is not None:
        return agreement.unexplained_variance
    if agreement.relative_error is not None:
        return agreement.relative_error**2
    return 1 - agreement.equal_share


def _metric_drop(accuracy: Accuracy) -> float:
    """The loss of a metric as a share, whatever its kind; negative when the result is better.

    - share, more is better: the share of it that is lost. One sample more or less says nothing: it is not counted.
    - share, less is better (error rates): likewise of what is right, 1 − the rate.
    - dB: the share of the power ratio that is lost, 1 − 10^(−lost / 10): 0.01 is 0.044 dB.
    - value, more is better (correlations, R²): what is lost over the original's absolute value.
    - value, less is better (errors): the growth of the error over the original's.
    - against the original's own outputs: what is not kept of them, of a relative error or SQNR the lost energy.
    """
    if accuracy.against_original:
        return _distance_from_original(accuracy)
    lost = accuracy.drop
    if lost == 0 or math.isinf(lost):
        return lost
    if accuracy.unit == "dB":
        return 1 - 10 ** (-lost / 10)
    if accuracy.unit == "value":
        return lost / max(abs(accuracy.original), _LEAST)
    whole = accuracy.original if accuracy.higher_is_better else 1 - accuracy.original
    return (max(lost - 1 / accuracy.samples, 0.0) if lost > 0 else lost) / max(whole, _LEAST)


def _distance_from_original(accuracy: Accuracy) -> float:
    if accuracy.unit == "dB":
        return 10 ** (-accuracy.result / 10)
    return 1 - accuracy.result if accuracy.higher_is_better else accuracy.result**2


def pick(tried: Sequence[Alternative], wish: Wish) -> int | None:
    """Which of the measured alternatives serves the wish best; None when none holds what was asked."""
    fit = [index for index, one in enumerate(tried) if one.failure is None and (one.drop or 0) <= wish.max_drop]
    if wish.goal == "size":
        smallest = min((tried[index].size_bytes or 0 for index in fit), default=0)
        small = [index for index in fit if (tried[index].size_bytes or 0) <= smallest * (1 + _ABOUT_AS_SMALL)]
        return min(small, key=lambda index: _time(tried[index]), default=None)
    fit = [index for index in fit if _time(tried[index]) <= 1]
    fastest = min((_time(tried[index]) for index in fit), default=0.0)
    margin = 0.0 if wish.goal == "speed" else _WORTH_ITS_ERROR
    fast = [index for index in fit if _time(tried[index]) <= fastest + margin]
    return min(fast, key=lambda index: tried[index].relative_error or 0.0, default=None)


def _best(tried: Sequence[_Tried], wish: Wish) -> _Tried | None:
    index = pick([one.facts for one in tried], wish)
    return None if index is None else tried[index]


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
