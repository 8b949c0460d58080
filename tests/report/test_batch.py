from __future__ import annotations

import csv
import io
from xml.etree import ElementTree

import pytest
from rich.console import Console

from onnxshrink.report.batch import Batch
from onnxshrink.report.batch_csv import batch_to_csv
from onnxshrink.report.batch_markdown import batch_to_markdown
from onnxshrink.report.batch_summary import duration_text, headline, lines, ranked, totals
from onnxshrink.report.batch_terminal import render_batch
from onnxshrink.report.json_format import plain_json, read_document
from onnxshrink.report.junit import to_junit
from onnxshrink.report.markdown_sections import LIMIT_BYTES
from tests.report.batch_example import entry, example_batch, failed_entry, large_batch
from tests.report.test_markdown import assert_whole


def rendered(batch: Batch, width: int = 80, *, verbose: bool = False) -> str:
    stream = io.StringIO()
    render_batch(batch, Console(file=stream, width=width, no_color=True), verbose=verbose)
    return stream.getvalue()


def test_a_saved_batch_reads_back() -> None:
    text = plain_json(example_batch())
    assert '"kind": "batch"' in text
    assert read_document(text) == example_batch()
    assert '"relative_error": "Infinity"' in text


def test_totals_count_every_model_once_and_leave_failed_ones_out_of_the_bytes() -> None:
    sums = totals(example_batch().entries)
    assert (sums.models, sums.compressed, sums.copied, sums.failed) == (6, 4, 1, 1)
    assert (sums.gated, sums.gates_failed, sums.gates_uncertain) == (5, 1, 1)
    assert (sums.timed, sums.faster, sums.slower) == (5, 3, 1)
    assert (sums.original_bytes, sums.result_bytes) == (5 * 412_000, 4 * 108_000 + 400_000)
    assert sums.shares == tuple(sorted([108 / 412] * 4 + [400 / 412]))


def test_the_headline_says_what_came_out() -> None:
    assert headline(example_batch()) == (
        "5 of 6 models compressed (1 of them copies of equal ones), 1 failed",
        "2.06 MB → 832 kB (40.4 % of the size), median 26.2 %, from 26.2 % to 97.1 %",
        "latency: 3 faster, 1 slower, 1 without a significant difference",
        "gates: failed for 1 of 5 models, uncertain for 1",
        "1 min 23 s, 2 taken from earlier runs",
    )
    assert headline(example_batch(failed_entry("a", "no"), resumed=0)) == (
        "0 of 1 model compressed, 1 failed",
        "1 min 23 s",
    )


def test_what_asks_for_attention_comes_first() -> None:
    assert [line.standing for line in ranked(lines(example_batch()))] == [
        "failed",
        "gates failed",
        "gates uncertain",
        "slower",
        "done",
        "done",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (7_500, "2 h 05 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_a_model_takes_one(width: int) -> None:
    for batch in (example_batch(), large_batch(100)):
        text = rendered(batch, width)
        assert max(map(len, text.splitlines())) <= min(width, 120)
    assert sum("108 kB" in line for line in rendered(example_batch(), width).splitlines()) == 4


def test_the_terminal_shows_figures_reasons_and_gates() -> None:
    text = rendered(example_batch())
    for words in (
        "vision/a.onnx     108 kB  26.2\N{NO-BREAK SPACE}%     0.56x    0.0041  98.17 → 98.00 %",
        "0.56x ns",
        "Failed: 1 model",
        "✗ broken/garbage.onnx models/broken/garbage.onnx is not an ONNX file",
        "gate failed    text/big.onnx    size<=30%: 97.1 %",
        "gate uncertain audio/x|[y].onnx latency<=100%: 100 % [90 %, 110 %]",
    ):
        assert words in text


def test_columns_without_figures_are_left_out() -> None:
    bare = entry(latency_ratio=None, relative_error=None, metric_result=None)
    text = rendered(example_batch(bare))
    assert "share" in text
    assert not any(word in text.split("share", 1)[1] for word in ("latency", "error", "metric"))


def test_long_batches_are_cut_and_counted_unless_verbose() -> None:
    text = rendered(large_batch(1000))
    assert "and 860 more: --verbose lists them" in text
    assert "and 60 more" in text
    assert len(rendered(large_batch(1000), verbose=True).splitlines()) > 1000


def test_markdown_has_the_failed_ones_first_and_fits_a_comment() -> None:
    text = batch_to_markdown(example_batch())
    assert_whole(text)
    assert text.splitlines()[0] == "### onnxshrink: 6 models"
    assert text.index("| `broken/garbage.onnx` |") < text.index("| ❌ failed | `text/big.onnx` |")
    assert "| ✅ | `vision/a.onnx` | 412 kB → 108 kB | 26.2 % | 0.56x \\[0.54, 0.58\\] | 0.0041 |" in text
    assert "| ❔ | `audio/x\\|[y].onnx` |" in text
    for models in (30, 300, 5000):
        large = batch_to_markdown(large_batch(models))
        assert len(large.encode()) <= LIMIT_BYTES
        assert_whole(large)


def test_csv_has_every_field_as_it_was_measured() -> None:
    rows = list(csv.DictReader(io.StringIO(batch_to_csv(example_batch()))))
    assert len(rows) == 6
    assert rows[0]["relative_error"] == "0.0041"
    assert float(rows[0]["size_ratio"]) == 108 / 412
    assert rows[0]["latency_significant"] == "true"
    assert rows[3]["gates"] == "size<=30%: failed"
    assert rows[2]["relative_error"] == "inf"
    assert (rows[5]["status"], rows[5]["result_bytes"]) == ("failed", "")


def test_failed_models_are_errors_in_junit() -> None:
    batch = example_batch()
    suites = [(one.name, one.gates) for one in batch.entries if one.gates]
    root = ElementTree.fromstring(to_junit(suites, {"broken.onnx": "it is \x00 empty"}).partition("\n")[2])
    assert {key: root.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "7",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
    }
    (error,) = root.iter("error")
    assert error.get("message") == "it is � empty"
