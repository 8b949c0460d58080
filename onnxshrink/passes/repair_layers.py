"""Fit layers that lossy passes changed to what the original computed, without undoing what those passes did.

    ŵ_S ← argmin E‖ŵ x̂ − w x‖²       over the places S of ŵ that are not zero; x from the original, x̂ as the model runs
    bias ← bias + E[w x] − E[ŵ x̂]    per output channel

What may move is read from the values: in a weight with zeros where the original has none, those that are not zero. A
weight without new zeros was rounded or made of few values, and stays as it is: only the bias of its layer moves. The
original is the model before the first lossy pass of the recipe. Layers are fitted in graph order on the activations of
the repaired model; a fit is kept where it is better on calibration samples that it has not seen. See ``layer_refit``.

Refusals: weights that several nodes read, those in subgraphs and functions, integer weights; layers whose output is
called otherwise than in the original.

Sources: Frantar & Alistarh 2023, https://arxiv.org/abs/2301.00774 (fit of what stays); Nagel et al. 2019,
https://arxiv.org/abs/1906.04721 (bias correction).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.stored_weights import StoredWeight, stored_weights
from onnxshrink.numerics.sparse_fit import damped, refit
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult, Skip
from onnxshrink.passes.layer_refit import Candidates, RefitLayer, add_missing_biases, refit_layers, refittable
from onnxshrink.passes.weight_selection import select_weights

_OPERATORS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class RepairLayers(Pass):
    """Fit remaining weights and biases of changed layers to the original."""

    name: ClassVar[str] = "repair-layers"
    effect: ClassVar[Effect] = Effect.LOSSY
    needs_data: ClassVar[bool] = True

    weights: bool = field(default=True, metadata={"help": "fit the weights that pruning left; else biases alone"})
    include: tuple[str, ...] = field(
        default=(), metadata={"help": "only weights whose name, or whose node's name, matches one of these patterns"}
    )
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "not weights that match one of these patterns"})

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        original = context.original
        if original is None or not context.calibrated:
            reason = "there is no calibration data" if original is not None else "no lossy pass came before"
            return PassResult(skips=(Skip("model", reason),))
        original = original.clone()
        chosen = select_weights(self.name, stored_weights(model, _OPERATORS), self.include, self.exclude)
        before = {output: weight for weight in stored_weights(original, _OPERATORS) for output in _outputs(weight)}
        changed = [weight for weight in chosen if _differs(weight, before.get(_outputs(weight)[0]))]
        add_missing_biases(model, changed)
        layers, skips = [], []
        for weight in changed:
            layer = refittable(weight, model.graph)
            if layer is None:
                skips.append(Skip(weight.name, "no walk through the main graph stops at one layer that alone reads it"))
                continue
            old = before[_outputs(weight)[0]].array().astype(np.float64)
            layers.append(RefitLayer(weight, layer, layer.rows(old)))
        reached = refit_layers(original, model, layers, self._solve, context)
        changes = tuple(
            Change(layer.weight.name, "weights that are not zero and bias fitted to the original")
            for layer in layers
            if layer.weight.name in reached
        )
        return PassResult(changes, tuple(skips))

    def _solve(self, layer: RefitLayer, target: np.ndarray, moment: np.ndarray) -> Candidates:
        current = layer.rows
        mask = current != 0
        if not self.weights or not (~mask & (layer.original != 0)).any():
            return Candidates(current, current)
        return Candidates(refit(target, damped(moment), mask), current)


def _outputs(weight: StoredWeight) -> list[str]:
    """Names of what the nodes that read a weight compute."""
    return [use.node.outputs[0].name or "" for use in weight.uses]


def _differs(weight: StoredWeight, before: StoredWeight | None) -> bool:
    """Whether lossy passes changed the values of a weight."""
    if before is None or before.shape != weight.shape:
        return False
    return not np.array_equal(before.array(), weight.array())
