"""BatchNormalization into its neighbours: equal outputs up to rounding, and every refusal with its reason."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.graph.constants import constant_array
from onnxshrink.graph.walk import all_nodes
from onnxshrink.passes.base import PassResult
from onnxshrink.passes.fold_batchnorm import FoldBatchNorm
from tests.support import apply, model_from_text, op_counts, outputs, reasons

RNG = np.random.default_rng(0)
X4 = RNG.standard_normal((2, 4, 6, 6)).astype(np.float32)
X2 = RNG.standard_normal((3, 4)).astype(np.float32)


def norm(channels: int, prefix: str = "") -> dict[str, np.ndarray]:
    """γ, β, μ, σ² of a BatchNormalization: initializers g, c, m, v."""
    numbers = np.random.default_rng(channels).random((4, channels)).astype(np.float32) + 0.5
    return {prefix + name: row for name, row in zip("gcmv", numbers, strict=True)}


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def model(signature: str, body: str, opset: int = 15, **initializers: np.ndarray) -> ir.Model:
    text = f'<ir_version: 8, opset_import: ["": {opset}]> main {signature} {{ {body} }}'
    return model_from_text(text, **initializers)


def fold(subject: ir.Model, feeds: Mapping[str, np.ndarray], tolerance: float = 2e-6) -> PassResult:
    """Apply the pass; outputs must agree to ``tolerance`` of the largest one (2e-6: a few float32 ulps per term)."""
    before = outputs(subject, feeds)
    result = apply(FoldBatchNorm(), subject)
    after = outputs(subject, feeds)
    for name, expected in before.items():
        assert after[name].dtype == expected.dtype
        largest = np.abs(expected.astype(np.float64)).max()
        np.testing.assert_allclose(after[name], expected, rtol=0, atol=tolerance * largest)
    return result


CONV = "(float[2,4,6,6] x) => (float[n,o,h,w] y)"


@pytest.mark.parametrize(
    ("attributes", "weight", "channels"),
    [
        ("pads=[1,1,1,1]", weights(5, 4, 3, 3), 5),
        ("group=2, strides=[2,2]", weights(6, 2, 3, 3), 6),
        ("group=4", weights(8, 1, 1, 1), 8),
    ],
)
@pytest.mark.parametrize("bias", ["", ", b"])
def test_folds_into_the_conv_in_front(attributes: str, weight: np.ndarray, channels: int, bias: str) -> None:
    body = f"z = Conv<{attributes}>(x, w{bias}) y = BatchNormalization(z, g, c, m, v)"
    subject = model(CONV, body, w=weight, b=weights(channels), **norm(channels))
    result = fold(subject, {"x": X4})
    assert op_counts(subject) == {"Conv": 1}
    assert len(result.changes) == 1
    assert not result.skips
    assert not {"g", "c", "m", "v"} & set(subject.graph.initializers)


@pytest.mark.parametrize(("group", "weight"), [(1, weights(4, 3, 2, 2)), (2, weights(4, 3, 2, 2))])
def test_folds_into_a_grouped_conv_transpose(group: int, weight: np.ndarray) -> None:
    body = f"z = ConvTranspose<group={group}, strides=[2,2]>(x, w, b) y = BatchNormalization(z, g, c, m, v)"
    channels = 3 * group
    subject = model(CONV, body, w=weight, b=weights(channels), **norm(channels))
    fold(subject, {"x": X4})
    assert op_counts(subject) == {"ConvTranspose": 1}


@pytest.mark.parametrize("trans", [0, 1])
@pytest.mark.parametrize("bias", [None, weights(5), weights(1, 5), weights(1), np.float32(0.5).reshape(())])
def test_folds_into_gemm_with_any_bias(trans: int, bias: np.ndarray | None) -> None:
    weight = weights(5, 4) if trans else weights(4, 5)
    reads_bias, constants = ("", {}) if bias is None else (", b", {"b": bias})
    body = f"z = Gemm<alpha=0.5, beta=3.0, transB={trans}>(x, w{reads_bias}) y = BatchNormalization(z, g, c, m, v)"
    subject = model("(float[3,4] x) => (float[3,5] y)", body, w=weight, **constants, **norm(5))
    fold(subject, {"x": X2})
    assert op_counts(subject) == {"Gemm": 1}


def test_matmul_of_matrices_becomes_gemm() -> None:
    body = "z = MatMul(x, w) y = BatchNormalization(z, g, c, m, v)"
    subject = model("(float[3,4] x) => (float[3,5] y)", body, w=weights(4, 5), **norm(5))
    fold(subject, {"x": X2})
    assert op_counts(subject) == {"Gemm": 1}


def test_channels_of_a_deeper_matmul_are_on_another_axis() -> None:
    body = "z = MatMul(x, w) y = BatchNormalization(z, g, c, m, v)"
    subject = model("(float[2,5,4] x) => (float[2,5,5] y)", body, w=weights(4, 5), **norm(5))
    result = fold(subject, {"x": RNG.standard_normal((2, 5, 4)).astype(np.float32)})
    assert reasons(result) == ["its channels are not those of its neighbour"]


@pytest.mark.parametrize("product", ["Conv", 'Conv<auto_pad="SAME_UPPER">', 'Conv<auto_pad="VALID">'])
def test_folds_into_the_conv_behind_when_nothing_is_padded(product: str) -> None:
    size = 1 if "SAME" in product else 3
    body = f"z = BatchNormalization(x, g, c, m, v) y = {product}(z, w)"
    subject = model(CONV, body, w=weights(5, 4, size, size), **norm(4))
    fold(subject, {"x": X4})
    assert op_counts(subject) == {"Conv": 1}


def test_folds_into_every_product_behind() -> None:
    signature = "(float[3,4] x) => (float[3,5] y, float[3,6] q)"
    body = "z = BatchNormalization(x, g, c, m, v) y = Gemm<alpha=2.0>(z, w, b) q = MatMul(z, u)"
    subject = model(signature, body, w=weights(4, 5), b=weights(5), u=weights(4, 6), **norm(4))
    fold(subject, {"x": X2})
    assert op_counts(subject) == {"Gemm": 2}


def test_zero_padding_admits_a_scale_but_no_shift() -> None:
    body = "z = BatchNormalization(x, g, c, m, v) y = Conv<pads=[1,1,1,1]>(z, w)"
    subject = model(CONV, body, w=weights(5, 4, 3, 3), **norm(4))
    label = next(iter(subject.graph)).outputs[0].name
    result = fold(subject, {"x": X4})
    assert result.skips[0].node == f"BatchNormalization→{label}"
    assert reasons(result) == ["Conv→y pads with zeros, which the shift would have to reach"]

    zero = np.zeros(4, np.float32)
    subject = model(CONV, body, w=weights(5, 4, 3, 3), **{**norm(4), "c": zero, "m": zero})
    fold(subject, {"x": X4})
    assert op_counts(subject) == {"Conv": 1}


def test_two_in_a_row_become_one() -> None:
    body = "r = Relu(x) z = BatchNormalization(r, g, c, m, v) y = BatchNormalization(z, g2, c2, m, v)"
    subject = model(CONV, body, g2=weights(4), c2=weights(4), **norm(4))
    fold(subject, {"x": X4})
    assert op_counts(subject) == {"Relu": 1, "BatchNormalization": 1}


def test_a_batchnorm_without_products_around_it_stays_in_silence() -> None:
    subject = model(CONV, "r = Relu(x) y = BatchNormalization(r, g, c, m, v)", **norm(4))
    result = fold(subject, {"x": X4})
    assert not result.changes
    assert not result.skips


def test_half_precision_weights_are_rounded_once() -> None:
    signature = "(float16[2,4,6,6] x) => (float16[n,o,h,w] y)"
    body = "z = Conv(x, w) y = BatchNormalization(z, g, c, m, v)"
    half = {name: array.astype(np.float16) for name, array in {"w": weights(5, 4, 1, 1), **norm(5)}.items()}
    subject = model(signature, body, **half)
    fold(subject, {"x": X4.astype(np.float16)}, tolerance=4e-3)
    folded = next(constant_array(node.inputs[1]) for node in all_nodes(subject))
    scale = half["g"].astype(np.float64) / np.sqrt(half["v"].astype(np.float64) + np.float32(1e-5))
    expected = half["w"].astype(np.float64) * scale.reshape(-1, 1, 1, 1)
    np.testing.assert_array_equal(folded, expected.astype(np.float16))


def test_a_weight_that_would_overflow_is_refused() -> None:
    signature = "(float16[2,4,6,6] x) => (float16[n,o,h,w] y)"
    body = "z = Conv(x, w) y = BatchNormalization(z, g, c, m, v)"
    parameters = {**norm(5), "v": np.zeros(5, np.float32), "g": np.full(5, 1000, np.float32)}
    half = {name: array.astype(np.float16) for name, array in {"w": weights(5, 4, 1, 1), **parameters}.items()}
    result = apply(FoldBatchNorm(), model(signature, body, **half))
    assert reasons(result) == ["the folded weights of Conv→z do not fit float16"]


def test_the_output_read_elsewhere_is_refused() -> None:
    body = "z = Conv(x, w) s = BatchNormalization(z, g, c, m, v) y = Add(s, z)"
    result = fold(model(CONV, body, w=weights(5, 4, 3, 3), **norm(5)), {"x": X4})
    assert reasons(result) == ["the output of Conv→z is also read elsewhere"]


def test_a_graph_output_in_between_is_refused() -> None:
    signature = "(float[2,4,6,6] x) => (float[n,o,h,w] z, float[n,o,h,w] y)"
    body = "z = Conv(x, w) y = BatchNormalization(z, g, c, m, v)"
    result = fold(model(signature, body, w=weights(5, 4, 3, 3), **norm(5)), {"x": X4})
    assert reasons(result) == ["the output of Conv→z is a graph output"]


def test_training_mode_is_refused() -> None:
    body = "z = Conv(x, w) y, mm, vv = BatchNormalization<training_mode=1>(z, g, c, m, v)"
    result = apply(FoldBatchNorm(), model(CONV, body, w=weights(5, 4, 3, 3), **norm(5)))
    assert reasons(result) == ["it runs in training mode or has more than one output"]


def test_parameters_that_callers_may_change_are_refused() -> None:
    signature = "(float[2,4,6,6] x, float[5] g) => (float[n,o,h,w] y)"
    body = "z = Conv(x, w) y = BatchNormalization(z, g, c, m, v)"
    result = fold(model(signature, body, w=weights(5, 4, 3, 3), **norm(5)), {"x": X4})
    assert reasons(result) == ["its parameters are not constant"]


def test_a_weight_computed_at_run_time_is_refused() -> None:
    signature = "(float[2,4,6,6] x, float[5,4,1,1] w) => (float[n,o,h,w] y)"
    body = "z = Conv(x, w) y = BatchNormalization(z, g, c, m, v)"
    result = fold(model(signature, body, **norm(5)), {"x": X4, "w": weights(5, 4, 1, 1)})
    assert reasons(result) == ["the weight of Conv→z is not constant"]


def test_an_impossible_variance_is_refused() -> None:
    body = "z = Conv(x, w) y = BatchNormalization(z, g, c, m, v)"
    parameters = {**norm(5), "v": np.full(5, -1, np.float32)}
    result = apply(FoldBatchNorm(), model(CONV, body, w=weights(5, 4, 3, 3), **parameters))
    assert reasons(result) == ["its variance plus epsilon is not positive"]


def test_a_shared_weight_is_copied_only_when_the_file_does_not_grow() -> None:
    signature = "(float[2,4,6,6] x) => (float[n,o,h,w] y, float[n,o,h,w] q)"
    body = "z = Conv(x, w) y = BatchNormalization(z, g, c, m, v) q = Conv(x, w)"
    small = model(signature, body, w=weights(5, 4, 1, 1), **norm(5))
    fold(small, {"x": X4})
    assert op_counts(small) == {"Conv": 2}

    large = model(signature, body, w=weights(5, 4, 5, 5), **norm(5))
    result = fold(large, {"x": X4})
    assert not result.changes
    assert reasons(result)[0].startswith("folding it would make the file")


def test_folds_in_a_branch_around_weights_of_the_outer_graph() -> None:
    signature = "(bool k, float[2,4,6,6] x) => (float[n,o,h,w] y)"
    body = """
        y = If (k) <
            then_branch = t () => (float[n,o,h,w] a) { z = Conv(x, w) a = BatchNormalization(z, g, c, m, v) },
            else_branch = e () => (float[n,o,h,w] d) { d = Conv<pads=[1,1,1,1]>(x, u) }
        >
    """
    subject = model(signature, body, w=weights(5, 4, 1, 1), u=weights(5, 4, 3, 3), **norm(5))
    for branch in (True, False):
        fold(subject, {"k": np.array(branch), "x": X4})
    assert op_counts(subject) == {"If": 1, "Conv": 2}


def test_folds_in_a_function_body() -> None:
    subject = model_from_text("""
        <ir_version: 8, opset_import: ["": 15, "f": 1]>
        main (float[2,1,6,6] x) => (float[n,o,h,w] y) { y = f.block(x) }
        <domain: "f", opset_import: ["": 15]>
        block (x) => (y) {
            w = Constant<value = float[2,1,1,1] {0.5, 2.0}>()
            g = Constant<value = float[2] {1.0, 3.0}>()
            c = Constant<value = float[2] {0.5, 0.0}>()
            m = Constant<value = float[2] {1.0, 2.0}>()
            v = Constant<value = float[2] {4.0, 0.5}>()
            z = Conv(x, w)
            y = BatchNormalization(z, g, c, m, v)
        }
    """)
    result = fold(subject, {"x": X4[:, :1]})
    assert op_counts(subject) == {"block": 1, "Conv": 1}
    assert len(result.changes) == 1


def test_uniform_weights_stay_a_few_bytes() -> None:
    body = """
        z = Conv(x, w) y = BatchNormalization(z, q, q, q, q)
    """
    filled = """
        s = Constant<value = int64[4] {64, 4, 3, 3}>()
        t = Constant<value = int64[1] {64}>()
        w = ConstantOfShape<value = float[1] {0.02}>(s)
        q = ConstantOfShape<value = float[1] {0.5}>(t)
    """
    subject = model(CONV, filled + body)
    fold(subject, {"x": X4})
    assert op_counts(subject) == {"Conv": 1, "ConstantOfShape": 2}
    assert len(ir.to_proto(subject).SerializeToString()) < 1000


def test_a_new_bias_needs_no_graph_input_in_old_files() -> None:
    subject = model_from_text("""
        <ir_version: 3, opset_import: ["": 9]>
        main (float[2,1,6,6] x) => (float[2,2,6,6] y) {
            w = Constant<value = float[2,1,1,1] {0.5, 2.0}>()
            g = Constant<value = float[2] {1.0, 3.0}>()
            c = Constant<value = float[2] {0.5, 0.0}>()
            v = Constant<value = float[2] {4.0, 0.5}>()
            z = Conv(x, w)
            y = BatchNormalization(z, g, c, c, v)
        }
    """)
    fold(subject, {"x": X4[:, :1]})
    assert op_counts(subject) == {"Conv": 1}
    assert subject.ir_version == 4
