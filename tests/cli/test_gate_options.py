"""Gates on the command line: what is refused before any work, what exits with 1, what is written."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from onnxshrink.limits import label_free
from onnxshrink.metrics.spelling import parse_metrics
from onnxshrink.report.json_format import from_json
from tests.cli.conftest import SAMPLES, Run

MLP = SAMPLES / "cancer_mlp"
QUICK = ("--latency-seconds", 0.1)


def test_a_failed_gate_exits_with_1_writes_the_result_and_says_one_line(run: Run, tmp_path: Path) -> None:
    output, report, junit = tmp_path / "o.onnx", tmp_path / "r.json", tmp_path / "g.xml"
    result = run(
        *("compress", MLP / "model.onnx", "-o", output, "--no-measure", "--report", report, "--gate-report", junit),
        *("--gate", "size<=10%", "--gate", "file<=1MB"),
    )
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert result.err.startswith("onnxshrink: gate failed: size<=10%: ")
    assert "gate size<=10%" in result.out
    assert output.exists()
    assert [gate.status for gate in from_json(report.read_text()).gates] == ["failed", "passed"]
    suite = ElementTree.parse(junit).getroot()[0]
    assert (suite.get("name"), suite.get("tests"), suite.get("failures")) == ("o.onnx", "2", "1")


def test_gates_that_hold_exit_with_0(run_ok: Run, tmp_path: Path) -> None:
    report = tmp_path / "r.md"
    result = run_ok(
        *("compress", MLP / "model.onnx", "-o", tmp_path / "o.onnx", "--data", MLP / "eval.npz", *QUICK),
        *("--gate", "size<=60%", "--gate", "accuracy>=-5pt", "--gate", "top1>=0.9", "--gate", "error<=0.2"),
        *("--gate", "agreement>=0.9", "--gate", "latency<=1000%", "--report", report),
    )
    assert result.err == ""
    assert report.read_text().count("✅ passed") == 6


def test_gates_come_from_files_and_recipes_too(run: Run, tmp_path: Path) -> None:
    gates, recipe, output = tmp_path / "gates.toml", tmp_path / "recipe.toml", tmp_path / "o.onnx"
    gates.write_text('gates = ["size<=1%"]\n')
    recipe.write_text('gates = ["nodes<=1"]\n[[pass]]\nname = "fold-batchnorm"\n')
    arguments = ("compress", MLP / "model.onnx", "-o", output, "--no-measure", "-q", "--gates", gates)
    result = run(*arguments, "--recipe", recipe, "--gate", "file<=1kB")
    assert result.code == 1
    assert [line.split(": ")[2] for line in result.err.splitlines()] == ["file<=1kB", "size<=1%", "nodes<=1"]


def test_an_uncertain_gate_is_told_and_fails_only_on_request(run: Run, tmp_path: Path) -> None:
    """The limit is the accuracy's own change: it lies within the interval whatever the machine."""
    arguments = ("compress", MLP / "model.onnx", "--force", "-o", tmp_path / "o.onnx", "--data", MLP / "eval.npz")
    gate = ("--recipe", "drop-unused", *QUICK, "--gate", "accuracy>=0pt", "--gate-report", tmp_path / "g.xml")
    result = run(*arguments, *gate)
    assert result.code == 0
    assert "gate uncertain: accuracy>=0pt: +0.00 pt [−" in result.err
    assert ElementTree.parse(tmp_path / "g.xml").getroot().get("skipped") == "1"
    assert run(*arguments, *gate, "--gate-uncertain", "fail").code == 1
    strict = run(*arguments, *gate, "--gate-uncertain", "pass")
    assert (strict.code, strict.err) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gate", "latncy<=1"), "did you mean 'latency'?"),
        (
            ("--gate", "latency<=1", "--no-measure"),
            "'latency<=1' needs a measurement, but nothing is measured",
        ),
        (("--gate", "accuracy>=-1pt"), "the gate 'accuracy>=-1pt' needs labels, but no data was given"),
        (("--gate-report", "g.xml"), "there are no gates"),
        (("--gate-report", "g.txt", "--gate", "size<=1"), "must end in .xml"),
    ],
)
def test_gates_that_cannot_be_judged_are_refused(
    arguments: tuple[str, ...], message: str, run_failing: Run, tmp_path: Path
) -> None:
    result = run_failing("compress", MLP / "model.onnx", "-o", tmp_path / "o.onnx", *arguments)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


def test_data_without_labels_is_refused_before_the_passes_run(run_failing: Run, tmp_path: Path) -> None:
    data = tmp_path / "d.npz"
    np.savez(data, input=np.load(MLP / "eval.npz")["input"][:8])
    result = run_failing(
        *("compress", MLP / "model.onnx", "-o", tmp_path / "o.onnx", "--data", data, "--gate", "top1>=0.5")
    )
    assert result.code == 2
    assert "needs labels, but" in result.err
    assert "has none" in result.err


def test_labels_that_fit_no_output_fail_the_gate(run: Run, tmp_path: Path) -> None:
    data = tmp_path / "d.npz"
    np.savez(data, input=np.load(MLP / "eval.npz")["input"][:8], label=np.linspace(0, 1, 8))
    arguments = ("compress", MLP / "model.onnx", "-o", tmp_path / "o.onnx", "--data", data, *QUICK)
    result = run(*arguments, "--gate", "top1>=0.5")
    assert result.code == 1
    assert "gate failed: top1>=0.5: top1 was not measured: the data has no labels that fit an output" in result.err


def test_metrics_that_need_no_labels_can_be_gated_without_them(run: Run, run_failing: Run, tmp_path: Path) -> None:
    arguments = ("compress", MLP / "model.onnx", "-o", tmp_path / "o.onnx", *QUICK)
    gates = ("--gate", "top1-agreement>=0.9", "--gate", "accuracy>=-5pt", "--gate", "relative-error<=0.05")
    result = run(*arguments, "--metric", "top1-agreement", *gates, "--gate", "sqnr>=20dB")
    assert (result.code, result.err.count("gate")) == (0, 0), result.err
    refused = run_failing(*arguments, "--force", "--metric", "top1-agreement", "--gate", "top1>=0.9")
    assert refused.code == 2
    assert "the gate 'top1>=0.9' needs labels, but no data was given" in refused.err
    refused = run_failing(*arguments, "--force", "--metric", "top1,top1-agreement", "--gate", "accuracy>=0.9")
    assert "the gate 'accuracy>=0.9' needs labels" in refused.err


def test_boxes_of_the_original_need_no_labels() -> None:
    (detection,), (top1,) = parse_metrics("detection{score=0.7}"), parse_metrics("top1")
    assert label_free((detection, top1)) == {"detection", "accuracy"}
    assert label_free((top1, detection)) == {"detection"}
    assert label_free(()) == set()


def test_a_gate_file_without_gates(run_failing: Run, tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text("")
    result = run_failing("compress", MLP / "model.onnx", "-o", tmp_path / "o.onnx", "--gates", tmp_path / "g.toml")
    assert result.code == 2
    assert "g.toml has no gates" in result.err
