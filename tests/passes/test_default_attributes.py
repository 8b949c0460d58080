"""Attributes equal to their defaults go, bit-identical outputs; every other attribute stays."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.graph.walk import all_nodes
from onnxshrink.passes.drop_unused import DropUnused
from tests.support import apply, model_from_text, outputs

_HEAD = '<ir_version: 8, opset_import: ["": 17]> '


def _left(model: ir.Model) -> list[set[str]]:
    """The attributes of every node, subgraphs aside."""
    return [
        {name for name, attribute in node.attributes.items() if attribute.type != ir.AttributeType.GRAPH}
        for node in all_nodes(model)
    ]


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


_CONV = (
    'group = 1, auto_pad = "NOTSET", kernel_shape = [3, 3], strides = [1, 1], dilations = [1, 1], pads = [0, 0, 0, 0]'
)


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
def test_a_convolution_needs_none_of_its_defaults(operator: str) -> None:
    text = _HEAD + f"m (float[1,2,6,6] x) => (float[a,b,c,d] y) {{ y = {operator}<{_CONV}>(x, w) }}"
    model, feeds = model_from_text(text, w=_normal(2, 2, 3, 3)), {"x": _normal(1, 2, 6, 6)}
    before = outputs(model, feeds)["y"]
    result = apply(DropUnused(defaults=True), model)
    assert _left(model) == [set()]
    assert [change.what for change in result.changes] == ["6 attributes removed that equal the operator's defaults"]
    assert np.array_equal(before, outputs(model, feeds)["y"])


def test_attributes_that_say_something_stay() -> None:
    text = (
        _HEAD
        + """m (float[1,2,6,6] x, float[2,2,n,n] free) => (float[a,b,c,d] y) {
        p = Conv<group = 2, kernel_shape = [3, 3], strides = [2, 1], dilations = [1, 2], pads = [0, 0, 0, 1]>(x, w)
        q = MaxPool<kernel_shape = [1, 1], strides = [1, 1], ceil_mode = 0>(p)
        y = Conv<kernel_shape = [1, 1]>(q, free)
    }"""
    )
    model = model_from_text(text, w=_normal(2, 1, 3, 3))
    apply(DropUnused(defaults=True), model)
    assert _left(model) == [{"group", "strides", "dilations", "pads"}, {"kernel_shape"}, {"kernel_shape"}]


@pytest.mark.parametrize(
    ("opset", "node", "left"),
    [
        (17, "Gemm<alpha = 1.0, beta = 1.0, transA = 0, transB = 0>(x, x)", set()),
        (17, "Gemm<alpha = 0.5, transB = 1>(x, x)", {"alpha", "transB"}),
        (17, "Softmax<axis = -1>(x)", set()),
        (17, "Softmax<axis = 1>(x)", {"axis"}),
        (11, "Softmax<axis = 1>(x)", set()),
        (11, "Softmax<axis = -1>(x)", {"axis"}),
        (17, "LeakyRelu<alpha = 0.01>(x)", set()),
        (17, "HardSigmoid<alpha = 0.2, beta = 0.25>(x)", {"beta"}),
        (17, "Cast<to = 1>(x)", {"to"}),
        (17, "Concat<axis = 0>(x)", {"axis"}),
    ],
)
def test_schema_defaults_of_the_opset_in_force(opset: int, node: str, left: set[str]) -> None:
    text = f'<ir_version: 8, opset_import: ["": {opset}]> m (float[3,3] x) => (float[3,3] y) {{ y = {node} }}'
    model, feeds = model_from_text(text), {"x": _normal(3, 3)}
    before = outputs(model, feeds)["y"]
    apply(DropUnused(defaults=True), model)
    assert _left(model) == [left]
    assert np.array_equal(before, outputs(model, feeds)["y"])


def test_subgraphs_functions_and_other_domains() -> None:
    model = model_from_text("""
        <ir_version: 8, opset_import: ["": 17, "f": 1, "com.microsoft": 1, "ai.onnx.ml": 1]>
        m (bool c, float[2,2] x) => (float[2,2] y, float[2,2] g) {
            y = If(c)<
                then_branch = t () => (float[2,2] p) { p = Elu<alpha = 1.0>(x) },
                else_branch = e () => (float[2,2] q) { q = f.layer(x) }>
            s = ai.onnx.ml.Normalizer<norm = "MAX">(x)
            g = com.microsoft.QuickGelu<alpha = 1.702>(s)
        }
        <domain: "f", opset_import: ["": 17]>
        layer (a) => (b) { b = Softmax<axis = -1>(a) }""")
    feeds = {"c": np.array(False), "x": _normal(2, 2)}
    before = outputs(model, feeds)
    apply(DropUnused(defaults=True), model)
    assert _left(model) == [set(), set(), {"alpha"}, set(), set(), set()]
    after = outputs(model, feeds)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_attributes_stay_unless_asked_for() -> None:
    model = model_from_text(_HEAD + "m (float[2] x) => (float[2] y) { y = Elu<alpha = 1.0>(x) }")
    assert not apply(DropUnused(), model).changes
    assert _left(model) == [{"alpha"}]
