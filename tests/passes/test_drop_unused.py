"""What no output depends on goes; what an output depends on stays, under names that the caller knows."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.graph.shapes import forget_inferred_shapes
from onnxshrink.passes.drop_unused import DropUnused
from onnxshrink.passes.quantize_weights import QuantizeWeights
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
    apply(DropUnused(names="short", docs=True), model)
    assert node.doc_string is None
    assert not node.metadata_props
    assert model.metadata_props == {"author": "kept"}
    assert [value.name for value in model.graph.inputs] == ["cond", "input_x"]
    assert node.outputs[0].name == "a", "mentioned most often"
    assert list(model.graph.initializers) == ["b"]
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


def test_short_names_may_equal_names_that_are_taken() -> None:
    model = model_from_text("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2,3] x) => (float[2,3] d) <float[1] b = {2}, float[1] a = {3}, float[1] c = {5}> {
            p = Mul(x, c)
            q = Mul(p, c)
            r = Add(q, b)
            d = Sub(r, a)
        }""")
    before = outputs(model, {"x": X})
    apply(DropUnused(names="short"), model)
    assert set(model.graph.initializers) == {"a", "b", "c"}, "d is an output"
    assert {name: value.const_value.name for name, value in model.graph.initializers.items() if value.const_value} == {
        name: name for name in "abc"
    }
    assert np.array_equal(before["d"], outputs(model, {"x": X})["d"])


def test_short_names_after_weights_were_encoded() -> None:
    weights = {name: np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32) for name in ("h", "q", "w")}
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[1,16] x) => (float[1,16] y) { s = MatMul(x, w)  t = MatMul(s, q)  y = MatMul(t, h) }""",
        **weights,
    )
    apply(QuantizeWeights(), model)
    feeds = {"x": np.ones((1, 16), np.float32)}
    before = outputs(model, feeds)
    apply(DropUnused(names="short"), model)
    assert np.array_equal(before["y"], outputs(model, feeds)["y"])
    assert all(len(name) == 1 for name in model.graph.initializers)


def test_names_in_functions_are_shortened_and_their_interface_stays() -> None:
    model = model_from_text("""
        <ir_version: 8, opset_import: ["": 17, "f": 1]>
        g (float[2,3] x) => (float[2,3] y) { y = f.twice(x) }
        <domain: "f", opset_import: ["": 17]>
        twice (operand) => (result) { once_negated = Neg(operand)  result = Neg(once_negated) }""")
    apply(DropUnused(names="short"), model)
    function = next(iter(model.functions.values()))
    assert [value.name for value in (*function.inputs, *function.outputs)] == ["operand", "result"]
    assert next(iter(function)).outputs[0].name == "a"


@pytest.mark.parametrize(("elements", "shortened"), [(16, True), (4096, False)])
def test_auto_shortens_names_only_where_they_weigh(elements: int, shortened: bool) -> None:
    model = model_from_text(
        f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[{elements}] x) => (float[{elements}] y) {{ a_long_name = Mul(x, w)  y = Exp(a_long_name) }}""",
        w=np.ones(elements, np.float32),
    )
    apply(DropUnused(names="auto"), model)
    names = [next(iter(model.graph)).outputs[0].name, *model.graph.initializers]
    assert names == (["b", "a"] if shortened else ["a_long_name", "w"])


def test_nodes_without_names_stay_so_in_a_copy() -> None:
    model = model_from_text("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2,3] x) => (float[2,3] y) { [a_node] z = Exp(x)  [another] y = Neg(z) }""")
    apply(DropUnused(names="short"), model)
    assert [node.name for node in ir.to_proto(model.clone()).graph.node] == ["", ""]
