"""Where a walk through a model and its changed copy stops."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WalkedLayer:
    """A layer that a walk stops at.

    Attributes:
        reference: name of the layer's output in the reference.
        changed: name of its output in the changed model.
        axis: channel axis of the output.
        judged: names in both models of the value that trials are judged by: the output behind its activation.
    """

    reference: str
    changed: str
    axis: int
    judged: tuple[str, str]
