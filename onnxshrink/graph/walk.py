"""Where the nodes are: the main graph, If/Loop/Scan bodies, and the bodies of model-local functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx_ir as ir

_KNOWN_DOMAINS = {
    "",
    "ai.onnx.ml",
    "ai.onnx.preview.training",
    "ai.onnx.training",
    "com.microsoft",
    "com.ms.internal.nhwc",
}


def all_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """Every graph that holds nodes: the main graph first, then its subgraphs, then function bodies and theirs."""
    yield model.graph
    yield from model.graph.subgraphs()
    for function in model.functions.values():
        yield function.graph
        yield from function.subgraphs()


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Every node of the model, in the order of :func:`all_graphs`."""
    for graph in all_graphs(model):
        yield from graph


def is_function_body(model: ir.Model, graph: ir.Graph) -> bool:
    """Whether ``graph`` is the top level of a function: such a graph cannot hold initializers."""
    return any(function.graph is graph for function in model.functions.values())


def opset_of(model: ir.Model, graph: ir.Graph, domain: str = "") -> int:
    """The version of an operator domain in force for the nodes of ``graph`` (functions import their own)."""
    for function in model.functions.values():
        if function.graph is graph or graph in set(function.subgraphs()):
            return function.opset_imports.get(domain, model.opset_imports.get(domain, 1))
    return model.opset_imports.get(domain, 1)


def subgraphs_of(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs held by a node's attributes (If branches, Loop and Scan bodies), not recursively."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def label(node: ir.Node) -> str:
    """How reports and errors name a node: its name, or its operator and first output when it has none."""
    if node.name:
        return node.name
    first_output = next((output.name for output in node.outputs if output.name), "?")
    return f"{node.op_type}→{first_output}"


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether ``node`` is one of these operators of the default ONNX domain."""
    return node is not None and node.domain == "" and node.op_type in op_types


_RANDOM_OPS = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)


def is_random(node: ir.Node) -> bool:
    """Whether two runs of a standard operator on equal inputs may differ (a Dropout in training mode counts)."""
    if node.op_type == "Dropout":
        return len(node.inputs) > 2 and node.inputs[2] is not None
    return node.op_type in _RANDOM_OPS


def operator_counts(model: ir.Model) -> dict[str, int]:
    """Nodes per operator, most frequent first; operators outside the default domain as ``domain::op``."""
    names = (f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in all_nodes(model))
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def custom_domains(model: ir.Model) -> tuple[str, ...]:
    """Operator domains that neither ONNX nor ONNX Runtime nor the model's own functions define, sorted."""
    own = {function.domain for function in model.functions.values()}
    used = {node.domain for node in all_nodes(model)}
    return tuple(sorted(used - own - _KNOWN_DOMAINS))
