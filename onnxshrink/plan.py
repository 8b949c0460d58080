"""What to do to a model, whichever way the user said it: a preset, a recipe, limits on both."""

from __future__ import annotations

from dataclasses import dataclass, replace

from onnxshrink.alternatives import Goal, Wish
from onnxshrink.errors import DataError, RecipeError
from onnxshrink.passes.pack_weights import PackWeights
from onnxshrink.presets import DEFAULT_PRESET, find_preset
from onnxshrink.recipe import Recipe


@dataclass(frozen=True)
class Plan:
    """What to do to the model.

    Attributes:
        preset: None when the user gave a recipe.
        recipe: the passes; before the alternatives, where there are any.
        max_relative_error: see :class:`onnxshrink.presets.Preset`; ``alternatives`` and ``max_drop`` likewise.
    """

    preset: str | None
    recipe: Recipe
    max_relative_error: float | None
    alternatives: tuple[Recipe, ...] = ()
    max_drop: float | None = None

    def wish(self, goal: Goal | None, max_drop: float | None) -> Wish:
        """What is asked of the alternatives; what the user says goes before what the preset says."""
        if self.max_drop is None:
            return Wish(goal or "balanced", 0.01 if max_drop is None else max_drop)
        return Wish(goal or "size", self.max_drop if max_drop is None else max_drop, ladder=True)

    def check_data(self, *, calibrated: bool) -> None:
        """Raise DataError for a pass that does nothing without calibration data when there is none."""
        needing = [one_pass.name for one_pass in self.recipe if one_pass.needs_data]
        if needing and not calibrated:
            raise DataError(f"{needing[0]} needs calibration data: give --data or --calibration-data")

    def loading_within(self, ratio: float) -> Plan:
        """The plan with a limit on what ``pack-weights`` may cost at load time.

        Raises:
            RecipeError: there is no ``pack-weights`` to limit.
        """
        recipes = (self.recipe, *self.alternatives)
        if not any(isinstance(each, PackWeights) for recipe in recipes for each in recipe):
            raise RecipeError("max-load-ratio is a limit for pack-weights, which is not in the recipe")
        recipe, *alternatives = (_limited(one, ratio) for one in recipes)
        return replace(self, recipe=recipe, alternatives=tuple(alternatives))


def _limited(recipe: Recipe, ratio: float) -> Recipe:
    return Recipe(
        tuple(replace(each, max_load_ratio=ratio) if isinstance(each, PackWeights) else each for each in recipe)
    )


def plan_of(preset: str | None, recipe: str | Recipe | None, max_load_ratio: float | None = None) -> Plan:
    """What a preset or a recipe says; the default preset when neither is given.

    Raises:
        RecipeError: both are given, or one that cannot be read, or a limit on load time with nothing to limit.
    """
    if preset is not None and recipe is not None:
        raise RecipeError("give a preset or a recipe, not both")
    if recipe is not None:
        plan = Plan(None, recipe if isinstance(recipe, Recipe) else Recipe.read(recipe), None)
    else:
        name = preset or DEFAULT_PRESET
        found = find_preset(name)
        alternatives = tuple(map(Recipe.parse, found.alternatives))
        plan = Plan(name, found.recipe, found.max_relative_error, alternatives, found.max_drop)
    return plan if max_load_ratio is None else plan.loading_within(max_load_ratio)
