from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from onnxshrink.report.compared import Comparison
from onnxshrink.report.json_format import plain_json, read_document, to_json
from tests.cli.conftest import SAMPLES, Run
from tests.report.bench_example import example_bench
from tests.report.evaluation_example import example_evaluation
from tests.report.example import example_report

MLP = SAMPLES / "cancer_mlp"
QUICK = ("--latency-seconds", 0.1)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Path]:
    base = example_report()
    size = replace(base.result.size, files={"m": 120_000})
    new = replace(base, result=replace(base.result, size=size), seed=9)
    paths = tmp_path / "base.json", tmp_path / "new.json"
    for path, report in zip(paths, (base, new), strict=True):
        path.write_text(to_json(report))
    return paths


def test_reports_are_compared_and_the_comparison_is_written(
    saved: tuple[Path, Path], run_ok: Run, tmp_path: Path
) -> None:
    markdown, document = tmp_path / "c.md", tmp_path / "c.json"
    result = run_ok("compare", *saved, "--report", markdown, "--report", document)
    assert "worse" in result.out
    assert "🔺 worse" in markdown.read_text()
    comparison = read_document(document.read_text())
    assert isinstance(comparison, Comparison)
    (size,) = [figure for figure in comparison.pairings[0].figures if figure.label == "file size"]
    assert (size.verdict, size.value) == ("worse", pytest.approx(120 / 108))
    assert json.loads(run_ok("compare", *saved, "--json").out)["kind"] == "comparison"


def test_several_reports_each_against_the_first(saved: tuple[Path, Path], run: Run, tmp_path: Path) -> None:
    base, new = saved
    result = run("compare", base, base, new, "--gate", "size<=105%", "--gate-report", tmp_path / "g.xml")
    assert result.code == 1
    assert result.err == f"onnxshrink: gate failed: size<=105%: 111.1 % ({new})\n"
    assert (tmp_path / "g.xml").read_text().count("<testsuite ") == 2


def test_evaluations_and_benches_are_compared_with_their_own_kind_only(
    saved: tuple[Path, Path], run: Run, run_ok: Run, run_failing: Run, tmp_path: Path
) -> None:
    evaluation, bench = tmp_path / "evaluation.json", tmp_path / "bench.json"
    arguments = ("evaluate", MLP / "model.onnx", "--data", MLP / "eval.npz", "--report", evaluation, "-q")
    run_ok(*arguments, "--against", MLP / "model.onnx")
    bench.write_text(plain_json(example_bench()), encoding="utf-8")
    result = run_ok("compare", evaluation, evaluation, "--gate", "top1>=90%", "--gate", "agreement>=100%")
    assert "top-1 accuracy" in result.out
    failed = run("compare", bench, bench, "--gate", "latency<=50%", "--report", tmp_path / "c.md")
    assert (failed.code, failed.err.count("\n")) == (1, 1)
    for files, message in (
        ((saved[0], evaluation), "evaluation.json: this is a saved evaluation, which cannot be compared with a saved"),
        ((evaluation, saved[0], saved[1]), "base.json: this is a saved compression, which cannot be compared with"),
        ((evaluation, evaluation, bench), "bench.json: this is a saved bench, which cannot be compared with a saved"),
    ):
        refused = run_failing("compare", *files)
        assert refused.code == 3
        assert message in refused.err


def test_models_are_run_side_by_side(run: Run, run_ok: Run, tmp_path: Path) -> None:
    small = tmp_path / "small.onnx"
    run_ok("compress", MLP / "model.onnx", "-o", small, "--no-measure", "-q")
    arguments = ("compare", MLP / "model.onnx", small, *QUICK)
    result = run_ok(*arguments, "--data", MLP / "eval.npz", "--gate", "size<=60%", "--gate", "top1>=0.9")
    assert "better" in result.out
    assert "top-1 accuracy" in result.out
    synthetic = run_ok(*arguments)
    assert "no data was given" in " ".join(synthetic.out.split())
    refused = run(*arguments, "--gate", "top1>=0.9")
    assert (refused.code, refused.out) == (2, "")


def test_models_that_take_other_inputs_are_refused(run_failing: Run) -> None:
    result = run_failing("compare", MLP / "model.onnx", SAMPLES / "digits_mlp" / "model.onnx", *QUICK)
    assert result.code == 3
    assert "the models take other inputs: model.onnx input tensor(float) [batch, 30], model.onnx input" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("{", 3, "bad.json: this report is not valid JSON"),
        ('{"schema_version": 1, "kind": "poem"}', 3, "bad.json: this onnxshrink does not know reports of kind 'poem'"),
        ('{"schema_version": 99}', 3, "upgrade onnxshrink"),
        (None, 6, "cannot read the report"),
    ],
)
def test_bad_reports(
    text: str | None, code: int, message: str, saved: tuple[Path, Path], run_failing: Run, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.json"
    if text is not None:
        bad.write_text(text)
    result = run_failing("compare", saved[0], bad)
    assert result.code == code
    assert message in result.err
    assert result.err.count("\n") == 1


def test_wrong_usage(saved: tuple[Path, Path], run_failing: Run) -> None:
    for arguments, message in (
        ((saved[0],), "Missing argument"),
        ((saved[0], MLP / "model.onnx"), "give reports (.json) or models, not some of each"),
        ((*saved, "--data", MLP / "eval.npz"), "--data is for models: reports are not run"),
        ((*saved, "--report", "c.pdf"), "must end in .json or .md"),
    ):
        result = run_failing("compare", *arguments)
        assert result.code == 2
        assert message in result.err


@pytest.mark.parametrize("kind", ["compression", "evaluation", "bench"])
def test_a_comparison_of_files_imports_nothing_heavy(kind: str, saved: tuple[Path, Path], tmp_path: Path) -> None:
    """Start-up is all that a comparison of two files costs."""
    if kind != "compression":
        for path in saved:
            path.write_text(plain_json(example_bench() if kind == "bench" else example_evaluation()))
    probe = (
        "import sys; from onnxshrink.cli.main import main; code = main(sys.argv[1:]);"
        "heavy = [m for m in ('onnxruntime', 'numpy', 'onnx', 'onnx_ir', 'sympy', 'google.protobuf')"
        " if m in sys.modules]; print(heavy, file=sys.stderr); sys.exit(code)"
    )
    gate = "top1>=0.5" if kind == "evaluation" else "size<=200%"
    arguments = ["--gate", gate, "--report", tmp_path / "c.md", "--gate-report", tmp_path / "g.xml"]
    command = [sys.executable, "-c", probe, "compare", *map(str, saved), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"
