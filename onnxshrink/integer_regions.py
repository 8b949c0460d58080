"""Which layers are better left in float for speed: from a profile of the float and of the quantized model.

An integer kernel is not always the faster one, and every change between float and integers costs a conversion of the
activation. Layers in graph order are taken as a chain; the split that should cost least is a guide, to be measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxshrink.calibration.statistics import measured_shapes
from onnxshrink.graph.walk import label
from onnxshrink.measure.kernels import measure_layer_times
from onnxshrink.numerics.cheapest_split import cheapest_split

_CONVERSION_NS_PER_ELEMENT = 1.5
"""Quantizing or dequantizing an activation, with the change of memory layout that comes with it. Measured on two mobile
nets by adding islands of float layers: 1.2 to 2."""


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
    layers = [node for node in cleaned.graph if label(node) in float_times and label(node) in integer_times]
    names = [label(node) for node in layers]
    costs = np.array([[times[name] for name in names] for times in (integer_times, float_times)]).reshape(2, -1)
    switch = _input_elements(cleaned, layers, feed) * _CONVERSION_NS_PER_ELEMENT / 1000
    in_float = cheapest_split(costs, switch)
    if in_float.all():
        return ()
    return tuple(name for name, stays in zip(names, in_float, strict=True) if stays)


def _input_elements(model: ir.Model, layers: list[ir.Node], feed: Mapping[str, np.ndarray]) -> np.ndarray:
    """Elements of each layer's input, from one run; 0 for inputs that nobody computes."""
    sources = [node.inputs[0] for node in layers]
    computed = [value for value in dict.fromkeys(sources) if value is not None and value.producer() is not None]
    shapes = measured_shapes(model, computed, feed) if computed else {}
    known = {value: math.prod(shape) for value, shape in shapes.items()}
    known |= {value: feed[value.name or ""].size for value in sources if value is not None and value.name in feed}
    return np.array([known.get(value, 0) if value is not None else 0 for value in sources], np.float64)
