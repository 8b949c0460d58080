"""Shapes that inference finds, and that a file need not store."""

from __future__ import annotations

import onnx_ir as ir

from onnxshrink.graph.shapes import forget_inferred_shapes, infer_shapes
from tests.support import model_from_text


def _shape(model: ir.Model, name: str) -> list[int | str | None]:
    values = {output.name: output for node in model.graph for output in node.outputs}
    shape = values[name].shape
    assert shape is not None
    return [dim if isinstance(dim, int) else dim.value for dim in shape]


def test_declared_shapes_stay_and_inferred_ones_go() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[n,4] x) => (float[n,k] y) <float[n,4] h> { h = Neg(x) i = Abs(h) y = Relu(i) }"""
    )
    infer_shapes(model)
    assert _shape(model, "i") == ["n", 4]
    assert _shape(model, "y") == ["n", "k"]
    forget_inferred_shapes(model)
    values = {output.name: output for node in model.graph for output in node.outputs}
    assert values["i"].shape is None
    assert _shape(model, "h") == ["n", 4]
