"""Mul, Div, Add and Sub by constants into their neighbours: equal outputs up to rounding, and refusals with reasons."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxshrink.passes.base import PassResult
from onnxshrink.passes.fold_affine import FoldAffine
from tests.support import CONTEXT, apply, model_from_text, op_counts, outputs, reasons

RNG = np.random.default_rng(0)
X4 = RNG.standard_normal((2, 4, 6, 6)).astype(np.float32)
X3 = RNG.standard_normal((2, 3, 4)).astype(np.float32)
X2 = RNG.standard_normal((3, 4)).astype(np.float32)

CONV = "(float[2,4,6,6] x) => (float[n,o,h,w] y)"
MATRIX = "(float[3,4] x) => (float[a,b] y)"
STACK = "(float[2,3,4] x) => (float[a,b,c] y)"


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def factors(*shape: int) -> np.ndarray:
    """Numbers that are safe to divide by."""
    return (np.random.default_rng(sum(shape)).random(shape) + 0.5).astype(np.float32)


def model(signature: str, body: str, opset: int = 15, **initializers: np.ndarray) -> ir.Model:
    text = f'<ir_version: 8, opset_import: ["": {opset}]> main {signature} {{ {body} }}'
    return model_from_text(text, **initializers)


def fold(
    subject: ir.Model, feeds: Mapping[str, np.ndarray], tolerance: float = 2e-6, magnitude: float = 0.0
) -> PassResult:
    """Apply the pass; outputs must agree to ``tolerance`` of the largest one (2e-6: a few float32 ulps per term).

    ``magnitude``: of the largest intermediate result, where sums cancel.
    """
    before = outputs(subject, feeds)
    result = apply(FoldAffine(), subject)
    after = outputs(subject, feeds)
    for name, expected in before.items():
        assert after[name].shape == expected.shape
        largest = max(np.abs(expected.astype(np.float64)).max(), magnitude)
        np.testing.assert_allclose(after[name], expected, rtol=0, atol=tolerance * largest)
    return result


@pytest.mark.parametrize("shape", [(5, 1, 1), (1, 5, 1, 1), (1,), (1, 1, 1, 1), ()])
@pytest.mark.parametrize("operation", ["Mul(z, s)", "Mul(s, z)", "Div(z, s)", "Add(z, s)", "Sub(z, s)", "Sub(s, z)"])
def test_folds_behind_a_conv(operation: str, shape: tuple[int, ...]) -> None:
    body = f"z = Conv<pads=[1,1,1,1]>(x, w, b) y = {operation}"
    subject = model(CONV, body, w=weights(5, 4, 3, 3), b=weights(5), s=factors(*shape))
    fold(subject, {"x": X4})
    assert op_counts(subject) == {"Conv": 1}


def test_folds_behind_a_grouped_conv_transpose() -> None:
    body = "z = ConvTranspose<group=2, strides=[2,2]>(x, w) p = Mul(z, s) y = Add(p, t)"
    subject = model(CONV, body, w=weights(4, 3, 2, 2), s=factors(6, 1, 1), t=weights(6, 1, 1))
    fold(subject, {"x": X4})
    assert op_counts(subject) == {"ConvTranspose": 1}


def test_a_whole_chain_folds() -> None:
    body = "z = Conv(x, w) p = Mul(z, s) q = Add(p, t) r = Sub(q, c) y = Div(r, d)"
    constants = {"s": factors(5, 1, 1), "t": weights(5, 1, 1), "c": factors(1), "d": factors(1, 5, 1, 1)}
    subject = model(CONV, body, w=weights(5, 4, 3, 3), **constants)
    result = fold(subject, {"x": X4})
    assert op_counts(subject) == {"Conv": 1}
    assert len(result.changes) == 4
    assert not result.skips


@pytest.mark.parametrize("opset", [9, 15])
def test_matmul_and_add_of_matrices_become_gemm(opset: int) -> None:
    subject = model(MATRIX, "z = MatMul(x, w) y = Add(b, z)", opset, w=weights(4, 5), b=weights(5))
    fold(subject, {"x": X2})
    assert op_counts(subject) == {"Gemm": 1}


def test_gemm_takes_everything_in_at_its_own_alpha_and_beta() -> None:
    body = "p = Sub(x, c) z = Gemm<alpha=2.0, beta=0.5>(p, w, b) q = Div(z, d) y = Add(q, t)"
    constants = {"c": weights(4), "d": factors(5), "t": weights(1, 5), "b": weights(5)}
    subject = model(MATRIX, body, w=weights(4, 5), **constants)
    fold(subject, {"x": X2})
    assert op_counts(subject) == {"Gemm": 1}


def test_a_transposed_gemm_input_has_its_channels_in_rows() -> None:
    body = "p = Mul(x, c) q = Sub(p, d) y = Gemm<transA=1>(q, w, b)"
    subject = model(MATRIX, body, w=weights(3, 5), b=weights(5), c=factors(3, 1), d=weights(3, 1))
    fold(subject, {"x": X2})
    assert op_counts(subject) == {"Gemm": 1}


def test_a_deeper_matmul_keeps_its_add_and_takes_in_the_rest() -> None:
    body = "z = MatMul(x, w) p = Add(z, b) q = Mul(p, s) r = Add(q, t) y = Relu(r)"
    subject = model(STACK, body, w=weights(4, 5), b=weights(5), s=factors(5), t=weights(5))
    result = fold(subject, {"x": X3})
    assert op_counts(subject) == {"MatMul": 1, "Add": 1, "Relu": 1}
    assert not result.skips


def test_a_bias_between_two_matmuls_moves_into_the_second() -> None:
    body = "z = MatMul(x, w) p = Add(z, b) q = MatMul(p, u) y = Add(q, t)"
    subject = model(STACK, body, w=weights(4, 5), b=weights(5), u=weights(5, 6), t=weights(6))
    fold(subject, {"x": X3})
    assert op_counts(subject) == {"MatMul": 2, "Add": 1}


def test_a_deeper_matmul_without_add_takes_in_a_scale_only() -> None:
    subject = model(STACK, "z = MatMul(x, w) p = Mul(z, s) y = Add(p, t)", w=weights(4, 5), s=factors(5), t=weights(5))
    result = fold(subject, {"x": X3})
    assert op_counts(subject) == {"MatMul": 1, "Add": 1}
    assert not result.skips


@pytest.mark.parametrize("shape", [(4, 1, 1), (1,), ()])
def test_folds_in_front_of_a_conv_without_padding(shape: tuple[int, ...]) -> None:
    body = "p = Sub(x, c) q = Div(p, d) y = Conv<strides=[2,2], group=2>(q, w, b)"
    subject = model(CONV, body, w=weights(6, 2, 3, 3), b=weights(6), c=weights(*shape), d=factors(*shape))
    fold(subject, {"x": X4}, tolerance=5e-6)
    assert op_counts(subject) == {"Conv": 1}


def test_padding_lets_the_scale_through_and_stops_the_shift() -> None:
    body = "p = Sub(x, c) q = Mul(p, d) y = Conv<pads=[1,1,1,1]>(q, w)"
    subject = model(CONV, body, w=weights(5, 4, 3, 3), c=weights(4, 1, 1), d=factors(4, 1, 1))
    result = fold(subject, {"x": X4})
    assert op_counts(subject) == {"Conv": 1, "Sub": 1}
    assert reasons(result) == ["Conv→y pads with zeros, which the shift would have to reach"]


def test_only_a_scale_enters_a_conv_transpose() -> None:
    body = "p = Add(x, c) q = Mul(p, d) y = ConvTranspose<group=2>(q, w)"
    subject = model(CONV, body, w=weights(4, 3, 2, 2), c=weights(4, 1, 1), d=factors(4, 1, 1))
    result = fold(subject, {"x": X4})
    assert op_counts(subject) == {"ConvTranspose": 1, "Add": 1}
    assert len(result.skips) == 1


def test_a_constant_that_widens_the_input_is_left() -> None:
    signature = "(float[2,1,6,6] x) => (float[n,o,h,w] y)"
    subject = model(signature, "p = Mul(x, c) y = Conv(p, w)", w=weights(5, 4, 3, 3), c=factors(4, 1, 1))
    result = fold(subject, {"x": X4[:, :1]})
    assert not result.changes
    assert not result.skips


def test_an_unknown_input_shape_is_refused() -> None:
    result = apply(
        FoldAffine(),
        model_from_text("""
            <ir_version: 8, opset_import: ["": 15, "f": 1]>
            main (float[2,1,6,6] x) => (float[n,o,h,w] y) { y = f.block(x) }
            <domain: "f", opset_import: ["": 15]>
            block (x) => (y) {
                w = Constant<value = float[1,1,1,1] {0.5}>()
                c = Constant<value = float[1] {0.5}>()
                p = Mul(x, c)
                y = Conv(p, w)
            }
        """),
    )
    assert reasons(result) == ["the shape of its input is unknown"]


def test_a_surviving_batchnorm_takes_in_its_scale_layer() -> None:
    body = "r = Relu(x) z = BatchNormalization(r, g, c, m, v) p = Mul(z, s) y = Add(p, t)"
    parameters = {name: factors(4) for name in "gcmv"}
    subject = model(CONV, body, s=factors(4, 1, 1), t=weights(4, 1, 1), **parameters)
    fold(subject, {"x": X4})
    assert op_counts(subject) == {"Relu": 1, "BatchNormalization": 1}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(["Mul(z, c)", "Mul(c, z)", "Div(z, c)", "Div(c, z)"]), min_size=2, max_size=4),
    st.lists(st.sampled_from(["Add(z, c)", "Add(c, z)", "Sub(z, c)", "Sub(c, z)"]), min_size=2, max_size=4),
)
def test_products_and_sums_in_a_row_merge(products: list[str], sums: list[str]) -> None:
    lines, constants = ["v0 = Abs(x)", "v1 = Exp(v0)"], {}
    for index, operation in enumerate([*products, *sums], start=1):
        lines.append(f"v{index + 1} = {operation.replace('z', f'v{index}').replace('c', f'c{index}')}")
        constants[f"c{index}"] = factors(index % 3 * 4 or 1)[: 4 if index % 3 else 1]
    lines.append(f"y = Relu(v{len(products) + len(sums) + 1})")
    subject = model(MATRIX, " ".join(lines), **constants)
    fold(subject, {"x": X2}, magnitude=50)
    counts = op_counts(subject)
    assert counts["Mul"] + counts["Div"] <= 1 + sum("(c" in operation and "Div" in operation for operation in products)
    assert counts["Add"] + counts["Sub"] <= 1 + sum("(c" in operation and "Sub" in operation for operation in sums)


@pytest.mark.parametrize("operation", ["Mul(z, one)", "Div(z, one)", "Add(zero, z)", "Sub(z, zero)"])
def test_neutral_operations_go(operation: str) -> None:
    one, zero = np.ones(1, np.float32), np.zeros((1, 4), np.float32)
    subject = model(MATRIX, f"z = Relu(x) y = {operation}", one=one, zero=zero)
    fold(subject, {"x": X2}, tolerance=0)
    assert op_counts(subject) == {"Relu": 1}


def test_a_neutral_operation_that_widens_stays() -> None:
    subject = model(
        "(float[1,4] x) => (float[a,b] y)", "z = Relu(x) y = Add(z, zero)", zero=np.zeros((3, 1), np.float32)
    )
    assert not fold(subject, {"x": X2[:1]}).changes


def test_integers_are_left() -> None:
    signature = "(int64[3] x) => (int64[3] y)"
    constants = {"c": np.array([3], np.int64), "d": np.array([2], np.int64)}
    subject = model(signature, "p = Mul(x, c) q = Mul(p, d) r = Div(q, d) s = Add(r, c) y = Sub(s, d)", **constants)
    assert not fold(subject, {"x": np.array([1, 2, 3])}).changes


def test_a_batchnorm_with_parameters_known_at_run_time_is_left() -> None:
    signature = "(float[2,4,6,6] x, float[4] g) => (float[n,o,h,w] y)"
    subject = model(
        signature, "z = BatchNormalization(x, g, m, m, v) y = Mul(z, c)", m=weights(4), v=factors(4), c=factors(1)
    )
    result = fold(subject, {"x": X4, "g": factors(4)})
    assert not result.changes
    assert not result.skips


def test_division_by_the_data_is_left() -> None:
    subject = model(MATRIX, "z = Gemm(x, w) y = Div(c, z)", w=weights(4, 5), c=factors(5))
    result = fold(subject, {"x": X2}, tolerance=1e-5)
    assert not result.changes
    assert not result.skips


def test_numbers_that_vary_along_more_than_the_channels_are_left() -> None:
    subject = model(CONV, "z = Conv(x, w) y = Add(z, t)", w=weights(5, 4, 1, 1), t=weights(5, 6, 6))
    result = fold(subject, {"x": X4})
    assert not result.changes
    assert not result.skips


def test_division_by_zero_is_refused() -> None:
    subject = model(MATRIX, "z = Gemm(x, w) y = Div(z, c)", w=weights(4, 5), c=np.zeros(5, np.float32))
    assert reasons(apply(FoldAffine(), subject)) == ["its scale and shift are not finite numbers"]


def test_rounding_by_a_large_number_is_refused() -> None:
    magic = np.array([1.5 * 2**23], np.float32)
    body = "z = Gemm(x, w) p = Add(z, magic) y = Sub(p, magic)"
    subject = model(MATRIX, body, w=weights(4, 5), magic=magic)
    result = fold(subject, {"x": X2}, tolerance=0)
    assert not result.changes
    assert reasons(result) == ["it adds a number so large that it rounds its input"]


def test_half_precision_that_would_underflow_is_refused() -> None:
    signature = "(float16[3,4] x) => (float16[a,b] y)"
    tiny = {"w": np.full((4, 5), 1e-4, np.float16), "c": np.array([1e-4], np.float16)}
    result = apply(FoldAffine(), model(signature, "z = Gemm(x, w) y = Mul(z, c)", **tiny))
    assert reasons(result) == ["the folded weights of Gemm→z do not fit float16"]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_fold(dtype: type) -> None:
    kind = np.dtype(dtype).name.replace("float64", "double")
    constants = {"w": weights(4, 5), "s": factors(5), "t": weights(5)}
    typed = {name: array.astype(dtype) for name, array in constants.items()}
    body = "z = MatMul(x, w) p = Mul(z, s) y = Add(p, t)"
    subject = model(f"({kind}[3,4] x) => ({kind}[a,b] y)", body, **typed)
    fold(subject, {"x": X2.astype(dtype)}, tolerance=4e-3 if dtype is np.float16 else 1e-14)
    assert op_counts(subject) == {"Gemm": 1}


def test_an_output_read_elsewhere_is_refused() -> None:
    subject = model(CONV, "z = Conv(x, w) s = Mul(z, c) y = Add(s, z)", w=weights(5, 4, 1, 1), c=factors(1))
    result = fold(subject, {"x": X4})
    assert reasons(result) == ["the output of Conv→z is also read elsewhere"]


def test_a_graph_output_keeps_its_name() -> None:
    signature = "(float[2,4,6,6] x) => (float[n,o,h,w] z, float[n,o,h,w] y)"
    body = "z = Conv(x, w) r = Mul(z, c) q = Relu(r) p = Conv(q, u) y = Mul(p, c)"
    subject = model(signature, body, w=weights(5, 4, 1, 1), u=weights(5, 5, 1, 1), c=factors(1))
    result = fold(subject, {"x": X4})
    assert op_counts(subject) == {"Conv": 2, "Mul": 1, "Relu": 1}
    assert reasons(result) == ["the output of Conv→z is a graph output"]


def test_a_shared_constant_survives_for_its_other_reader() -> None:
    body = "z = Conv(x, w, b) y = Mul(z, c) q = Relu(c)"
    signature = "(float[2,4,6,6] x) => (float[n,o,h,w] y, float[5,1,1] q)"
    subject = model(signature, body, w=weights(5, 4, 1, 1), b=weights(5), c=factors(5, 1, 1))
    fold(subject, {"x": X4})
    assert op_counts(subject) == {"Conv": 1, "Relu": 1}


def test_a_scalar_that_would_grow_the_file_is_refused() -> None:
    subject = model(CONV, "z = Conv(x, w) y = Add(z, c)", w=weights(500, 4, 1, 1), c=factors(1))
    result = fold(subject, {"x": X4})
    assert reasons(result)[0].startswith("folding it would make the file")


def test_the_end_of_a_gelu_stays_where_the_runtime_looks_for_it() -> None:
    body = """
        d = Div(x, root) e = Erf(d) f = Add(e, one) m = Mul(x, f) h = Mul(m, half)
        z = MatMul(h, w) y = Add(z, b)
    """
    scalars = {"root": np.sqrt(2), "one": 1.0, "half": 0.5}
    constants = {name: np.array(number, np.float32) for name, number in scalars.items()}
    subject = model(STACK, body, w=weights(4, 5), b=weights(5), **constants)
    result = fold(subject, {"x": X3})
    assert not result.changes
    assert reasons(result) == ["it ends a LayerNormalization or Gelu that ONNX Runtime computes in one node"]


def test_folds_in_a_loop_body() -> None:
    body = """
        n = Constant<value = int64 {3}>()
        k = Constant<value = bool {1}>()
        y = Loop (n, k, x) <
            body = b (int64 i, bool go, float[3,4] a) => (bool more, float[3,4] d) {
                more = Identity(go) z = MatMul(a, w) p = Add(z, c) d = Mul(p, s)
            }
        >
    """
    subject = model(MATRIX, body, w=weights(4, 4), c=weights(4), s=factors(4))
    fold(subject, {"x": X2}, tolerance=1e-5)
    assert op_counts(subject) == {"Loop": 1, "Identity": 1, "Gemm": 1}


def test_folds_in_a_function_body() -> None:
    subject = model_from_text("""
        <ir_version: 8, opset_import: ["": 15, "f": 1]>
        main (float[2,1,6,6] x) => (float[n,o,h,w] y) { z = f.block(x) y = f.block(z) }
        <domain: "f", opset_import: ["": 15]>
        block (x) => (y) {
            w = Constant<value = float[1,1,1,1] {0.5}>()
            c = Constant<value = float[1,1,1] {3.0}>()
            z = Conv(x, w)
            p = Mul(z, c)
            y = Add(p, c)
        }
    """)
    fold(subject, {"x": X4[:, :1]})
    assert op_counts(subject) == {"block": 2, "Conv": 1}


def test_older_broadcasting_is_left_alone() -> None:
    text = """
        <ir_version: 3, opset_import: ["": 6]>
        main (float[2,4,6,6] x) => (float[2,5,6,6] y) { z = Conv(x, w) y = Mul<axis=1, broadcast=1>(z, c) }
    """
    subject = model_from_text(text, w=weights(5, 4, 1, 1), c=factors(5))
    assert not FoldAffine().apply(subject, CONTEXT).changes


def test_scales_that_standardise_raw_features_stay_in_front_of_the_sum() -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]> g (float[n,3] x) => (float[n,2] y) {
        s = Div(x, deviation) y = MatMul(s, w) }"""
    weight = np.ones((3, 2), np.float32)
    model = model_from_text(text, deviation=np.array([1, 100, 3], np.float32), w=weight)
    result = apply(FoldAffine(), model)
    assert reasons(result) == ["its scales differ by a factor of 100, which would spread the weights"]
    model = model_from_text(text, deviation=np.array([1, 4, 3], np.float32), w=weight)
    assert apply(FoldAffine(), model).changed
