"""Which weights a pass works on: name patterns and small checks that the weight passes share."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from onnxshrink.errors import RecipeError
from onnxshrink.graph.stored_weights import StoredWeight


def select_weights(
    pass_name: str, weights: Sequence[StoredWeight], include: tuple[str, ...], exclude: tuple[str, ...]
) -> list[StoredWeight]:
    """The weights that match ``include`` (empty: all) and not ``exclude``, in order.

    A pattern is a shell glob for the name of the weight or of a node that uses it.

    Raises:
        RecipeError: a pattern matches nothing, which is more likely a misspelling than an intention.
    """
    for field, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            if not any(_matches(weight, pattern) for weight in weights):
                raise RecipeError(f"{pass_name}: {field} '{pattern}' matches no weight of this model")
    return [
        weight
        for weight in weights
        if (not include or any(_matches(weight, pattern) for pattern in include))
        and not any(_matches(weight, pattern) for pattern in exclude)
    ]


def check_minimum(pass_name: str, min_elements: int) -> None:
    """Refuse a minimum size below one element."""
    if min_elements < 1:
        raise RecipeError(f"{pass_name}: min-elements must be 1 or more, got {min_elements}")


def _matches(weight: StoredWeight, pattern: str) -> bool:
    names = [weight.name, *(use.node.name or "" for use in weight.uses)]
    return any(fnmatchcase(name, pattern) for name in names)
