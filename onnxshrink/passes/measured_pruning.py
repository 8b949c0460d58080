"""Pruning by what a layer's output loses on calibration data, with the weights that stay fitted to make up for it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.stored_weights import StoredWeight, stored_weights
from onnxshrink.numerics.allocation import LARGEST_SPARSITY, ErrorCurve, allocate
from onnxshrink.numerics.mask_rules import n_of_m, over_layer, over_rows
from onnxshrink.numerics.sparse_fit import MaskRule, SparseFit, damped, refit, removal_costs, remove_least
from onnxshrink.numerics.sparsity import zero_count
from onnxshrink.passes.base import Context
from onnxshrink.passes.layer_refit import Candidates, RefitLayer, refit_layers, refittable
from onnxshrink.passes.pruning_problems import LooseWeight, Problem, error_curves, loose_weights

MeasuredCriterion = Literal["magnitude", "random", "activation", "obs", "output-error"]
Scope = Literal["layer", "row", "global"]

_OBS_ROUNDS = 8


@dataclass(frozen=True)
class Pattern:
    """Keep ``kept`` of every ``group`` neighbouring input channels."""

    kept: int
    group: int

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """``N:M``, with 0 < N < M.

        Raises:
            ValueError: it is not.
        """
        match = re.fullmatch(r"(\d+):(\d+)", text)
        kept, group = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 0 < kept < group:
            raise ValueError(f"pattern must be N:M with 0 < N < M, such as 2:4, got '{text}'")
        return cls(kept, group)


@dataclass(frozen=True)
class Pruning:
    """What to prune, and how.

    Attributes:
        criterion: which weights of a layer go.
        update: whether the weights that stay, and biases, are fitted to the original's outputs.
        sparsity: share of all weights that becomes zero.
        scope: the same share in every layer, in every row, or where the model's outputs lose least.
        pattern: N:M in place of a share.
    """

    criterion: MeasuredCriterion
    update: bool
    sparsity: float
    scope: Scope
    pattern: Pattern | None = None

    def rule(self, problem: Problem, zeros: int) -> MaskRule:
        """Which weights of one layer stay."""
        if self.pattern is not None:
            kernel = problem.weight.kernel_size if isinstance(problem, RefitLayer) else 1
            return n_of_m(self.pattern.kept, self.pattern.group, kernel)
        return over_rows(self.sparsity) if self.scope == "row" else over_layer(zeros)


def prune_by_measurement(
    model: ir.Model,
    original: ir.Model,
    weights: Sequence[StoredWeight],
    pruning: Pruning,
    context: Context,
    curves: Mapping[str, ErrorCurve] | None = None,
) -> frozenset[str]:
    """Prune ``weights`` of ``model`` in place. Returns the names of those whose inputs could be observed.

    Args:
        original: the model whose outputs are to be kept, with the same names.
        pruning: with an update, layers without a bias keep their mean errors; see ``layer_refit``.
        curves: those of :func:`measured_curves`, which are measured when they are needed and not given.
    """
    layers, loose = _problems(model, original, weights, context)
    if pruning.scope == "global" and pruning.pattern is None and curves is None:
        curves = error_curves(model, layers, loose, context)
    zeros = _zeros(pruning, weights, curves)

    def solve(problem: Problem, target: np.ndarray, moment: np.ndarray) -> Candidates:
        return _solved(pruning, problem, target, moment, zeros[problem.weight.name], context.seed)

    for one in loose:
        found = solve(one, one.rows, one.moment[None])
        one.store(found.fitted)
    reached = refit_layers(original, model, layers, solve, context, repair=pruning.update)
    return frozenset(reached | {one.weight.name for one in loose})


def measured_curves(model: ir.Model, weights: Sequence[StoredWeight], context: Context) -> dict[str, ErrorCurve]:
    """How the model's output error grows with the sparsity of each weight, by name."""
    return error_curves(model, *_problems(model, model, weights, context), context)


def _problems(
    model: ir.Model, original: ir.Model, weights: Sequence[StoredWeight], context: Context
) -> tuple[list[RefitLayer], list[LooseWeight]]:
    """The weights by how their inputs are observed."""
    before = {weight.name: weight for weight in stored_weights(original)}
    layers, rest = [], []
    for weight in weights:
        layer = refittable(weight, model.graph)
        if layer is None or weight.name not in before:
            rest.append(weight)
        else:
            rows = layer.rows(before[weight.name].array().astype(np.float64))
            layers.append(RefitLayer(weight, layer, rows))
    return layers, loose_weights(model, rest, context)


def _zeros(
    pruning: Pruning, weights: Sequence[StoredWeight], curves: Mapping[str, ErrorCurve] | None
) -> dict[str, int]:
    """How many zeros each weight gets; those without a curve get the same share as all together."""
    zeros = {weight.name: zero_count(weight.tensor.size, pruning.sparsity) for weight in weights}
    measured = [weight for weight in weights if curves is not None and weight.name in curves]
    if curves is not None and measured:
        total = zero_count(sum(weight.tensor.size for weight in weights), pruning.sparsity)
        total -= sum(zeros[weight.name] for weight in weights if weight.name not in curves)
        limit = max(LARGEST_SPARSITY, pruning.sparsity)
        given = allocate([curves[weight.name] for weight in measured], total, limit)
        zeros.update({weight.name: count for weight, count in zip(measured, given, strict=True)})
    return zeros


def _solved(
    pruning: Pruning, problem: Problem, target: np.ndarray, moment: np.ndarray, zeros: int, seed: int
) -> Candidates:
    """The weights of one layer with their zeros.

    Args:
        target: W, the dense weights to come close to, (groups, channels, reduction).
        moment: E[x xᵀ] of the layer's inputs, (groups, reduction, reduction).
    """
    raised, current, rule = damped(moment), problem.rows, pruning.rule(problem, zeros)
    if pruning.criterion == "output-error":
        fitted = SparseFit(target, raised).prune(rule)
    elif pruning.criterion == "obs" and pruning.scope != "row" and pruning.pattern is None:
        fitted = remove_least(target, raised, zeros, _OBS_ROUNDS)
    else:
        importances = _importances(pruning.criterion, target, moment, seed)
        fitted = refit(target, raised, rule(importances))
    plain = np.where(fitted != 0, current, 0)
    return Candidates(fitted if pruning.update else plain, plain)


def _importances(criterion: MeasuredCriterion, rows: np.ndarray, moment: np.ndarray, seed: int) -> np.ndarray:
    if criterion == "magnitude":
        return np.asarray(np.abs(rows))
    if criterion == "random":
        return np.asarray(np.random.default_rng(seed).random(rows.shape))
    if criterion == "obs":
        return removal_costs(rows, damped(moment), np.ones(rows.shape, bool))
    return np.asarray(np.abs(rows) * np.sqrt(np.einsum("gii->gi", moment))[:, None, :])
