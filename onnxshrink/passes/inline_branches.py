"""Replace an If whose condition is constant by the nodes of the branch it takes. A part of ``fold-constants``."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from onnxshrink.graph.constants import scalar_constant
from onnxshrink.graph.edits import Names, can_replace_value, remove_node, replace_value
from onnxshrink.graph.walk import all_graphs, is_function_body, is_op, label
from onnxshrink.passes.base import Change


def inline_constant_branches(model: ir.Model, names: Names) -> list[Change]:
    """Inline the taken branch of every If with a constant condition, nested ones included, in all graphs."""
    changes: list[Change] = []
    while (node := _next_constant_if(model)) is not None:
        taken = "then_branch" if scalar_constant(node.inputs[0]) else "else_branch"
        changes.append(Change(label(node), f"condition is constant: {taken.replace('_', ' ')} inlined"))
        _inline(model, node, node.attributes[taken].as_graph(), names)
    return changes


def _next_constant_if(model: ir.Model) -> ir.Node | None:
    for graph in all_graphs(model):
        for node in graph:
            if is_op(node, "If") and scalar_constant(node.inputs[0]) is not None:
                return node
    return None


def _inline(model: ir.Model, node: ir.Node, branch: ir.Graph, names: Names) -> None:
    graph = node.graph
    assert graph is not None
    results = list(branch.outputs)
    branch.outputs.clear()
    _rename_shared_names(model, branch, names)
    moved = [*_constants_of(model, branch, graph), *branch]
    branch.remove([inner for inner in moved if inner.graph is branch])
    graph.insert_before(node, moved)
    for output, result in zip(node.outputs, results, strict=True):
        if can_replace_value(output, result):
            replace_value(output, result)
        else:
            copy = ir.node("Identity", [result], num_outputs=1)
            copy.outputs[0].name = names.fresh(f"{result.name}_copy")
            graph.insert_before(node, copy)
            replace_value(output, copy.outputs[0])
    remove_node(node)


def _rename_shared_names(model: ir.Model, branch: ir.Graph, names: Names) -> None:
    """Branches of other Ifs may use the same names, which was legal in separate scopes and would be shadowing now."""
    uses = Counter(value.name for graph in all_graphs(model) for value in _values_of(graph))
    for value in _values_of(branch):
        if value.name and uses[value.name] > 1:
            value.name = names.fresh(value.name)


def _values_of(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *graph.initializers.values(), *(output for node in graph for output in node.outputs)]


def _constants_of(model: ir.Model, branch: ir.Graph, graph: ir.Graph) -> list[ir.Node]:
    """Move the branch's initializers to ``graph``; for a function body, as Constant nodes, which are returned."""
    nodes = []
    for name, value in list(branch.initializers.items()):
        branch.initializers.pop(name)
        if not is_function_body(model, graph):
            graph.register_initializer(value)
            continue
        assert value.const_value is not None
        node = ir.node("Constant", [], {"value": value.const_value}, num_outputs=1)
        value.replace_all_uses_with(node.outputs[0])
        node.outputs[0].name, value.name = name, None
        nodes.append(node)
    return nodes
