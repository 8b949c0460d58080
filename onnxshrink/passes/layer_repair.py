"""What repairs of layers on a changed model's own activations share: moments, biases, constants of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.edits import Names, add_constant
from onnxshrink.graph.walk import is_op
from onnxshrink.numerics.layer_inputs import PairedMoments, input_moments, paired_moments
from onnxshrink.passes.base import LayerStep
from onnxshrink.passes.own_constants import give_own_constant
from onnxshrink.passes.weighted_layers import WeightedLayer, weighted_layer

_FEWEST_COLUMNS, _MOST_COLUMNS = 2048, 6144
"""Columns that second moments are taken over: three times the reduction, within these bounds."""

_ROW_SAMPLES = 256


def samples_for(layers: Iterable[WeightedLayer]) -> int | None:
    """How many samples a walk should take along: more for layers that read a few rows of each, not patches."""
    return _ROW_SAMPLES if any(layer.window is None for layer in layers) else None


def input_moments_at(step: LayerStep, layer: WeightedLayer, seed: int) -> np.ndarray | None:
    """Second moments of what the layer reads in the changed model, (groups, reduction, reduction).

    About the means where a bias makes up for them.
    """
    columns = _columns_per_sample(step, layer)
    activations = (changed for _, changed in step.inputs())
    return input_moments(activations, layer.window, columns, centred=layer.bias is not None, seed=seed)


def paired_moments_at(step: LayerStep, layer: WeightedLayer, seed: int, *, centred: bool) -> PairedMoments | None:
    """Second moments of what the layer reads in the reference and in the changed model."""
    columns = _columns_per_sample(step, layer)
    return paired_moments(step.inputs(), layer.window, columns, centred=centred, seed=seed)


def _columns_per_sample(step: LayerStep, layer: WeightedLayer) -> int:
    reduction: int = layer.rows(layer.weight).shape[2]
    return -(-min(max(_FEWEST_COLUMNS, 3 * reduction), _MOST_COLUMNS) // step.samples)


def correct_bias(model: ir.Model, names: Names, step: LayerStep, layer: WeightedLayer) -> None:
    """Add the mean of what the layer's output lacks to its bias, per channel (Nagel et al. 2019)."""
    bias, node = layer.bias, layer.bias_node
    if bias is None or node is None:
        return
    shift = step.output_shift()
    if not np.isfinite(shift).all():
        return
    value = node.inputs[layer.bias_index]
    assert value is not None and value.shape is not None
    corrected = (bias + shift).astype(bias.dtype).reshape(value.shape.numpy())
    give_own_constant(model, names, node, layer.bias_index, corrected)
    if node is layer.node:
        step.shift_output(shift)


def add_biases(model: ir.Model, layers: Sequence[ir.Node]) -> None:
    """Give every Conv and Gemm a bias, which the correction of their outputs' means needs."""
    names = Names(model)
    for node in layers:
        if not is_op(node, "Conv", "Gemm") or (len(node.inputs) > 2 and node.inputs[2] is not None):
            continue
        layer = weighted_layer(node)
        assert layer is not None
        bias = np.zeros(layer.weight.shape[layer.axis], layer.weight.dtype)
        value = add_constant(model, model.graph, names.fresh(f"{layer.weight_value.name}_bias"), bias)
        node.resize_inputs(3)
        node.replace_input_with(2, value)
