"""What no output depends on goes; what an output depends on stays, under names that the caller knows."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.shapes import forget_inferred_shapes
from onnxshrink.passes.drop_unused import DropUnused
from tests.support import apply, model_from_text, op_counts, outputs

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_dead_nodes_initializers_functions_and_imports_go() -> None:
    model = model_from_text("""
        <ir_version: 8, opset_import: ["": 17, "f": 1, "unused": 3]>
        g (float[2,3] x, float[2,3] never_read) => (float[2,3] y) <float[3] w = {1, 2, 3}, float[1] dead = {1}> {
            a = Exp(x)
            b = Neg(a)
            r = RandomNormal<shape = [2]>()
            y = Mul(x, w)
        }
        <domain: "f", opset_import: ["": 17]>
        uncalled (p) => (q) { q = Neg(p) }""")
    result = apply(DropUnused(), model)
    assert op_counts(model) == {"Mul": 1}
    assert set(model.graph.initializers) == {"w"}
    assert not model.functions
    assert set(model.opset_imports) == {""}
    assert [value.name for value in model.graph.inputs] == ["x", "never_read"]
    assert {"dead", "unused", "f.uncalled"} <= {change.node for change in result.changes}


def test_a_dead_if_releases_what_its_branches_read() -> None:
    model = model_from_text("""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[2,3] x) => (float[2,3] y) <float[1] w = {2}> {
            read_inside = Exp(x)
            dead = If(c) <
                then_branch = t () => (float[2,3] p) { p = Mul(read_inside, w) },
                else_branch = e () => (float[2,3] q) { q = Neg(read_inside) }
            >
            y = Relu(x)
        }""")
    apply(DropUnused(), model)
    assert op_counts(model) == {"Relu": 1}
    assert not model.graph.initializers


def test_branches_are_cleaned() -> None:
    model = model_from_text("""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[2,3] x) => (float[2,3] y) {
            y = If(c) <
                then_branch = t () => (float[2,3] p) <float[1] w = {2}, float[1] u = {3}> { d = Exp(x) p = Mul(x, w) },
                else_branch = e () => (float[2,3] q) { q = Neg(x) }
            >
        }""")
    apply(DropUnused(), model)
    assert op_counts(model) == {"If": 1, "Mul": 1, "Neg": 1}
    assert set(next(iter(model.graph.subgraphs())).initializers) == {"w"}


def test_unused_optional_outputs_go_and_training_batchnorm_keeps_its_own() -> None:
    model = model_from_text("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1,1,4,4] x, float[1] s) => (float[1,1,2,2] y, float[1,1,4,4] z) {
            y, indices = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)
            z, mean, var = BatchNormalization<training_mode = 1>(x, s, s, s, s)
        }""")
    apply(DropUnused(), model)
    pool, norm = model.graph
    assert len(pool.outputs) == 1
    assert len(norm.outputs) == 3


def test_text_goes_on_request_and_the_interface_keeps_its_names() -> None:
    model = model_from_text("""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool cond, float[2,3] input_x) => (float[2,3] output_y) <float[3] a_long_name = {1, 2, 3}> {
            an_even_longer_name = Mul(input_x, a_long_name)
            output_y = If(cond) <
                then_branch = t () => (float[2,3] result) { inner = Exp(an_even_longer_name) result = Neg(inner) },
                else_branch = e () => (float[2,3] result) { result = Neg(an_even_longer_name) }
            >
        }""")
    node = next(iter(model.graph))
    node.doc_string = 'File "/home/someone/model.py", line 3'
    node.metadata_props["stack"] = "trace"
    model.metadata_props["author"] = "kept"
    before = outputs(model, {"cond": np.array(True), "input_x": X})
    apply(DropUnused(names=True, docs=True), model)
    assert node.doc_string is None
    assert not node.metadata_props
    assert model.metadata_props == {"author": "kept"}
    assert [value.name for value in model.graph.inputs] == ["cond", "input_x"]
    assert list(model.graph.initializers) == ["0"]
    assert node.outputs[0].name == "1"
    assert np.array_equal(before["output_y"], outputs(model, {"cond": np.array(True), "input_x": X})["output_y"])


def test_recorded_shapes_that_inference_finds_go_and_others_stay() -> None:
    model = model_from_text("""
        <ir_version: 8, opset_import: ["": 17, "custom": 1]>
        g (float[2,3] x) => (float[2,3] y) <float[2,3] a, float[2,3] b> {
            a = Neg(x)
            b = custom.Op(a)
            y = Neg(b)
        }""")
    apply(DropUnused(), model)
    forget_inferred_shapes(model)
    recorded = ir.to_proto(model).graph.value_info
    assert [info.name for info in recorded] == ["b"]
