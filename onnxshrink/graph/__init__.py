"""Plain functions that answer questions about an ``onnx_ir.Model`` or edit it safely."""
