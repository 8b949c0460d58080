"""Convert the model to another version of the default ONNX operator set, with the converter of the onnx package.

The converter (https://onnx.ai/onnx/api/version_converter.html) rewrites operators whose definition changed between the
two versions. Weights are left out while it works, so that models above 2 GiB convert as well.

Refusals, with the model left as it was: model-local functions (each imports an opset of its own), nodes with
subgraphs (the converter leaves their bodies in the old opset), and operators without a conversion. Operators of custom
domains are not touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import onnx
import onnx_ir as ir

from onnxshrink.errors import RecipeError, first_line
from onnxshrink.graph.walk import all_nodes, label, subgraphs_of
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult, Skip

_OLDEST_OPSET = 7

_LARGE_BYTES = 1024
"""Initializers above this size are weights; the converter reads only small ones (axes, scales, target shapes)."""


@dataclass(frozen=True)
class ConvertOpset(Pass):
    """Convert the default domain to another opset."""

    name: ClassVar[str] = "convert-opset"
    effect: ClassVar[Effect] = Effect.EXACT

    opset: int = field(default=21, metadata={"help": "the opset version to convert to"})

    def __post_init__(self) -> None:
        newest = onnx.defs.onnx_opset_version()
        if not _OLDEST_OPSET <= self.opset <= newest:
            raise RecipeError(f"{self.name}: opset must be between {_OLDEST_OPSET} and {newest}, got {self.opset}")

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        before = model.opset_imports.get("", 1)
        if before == self.opset:
            return PassResult()
        refusals = tuple(_refusals(model))
        if refusals:
            return PassResult(skips=refusals)
        try:
            converted = self._convert(model)
        except Exception as error:  # the converter raises bare RuntimeErrors, and asserts of its C++ code
            return PassResult(skips=(Skip("model", f"the converter of onnx failed: {first_line(error)}"),))
        model.graph = converted.graph
        needed = onnx.helper.find_min_ir_version_for(_default_opset(self.opset), ignore_unknown=True)
        model.ir_version = max(model.ir_version, needed)
        return PassResult((Change("model", f"opset {before} converted to {self.opset}"),))

    def _convert(self, model: ir.Model) -> ir.Model:
        slim = model.clone()
        weights = _turn_weights_into_inputs(slim)
        proto = onnx.version_converter.convert_version(ir.to_proto(slim), self.opset)
        # The converter may leave an attribute behind that the new version of an operator does not have.
        onnx.checker.check_model(proto)
        converted = ir.from_proto(proto)
        _restore_weights(converted.graph, weights, [str(value.name) for value in model.graph.inputs])
        _restore_shapes(converted.graph, model.graph)
        return converted


def _default_opset(version: int) -> list[onnx.OperatorSetIdProto]:
    return [onnx.helper.make_opsetid("", version)]


def _refusals(model: ir.Model) -> Iterator[Skip]:
    for domain, name, _ in model.functions:
        yield Skip(f"{domain}.{name}", "models with functions are not converted")
    for node in all_nodes(model):
        if any(True for _ in subgraphs_of(node)):
            yield Skip(label(node), f"models with subgraphs ({node.op_type}) are not converted")


def _turn_weights_into_inputs(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    weights: dict[str, ir.TensorProtocol] = {}
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > _LARGE_BYTES:
            weights[name] = tensor
            model.graph.initializers.pop(name)
            value.const_value = None
            value.shape, value.dtype = ir.Shape(tensor.shape.numpy()), tensor.dtype
            if not value.is_graph_input():
                model.graph.inputs.append(value)
    return weights


def _restore_weights(graph: ir.Graph, weights: dict[str, ir.TensorProtocol], input_names: list[str]) -> None:
    values = {str(value.name): value for value in graph.inputs}
    for name, tensor in weights.items():
        values[name].const_value = tensor
        graph.register_initializer(values[name])
    graph.inputs.clear()
    graph.inputs.extend(values[name] for name in input_names)


def _restore_shapes(graph: ir.Graph, original: ir.Graph) -> None:
    """Declare inputs and outputs as the original does, and forget the shapes that the converter inferred in between."""
    for node in graph:
        for output in node.outputs:
            output.shape = output.type = None
    for values, declared in ((graph.inputs, original.inputs), (graph.outputs, original.outputs)):
        for value, old in zip(values, declared, strict=True):
            value.shape, value.type = old.shape, old.type
