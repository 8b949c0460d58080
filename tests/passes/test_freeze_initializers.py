"""Defaults and Constant nodes become initializers; the rest of the interface stays."""

from __future__ import annotations

import numpy as np

from onnxshrink.passes.freeze_initializers import FreezeInitializers
from tests.support import apply, model_from_text, op_counts, outputs, reasons

X = np.arange(3, dtype=np.float32)


def test_a_default_becomes_a_constant_and_the_ir_version_rises() -> None:
    model = model_from_text("""
        <ir_version: 3, opset_import: ["": 9]>
        g (float[3] x, float[3] w) => (float[3] y) <float[3] w = {1, 2, 3}> { y = Mul(x, w) }""")
    before = outputs(model, {"x": X})
    result = apply(FreezeInitializers(), model)
    assert [change.node for change in result.changes] == ["w"]
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert model.ir_version == 4
    assert np.array_equal(before["y"], outputs(model, {"x": X})["y"])


def test_constant_nodes_become_initializers_in_subgraphs_too() -> None:
    model = model_from_text("""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[3] x) => (float[3] y) {
            k = Constant<value_floats = [1.0, 2.0, 3.0]>()
            xk = Mul(x, k)
            y = If(c) <
                then_branch = t () => (float[3] a) { two = Constant<value = float {2.0}>() a = Mul(xk, two) },
                else_branch = e () => (float[3] b) { b = Constant<value = float[3] {4, 5, 6}>() }
            >
        }""")
    result = apply(FreezeInitializers(), model)
    then_branch = next(iter(model.graph.subgraphs()))
    assert set(model.graph.initializers) == {"k"}
    assert set(then_branch.initializers) == {"two"}
    assert reasons(result) == ["a Constant that is a graph output stays a node"]
    assert np.array_equal(outputs(model, {"c": np.array(True), "x": X})["y"], X * [1, 2, 3] * 2)
    assert np.array_equal(outputs(model, {"c": np.array(False), "x": X})["y"], [4, 5, 6])


def test_function_bodies_keep_their_constants() -> None:
    model = model_from_text("""
        <ir_version: 8, opset_import: ["": 17, "f": 1]>
        g (float[3] x) => (float[3] y) { y = f.twice(x) }
        <domain: "f", opset_import: ["": 17]>
        twice (a) => (b) { two = Constant<value = float {2.0}>() b = Mul(a, two) }""")
    assert not apply(FreezeInitializers(), model).changed
    assert op_counts(model) == {"twice": 1, "Mul": 1}
