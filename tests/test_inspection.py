from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.advice import advise
from onnxshrink.inspection import TensorFacts, inspect_model
from onnxshrink.measure.size import measure_size
from onnxshrink.passes.registry import PASSES
from onnxshrink.report.json_format import plain_json
from tests.support import model_from_text

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def hints(model: ir.Model) -> dict[str | None, str]:
    """The texts by the pass they name."""
    found = advise(model, measure_size(model, None, compressed=False))
    assert all(hint.pass_name is None or hint.pass_name in PASSES for hint in found)
    return {hint.pass_name: hint.text for hint in found}


def simple(
    body: str, opset: int = 17, signature: str = "(float[1, 64] x) => (float[1, 64] y)", **weights: np.ndarray
) -> ir.Model:
    return model_from_text(f'<ir_version: 8, opset_import: ["" : {opset}]> g {signature} {{ {body} }}', **weights)


def test_what_is_in_a_model(tmp_path: Path) -> None:
    model = model_from_text(
        """
        <ir_version: 8, opset_import: ["" : 17, "local" : 1, "mine" : 2], producer_name: "maker", producer_version: "3">
        g (float[N, 4] x, bool c) => (float[N, 4] y, z)
        {
            m = MatMul(x, w)
            f = local.twice(m)
            z = mine.Unknown(f)
            y = If (c) <
                then_branch = t () => (float[N, 4] a) {a = MatMul(f, w)},
                else_branch = e () => (float[N, 4] b) {b = Identity(f)}
            >
        }
        <domain: "local", opset_import: ["" : 17]>
        twice (v) => (s) {s = Add(v, v)}
        """,
        w=normal(4, 4),
    )
    path = tmp_path / "net.onnx"
    ir.save(model, path, external_data="net.data", size_threshold_bytes=0)
    inspection = inspect_model(path)
    assert (inspection.name, inspection.producer) == ("net.onnx", "maker 3")
    assert (inspection.ir_version, inspection.opset_imports) == (8, {"": 17, "local": 1, "mine": 2})
    assert inspection.inputs == (TensorFacts("x", "FLOAT", ("N", 4)), TensorFacts("c", "BOOL", ()))
    assert [(facts.name, facts.shape) for facts in inspection.outputs] == [("y", ("N", 4)), ("z", None)]
    assert inspection.nodes == {"MatMul": 2, "Add": 1, "Identity": 1, "If": 1, "local::twice": 1, "mine::Unknown": 1}
    assert (inspection.control_flow, inspection.custom_domains, inspection.functions) == (
        {"If": 1},
        ("mine",),
        ("twice",),
    )
    assert inspection.external_data
    assert [(weight.name, weight.node.split("→")[0], weight.size_bytes) for weight in inspection.weights] == [
        ("w", "MatMul", 64)
    ]
    assert inspection.macs == 2 * 16


def test_looking_changes_nothing() -> None:
    model = simple("y = MatMul(x, w)", w=normal(64, 64))
    before = ir.to_proto(model).SerializeToString()
    inspect_model(model)
    assert ir.to_proto(model).SerializeToString() == before


def test_macs_that_depend_on_open_dimensions_are_unknown() -> None:
    model = simple("[layer] y = MatMul(x, w)", signature="(float[N, L, 64] x) => (float[N, L, 64] y)", w=normal(64, 64))
    inspection = inspect_model(model)
    assert (inspection.macs, inspection.macs_unknown) == (None, ("layer",))


def test_an_inspection_is_plain_json() -> None:
    data = json.loads(plain_json(inspect_model(simple("y = MatMul(x, w)", w=normal(64, 64)))))
    assert data["weights"][0]["distribution"]["int8_sqnr_db"] == pytest.approx(43, abs=3)
    assert data["hints"][0]["pass_name"] == "quantize-weights"


def test_hint_at_int8_storage() -> None:
    text = hints(simple("y = MatMul(x, w)", w=normal(64, 64)))["quantize-weights"]
    assert text.startswith("floating-point weights are 99% of the file: stored as int8 it would be about 0.26")


def test_no_hint_at_int8_for_weights_that_are_small() -> None:
    assert "quantize-weights" not in hints(simple("y = Add(x, w)", w=normal(64)))


def test_hint_at_zeros() -> None:
    weight = normal(64, 64)
    weight[:, :32] = 0
    assert hints(simple("y = MatMul(x, w)", w=weight))[None].startswith("50% of the parameters are zero")


def test_hint_at_quantized_models() -> None:
    model = simple(
        "w = DequantizeLinear(q, s) y = MatMul(x, w)", q=np.ones((64, 64), np.int8), s=np.array(0.5, np.float32)
    )
    assert hints(model)[None] == "already holds 1 quantized node"


def test_hint_at_generated_weights() -> None:
    model = simple("w = ConstantOfShape(shape) y = MatMul(x, w)", shape=np.array([64, 64]))
    assert hints(model)[None] == "1 weight made by ConstantOfShape nodes: the file stores no bytes for them"


def test_hint_at_batch_norms_behind_weights() -> None:
    model = simple(
        "r = Relu(x) n = BatchNormalization(r, s, s, s, s) c = Conv(n, w) y = BatchNormalization(c, s, s, s, s)",
        signature="(float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y)",
        w=normal(4, 4, 1, 1),
        s=normal(4),
    )
    assert hints(model)["fold-batchnorm"] == "1 of 2 BatchNormalization nodes right behind a layer with weights"


def test_hint_at_initializers_that_repeat() -> None:
    weight = normal(64, 64)
    other = weight.copy()
    other[-1, -1] += 1
    model = simple("a = MatMul(x, u) b = MatMul(a, v) y = MatMul(b, w)", u=weight, v=weight, w=other)
    assert hints(model)["share-identical"] == "16,384 bytes of initializers repeat others"


def test_hints_at_identities_shapes_overridable_weights_and_old_opsets() -> None:
    model = simple(
        "i = Identity(x) s = Shape(i) r = Reshape(i, s) y = MatMul(r, w)",
        opset=11,
        signature="(float[1, 64] x, float[64, 64] w) => (float[1, 64] y)",
        w=normal(64, 64),
    )
    found = hints(model)
    assert found["drop-identity"] == "1 Identity or Dropout node without effect"
    assert found["fold-constants"] == "1 Shape node: constants where shapes are fixed"
    assert found["freeze-initializers"].startswith("1 initializer listed as inputs too")
    assert found["convert-opset"].startswith("opset 11 has no quantization per channel")


def test_an_up_to_date_small_model_needs_nothing() -> None:
    assert hints(simple("y = Relu(x)")) == {}
