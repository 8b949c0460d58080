"""Shapes and types of values, as far as ONNX shape inference can tell."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from onnxshrink.graph.walk import all_graphs

_IR_LOGGERS = ("onnx_ir.passes.common.shape_inference", "onnx_ir.passes.common._c_api_utils")
_INFERRED = "onnxshrink.inferred"


def infer_shapes(model: ir.Model) -> None:
    """Fill in the shapes and dtypes of values. What cannot be inferred stays unknown; weights are not copied.

    Graph inputs and outputs keep the shapes and types that the model declares for them.
    """
    for value in _inner_values(model):
        if value.shape is None and value.type is None:
            value.meta[_INFERRED] = True
    declared = [(value, value.shape, value.type) for value in _interface(model)]
    levels = [(logging.getLogger(name), logging.getLogger(name).level) for name in _IR_LOGGERS]
    for logger, _ in levels:
        logger.setLevel(logging.CRITICAL)
    try:
        ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    finally:
        for logger, level in levels:
            logger.setLevel(level)
        for value, shape, kind in declared:
            value.shape, value.type = shape, kind


def forget_inferred_shapes(model: ir.Model) -> None:
    """Drop what :func:`infer_shapes` filled in, and what initializers say twice: a file need not store it."""
    for value in _inner_values(model):
        if value.meta.pop(_INFERRED, False):
            value.shape, value.type = None, None
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            if not value.is_graph_input() and not value.is_graph_output():
                value.shape, value.type = None, None


def forget_redundant_shapes(model: ir.Model) -> int:
    """Forget recorded shapes between nodes that inference finds again. Returns how many; the others stay recorded."""
    values = [value for value in _inner_values(model) if value.shape is not None or value.type is not None]
    recorded = [(value, value.shape, value.type) for value in values if not value.meta.get(_INFERRED, False)]
    if not recorded:
        return 0
    for value in values:
        value.shape, value.type = None, None
    infer_shapes(model)
    missing = [entry for entry in recorded if entry[0].type is None or not _says_as_much(entry[0].shape, entry[1])]
    for value, shape, kind in missing:
        value.meta.pop(_INFERRED, None)
        value.shape, value.type = shape, kind
    return len(recorded) - len(missing)


def _says_as_much(found: ir.Shape | None, recorded: ir.Shape | None) -> bool:
    """Whether inference found every number that was recorded."""
    if recorded is None:
        return True
    if found is None or len(found) != len(recorded):
        return False
    return all(not isinstance(old, int) or old == new for old, new in zip(recorded, found, strict=True))


def mark_inferred(value: ir.Value) -> None:
    """Say that inference finds the shape and type of a new inner value by itself: a file need not store them."""
    value.meta[_INFERRED] = True


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape when every dimension is a known number, else None."""
    if value is None or value.shape is None or not all(isinstance(dim, int) for dim in value.shape):
        return None
    return tuple(int(dim) for dim in value.shape)  # type: ignore[arg-type]


def rank(value: ir.Value | None) -> int | None:
    """The number of dimensions, or None when unknown."""
    return None if value is None or value.shape is None else len(value.shape)


def _inner_values(model: ir.Model) -> Iterator[ir.Value]:
    """Values between nodes: neither inputs nor outputs of a graph."""
    for graph in all_graphs(model):
        for node in graph:
            yield from (output for output in node.outputs if not output.is_graph_output())


def _interface(model: ir.Model) -> Iterator[ir.Value]:
    for graph in all_graphs(model):
        yield from graph.inputs
        yield from graph.outputs
