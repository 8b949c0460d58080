"""float16 weights: a relative bound per weight, and refusals where float16 cannot keep it."""

from __future__ import annotations

import numpy as np
import pytest

from onnxshrink.measure.session import optimized_model
from onnxshrink.passes.quantize_float16 import QuantizeFloat16
from tests.support import apply, model_from_text, op_counts, outputs, reasons

_HEAD = '<ir_version: 8, opset_import: ["": 13]> '
_MATMUL = _HEAD + "m (float[N, 16] x) => (float[N, 16] y) { y = MatMul(x, w) }"
_EYE = {"x": np.eye(16, dtype=np.float32)}


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_every_weight_is_off_by_one_part_in_2048_at_most() -> None:
    model, weight = model_from_text(_MATMUL, w=_normal(16, 16)), _normal(16, 16)
    result = apply(QuantizeFloat16(), model)
    assert [change.what for change in result.changes] == ["stored as float16"]
    seen = outputs(model, _EYE)["y"]
    assert (np.abs(seen - weight) <= 2.0**-11 * np.abs(weight) + 1e-7).all()
    assert np.array_equal(seen, weight.astype(np.float16).astype(np.float32))


def test_the_cast_is_folded_away_when_the_model_is_loaded() -> None:
    model = model_from_text(_MATMUL, w=_normal(16, 16))
    apply(QuantizeFloat16(), model)
    assert op_counts(model) == {"Cast": 1, "MatMul": 1}
    assert [node.op_type for node in optimized_model(model).graph.node] == ["MatMul"]


def test_double_weights_decode_to_double() -> None:
    model = model_from_text(_MATMUL.replace("float[", "double["), w=_normal(16, 16).astype(np.float64))
    apply(QuantizeFloat16(), model)
    seen = outputs(model, {"x": np.eye(16)})["y"]
    assert np.array_equal(seen, _normal(16, 16).astype(np.float16).astype(np.float64))


@pytest.mark.parametrize(
    ("factor", "reason"), [(1e5, "overflow float16"), (1e-7, "too small for float16"), (np.nan, "NaN or infinity")]
)
def test_what_float16_does_not_hold_is_skipped(factor: float, reason: str) -> None:
    result = apply(QuantizeFloat16(), model_from_text(_MATMUL, w=_normal(16, 16) * np.float32(factor)))
    assert not result.changes
    assert reason in reasons(result)[0]


def test_weights_of_subgraphs_and_functions_and_shared_ones() -> None:
    numbers = ", ".join(f"{number:.4f}" for number in _normal(16, 16).reshape(-1))
    text = f"""<ir_version: 8, opset_import: ["": 13, "local": 1]>
    m (bool c, float[N, 16] x) => (float[N, 16] y) {{ z = If(c)<
      then_branch = a () => (float[N, 16] p) {{ p = MatMul(x, w) }},
      else_branch = b () => (float[N, 16] q) {{ q = local.layer(x) }}>  y = MatMul(z, w) }}
    <domain: "local", opset_import: ["": 13]>
    layer (a) => (b) {{ v = Constant<value = float[16, 16] {{{numbers}}}>()  b = MatMul(a, v) }}
    """
    model = model_from_text(text, w=_normal(16, 16))
    assert len(apply(QuantizeFloat16(), model).changes) == 2
    assert op_counts(model)["Cast"] == 2
    assert outputs(model, {"c": np.array(False), **_EYE})["y"].shape == (16, 16)


def test_outputs_and_weights_that_others_read_stay() -> None:
    text = _HEAD + "m (float[N, 16] x) => (float[N, 16] y, float[16, 16] w) { y = MatMul(x, w) }"
    assert reasons(apply(QuantizeFloat16(), model_from_text(text, w=_normal(16, 16)))) == [
        "it is also an output of its graph"
    ]
    text = _HEAD + "m (float[16, 16] x) => (float[16, 16] y) { z = MatMul(x, w)  y = Add(z, w) }"
    result = apply(QuantizeFloat16(), model_from_text(text, w=_normal(16, 16)))
    assert "reads the same constant" in reasons(result)[0]
