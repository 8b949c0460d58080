"""Raising a model to the opset that a pass writes operators of."""

from __future__ import annotations

import onnx_ir as ir

from onnxshrink.graph.shapes import infer_shapes
from onnxshrink.passes.base import Context, PassResult, Skip
from onnxshrink.passes.convert_opset import ConvertOpset


def at_least_opset(model: ir.Model, opset: int, context: Context) -> PassResult:
    """Convert the model's default domain to ``opset`` when it is older. A refusal is a skip that says why.

    A conversion replaces ``model.graph``: look for its values and nodes afterwards.
    """
    before = model.opset_imports.get("", 1)
    if before >= opset:
        return PassResult()
    result = ConvertOpset(opset).apply(model, context)
    infer_shapes(model)
    reasons = tuple(Skip(skip.node, f"opset {opset} is needed, not {before}: {skip.reason}") for skip in result.skips)
    return PassResult(result.changes, reasons)
