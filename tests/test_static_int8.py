"""Static int8 from end to end on the sample models: the kernels that run, how far outputs move, and no saturation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from onnxshrink.calibration.dataset import Dataset
from onnxshrink.calibration.walk import walk_layers
from onnxshrink.errors import RecipeError
from onnxshrink.graph.load import load_model
from onnxshrink.graph.walked_layer import WalkedLayer
from onnxshrink.measure.kernels import measure_kernels
from onnxshrink.measure.session import SessionSettings, open_session
from onnxshrink.measured import Agreement
from onnxshrink.numerics.agreement import AgreementMeter
from onnxshrink.shrink import compress

SAMPLES = Path(__file__).resolve().parents[1] / "sample_models"
CNN = SAMPLES / "digits_cnn"


def _quantized(name: str, tmp_path: Path, recipe: str = "quantize-static") -> Path:
    folder, output = SAMPLES / name, tmp_path / "int8.onnx"
    compress(folder / "model.onnx", output, recipe=recipe, data=folder / "calib.npz", measure=False)
    return output


def _agreement(name: str, output: Path, settings: SessionSettings) -> Agreement:
    meter = AgreementMeter()
    with open_session(SAMPLES / name / "model.onnx") as original, open_session(output, settings) as result:
        data = Dataset.from_npz(SAMPLES / name / "eval.npz", original.inputs)
        for batch in data.batches(original.inputs, 1, limit=60):
            meter.add(original.run(batch.feed), result.run(batch.feed), batch.samples)
    return meter.agreement()


# Uniform rounding to 8 bits moves each of the roughly ten quantized activations on a path by about 1/255/√12 ≈ 0.1 % of
# its range, which is four to ten times its root mean square: 1 % each, 4 % together at the worst.
@pytest.mark.parametrize("name", ["digits_cnn", "digits_cnn_opset9", "digits_mlp", "digits_vit"])
def test_layers_run_as_integer_kernels_and_outputs_stay_close(name: str, tmp_path: Path) -> None:
    output = _quantized(name, tmp_path)
    kernels = measure_kernels(load_model(output))
    assert kernels.integer
    assert kernels.missed == ()
    assert kernels.unasked == ()
    plain = _agreement(name, output, SessionSettings(optimized=False)).relative_error
    fused = _agreement(name, output, SessionSettings()).relative_error
    assert plain is not None
    assert plain < 0.04
    assert fused is not None
    assert abs(fused - plain) < 0.01


def test_what_is_excluded_stays_float_in_the_runtime_too(tmp_path: Path) -> None:
    whole = measure_kernels(load_model(_quantized("digits_cnn", tmp_path)))
    (tmp_path / "int8.onnx").unlink()
    spared = measure_kernels(
        load_model(_quantized("digits_cnn", tmp_path, "quantize-static{exclude=/depthwise/depthwise.0/Conv}"))
    )
    assert spared.integer["QLinearConv"] == whole.integer["QLinearConv"] - 1
    assert spared.unasked == ()


def test_a_pattern_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="exclude 'nowhere' matches no node"):
        _quantized("digits_cnn", tmp_path, "quantize-static{exclude=nowhere}")


@pytest.mark.parametrize("name", ["digits_cnn", "digits_mlp"])
def test_kernels_that_cannot_saturate_give_the_same_outputs(name: str, tmp_path: Path) -> None:
    output = _quantized(name, tmp_path)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    precise = ort.InferenceSession(str(output), options, providers=["CPUExecutionProvider"])
    with open_session(output) as session:
        data = Dataset.from_npz(SAMPLES / name / "eval.npz", session.inputs)
        for batch in data.batches(session.inputs, 1, limit=30):
            for scale in (1.0, 1e3):  # also where every activation is at the end of its range
                feed = {key: (scale * array).astype(array.dtype) for key, array in batch.feed.items()}
                for expected, found in zip(precise.run(None, feed), session.run(feed).values(), strict=True):
                    np.testing.assert_array_equal(found, expected)


def test_statistics_are_kept_for_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxshrink.calibrated as module

    def run(output: str) -> bytes:
        compress(
            CNN / "model.onnx",
            tmp_path / output,
            recipe="quantize-static{equalize=off}",
            data=CNN / "calib.npz",
            calibration_cache=tmp_path / "cache",
            measure=False,
        )
        return (tmp_path / output).read_bytes()

    first = run("first.onnx")
    assert list((tmp_path / "cache").iterdir())
    monkeypatch.setattr(module, "collect_statistics", lambda *_: pytest.fail("the statistics are in the cache"))
    assert run("second.onnx") == first


@pytest.mark.parametrize("memory_bytes", [0, 2**28])
def test_a_walk_gives_what_the_model_gives_from_memory_and_from_files(memory_bytes: int) -> None:
    model = load_model(CNN / "model.onnx")
    layers = [node for node in model.graph if node.op_type == "Conv"]
    names = [node.outputs[0].name or "" for node in layers]
    with open_session(CNN / "model.onnx") as session:
        data = Dataset.from_npz(CNN / "calib.npz", session.inputs)
        feeds = [batch.feed for batch in data.batches(session.inputs, 1, limit=3)]
    walked = [WalkedLayer(name, name, 1, (name, name)) for name in names]
    shifts = [step.output_shift() for step in walk_layers(model, model.clone(), walked, feeds, memory_bytes)]
    assert len(shifts) == len(layers)
    for shift in shifts:
        np.testing.assert_array_equal(shift, 0)
