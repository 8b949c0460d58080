"""Which nodes lose most, and whether the recipe that is suggested spares them."""

from __future__ import annotations

import math
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.calibrated import CalibrationRuns, calibrated_context
from onnxshrink.calibration.dataset import Dataset, Feed
from onnxshrink.calibration.layer_errors import combined_error, measure_layer_errors
from onnxshrink.errors import DataError, ModelError, RecipeError
from onnxshrink.graph.load import load_model
from onnxshrink.graph.shapes import infer_shapes
from onnxshrink.measure.session import SessionSettings
from onnxshrink.passes import quantize_static
from onnxshrink.passes.quantize_static import QuantizeStatic, prepare
from onnxshrink.recipe import Recipe
from onnxshrink.report.json_format import plain_json
from onnxshrink.sensitivity import Sensitivity, measure_sensitivity
from tests.support import model_from_text

CNN = Path(__file__).resolve().parents[1] / "sample_models" / "digits_cnn"
SETTINGS = SessionSettings(optimized=False, threads=1)
PLAIN = QuantizeStatic(calibration="minmax", rounding="nearest", correct_biases=False, equalize="off")

TEXT = """<ir_version: 8, opset_import: ["" : 13]>
net (float[N, 2, 6, 6] x) => (float[N, 2, 6, 6] y) {
  a = Conv<pads = [1, 1, 1, 1]>(x, u)  b = Conv<pads = [1, 1, 1, 1]>(a, v)  y = Conv<pads = [1, 1, 1, 1]>(b, w) }"""


def small_model(*names: str) -> ir.Model:
    rng = np.random.default_rng(0)
    model = model_from_text(TEXT, **{name: rng.standard_normal((2, 2, 3, 3)).astype(np.float32) for name in "uvw"})
    for node, name in zip(model.graph, names or ("first", "second", "third"), strict=True):
        node.name = name
    return model


def samples(count: int = 6) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((count, 2, 6, 6)).astype(np.float32)}


class Experiment:
    """A model quantized on a few samples, and the true errors on them."""

    def __init__(self, model: ir.Model, feeds: list[Feed]) -> None:
        self.runs = CalibrationRuns(feeds, SETTINGS)
        self.feeds = feeds
        self.context = calibrated_context(0, feeds[:2], SETTINGS, self.runs)
        self.reference = model.clone()
        infer_shapes(self.reference)
        prepare(self.reference, self.context)

    def quantized(self, one_pass: QuantizeStatic) -> ir.Model:
        model = self.reference.clone()
        with pytest.MonkeyPatch.context() as patch:  # the reference is prepared already, which takes most of the time
            patch.setattr(quantize_static, "_PREPARATION", ())
            one_pass.apply(model, self.context)
        return model

    def true_error(self, one_pass: QuantizeStatic) -> float:
        return self.runs.output_error(self.reference, self.quantized(one_pass)) or 0.0


@pytest.fixture(scope="module")
def trained() -> Experiment:
    images = np.load(CNN / "calib.npz")["input"]
    return Experiment(load_model(CNN / "model.onnx"), [{"input": images[index : index + 1]} for index in range(4)])


def ranks(values: list[float]) -> np.ndarray:
    return np.argsort(np.argsort(values))


@pytest.fixture(scope="module")
def errors(trained: Experiment) -> dict[str, float]:
    return measure_layer_errors(trained.reference, trained.quantized(PLAIN), trained.feeds, SETTINGS)


def test_the_ranking_is_that_of_layers_quantized_one_at_a_time(trained: Experiment, errors: dict[str, float]) -> None:
    layers = [node.name for node in trained.reference.graph if node.op_type in ("Conv", "Gemm") and node.name]
    assert len(layers) == 8
    measured = [errors[name] for name in layers]
    alone = [trained.true_error(replace(PLAIN, include=(name,))) for name in layers]
    assert measured == pytest.approx(alone, rel=0.02)
    assert np.corrcoef(ranks(measured), ranks(alone))[0, 1] > 0.9


def test_errors_add_up_as_squares_with_the_worst_in_float_or_not(trained: Experiment, errors: dict[str, float]) -> None:
    worst_first = sorted(errors, key=lambda name: -errors[name])
    for count in (0, 4):
        predicted = combined_error(errors[name] for name in worst_first[count:])
        actual = trained.true_error(replace(PLAIN, exclude=tuple(worst_first[:count])))
        assert actual / 2 < predicted < actual * 2


@pytest.fixture(scope="module")
def found() -> Sensitivity:
    return measure_sensitivity(small_model(), samples(), threads=1)


def test_nodes_come_worst_first_with_shares_and_what_would_remain(found: Sensitivity) -> None:
    errors = [node.error for node in found.nodes]
    assert {node.node for node in found.nodes} == {"first", "second", "third"}
    assert errors == sorted(errors, reverse=True)
    assert sum(node.share for node in found.nodes) == pytest.approx(1)
    assert [node.share for node in found.nodes] == pytest.approx(
        [error**2 / found.predicted_error**2 for error in errors]
    )
    assert [node.remaining_error for node in found.nodes] == pytest.approx([math.hypot(*errors[1:]), errors[2], 0])
    assert [node.mac_share for node in found.nodes] == pytest.approx([1 / 3] * 3)
    assert found.predicted_error == pytest.approx(math.hypot(*errors))
    assert (found.samples, found.data, found.recipe) == (6, "arrays", "quantize-static")


