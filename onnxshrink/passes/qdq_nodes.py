"""QuantizeLinear and DequantizeLinear around activations and constants, as a placement asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.constants import constant_tensor
from onnxshrink.graph.edits import Names, add_constant, drop_initializer_if_unused, is_unused
from onnxshrink.graph.shapes import rank
from onnxshrink.graph.walk import is_op
from onnxshrink.passes.integer_kernels import Kernel, clip_bounds, kernel_of
from onnxshrink.passes.placement import Placement

_QUANTIZED_AT_LOAD = ("Conv", "ConvTranspose", "Gemm")
"""ONNX Runtime's WeightBiasQuantization computes these from integers, with one scale for all weights, when they stand
between a DequantizeLinear with a scalar scale and a QuantizeLinear, whatever the model says. Its QDQ propagation moves
both kinds of nodes past data movement first."""

_NEED_ZERO_POINTS = ("Gemm", "MatMul")
"""ONNX Runtime finds the integer kernels of these only when the weight's zero point is there, even where it is 0."""


@dataclass(frozen=True)
class ActivationScale:
    """The initializers that hold the scale and the zero point of one or more quantized activations."""

    scale: ir.Value
    zero_point: ir.Value

    def set(self, scale: np.ndarray, zero_point: np.ndarray) -> None:
        for value, array in ((self.scale, scale), (self.zero_point, zero_point)):
            value.const_value = ir.Tensor(np.asarray(array).reshape(()), name=value.name)

    @property
    def dtype(self) -> ir.DataType:
        """The integer type."""
        tensor = constant_tensor(self.zero_point)
        assert tensor is not None
        return tensor.dtype

    @property
    def names(self) -> tuple[str, str]:
        assert self.scale.name is not None and self.zero_point.name is not None
        return self.scale.name, self.zero_point.name


