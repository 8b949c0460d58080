"""Shapes and types of values, as far as ONNX shape inference can tell."""

from __future__ import annotations

import logging

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

_IR_LOGGERS = ("onnx_ir.passes.common.shape_inference", "onnx_ir.passes.common._c_api_utils")


def infer_shapes(model: ir.Model) -> None:
    """Fill in the shapes and dtypes of values. What cannot be inferred stays unknown; weights are not copied."""
    levels = [(logging.getLogger(name), logging.getLogger(name).level) for name in _IR_LOGGERS]
    for logger, _ in levels:
        logger.setLevel(logging.ERROR)
    try:
        ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    finally:
        for logger, level in levels:
            logger.setLevel(level)


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape when every dimension is a known number, else None."""
    if value is None or value.shape is None or not all(isinstance(dim, int) for dim in value.shape):
        return None
    return tuple(int(dim) for dim in value.shape)  # type: ignore[arg-type]


def rank(value: ir.Value | None) -> int | None:
    """The number of dimensions, or None when unknown."""
    return None if value is None or value.shape is None else len(value.shape)


def same_known_shape(a: ir.Value | None, b: ir.Value | None) -> bool:
    """Whether two values certainly have the same shape (equal numbers, or the same symbol, in every dimension)."""
    if a is None or b is None or a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return False
    return all(_same_dim(x, y) for x, y in zip(a.shape, b.shape, strict=True))


def _same_dim(x: int | ir.SymbolicDim, y: int | ir.SymbolicDim) -> bool:
    if isinstance(x, int) or isinstance(y, int):
        return x == y
    return x.value is not None and x.value == y.value
