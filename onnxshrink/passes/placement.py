"""Where QuantizeLinear and DequantizeLinear go, so that ONNX Runtime finds its integer kernels and nothing else.

A plan is made in four steps: nodes that have an integer kernel; those that would only be float islands' neighbours
dropped (a decode tail behind the last layer, the gate of a squeeze-excite block, an Add between float operators);
values that the kernels need quantized, from the outputs to the inputs, so that data movement joins with the scale of
what it feeds; and who reads the quantized value, who the float.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxshrink.graph.walk import is_op, label
from onnxshrink.passes.base import Skip
from onnxshrink.passes.integer_kernels import (
    Kernel,
    data_inputs,
    is_absorbable,
    kernel_of,
    needs_quantized_output,
    obstacle,
)

_GATES = ("Sigmoid", "HardSigmoid", "Softmax", "Clip", "Tanh")


@dataclass(frozen=True)
class Placement:
    """What is computed from integers, and which values are quantized for that.

    Attributes:
        nodes: nodes that get an integer kernel, in graph order, by kind.
        roots: for each quantized value, the value whose range it takes: itself, or what data movement made it from.
        produced: quantized values that an integer kernel gives: whoever reads them reads the dequantized value. Of the
            other quantized values, float operators read the float original.
        absorbed: Relu and Clip nodes between an integer kernel and the quantization of its output.
        skips: nodes that could have had an integer kernel, and why they stay float.
    """

    nodes: Mapping[ir.Node, Kernel]
    roots: Mapping[ir.Value, ir.Value]
    produced: frozenset[ir.Value]
    absorbed: tuple[ir.Node, ...]
    skips: tuple[Skip, ...]

    @property
    def layers(self) -> list[ir.Node]:
        return [node for node, kind in self.nodes.items() if kind is Kernel.LAYER]

    def reads_quantized(self, node: ir.Node, value: ir.Value) -> bool:
        """Whether ``node`` reads the dequantized form of the quantized ``value``."""
        return value in self.produced or (node in self.nodes and value in set(data_inputs(node)))


def place(graph: ir.Graph, excluded: Collection[ir.Node] = ()) -> Placement:
    """Plan the integer kernels of a graph whose dtypes and shapes are known where they can be.

    Args:
        excluded: nodes that must stay float.
    """
    nodes, skips = _candidates(graph, excluded)
    for reason, floats in (
        ("no layer follows it: the tail of the model stays float", _tail(graph, nodes)),
        ("it belongs to a gate, which costs little and needs its precision", _gates(graph, nodes)),
    ):
        skips += [Skip(label(node), reason) for node in floats]
        nodes = {node: kind for node, kind in nodes.items() if node not in floats}
    islands = _islands(nodes)
    skips += [Skip(label(node), "its neighbours are float: integers would buy nothing") for node in islands]
    nodes = {node: kind for node, kind in nodes.items() if node not in islands}
    roots, nodes = _quantized_values(graph, nodes)
    produced = frozenset(value for node in nodes for value in _produced(node, nodes) if value in roots)
    absorbed = tuple(
        node for node in graph if is_absorbable(node) and node.outputs[0] in produced and _is_absorbed(node, nodes)
    )
    return Placement(nodes, roots, produced, absorbed, tuple(skips))


def output_value(node: ir.Node) -> ir.Value:
    """What is quantized of a kernel's output: the output itself, or that of the Relu or Clip that alone reads it."""
    output = node.outputs[0]
    uses = list(output.uses())
    if len(uses) == 1 and not output.is_graph_output():
        reader = uses[0].node
        if is_absorbable(reader) and reader.inputs[0] is output and reader.graph is node.graph:
            return reader.outputs[0]
    return output


def _candidates(graph: ir.Graph, excluded: Collection[ir.Node]) -> tuple[dict[ir.Node, Kernel], list[Skip]]:
    nodes: dict[ir.Node, Kernel] = {}
    skips: list[Skip] = []
    for node in graph:
        kind = kernel_of(node)
        if kind is None or node in excluded:
            continue
        reason = obstacle(node, kind)
        if reason is None:
            nodes[node] = kind
        elif kind is Kernel.LAYER or (kind is Kernel.OPERATOR and data_inputs(node)):
            skips.append(Skip(label(node), reason))
    return nodes, skips


def _tail(graph: ir.Graph, nodes: Mapping[ir.Node, Kernel]) -> set[ir.Node]:
    """Operators that no layer follows."""
    feeding: set[ir.Node] = set()
    waiting = [node for node, kind in nodes.items() if kind is Kernel.LAYER]
    while waiting:
        for value in waiting.pop().inputs:
            producer = None if value is None else value.producer()
            if producer is not None and producer.graph is graph and producer not in feeding:
                feeding.add(producer)
                waiting.append(producer)
    return {node for node, kind in nodes.items() if kind is Kernel.OPERATOR and node not in feeding}


