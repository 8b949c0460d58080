"""``report`` and ``compare`` on saved summaries of batches, and what a batch leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxshrink.cli.batch_output import conclude_batch, show_batch, write_summaries
from onnxshrink.report.batch_csv import batch_to_csv
from onnxshrink.report.batch_markdown import batch_to_markdown
from onnxshrink.report.html.batch_page import batch_to_html
from onnxshrink.report.json_format import plain_json, to_json
from tests.cli.conftest import Run
from tests.report.batch_example import entry, example_batch, failed_entry
from tests.report.example import example_report


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    file = tmp_path / "summary.json"
    file.write_text(plain_json(example_batch()), encoding="utf-8")
    return file


def test_a_saved_batch_becomes_a_page_a_text_and_a_table(run_ok: Run, saved: Path, tmp_path: Path) -> None:
    texts = {
        ".html": batch_to_html(example_batch(), tmp_path),
        ".md": batch_to_markdown(example_batch()),
        ".csv": batch_to_csv(example_batch()),
    }
    for suffix, text in texts.items():
        run_ok("report", saved, "-o", tmp_path / f"again{suffix}")
        assert (tmp_path / f"again{suffix}").read_text(encoding="utf-8") == text


def test_tables_and_pages_of_mixed_documents_are_refused(run_failing: Run, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(to_json(example_report()), encoding="utf-8")
    mixed = run_failing("report", saved, tmp_path / "r.json", "-o", tmp_path / "p.html")
    assert (mixed.code, "give one summary of a batch" in mixed.err) == (2, True)
    table = run_failing("report", tmp_path / "r.json", "-o", tmp_path / "t.csv")
    assert "r.json is a saved compression: .csv is made of batches only" in table.err


def test_compare_tells_which_models_changed_and_judges_gates(run: Run, saved: Path, tmp_path: Path) -> None:
    worse = example_batch(entry(result_bytes=150_000), *example_batch().entries[1:-1], failed_entry("new.onnx", "why"))
    (tmp_path / "new.json").write_text(plain_json(worse), encoding="utf-8")
    result = run("compare", saved, tmp_path / "new.json", "--gate", "size<=102%", "--json")
    assert result.code == 1
    assert "gate failed: size<=102%: 138.9 % (vision/a.onnx)" in result.err
    (found,) = json.loads(result.out)["pairings"]
    assert [figure["label"] for figure in found["figures"] if figure["verdict"] == "worse"] == [
        "size of 5 models",
        "vision/a.onnx: size",
    ]
    assert [change["label"] for change in found["changes"]] == ["broken/garbage.onnx", "new.onnx"]


def test_all_summaries_but_the_one_of_the_run_are_written(tmp_path: Path) -> None:
    write_summaries(example_batch(), tmp_path, str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"summary.{end}" for end in ("csv", "html", "md")]


def test_without_the_extra_the_page_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    write_summaries(example_batch(), tmp_path, str(tmp_path))
    assert not (tmp_path / "summary.html").exists()
    assert (tmp_path / "summary.csv").exists()


def test_failed_models_go_before_failed_gates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gates.xml"
    assert conclude_batch(example_batch(), file) == 7
    assert 'errors="1"' in file.read_text(encoding="utf-8")
    fine = example_batch(*example_batch().entries[:-1])
    assert conclude_batch(fine, None) == 1
    assert conclude_batch(example_batch(entry()), None) == 0
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "onnxshrink: gate failed: size<=30%: 97.1 % (text/big.onnx)"
    assert len(err) == 4


def test_many_failed_gates_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    bad = example_batch().entries[3].gates
    conclude_batch(example_batch(*(entry(f"{place}.onnx", gates=bad) for place in range(80))), None)
    assert capsys.readouterr().err.splitlines()[50] == "onnxshrink: and 30 gates more that failed or are uncertain"


def test_where_no_table_is_shown_failures_are_still_told(capsys: pytest.CaptureFixture[str]) -> None:
    show_batch(example_batch(), quiet=True, as_json=False, verbose=False)
    quiet = capsys.readouterr()
    assert quiet.out == ""
    assert quiet.err.startswith("onnxshrink: failed: broken/garbage.onnx: models/broken/garbage.onnx is not")
    show_batch(example_batch(), quiet=False, as_json=True, verbose=False)
    assert json.loads(capsys.readouterr().out)["kind"] == "batch"
    show_batch(example_batch(), quiet=False, as_json=False, verbose=False)
    table = capsys.readouterr()
    assert "Failed: 1 model" in table.out
    assert table.err == ""
