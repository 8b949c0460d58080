"""int8 weights: which axis gets the scales, what stays as it is and why, and how far outputs move."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.errors import RecipeError
from onnxshrink.graph.constants import constant_array
from onnxshrink.graph.shapes import forget_inferred_shapes
from onnxshrink.graph.walk import all_nodes
from onnxshrink.measure.session import optimized_model
from onnxshrink.passes.base import Context
from onnxshrink.passes.quantize_weights import QuantizeWeights
from tests.support import apply, model_from_text, op_counts, outputs, reasons

_HEAD = '<ir_version: 8, opset_import: ["": {opset}]> '
_MATMUL = _HEAD.format(opset=13) + "m (float[N, 64] x) => (float[N, 48] y) { y = MatMul(x, w) }"


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _constants(model: ir.Model, dtype: type[np.generic]) -> list[np.ndarray]:
    """Every stored constant of a type, by graph and order."""
    values = list(model.graph.initializers.values())
    values += [node.outputs[0] for node in all_nodes(model) if node.op_type == "Constant"]
    arrays = [constant_array(value) for value in values]
    return [array for array in arrays if array is not None and array.dtype == dtype]


def _output_error(model: ir.Model, changed: ir.Model, feeds: Mapping[str, np.ndarray]) -> float:
    before, after = outputs(model, feeds)["y"], outputs(changed, feeds)["y"]
    return float(np.linalg.norm(after - before) / np.linalg.norm(before))


_OPERATORS = {
    "Conv": ("x = Identity(i)  y = Conv(x, w)", (2, 16, 6, 6), (32, 16, 3, 3), (32, 1, 1, 1)),
    "grouped Conv": ("x = Identity(i)  y = Conv<group = 4>(x, w)", (2, 64, 6, 6), (32, 16, 3, 3), (32, 1, 1, 1)),
    "Conv1d": ("x = Identity(i)  y = Conv(x, w)", (2, 16, 6), (32, 16, 3), (32, 1, 1)),
    "ConvTranspose": ("x = Identity(i)  y = ConvTranspose(x, w)", (2, 16, 6, 6), (16, 32, 3, 3), (32, 1, 1)),
    "grouped ConvTranspose": (
        "x = Identity(i)  y = ConvTranspose<group = 2>(x, w)",
        (2, 16, 6, 6),
        (16, 32, 3, 3),
        (32, 1, 1),
    ),
    "Gemm": ("x = Identity(i)  y = Gemm(x, w)", (3, 24), (24, 40), (40,)),
    "Gemm transB": ("x = Identity(i)  y = Gemm<transB = 1>(x, w)", (3, 24), (40, 24), (40, 1)),
    "MatMul": ("x = Identity(i)  y = MatMul(x, w)", (2, 3, 24), (24, 40), (40,)),
    "MatMul left": ("x = Identity(i)  y = MatMul(w, x)", (24, 3), (40, 24), (40, 1)),
    "batched MatMul": ("x = Identity(i)  y = MatMul(x, w)", (5, 3, 24), (5, 24, 40), (40,)),
}


@pytest.mark.parametrize("name", _OPERATORS)
@pytest.mark.parametrize("opset", [11, 13])
def test_scales_lie_along_the_output_channels(name: str, opset: int) -> None:
    body, input_shape, weight_shape, scale_shape = _OPERATORS[name]
    dims = ", ".join(map(str, input_shape))
    out = ", ".join("?" for _ in input_shape)
    text = _HEAD.format(opset=opset) + f"m (float[{dims}] i) => (float[{out}] y) {{ {body} }}"
    weight = _normal(*weight_shape)
    before, model = model_from_text(text, w=weight), model_from_text(text, w=weight)
    result = apply(QuantizeWeights(spare=0, rounding="nearest", scale="max"), model)
    assert len(result.changes) == 1
    assert not result.skips
    (integers,), (scale,) = _constants(model, np.int8), _constants(model, np.float16)
    assert (integers.shape, scale.shape) == (weight_shape, scale_shape)
    # Half a step per weight: relative to the largest weight of its channel 1/254, to its root mean square about 1/80.
    assert _output_error(before, model, {"i": _normal(*input_shape, seed=1)}) < 1 / 80
    decoded = integers.astype(np.float32) * scale.astype(np.float32)
    assert (np.abs(decoded - weight) <= 0.501 * scale.astype(np.float32)).all()


@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
def test_recurrent_weights_have_a_scale_per_direction_and_row(operator: str) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator]
    text = _HEAD.format(opset=14) + (
        f"m (float[5, 2, 24] i) => (float[5, 2, 2, 24] y) "
        f'{{ y = {operator}<hidden_size = 24, direction = "bidirectional">(i, w, r) }}'
    )
    weights = {"w": _normal(2, gates * 24, 24) * 0.2, "r": _normal(2, gates * 24, 24) * 0.2}
    before, model = model_from_text(text, **weights), model_from_text(text, **weights)
    result = apply(QuantizeWeights(spare=0), model)
    scales = [*_constants(model, np.float16), *_constants(model, np.float32)]
    assert len(result.changes) == 2
    assert {scale.shape for scale in scales} == {(2, gates * 24, 1)}
    assert _output_error(before, model, {"i": _normal(5, 2, 24, seed=1)}) < 0.02


def test_the_decoder_is_folded_away_when_the_model_is_loaded() -> None:
    model = model_from_text(_MATMUL, w=_normal(64, 48))
    apply(QuantizeWeights(), model)
    assert [node.op_type for node in optimized_model(model).graph.node] == ["MatMul"]


def test_one_scale_per_tensor_and_zero_points_on_request() -> None:
    model = model_from_text(_MATMUL, w=_normal(64, 48) + 1)
    apply(QuantizeWeights(granularity="tensor", symmetric=False, spare=0), model)
    shapes = {array.shape for array in _constants(model, np.int8)}
    assert shapes == {(64, 48), (1, 1)}
    assert op_counts(model)["Sub"] == 1


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_the_decoded_weight_has_the_type_it_had(kind: str) -> None:
    dtype = np.float16 if kind == "float16" else np.float64
    text = _MATMUL.replace("float[", f"{kind}[")
    before, model = (model_from_text(text, w=_normal(64, 48).astype(dtype)) for _ in range(2))
    assert len(apply(QuantizeWeights(), model).changes) == 1
    assert _output_error(before, model, {"x": _normal(3, 64, seed=1).astype(dtype)}) < 1 / 80


def test_a_shared_weight_is_stored_once() -> None:
    text = _HEAD.format(opset=13) + (
        "m (int64[N] ids) => (float[N, 300] y) { h = Gather(w, ids)  t = Transpose(w)  y = MatMul(h, t) }"
    )
    before, model = (model_from_text(text, w=_normal(300, 32)) for _ in range(2))
    result = apply(QuantizeWeights(spare=0), model)
    assert len(result.changes) == 1
    assert [scale.shape for scale in _constants(model, np.float16)] == [(300, 1)]
    assert _output_error(before, model, {"ids": np.arange(7)}) < 1 / 60


def test_a_weight_that_another_operator_reads_too_stays() -> None:
    text = _HEAD.format(opset=13) + "m (float[64, 64] x) => (float[64, 64] y) { z = MatMul(x, w)  y = Add(z, w) }"
    model = model_from_text(text, w=_normal(64, 64))
    result = apply(QuantizeWeights(), model)
    assert not result.changes
    assert "Add) reads the same constant, and not as a weight" in reasons(result)[0]


def test_a_weight_that_is_an_output_stays() -> None:
    text = _HEAD.format(opset=13) + "m (float[N, 64] x) => (float[N, 48] y, float[64, 48] w) { y = MatMul(x, w) }"
    result = apply(QuantizeWeights(), model_from_text(text, w=_normal(64, 48)))
    assert not result.changes
    assert reasons(result) == ["it is also an output of its graph"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_with_nan_or_infinity_stay(bad: float) -> None:
    weight = _normal(64, 48)
    weight[3, 4] = bad
    result = apply(QuantizeWeights(), model_from_text(_MATMUL, w=weight))
    assert not result.changes
    assert "NaN, infinity" in reasons(result)[0]


def test_small_weights_and_overridable_ones_are_no_candidates() -> None:
    small = model_from_text(_MATMUL.replace("64", "6").replace("48", "8"), w=_normal(6, 8))
    assert not apply(QuantizeWeights(), small).changes
    text = _HEAD.format(opset=13) + "m (float[N, 64] x, float[64, 48] w) => (float[N, 48] y) { y = MatMul(x, w) }"
    overridable = model_from_text(text, w=_normal(64, 48))
    result = apply(QuantizeWeights(), overridable)
    assert not result.changes
    assert not result.skips


def test_weights_of_subgraphs_stay_in_their_graph() -> None:
    rows = _normal(64, 48)
    branch = (
        "{name} () => (float[N, 48] {name}_y) <float[64, 48] {name}_w = {{{numbers}}}> "
        "{{ {name}_y = MatMul(x, {name}_w) }}"
    )
    numbers = ", ".join(f"{number:.4f}" for number in rows.reshape(-1))
    one, two = (branch.format(name=name, numbers=numbers) for name in ("a", "b"))
    text = _HEAD.format(opset=13) + (
        f"m (bool c, float[N, 64] x) => (float[N, 48] y) {{ y = If(c)<then_branch = {one}, else_branch = {two}> }}"
    )
    before, model = model_from_text(text), model_from_text(text)
    assert len(apply(QuantizeWeights(), model).changes) == 2
    assert not model.graph.initializers
    feeds = {"c": np.array(True), "x": _normal(3, 64, seed=1)}
    assert _output_error(before, model, feeds) < 1 / 80


def test_weights_of_functions_become_constants_of_the_function() -> None:
    numbers = ", ".join(f"{number:.4f}" for number in _normal(16, 32).reshape(-1))
    text = f"""<ir_version: 8, opset_import: ["": 13, "local": 1]>
    m (float[N, 16] x) => (float[N, 32] y) {{ y = local.layer(x) }}
    <domain: "local", opset_import: ["": 13]>
    layer (a) => (b) {{ w = Constant<value = float[16, 32] {{{numbers}}}>()  b = MatMul(a, w) }}
    """
    before, model = model_from_text(text), model_from_text(text)
    assert len(apply(QuantizeWeights(spare=0), model).changes) == 1
    assert [array.shape for array in _constants(model, np.int8)] == [(16, 32)]
    assert _output_error(before, model, {"x": _normal(3, 16, seed=1)}) < 1 / 80


def test_spare_bytes_go_to_float16_for_depthwise_kernels() -> None:
    text = _HEAD.format(opset=13) + (
        "m (float[1, 32, 8, 8] x) => (float[1, 512, 6, 6] y) "
        "{ d = Conv<group = 32>(x, depthwise)  y = Conv(d, pointwise) }"
    )
    weights = {"depthwise": _normal(32, 1, 3, 3), "pointwise": _normal(512, 32, 1, 1)}
    model = model_from_text(text, **weights)
    apply(QuantizeWeights(), model)
    assert (32, 1, 3, 3) in {array.shape for array in _constants(model, np.float16)}
    assert (512, 32, 1, 1) in {array.shape for array in _constants(model, np.int8)}
    model = model_from_text(text, **weights)
    apply(QuantizeWeights(spare=0), model)
    assert len(_constants(model, np.int8)) == 2


@pytest.mark.parametrize(
    ("text", "shape", "stored"),
    [
        (_MATMUL.replace("64", "256").replace("48", "128"), (256, 128), (4, 64, 128)),
        (
            _HEAD.format(opset=13) + "m (float[3, 256, 6, 6] x) => (float[3, 8, 5, 5] y) { y = Conv(x, w) }",
            (8, 256, 2, 2),
            (8, 16, 16, 2, 2),
        ),
    ],
)
def test_spare_bytes_go_to_groups_of_inputs(text: str, shape: tuple[int, ...], stored: tuple[int, ...]) -> None:
    feeds = {"x": _normal(3, *((256, 6, 6) if len(shape) == 4 else (256,)), seed=1)}
    before = model_from_text(text, w=_normal(*shape))
    errors = []
    for spare in (0.0, 0.05):
        model = model_from_text(text, w=_normal(*shape))
        apply(QuantizeWeights(spare=spare), model)
        errors.append(_output_error(before, model, feeds))
    assert stored in {array.shape for array in _constants(model, np.int8)}
    assert errors[1] < 0.9 * errors[0]
    assert not {"Mul", "Cast", "Reshape"} & {node.op_type for node in optimized_model(model).graph.node}


def test_spare_bytes_go_to_zero_points_for_lopsided_weights() -> None:
    model = model_from_text(_MATMUL, w=np.abs(_normal(64, 48)))
    result = apply(QuantizeWeights(spare=0.07), model)
    assert result.changes[0].what.startswith("stored as int8 with 48 scales and zero points")


def test_measured_output_errors_decide_where_spare_bytes_go() -> None:
    text = _HEAD.format(opset=13) + (
        "m (float[N, 64] x) => (float[N, 64] y) { h = MatMul(x, first)  y = MatMul(h, second) }"
    )
    weights = {"first": _normal(64, 64), "second": _normal(64, 64, seed=1)}
    for favourite in weights:

        def errors(
            model: ir.Model, trials: Mapping[ir.Value, Callable[[], np.ndarray]], favourite: str = favourite
        ) -> Mapping[ir.Value, float]:
            for value, trial in trials.items():
                changed = trial()
                step = np.abs(weights[value.name or ""]).max() / 127
                assert changed.dtype == np.float32
                assert np.abs(changed - weights[value.name or ""]).max() <= step
            return {value: 0.1 if value.name == favourite else 0.001 for value in trials}

        model = model_from_text(text, **weights)
        result = apply(QuantizeWeights(spare=0.6), model, Context(output_errors=errors))
        assert [change.node for change in result.changes if change.what == "stored as float16"] == [favourite]


_BIASED = {
    "Conv": "m (float[1, 8, 6, 6] x) => (float[1, 80, 6, 6] y) { y = Conv(x, w, b) }",
    "Gemm": "m (float[3, 8] x) => (float[3, 80] y) { y = Gemm<transB = 1>(x, w, b) }",
    "MatMul and Add": "m (float[3, 80] x) => (float[3, 8] y) { h = MatMul(x, w)  y = Add(b, h) }",
}


@pytest.mark.parametrize("name", _BIASED)
def test_biases_are_stored_as_float16_beside_int8_weights(name: str) -> None:
    text = _HEAD.format(opset=13) + _BIASED[name]
    weight = _normal(80, 8, 1, 1) if name == "Conv" else _normal(80, 8)
    bias = _normal(3, 8, seed=2) if name == "MatMul and Add" else _normal(80, seed=2)
    fields = {"spare": 0.0, "min_elements": 20}
    for biases, kept in (("float16", False), ("float32", True)):
        model = model_from_text(text, w=weight, b=bias)
        apply(QuantizeWeights(biases=biases, **fields), model)  # type: ignore[arg-type]
        assert any(array.shape == bias.shape for array in _constants(model, np.float32)) == kept
        assert any(np.array_equal(array, bias.astype(np.float16)) for array in _constants(model, np.float16)) != kept


def test_biases_of_functions_and_shared_biases_are_stored_once() -> None:
    numbers = ", ".join(f"{number:.4f}" for number in _normal(96, 8).reshape(-1))
    bias = ", ".join(f"{number:.4f}" for number in _normal(96, seed=1))
    text = f"""<ir_version: 8, opset_import: ["": 13, "local": 1]>
    m (float[3, 8] x) => (float[3, 96] y) {{ y = local.layer(x) }}
    <domain: "local", opset_import: ["": 13]>
    layer (a) => (c) {{ w = Constant<value = float[96, 8] {{{numbers}}}>()  b = Constant<value = float[96] {{{bias}}}>()
      d = Gemm<transB = 1>(a, w, b)  e = Gemm<transB = 1>(a, w, b)  c = Add(d, e) }}
    """
    before, model = model_from_text(text), model_from_text(text)
    result = apply(QuantizeWeights(spare=0), model)
    assert [change.node for change in result.changes] == ["w", "b"]
    assert [array.shape for array in _constants(model, np.float16)].count((96,)) == 1
    assert _output_error(before, model, {"x": _normal(3, 8, seed=1)}) < 1 / 80


def test_a_bias_that_another_operator_reads_too_stays() -> None:
    text = _HEAD.format(opset=13) + (
        "m (float[3, 64] x) => (float[3, 96] y) { h = Gemm<transB = 1>(x, w, b)  y = Mul(h, b) }"
    )
    result = apply(QuantizeWeights(), model_from_text(text, w=_normal(96, 64), b=_normal(96)))
    assert [change.node for change in result.changes] == ["w"]


def test_biases_of_weights_that_stay_stay_too() -> None:
    model = model_from_text(
        _HEAD.format(opset=13) + "m (float[3, 64] x) => (float[3, 96] y) { y = Gemm<transB = 1>(x, w, b) }",
        w=_normal(96, 64),
        b=_normal(96),
    )
    assert not apply(QuantizeWeights(exclude=("w",)), model).changes


def test_measured_means_steer_the_rounding() -> None:
    mean = np.random.default_rng(2).uniform(0, 4, 64).astype(np.float32)

    def means(model: ir.Model, axes: Mapping[ir.Value, int]) -> Mapping[ir.Value, np.ndarray]:
        assert [(value.name, axis) for value, axis in axes.items()] == [("x", -1)]
        return dict.fromkeys(axes, mean)

    feeds = {"x": mean + 0.1 * _normal(50, 64, seed=1)}
    before = model_from_text(_MATMUL, w=_normal(64, 48))
    errors = []
    for one_pass, context in (
        (QuantizeWeights(rounding="nearest"), Context()),
        (QuantizeWeights(), Context(channel_means=means)),
    ):
        model = model_from_text(_MATMUL, w=_normal(64, 48))
        apply(one_pass, model, context)
        errors.append(_output_error(before, model, feeds))
    assert errors[1] < 0.4 * errors[0]


_FUSED = _HEAD.format(opset=13) + "m (float[{rows}, 512] x) => (float[{rows}, 512] y) {{ y = {op}(x, w) }}"


@pytest.mark.parametrize("op", ["MatMul", "Gemm", "Gemm<transB = 1>"])
def test_one_row_takes_the_fused_form(op: str) -> None:
    text = _FUSED.format(rows=1, op=op)
    before, model = (model_from_text(text, w=_normal(512, 512)) for _ in range(2))
    result = apply(QuantizeWeights(), model)
    assert result.changes[0].what.endswith("fused into the operator")
    assert op_counts(model)["DequantizeLinear"] == 1
    assert "DequantizeLinear" not in {node.op_type for node in optimized_model(model).graph.node}
    feeds = {"x": _normal(1, 512, seed=1)}
    assert _output_error(before, model, feeds) < 1 / 80


@pytest.mark.parametrize(
    "text",
    [
        _FUSED.format(rows=2, op="MatMul"),
        _FUSED.format(rows="N", op="MatMul"),
        _FUSED.format(rows=1, op="MatMul").replace("13]", "12]"),
        _FUSED.format(rows=1, op="Gemm<alpha = 0.5>"),
    ],
)
def test_elsewhere_the_form_is_folded(text: str) -> None:
    model = model_from_text(text, w=_normal(512, 512))
    assert apply(QuantizeWeights(), model).changes[0].what.endswith("folded when loaded")


def test_the_form_can_be_forced() -> None:
    model = model_from_text(_FUSED.format(rows="N", op="MatMul"), w=_normal(512, 512))
    apply(QuantizeWeights(form="fused"), model)
    assert op_counts(model)["DequantizeLinear"] == 1
    model = model_from_text(_FUSED.format(rows=1, op="MatMul"), w=_normal(512, 512))
    apply(QuantizeWeights(form="folded"), model)
    assert op_counts(model)["DequantizeLinear"] == 0


def test_patterns_choose_weights_by_name() -> None:
    text = (
        _HEAD.format(opset=13) + "m (float[N, 64] x) => (float[N, 64] y) { h = MatMul(x, first)  y = MatMul(h, last) }"
    )
    weights = {"first": _normal(64, 64), "last": _normal(64, 64)}
    for one_pass in (QuantizeWeights(include=("fir*",)), QuantizeWeights(exclude=("la?t",))):
        assert [change.node for change in apply(one_pass, model_from_text(text, **weights)).changes] == ["first"]
    with pytest.raises(RecipeError, match=r"exclude 'lost' matches no weight"):
        apply(QuantizeWeights(exclude=("lost",)), model_from_text(text, **weights))


@pytest.mark.parametrize(
    ("fields", "message"), [({"min_elements": 0}, "min-elements must be 1 or more"), ({"spare": 1.5}, "spare must be")]
)
def test_fields_out_of_range_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(RecipeError, match=f"quantize-weights: {message}"):
        QuantizeWeights(**fields)  # type: ignore[arg-type]


def test_the_same_model_gives_the_same_bytes() -> None:
    texts = []
    for _ in range(2):
        model = model_from_text(_MATMUL, w=_normal(64, 48))
        apply(QuantizeWeights(), model)
        texts.append(ir.to_proto(model).SerializeToString(deterministic=True))
    assert texts[0] == texts[1]


def test_the_decoder_leaves_no_shapes_behind_in_the_file() -> None:
    model = model_from_text(_MATMUL, w=_normal(64, 48))
    apply(QuantizeWeights(), model)
    forget_inferred_shapes(model)
    assert not ir.to_proto(model).graph.value_info


def test_a_bias_that_float16_cannot_hold_stays_float() -> None:
    text = _HEAD.format(opset=13) + "m (float[N, 64] x) => (float[N, 80] y) { y = Gemm<transB = 1>(x, w, b) }"
    bias = np.full(80, 1e6, np.float32)
    model = model_from_text(text, w=_normal(80, 64), b=bias)
    result = apply(QuantizeWeights(), model)
    assert [skip.node for skip in result.skips] == ["b"]
    assert any(np.array_equal(array, bias) for array in _constants(model, np.float32))
    assert {array.shape for array in _constants(model, np.int8)} == {(80, 64), (80, 1)}, "weights and zero points"
