"""What a pass works on: name patterns and small checks that the passes share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from onnxshrink.errors import RecipeError
from onnxshrink.graph.stored_weights import StoredWeight

Item = TypeVar("Item")


def select_weights(
    pass_name: str, weights: Sequence[StoredWeight], include: tuple[str, ...], exclude: tuple[str, ...]
) -> list[StoredWeight]:
    """The weights that match ``include`` (empty: all) and not ``exclude``, in order; see :func:`select`.

    A pattern is a shell glob for the name of the weight or of a node that uses it.
    """
    return select(pass_name, "weight", weights, _names, include, exclude)


def select(
    pass_name: str,
    kind: str,
    items: Sequence[Item],
    names: Callable[[Item], Iterable[str]],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
) -> list[Item]:
    """The items of which a name matches ``include`` (empty: all) and none matches ``exclude``, in order.

    Raises:
        RecipeError: a pattern matches nothing, which is more likely a misspelling than an intention.
    """

    def matches(item: Item, patterns: tuple[str, ...]) -> bool:
        return any(fnmatchcase(name, pattern) for name in names(item) for pattern in patterns)

    for field, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            if not any(matches(item, (pattern,)) for item in items):
                raise RecipeError(f"{pass_name}: {field} '{pattern}' matches no {kind} of this model")
    return [item for item in items if (not include or matches(item, include)) and not matches(item, exclude)]


def check_minimum(pass_name: str, min_elements: int) -> None:
    """Refuse a minimum size below one element."""
    if min_elements < 1:
        raise RecipeError(f"{pass_name}: min-elements must be 1 or more, got {min_elements}")


def _names(weight: StoredWeight) -> list[str]:
    return [weight.name, *(use.node.name or "" for use in weight.uses)]
