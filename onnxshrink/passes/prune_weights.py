"""Set the least important weights to zero.

    ŵ = 0 where |w| is among the smallest, below a threshold, or in a row (output channel) of small norm; else ŵ = w

Applies to the weights of Conv, ConvTranspose, Gemm, MatMul, LSTM, GRU and RNN. ``sparsity`` is reached exactly, per
layer or over all layers together. ``pattern`` N:M keeps the N largest of every M neighbours along the axis that the
product sums over. Zeros alone make nothing faster in ONNX Runtime and no file smaller: they save where something
stores or skips them.

Refusals: NaN and infinity; tables that decide by their exact values (decision trees written as tensors); constants
that other operators read too; for N:M, axes shorter than M (depthwise Conv).

Sources: Han et al. 2015, https://arxiv.org/abs/1506.02626; Li et al. 2017, https://arxiv.org/abs/1608.08710 (L1 norm
of filters); Mishra et al. 2021, https://arxiv.org/abs/2104.08378 (N:M).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from onnxshrink.errors import RecipeError
from onnxshrink.graph.stored_weights import StoredWeight, replace_tensor, stored_weights
from onnxshrink.numerics.sparsity import (
    Cut,
    apply_cut,
    count_ties,
    keep_n_of_m,
    row_norms,
    smallest_cut,
    zero_count,
    zero_rows,
)
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult, Skip
from onnxshrink.passes.weight_selection import check_minimum, select_weights

_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")
_ZEROS_ALONE = (
    "zeros alone do not make ONNX Runtime faster or the file smaller; "
    "they pay when the file is compressed, or stored by an encoding that leaves zeros out"
)

_Prune = Callable[["np.ndarray"], "np.ndarray"]
"""Takes a weight and returns its pruned copy."""


@dataclass(frozen=True)
class PruneWeights(Pass):
    """Set the least important weights to zero."""

    name: ClassVar[str] = "prune-weights"
    effect: ClassVar[Effect] = Effect.LOSSY

    sparsity: float = field(default=0.5, metadata={"help": "share of the weights (or rows) that become zero"})
    criterion: Literal["magnitude", "row-l1", "row-l2", "threshold"] = field(
        default="magnitude",
        metadata={"help": "smallest weights, whole rows of smallest L1 or L2 norm, or all weights below a threshold"},
    )
    scope: Literal["layer", "global"] = field(
        default="layer", metadata={"help": "the same sparsity in every layer, or over all layers together"}
    )
    threshold: float = field(default=0.0, metadata={"help": "with criterion=threshold: smaller magnitudes become zero"})
    pattern: str = field(default="", metadata={"help": "N:M, such as 2:4: keep the N largest of every M inputs"})
    min_elements: int = field(default=64, metadata={"help": "smaller weights stay as they are"})
    include: tuple[str, ...] = field(
        default=(), metadata={"help": "only weights whose name, or whose node's name, matches one of these patterns"}
    )
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "not weights that match one of these patterns"})

    def __post_init__(self) -> None:
        check_minimum(self.name, self.min_elements)
        if not 0 <= self.sparsity <= 1:
            raise RecipeError(f"{self.name}: sparsity must be between 0 and 1, got {self.sparsity}")
        if (self.criterion == "threshold") != (self.threshold > 0):
            raise RecipeError(f"{self.name}: threshold must be above 0 with criterion=threshold, and only there")
        if self.pattern:
            self._kept_of()
            if self.criterion != "magnitude" or self.scope != "layer":
                raise RecipeError(f"{self.name}: pattern goes with criterion=magnitude and scope=layer only")

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        skips: list[Skip] = []
        weights: list[StoredWeight] = []
        for weight in select_weights(self.name, stored_weights(model, _OPERATORS), self.include, self.exclude):
            if weight.tensor.size < self.min_elements or weight.tensor.dtype not in _float_types():
                continue
            reason = weight.obstacle or self._refusal(weight)
            if reason is None:
                weights.append(weight)
            else:
                skips.append(Skip(weight.name, reason))
        changes = [
            change
            for weight, prune in zip(weights, self._plan(weights), strict=True)
            if (change := _store(weight, prune))
        ]
        if changes:
            skips.append(Skip("(all)", _ZEROS_ALONE))
        return PassResult(tuple(changes), tuple(skips))

    def _kept_of(self) -> tuple[int, int]:
        """N and M of the pattern."""
        match = re.fullmatch(r"(\d+):(\d+)", self.pattern)
        kept, group = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 0 < kept < group:
            raise RecipeError(f"{self.name}: pattern must be N:M with 0 < N < M, such as 2:4, got '{self.pattern}'")
        return kept, group

    def _refusal(self, weight: StoredWeight) -> str | None:
        if not np.isfinite(weight.array()).all():
            return "the weight holds NaN or infinity"
        axis = weight.input_axis
        if self.pattern and (axis is None or weight.shape[axis] < self._kept_of()[1]):
            return f"its input axis is shorter than the groups of {self.pattern}"
        return None

    def _plan(self, weights: Sequence[StoredWeight]) -> list[_Prune]:
        """How to prune each weight."""
        if self.pattern:
            kept, group = self._kept_of()
            return [_pattern_prune(weight.input_axis or 0, kept, group) for weight in weights]
        if self.criterion == "threshold":
            return [_cut_prune(Cut(self.threshold)) for _ in weights]
        groups = [weights] if self.scope == "global" else [[weight] for weight in weights]
        plan = self._plan_cuts if self.criterion == "magnitude" else self._plan_rows
        return [prune for group in groups for prune in plan(group)]

    def _plan_cuts(self, weights: Sequence[StoredWeight]) -> Iterable[_Prune]:
        total = sum(weight.tensor.size for weight in weights)
        cut = smallest_cut(lambda: (weight.array() for weight in weights), zero_count(total, self.sparsity))
        left = cut.ties
        for weight in weights:
            ties = min(left, count_ties(weight.array(), cut)) if left else 0
            left -= ties
            yield _cut_prune(Cut(cut.threshold, ties))

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
    before = np.count_nonzero(array)
    pruned = prune(array)
    after = np.count_nonzero(pruned)
    if after == before:
        return None
    if isinstance(tensor, ir.ExternalTensor):
        # Large models: pruned again when it is written, so that only one weight at a time is in memory.
        replace_tensor(weight, ir.LazyTensor(lambda: ir.Tensor(prune(weight.array())), tensor.dtype, tensor.shape))
    else:
        replace_tensor(weight, ir.Tensor(pruned, dtype=tensor.dtype))
    return Change(weight.name, f"{1 - after / tensor.size:.1%} of {tensor.size:,} weights are zero")


def _cut_prune(cut: Cut) -> _Prune:
    return lambda array: apply_cut(array, cut)


def _row_prune(axes: tuple[int, ...], rows: np.ndarray) -> _Prune:
    return lambda array: zero_rows(array, axes, rows)


def _pattern_prune(axis: int, kept: int, group: int) -> _Prune:
    return lambda array: keep_n_of_m(array, axis, kept, group)


def _float_types() -> tuple[ir.DataType, ...]:
    return ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE
