"""Fit the weights and biases of changed layers to what the original computes, layer by layer, on the changed model.

The original and the changed model run side by side. With everything before a layer already changed and fitted, let x be
its input in the original and x̂ in the changed model. Of the calibration samples every fourth is held out.

1. what to aim at: the dense weights W* = W + α W (E[x x̂ᵀ] − E[x̂ x̂ᵀ]) (E[x̂ x̂ᵀ] + λI)⁻¹ that make up for what earlier
   layers lost, α one of 0, ½ and 1: the one whose output is closest to W x on the samples held out;
2. weights of the wanted form that are closest to W* on x̂, found by the caller (``solve``);
3. they are kept where W x is closer on the samples held out than with the caller's plain weights;
4. the mean difference that is left in each output channel moves into the bias (Nagel et al. 2019,
   https://arxiv.org/abs/1906.04721), where that too holds for the samples held out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.constants import constant_tensor
from onnxshrink.graph.edits import Names, add_constant
from onnxshrink.graph.stored_weights import StoredWeight, replace_tensor
from onnxshrink.graph.walk import is_op
from onnxshrink.graph.walked_layer import WalkedLayer
from onnxshrink.numerics.compensated_rounding import target_weights
from onnxshrink.numerics.layer_inputs import PairedMoments, paired_moments
from onnxshrink.passes.base import Context, LayerStep
from onnxshrink.passes.layer_repair import correct_bias
from onnxshrink.passes.weighted_layers import WeightedLayer, weighted_layer

WALKED_SAMPLES = 512
"""As many as the data has, up to this: least squares need columns."""

_COLUMNS_PER_UNKNOWN, _FEWEST_COLUMNS = 12, 4096

_HELD_OUT_EVERY = 4
_FEWEST_SAMPLES = 8
"""With fewer, none is held out and earlier layers' losses are not made up for."""

_BLENDS = (0.5, 1.0)

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class RefitLayer:
    """A layer that a walk can reach and whose weight is its own.

    Attributes:
        weight: the constant that holds the weight.
        layer: the layer, in the changed model.
        original: the weight in the original, as rows, (groups, channels, reduction), float64.
    """

    weight: StoredWeight
    layer: WeightedLayer
    original: np.ndarray

    @property
    def walked(self) -> WalkedLayer:
        name = self.layer.node.outputs[0].name
        assert name is not None
        return WalkedLayer(name, name, self.layer.output_axis, (name, name))

    @property
    def has_bias(self) -> bool:
        """Whether the means of the output can be corrected."""
        return self.layer.bias_node is not None

    @property
    def rows(self) -> np.ndarray:
        """The weight as it is now, (groups, channels, reduction), float64."""
        tensor = constant_tensor(self.weight.value)
        assert tensor is not None
        return self.layer.rows(tensor.numpy().astype(np.float64))

    def array(self, rows: np.ndarray) -> np.ndarray:
        """Rows as the constant holds them, zeros as +0."""
        array = self.layer.from_rows(rows).astype(self.layer.weight.dtype)
        array[array == 0] = 0
        return array

    def store(self, rows: np.ndarray) -> None:
        """Let the layer have these weights."""
        replace_tensor(self.weight, ir.Tensor(self.array(rows), dtype=self.weight.tensor.dtype))


@dataclass(frozen=True)
class Candidates:
    """What a caller proposes for a layer: fitted weights, and plain ones for when the fit does not hold; as rows."""

    fitted: np.ndarray
    plain: np.ndarray


Solve = Callable[[RefitLayer, np.ndarray, np.ndarray], Candidates]
"""(layer, W* as rows, E[x̂ x̂ᵀ]) → proposals, rows of float64."""


def refittable(weight: StoredWeight, graph: ir.Graph) -> WeightedLayer | None:
    """The one layer of the main ``graph`` that reads a weight, None when there is none that a walk can stop at."""
    if len(weight.uses) != 1 or len(weight.value.uses()) != 1:
        return None
    node, index = weight.uses[0].node, weight.uses[0].index
    if index != 1 or node.graph is not graph:
        return None
    if not is_op(node, "Conv", "Gemm", "MatMul") or node.inputs[1] is not weight.value:
        return None
    if weight.tensor.dtype not in _FLOATS or constant_tensor(node.inputs[0]) is not None:
        return None
    rank = len(weight.shape)
    if rank != 2 if not is_op(node, "Conv") else rank < 3:
        return None
    if node.attributes.get_int("transA", 0) or any(
        node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta")
    ):
        return None
    return weighted_layer(node)


