"""Weights in blocks: the form ONNX Runtime merges, bounds on outputs, and why weights are left alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.errors import RecipeError
from onnxshrink.measure.session import optimized_model
from onnxshrink.numerics.blockwise import BlockScheme, dequantize_blocks, quantize_blocks
from onnxshrink.passes.base import Context
from onnxshrink.passes.quantize_blocks import QuantizeBlocks
from tests.support import CONTEXT, apply, model_from_text, op_counts, outputs, reasons

_HEAD = '<ir_version: 10, opset_import: ["": 21]> '
_MATMUL = "m (float[N, 64] x) => (float[N, 48] y) { y = MatMul(x, w) }"


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _kernels(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in optimized_model(model).graph.node)


def _error(model: ir.Model, changed: ir.Model, feeds: Mapping[str, np.ndarray], *, optimized: bool = False) -> float:
    before, after = outputs(model, feeds)["y"], outputs(changed, feeds, optimized=optimized)["y"]
    return float(np.linalg.norm(after - before) / np.linalg.norm(before))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("reduction", [64, 72])
def test_outputs_are_those_of_the_decoded_weight(bits: int, block_size: int, symmetric: bool, reduction: int) -> None:
    text = _HEAD + _MATMUL.replace("64", str(reduction))
    weight = _normal(reduction, 48)
    model = model_from_text(text, w=weight)
    settings = {"bits": bits, "block_size": block_size, "symmetric": symmetric}
    result = apply(QuantizeBlocks(**settings), model)  # type: ignore[arg-type]
    scales = 48 * -(-reduction // block_size)
    assert [change.what for change in result.changes] == [f"stored as {bits}-bit integers with {scales} scales"]
    assert not result.skips
    assert op_counts(model) == {"Cast": 1, "DequantizeLinear": 1, "MatMul": 1}
    assert _kernels(model) == {"MatMulNBits": 1}
    stored = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    names = {(4, True): "INT4", (4, False): "UINT4", (8, True): "INT8", (8, False): "UINT8"}
    assert max(stored, key=lambda tensor: tensor.size).dtype.name == names[bits, symmetric]
    scheme = BlockScheme(bits, block_size, symmetric, half_scale=True)  # type: ignore[arg-type]
    decoded = dequantize_blocks(quantize_blocks(weight, scheme))
    x = _normal(5, reduction, seed=1)
    expected = x @ decoded
    plain = outputs(model, {"x": x})["y"]
    assert np.abs(plain - expected).max() <= 1e-5 * np.abs(x).max() * np.abs(decoded).max() * reduction
    # MatMulNBits rounds activations to int8 in blocks: half a step of 1/127 of the largest of each block, uniform.
    merged = outputs(model, {"x": x}, optimized=True)["y"]
    assert np.linalg.norm(merged - expected) <= 0.015 * np.linalg.norm(expected)


_FORMS = {
    "MatMul and Add": ("p = MatMul(x, w) y = Add(p, b)", (64, 48), {"b": _normal(48, seed=5)}),
    "MatMul behind Transpose": ("t = Transpose(w) y = MatMul(x, t)", (48, 64), {}),
    "Gemm": ("y = Gemm(x, w)", (64, 48), {}),
    "Gemm with bias": ("y = Gemm(x, w, b)", (64, 48), {"b": _normal(48, seed=5)}),
    "Gemm transB": ("y = Gemm<transB = 1>(x, w)", (48, 64), {}),
    "Gemm transB behind Transpose": ("t = Transpose(w) y = Gemm<transB = 1>(x, t)", (64, 48), {}),
}


@pytest.mark.parametrize("name", _FORMS)
def test_every_form_of_a_product_is_merged(name: str) -> None:
    body, shape, constants = _FORMS[name]
    text = _HEAD + f"m (float[3, 64] x) => (float[3, 48] y) {{ {body} }}"
    arrays = {"w": _normal(*shape), **constants}
    before, model = model_from_text(text, **arrays), model_from_text(text, **arrays)
    result = apply(QuantizeBlocks(bits=8), model)
    assert [change.node for change in result.changes] == ["w"]
    assert _kernels(model) == {"MatMulNBits": 1}
    # Half a step of 1/255 of a block's range per weight, uniform; with optimisations, activations add as much.
    assert _error(before, model, {"x": _normal(3, 64, seed=1)}) < 0.01
    assert _error(before, model, {"x": _normal(3, 64, seed=1)}, optimized=True) < 0.02


def test_old_opsets_are_raised() -> None:
    text = '<ir_version: 4, opset_import: ["": 9]> ' + _MATMUL
    before, model = model_from_text(text, w=_normal(64, 48)), model_from_text(text, w=_normal(64, 48))
    result = apply(QuantizeBlocks(), model)
    assert [change.node for change in result.changes] == ["model", "w"]
    assert model.opset_imports[""] == 21
    assert model.ir_version == 10
    assert _error(before, model, {"x": _normal(3, 64, seed=1)}) < 0.12  # half a step of 1/15 of a block's range


def test_a_function_and_a_branch_with_weights_of_their_own() -> None:
    text = """<ir_version: 10, opset_import: ["": 21, "local": 1]>
    m (float[3, 2] x) => (float[3, 2] y) { y = local.f(x) }
    <domain: "local", opset_import: ["": VERSION]> f (a) => (b) {
        w = Constant<value = float[2, 2] {1.0, 0.0, 0.0, 2.0}>()
        b = MatMul(a, w)
    }"""
    model = model_from_text(text.replace("VERSION", "21"))
    assert apply(QuantizeBlocks(min_elements=1), model).changed
    assert _kernels(model) == {"MatMulNBits": 1}
    assert np.allclose(outputs(model, {"x": np.ones((3, 2), np.float32)})["y"], [[1, 2]] * 3, rtol=2**-10)
    old = model_from_text(text.replace("VERSION", "18"))
    result = QuantizeBlocks(min_elements=1).apply(old, CONTEXT)
    assert reasons(result) == ["opset 21 is needed, and its function imports 18"]
    branches = model_from_text(
        _HEAD
        + """m (bool c, float[3, 2] x) => (float[3, 2] y) {
        y = If(c) <then_branch = t () => (float[3, 2] p) {
                       w = Constant<value = float[2, 2] {1.0, 0.0, 0.0, 2.0}>()  p = MatMul(x, w) },
                   else_branch = e () => (float[3, 2] q) { q = Neg(x) }> }"""
    )
    assert apply(QuantizeBlocks(min_elements=1), branches).changed
    feeds = {"x": np.ones((3, 2), np.float32), "c": np.array(True)}
    assert np.allclose(outputs(branches, feeds, optimized=True)["y"], [[1, 2]] * 3, rtol=0.02)


def test_moments_lower_the_error_of_the_product() -> None:
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((400, 8)) @ rng.standard_normal((8, 64))).astype(np.float32)
    asked: list[int] = []

    def moments(model: ir.Model, axes: Mapping[ir.Value, int]) -> dict[ir.Value, np.ndarray]:
        asked.extend(axes.values())
        return {value: x.T @ x / np.float32(len(x)) for value in axes}

    known = Context(second_moments=moments)
    errors = []
    for one_pass, context in (
        (QuantizeBlocks(), known),
        (QuantizeBlocks(), CONTEXT),
        (QuantizeBlocks(rounding="nearest"), known),
    ):
        before, model = (model_from_text(_HEAD + _MATMUL, w=_normal(64, 48)) for _ in range(2))
        apply(one_pass, model, context)
        errors.append(_error(before, model, {"x": x}))
    assert asked == [-1]
    assert errors[0] < 0.5 * errors[1]
    assert errors[1] == errors[2]


_X = "(float[3, 64] x) => (float[3, 48] y"
_REFUSALS = {
    "left operand": ("(float[48, 3] x) => (float[64, 3] y) { y = MatMul(w, x) }", "it is the left operand of MatMul→y"),
    "two products": (
        _X + ") { a = MatMul(x, w) n = Neg(x) b = MatMul(n, w) y = Add(a, b) }",
        "2 nodes read it, and ONNX Runtime merges a decoder with a single one",
    ),
    "alpha": (_X + ") { y = Gemm<alpha = 2.0>(x, w) }", "alpha or beta of Gemm→y is not 1"),
    "beta": (_X + ", float[48] b) { b = Neg(b0) y = Gemm<beta = 2.0>(x, w, b) }", "alpha or beta of Gemm→y is not 1"),
    "transA": ("(float[64, 3] x) => (float[3, 48] y) { y = Gemm<transA = 1>(x, w) }", "Gemm→y transposes its input"),
    "embedding": (
        "(float[3, 64] x, int64[2] i) => (float[3, 48] y, float[2, 48] z) { y = MatMul(x, w) z = Gather(w, i) }",
        "Gather→z (Gather) reads it as well",
    ),
    "overridable": (
        "(float[3, 64] x, float[64, 48] w) => (float[3, 48] y) { y = MatMul(x, w) }",
        "its weight w is a graph input, which a caller may override",
    ),
    "branch": (
        """(bool c, float[3, 64] x) => (float[3, 48] y) {
            y = If(c) <then_branch = t () => (float[3, 48] p) { p = MatMul(x, w) },
                       else_branch = e () => (float[3, 48] q) { n = Neg(x) q = Slice(n, s, f, a) }> }""",
        "MatMul→p is in a subgraph, and ONNX Runtime does not merge it with a decoder outside",
    ),
}


@pytest.mark.parametrize("name", _REFUSALS)
def test_refusals_leave_the_model_alone_and_say_why(name: str) -> None:
    text, reason = _REFUSALS[name]
    model = model_from_text(_HEAD + "m " + text, w=_normal(64, 48), b0=_normal(48))
    counts = op_counts(model)
    result = QuantizeBlocks().apply(model, CONTEXT)
    assert reasons(result) == [reason]
    assert not result.changes
    assert op_counts(model) == counts


def test_types_values_and_opsets_that_are_refused() -> None:
    double = model_from_text(_HEAD + _MATMUL.replace("float", "double"), w=_normal(64, 48).astype(np.float64))
    assert reasons(apply(QuantizeBlocks(), double)) == ["it computes in double, not float32"]
    infinite = model_from_text(_HEAD + _MATMUL, w=np.full((64, 48), np.inf, np.float32))
    expected = "the weight holds NaN, infinity, or numbers near the end of the float32 range"
    assert reasons(apply(QuantizeBlocks(), infinite)) == [expected]
    assert op_counts(infinite) == {"MatMul": 1}
    old = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]> m (bool c, float[3, 64] x) => (float[3, 48] y) {
            z = MatMul(x, w)
            y = If(c) <then_branch = t () => (float[3, 48] p) { p = Neg(z) },
                       else_branch = e () => (float[3, 48] q) { q = Exp(z) }> }""",
        w=_normal(64, 48),
    )
    assert reasons(apply(QuantizeBlocks(), old)) == [
        "opset 21 is needed, not 17: models with subgraphs (If) are not converted"
    ]


def test_only_what_is_asked_for_and_large_enough() -> None:
    text = _HEAD + "m (float[3, 64] x) => (float[3, 8] y) { a = MatMul(x, w) b = MatMul(a, v) y = MatMul(b, u) }"
    arrays = {"w": _normal(64, 64), "v": _normal(64, 64, seed=1), "u": _normal(64, 8, seed=2)}
    for settings, changed in (
        ({}, {"w", "v"}),
        ({"min_elements": 512}, {"w", "v", "u"}),
        ({"include": ("w",)}, {"w"}),
        ({"exclude": ("w",)}, {"v"}),
    ):
        result = apply(QuantizeBlocks(**settings), model_from_text(text, **arrays))  # type: ignore[arg-type]
        assert {change.node for change in result.changes} == changed
    with pytest.raises(RecipeError, match="'q' matches no weight"):
        apply(QuantizeBlocks(exclude=("q",)), model_from_text(text, **arrays))
    with pytest.raises(RecipeError, match="min-elements must be 1 or more"):
        QuantizeBlocks(min_elements=0)