def _gates(graph: ir.Graph, nodes: Mapping[ir.Node, Kernel]) -> set[ir.Node]:
    """Nodes that compute a factor per channel, of one position: squeeze-excite and the like."""
    found: set[ir.Node] = set()
    for node in graph:
        if not is_op(node, "Mul"):
            continue
        for value in node.inputs:
            if value is not None and _is_gate(value):
                found |= set(_computed_per_channel(value))
    return found & set(nodes)


def _is_gate(value: ir.Value) -> bool:
    return is_op(value.producer(), *_GATES) and _has_one_position(value)


def _has_one_position(value: ir.Value) -> bool:
    shape = value.shape
    return shape is not None and len(shape) >= 3 and all(dim == 1 for dim in tuple(shape)[2:])


def _computed_per_channel(value: ir.Value) -> Iterator[ir.Node]:
    """The nodes behind ``value`` as far as their outputs have one position."""
    waiting, seen = [value], {value}
    while waiting:
        producer = waiting.pop().producer()
        if producer is None:
            continue
        yield producer
        for source in producer.inputs:
            if source is not None and source not in seen and _has_one_position(source):
                seen.add(source)
                waiting.append(source)


def _islands(nodes: Mapping[ir.Node, Kernel]) -> set[ir.Node]:
    """Operators between float neighbours, found one after the other until none is left."""
    islands: set[ir.Node] = set()
    while True:
        kept = {node for node in nodes if node not in islands}
        found = {
            node
            for node in kept
            if nodes[node] is Kernel.OPERATOR
            and not (
                any(_comes_from(value, kept, nodes) for value in data_inputs(node))
                and _goes_to(output_value(node), kept, nodes)
            )
        }
        if not found:
            return islands
        islands |= found


def _comes_from(value: ir.Value, kept: Collection[ir.Node], nodes: Mapping[ir.Node, Kernel]) -> bool:
    """Whether an integer kernel gives ``value``, perhaps through an absorbed activation and data movement."""
    producer = value.producer()
    while producer is not None:
        if producer in kept and nodes[producer] is not Kernel.MOVE:
            return True
        if producer not in kept and not (is_absorbable(producer) and _is_absorbed(producer, kept)):
            return False
        source = producer.inputs[0]
        producer = None if source is None else source.producer()
    return False


def _goes_to(value: ir.Value, kept: Collection[ir.Node], nodes: Mapping[ir.Node, Kernel]) -> bool:
    """Whether an integer kernel reads ``value``, perhaps through data movement."""
    for reader in {use.node for use in value.uses()}:
        if reader not in kept or value not in data_inputs(reader):
            continue
        if nodes[reader] is not Kernel.MOVE or any(_goes_to(output, kept, nodes) for output in reader.outputs):
            return True
    return False


def _is_absorbed(activation: ir.Node, nodes: Collection[ir.Node]) -> bool:
    """Whether the Relu or Clip is read right behind an integer kernel."""
    source = activation.inputs[0]
    producer = None if source is None else source.producer()
    return producer is not None and producer in nodes and output_value(producer) is activation.outputs[0]


def _quantized_values(
    graph: ir.Graph, nodes: Mapping[ir.Node, Kernel]
) -> tuple[dict[ir.Value, ir.Value], dict[ir.Node, Kernel]]:
    """The values to quantize with the value whose scale they take, and the nodes that remain."""
    wanted: set[ir.Value] = set()
    integer: set[ir.Node] = set()
    for node in reversed(graph):
        kind = nodes.get(node)
        if kind is None:
            continue
        if kind is Kernel.MOVE and not _joins(node, wanted):
            continue
        integer.add(node)
        wanted.update(data_inputs(node))
        if kind is Kernel.MOVE:
            wanted.update(output for output in node.outputs if output.uses())
        elif needs_quantized_output(node):
            wanted.add(output_value(node))
    kept = {node: kind for node, kind in nodes.items() if node in integer}
    roots: dict[ir.Value, ir.Value] = {}
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value in wanted:
            producer = value.producer()
            source = producer.inputs[0] if producer is not None and kept.get(producer) is Kernel.MOVE else None
            roots[value] = value if source is None else roots[source]
    return roots, kept


def _produced(node: ir.Node, nodes: Mapping[ir.Node, Kernel]) -> Iterator[ir.Value]:
    """What a node's integer kernel gives, to be quantized where somebody wants it so.

    Then nobody may read the float output beside it, not even of a Gemm or MatMul, whose kernels could give floats:
    ONNX Runtime fuses a QuantizeLinear only when it is the one reader.
    """
    if nodes[node] is Kernel.MOVE:
        yield from node.outputs
    else:
        yield output_value(node)


def _joins(node: ir.Node, wanted: Collection[ir.Value]) -> bool:
    """Whether data movement is done on integers: all its outputs are wanted so."""
    outputs = [output for output in node.outputs if output.uses()]
    return bool(outputs) and all(output in wanted and not output.is_graph_output() for output in outputs)