def test_equal_errors_have_no_knee_and_one_bad_node_is_one(found: Sensitivity) -> None:
    assert found.suggestion.nodes == ()
    assert found.suggestion.recipe == "quantize-static"
    model = small_model()
    deaf, loud = np.ones((2, 2, 3, 3), np.float32), samples()["x"]
    deaf[:, 1], loud[:, 1] = 0, 100 * loud[:, 1]  # a channel that nothing reads widens the range of the input
    model.graph.initializers["u"].const_value = ir.Tensor(deaf, name="u")
    spoiled = measure_sensitivity(model, {"x": loud}, threads=1)
    assert spoiled.suggestion.nodes == ("first",)
    assert spoiled.suggestion.recipe == "quantize-static{exclude=first}"
    assert spoiled.suggestion.error == pytest.approx(spoiled.nodes[0].remaining_error)
    assert spoiled.suggestion.mac_share == pytest.approx(1 / 3)


def test_the_suggestion_reaches_the_error_that_is_asked_for() -> None:
    plain = "quantize-static{rounding=nearest,correct-biases=false,calibration=minmax}"
    free = measure_sensitivity(small_model(), samples(), recipe=plain, max_error=1, threads=1)
    assert free.suggestion.nodes == ()
    target = free.nodes[0].remaining_error
    found = measure_sensitivity(small_model(), samples(), recipe=plain, max_error=target, threads=1)
    assert found.suggestion.nodes == (found.nodes[0].node,)
    (one_pass,) = Recipe.parse(found.suggestion.recipe)
    assert isinstance(one_pass, QuantizeStatic)
    experiment = Experiment(small_model(), [{"x": samples()["x"][index : index + 1]} for index in range(6)])
    assert experiment.true_error(replace(PLAIN, exclude=one_pass.exclude)) <= target * 1.1


NAMES = ("a|b,c{d}=e", 'it\'s "q" \\ [0]*?', "/ünder score/Conv_[!x]")


def test_names_with_characters_that_mean_something_stand_for_themselves() -> None:
    found = measure_sensitivity(small_model(*NAMES), samples(), max_error=1e-9, threads=1)
    assert set(found.suggestion.nodes) == set(NAMES)
    (one_pass,) = Recipe.parse(found.suggestion.recipe)
    assert isinstance(one_pass, QuantizeStatic)
    matched = [[name for name in NAMES if fnmatchcase(name, pattern)] for pattern in one_pass.exclude]
    assert matched == [[name] for name in found.suggestion.nodes]


def test_the_other_passes_and_fields_of_the_recipe_are_kept() -> None:
    recipe = "drop-identity,quantize-static{exclude=first,granularity=tensor},drop-unused"
    found = measure_sensitivity(small_model(), samples(), recipe=recipe, max_error=1e-9, threads=1)
    assert {node.node for node in found.nodes} == {"second", "third"}
    kept, one_pass, last = Recipe.parse(found.suggestion.recipe)
    assert (kept.name, last.name) == ("drop-identity", "drop-unused")
    assert isinstance(one_pass, QuantizeStatic)
    assert (one_pass.exclude[0], one_pass.granularity) == ("first", "tensor")
    assert set(one_pass.exclude) == {"first", "second", "third"}


def test_ranges_come_from_the_calibration_data() -> None:
    narrow = {"x": samples()["x"] / 10}
    clipped = measure_sensitivity(small_model(), samples(), calibration_data=narrow, threads=1)
    assert clipped.predicted_error > 0.5


@pytest.mark.parametrize("recipe", ["drop-identity", "quantize-static,quantize-static"])
def test_the_recipe_must_quantize_once(recipe: str) -> None:
    with pytest.raises(RecipeError, match=r"must hold quantize-static once"):
        measure_sensitivity(small_model(), samples(), recipe=recipe)


def test_patterns_that_match_nothing_are_refused() -> None:
    with pytest.raises(RecipeError, match="matches no node"):
        measure_sensitivity(small_model(), samples(), recipe="quantize-static{exclude=fourth}", threads=1)


def test_synthetic_and_ill_fitting_data_are_refused() -> None:
    made_up = Dataset(samples(), "synthetic inputs, seed 0", synthetic_seed=0)
    with pytest.raises(DataError, match="made-up inputs say nothing"):
        measure_sensitivity(small_model(), made_up, threads=1)
    with pytest.raises(DataError, match="no array for the input 'x'"):
        measure_sensitivity(small_model(), {"z": samples()["x"]}, threads=1)


def test_a_model_without_integer_nodes_is_refused_with_the_reason() -> None:
    text = '<ir_version: 8, opset_import: ["" : 13]> g (float[N, 4] x) => (float[N, 4] y) { y = MatMul(v, x) }'
    model = model_from_text(text, v=np.ones((4, 4), np.float32))
    with pytest.raises(ModelError, match="computes no node of this model in int8: "):
        measure_sensitivity(model, {"x": np.ones((3, 4, 4), np.float32)}, threads=1)


def test_it_writes_as_json_infinite_errors_included(found: Sensitivity) -> None:
    text = plain_json(replace(found, predicted_error=math.inf))
    assert '"predicted_error": "Infinity"' in text
    assert '"recipe": "quantize-static"' in text
