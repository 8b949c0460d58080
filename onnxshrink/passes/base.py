"""What a pass is: a frozen dataclass whose typed fields are its only configuration.

The fields are also the pass's spelling in a recipe (``_`` becomes ``-``) and its TOML keys. A pass changes the
model in place and says what it changed and what it left alone, and why. It never times, logs, clones, prints or
opens a session: the runner does that, once, for all passes.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from onnxshrink.graph.walked_layer import WalkedLayer
    from onnxshrink.numerics.activation_statistics import ActivationStatistics


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


Statistics = Callable[["ir.Model", "Mapping[ir.Value, int | None]"], "Mapping[ir.Value, ActivationStatistics]"]
"""Statistics of activations on the calibration data: (model, channel axis or None by value) → statistics by value.

Values that cannot be observed, or that are not finite, are left out.
"""


def _no_statistics(model: ir.Model, axes: Mapping[ir.Value, int | None]) -> Mapping[ir.Value, ActivationStatistics]:
    return {}


SecondMoments = Callable[["ir.Model", "Mapping[ir.Value, int]"], "Mapping[ir.Value, np.ndarray]"]
"""E[x xᵀ] of activations along an axis: (model, axis by value) → (channels, channels) by value; unobserved left out."""


def _no_moments(model: ir.Model, axes: Mapping[ir.Value, int]) -> Mapping[ir.Value, np.ndarray]:
    return {}


class LayerStep(Protocol):
    """One layer reached by a walk: what flows into it in both models, and what its output loses.

    Attributes:
        layer: what the walk stopped at.
    """

    layer: WalkedLayer

    @property
    def samples(self) -> int:
        """How many samples the walk takes along."""

    def inputs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The layer's first input in the reference and in the changed model, sample by sample."""

    def trial_errors(self, trials: Sequence[Mapping[str, np.ndarray]]) -> list[float]:
        """Mean squared error of the layer's output against the reference's when initializers take other values.

        Each trial maps names of initializers that stand between the previous layers and this one to values.
        """

    def output_shift(self) -> np.ndarray:
        """Mean of reference minus changed output, per channel, with the changed model's initializers as they are."""

    def shift_output(self, shift: np.ndarray) -> None:
        """Say that the caller added ``shift`` (channels,) to the layer's output, by its bias."""


class Walk(Protocol):
    """Walks through two models side by side: (reference, changed model, layers of the main graph in the order of both).

    Between two steps the caller may change
    initializers that later layers, or this one, read; the walk goes on with their new values. Yields nothing without
    data. ``samples``: how many are taken along, if there are as many and they do not cost too much; None: 64.
    """

    def __call__(
        self, reference: ir.Model, changed: ir.Model, layers: Sequence[WalkedLayer], samples: int | None = None, /
    ) -> Iterator[LayerStep]: ...


def _no_walk(
    reference: ir.Model, changed: ir.Model, layers: Sequence[WalkedLayer], samples: int | None = None, /
) -> Iterator[LayerStep]:
    return iter(())


OutputError = Callable[["ir.Model", "ir.Model"], "float | None"]
"""Relative L2 error of the second model's outputs against the first's on a few calibration samples; None if unknown."""


def _no_output_error(reference: ir.Model, model: ir.Model) -> float | None:
    return None


@dataclass(frozen=True)
class Context:
    """What a pass may know beside the model.

    Attributes:
        seed: seeds every random choice, so that the same input gives the same bytes.
        evaluate: evaluates constant subgraphs with the runtime's own kernels, which keeps folding bit-exact.
        channel_means: measures mean activations per channel; without data it knows none.
        output_errors: measures what changing one weight does to the outputs; without data it knows nothing.
        statistics: collects statistics of activations on the calibration data.
        second_moments: measures second moments of activations on the calibration data.
        sensitivities: what ``output_errors`` measures, on the calibration data and with more patience.
        original: the model as it was before the first lossy pass of the recipe; None when that is not known.
        walk: runs a model and a changed copy of it side by side, layer by layer.
        output_error: measures how far a changed copy's outputs are from the model's.
        calibrated: whether there is calibration data for the hooks that look at activations.
        draft: the same on fewer samples, for decisions that need no more; None when there is no difference.
        kept: what passes measured, for the next pass that needs it, by a key that holds all it depends on.
    """

    seed: int = 0
    evaluate: Evaluate = field(default=_no_evaluation)
    channel_means: ChannelMeans = field(default=_no_means)
    output_errors: OutputErrors = field(default=_no_errors)
    statistics: Statistics = field(default=_no_statistics)
    second_moments: SecondMoments = field(default=_no_moments)
    sensitivities: OutputErrors = field(default=_no_errors)
    original: ir.Model | None = None
    walk: Walk = field(default=_no_walk)
    output_error: OutputError = field(default=_no_output_error)
    calibrated: bool = False
    draft: Context | None = None
    kept: MutableMapping[Hashable, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Pass(ABC):
    """One transformation. Subclasses are frozen dataclasses and are listed in ``passes.registry``.

    Class attributes:
        name: the spelling in recipes, such as ``fold-batchnorm``.
        effect: the tolerance class at which the runner checks the pass.
        needs_data: whether it can do nothing without calibration data.
        uses_data: whether its result may depend on data; that of a lossy pass is taken to.
    """

    name: ClassVar[str]
    effect: ClassVar[Effect]
    needs_data: ClassVar[bool] = False
    uses_data: ClassVar[bool] = False

    @abstractmethod
    def apply(self, model: ir.Model, context: Context) -> PassResult:
        """Rewrite ``model`` in place.

        When it is called, value shapes and dtypes in the graph are as complete as ONNX shape inference makes them.
        """
