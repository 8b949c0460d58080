"""Which layers are better left in float for speed: from a profile of the float and of the quantized model.

An integer kernel is not always the faster one, and every change between float and integers costs a conversion of the
activation. The split of the graph that should cost least is a minimum cut; it is a guide, to be measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxshrink.calibration.statistics import measured_shapes
from onnxshrink.graph.walk import is_op, label
from onnxshrink.measure.kernels import measure_layer_times
from onnxshrink.numerics.cheapest_cut import cheapest_cut

_CONVERSION_NS_PER_ELEMENT = 1.5
"""Quantizing or dequantizing an activation, with the change of memory layout that comes with it. Measured on two mobile
nets by adding islands of float layers: 1.2 to 2."""

_INTEGERS, _FLOAT = 0, 1


def layers_for_float(cleaned: ir.Model, quantized: ir.Model, feed: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Labels of the layers that should stay float for speed; empty when all, or none, should.

    Args:
        cleaned: the float model.
        quantized: the same with every layer computed in integers, nodes of the same names.
        feed: one run's inputs.

    Raises:
        ModelError: ONNX Runtime does not load or run a model.
    """
    float_times, integer_times = (measure_layer_times(model, feed) for model in (cleaned, quantized))
    nodes = list(cleaned.graph)
    layers = {index for index, node in enumerate(nodes) if label(node) in float_times and label(node) in integer_times}
    costs = np.zeros((2, len(nodes)))
    stay_float = _only_float(quantized)
    for index, node in enumerate(nodes):
        if index in layers:
            costs[:, index] = integer_times[label(node)], float_times[label(node)]
        elif label(node) in stay_float:
            costs[_INTEGERS, index] = np.inf
    edges, values = _edges(cleaned.graph)
    elements = _elements(cleaned, list(dict.fromkeys(values)), feed)
    weights = [elements.get(value, 0) * _CONVERSION_NS_PER_ELEMENT / 1000 for value in values]
    ways = cheapest_cut(costs, edges, weights)
    in_float = sorted(index for index in layers if ways[index] == _FLOAT)
    return () if len(in_float) == len(layers) else tuple(label(nodes[index]) for index in in_float)


def _only_float(quantized: ir.Model) -> set[str]:
    """Labels of the nodes that the quantized model computes in float."""
    return {
        label(node)
        for node in quantized.graph
        if not is_op(node, "QuantizeLinear", "DequantizeLinear")
        and not any(value is not None and is_op(value.producer(), "DequantizeLinear") for value in node.inputs)
    }


def _edges(graph: ir.Graph) -> tuple[list[tuple[int, int]], list[ir.Value]]:
    """Pairs of nodes, by their place in the graph, of which one reads what the other computes; and what that is."""
    places = {node: index for index, node in enumerate(graph)}
    edges: list[tuple[int, int]] = []
    values: list[ir.Value] = []
    for node, index in places.items():
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if value is not None and producer in places:
                edges.append((places[producer], index))
                values.append(value)
    return edges, values


def _elements(model: ir.Model, values: list[ir.Value], feed: Mapping[str, np.ndarray]) -> dict[ir.Value, int]:
    """Elements of each value, from one run."""
    shapes = measured_shapes(model, values, feed) if values else {}
    return {value: math.prod(shape) for value, shape in shapes.items()}
