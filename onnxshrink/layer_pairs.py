"""Which layer of the result was made from which layer of the original, and where both compute the same values."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import onnx_ir as ir

from onnxshrink.graph.walk import is_op
from onnxshrink.graph.weighted_nodes import WeightedNode, stored_tensor

_ORIGINAL_STEPS = 3
_RESULT_STEPS = 4
"""How far behind a layer its value may be: BatchNormalization, a scale, a bias; of integer MatMuls also a Cast."""

_SUFFIXES = ("/q", "/d", "_quantized")
"""What passes append to the name of a weight that they store in another form."""


@dataclass(frozen=True)
class LayerPair:
    """A layer of the original and the layer of the result that it became; None where there is none."""

    original: WeightedNode | None
    result: WeightedNode | None


def pair_layers(original: Sequence[WeightedNode], result: Sequence[WeightedNode]) -> list[LayerPair]:
    """Every layer of both models once: those of the original in order, then those of the result alone.

    Layers are paired when they compute the same from as many weights and a name says so: the node's, that of a weight,
    or that of the output. The rest is paired in order.
    """
    partner: dict[int, int] = {}
    if any(one.node.name for one in result):  # else names were shortened, and equal ones mean nothing
        for names in (_node_name, _weight_names, _output_name):
            _pair_by_name(original, result, names, partner)
    _pair_in_order(original, result, partner)
    taken = set(partner.values())
    pairs = [LayerPair(one, result[partner[index]] if index in partner else None) for index, one in enumerate(original)]
    return pairs + [LayerPair(None, one) for index, one in enumerate(result) if index not in taken]


def comparable_values(pair: LayerPair) -> tuple[list[ir.Value], list[ir.Value]]:
    """Values of each model that may hold the layer's output: the node's, and those behind constant factors and sums.

    What is folded into a layer moves its value to the place of the folded nodes.
    """
    if pair.original is None or pair.result is None:
        return [], []
    return (
        list(_values_behind(pair.original.node, _ORIGINAL_STEPS)),
        list(_values_behind(pair.result.node, _RESULT_STEPS)),
    )


def _values_behind(node: ir.Node, steps: int) -> Iterator[ir.Value]:
    integers = node.op_type in ("MatMulInteger", "ConvInteger")
    value = node.outputs[0]
    if not integers:
        yield value
    for _ in range(steps):
        readers = [use.node for use in value.uses()]
        if len(readers) != 1 or not readers[0].outputs or readers[0].graph is not node.graph:
            return
        reader = readers[0]
        others = [other for other in reader.inputs if other is not None and other is not value]
        constant = all(stored_tensor(other) is not None for other in others)
        if not is_op(reader, "BatchNormalization", "Mul", "Div", "Add", "Sub", "Cast", "Identity"):
            return
        if not constant and not (integers and is_op(reader, "Mul")):
            return
        value = reader.outputs[0]
        if not is_op(reader, "Cast"):
            yield value


def _key(one: WeightedNode) -> Hashable:
    return one.kind, one.elements


def _node_name(one: WeightedNode) -> list[str]:
    return [one.node.name] if one.node.name else []


def _output_name(one: WeightedNode) -> list[str]:
    return [output.name for output in one.node.outputs[:1] if output.name]


def _weight_names(one: WeightedNode) -> list[str]:
    names = [value.name for value in (*one.weights, *one.constants) if value.name]
    return names + [name.removesuffix(suffix) for name in names for suffix in _SUFFIXES if name.endswith(suffix)]


def _pair_by_name(
    original: Sequence[WeightedNode],
    result: Sequence[WeightedNode],
    names: Callable[[WeightedNode], list[str]],
    partner: dict[int, int],
) -> None:
    taken = set(partner.values())
    places: dict[Hashable, int] = {}
    for index, one in enumerate(result):
        if index not in taken:
            for name in names(one):
                places.setdefault((name, _key(one)), index)
    for index, one in enumerate(original):
        if index in partner:
            continue
        found = next((places[name, _key(one)] for name in names(one) if (name, _key(one)) in places), None)
        if found is not None and found not in taken:
            partner[index] = found
            taken.add(found)


def _pair_in_order(original: Sequence[WeightedNode], result: Sequence[WeightedNode], partner: dict[int, int]) -> None:
    taken = set(partner.values())
    left = [index for index in range(len(original)) if index not in partner]
    right = [index for index in range(len(result)) if index not in taken]
    matcher = SequenceMatcher(
        None, [_key(original[index]) for index in left], [_key(result[index]) for index in right], autojunk=False
    )
    for block in matcher.get_matching_blocks():
        for offset in range(block.size):
            partner[left[block.a + offset]] = right[block.b + offset]
