"""Benches of real sessions: what is measured and recorded, never how fast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxshrink.bench import bench_models
from onnxshrink.errors import DataError, ModelError

ROOT = Path(__file__).resolve().parents[1]
CNN = ROOT / "sample_models" / "digits_cnn"


def _save(folder: Path, name: str, signature: str, body: str = "y = Relu(x)") -> Path:
    path = folder / name
    header = '<ir_version: 8, opset_import: ["": 17]>'
    onnx.save(onnx.parser.parse_model(f"{header} m ({signature}) => (float[N, 4] y) {{ {body} }}"), path)
    return path


def test_every_combination_is_a_section(tmp_path: Path) -> None:
    model = _save(tmp_path, "m.onnx", "float[N, 4] x")
    bench = bench_models([model, model, model], batch_sizes=(1, 3), threads=(1, 2), seconds=0.02)
    assert [(section.batch_size, section.threads) for section in bench.sections] == [(1, 1), (1, 2), (3, 1), (3, 2)]
    assert [model.name for model in bench.models] == ["m.onnx (1)", "m.onnx (2)", "m.onnx (3)"]
    assert len({model.sha256 for model in bench.models}) == 1
    for section in bench.sections:
        base, *others = section.models
        assert base.ratio is None
        assert all(
            other.ratio is not None and other.ratio.low <= other.ratio.ratio <= other.ratio.high for other in others
        )
        for found in section.models:
            assert found.runs == len(found.timings.all_runs_ms) >= 8 * 4
            assert found.fastest_ms <= (found.percentiles_ms["p50"] or 0) <= found.slowest_ms
            assert found.samples_per_second == pytest.approx(
                1000 * section.batch_size / float(np.median(found.timings.all_runs_ms))
            )
            assert found.peak_memory_bytes is None or found.peak_memory_bytes > 0
            assert found.profile is None


def test_names_have_as_many_folders_as_it_takes(tmp_path: Path) -> None:
    folders = [tmp_path / part / "x" for part in ("a", "b")]
    for folder in folders:
        folder.mkdir(parents=True)
    bench = bench_models([_save(folder, "m.onnx", "float[N, 4] x") for folder in folders], seconds=0.02)
    assert [model.name for model in bench.models] == ["a/x/m.onnx", "b/x/m.onnx"]


def test_a_profile_covers_the_run() -> None:
    (section,) = bench_models([CNN / "model.onnx"], seconds=0.05, profile=True).sections
    profile = section.models[0].profile
    assert profile is not None
    assert sum(operator.share for operator in profile.operators) == pytest.approx(1)
    assert profile.operators[0].op_type == "Conv"


def test_data_is_used_and_named() -> None:
    bench = bench_models([CNN / "model.onnx"], data=CNN / "eval.npz", batch_sizes=(5,), seconds=0.02)
    facts = bench.models[0].data
    assert (facts.synthetic, facts.samples) == (False, 5)
    assert facts.description.endswith("eval.npz")
    assert not any("made up" in note for note in bench.notes)


def test_made_up_inputs_are_said_to_be() -> None:
    bench = bench_models([CNN / "model.onnx"], seconds=0.02, seed=3)
    assert bench.notes[0].startswith("Inputs are made up (seed 3)")
    assert bench.models[0].data.seed == 3


@pytest.mark.parametrize(
    ("signature", "body", "message"),
    [
        ("float[N, 4] z", "y = Relu(z)", "a.onnx has an input 'x' that it lacks"),
        ("float[N, 4] x, float[N, 4] z", "y = Add(x, z)", "it has an input 'z' that a.onnx lacks"),
        ("double[N, 4] x", "y = Cast<to = 1>(x)", r"'x' is tensor\(double\) \[N, 4\] there"),
        ("float[4] x", "a = Constant<value = int64[1] {0}>() y = Unsqueeze(x, a)", r"\[4\] there"),
    ],
)
def test_models_with_other_inputs_are_refused_with_a_way_out(
    tmp_path: Path, signature: str, body: str, message: str
) -> None:
    first = _save(tmp_path, "a.onnx", "float[N, 4] x")
    other = _save(tmp_path, "b.onnx", signature, body)
    with pytest.raises(DataError, match=f"b.onnx takes other inputs: .*{message}.*--own-inputs"):
        bench_models([first, other], seconds=0.02)


def test_models_with_other_inputs_run_on_inputs_of_their_own(tmp_path: Path) -> None:
    first = _save(tmp_path, "a.onnx", "float[N, 4] x")
    other = _save(tmp_path, "b.onnx", "float[N, 4] z", "y = Relu(z)")
    bench = bench_models([first, other], own_inputs=True, seconds=0.02)
    assert bench.models[0].data.digest != bench.models[1].data.digest
    assert "for each model by itself" in bench.notes[0]


def test_a_free_dimension_takes_the_size_that_another_model_fixes(tmp_path: Path) -> None:
    free = _save(tmp_path, "a.onnx", "float[N, M] x")
    fixed = _save(tmp_path, "b.onnx", "float[2, 4] x")
    (section,) = bench_models([free, fixed], seconds=0.02).sections
    assert section.batch_size == 2


def test_a_batch_that_a_model_cannot_take_is_refused(tmp_path: Path) -> None:
    fixed = _save(tmp_path, "a.onnx", "float[2, 4] x")
    with pytest.raises(DataError, match=r"a.onnx: .* make a batch of 2, not the 8 of --batch-size"):
        bench_models([fixed], batch_sizes=(8,), seconds=0.02)


def test_too_few_samples_for_the_batch_are_refused() -> None:
    with pytest.raises(DataError, match="make a batch of 450, not the 1000"):
        bench_models([CNN / "model.onnx"], data=CNN / "eval.npz", batch_sizes=(1000,), seconds=0.02)


def test_data_that_does_not_fit_names_the_model(tmp_path: Path) -> None:
    other = _save(tmp_path, "b.onnx", "float[N, 4] z", "y = Relu(z)")
    with pytest.raises(DataError, match=r"b.onnx: .*no array for the input 'z'"):
        bench_models([CNN / "model.onnx", other], data=CNN / "eval.npz", seconds=0.02)


def test_no_model_is_an_error() -> None:
    with pytest.raises(ModelError, match="at least one model"):
        bench_models([])
