"""Dynamic int8: what is rewritten into which kernels, how far outputs move, and why nodes are left alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.errors import RecipeError
from onnxshrink.measure.session import optimized_model
from onnxshrink.numerics.pair_safe import is_pair_safe
from onnxshrink.passes.base import Context
from onnxshrink.passes.quantize_dynamic import QuantizeDynamic
from tests.support import CONTEXT, apply, model_from_text, op_counts, outputs, reasons

_HEAD = '<ir_version: 8, opset_import: ["": 13]> '


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _kernels(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in optimized_model(model).graph.node)


def _relative_error(model: ir.Model, changed: ir.Model, feeds: Mapping[str, np.ndarray]) -> float:
    before = outputs(model, feeds)
    error = max(
        float(np.linalg.norm(found[name] - before[name]) / np.linalg.norm(before[name]))
        for optimized in (False, True)
        for found in [outputs(changed, feeds, optimized=optimized)]
        for name in before
    )
    return error


# Half a step of 1/255 of the range per activation, of 1/127 of the largest weight per weight, both uniform: for normal
# numbers of at most 4.5 deviations (9/255 and 4.5/127 steps) the errors are 0.010 and 0.010 of what they belong to.
_BOUND = 0.02

_PRODUCTS = {
    "MatMul": ("y = MatMul(x, w)", (3, 64), (64, 48), {}, {"DynamicQuantizeMatMul": 1}),
    "MatMul of three dimensions": ("y = MatMul(x, w)", (2, 3, 64), (64, 48), {}, {"DynamicQuantizeMatMul": 1}),
    "MatMul of a vector": ("y = MatMul(x, w)", (64,), (64, 48), {}, {"DynamicQuantizeMatMul": 1}),
    "MatMul and Add": (
        "p = MatMul(x, w) y = Add(p, b)",
        (3, 64),
        (64, 48),
        {"b": _normal(48, seed=5)},
        {"DynamicQuantizeMatMul": 1},
    ),
    "MatMul behind Transpose": (
        "t = Transpose(w) y = MatMul(x, t)",
        (3, 64),
        (48, 64),
        {},
        {"DynamicQuantizeMatMul": 1},
    ),
    "odd reduction": ("y = MatMul(x, w)", (3, 67), (67, 48), {}, {"DynamicQuantizeMatMul": 1}),
    "Gemm": ("y = Gemm(x, w)", (3, 64), (64, 48), {}, {"DynamicQuantizeMatMul": 1}),
    "Gemm transB with bias": (
        "y = Gemm<transB = 1>(x, w, b)",
        (3, 64),
        (48, 64),
        {"b": _normal(48, seed=5)},
        {"DynamicQuantizeMatMul": 1},
    ),
    "Gemm with alpha and beta": (
        "y = Gemm<alpha = -0.5, beta = 2.0>(x, w, b)",
        (3, 64),
        (64, 48),
        {"b": _normal(1, 48, seed=5)},
        {"DynamicQuantizeMatMul": 1},
    ),
    "q, k and v": (
        "q = MatMul(x, w) k = MatMul(x, w2) v = MatMul(x, w3) a = Add(q, k) y = Mul(a, v)",
        (3, 64),
        (64, 48),
        {"w2": _normal(64, 48, seed=6), "w3": _normal(64, 48, seed=7)},
        {"DynamicQuantizeLinear": 1, "MatMulIntegerToFloat": 3, "Add": 1, "Mul": 1},
    ),
    "one weight read twice": (
        "a = MatMul(x, w) n = Relu(x) b = MatMul(n, w) y = Add(a, b)",
        (3, 64),
        (64, 48),
        {},
        {"DynamicQuantizeMatMul": 2, "Relu": 1, "Add": 1},
    ),
}


@pytest.mark.parametrize("name", _PRODUCTS)
def test_products_are_computed_from_integers(name: str) -> None:
    body, input_shape, weight_shape, constants, kernels = _PRODUCTS[name]
    dims = ", ".join(map(str, input_shape))
    out = ", ".join([*map(str, input_shape[:-1]), "48"])
    text = _HEAD + f"m (float[{dims}] x) => (float[{out}] y) {{ {body} }}"
    arrays = {"w": _normal(*weight_shape), **constants}
    before, model = model_from_text(text, **arrays), model_from_text(text, **arrays)
    result = apply(QuantizeDynamic(), model)
    assert not result.skips
    assert {change.what for change in result.changes} == {"computed from int8, activations quantized at run time"}
    counts = op_counts(model)
    assert not {"MatMul", "Gemm", "Transpose"} & set(counts)
    assert "w" not in model.graph.initializers
    stored = [value.const_value for value in model.graph.initializers.values()]
    integers = [tensor.numpy() for tensor in stored if tensor is not None and tensor.dtype == ir.DataType.INT8]
    assert len(integers) == sum(key.startswith("w") for key in arrays)
    assert all(array.shape == (input_shape[-1], 48) and is_pair_safe(array.T) for array in integers)
    assert model.graph.outputs[0].name == "y"
    assert _kernels(model) == kernels
    assert _relative_error(before, model, {"x": _normal(*input_shape, seed=1)}) < 2 * _BOUND


def test_old_opsets_are_raised() -> None:
    text = '<ir_version: 4, opset_import: ["": 9]> m (float[3, 64] x) => (float[3, 48] y) { y = MatMul(x, w) }'
    before, model = model_from_text(text, w=_normal(64, 48)), model_from_text(text, w=_normal(64, 48))
    result = apply(QuantizeDynamic(), model)
    assert result.changes[0].what == "opset 9 converted to 11"
    assert len(result.changes) == 2
    assert _relative_error(before, model, {"x": _normal(3, 64, seed=1)}) < _BOUND


def test_pair_safe_weights_cannot_saturate_and_fit_targets_that_do_not_need_them() -> None:
    text = _HEAD + "m (float[3, 64] x) => (float[3, 8] y) { y = MatMul(x, w) }"
    weight = np.full((64, 8), 0.5, np.float32)
    for target, largest in (("any", 64), ("avx2", 64), ("vnni", 127), ("arm", 127)):
        model = model_from_text(text, w=weight)
        apply(QuantizeDynamic(target=target, min_elements=1), model)  # type: ignore[arg-type]
        (integers,) = (
            value.const_value.numpy()
            for value in model.graph.initializers.values()
            if value.const_value is not None and value.const_value.dtype == ir.DataType.INT8
        )
        assert np.abs(integers).max() <= largest
        assert is_pair_safe(integers.T) == (target in ("any", "avx2"))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_extreme_activations_are_summed_exactly(rows: int) -> None:
    """Activations of 255 and weights at the limit of what is safe: the sum must not saturate, on any processor."""
    text = _HEAD + "m (float[N, 256] x) => (float[N, 32] y) { y = MatMul(x, w) }"
    weight = np.abs(_normal(256, 32)) + 1
    before, model = model_from_text(text, w=weight), model_from_text(text, w=weight)
    apply(QuantizeDynamic(), model)
    assert _relative_error(before, model, {"x": np.ones((rows, 256), np.float32)}) < _BOUND


@pytest.mark.parametrize("symmetric_moment", [True, False])
def test_moments_lower_the_error_of_the_product(symmetric_moment: bool) -> None:
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((400, 8)) @ rng.standard_normal((8, 64))).astype(np.float32)
    x += np.float32(0 if symmetric_moment else 2)
    text = _HEAD + "m (float[N, 64] x) => (float[N, 48] y) { y = MatMul(x, w) }"
    errors = []
    asked: list[int] = []

    def moments(model: ir.Model, axes: Mapping[ir.Value, int]) -> dict[ir.Value, np.ndarray]:
        asked.extend(axes.values())
        return {value: x.T @ x / np.float32(len(x)) for value in axes}

    for context in (Context(second_moments=moments), CONTEXT):
        before, model = model_from_text(text, w=_normal(64, 48)), model_from_text(text, w=_normal(64, 48))
        apply(QuantizeDynamic(), model, context)
        integers = model.graph.initializers["w_quantized"].const_value
        scale = model.graph.initializers["w_scale"].const_value
        assert integers is not None
        assert scale is not None
        exact = outputs(before, {"x": x})["y"]
        errors.append(float(np.linalg.norm(x @ (integers.numpy() * scale.numpy()) - exact)))
    assert asked == [-1]
    assert errors[0] < 0.5 * errors[1]
    apply(
        QuantizeDynamic(rounding="nearest"), model_from_text(text, w=_normal(64, 48)), Context(second_moments=moments)
    )
    assert asked == [-1]


_LSTM = """<ir_version: 8, opset_import: ["": 14]>
m (float[S, B, 32] x, float[{d}, B, 16] h, float[{d}, B, 16] c) => (float[S, {d}, B, 16] y, float[{d}, B, 16] last) {{
    y, last = LSTM<hidden_size = 16, direction = "{direction}"{extra}>(x, w, r, b, , h, c)
}}"""


def _lstm_weights(directions: int) -> dict[str, np.ndarray]:
    shapes = {"w": (directions, 64, 32), "r": (directions, 64, 16), "b": (directions, 128)}
    return {name: 0.3 * _normal(*shape, seed=index) for index, (name, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_lstms_become_their_integer_operator(direction: str) -> None:
    directions = 2 if direction == "bidirectional" else 1
    text, arrays = _LSTM.format(d=directions, direction=direction, extra=""), _lstm_weights(directions)
    before, model = model_from_text(text, **arrays), model_from_text(text, **arrays)
    seen: list[tuple[str | None, int]] = []

    def moments(model: ir.Model, axes: Mapping[ir.Value, int]) -> dict[ir.Value, np.ndarray]:
        seen.extend((value.name, axis) for value, axis in axes.items())
        return {}

    result = apply(QuantizeDynamic(), model, Context(second_moments=moments))
    # The states of two directions would mix in one moment.
    assert seen == ([("x", 2)] if directions == 2 else [("x", 2), ("y", -1)])
    assert [change.what for change in result.changes] == ["computed from int8 weights, states quantized at run time"]
    assert not result.skips
    assert model.opset_imports["com.microsoft"] == 1
    assert op_counts(model) == {"DynamicQuantizeLSTM": 1}
    assert set(model.graph.initializers) == {
        "b",
        *(f"{name}_{part}" for name in ("w", "r") for part in ("quantized", "scale", "zero_point")),
    }
    shapes = {
        name: tuple(value.const_value.shape) for name, value in model.graph.initializers.items() if value.const_value
    }
    assert shapes["w_quantized"] == (directions, 32, 64)
    assert shapes["r_quantized"] == (directions, 16, 64)
    assert shapes["w_scale"] == shapes["r_zero_point"] == (directions, 64)
    state = 0.1 * _normal(directions, 2, 16, seed=8)
    feeds = {"x": _normal(5, 2, 32, seed=7), "h": state, "c": state}
    assert _relative_error(before, model, feeds) < _BOUND


@pytest.mark.parametrize("opset", [11, 18])
def test_branches_are_rewritten_with_one_copy_of_the_weight(opset: int) -> None:
    text = f"""<ir_version: 8, opset_import: ["": {opset}]>
    m (bool c, float[3, 64] x) => (float[3, 48] y) {{
        y = If(c) <then_branch = t () => (float[3, 48] p) {{ p = MatMul(x, w) }},
                   else_branch = e () => (float[3, 48] q) {{ n = Neg(x) q = MatMul(n, w) }}>
    }}"""
    before, model = model_from_text(text, w=_normal(64, 48)), model_from_text(text, w=_normal(64, 48))
    result = apply(QuantizeDynamic(), model)
    assert len(result.changes) == 1
    assert op_counts(model)["MatMulInteger"] == 2
    assert op_counts(model)["DynamicQuantizeLinear"] == 2
    assert set(model.graph.initializers) == {"w_quantized", "w_scale"}
    for choice in (True, False):
        feeds = {"x": _normal(3, 64, seed=1), "c": np.array(choice)}
        assert _relative_error(before, model, feeds) < _BOUND


def test_a_function_keeps_its_weights_inside() -> None:
    text = """<ir_version: 8, opset_import: ["": 13, "local": 1]>
    m (float[3, 2] x) => (float[3, 2] y) { y = local.f(x) }
    <domain: "local", opset_import: ["": 13]> f (a) => (b) {
        w = Constant<value = float[2, 2] {1.0, 0.0, 0.0, 2.0}>()
        b = MatMul(a, w)
    }"""
    before, model = model_from_text(text), model_from_text(text)
    assert apply(QuantizeDynamic(min_elements=1), model).changed
    assert op_counts(model)["MatMulInteger"] == 1
    assert not model.graph.initializers
    assert _relative_error(before, model, {"x": _normal(3, 2, seed=1)}) < _BOUND


def test_no_rows_give_no_rows() -> None:
    model = model_from_text(_HEAD + "m (float[N, 64] x) => (float[N, 48] y) { y = MatMul(x, w) }", w=_normal(64, 48))
    apply(QuantizeDynamic(), model)
    assert outputs(model, {"x": np.zeros((0, 64), np.float32)})["y"].shape == (0, 48)


_REFUSALS = {
    "left operand": (
        13,
        "(float[48, 3] x) => (float[64, 3] y) { y = MatMul(w, x) }",
        {"w": _normal(64, 48)},
        "it is the left operand of MatMul→y",
    ),
    "another reader": (
        13,
        "(float[3, 64] x, int64[2] i) => (float[3, 48] y, float[2, 48] z) { y = MatMul(x, w) z = Gather(w, i) }",
        {"w": _normal(64, 48)},
        "Gather→z (Gather) reads it as well",
    ),
    "reader that is no product": (
        13,
        "(float[3, 64] x) => (float[3, 48] y, float[64, 48] z) { y = MatMul(x, w) z = Neg(w) }",
        {"w": _normal(64, 48)},
        "Neg→z (Neg) reads the same constant, and not as a weight",
    ),
    "double": (
        13,
        "(double[3, 64] x) => (double[3, 48] y) { y = MatMul(x, w) }",
        {"w": _normal(64, 48).astype(np.float64)},
        "it computes in double, not float32",
    ),
    "float16": (
        13,
        "(float16[3, 64] x) => (float16[3, 48] y) { y = MatMul(x, w) }",
        {"w": _normal(64, 48).astype(np.float16)},
        "it computes in float16, not float32",
    ),
    "batched weight": (
        13,
        "(float[2, 3, 64] x) => (float[2, 3, 48] y) { y = MatMul(x, w) }",
        {"w": _normal(2, 64, 48)},
        "it has 3 dimensions, and only matrices are rewritten",
    ),
    "transA": (
        13,
        "(float[64, 3] x) => (float[3, 48] y) { y = Gemm<transA = 1>(x, w) }",
        {"w": _normal(64, 48)},
        "Gemm→y transposes its input",
    ),
    "both orientations": (
        13,
        "(float[3, 64] x) => (float[3, 64] y) { a = MatMul(x, w) y = Gemm<transB = 1>(a, w) }",
        {"w": _normal(64, 64)},
        "its readers disagree about which axis is the output",
    ),
    "NaN": (
        13,
        "(float[3, 64] x) => (float[3, 48] y) { y = MatMul(x, w) }",
        {"w": np.full((64, 48), np.nan, np.float32)},
        "the weight holds NaN or infinity",
    ),
    "layout": (
        14,
        """(float[B, S, 32] x) => (float[B, S, 1, 16] y) {
            y = LSTM<hidden_size = 16, layout = 1>(x, w, r) }""",
        {"w": _normal(1, 64, 32), "r": _normal(1, 64, 16)},
        "its layout is 1, and the integer operator knows only layout 0",
    ),
    "R is no constant": (
        14,
        "(float[S, B, 32] x, float[1, 64, 16] r) => (float[S, 1, B, 16] y) { y = LSTM<hidden_size = 16>(x, w, r) }",
        {"w": _normal(1, 64, 32)},
        "its R is not a constant float32 weight that only LSTMs read and that this pass may change",
    ),
    "LSTM in double": (
        14,
        "(double[S, B, 32] x) => (double[S, 1, B, 16] y) { y = LSTM<hidden_size = 16>(x, w, r) }",
        {"w": _normal(1, 64, 32).astype(np.float64), "r": _normal(1, 64, 8).astype(np.float64)},
        "it computes in double, not float32",
    ),
    "LSTM and GRU": (
        14,
        """(float[S, B, 32] x) => (float[S, 1, B, 16] y, float[S, 1, B, 16] z) {
            y = LSTM<hidden_size = 16>(x, w, r) z = GRU<hidden_size = 16>(x, w, r) }""",
        {"w": _normal(1, 64, 32), "r": _normal(1, 48, 8)},
        "GRU→z (GRU) reads it as well",
    ),
    "graph output": (
        13,
        "(float[3, 64] x) => (float[3, 48] y, float[64, 48] w) { y = MatMul(x, w) }",
        {"w": _normal(64, 48)},
        "it is also an output of its graph",
    ),
    "overridable": (
        13,
        "(float[3, 64] x, float[64, 48] w) => (float[3, 48] y) { y = MatMul(x, w) }",
        {"w": _normal(64, 48)},
        "its weight w is a graph input, which a caller may override",
    ),
    "opset that cannot be raised": (
        9,
        """(bool c, float[3, 64] x) => (float[3, 48] y) {
            y = If(c) <then_branch = t () => (float[3, 48] p) { p = MatMul(x, w) },
                       else_branch = e () => (float[3, 48] q) { n = Neg(x) q = MatMul(n, w) }> }""",
        {"w": _normal(64, 48)},
        "opset 11 is needed, not 9: models with subgraphs (If) are not converted",
    ),
}


@pytest.mark.parametrize("name", _REFUSALS)
def test_refusals_leave_the_model_alone_and_say_why(name: str) -> None:
    opset, text, arrays, reason = _REFUSALS[name]
    model = model_from_text(f'<ir_version: 8, opset_import: ["": {opset}]> m {text}', **arrays)
    counts = op_counts(model)
    result = QuantizeDynamic().apply(model, CONTEXT)
    assert reasons(result)[-1] == reason
    assert not result.changes
    assert op_counts(model) == counts


def test_functions_with_parameters_or_old_opsets_are_left_alone() -> None:
    text = """<ir_version: 8, opset_import: ["": 13, "local": 1]>
    m (float[3, 2] x) => (float[3, 2] y) { y = local.f<k = 1>(x) }
    <domain: "local", opset_import: ["": VERSION]> f<k> (a) => (b) {
        w = Constant<value = float[2, 2] {1.0, 0.0, 0.0, 2.0}>()
        b = Gemm<transB: int = @k>(a, w)
    }"""
    for version, reason in (
        ("13", "attributes of Gemm→b are parameters of a function"),
        ("9", "opset 11 is needed, and its function imports 9"),
    ):
        model = model_from_text(text.replace("VERSION", version))
        result = QuantizeDynamic(min_elements=1).apply(model, CONTEXT)
        assert reasons(result) == [reason]
        assert not result.changes


def test_only_what_is_asked_for_and_large_enough() -> None:
    text = _HEAD + "m (float[3, 64] x) => (float[3, 8] y) { a = MatMul(x, w) b = MatMul(a, v) y = MatMul(b, u) }"
    arrays = {"w": _normal(64, 64), "v": _normal(64, 64, seed=1), "u": _normal(64, 8, seed=2)}
    for settings, changed in (
        ({}, {"w", "v"}),
        ({"min_elements": 512}, {"w", "v", "u"}),
        ({"include": ("w",)}, {"w"}),
        ({"exclude": ("w",)}, {"v"}),
    ):
        result = apply(QuantizeDynamic(**settings), model_from_text(text, **arrays))  # type: ignore[arg-type]
        assert {change.node for change in result.changes} == changed
    with pytest.raises(RecipeError, match="'q' matches no weight"):
        apply(QuantizeDynamic(include=("q",)), model_from_text(text, **arrays))
    with pytest.raises(RecipeError, match="min-elements must be 1 or more"):
        QuantizeDynamic(min_elements=0)
