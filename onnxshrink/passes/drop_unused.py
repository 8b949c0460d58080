"""Remove what no graph output depends on, and on request the text that the runtime does not need.

Always removed: nodes whose outputs nobody reads (random operators as well: their effect cannot be seen), initializers
without a reader in every graph, functions that are never called, imports of domains that nothing uses, and unused
optional outputs. Graph inputs stay, used or not: they are the model's signature.

On request: ``names`` (short names for values and initializers, none for nodes; ``auto``: only where names take more
than 1 % of the bytes of nodes and constants), ``docs`` (doc strings and metadata of nodes, values, graphs and
functions; the model's own metadata stays), ``defaults`` (attributes that say what the operator does without them) and
``value_info`` (recorded shapes that ONNX shape inference finds again from the inputs; what it cannot find is kept).

Refusals: BatchNormalization keeps its extra outputs unless it is known to be in inference mode, because before
opset 14 they choose the mode. Operators unknown to the ONNX schema registry keep all their outputs and attributes.
Inputs and outputs of graphs and functions keep their names.

Sources: dead code elimination, Aho, Lam, Sethi, Ullman, Compilers, 2nd edition, section 9.1.6; optional outputs and
default attributes: https://onnx.ai/onnx/repo-docs/IR.html and the schemas, https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import ClassVar, Literal

import onnx
import onnx_ir as ir

from onnxshrink.graph.edits import drop_initializer_if_unused, is_unused, remove_node
from onnxshrink.graph.shapes import forget_redundant_shapes
from onnxshrink.graph.walk import all_graphs, all_nodes, label, opset_of, subgraphs_of
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult
from onnxshrink.passes.default_attributes import drop_default_attributes
from onnxshrink.passes.short_names import names_weigh_much, shorten_names


@dataclass(frozen=True)
class DropUnused(Pass):
    """Remove dead nodes, initializers, functions, opset imports and optional outputs."""

    name: ClassVar[str] = "drop-unused"
    effect: ClassVar[Effect] = Effect.EXACT

    names: Literal["keep", "short", "auto"] = field(
        default="keep",
        metadata={"help": "keep names, shorten those inside graphs, or shorten them only where they take over 1 %"},
    )
    docs: bool = field(
        default=False, metadata={"help": "remove doc strings and metadata of nodes, values, graphs and functions"}
    )
    defaults: bool = field(default=False, metadata={"help": "remove attributes that equal the operator's defaults"})
    value_info: bool = field(
        default=True, metadata={"help": "do not record intermediate shapes that shape inference finds again"}
    )

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        changes = [*_drop_nodes(model), *_drop_initializers(model), *_drop_functions(model)]
        changes += _drop_optional_outputs(model)
        changes += _drop_opset_imports(model)
        if self.docs:
            changes += _drop_docs(model)
        if self.defaults and (count := drop_default_attributes(model)):
            changes.append(Change("model", f"{count} attributes removed that equal the operator's defaults"))
        if (self.names == "short" or (self.names == "auto" and names_weigh_much(model))) and shorten_names(model):
            changes.append(Change("model", "values and initializers have short names, nodes have none"))
        if self.value_info and (count := forget_redundant_shapes(model)):
            changes.append(Change("model", f"{count} recorded shapes removed that shape inference finds again"))
        return PassResult(tuple(changes))


def _drop_nodes(model: ir.Model) -> Iterator[Change]:
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        yield from _drop_nodes_of(graph)


def _drop_nodes_of(graph: ir.Graph) -> Iterator[Change]:
    for node in reversed(list(graph)):
        if all(is_unused(output) for output in node.outputs):
            yield Change(label(node), f"unused {node.op_type} removed")
            remove_node(node)
        else:
            for inner in subgraphs_of(node):
                yield from _drop_nodes_of(inner)


def _drop_initializers(model: ir.Model) -> Iterator[Change]:
    for graph in all_graphs(model):
        for name, value in list(graph.initializers.items()):
            drop_initializer_if_unused(value)
            if name not in graph.initializers:
                yield Change(name, "unused initializer removed")


def _drop_functions(model: ir.Model) -> Iterator[Change]:
    from onnx_ir.passes.common import RemoveUnusedFunctionsPass  # not at the top: listing passes must not load it

    before = list(model.functions)
    RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    for identifier in before:
        if identifier not in model.functions:
            yield Change(f"{identifier[0]}.{identifier[1]}", "unused function removed")


def _drop_opset_imports(model: ir.Model) -> Iterator[Change]:
    # Domains used in function bodies stay imported by the model: ONNX Runtime inlines functions into its graph.
    used = {
        "",
        *(node.domain for node in all_nodes(model)),
        *(function.domain for function in model.functions.values()),
    }
    for domain in [domain for domain in model.opset_imports if domain not in used]:
        del model.opset_imports[domain]
        yield Change(domain, "unused opset import removed")


def _drop_optional_outputs(model: ir.Model) -> Iterator[Change]:
    for graph in all_graphs(model):
        opset = opset_of(model, graph)
        for node in graph:
            if len(node.outputs) > 1 and node.domain == "" and is_unused(node.outputs[-1]):
                kept = _outputs_to_keep(node, opset)
                if kept < len(node.outputs):
                    node.resize_outputs(kept)
                    yield Change(label(node), f"unused optional outputs of {node.op_type} removed")


def _outputs_to_keep(node: ir.Node, opset: int) -> int:
    if node.op_type == "BatchNormalization" and (opset < 14 or node.attributes.get_int("training_mode", 0) != 0):
        return len(node.outputs)
    if not onnx.defs.has(node.op_type, opset):
        return len(node.outputs)
    formal = onnx.defs.get_schema(node.op_type, opset).outputs
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    kept = len(node.outputs)
    while 1 < kept <= len(formal) and formal[kept - 1].option == optional and is_unused(node.outputs[kept - 1]):
        kept -= 1
    return kept


def _drop_docs(model: ir.Model) -> Iterator[Change]:
    removed = 0
    for graph in all_graphs(model):
        initializers = graph.initializers.values()
        values = chain(graph.inputs, initializers, chain.from_iterable(node.outputs for node in graph))
        for item in (graph, *graph, *values):
            removed += bool(item.doc_string) + bool(item.metadata_props)
            item.doc_string = None
            item.metadata_props.clear()
    for function in model.functions.values():
        removed += bool(function.doc_string) + bool(function.metadata_props)
        function.doc_string = None
        function.metadata_props.clear()
    if removed:
        yield Change("model", f"{removed} doc strings and metadata entries removed")
