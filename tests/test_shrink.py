"""The straight line from end to end, on the sample models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxshrink
from onnxshrink import Dataset, Recipe, compress
from onnxshrink.errors import CheckError, DataError, FileAccessError, GateError, ModelError, RecipeError
from onnxshrink.graph.load import file_digest, load_model
from onnxshrink.measure.session import SessionSettings, open_session
from onnxshrink.report.json_format import from_json, to_json
from tests.support import model_from_text

SAMPLES = Path(__file__).resolve().parents[1] / "sample_models"
NAMES = sorted(path.parent.name for path in SAMPLES.glob("*/model.onnx"))
CNN = SAMPLES / "digits_cnn" / "model.onnx"
TINY = '<ir_version: 8, opset_import: ["" : 13]> tiny (float[n,64] x) => (float[n,64] y) { y = MatMul(x, w) }'
WEIGHT = np.random.default_rng(0).standard_normal((64, 64), np.float32)


def _accuracy(path: Path, data: Path) -> float:
    """Top-1 accuracy, measured here without any of the project's own measuring code."""
    arrays = np.load(data)
    with open_session(path, SessionSettings(threads=1)) as session:
        samples = [arrays["input"][i : i + 1] for i in range(len(arrays["label"]))]
        best = [int(session.run({"input": sample})["logits"].argmax()) for sample in samples]
    return float(np.mean(best == arrays["label"]))


@pytest.mark.parametrize("name", NAMES)
def test_the_default_preset_keeps_accuracy_at_a_third_of_the_size(name: str, tmp_path: Path) -> None:
    model, data, output = SAMPLES / name / "model.onnx", SAMPLES / name / "eval.npz", tmp_path / "o.onnx"
    report = compress(model, output, data=data, latency_seconds=0.1)
    assert not [step.reason for step in report.passes if step.status == "undone"]
    assert report.size_ratio <= 0.35
    assert report.agreement is not None
    assert report.agreement.relative_error is not None
    assert report.agreement.relative_error <= 0.02
    assert _accuracy(model, data) - _accuracy(output, data) <= 0.005
    assert report.accuracy is not None
    assert report.accuracy.result == pytest.approx(_accuracy(output, data), abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_lossless_changes_outputs_by_rounding_only(name: str, tmp_path: Path) -> None:
    report = compress(SAMPLES / name / "model.onnx", tmp_path / "o.onnx", preset="lossless", latency_seconds=0.1)
    assert not [step.reason for step in report.passes if step.status == "undone"]
    assert report.agreement is not None
    assert report.agreement.relative_error is not None
    assert report.agreement.relative_error < 1e-5
    assert report.result.node_count <= report.original.node_count


@pytest.mark.parametrize("name", NAMES)
def test_the_same_input_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    for output in ("a.onnx", "b.onnx"):
        compress(SAMPLES / name / "model.onnx", tmp_path / output, measure=False)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_the_output_says_how_it_was_made(tmp_path: Path) -> None:
    report = compress(CNN, tmp_path / "o.onnx", seed=7, measure=False)
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "o.onnx").metadata_props}
    assert metadata["onnxshrink.input_sha256"] == file_digest(CNN, load_model(CNN)) == report.original.sha256
    assert metadata["onnxshrink.seed"] == "7"
    assert metadata["onnxshrink.version"]
    assert str(Recipe.parse(metadata["onnxshrink.recipe"])) == report.recipe


