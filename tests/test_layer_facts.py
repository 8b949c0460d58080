from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink import layer_facts
from onnxshrink.graph.shapes import infer_shapes
from onnxshrink.graph.weighted_nodes import weighted_nodes
from onnxshrink.layer_facts import measure_layers
from onnxshrink.layer_pairs import pair_layers
from onnxshrink.measure.session import SessionSettings
from onnxshrink.passes.drop_unused import DropUnused
from onnxshrink.passes.fold_batchnorm import FoldBatchNorm
from onnxshrink.passes.quantize_dynamic import QuantizeDynamic
from onnxshrink.passes.quantize_weights import QuantizeWeights
from onnxshrink.report.layers import HISTOGRAM_BINS, LayerFacts
from tests.support import apply, model_from_text

SETTINGS = SessionSettings(threads=1)
RNG = np.random.default_rng(0)

TEXT = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[1, 3, 8, 8] x) => (float[1, 10] y) {
    [conv] c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
    [bn] n = BatchNormalization (c, gain, shift, mean, variance)
    r = Relu (n)
    p = GlobalAveragePool (r)
    f = Flatten (p)
    [fc] y = Gemm (f, v, u)
}
"""


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "w": rng.normal(size=(64, 3, 3, 3)).astype(np.float32),
        "b": rng.normal(size=64).astype(np.float32),
        "gain": rng.uniform(0.5, 2, 64).astype(np.float32),
        "shift": rng.normal(size=64).astype(np.float32),
        "mean": rng.normal(size=64).astype(np.float32),
        "variance": rng.uniform(0.5, 2, 64).astype(np.float32),
        "v": rng.normal(size=(64, 10)).astype(np.float32),
        "u": rng.normal(size=10).astype(np.float32),
    }


def feeds(count: int = 2) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(2)
    return [{"x": rng.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def compressed(*, short_names: bool) -> ir.Model:
    model = model_from_text(TEXT, **arrays())
    apply(FoldBatchNorm(), model)
    apply(QuantizeWeights(min_elements=64), model)
    if short_names:
        apply(DropUnused(names="short"), model)
    return model


def by_name(layers: tuple[LayerFacts, ...]) -> dict[str, LayerFacts]:
    return {layer.name: layer for layer in layers}


@pytest.mark.parametrize("short_names", [False, True])
def test_layers_are_followed_through_folding_quantization_and_renaming(short_names: bool) -> None:
    layers = by_name(
        measure_layers(model_from_text(TEXT, **arrays()), compressed(short_names=short_names), feeds(), SETTINGS)
    )
    assert list(layers) == ["conv", "fc"]
    conv, fc = layers["conv"], layers["fc"]
    assert (conv.op_type, conv.result_op_type, conv.original_dtype, conv.result_dtype) == (
        "Conv",
        "Conv",
        "FLOAT",
        "INT8",
    )
    assert conv.original_bytes == 4 * (64 * 27 + 64)
    assert conv.result_bytes is not None
    assert 64 * 27 < conv.result_bytes < 64 * 27 + 64 * 12
    assert (conv.parameters, fc.parameters) == (64 * 27, 640)
    assert (conv.macs, fc.macs) == (64 * 64 * 27, 640)
    for layer in (conv, fc):
        assert layer.output_error is not None
        assert 1e-5 < layer.output_error < 0.02
        assert not layer.rescaled
    assert conv.histogram is not None
    for counts in (conv.histogram.original, conv.histogram.result):
        assert counts is not None
        assert len(counts) == HISTOGRAM_BINS
        assert sum(counts) == 64 * 27


def test_a_model_agrees_with_itself() -> None:
    model = model_from_text(TEXT, **arrays())
    for layer in measure_layers(model, model, feeds(), SETTINGS):
        assert layer.output_error == 0
        assert layer.sqnr_db is None
        assert layer.histogram is not None
        assert layer.histogram.original == layer.histogram.result
        assert layer.original_bytes == layer.result_bytes


def test_range_moved_between_layers_is_no_error() -> None:
    text = TEXT.replace("[bn] n = BatchNormalization (c, gain, shift, mean, variance)", "n = Identity (c)")
    original = {name: array for name, array in arrays().items() if name in "wbuv"}
    factor = np.geomspace(0.1, 10, 64).astype(np.float32)
    moved = {
        "w": original["w"] * factor[:, None, None, None],
        "b": original["b"] * factor,
        "v": original["v"] / factor[:, None],
        "u": original["u"],
    }
    layers = by_name(
        measure_layers(model_from_text(text, **original), model_from_text(text, **moved), feeds(), SETTINGS)
    )
    assert layers["conv"].rescaled
    assert not layers["fc"].rescaled
    for layer in layers.values():
        assert layer.output_error is not None
        assert layer.output_error < 1e-5


def test_dynamic_int8_weights_are_decoded_with_the_scale_behind_the_product() -> None:
    text = '<ir_version: 9, opset_import: ["" : 17]> m (float[4, 64] x) => (float[4, 32] y) { [mm] y = MatMul (x, w) }'
    weight = np.random.default_rng(3).normal(size=(64, 32)).astype(np.float32)
    model = model_from_text(text, w=weight)
    apply(QuantizeDynamic(), model)
    rows = [{"x": np.random.default_rng(4).normal(size=(4, 64)).astype(np.float32)}]
    (layer,) = measure_layers(model_from_text(text, w=weight), model, rows, SETTINGS)
    assert (layer.op_type, layer.result_op_type) == ("MatMul", "MatMulInteger")
    assert layer.histogram is not None
    before, after = layer.histogram.original, layer.histogram.result
    assert before is not None
    assert after is not None
    assert sum(abs(one - other) for one, other in zip(before, after, strict=True)) < 0.1 * weight.size
    assert layer.output_error is not None
    assert 1e-4 < layer.output_error < 0.03


def test_layers_that_only_one_model_has_are_listed_once() -> None:
    fewer = "n (float[1, 64] x) => (float[1, 10] y) { [fc] y = Gemm (x, v, u) }"
    head = '<ir_version: 9, opset_import: ["" : 17]>'
    more = "n (float[1, 64] x) => (float[1, 10] y) { [first] h = MatMul (x, s) [fc] y = Gemm (h, v, u) }"
    constants = {name: array for name, array in arrays().items() if name in "uv"}
    square = np.eye(64, dtype=np.float32)
    small, large = model_from_text(head + fewer, **constants), model_from_text(head + more, **constants, s=square)
    for layers, kept in (
        (measure_layers(large, small, [], SETTINGS), 0),
        (measure_layers(small, large, [], SETTINGS), 1),
    ):
        found = by_name(layers)
        assert sorted(found) == ["fc", "first"]
        assert (found["first"].op_type is None) == (kept == 1)
        assert (found["first"].result_op_type is None) == (kept == 0)
        assert found["first"].output_error is None
        assert None not in (found["fc"].op_type, found["fc"].result_op_type)


def test_a_shared_constant_is_divided_among_its_readers() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
    n (float[1, 64] x) => (float[1, 64] y) { [a] h = MatMul (x, w) [b] y = MatMul (h, w) }"""
    model = model_from_text(text, w=np.ones((64, 64), np.float32))
    assert [layer.original_bytes for layer in measure_layers(model, model, [], SETTINGS)] == [8192, 8192]


