"""The converter's result computes the same, and what it cannot convert stays as it was."""

from __future__ import annotations

import numpy as np
import pytest

from onnxshrink.errors import RecipeError
from onnxshrink.passes.convert_opset import ConvertOpset
from tests.support import apply, model_from_text, op_counts, outputs, reasons

X = np.linspace(-2, 2, 300 * 4, dtype=np.float32).reshape(4, 300)


def test_weights_and_interface_survive() -> None:
    model = model_from_text(
        """<ir_version: 4, opset_import: ["": 9]>
        g (float[N,300] x) => (float[N,1,20] y) <float[1] b = {2}> {
            a = MatMul(x, w)
            c = Clip<min = -1.0, max = 1.0>(a)
            d = Add(c, b)
            y = Unsqueeze<axes = [1]>(d)
        }""",
        w=np.linspace(-1, 1, 6000, dtype=np.float32).reshape(300, 20),
    )
    before = outputs(model, {"x": X})
    result = apply(ConvertOpset(opset=17), model)
    assert [change.what for change in result.changes] == ["opset 9 converted to 17"]
    assert model.opset_imports == {"": 17}
    assert model.ir_version == 8
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert {"w", "b"} <= set(model.graph.initializers)
    assert np.array_equal(before["y"], outputs(model, {"x": X})["y"])


def test_the_same_opset_changes_nothing() -> None:
    model = model_from_text('<ir_version: 8, opset_import: ["": 17]> g (float[1] x) => (float[1] y) { y = Neg(x) }')
    assert not apply(ConvertOpset(opset=17), model).changed


def test_overridable_weights_stay_inputs() -> None:
    model = model_from_text(
        """<ir_version: 4, opset_import: ["": 9]>
        g (float[4,300] x, float[300] w) => (float[4,300] y) { y = Mul(x, w) }""",
        w=np.ones(300, np.float32),
    )
    apply(ConvertOpset(opset=13), model)
    assert [value.name for value in model.graph.inputs] == ["x", "w"]
    assert set(model.graph.initializers) == {"w"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            """<ir_version: 8, opset_import: ["": 17]>
            g (bool c, float[1] x) => (float[1] y) {
                y = If(c) <then_branch = t () => (float[1] p) { p = Neg(x) },
                           else_branch = e () => (float[1] q) { q = Exp(x) }> }""",
            "models with subgraphs (If) are not converted",
        ),
        (
            """<ir_version: 8, opset_import: ["": 17, "f": 1]>
            g (float[1] x) => (float[1] y) { y = f.body(x) }
            <domain: "f", opset_import: ["": 17]> body (a) => (b) { b = Neg(a) }""",
            "models with functions are not converted",
        ),
        (
            """<ir_version: 8, opset_import: ["": 17]>
            g (float[1,4] x, float[4] s) => (float[1,4] y) { y = LayerNormalization(x, s) }""",
            "the converter of onnx failed: ",
        ),
    ],
)
def test_what_the_converter_cannot_do_is_refused(text: str, reason: str) -> None:
    model = model_from_text(text)
    before = op_counts(model)
    result = apply(ConvertOpset(opset=13), model)
    assert not result.changed
    assert reasons(result)[0].startswith(reason)
    assert op_counts(model) == before
    assert model.opset_imports[""] == 17


@pytest.mark.parametrize("opset", [6, 1000])
def test_unknown_versions_are_a_recipe_error(opset: int) -> None:
    with pytest.raises(RecipeError, match=f"convert-opset: opset must be between 7 and .*, got {opset}"):
        ConvertOpset(opset=opset)
