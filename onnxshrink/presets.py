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
        max_drop: for alternatives that go from mild to strong, of which the smallest is kept that loses no more than
            this share of the metric, unless the user says otherwise. None: the goal decides.
    """

    text: str
    summary: str
    max_relative_error: float | None = None
    alternatives: tuple[str, ...] = ()
    max_drop: float | None = None

    @property
    def recipe(self) -> Recipe:
        return Recipe.parse(self.text)


_PACKED = "pack-weights,drop-unused{names=auto,docs=true,defaults=true}"
_STORE_REST = f"quantize-weights,{_PACKED}"

_FEWER_BITS = (_STORE_REST, *(f"choose-bits{{bits={bits}}},{_PACKED}" for bits in (7, 6, 5, 4, 3.5, 3, 2.5, 2)))
"""Few values first, then their smallest form, as in Deep Compression (Han et al. 2016,
https://arxiv.org/abs/1510.00149). Its pruning in front of them gave larger files at the same loss."""

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
    "small": Preset(
        _CLEAN_UP,
        "lossless, then as few bits per weight as lose no more than 0.5 %, measured on --data",
        alternatives=_FEWER_BITS,
        max_drop=0.005,
    ),
    "tiny": Preset(
        _CLEAN_UP,
        "lossless, then as few bits per weight as lose no more than 2 %, measured on --data",
        alternatives=_FEWER_BITS,
        max_drop=0.02,
    ),
}

DEFAULT_PRESET = "safe"


def find_preset(name: str) -> Preset:
    """The preset called ``name``; RecipeError with the nearest name when there is none."""
    if name not in PRESETS:
        raise RecipeError(f"unknown preset '{name}'{nearest(name, PRESETS)} (presets: {', '.join(PRESETS)})")
    return PRESETS[name]
