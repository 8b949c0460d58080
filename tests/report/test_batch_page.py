from __future__ import annotations

import re
from pathlib import Path

import pytest

from onnxshrink.report.html.batch_page import batch_to_html
from tests.report.batch_example import entry, example_batch, failed_entry, large_batch
from tests.report.test_html import AWKWARD, Page
from tests.report.test_html_in_browser import CHROMIUM, dumped, opened


def links(page: Page) -> list[str]:
    return [value for name, value in page.attributes if name == "href" and value[:1] != "#" and value != "data:,"]


def places(text: str, key: str) -> list[int]:
    return [int(place) for place in re.findall(rf"--{key}:(\d+)", text)]


def test_the_figures_over_all_and_every_model_are_there() -> None:
    page = Page(batch_to_html(example_batch()))
    for words in ("40.4 %", "2.06 MB → 832 kB", "1 failed", "of 5 models with gates", "97.1 %", "0.56x [0.54, 0.58]"):
        assert words in page.text
    assert "script" not in page.tags
    assert page.tags.count("svg") == 2
    values = [value for name, value in page.attributes if name == "value"]
    assert values[1] == str((4 * 108_000 + 400_000) / (5 * 412_000))


def test_links_lead_from_the_page_to_the_reports(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "with page.html").write_text("", encoding="utf-8")
    batch = example_batch(
        entry("a", report=str(tmp_path / "sub" / "with page.json")),
        entry("b", report=str(tmp_path / "x:#?.json")),
        entry("c", report="https://host/c.json"),
        entry("d", report="s3://bucket/d.json"),
        entry("e", report="javascript://alert(1)"),
        entry("f", report=None),
    )
    assert links(Page(batch_to_html(batch, tmp_path))) == [
        "sub/with%20page.html",
        "x%3A%23%3F.json",
        "https://host/c.json",
    ]


def test_every_order_is_one_of_all_models() -> None:
    batch = example_batch(
        entry("b", result_bytes=3, relative_error=None, seconds=5.0),
        entry("c", result_bytes=1, relative_error=float("inf"), metric_result=0.5),
        entry("a", result_bytes=2, latency_ratio=2.0, metric_original=float("inf"), metric_result=float("inf")),
    )
    text = batch_to_html(batch)
    assert places(text, "name") == [1, 2, 0]
    assert places(text, "size") == [0, 2, 1]
    assert places(text, "error") == [2, 0, 1]
    assert places(text, "metric") == [1, 0, 2]
    assert places(text, "latency") == [1, 2, 0]
    assert places(text, "seconds") == [0, 1, 2]
    assert places(text, "attention") == [1, 2, 0], "the significantly slower one comes first"


def test_text_from_anywhere_is_not_markup() -> None:
    batch = example_batch(entry(AWKWARD, report=AWKWARD), failed_entry(AWKWARD, AWKWARD), command=AWKWARD)
    page = Page(batch_to_html(batch))
    assert not {"img", "script"} & set(page.tags)
    assert page.text.count("<img src=x onerror=alert(1)>") >= 3


def test_pages_of_large_batches_are_cut_and_counted() -> None:
    text = batch_to_html(large_batch(4000))
    assert len(text) < 2_000_000
    page = Page(text)
    assert "and 1,600 more, which ask for no attention" in page.text
    assert "375 more" in page.text
    assert page.text.count("reason reason") >= 400


def test_nothing_but_failures_makes_a_page_too() -> None:
    page = Page(batch_to_html(example_batch(failed_entry("a", "why"))))
    assert "why" in page.text
    assert "svg" not in page.tags


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
@pytest.mark.parametrize("width", [1280, 390])
def test_it_opens_without_a_word(width: int, tmp_path: Path) -> None:
    page = batch_to_html(example_batch(entry("b"), entry("a"), entry("c", result_bytes=300_000)))
    found, text, log = opened(page, tmp_path, width)
    assert "CONSOLE" not in log
    assert found == "overflow=0 empty=0 charts=2"
    assert "412 kB → 300 kB" in text


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
@pytest.mark.parametrize(("key", "order"), [("place", "bac"), ("name", "abc"), ("share", "cba")])
def test_rows_stand_in_the_order_that_is_asked_for(key: str, order: str, tmp_path: Path) -> None:
    page = batch_to_html(example_batch(entry("b", result_bytes=9_000), entry("a", result_bytes=1), entry("c")))
    probe = (
        "<script>document.title = [...document.querySelectorAll('.models tbody tr')].map(row => "
        "[row.getBoundingClientRect().top, row.querySelector('.name').textContent]).sort((a, b) => a[0] - b[0])"
        ".map(one => one[1].trim()).join('');</script></body>"
    )
    chosen = page.replace(f'id="by-{key}">', f'id="by-{key}" checked>')
    assert f"<title>{order}</title>" in dumped(chosen.replace("</body>", probe), tmp_path).stdout
