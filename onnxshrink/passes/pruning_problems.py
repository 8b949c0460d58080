"""Weights to prune as sparse fits: rows over the inputs that a product sums over, and second moments of those inputs.

Two kinds. A weight that a walk can stop at is fitted to the original's outputs as the changed model is run; see
``layer_refit``. Others whose input can be observed (LSTM, GRU and RNN, ConvTranspose, shared MatMul weights, left
operands) are fitted to the moments of that input in the model before the pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.stored_weights import StoredWeight, replace_tensor
from onnxshrink.graph.walk import is_op
from onnxshrink.graph.weight_inputs import weight_input
from onnxshrink.graph.weights import WeightUse
from onnxshrink.numerics.allocation import ErrorCurve
from onnxshrink.numerics.mask_rules import over_layer
from onnxshrink.numerics.sparse_fit import SparseFit, damped, fit_error
from onnxshrink.numerics.sparsity import zero_count
from onnxshrink.passes.base import Context
from onnxshrink.passes.layer_refit import RefitLayer, walk_moments

_CURVE = (0.3, 0.5, 0.65, 0.8, 0.9, 0.96)
"""Sparsities at which a layer's error is computed."""

_PROBES = (0.4, 0.75)
"""Sparsities at which the model's output error is measured with one layer alone changed."""

_CURVE_ROWS = 48
_CURVE_ITERATIONS = 30


@dataclass(frozen=True)
class LooseWeight:
    """A weight that no walk reaches, with the second moments of what it is multiplied with.

    Attributes:
        axis: the axis of the weight that is summed over.
        moment: (size of the axis, size of the axis).
    """

    weight: StoredWeight
    axis: int
    moment: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """(1, channels, reduction), float64."""
        moved = np.moveaxis(self.weight.array(), self.axis, -1)
        return moved.reshape(1, -1, moved.shape[-1]).astype(np.float64)

    def array(self, rows: np.ndarray) -> np.ndarray:
        """Rows as the constant holds them, zeros as +0."""
        old = self.weight.array()
        shape = np.moveaxis(old, self.axis, -1).shape
        array = np.ascontiguousarray(np.moveaxis(rows.reshape(shape), -1, self.axis)).astype(old.dtype)
        array[array == 0] = 0
        return array

    def store(self, rows: np.ndarray) -> None:
        """Let the constant hold these weights."""
        replace_tensor(self.weight, ir.Tensor(self.array(rows), dtype=self.weight.tensor.dtype))


Problem = RefitLayer | LooseWeight


def loose_weights(model: ir.Model, weights: Sequence[StoredWeight], context: Context) -> list[LooseWeight]:
    """Those of ``weights`` whose inputs can be observed, in order."""
    sources: dict[str, tuple[StoredWeight, int, list[ir.Value]]] = {}
    wanted: dict[ir.Value, int] = {}
    for weight in weights:
        found = [_source(use) for use in weight.uses]
        known = [one for one in found if one is not None]
        if len(known) != len(found) or len({one[1] for one in known}) != 1:
            continue
        sources[weight.name] = (weight, known[0][1], [one[0] for one in known])
        wanted.update({value: axis for value, _, axis in known})
    moments = context.second_moments(model, wanted)
    loose = []
    for weight, axis, values in sources.values():
        if all(value in moments and len(moments[value]) == weight.shape[axis] for value in values):
            moment = np.mean([moments[value] for value in values], axis=0)
            loose.append(LooseWeight(weight, axis, moment))
    return loose


def _source(use: WeightUse) -> tuple[ir.Value, int, int] | None:
    """The activation a weight is multiplied with, the weight's axis of the sum, and the activation's."""
    node = use.node
    if is_op(node, "LSTM", "GRU", "RNN") and use.index == 2:  # the state of one step is the output of the last
        state = next((output for output in node.outputs[:2] if output.name), None)
        return None if state is None else (state, 2, -1)
    source = weight_input(use)
    if source is None or source.groups != 1 or is_op(node, "Conv"):
        return None
    return source.value, source.weight_axis, source.axis


