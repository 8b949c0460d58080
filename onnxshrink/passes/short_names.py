"""Short names for values and initializers: a file holds each name once for its value and once for every reader."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator

import onnx_ir as ir

from onnxshrink.graph.file_bytes import graph_file_bytes
from onnxshrink.graph.walk import all_graphs

_WORTH_SHORTENING = 0.01
"""Names that take less of the file are left alone: people read them."""


def names_weigh_much(model: ir.Model) -> bool:
    """Whether names that :func:`shorten_names` may change take more than 1 % of the bytes of nodes and constants."""
    names = sum(_mentions(value) * len(value.name.encode()) for value in _inner_values(model) if value.name)
    names += sum(len(node.name.encode()) for graph in all_graphs(model) for node in graph if node.name)
    functions = (graph_file_bytes(function.graph) for function in model.functions.values())
    return names > _WORTH_SHORTENING * (graph_file_bytes(model.graph) + sum(functions))


def shorten_names(model: ir.Model) -> int:
    """Give inner values the shortest names there are, the most mentioned ones first, and nodes none.

    Inputs and outputs of graphs and functions keep theirs. Names stay unique over all graphs, so that no scope shadows
    another, and are C identifiers, as ONNX asks for. Returns how many names changed.
    """
    fixed = {value.name for graph in all_graphs(model) for value in (*graph.inputs, *graph.outputs)}
    values = sorted(_inner_values(model), key=_mentions, reverse=True)
    free = (name for name in _identifiers() if name not in fixed)
    renamed = {value: name for value, name in zip(values, free, strict=False) if value.name != name}
    changed = len(renamed)
    for graph in all_graphs(model):
        for node in graph:
            changed += bool(node.name)
            node.name = ""  # a copy of the model would name nodes whose name is None
            for output in node.outputs:
                output.name = renamed.get(output, output.name)
        _rename_initializers(graph, renamed)
    return changed


def _rename_initializers(graph: ir.Graph, renamed: dict[ir.Value, str]) -> None:
    # Taken out first: the new name of one may be the old name of another.
    initializers = list(graph.initializers.values())
    graph.initializers.clear()
    for value in initializers:
        value.name = renamed.get(value, value.name)
        graph.initializers.add(value)


def _inner_values(model: ir.Model) -> Iterator[ir.Value]:
    """Named values that are neither inputs nor outputs of a graph."""
    for graph in all_graphs(model):
        outputs = itertools.chain.from_iterable(node.outputs for node in graph)
        for value in itertools.chain(graph.initializers.values(), outputs):
            if value.name and not value.is_graph_input() and not value.is_graph_output():
                yield value


def _mentions(value: ir.Value) -> int:
    return 1 + len(value.uses())


def _identifiers() -> Iterator[str]:
    """``a`` … ``Z``, ``aa`` … ``Z9``, ``aaa``, …"""
    for length in itertools.count(1):
        rests = itertools.repeat(string.ascii_letters + string.digits, length - 1)
        yield from map("".join, itertools.product(string.ascii_letters, *rests))
