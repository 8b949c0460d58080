"""Compute and store equal things once.

Two nodes are one when operator, attributes (tensors by content, bit for bit: -0.0 differs from 0.0, a NaN equals
itself) and inputs are the same: f(x), f(x) → f(x). A node of a subgraph may reuse a node of an enclosing graph. Two
initializers are one when type, shape and bytes are equal; when they sit in sibling subgraphs they move to the main
graph.

Refusals: random operators, operators of custom domains and function calls (they may be random or keep state), nodes
with subgraphs, overridable initializers, and values that are graph outputs under names of their own.

Source: Cocke 1970, Global common subexpression elimination, https://doi.org/10.1145/800028.808480.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.constants import content_digest, is_fixed_initializer, read_array
from onnxshrink.graph.edits import Names, can_replace_value, is_unused, remove_node, replace_value
from onnxshrink.graph.walk import is_random, label, subgraphs_of
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult, Skip


@dataclass(frozen=True)
class ShareIdentical(Pass):
    """Merge common subexpressions and store equal initializers once."""

    name: ClassVar[str] = "share-identical"
    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        outcomes: list[Change | Skip] = list(_share_initializers(model))
        for graph in (model.graph, *(function.graph for function in model.functions.values())):
            outcomes += _share_nodes(graph, {})
        return PassResult(
            tuple(outcome for outcome in outcomes if isinstance(outcome, Change)),
            tuple(outcome for outcome in outcomes if isinstance(outcome, Skip)),
        )


def _share_initializers(model: ir.Model) -> Iterator[Change]:
    names = Names(model)
    for group in _equal_initializers(model):
        kept = group[0]
        if kept.graph is not model.graph:
            _move_to(model.graph, kept, names)
        for value in group[1:]:
            assert value.graph is not None and value.name is not None
            yield Change(value.name, f"equals {kept.name}, stored once")
            value.replace_all_uses_with(kept)
            value.graph.initializers.pop(value.name)


def _move_to(graph: ir.Graph, value: ir.Value, names: Names) -> None:
    assert value.graph is not None and value.name is not None
    value.graph.initializers.pop(value.name)
    # Another subgraph may use the old name for a value of its own, which would then shadow this one.
    value.name = names.fresh(value.name)
    graph.register_initializer(value)


def _equal_initializers(model: ir.Model) -> Iterator[list[ir.Value]]:
    """Groups of two or more equal initializers, main graph first. Only tensors of equal type and shape are read."""
    candidates: defaultdict[Hashable, list[ir.Value]] = defaultdict(list)
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and is_fixed_initializer(value) and not value.is_graph_output():
                candidates[tensor.dtype, tuple(tensor.shape)].append(value)
    for similar in candidates.values():
        if len(similar) > 1:
            by_content: defaultdict[Hashable, list[ir.Value]] = defaultdict(list)
            for value in similar:
                assert value.const_value is not None
                by_content[_content(value.const_value)].append(value)
            yield from (group for group in by_content.values() if len(group) > 1)


def _content(tensor: ir.TensorProtocol) -> Hashable:
    """Equal for tensors of equal elements, bit for bit: the elements of strings, else a 256-bit digest."""
    if tensor.dtype == ir.DataType.STRING:
        return tuple(tensor.numpy().reshape(-1).tolist())
    return read_array(tensor, content_digest)


def _share_nodes(graph: ir.Graph, visible: dict[Hashable, ir.Node]) -> Iterator[Change | Skip]:
    """Merge nodes in execution order. ``visible``: what enclosing graphs have computed before this one."""
    seen = dict(visible)
    for node in list(graph):
        subgraphs = list(subgraphs_of(node))
        for inner in subgraphs:
            yield from _share_nodes(inner, seen)
        if subgraphs or not _is_pure(node):
            continue
        earlier = seen.setdefault(_key(node), node)
        if earlier is not node:
            yield _merge(node, earlier)


def _is_pure(node: ir.Node) -> bool:
    return node.domain in ("", "ai.onnx.ml") and not is_random(node)


def _key(node: ir.Node) -> Hashable:
    attributes = tuple(
        (name, attribute.type, _attribute_content(attribute)) for name, attribute in sorted(node.attributes.items())
    )
    inputs = tuple(None if value is None else id(value) for value in node.inputs)
    named_outputs = tuple(bool(output.name) for output in node.outputs)
    return node.op_identifier(), inputs, named_outputs, attributes


def _attribute_content(attribute: ir.Attr) -> Hashable:
    if attribute.is_ref():
        return ("reference", attribute.ref_attr_name)
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        return tensor.dtype, tuple(tensor.shape), _content(tensor)
    if attribute.type == ir.AttributeType.FLOAT:
        return np.float32(attribute.as_float()).tobytes()
    if attribute.type == ir.AttributeType.FLOATS:
        return np.asarray(attribute.as_floats(), np.float32).tobytes()
    if attribute.type in (ir.AttributeType.INT, ir.AttributeType.STRING):
        return attribute.value  # type: ignore[no-any-return]
    if attribute.type in (ir.AttributeType.INTS, ir.AttributeType.STRINGS):
        return tuple(attribute.value)
    return id(attribute)  # sparse tensors, types, lists of tensors: equal only to itself


def _merge(node: ir.Node, earlier: ir.Node) -> Change | Skip:
    pairs = list(zip(node.outputs, earlier.outputs, strict=True))
    for output, kept in pairs:
        if can_replace_value(output, kept):
            replace_value(output, kept)
    if any(not is_unused(output) for output in node.outputs):
        return Skip(label(node), f"equals {label(earlier)}, but both are graph outputs or outputs of a subgraph")
    remove_node(node)
    return Change(label(node), f"equals {label(earlier)}, computed once")
