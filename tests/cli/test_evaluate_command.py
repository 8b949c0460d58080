"""``onnxshrink evaluate`` and ``compress --metric`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onnxshrink.report.json_format import from_json
from tests.cli.conftest import SAMPLES, Run

CNN = SAMPLES / "digits_cnn"
MODEL, DATA = CNN / "model.onnx", CNN / "eval.npz"


def test_it_prints_the_metric_and_why(run_ok: Run) -> None:
    text = run_ok("evaluate", MODEL, "--data", DATA).out
    assert "top-1 accuracy" in text
    assert "95 % interval" in text
    assert "labels are integers" in text


def test_against_itself_it_writes_that_there_is_no_difference(run_ok: Run, tmp_path: Path) -> None:
    reports = ["--report", tmp_path / "e.json", "--report", tmp_path / "e.md"]
    arguments = ["--against", MODEL, "--metric", "top1,f1{average=macro}", "--limit", 100, "--threads", 1]
    printed = run_ok("evaluate", MODEL, "--data", DATA, *arguments, *reports, "--json").out
    document = json.loads((tmp_path / "e.json").read_text())
    assert json.loads(printed) == document
    assert document["kind"] == "evaluation"
    assert [one["metric"] for one in document["differences"]] == ["top-1", "F1 (macro)"]
    assert document["differences"][0]["samples"] == 100
    assert "top-1 accuracy: no significant difference" in (tmp_path / "e.md").read_text()
    again = run_ok("evaluate", MODEL, "--data", DATA, *arguments, *reports[:2], "--force", "--quiet")
    assert (again.out, again.err) == ("", "")


def test_compress_judges_by_the_metrics_that_are_named(run_ok: Run, tmp_path: Path) -> None:
    arguments = ["--data", DATA, "--latency-seconds", 0.2, "--metric", "f1,top1", "--json"]
    report = from_json(run_ok("compress", MODEL, "-o", tmp_path / "o.onnx", *arguments).out)
    assert report.accuracy is not None
    assert (report.accuracy.metric, [one.metric for one in report.other_metrics]) == ("F1 (macro)", ["top-1"])
    assert report.accuracy.difference_low is not None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give samples with --data"),
        (["--data", DATA, "--metric", "topp1"], 2, "did you mean 'top1'?"),
        (["--data", DATA, "--metric", "cer"], 4, "cer needs strings as labels"),
        (["--data", DATA, "--label", "mark"], 4, "no array 'mark' for the labels"),
        (["--data", "missing.npz"], 6, "does not exist"),
        (["--data", DATA, "--report", "e.txt"], 2, "must end in .json or .md"),
    ],
)
def test_errors_are_one_line(arguments: list[object], code: int, message: str, run_failing: Run) -> None:
    result = run_failing("evaluate", MODEL, *arguments)
    assert result.code == code
    assert message in result.err
    assert result.err.count("\n") == 1


def test_compress_refuses_metrics_that_it_cannot_use_before_it_starts(run_failing: Run, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("def looped(run, arrays):\n    return []\n")
    output = ["compress", MODEL, "-o", tmp_path / "o.onnx", "--metric"]
    looped = run_failing(*output, f"{tmp_path}/m.py:looped", "--data", DATA)
    assert "works with `onnxshrink evaluate` only" in looped.err
    unlabelled = run_failing(*output, "top1")
    assert (looped.code, unlabelled.code) == (4, 4)
    assert "top1 needs labels" in unlabelled.err


def test_labels_that_no_class_has_stop_both_commands(run_failing: Run, tmp_path: Path) -> None:
    with np.load(DATA) as arrays:
        data = {name: arrays[name] for name in arrays.files}
    np.savez(tmp_path / "d.npz", **{**data, "label": data["label"] + 1})
    for command in (["evaluate", MODEL], ["compress", MODEL, "-o", tmp_path / "o.onnx", "--latency-seconds", 0.2]):
        result = run_failing(*command, "--data", tmp_path / "d.npz")
        assert result.code == 4
        assert "there is a label 10, but the output has 10 classes (0 to 9)" in result.err