def test_the_recipe_in_the_metadata_rebuilds_the_bytes(tmp_path: Path) -> None:
    compress(CNN, tmp_path / "a.onnx", measure=False)
    line = {entry.key: entry.value for entry in onnx.load(tmp_path / "a.onnx").metadata_props}["onnxshrink.recipe"]
    compress(CNN, tmp_path / "b.onnx", recipe=line, measure=False)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_models_in_memory_are_taken_and_left_alone(tmp_path: Path) -> None:
    model = model_from_text(TINY, w=WEIGHT)
    before = ir.to_proto(model).SerializeToString()
    report = compress(model, tmp_path / "a.onnx", measure=False)
    compress(ir.to_proto(model), tmp_path / "b.onnx", measure=False)
    assert ir.to_proto(model).SerializeToString() == before
    assert report.original.path is None
    assert report.original.name == "tiny"
    assert report.result.path == str(tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").stat().st_size < len(before)


def test_without_an_output_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = compress(CNN, measure=False)
    assert report.size_ratio < 0.3
    assert list(tmp_path.iterdir()) == []


def test_the_report_says_what_was_not_known() -> None:
    measured = compress(CNN, recipe="drop-unused", latency_seconds=0.1)
    assert any("accuracy is unknown" in note for note in measured.notes)
    assert measured.data is not None
    assert measured.data.synthetic
    unmeasured = compress(CNN, recipe="drop-unused", measure=False)
    assert (unmeasured.latency, unmeasured.agreement, unmeasured.accuracy) == (None, None, None)
    assert any("not measured" in note for note in unmeasured.notes)


def test_data_that_was_not_used_is_called_out() -> None:
    images = np.zeros((2, 1, 8, 8), np.float32)
    report = compress(CNN, recipe="drop-unused", data={"input": images, "labels": np.zeros(2)}, latency_seconds=0.1)
    assert any(note.endswith("were not used: labels") for note in report.notes)
    data = {"input": images, "label": np.full(2, 0.5, np.float32)}
    report = compress(CNN, recipe="drop-unused", data=data, latency_seconds=0.1)
    assert any("the labels were not used: no metric fits labels float32 [2]" in note for note in report.notes)


def test_a_recipe_that_moves_the_outputs_far_is_called_out() -> None:
    report = compress(CNN, recipe="prune-weights{sparsity=0.9}", latency_seconds=0.1)
    assert any("the recipe moved the outputs far" in note for note in report.notes)


def test_pruned_zeros_are_still_zeros_in_the_int8_file() -> None:
    report = compress(CNN, recipe="prune-weights{sparsity=0.6},quantize-weights", measure=False)
    assert report.result.size.zeros / report.result.size.parameters > 0.55


def test_a_larger_result_is_reported_as_that() -> None:
    report = compress(model_from_text(TINY, w=WEIGHT), recipe="drop-identity", measure=False)
    assert report.size_ratio > 1
    assert any("bytes larger than the original" in note for note in report.notes)


def test_reports_hold_everything_and_come_back_from_json() -> None:
    report = compress(CNN, latency_seconds=0.2)
    assert from_json(to_json(report)) == report
    document = json.loads(to_json(report))
    assert document["schema_version"] == 1
    assert len(document["latency"]["original_ms"]) >= 20
    assert {"onnx", "onnxruntime", "onnxshrink", "numpy"} <= set(document["versions"])


def test_large_models_are_not_run_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxshrink.shrink.RUN_LIMIT_BYTES", 1000)
    report = compress(model_from_text(TINY, w=WEIGHT))
    assert report.data is None
    assert any("was not run" in note for note in report.notes)
    assert report.size_ratio < 0.4
    assert compress(model_from_text(TINY, w=WEIGHT), run_large=True, latency_seconds=0.1).agreement is not None


@pytest.mark.parametrize("gate", ["latency<=1.1x", "latency_ms<=5", "load<=2x"])
def test_gates_on_a_clock_that_is_not_read_are_refused(gate: str, tmp_path: Path) -> None:
    with pytest.raises(GateError, match="takes a clock, but latency and load time are not to be measured"):
        compress(CNN, tmp_path / "o.onnx", latency=False, gates=[gate])
    assert list(tmp_path.iterdir()) == []


def test_random_models_are_compared_by_shape_only() -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]> g (float[2,64] x) => (float[2,64] y) {
        h = MatMul(x, w) r = RandomNormalLike(h) y = Add(h, r) }"""
    report = compress(model_from_text(text, w=WEIGHT), latency_seconds=0.1)
    assert [step.status for step in report.passes if step.text == "quantize-weights"] == ["applied"]
    assert any("change from run to run" in note for note in report.notes)


def test_a_result_that_fails_its_check_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxshrink.shrink.complaint_of_checker", lambda path: None if path == CNN else "broken")
    with pytest.raises(CheckError, match="not valid ONNX, nothing was written: broken"):
        compress(CNN, tmp_path / "o.onnx", measure=False)
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments() -> None:
    with pytest.raises(RecipeError, match="not both"):
        compress(CNN, preset="safe", recipe="drop-unused")
    with pytest.raises(ModelError, match="not bytes"):
        compress(b"abc")  # type: ignore[arg-type]
    with pytest.raises(FileAccessError, match="no file to replace"):
        compress(model_from_text(TINY, w=WEIGHT), in_place=True)
    with pytest.raises(DataError, match="no array for the input 'input'"):
        compress(CNN, data=Dataset({"other": np.zeros((1, 1, 8, 8), np.float32)}))


def test_external_data_goes_along(tmp_path: Path) -> None:
    report = compress(CNN, tmp_path / "o.onnx", external_data=True, measure=False)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 2
    assert list(report.result.size.files) == names
    assert report.result.size.file_bytes == sum((tmp_path / name).stat().st_size for name in names)
    assert report.result.sha256 == file_digest(tmp_path / "o.onnx", load_model(tmp_path / "o.onnx"))
    assert names[1].startswith("o.onnx.")
    (tmp_path / "moved").mkdir()
    for name in names:
        (tmp_path / name).rename(tmp_path / "moved" / name)
    again = compress(tmp_path / "moved" / "o.onnx", tmp_path / "again.onnx", preset="lossless", measure=False)
    assert again.original.size.file_bytes > 0


def test_public_names() -> None:
    assert sorted(onnxshrink.__all__) == onnxshrink.__dir__()
    assert all(getattr(onnxshrink, name) is not None for name in onnxshrink.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = onnxshrink.nothing


def test_a_limit_on_load_time_reaches_every_packing_and_is_judged_by_measurement(tmp_path: Path) -> None:
    model, text = SAMPLES / "digits_cnn" / "model.onnx", "share-weights{entries=16},pack-weights"
    tight = compress(model, tmp_path / "tight.onnx", recipe=text, measure=False, max_load_ratio=100)
    loose = compress(model, tmp_path / "loose.onnx", recipe=text, measure=False, max_load_ratio=0.01)
    assert "max-load-ratio=0.01" in loose.recipe
    assert loose.result.size.file_bytes > 2 * tight.result.size.file_bytes
    assert loose.gates == ()
    judged = compress(model, None, recipe=text, latency_seconds=0.2, max_load_ratio=1000)
    assert [(gate.gate, gate.status) for gate in judged.gates] == [("load<=100000%", "passed")]
    with pytest.raises(RecipeError, match="pack-weights, which is not in the recipe"):
        compress(model, None, recipe="quantize-weights", max_load_ratio=2)
