"""Set the least important weights to zero.

    ŵ = 0 where the importance of w is among the smallest, below a threshold, or in a row of small norm

Importances, by ``criterion``; H = E[x xᵀ] of the inputs that the weight is multiplied with, on calibration data:

    magnitude        |w|                        Han et al. 2015, https://arxiv.org/abs/1506.02626
    lamp             w² / Σ v² over the v of the layer with |v| ≥ |w|, which compares between layers
                                                Lee et al. 2021, https://arxiv.org/abs/2010.07611
    random           a random number: the baseline
    threshold        |w|, against ``threshold``
    row-l1, row-l2   norms of whole output channels
                                                Li et al. 2017, https://arxiv.org/abs/1608.08710
    activation       |w| √H_ii                  Wanda, Sun et al. 2024, https://arxiv.org/abs/2306.11695
    obs              w² / [H⁻¹]_ii, anew in 8 rounds with the others refitted
                                                OBC, Frantar et al. 2022, https://arxiv.org/abs/2208.11580
    output-error     the zeros for which (ŵ − w) H (ŵ − w)ᵀ is least when the others are fitted, found all at once
                                                Boža 2024, https://arxiv.org/abs/2401.02938

With calibration data the last three are measured on the activations of the model as it is pruned, layer by layer in
graph order, and (``update``) the weights that stay are fitted by least squares to what the layer computed before, the
remaining mean error of each channel moving into the bias; see ``layer_refit`` and ``numerics.sparse_fit``.

``scope=layer`` and ``row`` zero the same share of every layer or output channel. ``global`` zeros where it costs least:
by importance over all layers (magnitude, lamp, random), else by measured curves of the model's output error over each
layer's sparsity; see ``pruning_problems`` and ``numerics.allocation``. ``max-error`` looks for the largest sparsity at
which the model's outputs stay that close; ``steps`` prunes in several steps (Zhu & Gupta 2017,
https://arxiv.org/abs/1710.01878) and measures the curves anew before each. ``pattern`` N:M keeps the N most important
of every M neighbours along the axis that the product sums over (Mishra et al. 2021, https://arxiv.org/abs/2104.08378).

Zeros are +0. They make nothing faster in ONNX Runtime and no file smaller by themselves: they save where something
stores or skips them.

Refusals: NaN and infinity; tables that decide by their exact values (decision trees written as tensors); constants
that other operators read too; for N:M, axes shorter than M (depthwise Conv). Weights whose inputs cannot be observed
(those in subgraphs and functions, or shared by Convs) are pruned by magnitude, without update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, cast

import numpy as np
import onnx_ir as ir

from onnxshrink.errors import DataError, ModelError, RecipeError, first_line
from onnxshrink.graph.constants import constant_array
from onnxshrink.graph.stored_weights import StoredWeight, replace_tensor, stored_weights
from onnxshrink.numerics.allocation import ErrorCurve
from onnxshrink.numerics.sparsity import (
    Cut,
    apply_cut,
    count_ties,
    keep_n_of_m,
    lamp_scores,
    row_norms,
    smallest_cut,
    zero_count,
    zero_least_of_rows,
    zero_rows,
)
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult, Skip
from onnxshrink.passes.layer_refit import add_missing_biases
from onnxshrink.passes.measured_pruning import (
    MeasuredCriterion,
    Pattern,
    Pruning,
    measured_curves,
    prune_by_measurement,
)
from onnxshrink.passes.weight_selection import check_minimum, select_weights

_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")
_ZEROS_ALONE = (
    "zeros alone do not make ONNX Runtime faster or the file smaller; "
    "they pay when the file is compressed, or stored by an encoding that leaves zeros out"
)
_UNOBSERVED = "its inputs cannot be observed: pruned by magnitude, the weights that stay as they were"
_NO_DATA = "there is no calibration data: pruned by magnitude, the weights that stay as they were"

_MEASURED = ("activation", "obs", "output-error")
"""Criteria that look at activations."""
_UPDATED = ("obs", "output-error")
"""Criteria that fit the weights that stay by default."""
_WHOLE = ("lamp", "threshold", "row-l1", "row-l2")
"""Criteria that never look at data."""

Curves = Mapping[str, ErrorCurve]

_SEARCHES = 6
"""Sparsities that a search for the largest one tries."""
_HIGHEST = 0.96

_Prune = Callable[["np.ndarray"], "np.ndarray"]
"""Takes a weight and returns its pruned copy."""

_Score = Callable[["np.ndarray"], "np.ndarray"]
"""Importances of the elements of a weight, up to their sign."""


@dataclass(frozen=True)
class PruneWeights(Pass):
    """Set the least important weights to zero."""

    name: ClassVar[str] = "prune-weights"
    effect: ClassVar[Effect] = Effect.LOSSY

    sparsity: float = field(default=0.5, metadata={"help": "share of the weights (or rows) that become zero"})
    criterion: Literal[
        "auto",
        "magnitude",
        "lamp",
        "random",
        "threshold",
        "row-l1",
        "row-l2",
        "activation",
        "obs",
        "output-error",
    ] = field(
        default="auto",
        metadata={"help": "what goes first; auto: output-error with calibration data, magnitude without"},
    )
    scope: Literal["auto", "layer", "row", "global"] = field(
        default="auto",
        metadata={
            "help": "the same sparsity in every layer or row, or over all layers where it costs least; "
            "auto: global where calibration data tells, else layer"
        },
    )
    update: Literal["auto", "on", "off"] = field(
        default="auto",
        metadata={"help": "fit the weights that stay, and biases, to calibration data; auto: with obs, output-error"},
    )
    max_error: float = field(
        default=0.0, metadata={"help": "find the largest sparsity at which outputs stay within this relative error"}
    )
    steps: int = field(default=1, metadata={"help": "prune in this many steps, with measurements before each"})
    threshold: float = field(default=0.0, metadata={"help": "with criterion=threshold: smaller magnitudes become zero"})
    pattern: str = field(default="", metadata={"help": "N:M, such as 2:4: keep the N most important of every M inputs"})
    min_elements: int = field(default=64, metadata={"help": "smaller weights stay as they are"})
    include: tuple[str, ...] = field(
        default=(), metadata={"help": "only weights whose name, or whose node's name, matches one of these patterns"}
    )
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "not weights that match one of these patterns"})

    def __post_init__(self) -> None:
        check_minimum(self.name, self.min_elements)
        for reason in self._objections():
            raise RecipeError(f"{self.name}: {reason}")

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        weights, skips = self._prunable(model)
        wanted = self._resolved(context)
        nonzero = (
            {weight.name: int(np.count_nonzero(weight.array())) for weight in weights} if wanted.looks_at_data else {}
        )
        observed, reason = frozenset[str](), _NO_DATA
        sparsity = self.sparsity if not self.max_error else 0.0  # of weights that are not measured
        if nonzero and context.calibrated:
            observed, reason, sparsity = wanted._prune_observed(model, context)
            weights, _ = self._prunable(model)
        wanted = replace(wanted, sparsity=sparsity)
        rest = [weight for weight in weights if weight.name not in observed]
        if nonzero:
            skips += [Skip(weight.name, reason) for weight in rest]
        pruned = dict(zip((weight.name for weight in rest), wanted._plan(rest, context.seed), strict=True))
        changes = [
            change
            for weight in weights
            if (
                change := _store(weight, pruned[weight.name])
                if weight.name in pruned
                else _change(weight, nonzero[weight.name], int(np.count_nonzero(_stored(weight))))
            )
        ]
        if changes:
            skips.append(Skip("(all)", _ZEROS_ALONE))
        return PassResult(tuple(changes), tuple(skips))

    @property
    def looks_at_data(self) -> bool:
        """Whether the pass does more with calibration data."""
        return self.criterion in _MEASURED or self.update == "on" or self.max_error > 0 or self.steps > 1

    def _objections(self) -> Iterator[str]:
        if not 0 <= self.sparsity <= 1:
            yield f"sparsity must be between 0 and 1, got {self.sparsity}"
        if (self.criterion == "threshold") != (self.threshold > 0):
            yield "threshold must be above 0 with criterion=threshold, and only there"
        if self.max_error < 0:
            yield f"max-error must not be below 0, got {self.max_error}"
        if self.steps < 1:
            yield f"steps must be 1 or more, got {self.steps}"
        if self.criterion in _WHOLE and (
            self.scope == "row" or self.update == "on" or self.max_error or self.steps > 1
        ):
            yield f"scope=row, update=on, max-error and steps do not go with criterion={self.criterion}"
        if self.pattern:
            try:
                Pattern.parse(self.pattern)
            except ValueError as error:
                yield str(error)
            if self.criterion in (*_WHOLE, "random") or self.scope not in ("auto", "layer"):
                yield "pattern goes with magnitude, activation, obs and output-error, and scope=layer only"
            if self.max_error or self.steps > 1:
                yield "pattern does not go with max-error or steps"

    def _prunable(self, model: ir.Model) -> tuple[list[StoredWeight], list[Skip]]:
        """The weights to prune, and those that cannot be."""
        weights, skips = [], []
        for weight in select_weights(self.name, stored_weights(model, _OPERATORS), self.include, self.exclude):
            if weight.tensor.size < self.min_elements or weight.tensor.dtype not in _float_types():
                continue
            reason = weight.obstacle or self._refusal(weight)
            if reason is None:
                weights.append(weight)
            else:
                skips.append(Skip(weight.name, reason))
        return weights, skips

    def _refusal(self, weight: StoredWeight) -> str | None:
        if not np.isfinite(weight.array()).all():
            return "the weight holds NaN or infinity"
        axis = weight.input_axis
        if self.pattern and (axis is None or weight.shape[axis] < Pattern.parse(self.pattern).group):
            return f"its input axis is shorter than the groups of {self.pattern}"
        return None

    def _resolved(self, context: Context) -> PruneWeights:
        """The same pass with nothing left to be chosen."""
        criterion, update, scope = self.criterion, self.update, self.scope
        if criterion == "auto":
            criterion = "output-error" if context.calibrated else "magnitude"
        if update == "auto":
            update = "on" if criterion in _UPDATED else "off"
        resolved = replace(self, criterion=criterion, update=update)
        if scope == "auto":
            scope = "global" if resolved.looks_at_data and context.calibrated and not self.pattern else "layer"
        return replace(resolved, scope=scope)

    def _prune_observed(self, model: ir.Model, context: Context) -> tuple[frozenset[str], str, float]:
        """Prune the weights whose inputs can be observed; their names, why it is not the others', and the sparsity."""
        weights, _ = self._prunable(model)
        if self.update == "on":
            add_missing_biases(model, weights)
        original = model.clone()
        try:
            curves = measured_curves(model, weights, context) if self.scope == "global" else None
            sparsity = self._largest_sparsity(original, curves, context) if self.max_error else self.sparsity
            return self._prune_in_steps(model, original, sparsity, curves, context), _UNOBSERVED, sparsity
        except (ModelError, DataError) as error:  # a part of the model does not run by itself
            model.graph = original.graph
            reason = f"{_UNOBSERVED} ({first_line(error)})"
            return frozenset(), reason, 0.0 if self.max_error else self.sparsity

    def _prune_in_steps(
        self, model: ir.Model, original: ir.Model, sparsity: float, curves: Curves | None, context: Context
    ) -> frozenset[str]:
        """Prune, the first time by these ``curves``; the names of the weights whose inputs can be observed."""
        observed: frozenset[str] = frozenset()
        for step in range(1, self.steps + 1):
            share = 1 - (1 - sparsity) ** (step / self.steps) if step < self.steps else sparsity
            weights, _ = self._prunable(model)
            observed = prune_by_measurement(model, original, weights, self._pruning(share), context, curves)
            curves = None
        return observed

    def _largest_sparsity(self, model: ir.Model, curves: Curves | None, context: Context) -> float:
        """The largest sparsity found at which the outputs' error is within ``max_error``; 0 when none is."""
        low, high = 0.0, _HIGHEST
        for _ in range(_SEARCHES):
            middle, trial = (low + high) / 2, model.clone()
            self._prune_in_steps(trial, model, middle, curves, context)
            error = context.output_error(model, trial)
            if error is not None and error <= self.max_error:
                low = middle
            else:
                high = middle
        return low

    def _pruning(self, sparsity: float) -> Pruning:
        assert self.scope != "auto"
        pattern = Pattern.parse(self.pattern) if self.pattern else None
        return Pruning(cast("MeasuredCriterion", self.criterion), self.update == "on", sparsity, self.scope, pattern)

    def _plan(self, weights: Sequence[StoredWeight], seed: int) -> list[_Prune]:
        """How to prune each weight by itself."""
        if self.pattern:
            pattern = Pattern.parse(self.pattern)
            return [_pattern_prune(weight.input_axis or 0, pattern) for weight in weights]
        if self.criterion == "threshold":
            return [_cut_prune(Cut(self.threshold), _magnitudes) for _ in weights]
        if self.criterion in ("row-l1", "row-l2"):
            groups = [weights] if self.scope == "global" else [[weight] for weight in weights]
            return [prune for group in groups for prune in self._plan_rows(group)]
        scores = [self._scores(index, seed) for index in range(len(weights))]
        if self.scope == "row":
            return [
                _least_of_rows_prune(score, weight.channel_axes, self.sparsity)
                for weight, score in zip(weights, scores, strict=True)
            ]
        pairs = list(zip(weights, scores, strict=True))
        parts = [pairs] if self.scope == "global" else [[pair] for pair in pairs]
        return [prune for part in parts for prune in self._plan_cuts(part)]

    def _scores(self, index: int, seed: int) -> _Score:
        """The importances of the weights of one constant, the ``index``-th."""
        if self.criterion == "random":
            return lambda array: np.random.default_rng((seed, index)).random(array.shape, np.float32)
        return lamp_scores if self.criterion == "lamp" else _magnitudes

    def _plan_cuts(self, pairs: Sequence[tuple[StoredWeight, _Score]]) -> Iterable[_Prune]:
        total = sum(weight.tensor.size for weight, _ in pairs)
        cut = smallest_cut(lambda: (score(weight.array()) for weight, score in pairs), zero_count(total, self.sparsity))
        left = cut.ties
        for weight, score in pairs:
            ties = min(left, count_ties(score(weight.array()), cut)) if left else 0
            left -= ties
            yield _cut_prune(Cut(cut.threshold, ties), score)

    def _plan_rows(self, weights: Sequence[StoredWeight]) -> Iterable[_Prune]:
        order: Literal["l1", "l2"] = "l1" if self.criterion == "row-l1" else "l2"
        norms = [row_norms(weight.array(), weight.channel_axes, order) for weight in weights]
        ranks = np.argsort(np.concatenate([norm.reshape(-1) for norm in norms]), kind="stable")
        doomed = np.zeros(ranks.size, bool)
        doomed[ranks[: zero_count(ranks.size, self.sparsity)]] = True
        start = 0
        for weight, norm in zip(weights, norms, strict=True):
            yield _row_prune(weight.channel_axes, doomed[start : start + norm.size].reshape(norm.shape))
            start += norm.size


