"""Equal nodes and equal tensors become one, bit for bit, where scopes and names allow it."""

from __future__ import annotations

import numpy as np

from onnxshrink.passes.share_identical import ShareIdentical
from tests.support import apply, model_from_text, op_counts, outputs, reasons

X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)


def test_common_subexpressions_are_computed_once() -> None:
    model = model_from_text("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2,3] x) => (float[2,3] y) <float[3] w = {1, 2, 3}, float[3] v = {1, 2, 3}> {
            a = Mul(x, w)
            b = Mul(x, v)
            c = Exp(a)
            d = Exp(b)
            e = Softmax<axis = 0>(c)
            f = Softmax<axis = 1>(d)
            y = Add(e, f)
        }""")
    before = outputs(model, {"x": X})
    result = apply(ShareIdentical(), model)
    assert op_counts(model) == {"Mul": 1, "Exp": 1, "Softmax": 2, "Add": 1}
    assert list(model.graph.initializers) == ["w"]
    assert len(result.changes) == 3
    assert np.array_equal(before["y"], outputs(model, {"x": X})["y"])


def test_negative_zero_and_types_are_told_apart_and_nan_equals_itself() -> None:
    negative_zero, zero = np.array([-0.0], np.float32), np.array([0.0], np.float32)
    nan = np.array([np.nan], np.float32)
    model = model_from_text(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2,3] x) => (float[2,3] y) { a = Sum(x, p, q) y = Sum(a, n, m) }""",
        p=negative_zero,
        q=zero,
        n=nan,
        m=nan,
    )
    apply(ShareIdentical(), model)
    assert set(model.graph.initializers) == {"p", "q", "n"}


def test_random_operators_stay_apart() -> None:
    model = model_from_text("""
        <ir_version: 8, opset_import: ["": 17]>
        g () => (float[2] y) { a = RandomNormal<shape = [2]>() b = RandomNormal<shape = [2]>() y = Sub(a, b) }""")
    assert not apply(ShareIdentical(), model).changed


def test_two_graph_outputs_stay_and_one_lends_its_name() -> None:
    model = model_from_text("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2,3] x) => (float[2,3] y, float[2,3] z, float[2,3] u) {
            y = Exp(x)
            z = Exp(x)
            n = Neg(x)
            u = Neg(x)
            unused = Relu(n)
        }""")
    before = outputs(model, {"x": X})
    result = apply(ShareIdentical(), model)
    assert op_counts(model) == {"Exp": 2, "Neg": 1, "Relu": 1}
    assert reasons(result) == ["equals Exp→y, but both are graph outputs or outputs of a subgraph"]
    after = outputs(model, {"x": X})
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_subgraphs_share_with_what_encloses_them_and_with_each_other() -> None:
    model = model_from_text("""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[2,3] x) => (float[2,3] y) {
            outer = Exp(x)
            i = If(c) <
                then_branch = t () => (float[2,3] p) <float[3] w = {1, 2, 3}> { s = Exp(x) p = Mul(s, w) },
                else_branch = e () => (float[2,3] q) <float[3] w = {1, 2, 3}> { q = Add(x, w) }
            >
            y = Add(i, outer)
        }""")
    feeds = {"c": np.array(True), "x": X}
    before = outputs(model, feeds)
    apply(ShareIdentical(), model)
    assert op_counts(model) == {"Exp": 1, "If": 1, "Mul": 1, "Add": 2}
    assert sum(len(graph.initializers) for graph in (model.graph, *model.graph.subgraphs())) == 1
    assert len(model.graph.initializers) == 1
    assert np.array_equal(before["y"], outputs(model, feeds)["y"])


def test_function_bodies_are_shared_within_themselves() -> None:
    model = model_from_text("""
        <ir_version: 8, opset_import: ["": 17, "f": 1]>
        g (float[2,3] x) => (float[2,3] y) { y = f.body(x) }
        <domain: "f", opset_import: ["": 17]>
        body <alpha>(a) => (b) {
            k = Constant<value = float {2.0}>()
            l = Constant<value = float {2.0}>()
            m = Mul(a, k)
            n = Mul(a, l)
            b = Add(m, n)
        }""")
    before = outputs(model, {"x": X})
    apply(ShareIdentical(), model)
    assert op_counts(model) == {"body": 1, "Mul": 1, "Add": 1}
    assert np.array_equal(before["y"], outputs(model, {"x": X})["y"])


def test_overridable_initializers_are_not_shared() -> None:
    model = model_from_text("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2,3] x, float[1] w) => (float[2,3] y) <float[1] w = {2}, float[1] v = {2}> {
            a = Mul(x, w)
            y = Mul(a, v)
        }""")
    assert not apply(ShareIdentical(), model).changed
