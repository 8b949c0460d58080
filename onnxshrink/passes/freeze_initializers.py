"""Make every default and every Constant node of a graph a plain initializer.

An initializer that is also a graph input is, by the ONNX specification, a default that a caller may override
(https://github.com/onnx/onnx/blob/main/docs/IR.md#graphs). No pass may fold such a value. This pass ends that: the
input disappears, the initializer stays, and callers can no longer feed it.

Constant nodes of the main graph and of If/Loop/Scan bodies become initializers, which can be shared, folded and
stored as external data. Left alone: Constants that hold no plain tensor, Constants that are graph outputs, and
function bodies, which cannot hold initializers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxshrink.graph.constants import constant_tensor
from onnxshrink.graph.edits import IR_VERSION_OF_PLAIN_INITIALIZERS
from onnxshrink.graph.walk import is_op, label
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult, Skip


@dataclass(frozen=True)
class FreezeInitializers(Pass):
    """Stop listing initializers as graph inputs, and turn Constant nodes into initializers."""

    name: ClassVar[str] = "freeze-initializers"
    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        changes = list(_drop_inputs(model))
        skips: list[Skip] = []
        for graph in (model.graph, *model.graph.subgraphs()):
            for node in list(graph):
                if is_op(node, "Constant"):
                    outcome = _lift(graph, node)
                    changes += [outcome] if isinstance(outcome, Change) else []
                    skips += [outcome] if isinstance(outcome, Skip) else []
        if changes:
            model.ir_version = max(model.ir_version, IR_VERSION_OF_PLAIN_INITIALIZERS)
        return PassResult(tuple(changes), tuple(skips))


def _drop_inputs(model: ir.Model) -> Iterator[Change]:
    graph = model.graph
    frozen = [value for value in graph.inputs if value.is_initializer() and value.const_value is not None]
    if not frozen:
        return
    kept = [value for value in graph.inputs if value not in set(frozen)]
    graph.inputs.clear()
    graph.inputs.extend(kept)
    for value in frozen:
        yield Change(str(value.name), "is a constant now, no longer an input with a default")


def _lift(graph: ir.Graph, node: ir.Node) -> Change | Skip:
    output = node.outputs[0]
    tensor = constant_tensor(output)
    if tensor is None:
        return Skip(label(node), "a Constant that holds no plain tensor stays a node")
    if output.is_graph_output():
        return Skip(label(node), "a Constant that is a graph output stays a node")
    name = output.name
    value = ir.Value(
        name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    output.replace_all_uses_with(value)
    graph.remove(node, safe=True)
    output.name = None
    graph.register_initializer(value)
    return Change(str(name), "Constant node became an initializer")
