"""Constants whose readers want them as they are: computing them from something smaller would break or slow them."""

from __future__ import annotations

import onnx_ir as ir

from onnxshrink.graph.walk import is_op, label

_QUANTIZED_OPS = (
    *("QuantizeLinear", "DequantizeLinear"),
    *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"),
)
_OPS_WITH_PARAMETER_INPUTS = (
    *("Expand", "OneHot", "Pad", "Range", "Reshape", "Resize", "Slice", "Split"),
    *("Squeeze", "Tile", "TopK", "Unsqueeze", "Upsample"),
)


def obstacle(value: ir.Value) -> str | None:
    """Why the constant must be there as it is when the model is loaded, or None."""
    for node, index in value.uses():
        if is_op(node, *_QUANTIZED_OPS) or node.domain not in ("", "ai.onnx.ml"):
            return f"{label(node)} ({node.op_type}) may need it as it is"
        parameter = is_op(node, "ConstantOfShape") or (index > 0 and is_op(node, *_OPS_WITH_PARAMETER_INPUTS))
        if parameter or (index > 0 and node.op_type.startswith("Reduce")):
            return f"{label(node)} ({node.op_type}) takes its shape from it"
    return None
