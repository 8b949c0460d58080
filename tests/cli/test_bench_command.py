"""``onnxshrink bench``: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import SAMPLES, Run

CNN = SAMPLES / "digits_cnn" / "model.onnx"
OLD_CNN = SAMPLES / "digits_cnn_opset9" / "model.onnx"


def test_both_reports_are_written(run_ok: Run, tmp_path: Path) -> None:
    as_json, as_markdown = tmp_path / "b.json", tmp_path / "b.md"
    result = run_ok("bench", CNN, OLD_CNN, "--seconds", 0.1, "--report", as_json, "--report", as_markdown)
    assert "latency ratio" in result.out
    assert "digits_cnn_opset9/model.onnx" in as_markdown.read_text()
    document = json.loads(as_json.read_text())
    assert (document["kind"], document["schema_version"]) == ("bench", 1)
    assert [model["name"] for model in document["models"]] == ["digits_cnn/model.onnx", "digits_cnn_opset9/model.onnx"]
    timings = document["sections"][0]["models"][1]["timings"]
    assert len(timings["runs_ms"]) >= 8
    assert all(run > 0 for load in timings["runs_ms"] for turn in load for run in turn)


def test_json_goes_to_standard_output_alone(run_ok: Run) -> None:
    result = run_ok("bench", CNN, "--seconds", 0.1, "--json", "--batch-size", "2, 4,2", "--threads", "1")
    assert [section["batch_size"] for section in json.loads(result.out)["sections"]] == [2, 4]
    assert result.err == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "Missing argument 'MODEL...'"),
        ((CNN, "--batch-size", "0,1"), 2, "'0,1' is not a list of whole numbers of 1 or more"),
        ((CNN, "--threads", "1,x"), 2, "'1,x' is not a list of whole numbers from 0 to"),
        ((CNN, "--own-inputs", "--data", "d.npz"), 2, "--data and --own-inputs exclude each other"),
        ((CNN, "--report", "b.txt"), 2, "must end in .json or .md"),
        ((CNN, "--data", "missing.npz"), 6, "missing.npz does not exist"),
        ((CNN, SAMPLES / "cancer_mlp" / "model.onnx"), 4, "takes other inputs"),
        (("missing.onnx",), 6, "missing.onnx"),
    ],
)
def test_errors(run_failing: Run, arguments: tuple[object, ...], code: int, message: str) -> None:
    result = run_failing("bench", *arguments)
    assert result.code == code
    assert message in result.err


def test_an_existing_report_is_kept_without_force(run_failing: Run, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text("mine")
    assert run_failing("bench", CNN, "--report", tmp_path / "b.json").code == 6