class QdqWriter:
    """Adds the nodes of one pass to a model."""

    def __init__(self, model: ir.Model, names: Names) -> None:
        self._model, self._names = model, names

    def activations(
        self, placement: Placement, parameters: Mapping[ir.Value, tuple[np.ndarray, np.ndarray]]
    ) -> dict[ir.Value, ActivationScale]:
        """Quantize every value of the placement that has parameters, by root. Returns the scales, by root."""
        scales: dict[ir.Value, ActivationScale] = {}
        for value, root in placement.roots.items():
            if root not in parameters:
                continue
            if root not in scales:
                scale, zero_point = parameters[root]
                scales[root] = ActivationScale(
                    self._constant(f"{root.name}/s", np.asarray(scale).reshape(())),
                    self._constant(f"{root.name}/z", np.asarray(zero_point).reshape(())),
                )
            self._quantize(value, scales[root], placement)
        for node in list(self._model.graph):
            if is_op(node, "DequantizeLinear") and is_unused(node.outputs[0]):
                self._model.graph.remove(node, safe=True)
        return scales

    def constant(
        self, value: ir.Value, quantized: np.ndarray, scale: np.ndarray, axis: int | None, readers: list[ir.Node]
    ) -> None:
        """Let ``readers`` of a constant read it dequantized from integers; its float form goes when nobody reads it.

        ``scale``: one per index of ``axis``, or a scalar when that is None.
        """
        name = value.name or "weight"
        inputs = [self._constant(f"{name}/q", quantized), self._constant(f"{name}/s", scale)]
        if quantized.dtype == np.int8 and any(is_op(reader, *_NEED_ZERO_POINTS) for reader in readers):
            inputs.append(self._constant(f"{name}/z", np.zeros(scale.shape, np.int8)))
        node = ir.node("DequantizeLinear", inputs, {} if axis is None else {"axis": axis})
        output = node.outputs[0]
        output.name, output.dtype = self._names.fresh(f"{name}/d"), ir.DataType.FLOAT
        output.shape = ir.Shape(quantized.shape)
        first = next(node for node in self._model.graph if node in readers)
        self._model.graph.insert_before(first, node)
        for reader, index in value.uses():
            if reader in readers:
                reader.replace_input_with(index, output)
        drop_initializer_if_unused(value)

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        return add_constant(self._model, self._model.graph, self._names.fresh(name), array)

    def _quantize(self, value: ir.Value, scale: ActivationScale, placement: Placement) -> None:
        """Add the integer form of a value and its dequantized form, and let readers read what they want."""
        graph, producer = self._model.graph, value.producer()
        moved = producer is not None and placement.nodes.get(producer) is Kernel.MOVE
        readers = [(node, index) for node, index in value.uses() if placement.reads_quantized(node, value)]
        if moved and producer is not None:
            self._move_integers(producer, scale)
            integer, added = value, []
        else:
            quantize = ir.node("QuantizeLinear", [value, scale.scale, scale.zero_point])
            integer, added = quantize.outputs[0], [quantize]
            integer.name, integer.shape = self._names.fresh(f"{value.name}/q"), value.shape
        dequantize = ir.node("DequantizeLinear", [integer, scale.scale, scale.zero_point])
        result = dequantize.outputs[0]
        result.name, result.shape = self._names.fresh(f"{value.name}/d"), value.shape
        result.type, integer.type = ir.TensorType(ir.DataType.FLOAT), ir.TensorType(scale.dtype)
        if producer is None:
            graph.insert_before(graph[0], [*added, dequantize])
        else:
            graph.insert_after(producer, [*added, dequantize])
        for node, index in readers:
            node.replace_input_with(index, result)
        if value.is_graph_output() and value in placement.produced:
            self._take_over_output(value, result)

    def _move_integers(self, node: ir.Node, scale: ActivationScale) -> None:
        """Let data movement work on integers."""
        dequantized = node.inputs[0]
        source = None if dequantized is None else dequantized.producer()
        if source is None or not is_op(source, "DequantizeLinear"):
            return  # done already, for another output of a Split
        node.replace_input_with(0, source.inputs[0])
        if is_op(node, "Pad") and node.attributes.get_string("mode", "constant") == "constant":
            node.resize_inputs(max(3, len(node.inputs)))
            node.replace_input_with(2, scale.zero_point)

    def _take_over_output(self, value: ir.Value, dequantized: ir.Value) -> None:
        """Let the dequantized value be the graph output, under its name."""
        name = value.name
        value.name = self._names.fresh(f"{name}_float")
        dequantized.name = name
        outputs = self._model.graph.outputs
        for index, output in enumerate(outputs):
            if output is value:
                outputs[index] = dequantized

    def keep_float(self, placement: Placement) -> None:
        """Keep ONNX Runtime from computing float layers behind quantized values from integers.

        Such a layer reads a DequantizeLinear of its own with the same scale once per index of an axis: the same
        numbers, in a form that the runtime does not take for an invitation.
        """
        spread: dict[ir.Node, ir.Value] = {}
        for node in list(self._model.graph):
            found = (
                _dequantized_input(node) if is_op(node, *_QUANTIZED_AT_LOAD) and node not in placement.nodes else None
            )
            if found is None:
                continue
            dequantize, reader = found
            if dequantize not in spread:
                spread[dequantize] = self._uninviting(dequantize)
            reader.replace_input_with(0, spread[dequantize])
        for dequantize in spread:
            if is_unused(dequantize.outputs[0]):
                self._model.graph.remove(dequantize, safe=True)

    def keep_products(self, placement: Placement) -> None:
        """Keep ONNX Runtime from making float Gemms of integer MatMuls and the float Adds behind them.

        Its MatMulAddFusion does that before it looks for integer kernels: with vectors where every dimension is known,
        but not with constants of as many dimensions as the product, and with matrices, but not behind another node.
        """
        for node in placement.layers:
            product, readers = node.outputs[0], list(node.outputs[0].uses())
            if not is_op(node, "MatMul") or len(readers) != 1 or not is_op(readers[0].node, "Add"):
                continue
            adding, index = readers[0].node, readers[0].idx
            if rank(product) == 2:
                apart = self._behind_max(product)
                self._model.graph.insert_after(node, apart)
                adding.replace_input_with(index, apart.outputs[0])
            elif product.shape is not None and product.shape.is_static():
                self._raise_rank(adding, 1 - index, len(product.shape))

    def _raise_rank(self, adding: ir.Node, index: int, dimensions: int) -> None:
        value = adding.inputs[index]
        tensor = constant_tensor(value)
        if value is None or tensor is None or len(tensor.shape) >= dimensions:
            return
        array = tensor.numpy()
        shape = (1,) * (dimensions - array.ndim) + array.shape
        adding.replace_input_with(index, self._constant(f"{value.name}/r", array.reshape(shape)))
        drop_initializer_if_unused(value)

    def _behind_max(self, value: ir.Value) -> ir.Node:
        """A Max of ``value`` alone: the same numbers, and nothing that ONNX Runtime knows to merge."""
        node = ir.node("Max", [value])
        node.outputs[0].name = self._names.fresh(f"{value.name}/c")
        node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
        return node

    def _uninviting(self, dequantize: ir.Node) -> ir.Value:
        """The same value with its scale spread over an axis; behind a Max of it alone where every axis may be 1."""
        value = dequantize.outputs[0]
        axis = _axis_of_many(value)
        if axis is None:
            own = self._behind_max(value)
        else:
            assert value.shape is not None
            size = int(value.shape[axis])  # type: ignore[arg-type]  # a number: that is what the axis was chosen for
            inputs = [dequantize.inputs[0], *(self._repeated(source, size) for source in dequantize.inputs[1:])]
            own = ir.node("DequantizeLinear", inputs, {"axis": axis})
            own.outputs[0].name = self._names.fresh(f"{value.name}/c")
            own.outputs[0].shape, own.outputs[0].type = value.shape, value.type
        self._model.graph.insert_after(dequantize, own)
        return own.outputs[0]

    def _repeated(self, value: ir.Value | None, size: int) -> ir.Value:
        tensor = constant_tensor(value)
        assert value is not None and tensor is not None
        return self._constant(f"{value.name}/c", np.repeat(tensor.numpy().reshape(1), size))


