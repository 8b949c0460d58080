from __future__ import annotations

from dataclasses import replace

from onnxshrink.passes.base import Skip
from onnxshrink.report.markdown import LIMIT_BYTES, to_markdown
from tests.report.example import example_report, unmeasured_report


def test_the_headline_comes_first() -> None:
    lines = to_markdown(example_report()).splitlines()
    assert lines[0] == "### `cnn.onnx` → `small.onnx`"
    assert lines[2].startswith("**412 kB → 108 kB (26.2 % of the size)**; latency: no significant difference")


def test_every_table_row_has_the_columns_of_its_head() -> None:
    for report in (example_report(), unmeasured_report()):
        rows = [line.replace("\\|", "") for line in to_markdown(report).splitlines() if line.startswith("|")]
        assert {row.count("|") for row in rows} == {5}


def test_passes_skips_and_origin_are_there() -> None:
    text = to_markdown(example_report())
    assert "| ⚠️ | `share-identical` | exact | undone: the file grew by 12 bytes |" in text
    assert "| ➖ | `fold-pad` | | nothing to do |" in text
    assert "(4×: `gemm_0`, `gemm_1`, `gemm_2` and 1 more)" in text
    assert "(1×: `x\\|[y]`)" in text
    assert "> ⚠️ the state input was left at zero" in text
    assert "seed 7" in text
    assert text.count("<details>") == text.count("</details>") == 1


def test_text_from_models_is_not_markup() -> None:
    report = replace(example_report(), notes=("<img src=x> [a](b) | *c*\nnext",))
    assert "> ⚠️ \\<img src=x\\> \\[a\\](b) \\| \\*c\\* next" in to_markdown(report)


def test_a_report_of_any_size_fits_a_comment() -> None:
    report = example_report()
    skips = tuple(
        Skip(f"/model/decoder/layer.{index}/{'x' * 400}", f"reason {index} " + "<y>" * 200) for index in range(500)
    )
    busy = replace(report.passes[0], text="quantize-weights{" + "z" * 400 + "}", skips=skips)
    text = to_markdown(replace(report, passes=(busy,) * 200, notes=("note " * 100,) * 100))
    assert len(text.encode()) <= LIMIT_BYTES
    assert text.count("<details>") == text.count("</details>")
    assert text.rstrip().endswith("the JSON report has everything.")
