"""A result is made again from what it says about itself; every way in which it may differ is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxshrink import compress
from onnxshrink.errors import CheckError, DataError, ModelError
from onnxshrink.graph.load import load_model
from onnxshrink.graph.save import save_model
from onnxshrink.provenance import Provenance, provenance_props, read_provenance, stamp
from onnxshrink.verification import verify
from tests.support import model_from_text

SAMPLES = Path(__file__).resolve().parents[1] / "sample_models"
MLP = SAMPLES / "cancer_mlp"
CNN = SAMPLES / "digits_cnn"
WEIGHT = np.random.default_rng(0).standard_normal((64, 64), np.float32)
TINY = '<ir_version: 8, opset_import: ["" : 13]> tiny (float[n,64] x) => (float[n,64] y) { y = MatMul(x, w) }'


def made(model: Path, output: Path, **options: Any) -> Path:
    compress(model, output, measure=False, **options)
    return output


@pytest.mark.parametrize(
    "options",
    [
        {"preset": "safe"},
        {"preset": "lossless"},
        {"recipe": "fold-batchnorm,prune-weights{sparsity=0.5},quantize-weights", "seed": 3},
        {"preset": "safe", "batch_size": 3},
        {"preset": "safe", "external_data": True},
    ],
    ids=str,
)
def test_results_that_need_no_data_are_made_again(options: dict[str, Any], tmp_path: Path) -> None:
    found = verify(made(MLP / "model.onnx", tmp_path / "o.onnx", **options), MLP / "model.onnx")
    assert found.identical
    assert found.data == "depends on no data"


def test_a_result_that_was_moved_with_its_data_file_is_made_again(tmp_path: Path) -> None:
    made(MLP / "model.onnx", tmp_path / "o.onnx", external_data=True)
    (tmp_path / "o.onnx").rename(tmp_path / "renamed.onnx")
    assert verify(tmp_path / "renamed.onnx", MLP / "model.onnx").identical


def test_a_model_with_external_data_is_made_again(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    save_model(load_model(CNN / "model.onnx"), source, external=True)
    assert verify(made(source, tmp_path / "o.onnx"), source).identical


def test_static_int8_needs_its_calibration_data(tmp_path: Path) -> None:
    output = made(
        MLP / "model.onnx",
        tmp_path / "o.onnx",
        recipe="quantize-static,quantize-weights",
        data=MLP / "eval.npz",
        calibration_data=MLP / "calib.npz",
        calibration_samples=20,
    )
    model = MLP / "model.onnx"
    found = verify(output, model, data=MLP / "eval.npz", calibration_data=MLP / "calib.npz")
    assert found.identical
    assert found.data == "tried on the given data, calibrated on 20 samples at most"
    with pytest.raises(DataError, match=r"was made with data .* give it with --data"):
        verify(output, model)
    with pytest.raises(DataError, match=r"--data .*calib\.npz is not the data that .* was made with"):
        verify(output, model, data=MLP / "calib.npz")
    with pytest.raises(DataError, match=r"--data .*eval\.npz is not the data"):
        verify(output, model, data=MLP / "eval.npz")
    with pytest.raises(DataError, match=r"--calibration-data .*eval\.npz is not the data"):
        verify(output, model, data=MLP / "eval.npz", calibration_data=MLP / "eval.npz")


def test_calibration_data_alone_is_enough_when_the_rest_was_synthetic(tmp_path: Path) -> None:
    options = {"recipe": "quantize-static", "calibration_data": MLP / "calib.npz"}
    output = made(MLP / "model.onnx", tmp_path / "o.onnx", **options)
    with pytest.raises(DataError, match=r"was calibrated on 100 samples .* give them with --calibration-data"):
        verify(output, MLP / "model.onnx")
    assert verify(output, MLP / "model.onnx", calibration_data=MLP / "calib.npz").identical


def test_the_int8_preset_records_the_alternative_that_it_kept(tmp_path: Path) -> None:
    output, data = tmp_path / "o.onnx", MLP / "eval.npz"
    report = compress(MLP / "model.onnx", output, preset="int8", data=data, latency_seconds=0.1, goal="size")
    kept = [one.text for one in report.alternatives if one.kept]
    recorded = read_provenance(load_model(output), "o.onnx").recipe
    assert len(kept) == 1
    assert recorded.endswith(kept[0])
    assert verify(output, MLP / "model.onnx", data=data).identical


def test_exact_passes_need_no_data_though_they_were_tried_on_some(tmp_path: Path) -> None:
    output = made(MLP / "model.onnx", tmp_path / "o.onnx", preset="lossless", data=MLP / "eval.npz")
    assert verify(output, MLP / "model.onnx").identical


def test_a_pass_that_was_undone_is_not_in_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of this model do not survive int8 within the limit that is set here."""
    source = tmp_path / "m.onnx"
    save_model(model_from_text(TINY, w=WEIGHT), source)
    monkeypatch.setattr("onnxshrink.plan.find_preset", _strict_preset)
    report = compress(source, tmp_path / "o.onnx", preset="strict", measure=False)
    assert [record.status for record in report.passes] == ["undone", "unchanged"]
    assert report.recipe == "quantize-weights,drop-unused"
    assert read_provenance(load_model(tmp_path / "o.onnx"), "o").recipe == "drop-unused"
    assert verify(tmp_path / "o.onnx", source).identical


