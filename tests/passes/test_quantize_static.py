"""Static int8 as a whole: bounds that follow from the scheme, no saturation, what each field does, and hard inputs."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnxshrink.calibration.dataset import Feed
from onnxshrink.errors import RecipeError
from onnxshrink.graph.constants import constant_array
from onnxshrink.measure.machine import this_machine
from onnxshrink.numerics.pair_safe import is_pair_safe
from onnxshrink.passes.base import Context
from onnxshrink.passes.quantize_static import QuantizeStatic
from tests.static_models import PLAIN, Quantized, normal, quantized, scales, text_model
from tests.support import apply, op_counts, outputs, reasons

CONV = "m (float[N, 3, 6, 6] x) => (float[N, 4, 4, 4] y) { y = Conv(x, w, b) }"
TWO = "m (float[N, 3, 8, 8] x) => (float[N, 4, 4, 4] y) { a = Conv(x, v) r = Relu(a) y = Conv(r, w, b) }"
GEMM = "m (float[N, 6] x) => (float[N, 4] y) { y = Gemm(x, w, b) }"
MATMUL = "m (float[N, 6] x) => (float[N, 4] y) { y = MatMul(x, w) }"


def images(count: int = 4, size: int = 6) -> list[Feed]:
    return [{"x": normal(2, 3, size, size, seed=seed)} for seed in range(count)]


def rows(count: int = 4) -> list[Feed]:
    return [{"x": normal(5, 6, seed=seed)} for seed in range(count)]


def conv() -> ir.Model:
    return text_model(CONV, w=normal(4, 3, 3, 3, seed=1), b=normal(4, seed=2))


def two_convs() -> ir.Model:
    v, w = normal(4, 3, 3, 3, seed=3, scale=0.4), normal(4, 4, 3, 3, seed=1, scale=0.4)
    return text_model(TWO, v=v, w=w, b=normal(4, seed=2))


def constant(model: ir.Model, name: str) -> np.ndarray:
    array = constant_array(model.graph.initializers[name])
    assert array is not None
    return array


def integer_weights(found: Quantized) -> dict[str, np.ndarray]:
    """The int8 weights by name."""
    arrays = {name: constant(found.model, name) for name in found.model.graph.initializers}
    return {name: array for name, array in arrays.items() if array.dtype == np.int8 and array.ndim > 1}


@pytest.mark.parametrize(("text", "shape"), [(CONV, (4, 3, 3, 3)), (GEMM, (6, 4)), (MATMUL, (6, 4))])
@pytest.mark.parametrize("one_pass", [PLAIN, replace(PLAIN, symmetric=True), replace(PLAIN, granularity="tensor")])
def test_one_layer_errs_by_no_more_than_its_roundings(
    text: str, shape: tuple[int, ...], one_pass: QuantizeStatic
) -> None:
    weight, feeds = normal(*shape, seed=1), images() if text == CONV else rows()
    found = quantized(
        text_model(text, w=weight, **({} if text == MATMUL else {"b": normal(4, seed=2)})), feeds, one_pass
    )
    axis = 0 if text == CONV else 1
    reduced = tuple(index for index in range(weight.ndim) if index != axis)
    scale = constant(found.model, "w/s")
    shaped = scale.reshape([-1 if index == axis else 1 for index in range(weight.ndim)]) if scale.ndim else scale
    rounded = constant(found.model, "w/q") * shaped
    step = scales(found.model)
    step_x, step_y = step["x"], max((value for name, value in step.items() if name != "x"), default=0.0)
    largest = max(float(np.abs(feed["x"]).max()) for feed in feeds) + step_x
    # |y − ŷ| ≤ Σ|w|·s_x/2 + Σ|ŵ − w|·max|x̂| + s_y/2 + s_x·s_w/2, the last for the bias
    bound = (
        np.abs(weight).sum(reduced) * step_x / 2
        + np.abs(rounded - weight).sum(reduced) * largest
        + step_y / 2
        + step_x * scale / 2
        + 1e-5
    )
    for feed in feeds:
        error = np.abs(outputs(found.original, feed)["y"] - outputs(found.model, feed)["y"])
        assert (np.moveaxis(error, 1, -1) <= bound).all()
        assert error.max() > bound.max() / 1000


def _run(model: ir.Model, feed: Feed, *, precise: bool) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if precise:
        options.add_session_config_entry("session.x64quantprecision", "1")
    data = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, dict(feed))[0])


@pytest.mark.parametrize("text", [CONV, GEMM, MATMUL, TWO])
@pytest.mark.parametrize("one_pass", [PLAIN, QuantizeStatic(equalize="off", smooth="off")])
def test_kernels_cannot_saturate(text: str, one_pass: QuantizeStatic) -> None:
    feeds = images(size=8 if text == TWO else 6) if text in (CONV, TWO) else rows()
    feeds = [{"x": np.abs(feed["x"])} for feed in feeds]
    ones = {  # all weights at the end of their range: what saturates first
        "w": np.ones({CONV: (4, 3, 3, 3), TWO: (4, 4, 3, 3)}.get(text, (6, 4)), np.float32),
        "v": np.ones((4, 3, 3, 3), np.float32),
        "b": np.zeros(4, np.float32),
    }
    used = {name: array for name, array in ones.items() if re.search(rf" {name}[,)]", text)}
    found = quantized(text_model(text, **used), feeds, one_pass)
    assert found.runs_as_asked()
    extreme = {"x": np.full_like(feeds[0]["x"], 1e6)}
    for feed in (*feeds, extreme):
        np.testing.assert_array_equal(_run(found.model, feed, precise=False), _run(found.model, feed, precise=True))


def test_a_target_with_vnni_uses_the_whole_range() -> None:
    weight = np.ones((6, 4), np.float32)
    safe = quantized(text_model(MATMUL, w=weight), rows())
    whole = quantized(text_model(MATMUL, w=weight), rows(), replace(PLAIN, target="vnni"))
    assert integer_weights(safe)["w/q"].max() == 64
    assert integer_weights(whole)["w/q"].max() == 127
    machine = this_machine()
    if {"avx512_vnni", "avx_vnni", "amx_int8"} & set(machine.cpu_features) or "x86" not in machine.system:
        pytest.skip("this CPU adds products in 32 bits")
    extreme = {"x": np.full((5, 6), 1e6, np.float32)}
    assert (_run(whole.model, extreme, precise=False) < 0.9 * _run(whole.model, extreme, precise=True)).all()


@pytest.mark.parametrize("text", [CONV, GEMM])
def test_a_huge_bias_fits_its_integers(text: str) -> None:
    weight = normal(*((4, 3, 3, 3) if text == CONV else (6, 4)), seed=1)
    weight[: 2 if text == CONV else None, slice(None) if text == CONV else slice(2)] *= 1e-9
    bias = np.array([1e4, -1e4, 0.5, 0], np.float32)
    found = quantized(text_model(text, w=weight, b=bias), images() if text == CONV else rows())
    assert np.abs(constant(found.model, "b/q").astype(np.int64)).max() <= 2**30 * 1.001
    feed = found.feeds[0]
    for optimized in (False, True):
        expected, actual = (outputs(model, feed, optimized=optimized)["y"] for model in (found.original, found.model))
        # Half a step of the output and what float32 tells apart in the bias may be lost, and no more.
        step = max(scales(found.model).values())
        assert np.abs(expected - actual)[:, :2].max() <= step / 2 + 1e4 * 2**-22


def test_bias_correction_takes_the_mean_error_out() -> None:
    feeds = images(8, size=8)

    def mean_error(found: Quantized) -> float:
        errors = [outputs(found.original, feed)["y"] - outputs(found.model, feed)["y"] for feed in feeds]
        return float(np.abs(np.mean(errors, axis=(0, 1, 3, 4))).max())

    plain = quantized(two_convs(), feeds, replace(PLAIN, granularity="tensor"))
    corrected = quantized(two_convs(), feeds, replace(PLAIN, granularity="tensor", correct_biases=True))
    assert mean_error(corrected) < 0.3 * mean_error(plain)
    assert mean_error(corrected) < 0.1 * max(scales(corrected.model).values())


def test_compensated_rounding_moves_the_output_less() -> None:
    feeds = [{"x": np.cumsum(feed["x"], axis=3)} for feed in images(12)]  # neighbours that go together

    def error(one_pass: QuantizeStatic) -> float:
        found = quantized(conv(), feeds, one_pass)
        pairs = [(outputs(found.original, feed)["y"], outputs(found.model, feed)["y"]) for feed in feeds]
        return float(np.mean([np.square(expected - actual).mean() for expected, actual in pairs]))

    coarse = replace(PLAIN, granularity="tensor")
    assert error(replace(coarse, rounding="compensated")) < error(coarse)


@pytest.mark.parametrize("calibration", ["minmax", "mean-minmax", "percentile", "entropy", "mse", "auto"])
def test_ranges_are_estimated_as_asked(calibration: str) -> None:
    feeds = images(4)
    feeds[0]["x"][0, 0, 0, 0] = 50  # one outlier
    one_pass = replace(PLAIN, calibration=calibration, percentile=99.0)  # type: ignore[arg-type]
    step = scales(quantized(conv(), feeds, one_pass).model)["x"]
    samples = np.concatenate([feed["x"] for feed in feeds]).reshape(8, -1)
    full = float(samples.max() - samples.min()) / 255
    if calibration == "minmax":
        assert step == pytest.approx(full, rel=1e-6)
    elif calibration == "mean-minmax":
        assert step == pytest.approx((samples.max(1).mean() - samples.min(1).mean()) / 255, rel=1e-5)
    elif calibration == "percentile":
        assert step < 8 / 255
    else:
        assert step <= full * 1.001


def _zero_points(found: Quantized) -> list[tuple[str, int]]:
    arrays = [constant_array(node.inputs[2]) for node in found.model.graph if node.op_type == "QuantizeLinear"]
    return [(str(array.dtype), int(array)) for array in arrays if array is not None]


def test_symmetric_activations_have_no_zero_points() -> None:
    found = quantized(two_convs(), images(size=8), replace(PLAIN, symmetric=True))
    # The Relu's output has no negative part.
    assert _zero_points(found) == [("uint8", 128), ("uint8", 0), ("uint8", 128)]
    signed = quantized(two_convs(), images(size=8), replace(PLAIN, symmetric=True, activation_type="int8"))
    assert _zero_points(signed) == [("int8", 0)] * 3
    assert signed.operators["Relu"] == 1  # its grid reaches below zero, so the Relu must stay
    assert signed.change() < 0.5


def test_one_scale_per_tensor() -> None:
    found = quantized(conv(), images(), replace(PLAIN, granularity="tensor"))
    assert constant(found.model, "w/s").shape == ()
    assert found.runs_as_asked()
    assert constant(quantized(conv(), images()).model, "w/s").shape == (4,)


def test_include_and_exclude_choose_nodes_by_name_or_operator() -> None:
    def changed(**fields: tuple[str, ...]) -> list[str]:
        result = quantized(two_convs(), images(size=8), replace(PLAIN, **fields)).result  # type: ignore[arg-type]
        return [change.node for change in result.changes]

    assert changed() == ["Conv→a", "Conv→y"]
    assert changed(exclude=("Conv→a",)) == ["Conv→y"]
    assert changed(include=("*→a",)) == ["Conv→a"]
    assert changed(include=("Conv",), exclude=("*→y",)) == ["Conv→a"]
    assert changed(exclude=("Conv",)) == []


@pytest.mark.parametrize("field", ["include", "exclude"])
def test_patterns_that_match_nothing_are_errors(field: str) -> None:
    with pytest.raises(RecipeError, match=f"quantize-static: {field} 'Cnov' matches no node"):
        quantized(two_convs(), images(size=8), replace(PLAIN, **{field: ("Cnov",)}))  # type: ignore[arg-type]


def test_weights_are_safe_in_the_order_of_the_kernel() -> None:
    weights = integer_weights(quantized(two_convs(), images(size=8), QuantizeStatic()))
    assert len(weights) == 2
    for weight in weights.values():
        assert is_pair_safe(weight.transpose(0, 2, 3, 1).reshape(4, -1))


def test_a_shared_weight_is_quantized_for_each_of_its_readers_and_kept_for_a_float_one() -> None:
    body = "m (float[N, 3, 8, 8] x) => (float y) { a = Conv(x, w, b) c = Conv(a, w, b) y = Conv(c, w, b) }"
    weight = normal(3, 3, 3, 3, scale=0.3)
    found = quantized(text_model(body, w=weight, b=normal(3)), images(size=8), replace(PLAIN, exclude=("Conv→c",)))
    assert len(integer_weights(found)) == 2
    np.testing.assert_array_equal(constant(found.model, "w"), weight)
    assert found.runs_as_asked()
    assert found.change() < 0.5


@pytest.mark.parametrize("one_pass", [PLAIN, QuantizeStatic()])
def test_activations_and_weights_that_are_all_zero(one_pass: QuantizeStatic) -> None:
    silent = quantized(two_convs(), [{"x": np.zeros((1, 3, 8, 8), np.float32)}], one_pass)
    assert silent.kernels.integer == {"QLinearConv": 2}
    assert silent.change() <= max(scales(silent.model).values()) / 2
    empty = text_model(CONV, w=np.zeros((4, 3, 3, 3), np.float32), b=np.zeros(4, np.float32))
    assert quantized(empty, images(), one_pass).change() == 0


def test_a_single_sample_is_enough() -> None:
    found = quantized(two_convs(), images(1, size=8), QuantizeStatic())
    assert found.kernels.integer == {"QLinearConv": 2}
    assert found.change() < 0.2


UNSEEN = "there is no calibration data, or no activation could be observed"


@pytest.mark.parametrize(
    "feeds", [[], [{"x": np.zeros((0, 3, 6, 6), np.float32)}], [{"x": np.full((1, 3, 6, 6), np.inf, np.float32)}]]
)
def test_without_finite_activations_nothing_is_changed(feeds: list[Feed]) -> None:
    found = quantized(conv(), feeds)
    assert not found.result.changed
    assert reasons(found.result) == [UNSEEN]
    assert op_counts(found.model) == {"Conv": 1}


def test_without_data_nothing_is_changed() -> None:
    assert reasons(apply(PLAIN, conv(), Context())) == [UNSEEN]


def test_a_layer_whose_activations_are_not_finite_stays_float() -> None:
    body = "m (float[N, 3, 6, 6] x) => (float y, float z) { l = Log(x) y = Conv(l, w) z = Conv(x, w) }"
    found = quantized(text_model(body, w=normal(4, 3, 3, 3)), images())
    assert found.skips == {"Conv→y": "its activations could not be observed, or are not finite"}
    assert [change.node for change in found.result.changes] == ["Conv→z"]


def test_a_split_is_left_when_one_of_its_readers_cannot_be_quantized() -> None:
    body = (
        "m (float[N, 6, 6, 6] x) => (float y, float z) { "
        "p, q = Split<axis = 1>(x) l = Log(q) y = Conv(p, w) z = Conv(l, w) }"
    )
    found = quantized(text_model(body, w=normal(4, 3, 3, 3)), [{"x": normal(1, 6, 6, 6)}])
    assert [change.node for change in found.result.changes] == ["Conv→y"]


def test_the_same_input_gives_the_same_bytes() -> None:
    first, second = (quantized(two_convs(), images(size=8), QuantizeStatic()).model for _ in range(2))
    assert ir.to_proto(first).SerializeToString() == ir.to_proto(second).SerializeToString()


def test_a_quantized_model_is_left_alone() -> None:
    found = quantized(two_convs(), images(size=8))
    again = quantized(found.model, images(size=8))
    assert not again.result.changed
    assert set(reasons(again.result)) == {"it is quantized already"}
    assert again.change() == 0


CONCAT = """m (float[N, 3, 8, 8] x) => (float[N, 4, 4, 4] y) {
    a = Conv(x, v) r = Relu(a) b = Conv(x, u) s = Relu(b) c = Concat<axis = 1>(r, s) y = Conv(c, w)
}"""


@pytest.mark.parametrize(("factor", "shared"), [(1.0, True), (1.03, True), (1.5, False)])
def test_nearly_equal_ranges_that_a_concat_joins_become_one(factor: float, shared: bool) -> None:
    v = normal(4, 3, 3, 3, seed=3, scale=0.4)
    model = text_model(CONCAT, v=v, u=np.float32(factor) * v, w=normal(4, 8, 3, 3, seed=1, scale=0.3))
    found = quantized(model, images(size=8), PLAIN)
    joined = next(node for node in found.model.graph if node.op_type == "Concat")
    sources = [value.producer() for value in joined.inputs if value is not None]
    steps = {float(constant_array(node.inputs[1]) or 0) for node in sources if node is not None}
    assert (len(steps) == 1) is shared
    assert found.optimized["QLinearConcat"] == 1
    assert found.runs_as_asked()
