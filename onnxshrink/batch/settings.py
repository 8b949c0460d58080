"""Settings made independent of the files that they are in, and refused when they make no sense."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

from onnxshrink.batch.job import Settings
from onnxshrink.errors import FileAccessError, RecipeError
from onnxshrink.presets import DEFAULT_PRESET, find_preset
from onnxshrink.recipe import Recipe
from onnxshrink.report.gates import parse_gates, read_gates, refuse_unlabelled, refuse_unmeasured, refuse_untimed


def resolved(settings: Settings) -> Settings:
    """The same with the recipe as a line of text, the gates of its file among the others, and the preset's name.

    Raises:
        OnnxShrinkError: a recipe, preset, metric or gate that makes no sense, or a recipe's file that cannot be read.
    """
    gates = tuple(map(str, parse_gates(settings.gates)))
    if settings.recipe is None:
        settings = replace(settings, preset=settings.preset or DEFAULT_PRESET)
        find_preset(settings.preset or DEFAULT_PRESET)
    elif settings.preset is not None:
        raise RecipeError("give a preset or a recipe, not both")
    else:
        if settings.recipe.endswith(".toml"):
            gates += tuple(map(str, read_gates(settings.recipe)))
        settings = replace(settings, recipe=str(Recipe.read(settings.recipe)))
    if settings.max_load_ratio is not None:
        from onnxshrink.plan import plan_of  # heavy, as measuring is

        plan_of(settings.preset, settings.recipe, settings.max_load_ratio)
    limits = parse_gates(gates)
    free = _label_free(settings.metric)
    if not settings.measure:
        refuse_unmeasured(limits, "nothing is measured")
    if not settings.latency:
        refuse_untimed(limits)
    if settings.data is None:
        refuse_unlabelled(limits, "no data was given", free)
    for library in settings.custom_op_libs:
        _refuse_missing(library)
    return replace(settings, gates=gates)


def _label_free(metric: str | None) -> frozenset[str]:
    """Figures that need no labels; RecipeError when the metrics cannot be understood."""
    if metric is None:
        return frozenset()
    from onnxshrink.limits import label_free  # heavy, as metrics are
    from onnxshrink.metrics.spelling import parse_metrics

    return label_free(parse_metrics(metric))


def _refuse_missing(library: str) -> None:
    if not Path(library).is_file():
        raise FileAccessError(f"the custom operator library {library} does not exist")


def command_line(settings: Settings) -> str:
    """What these settings ask of every model, as options of the command."""
    return shlex.join(["onnxshrink", "batch", *_words(settings)])


_FLAGS = {
    ("measure", False): "--no-measure",
    ("latency", False): "--no-latency",
    ("run_large", True): "--run-large",
    ("external_data", True): "--external-data",
    ("external_data", False): "--inline",
}

_OPTIONS = {"memory_bytes": "--calibration-memory", "custom_op_libs": "--custom-op-lib", "gates": "--gate"}


def _words(settings: Settings) -> Iterator[str]:
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value == field.default:
            continue
        if (field.name, value) in _FLAGS:
            yield _FLAGS[field.name, value]
            continue
        for one in value if isinstance(value, tuple) else (value,):
            yield _OPTIONS.get(field.name, f"--{field.name.replace('_', '-')}")
            yield str(one // 2**20) if field.name == "memory_bytes" else str(one)
