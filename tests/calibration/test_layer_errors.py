"""What each integer node does to the outputs, against models in which it alone computes from integers."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxshrink.calibration import layer_errors
from onnxshrink.calibration.dataset import Feed
from onnxshrink.calibration.layer_errors import combined_error, exclusions, measure_layer_errors
from onnxshrink.graph.shapes import infer_shapes
from tests.support import model_from_text, outputs

RANDOM = np.random.default_rng(0)
HEADER = '<ir_version: 8, opset_import: ["" : 13]>\nm '


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def integers(array: np.ndarray, scale: float) -> np.ndarray:
    return np.rint(array / scale).astype(np.int8)


W, B, V, D = normal(3, 2, 3, 3), normal(3), normal(12, 4), normal(4)
CONSTANTS = {
    "w": W,
    "b": B,
    "v": V,
    "d": D,
    "wq": integers(W, 0.05),
    "vq": integers(V, 0.04),
    "xs": np.float32(0.05).reshape(()),
    "xz": np.uint8(128).reshape(()),
    "rs": np.float32(0.06).reshape(()),
    "rz": np.uint8(0).reshape(()),
    "ws": np.float32(0.05).reshape(()),
    "vs": np.float32(0.04).reshape(()),
    "zero": np.float32(0).reshape(()),
}
QUANTIZED_INPUT = "xq = QuantizeLinear(x, xs, xz) xd = DequantizeLinear(xq, xs, xz) wd = DequantizeLinear(wq, ws)"
FLOAT_TAIL = "c = Conv(x, w, b) r = Relu(c)"
POOLED = "p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r) f = Flatten(p)"


def parse(body: str, results: str = "float[N, 4] y", **more: np.ndarray) -> ir.Model:
    """A model of the input x with those of the constants that it reads; nodes are named after their outputs."""
    used = {name: array for name, array in {**CONSTANTS, **more}.items() if f"{name}," in body or f"{name})" in body}
    model = model_from_text(f"{HEADER}(float[N, 2, 6, 6] x) => ({results}) {{ {body} }}", **used)
    for node in model.graph:
        node.name = node.outputs[0].name
    infer_shapes(model)
    return model


def feeds(*batches: int) -> list[Feed]:
    return [{"x": normal(batch, 2, 6, 6)} for batch in batches]


def true_error(reference: ir.Model, model: ir.Model, samples: list[Feed]) -> float:
    """Relative L2 error of the outputs over all samples, root mean square over outputs."""
    pairs = [(outputs(reference, feed), outputs(model, feed)) for feed in samples]
    squares = [
        sum(np.sum((first[name] - second[name]) ** 2) for first, second in pairs)
        / sum(np.sum(first[name] ** 2) for first, _ in pairs)
        for name in pairs[0][0]
    ]
    return math.sqrt(np.mean(squares))


FLOAT = parse(f"{FLOAT_TAIL} {POOLED} y = Gemm(f, v, d)")
MOVED_INTEGERS = (
    "p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(cq) f = Flatten(p) fd = DequantizeLinear(f, rs, rz)"
)
CONV = f"{QUANTIZED_INPUT} c = Conv(xd, wd, b) cq = QuantizeLinear(c, rs, rz) {MOVED_INTEGERS}"


def test_each_node_alone_with_an_absorbed_relu_moved_integers_and_a_float_output() -> None:
    quantized = parse(f"{CONV} vd = DequantizeLinear(vq, vs) y = Gemm(fd, vd, d)")
    only_conv = parse(f"{CONV} y = Gemm(fd, v, d)")
    read = f"{FLOAT_TAIL} cq = QuantizeLinear(r, rs, rz) {MOVED_INTEGERS}"
    only_gemm = parse(f"{read} vd = DequantizeLinear(vq, vs) y = Gemm(fd, vd, d)")
    samples = feeds(1, 3, 2)
    errors = measure_layer_errors(FLOAT, quantized, samples)
    assert list(errors) == ["c", "y"]
    assert errors["c"] == pytest.approx(true_error(FLOAT, only_conv, samples), rel=1e-3)
    assert errors["y"] == pytest.approx(true_error(FLOAT, only_gemm, samples), rel=1e-3)
    assert true_error(FLOAT, quantized, samples) == pytest.approx(combined_error(errors.values()), rel=0.5)
    assert [value.name for value in FLOAT.graph.inputs] == ["x"]
    assert [value.name for value in FLOAT.graph.outputs] == [value.name for value in quantized.graph.outputs] == ["y"]


def test_a_value_that_an_if_reads_and_one_that_is_an_output() -> None:
    branch = (
        "mean = ReduceMean<keepdims = 0>(x) large = Greater(mean, zero) "
        "y = If(large) <then_branch = t () => (float t1) { t1 = ReduceSum<keepdims = 0>(%s) },"
        " else_branch = e () => (float e1) { e1 = ReduceMax<keepdims = 0>(%s) }>"
    )
    results = "float y, float[N, 3, 4, 4] c"
    reference = parse(f"c = Conv(x, w, b) {branch % ('c', 'c')}", results)
    rounded = f"{QUANTIZED_INPUT} c_float = Conv(xd, wd, b) cq = QuantizeLinear(c_float, xs, xz)"
    quantized = parse(f"{rounded} c = DequantizeLinear(cq, xs, xz) {branch % ('c', 'c')}", results)
    samples = feeds(1, 1, 1, 1)
    errors = measure_layer_errors(reference, quantized, samples)
    assert errors == {"c_float": pytest.approx(true_error(reference, quantized, samples), rel=1e-3)}


def test_an_operator_between_quantized_values_and_several_outputs() -> None:
    results = "float[N, 2, 6, 6] y, float[N, 2, 6, 6] z"
    reference = parse("s = Sigmoid(x) a = Add(s, x) y = Neg(a) z = Relu(a)", results)
    quantized = parse(
        "s = Sigmoid(x) sq = QuantizeLinear(s, rs, rz) sd = DequantizeLinear(sq, rs, rz) "
        "xq = QuantizeLinear(x, xs, xz) xd = DequantizeLinear(xq, xs, xz) "
        "a = Add(sd, xd) aq = QuantizeLinear(a, xs, xz) ad = DequantizeLinear(aq, xs, xz) y = Neg(ad) z = Relu(ad)",
        results,
    )
    samples = feeds(1, 2)
    errors = measure_layer_errors(reference, quantized, samples)
    assert errors == {"a": pytest.approx(true_error(reference, quantized, samples), rel=1e-3)}


_MATMUL = "f = Flatten(x) m = MatMul({data}, {weight}) h = Add(m, {bias}) r = Relu(h)"


def test_the_added_bias_of_a_matmul_belongs_to_it_and_corrected_biases_leave_their_shift_out() -> None:
    weights = integers(normal(72, 4), 0.05)
    exact = {"k": weights.astype(np.float32) * np.float32(0.05), "kq": weights, "shifted": D + np.float32(0.5)}
    reference = parse(f"{_MATMUL.format(data='f', weight='k', bias='d')} y = Neg(r)", **exact)
    data = "f0 = Flatten(x) fq = QuantizeLinear(f0, xs, xz) fd = DequantizeLinear(fq, xs, xz) "
    layer = _MATMUL.format(data="fd", weight="kd", bias="shifted").replace(
        "f = Flatten(x)", "kd = DequantizeLinear(kq, ws)"
    )
    quantized = parse(f"{data.replace('f0', 'f')} {layer} y = Neg(r)", **exact)
    on_grid = [{"x": RANDOM.integers(-99, 99, (2, 2, 6, 6)).astype(np.float32) * np.float32(0.05)} for _ in range(3)]
    errors = measure_layer_errors(reference, quantized, on_grid)
    assert errors == {"m": pytest.approx(true_error(reference, quantized, on_grid), rel=1e-3)}
    corrected = measure_layer_errors(reference, quantized, on_grid, correct_biases=True)
    assert corrected["m"] < errors["m"]
    linear, moved = (_without_relu(model) for model in (reference, quantized))
    assert measure_layer_errors(linear, moved, on_grid)["m"] > 0.02
    assert measure_layer_errors(linear, moved, on_grid, correct_biases=True)["m"] < 1e-5


def _without_relu(model: ir.Model) -> ir.Model:
    changed = model.clone()
    relu = next(node for node in changed.graph if node.op_type == "Relu")
    source = relu.inputs[0]
    assert source is not None
    relu.outputs[0].replace_all_uses_with(source)
    changed.graph.remove(relu, safe=True)
    return changed


def test_what_makes_an_output_infinite_is_infinitely_bad_and_comes_first() -> None:
    quantized = parse(f"{CONV} vd = DequantizeLinear(vq, vs) y = Gemm(fd, vd, e)", e=np.full(4, np.inf, np.float32))
    errors = measure_layer_errors(FLOAT, quantized, feeds(1))
    assert errors["y"] == math.inf
    assert exclusions(errors, 10) == ("y",)


def test_what_has_no_counterpart_in_the_float_model_is_left_out() -> None:
    renamed = parse(CONV.replace("c = Conv", "q = Conv").replace("(c,", "(q,") + " y = Gemm(fd, v, d)")
    assert measure_layer_errors(FLOAT, renamed, feeds(1)) == {}
    strange = parse("k = Neg(x) " + CONV.replace("Linear(x,", "Linear(k,") + " y = Gemm(fd, v, d)")
    assert measure_layer_errors(FLOAT, strange, feeds(1)) == {}


def test_float_nodes_that_read_dequantized_values_are_no_integer_nodes() -> None:
    scales = {"many": np.full(2, 0.05, np.float32), "zeros": np.full(2, 128, np.uint8)}
    kept_float = parse(
        "xq = QuantizeLinear(x, xs, xz) xd = DequantizeLinear<axis = 1>(xq, many, zeros) "
        f"wd = DequantizeLinear(wq, ws) c = Conv(xd, wd, b) r = Relu(c) {POOLED} y = Gemm(f, v, d)",
        **scales,
    )
    assert measure_layer_errors(FLOAT, kept_float, feeds(1)) == {}
    assert measure_layer_errors(FLOAT, FLOAT, feeds(1)) == {}


def test_samples_are_bounded_by_the_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    quantized = parse(f"{CONV} y = Gemm(fd, v, d)")
    samples = feeds(*[1] * 10)
    assert measure_layer_errors(FLOAT, quantized, []) == {}
    assert measure_layer_errors(FLOAT, quantized, samples) == measure_layer_errors(FLOAT, quantized, samples[:8])
    monkeypatch.setattr(layer_errors, "_LARGEST_COMPUTE", 10)
    assert measure_layer_errors(FLOAT, quantized, samples) == measure_layer_errors(FLOAT, quantized, samples[:1])


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 1e6)), st.floats(0, 1e6))
def test_the_fewest_nodes_are_excluded_worst_first(errors: dict[str, float], target: float) -> None:
    chosen = exclusions(errors, target)
    rest = [error for name, error in errors.items() if name not in chosen]
    assert combined_error(rest) <= target
    assert all(errors[name] >= error for name in chosen for error in rest)
    if chosen:
        assert combined_error([*rest, errors[chosen[-1]]]) > target
