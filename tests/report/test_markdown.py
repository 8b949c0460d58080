from __future__ import annotations

from dataclasses import replace

import pytest

from onnxshrink.passes.base import Skip
from onnxshrink.report.markdown import overview_to_markdown, to_markdown
from onnxshrink.report.markdown_sections import LIMIT_BYTES
from onnxshrink.report.report import Report
from tests.report.example import example_report, unmeasured_report


def assert_whole(text: str) -> None:
    """Every ``<details>`` is closed, and every table has a head and rows of as many cells, with nothing in between."""
    depth, columns, place = 0, 0, 0
    for line in text.splitlines():
        depth += line.startswith("<details>") - line.startswith("</details>")
        assert depth >= 0
        if not line.startswith("|"):
            assert place != 1, "a table of a head alone"
            columns, place = 0, 0
            continue
        cells = line.replace("\\|", "").count("|")
        place, columns = place + 1, columns or cells
        assert cells == columns, line
        assert place != 2 or set(line) <= set("|-:"), line
    assert depth == 0


def busy_report(skipped: int, passes: int, notes: int) -> Report:
    report = example_report()
    skips = tuple(
        Skip(f"/model/decoder/layer.{index}/{'x' * 400}", f"reason {index} " + "<y>" * 200) for index in range(skipped)
    )
    busy = replace(report.passes[0], text="quantize-weights{" + "z" * 400 + "}", skips=skips)
    layers = report.layers * 100
    return replace(report, passes=(busy,) * passes, notes=("note " * 100,) * notes, layers=layers)


def test_the_headline_comes_first() -> None:
    lines = to_markdown(example_report()).splitlines()
    assert lines[0] == "### `cnn.onnx` → `small.onnx`"
    assert lines[2].startswith("**412 kB → 108 kB (26.2 % of the size)**; latency: no significant difference")


def test_every_table_row_has_the_columns_of_its_head() -> None:
    for report in (example_report(), unmeasured_report()):
        assert_whole(to_markdown(report))


def test_passes_skips_and_origin_are_there() -> None:
    text = to_markdown(example_report())
    assert "| ⚠️ | `share-identical` | exact | undone: the file grew by 12 bytes |" in text
    assert "| ➖ | `fold-pad` | | nothing to do |" in text
    assert "(4×: `gemm_0`, `gemm_1`, `gemm_2` and 1 more)" in text
    assert "(1×: `x\\|[y]`)" in text
    assert "> ⚠️ the state input was left at zero" in text
    assert "seed 7" in text
    assert text.count("<details>") == text.count("</details>") == 3
    assert "| `fc` | Gemm | 100 kB | 25.0 kB | 0.0039 |" in text


def test_text_from_models_is_not_markup() -> None:
    report = replace(example_report(), notes=("<img src=x> [a](b) | *c*\nnext",))
    assert "> ⚠️ \\<img src=x\\> \\[a\\](b) \\| \\*c\\* next" in to_markdown(report)


@pytest.mark.parametrize("passes", [1, 20, 60, 200])
@pytest.mark.parametrize("notes", [0, 60])
def test_a_report_of_any_size_fits_a_comment_and_nothing_is_cut_open(passes: int, notes: int) -> None:
    text = to_markdown(busy_report(200, passes, notes))
    assert len(text.encode()) <= LIMIT_BYTES
    assert_whole(text)
    assert text.rstrip().endswith("the JSON report has everything.")
    assert text.startswith("### `cnn.onnx` → `small.onnx`")
    assert "| file size |" in text


def test_what_is_missing_is_counted() -> None:
    text = to_markdown(busy_report(0, 1000, 0))
    shown = text.count("| `quantize-weights{")
    assert 50 < shown < 1000
    assert f"| | … and {1000 - shown} more | | |" in text


def test_several_reports_make_one_comment() -> None:
    text = overview_to_markdown([example_report(), unmeasured_report()])
    assert_whole(text)
    assert (
        "| 1 | `cnn.onnx → small.onnx` | `safe` | 412 kB → 108 kB | 26.2 % | 1.00x [0.98, 1.01], not significant |"
        in text
    )
    assert "<details><summary>2: cnn.onnx → small.onnx</summary>" in text
    for count in (2, 10, 3000):
        large = overview_to_markdown([busy_report(50, 20, 20)] * count)
        assert len(large.encode()) <= LIMIT_BYTES
        assert_whole(large)


def test_model_names_in_summaries_are_escaped() -> None:
    report = example_report()
    named = replace(report, original=replace(report.original, name="<b>\"&'.onnx"))
    assert "<summary>1: &lt;b&gt;&quot;&amp;&#x27;.onnx → small.onnx</summary>" in overview_to_markdown([named, report])