def _store(weight: StoredWeight, prune: _Prune) -> Change | None:
    """Prune one weight in place; None when that changes nothing."""
    tensor = weight.tensor
    array = weight.array()
    before = int(np.count_nonzero(array))
    pruned = prune(array)
    after = int(np.count_nonzero(pruned))
    if after == before:
        return None
    if isinstance(tensor, ir.ExternalTensor):
        # Large models: pruned again when it is written, so that only one weight at a time is in memory.
        replace_tensor(weight, ir.LazyTensor(lambda: ir.Tensor(prune(weight.array())), tensor.dtype, tensor.shape))
    else:
        replace_tensor(weight, ir.Tensor(pruned, dtype=tensor.dtype))
    return _change(weight, before, after)


def _change(weight: StoredWeight, before: int, after: int) -> Change | None:
    size = weight.tensor.size
    return None if after == before else Change(weight.name, f"{1 - after / size:.1%} of {size:,} weights are zero")


def _stored(weight: StoredWeight) -> np.ndarray:
    """The values that the constant holds now."""
    array = constant_array(weight.value)
    assert array is not None
    return array


def _magnitudes(array: np.ndarray) -> np.ndarray:
    return array


def _cut_prune(cut: Cut, score: _Score) -> _Prune:
    return lambda array: apply_cut(array, cut, score(array))


def _least_of_rows_prune(score: _Score, axes: tuple[int, ...], sparsity: float) -> _Prune:
    return lambda array: zero_least_of_rows(array, score(array), axes, sparsity)


def _row_prune(axes: tuple[int, ...], rows: np.ndarray) -> _Prune:
    return lambda array: zero_rows(array, axes, rows)


def _pattern_prune(axis: int, pattern: Pattern) -> _Prune:
    return lambda array: keep_n_of_m(array, axis, pattern.kept, pattern.group)


def _float_types() -> tuple[ir.DataType, ...]:
    return ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE
