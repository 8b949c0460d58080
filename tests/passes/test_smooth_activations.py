"""Outliers move from activations into weights, outputs stay, and every reason for leaving one alone is given."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.calibration.statistics import collect_statistics
from onnxshrink.errors import RecipeError
from onnxshrink.graph.constants import constant_array
from onnxshrink.passes.base import Context, PassResult
from onnxshrink.passes.smooth_activations import SmoothActivations
from tests.support import apply, model_from_text, op_counts, outputs, reasons

RNG = np.random.default_rng(0)
X = RNG.standard_normal((64, 5, 16)).astype(np.float32)
STACK = "(float[N,s,16] x) => (float[n,t,o] y)"


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def outliers(size: int = 16) -> np.ndarray:
    """A scale that makes two channels stand out."""
    gamma = np.ones(size, np.float32)
    gamma[[3, 9]] = 40
    return gamma


CONSTANTS = {"g": outliers(), "b": weights(16), "wq": weights(16, 8), "wk": 2 * weights(16, 8), "e": weights(16)}


def model(body: str, signature: str = STACK, opset: int = 17, **more: np.ndarray) -> ir.Model:
    text = f'<ir_version: 8, opset_import: ["": {opset}]> main {signature} {{ {body} }}'
    constants = {name: value for name, value in (CONSTANTS | more).items() if re.search(rf"\b{name}\b", body)}
    return model_from_text(text, **constants)


def observing(x: np.ndarray = X) -> Context:
    return Context(statistics=lambda subject, axes: collect_statistics(subject, axes, lambda: [{"x": x}]))


def array(subject: ir.Model, name: str) -> np.ndarray:
    found = constant_array(subject.graph.initializers[name])
    assert found is not None
    return found


def smooth(subject: ir.Model, one_pass: SmoothActivations | None = None, x: np.ndarray = X) -> PassResult:
    """Apply the pass; outputs must agree to a few float32 ulps of the largest, or exactly with powers of two."""
    one_pass = one_pass or SmoothActivations()
    before = outputs(subject, {"x": x})
    result = apply(one_pass, subject, observing(x))
    after = outputs(subject, {"x": x})
    for name, expected in before.items():
        if one_pass.scales == "powers-of-two":
            assert np.array_equal(after[name], expected)
        else:
            np.testing.assert_allclose(after[name], expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    return result


SPELLED_OUT = """
    m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) two = Constant<value = float {2.0}>() p = Pow(d, two)
    v = ReduceMean<axes=[-1]>(p) eps = Constant<value = float {0.00001}>() ve = Add(v, eps) sd = Sqrt(ve)
    n = Div(d, sd) h = Mul(n, g) z = Add(h, b) y = MatMul(z, wq)
"""
RMS = """
    two = Constant<value = float {2.0}>() p = Pow(x, two) v = ReduceMean<axes=[-1]>(p) sd = Sqrt(v)
    n = Div(x, sd) z = Mul(g, n) y = MatMul(z, wq)
