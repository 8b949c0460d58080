"""Computed sizes against protobuf's own."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxshrink.graph.file_bytes import graph_file_bytes, node_file_bytes, tensor_file_bytes
from onnxshrink.graph.shapes import forget_inferred_shapes
from onnxshrink.graph.walk import all_graphs, all_nodes
from tests.support import model_from_text


@pytest.mark.parametrize("shape", [(), (1,), (3, 128, 1), (300, 70)])
@pytest.mark.parametrize("name", ["w", "a name of a weight that is longer than 127 characters: " + "x" * 80])
def test_a_tensor_takes_what_protobuf_says(shape: tuple[int, ...], name: str) -> None:
    array = np.zeros(shape, np.float32)
    empty, full = onnx.GraphProto(), onnx.GraphProto()
    full.initializer.append(onnx.numpy_helper.from_array(array, name))
    assert tensor_file_bytes(name, shape, array.nbytes) == full.ByteSize() - empty.ByteSize()


def test_nodes_take_what_protobuf_says() -> None:
    model = model_from_text("""
        <ir_version: 8, opset_import: ["": 15]>
        main (float[2,4,6,6] x, float[5,4,3,3] w) => (float[n,o,h,w] y) {
            [a_name] z = Conv<pads = [1,1,1,1], auto_pad = "NOTSET">(x, w, )
            y = LeakyRelu<alpha = 0.25>(z)
        }
    """)
    filled = ir.node("ConstantOfShape", [model.graph.inputs[0]], {"value": ir.tensor([0.5], name="fill")})
    filled.outputs[0].name = "f"
    for node in (*all_nodes(model), filled):
        graph = onnx.GraphProto()
        graph.node.append(ir.serde.serialize_node(node))
        assert node_file_bytes(node) == graph.ByteSize(), node.op_type


def test_graphs_take_what_protobuf_says_of_their_nodes_and_constants() -> None:
    model = model_from_text("""
        <ir_version: 8, opset_import: ["": 15]>
        main (bool c, float[2,3] x) => (float[2,3] y) <float[3] w = {1, 2, 3}> {
            z = Mul(x, w)
            y = If(c)<
                then_branch = a () => (float[2,3] p) <float[1] v = {2}> { p = Mul(z, v) },
                else_branch = b () => (float[2,3] q) { q = Neg(z) }>
        }
    """)
    for graph in all_graphs(model):
        for name, value in graph.initializers.items():  # as raw bytes, not as the parser stores them
            assert value.const_value is not None
            value.const_value = ir.tensor(value.const_value.numpy(), name=name)
    forget_inferred_shapes(model)
    proto = ir.to_proto(model).graph
    del proto.input[:], proto.output[:]
    proto.name = ""
    empty = onnx.GraphProto(name="")
    assert graph_file_bytes(model.graph) == proto.ByteSize() - empty.ByteSize()
