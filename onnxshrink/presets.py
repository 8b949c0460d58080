"""Presets: recipes under a name, written as data, with the judgement that a bare recipe does not add."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxshrink.errors import RecipeError
from onnxshrink.passes.registry import nearest
from onnxshrink.recipe import Recipe

_CLEAN_UP = (
    "freeze-initializers,fold-constants,drop-identity,fold-batchnorm,fold-affine,fold-pad,"
    "fold-constants,drop-identity,share-identical,drop-unused{docs=true}"
)


@dataclass(frozen=True)
class Preset:
    """A named recipe.

    Attributes:
        text: the recipe's line.
        summary: what it does, in one clause.
        max_relative_error: a lossy pass is undone when the outputs' relative L2 error against the original exceeds
            this; None leaves lossy passes alone.
        alternatives: recipes for what comes out, one of which is chosen by measurement; the first needs no data.
    """

    text: str
    summary: str
    max_relative_error: float | None = None
    alternatives: tuple[str, ...] = ()

    @property
    def recipe(self) -> Recipe:
        return Recipe.parse(self.text)


_STORE_REST = "quantize-weights,pack-weights,drop-unused{names=auto,docs=true,defaults=true}"

PRESETS: Mapping[str, Preset] = {
    "lossless": Preset(_CLEAN_UP, "clean the graph up; outputs change by floating-point rounding at most"),
    "safe": Preset(
        f"{_CLEAN_UP},{_STORE_REST}",
        "lossless, then weights stored as int8 and computed as float; needs no data",
        max_relative_error=0.1,
    ),
    "int8": Preset(
        _CLEAN_UP,
        "lossless, then what is best of int8 weights, dynamic int8 and static int8, measured on --data",
        alternatives=(
            _STORE_REST,
            f"quantize-dynamic,{_STORE_REST}",
            f"smooth-activations,quantize-dynamic,{_STORE_REST}",
            f"quantize-static,{_STORE_REST}",
        ),
    ),
}

DEFAULT_PRESET = "safe"


def find_preset(name: str) -> Preset:
    """The preset called ``name``; RecipeError with the nearest name when there is none."""
    if name not in PRESETS:
        raise RecipeError(f"unknown preset '{name}'{nearest(name, PRESETS)} (presets: {', '.join(PRESETS)})")
    return PRESETS[name]