def drop_absorbed(placement: Placement, scales: Mapping[ir.Value, ActivationScale]) -> list[ir.Node]:
    """Remove each Relu and Clip that the saturation of the QuantizeLinear behind it already does. Returns them."""
    dropped = []
    for node in placement.absorbed:
        root = placement.roots.get(node.outputs[0])
        source = node.inputs[0]
        if root is None or root not in scales or source is None or node.outputs[0].is_graph_output():
            continue
        if _within(scales[root], clip_bounds(node)):
            node.outputs[0].replace_all_uses_with(source)
            assert node.graph is not None
            node.graph.remove(node, safe=True)
            dropped.append(node)
    return dropped


def _within(scale: ActivationScale, bounds: tuple[float, float] | None) -> bool:
    """Whether all that the integers can stand for lies between ``bounds``, up to what rounding moves it anyway."""
    step, zero = constant_tensor(scale.scale), constant_tensor(scale.zero_point)
    if bounds is None or step is None or zero is None:
        return False
    zero_point = zero.numpy().reshape(())
    limits = np.iinfo(zero_point.dtype)
    low, high = ((limit - int(zero_point)) * float(step.numpy()) for limit in (limits.min, limits.max))
    half = 0.5001 * float(step.numpy())
    return low >= bounds[0] - half and high <= bounds[1] + half


def _dequantized_input(layer: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """The DequantizeLinear with one scale that ONNX Runtime finds, or moves, in front of a layer, and its reader."""
    reader = layer
    while True:
        source = reader.inputs[0]
        producer = None if source is None else source.producer()
        if producer is None:
            return None
        if is_op(producer, "DequantizeLinear"):
            scale = constant_tensor(producer.inputs[1])
            return (producer, reader) if scale is not None and scale.size == 1 else None
        if kernel_of(producer) is not Kernel.MOVE:
            return None
        reader = producer


def _axis_of_many(value: ir.Value) -> int | None:
    """An axis known to have more than one index, that of the channels if possible."""
    sizes = [] if value.shape is None else list(enumerate(value.shape))
    axes = [axis for axis, size in sizes if isinstance(size, int) and size > 1]
    return 1 if 1 in axes else next(iter(axes), None)