def add_missing_biases(model: ir.Model, weights: Sequence[StoredWeight]) -> None:
    """Give each refittable Conv and Gemm without a bias one of zeros, for the correction of its output's means."""
    names = Names(model)
    for weight in weights:
        layer = refittable(weight, model.graph)
        if layer is None or layer.bias_node is not None or not is_op(layer.node, "Conv", "Gemm"):
            continue
        bias = np.zeros(layer.weight.shape[layer.axis], layer.weight.dtype)
        value = add_constant(model, model.graph, names.fresh(f"{weight.name}_bias"), bias)
        layer.node.resize_inputs(3)
        layer.node.replace_input_with(2, value)


def walk_moments(
    reference: ir.Model, model: ir.Model, layers: Sequence[RefitLayer], context: Context
) -> Iterator[tuple[RefitLayer, LayerStep, PairedMoments | None, PairedMoments | None]]:
    """Each layer as the walk reaches it, with the moments of its inputs on the samples to fit, and those held out."""
    by_output = {layer.walked.changed: layer for layer in layers}
    ordered = [by_output[name] for node in model.graph if (name := node.outputs[0].name or "") in by_output]
    for step in context.walk(reference, model, [layer.walked for layer in ordered], WALKED_SAMPLES):
        layer = by_output[step.layer.changed]
        splits = step.samples >= _FEWEST_SAMPLES
        yield (
            layer,
            step,
            _moments(step, layer, context.seed, held_out=False if splits else None),
            _moments(step, layer, context.seed, held_out=True) if splits else None,
        )


def refit_layers(
    reference: ir.Model,
    model: ir.Model,
    layers: Sequence[RefitLayer],
    solve: Solve,
    context: Context,
    *,
    repair: bool = True,
) -> set[str]:
    """Change ``layers`` of ``model`` in place. Returns the names of the weights that the walk reached.

    Args:
        reference: the original, its layers' outputs under the same names.
        solve: proposes weights; see the module's docstring.
        repair: do all of it; else only let each layer have what ``solve`` makes of W on the changed model's inputs.
    """
    names = Names(model)
    reached = set()
    for layer, step, training, held_out in walk_moments(reference, model, layers, context):
        if training is None or not training.finite or (held_out is not None and not held_out.finite):
            continue
        reached.add(layer.weight.name)
        if not repair:
            layer.store(solve(layer, layer.original, training.changed).plain)
            continue
        found = solve(layer, aim(layer.original, training, held_out), training.changed)
        judge = held_out or training
        better = layer_loss(layer.original, found.fitted, judge) < layer_loss(layer.original, found.plain, judge)
        rows = found.fitted if better else found.plain
        layer.store(rows)
        if layer.has_bias:
            _correct_bias(model, names, layer, step, (training, held_out))
    return reached


def aim(original: np.ndarray, training: PairedMoments, held_out: PairedMoments | None) -> np.ndarray:
    """The dense weights to aim at: W, or those that make up for earlier layers, by their loss on the held-out part.

    Args:
        original: W, (groups, channels, reduction).
    """
    candidates = [original]
    if held_out is not None:
        ideal = target_weights(original, training.changed, training.cross)
        candidates += [original + blend * (ideal - original) for blend in _BLENDS]
        return min(candidates, key=lambda rows: layer_loss(original, rows, held_out))
    return original


def layer_loss(original: np.ndarray, rows: np.ndarray, moments: PairedMoments) -> float:
    """E‖V x̂ − W x‖², summed over channels, less what does not depend on V."""
    product = rows @ moments.changed - 2 * (original @ moments.cross)
    return float(np.einsum("gij,gij->", product, rows))


def _moments(step: LayerStep, layer: RefitLayer, seed: int, *, held_out: bool | None) -> PairedMoments | None:
    """Moments over the samples that are held out, those that are not, or all of them (None)."""
    reduction = layer.original.shape[2]
    columns = -(-max(_FEWEST_COLUMNS, _COLUMNS_PER_UNKNOWN * reduction) // step.samples)
    pairs = (
        pair
        for sample, pair in enumerate(step.inputs())
        if held_out is None or held_out == (sample % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1)
    )
    return paired_moments(pairs, layer.layer.window, columns, centred=layer.has_bias, seed=seed)


def _correct_bias(
    model: ir.Model,
    names: Names,
    layer: RefitLayer,
    step: LayerStep,
    moments: tuple[PairedMoments, PairedMoments | None],
) -> None:
    """Add the mean error of each output channel to the bias unless that misses the mean of the samples held out."""
    training, held_out = moments
    expected = _mean_shift(layer, training)
    if held_out is not None:
        missing = _mean_shift(layer, held_out)
        if np.square(missing - expected).sum() >= np.square(missing).sum():
            return
    correct_bias(model, names, step, layer.layer)


def _mean_shift(layer: RefitLayer, moments: PairedMoments) -> np.ndarray:
    """(channels,), what the mean of the original's output is above that of the changed layer's."""
    before = np.einsum("gij,gj->gi", layer.original, moments.mean)
    after = np.einsum("gij,gj->gi", layer.rows, moments.mean_changed)
    return np.asarray(before - after).reshape(-1)