@dataclass(frozen=True)
class LayerCurve:
    """What a layer's output loses at some sparsities, and what the model's output loses with probes of it.

    Attributes:
        size: number of weights.
        errors: squared errors of the layer's output at ``_CURVE``.
        energy: mean square of the layer's output, channels summed.
        probes: squared errors of the layer's output with the probes' weights.
        gains: squared relative errors of the model's output per squared error of the layer's, by probe; empty: unknown.
    """

    size: int
    errors: tuple[float, ...]
    energy: float
    probes: tuple[float, ...]
    gains: tuple[float, ...] = ()

    def curve(self, fallback: float) -> ErrorCurve:
        """Errors of the model's output; ``fallback``: gain per share of the layer's energy where none is known."""
        known = [(probe, gain) for probe, gain in zip(self.probes, self.gains, strict=False) if probe > 0 and gain > 0]
        errors = np.maximum(self.errors, 1e-30)
        if known:
            order = sorted(known)
            logs = np.interp(np.log(errors), [math.log(one[0]) for one in order], [math.log(one[1]) for one in order])
            scaled = errors * np.exp(logs)
        else:
            scaled = errors * fallback / max(self.energy, 1e-30)
        return ErrorCurve(self.size, _CURVE, tuple(float(error) for error in scaled))


def error_curves(
    model: ir.Model, layers: Sequence[RefitLayer], loose: Sequence[LooseWeight], context: Context
) -> dict[str, ErrorCurve]:
    """By name of the weight, how the model's output error grows with the layer's sparsity."""
    found: dict[str, LayerCurve] = {}
    diagonals: dict[str, np.ndarray] = {}
    for layer, _, training, _ in walk_moments(model, model.clone(), layers, context):
        if training is not None and np.isfinite(training.changed).all():
            name = layer.weight.name
            moment = damped(training.changed)
            found[name] = _layer_curve(layer.rows, moment, context.seed)
            diagonals[name] = np.einsum("gii->gi", moment)
    for weight in loose:
        moment = damped(weight.moment[None])
        found[weight.weight.name] = _layer_curve(weight.rows, moment, context.seed)
        diagonals[weight.weight.name] = np.einsum("gii->gi", moment)
    problems: list[Problem] = [*layers, *loose]
    named = [one for one in problems if one.weight.name in found]
    gains = [_measured(model, named, diagonals, probe, context) for probe in _PROBES]
    curves: dict[str, LayerCurve] = {}
    for name, one in found.items():
        errors = [gain.get(name) for gain in gains]
        known = tuple(
            error**2 / probe if error is not None and probe > 0 else 0.0
            for error, probe in zip(errors, one.probes, strict=True)
        )
        curves[name] = LayerCurve(one.size, one.errors, one.energy, one.probes, known)
    shares = [gain * one.energy for one in curves.values() for gain in one.gains if gain > 0]
    fallback = float(np.median(shares)) if shares else 1.0
    return {name: one.curve(fallback) for name, one in curves.items()}


def probe(rows: np.ndarray, diagonal: np.ndarray, sparsity: float) -> np.ndarray:
    """``rows`` with the share of least |w|·‖x‖ zero: a change of the layer that needs no more than ``diagonal``."""
    mask = over_layer(zero_count(rows.size, sparsity))(np.square(rows) * diagonal[:, None, :])
    return np.where(mask, rows, 0)


def _layer_curve(rows: np.ndarray, moment: np.ndarray, seed: int) -> LayerCurve:
    chosen = rows
    if rows.shape[0] == 1 and rows.shape[1] > _CURVE_ROWS:
        places = np.random.default_rng(seed).choice(rows.shape[1], _CURVE_ROWS, replace=False)
        chosen = rows[:, np.sort(places)]
    share = rows.shape[1] / chosen.shape[1]
    fit = SparseFit(chosen, moment)
    errors = []
    for sparsity in _CURVE:
        sparse = fit.prune(over_layer(zero_count(chosen.size, sparsity)), _CURVE_ITERATIONS)
        errors.append(share * float(fit_error(chosen, sparse, moment).sum()))
    diagonal = np.einsum("gii->gi", moment)
    probes = [float(fit_error(rows, probe(rows, diagonal, sparsity), moment).sum()) for sparsity in _PROBES]
    energy = float(fit_error(rows, np.zeros_like(rows), moment).sum())
    return LayerCurve(rows.size, tuple(errors), energy, tuple(probes))


def _measured(
    model: ir.Model,
    layers: Sequence[Problem],
    diagonals: Mapping[str, np.ndarray],
    sparsity: float,
    context: Context,
) -> dict[str, float]:
    """Relative errors of the model's output with each layer's probe, by name of the weight."""

    def trial(one: Problem) -> np.ndarray:
        return one.array(probe(one.rows, diagonals[one.weight.name], sparsity))

    by_value = {one.weight.value: one for one in layers}
    errors = context.sensitivities(model, {value: partial(trial, one) for value, one in by_value.items()})
    return {by_value[value].weight.name: error for value, error in errors.items()}