"""
SOURCES = {
    "LayerNormalization": "z = LayerNormalization(x, g, b) y = MatMul(z, wq)",
    "LayerNormalization without bias": "z = LayerNormalization<axis=2>(x, g) y = MatMul(z, wq)",
    "LayerNormalization and Add": "h = LayerNormalization(x, g) z = Add(h, b) y = MatMul(z, wq)",
    "spelled out": SPELLED_OUT,
    "RMS normalization": RMS,
    "several readers": "z = LayerNormalization(x, g, b) q = MatMul(z, wq) k = MatMul(z, wk) y = Add(q, k)",
    "Reshape": "z = LayerNormalization(x, g, b) s = Constant<value = int64[2] {-1, 16}>() r = Reshape(z, s)"
    " p = Gemm(r, wq) u = Constant<value = int64[3] {-1, 5, 8}>() y = Reshape(p, u)",
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("powers", [False, True])
def test_folds_into(source: str, powers: bool) -> None:
    subject = model(SOURCES[source])
    nodes = op_counts(subject)
    result = smooth(subject, SmoothActivations(scales="powers-of-two" if powers else "any"))
    assert len(result.changes) == 1
    assert op_counts(subject) == nodes
    assert array(subject, "g")[3] < 40 / 4
    assert np.abs(array(subject, "wq")[3]).max() > 4 * np.abs(CONSTANTS["wq"][3]).max()


def test_folds_into_the_norm_of_opset_23() -> None:
    text = f'<ir_version: 11, opset_import: ["": 23]> main {STACK} {{ z = RMSNormalization(x, g) y = MatMul(z, wq) }}'
    subject = model_from_text(text, g=CONSTANTS["g"], wq=CONSTANTS["wq"])
    assert len(smooth(subject).changes) == 1
    assert array(subject, "g")[3] < 40 / 4


def test_alpha_is_the_share_that_weights_take_over() -> None:
    highs = {}
    for alpha in (0.0, 0.5, 1.0):
        subject = model("z = LayerNormalization(x, g) y = MatMul(z, wq)")
        smooth(subject, SmoothActivations(alpha=alpha))
        highs[alpha] = _channel_magnitudes(subject)
        if alpha == 0:
            largest = np.abs(array(subject, "wq")).max(axis=1)
            np.testing.assert_allclose(largest, largest[0], rtol=1e-5)
    np.testing.assert_allclose(highs[1.0], highs[1.0][0], rtol=1e-5)
    assert np.ptp(np.log(highs[0.0])) > np.ptp(np.log(highs[0.5])) > np.ptp(np.log(highs[1.0]))


def _channel_magnitudes(subject: ir.Model) -> np.ndarray:
    probe = subject.clone()
    value = next(node.outputs[0] for node in probe.graph if node.op_type == "LayerNormalization")
    value.type = ir.TensorType(ir.DataType.FLOAT)
    probe.graph.outputs.append(value)
    return np.asarray(np.abs(outputs(probe, {"x": X})[value.name or ""]).max(axis=(0, 1)))


def test_the_rounding_error_falls_as_estimated() -> None:
    subject = model("z = LayerNormalization(x, g, b) y = MatMul(z, wq)")
    before = _rounding_error(subject)
    change = smooth(subject).changes[0]
    estimated = float(change.what.rsplit(" ", 1)[-1].rstrip("%")) / 100
    assert _rounding_error(subject) / before == pytest.approx(estimated, rel=0.2)
    assert estimated < 0.5


def _rounding_error(subject: ir.Model) -> float:
    """RMS error of the product when activation and weight are rounded to 8 bits."""
    normal = (X - X.mean(axis=-1, keepdims=True)) / np.sqrt(X.var(axis=-1, keepdims=True) + 1e-5)
    x = (normal * array(subject, "g") + array(subject, "b")).reshape(-1, 16).astype(np.float64)
    w = array(subject, "wq").astype(np.float64)
    step, steps = (x.max() - x.min()) / 255, np.abs(w).max(axis=0) / 127
    error = (np.rint(x / step) * step) @ (np.rint(w / steps) * steps) - x @ w
    return float(np.sqrt(np.square(error).mean()))


RESIDUAL = "z = LayerNormalization(x, g, b) h = MatMul(z, wo) y = Add(h, z)"


def test_a_residual_connection_keeps_the_activation_and_the_product_gets_a_mul() -> None:
    subject = model(RESIDUAL, wo=weights(16, 16))
    result = smooth(subject)
    assert [change.what.endswith("by a Mul") for change in result.changes] == [True]
    assert op_counts(subject) == {"LayerNormalization": 1, "Mul": 1, "MatMul": 1, "Add": 1}
    assert np.array_equal(array(subject, "g"), CONSTANTS["g"])


def test_one_mul_serves_all_products() -> None:
    body = "z = Sigmoid(x) s = Mul(z, x) q = MatMul(s, wq) k = MatMul(s, wk) y = Add(q, k)"
    x = X * outliers()
    subject = model(body)
    assert len(smooth(subject, x=x).changes) == 1
    assert op_counts(subject)["Mul"] == 2


def test_no_mul_where_it_gains_too_little() -> None:
    subject = model(RESIDUAL, wo=weights(16, 16))
    result = smooth(subject, SmoothActivations(insert_below=0.0))
    assert not result.changes
    assert reasons(result)[0].startswith("Add→y (Add) reads it; a Mul would cut the estimated error to ")
    plain = model("z = Tanh(x) y = MatMul(z, wq)")
    gains = reasons(smooth(plain, SmoothActivations(alpha=0.5)))
    assert gains[0].startswith("nothing in front of it takes factors in; a Mul would")


def test_even_activations_are_left() -> None:
    even = np.ones((16, 8), np.float32)
    result = smooth(model("z = LayerNormalization(x, e) y = MatMul(z, wq)", e=np.ones(16, np.float32), wq=even))
    assert reasons(result) == ["no factors lower the estimated error enough"]


def test_shared_constants_are_copied() -> None:
    body = "z = LayerNormalization(x, g, b) p = MatMul(z, wq) u = Tanh(x) v = LayerNormalization(u, g, b)" \
           " q = ReduceSum<keepdims=1>(v) y = Add(p, q)"  # fmt: skip
    subject = model(body)
    result = smooth(subject)
    assert len(result.changes) == 1
    assert np.array_equal(array(subject, "g"), CONSTANTS["g"])
    assert np.array_equal(array(subject, "b"), CONSTANTS["b"])


OBSTACLES = {
    "Add→y (Add) reads it": RESIDUAL.replace("wo", "ws"),
    "Clip→c (Clip) cuts it off":
        "z = LayerNormalization(x, g, b) lo = Constant<value = float {-1.0}>() c = Clip(z, lo) y = MatMul(c, wq)",
}  # fmt: skip


@pytest.mark.parametrize("reason", OBSTACLES)
def test_says_what_is_in_the_way(reason: str) -> None:
    result = smooth(model(OBSTACLES[reason], ws=weights(16, 16)), SmoothActivations(alpha=1.0, insert_below=0.0))
    assert reasons(result)[0].startswith(f"{reason}; a Mul would cut")


def test_weights_that_nodes_share_are_left() -> None:
    body = "z = LayerNormalization(x, g, b) q = MatMul(z, wq) u = Tanh(x) k = MatMul(u, wq) y = Add(q, k)"
    assert smooth(model(body)) == PassResult()


def test_nothing_happens_without_data() -> None:
    subject = model("z = LayerNormalization(x, g, b) y = MatMul(z, wq)")
    result = apply(SmoothActivations(), subject)
    assert not result.changes
    assert reasons(result) == ["what reads it was not observed on data"]


def test_an_activation_that_is_an_output_keeps_its_values() -> None:
    signature = "(float[N,s,16] x) => (float[n,t,o] y, float[n,t,u] z)"
    subject = model("z = LayerNormalization(x, g, b) y = MatMul(z, wq)", signature)
    result = smooth(subject)
    assert op_counts(subject)["Mul"] == 1
    assert len(result.changes) == 1


def test_branches_and_functions_are_not_observed() -> None:
    subject = model_from_text(
        """<ir_version: 8, opset_import: ["": 17, "f": 1]>
        main (float[1,2,16] x, bool c, float[16,16] w) => (float[n,s,o] y) {
            p = If(c) <then_branch = one () => (float[1,2,16] u) { k = LayerNormalization(x, g) u = MatMul(k, a) },
                       else_branch = two () => (float[1,2,16] v) { v = MatMul(x, w) }>
            y = f.block(p)
        }
        <domain: "f", opset_import: ["": 17]>
        block (x) => (y) {
            v = Constant<value = float[2,2] {1.0, 2.0, 30.0, 4.0}>()
            y = MatMul(x, v)
        }""",
        a=weights(16, 16),
        g=outliers(),
    )
    result = apply(SmoothActivations(), subject, observing())
    assert not result.changes
    assert set(reasons(result)) == {"what reads it was not observed on data"}


def test_older_broadcasting_is_left() -> None:
    body = "z = Mul<broadcast=1>(x, g) y = MatMul(z, wq)"
    assert apply(SmoothActivations(), model(body, opset=6), observing()) == PassResult()


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_other_float_types_keep_their_type(dtype: str) -> None:
    kind = np.float16 if dtype == "float16" else np.float64
    constants = {name: CONSTANTS[name].astype(kind) for name in ("g", "b", "wq")}
    signature = f"({dtype}[N,s,16] x) => ({dtype}[n,t,o] y)"
    subject = model("z = LayerNormalization(x, g, b) y = MatMul(z, wq)", signature, **constants)
    result = smooth(subject, SmoothActivations(scales="powers-of-two"), X.astype(kind))
    assert len(result.changes) == 1
    assert array(subject, "g").dtype == array(subject, "wq").dtype == kind


def test_scales_that_do_not_fit_are_refused() -> None:
    constants = {"g": outliers().astype(np.float16) * 100, "wq": np.full((16, 8), 60000, np.float16)}
    subject = model("z = LayerNormalization(x, g) y = MatMul(z, wq)", STACK.replace("float[", "float16["), **constants)
    result = apply(SmoothActivations(alpha=1.0), subject, _ranges(3, 4000.0))
    assert reasons(result) == ["the folded weights of MatMul→y do not fit float16"]
    assert np.array_equal(array(subject, "g"), constants["g"])


def _ranges(channel: int, high: float) -> Context:
    """A context that has seen numbers up to 1, and in one channel up to ``high``."""

    class Seen:
        channel_low, channel_mean, channel_high, count = np.zeros(16), np.zeros(16), np.ones(16), 16000

    Seen.channel_high[channel] = high
    return Context(statistics=lambda subject, axes: dict.fromkeys(axes, Seen()))  # type: ignore[arg-type]


@pytest.mark.parametrize(("field", "value"), [("alpha", 1.5), ("alpha", -0.1), ("insert_below", 2.0)])
def test_fields_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(RecipeError, match=field.replace("_", "-")):
        SmoothActivations(**{field: value})
