"""What a batch would do, and about how large its results would be, without doing it.

The size of a result is estimated from the floating-point weights of the model and the bits that the recipe, or a preset
that does not choose by measurement, gives each of them; all else in the file is taken to stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from onnxshrink.batch.digests import ABSENT
from onnxshrink.batch.job import Settings
from onnxshrink.batch.plan import Plan, Planned
from onnxshrink.errors import OnnxShrinkError
from onnxshrink.presets import find_preset
from onnxshrink.recipe import Recipe
from onnxshrink.report.summary import bytes_text, percent

_ACT = Literal["compress", "copy", "done", "failed before"]


@dataclass(frozen=True)
class Forecast:
    """One model.

    Attributes:
        name: of the result; ``source``: path of the model.
        act: what would be done; ``done`` and ``failed before`` are what an earlier run made of it, which holds.
        bytes: of the model with its external data; None: it cannot be read.
        result_bytes: of the result, an estimate until it is done; None: unknown.
        of: for copies, the name of the result that is copied.
    """

    name: str
    source: str
    act: _ACT
    bytes: int | None
    result_bytes: int | None
    of: str | None = None


@dataclass(frozen=True)
class Forecasts:
    """All models of a plan, in the order of the inputs."""

    models: tuple[Forecast, ...]


def forecast(plan: Plan) -> Forecasts:
    """What a plan comes to."""
    return Forecasts(tuple(map(_forecast, plan.models)))


def forecast_lines(found: Forecasts) -> Iterator[str]:
    """For people."""
    for model in found.models:
        before = "?" if model.bytes is None else bytes_text(model.bytes)
        after = "unknown" if model.result_bytes is None else bytes_text(model.result_bytes)
        sizes = {"done": f"{before} → {after}", "compress": f"{before} → about {after}"}.get(model.act, before)
        of = f" of {model.of}" if model.of is not None else ""
        yield f"{model.act}{of}: {model.source} → {model.name}, {sizes}"
    acts = [model.act for model in found.models]
    counts = [f"{acts.count(act)} to {act}" for act in ("compress", "copy")]
    counts += [f"{acts.count(act)} {act}" for act in ("done", "failed before")]
    yield f"{len(acts)} models: {', '.join(counts)}"
    known = [model for model in found.models if model.bytes and model.result_bytes is not None]
    total, expected = sum(model.bytes or 0 for model in known), sum(model.result_bytes or 0 for model in known)
    if known:
        share = percent(expected / total, 0)
        yield f"{bytes_text(total)} → about {bytes_text(expected)} ({share}), where it can be estimated"


def _forecast(model: Planned) -> Forecast:
    size = model.source.bytes if model.source.sha256 != ABSENT else None
    name, source = model.job.name, model.job.source
    if model.entry is not None:
        act: _ACT = "failed before" if model.entry.status == "failed" else "done"
        return Forecast(name, source, act, size, model.entry.result_bytes)
    expected = None if size is None else _expected_bytes(Path(source), size, model.job.settings)
    if model.twin is not None:
        return Forecast(name, source, "copy", size, expected, model.twin)
    return Forecast(name, source, "compress", size, expected)


def _expected_bytes(path: Path, size: int, settings: Settings) -> int | None:
    bits = _bits(settings)
    if bits is None:
        return None
    try:
        elements, weight_bytes = _float_weights(path)
    except OnnxShrinkError:
        return None
    return round(size - max(0.0, weight_bytes - elements * bits / 8))


def _bits(settings: Settings) -> float | None:
    """Bits per weight that the recipe leaves; None when that is found out by measurement only."""
    if settings.recipe is not None:
        return _bits_of(Recipe.parse(settings.recipe))
    preset = find_preset(settings.preset or "")
    if preset.max_drop is not None:
        return None
    recipe = Recipe(preset.recipe.passes + Recipe.parse(preset.alternatives[0]).passes) if preset.alternatives else None
    return _bits_of(recipe or preset.recipe)


def _bits_of(recipe: Recipe) -> float | None:
    bits = 32.0
    for one in recipe:
        found: Any = _BITS.get(one.name, 32.0)
        if isinstance(found, str):
            found = getattr(one, found)
        if found is None or one.name in _UNKNOWN:
            return None
        bits = min(bits, float(found))
    return bits


_BITS: dict[str, float | str] = {
    "quantize-weights": 8.0,
    "quantize-dynamic": 8.0,
    "quantize-static": 8.0,
    "quantize-float16": 16.0,
    "quantize-blocks": "bits",
    "choose-bits": "bits",
}
"""What passes leave of a weight: bits, or the field that says."""

_UNKNOWN = ("share-weights", "prune-weights")
"""What these leave depends on the values."""


def _float_weights(path: Path) -> tuple[int, int]:
    """How many elements all floating-point initializers have, and their bytes."""
    from onnxshrink.graph.load import load_model
    from onnxshrink.graph.walk import all_graphs

    tensors = [
        value.const_value
        for graph in all_graphs(load_model(path))
        for value in graph.initializers.values()
        if value.const_value is not None and value.const_value.dtype.is_floating_point()
    ]
    return sum(int(tensor.size) for tensor in tensors), sum(int(tensor.nbytes) for tensor in tensors)
