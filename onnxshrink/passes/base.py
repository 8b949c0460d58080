"""What a pass is: a frozen dataclass whose typed fields are its only configuration.

The fields are also the pass's spelling in a recipe (``_`` becomes ``-``) and its TOML keys. A pass changes the
model in place and says what it changed and what it left alone, and why. It never times, logs, clones, prints or
opens a session: the runner does that, once, for all passes.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir


class Effect(enum.Enum):
    """How far a pass may move the model's outputs; decides the tolerance at which it is checked."""

    EXACT = "exact"
    """Bit-identical outputs when ONNX Runtime's own optimisations are off."""
    ROUNDING = "rounding"
    """The same function; floating-point operations are reordered, so outputs differ by rounding."""
    LOSSY = "lossy"
    """Values change on purpose; the report says by how much."""


@dataclass(frozen=True)
class Change:
    """One thing a pass did. ``node``: name of the node or initializer; ``what``: a short clause."""

    node: str
    what: str


@dataclass(frozen=True)
class Skip:
    """One thing a pass could have done and did not. ``reason`` is for the user, and tests assert it."""

    node: str
    reason: str


@dataclass(frozen=True)
class PassResult:
    """What :meth:`Pass.apply` did to the model."""

    changes: tuple[Change, ...] = ()
    skips: tuple[Skip, ...] = ()

    @property
    def changed(self) -> bool:
        return bool(self.changes)


Evaluate = Callable[["ir.Model"], "Mapping[str, np.ndarray]"]
"""Runs a model without inputs with ONNX Runtime (optimisations off) and returns its outputs by name."""


def _no_evaluation(model: ir.Model) -> Mapping[str, np.ndarray]:
    raise RuntimeError("this context cannot evaluate models")


ChannelMeans = Callable[["ir.Model", "Mapping[ir.Value, int]"], "Mapping[ir.Value, np.ndarray]"]
"""Mean activations on the data at hand: (model, axis by value) → mean over all other axes and samples, by value.

Values that cannot be observed, such as those inside subgraphs, are left out.
"""


def _no_means(model: ir.Model, axes: Mapping[ir.Value, int]) -> Mapping[ir.Value, np.ndarray]:
    return {}


OutputErrors = Callable[["ir.Model", "Mapping[ir.Value, Callable[[], np.ndarray]]"], "Mapping[ir.Value, float]"]
"""How much weights matter: (model, changed values by weight) → relative error of the outputs when it alone is changed.

Weights whose effect cannot be measured, such as those inside subgraphs, are left out; so are all when it takes long.
"""


def _no_errors(model: ir.Model, trials: Mapping[ir.Value, Callable[[], np.ndarray]]) -> Mapping[ir.Value, float]:
    return {}


@dataclass(frozen=True)
class Context:
    """What a pass may know beside the model.

    Attributes:
        seed: seeds every random choice, so that the same input gives the same bytes.
        evaluate: evaluates constant subgraphs with the runtime's own kernels, which keeps folding bit-exact.
        channel_means: measures mean activations per channel; without data it knows none.
        output_errors: measures what changing one weight does to the outputs; without data it knows nothing.
    """

    seed: int = 0
    evaluate: Evaluate = field(default=_no_evaluation)
    channel_means: ChannelMeans = field(default=_no_means)
    output_errors: OutputErrors = field(default=_no_errors)


@dataclass(frozen=True)
class Pass(ABC):
    """One transformation. Subclasses are frozen dataclasses and are listed in ``passes.registry``.

    Class attributes:
        name: the spelling in recipes, such as ``fold-batchnorm``.
        effect: the tolerance class at which the runner checks the pass.
    """

    name: ClassVar[str]
    effect: ClassVar[Effect]

    @abstractmethod
    def apply(self, model: ir.Model, context: Context) -> PassResult:
        """Rewrite ``model`` in place.

        When it is called, value shapes and dtypes in the graph are as complete as ONNX shape inference makes them.
        """