def _strict_preset(_: str) -> Any:
    from onnxshrink.presets import Preset

    return Preset("quantize-weights,drop-unused", "undoes all", max_relative_error=1e-9)


def test_another_original_is_refused(tmp_path: Path) -> None:
    output = made(MLP / "model.onnx", tmp_path / "o.onnx")
    with pytest.raises(CheckError, match=r"model\.onnx is not the model that .*o\.onnx was made from"):
        verify(output, CNN / "model.onnx")


def test_a_model_of_other_origin_has_no_provenance() -> None:
    with pytest.raises(ModelError, match="does not say how it was made"):
        verify(MLP / "model.onnx", MLP / "model.onnx")


def edited(path: Path, **entries: str) -> None:
    model = load_model(path)
    for key, value in entries.items():
        model.metadata_props[key] = value
    save_model(model, path, force=True)


def test_a_record_that_cannot_be_read(tmp_path: Path) -> None:
    output = made(MLP / "model.onnx", tmp_path / "o.onnx")
    edited(output, **{"onnxshrink.seed": "seven"})
    with pytest.raises(ModelError, match=r"o\.onnx: what it says about its making cannot be read"):
        verify(output, MLP / "model.onnx")


def test_other_versions_and_metadata_are_told_apart_from_other_weights(tmp_path: Path) -> None:
    output = made(MLP / "model.onnx", tmp_path / "o.onnx")
    built = provenance_props(load_model(output))["built_with"]
    entries = {"onnxshrink.version": "0.0.9", "onnxshrink.built_with": built.replace("onnxruntime=", "onnxruntime=0.")}
    edited(output, author="somebody", **entries)
    found = verify(output, MLP / "model.onnx")
    assert not found.identical
    assert found.only_metadata
    assert sorted(one.key for one in found.metadata) == ["author", "onnxshrink.built_with", "onnxshrink.version"]
    assert [line.split()[0] for line in found.versions] == ["onnxshrink", "onnxruntime"]


def test_weights_that_differ_are_named_with_how_far(tmp_path: Path) -> None:
    output = made(MLP / "model.onnx", tmp_path / "o.onnx", preset="lossless")
    model = load_model(output)
    name, value = next(
        (name, one) for name, one in model.graph.initializers.items() if one.shape and len(one.shape) == 2
    )
    assert value.const_value is not None
    array = value.const_value.numpy().copy()
    array[0, 0] += 0.5
    value.const_value = ir.tensor(array, name=name)
    save_model(model, output, force=True)
    found = verify(output, MLP / "model.onnx")
    (weight,) = found.weights
    assert (weight.name, weight.elements) == (name, 1)
    assert weight.max_abs_difference == pytest.approx(0.5, rel=1e-5)
    assert (found.metadata, found.graph) == ((), ())


def test_another_graph_is_told_by_its_operators(tmp_path: Path) -> None:
    output = made(MLP / "model.onnx", tmp_path / "o.onnx", preset="lossless")
    proto = onnx.load(output)
    proto.graph.node.append(onnx.helper.make_node("Abs", [proto.graph.input[0].name], ["unused"]))
    onnx.save(proto, output)
    assert verify(output, MLP / "model.onnx").graph == ("1 Abs, rebuilt 0",)


def test_the_record_comes_back_from_the_metadata_and_leaves_defaults_out() -> None:
    model = model_from_text(TINY, w=WEIGHT)
    plain = Provenance("0.1.0", "drop-unused", "ab" * 32)
    stamp(model, plain)
    assert list(provenance_props(model)) == ["version", "recipe", "input_sha256", "seed"]
    assert read_provenance(model, "m") == plain
    full = Provenance("0.1.0", "x", "ab", 7, "onnx=1", "cd", "ef", 20, 4, 2, run_large=True)
    stamp(model, full)
    assert read_provenance(model, "m") == full