def test_initializers_that_callers_may_override_are_weights_and_decoders_are_no_layers() -> None:
    text = """<ir_version: 3, opset_import: ["" : 11]>
    n (float[1, 4] x, float[4, 4] w) => (float[1, 4] y)
    <float[4, 4] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}>
    { [mm] y = MatMul (x, w) }"""
    codebook = """<ir_version: 8, opset_import: ["" : 17]>
    n (float[1, 4] x) => (float[1, 4] y)
    <float[16] c = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}, int32[4, 4] i = {0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}>
    { w = Gather (c, i) [mm] y = MatMul (x, w) }"""
    rows = [{"x": np.ones((1, 4), np.float32)}]
    (layer,) = measure_layers(model_from_text(text), model_from_text(codebook), rows, SETTINGS)
    assert (layer.name, layer.original_bytes, layer.result_bytes) == ("mm", 64, 128)
    assert layer.output_error == 0
    assert layer.histogram is not None
    assert layer.histogram.original == layer.histogram.result


def test_weights_that_are_computed_from_a_shape_take_its_bytes_and_keep_their_type() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
    n (float[1, 4] x) => (float[1, 4] y) <int64[2] s = {4, 4}>
    { w = ConstantOfShape <value = float[1] {0.5}> (s) [mm] y = MatMul (x, w) }"""
    (layer,) = measure_layers(model_from_text(text), model_from_text(text), [], SETTINGS)
    assert (layer.parameters, layer.original_bytes, layer.original_dtype) == (16, 16, "FLOAT")


def test_small_layers_beyond_the_limit_are_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_facts, "MOST_LAYERS", 1)
    model = model_from_text(TEXT, **arrays())
    largest, rest = measure_layers(model, model, feeds(1), SETTINGS)
    assert (largest.name, largest.layers) == ("conv", 1)
    assert (rest.name, rest.layers, rest.parameters, rest.original_bytes) == ("1 smaller layers", 1, 640, 2600)


def test_models_that_compute_too_much_are_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_facts, "_MOST_MACS", 1000)
    model = model_from_text(TEXT, **arrays())
    layers = measure_layers(model, model, feeds(), SETTINGS)
    assert [layer.output_error for layer in layers] == [None, None]
    assert all(layer.histogram is not None for layer in layers)


def test_large_errors_in_front_of_small_ones_are_of_values_that_are_not_comparable() -> None:
    errors = [layer_facts._OutputError(value) for value in (0.9, 0.01, 0.2, 0.8, None)]
    assert [error.relative for error in layer_facts._plausible(errors)] == [None, 0.01, 0.2, 0.8, None]


def test_equal_names_pair_layers_in_any_order_and_the_rest_goes_in_order() -> None:
    head = '<ir_version: 9, opset_import: ["" : 17]> n (float[1, 4] x) => (float[1, 4] y) '
    weights = {name: np.ones((4, 4), np.float32) for name in "abc"}
    first = model_from_text(head + "{ [p] h = MatMul (x, a) [q] i = MatMul (h, b) [r] y = MatMul (i, c) }", **weights)
    second = model_from_text(head + "{ [q] h = MatMul (x, b) [p] i = MatMul (h, a) [s] y = MatMul (i, c) }", **weights)
    for model in (first, second):
        infer_shapes(model)
    pairs = pair_layers(weighted_nodes(first), weighted_nodes(second))
    names = [(pair.original and pair.original.node.name, pair.result and pair.result.node.name) for pair in pairs]
    assert names == [("p", "p"), ("q", "q"), ("r", "s")]
