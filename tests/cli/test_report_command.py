from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from onnxshrink.report.bench_markdown import bench_to_markdown
from onnxshrink.report.compared import Comparison
from onnxshrink.report.evaluation_markdown import evaluation_to_markdown
from onnxshrink.report.json_format import from_json, plain_json, to_json
from tests.cli.conftest import SAMPLES, Run
from tests.report.bench_example import example_bench
from tests.report.evaluation_example import example_evaluation
from tests.report.example import example_report, unmeasured_report

CNN = SAMPLES / "digits_cnn"


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Path]:
    files = tmp_path / "a.json", tmp_path / "b.json"
    for file, report in zip(files, (example_report(), unmeasured_report()), strict=True):
        file.write_text(to_json(report), encoding="utf-8")
    return files


def test_a_page_made_later_is_the_page_that_compress_made(run_ok: Run, tmp_path: Path) -> None:
    page, saved, again = tmp_path / "r.html", tmp_path / "r.json", tmp_path / "again.html"
    options = ["--data", CNN / "eval.npz", "--latency-seconds", 0.2, "--report", page, "--report", saved, "-q"]
    run_ok("compress", CNN / "model.onnx", "-o", tmp_path / "small.onnx", *options)
    run_ok("report", saved, "-o", again)
    assert page.read_text(encoding="utf-8") == again.read_text(encoding="utf-8")
    layers = from_json(saved.read_text(encoding="utf-8")).layers
    assert len(layers) > 3
    assert all(layer.output_error is not None and layer.output_error < 0.05 for layer in layers)
    assert sum(layer.parameters for layer in layers) > 90_000


@pytest.mark.parametrize("suffix", [".html", ".md"])
def test_several_reports_get_an_overview(suffix: str, run_ok: Run, saved: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / f"all{suffix}"
    run_ok("report", *saved, "-o", output)
    text = output.read_text(encoding="utf-8")
    assert "2 compressions" in text
    assert text.count("26.2 %") >= 4


def test_evaluations_benches_and_comparisons_are_written_as_markdown(
    run_ok: Run, run_failing: Run, saved: tuple[Path, Path], tmp_path: Path
) -> None:
    found = {"evaluation": example_evaluation(), "bench": example_bench(), "comparison": Comparison("a.json", ())}
    texts = {
        "evaluation": evaluation_to_markdown(example_evaluation()),
        "bench": bench_to_markdown(example_bench()),
        "comparison": "\n",
    }
    for kind, document in found.items():
        file, output = tmp_path / f"{kind}.json", tmp_path / f"{kind}.md"
        file.write_text(plain_json(document), encoding="utf-8")
        run_ok("report", file, "-o", output)
        assert output.read_text(encoding="utf-8") == texts[kind]
        refused = run_failing("report", file, "-o", tmp_path / "p.html")
        assert refused.code == 3
        assert f"{kind}.json is a saved {kind}: .html is made of compressions and batches only" in refused.err
    both = tmp_path / "both.md"
    run_ok("report", saved[0], tmp_path / "evaluation.json", "-o", both)
    assert both.read_text(encoding="utf-8").endswith(f"\n{texts['evaluation']}")


def test_refuses_what_it_cannot_read_or_write(run_failing: Run, saved: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "damaged.json").write_text(to_json(example_report())[:100], encoding="utf-8")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "there.html").write_text("mine", encoding="utf-8")
    for arguments, code, message in (
        ([saved[0], "-o", tmp_path / "page.pdf"], 2, "must end in .html, .md or .csv"),
        ([saved[0], "-o", tmp_path / "there.html"], 6, "--force"),
        ([tmp_path / "none.json", "-o", tmp_path / "p.html"], 6, "none.json"),
        ([saved[0], tmp_path / "damaged.json", "-o", tmp_path / "p.html"], 3, "damaged.json: this report is not valid"),
        ([tmp_path / "binary.json", "-o", tmp_path / "p.html"], 3, "binary.json: a report is UTF-8 text"),
        (["-o", tmp_path / "p.html"], 2, "REPORT.json"),
    ):
        result = run_failing("report", *arguments)
        assert result.code == code, result.err
        assert message in result.err
        assert len(result.err.splitlines()) == 1


def test_without_the_extra_pages_are_refused_before_any_work_and_the_rest_works(
    run_ok: Run, run_failing: Run, saved: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    model = ["compress", CNN / "model.onnx", "-o", tmp_path / "o.onnx", "--no-measure"]
    for arguments in (["report", saved[0], "-o", tmp_path / "p.html"], [*model, "--report", tmp_path / "p.html"]):
        assert "pip install 'onnxshrink[html]'" in run_failing(*arguments).err
    run_ok("report", saved[0], "-o", tmp_path / "p.md")
    run_ok(*model, "-q", "--report", tmp_path / "r.md", "--report", tmp_path / "r.json")


def test_a_report_without_layers_still_makes_a_page(run_ok: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(to_json(replace(example_report(), layers=())), encoding="utf-8")
    run_ok("report", file, "-o", tmp_path / "a.html")
    assert "Size by layer" not in (tmp_path / "a.html").read_text(encoding="utf-8")
