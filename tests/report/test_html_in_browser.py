"""The page in a real browser, where there is one."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from onnxshrink.report.html.page import overview_to_html, to_html
from onnxshrink.report.summary import headline
from tests.report.example import example_report, unmeasured_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0"),
)
PROBE = """<script>addEventListener("load", () => {
  const overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const empty = [...document.querySelectorAll("svg.chart")].filter(e => e.getBoundingClientRect().height < 20).length;
  document.title = `overflow=${overflow} empty=${empty} charts=${document.querySelectorAll("svg.chart").length}`;
});</script>"""


def opened(page: str, folder: Path, width: int = 1280) -> tuple[str, str]:
    """The document as the browser has it after loading, and what it logged. A probe tells of overflow in the title."""
    (folder / "page.html").write_text(page.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    assert CHROMIUM is not None
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900", "--dump-dom"]
    address = (folder / "page.html").as_uri()
    result = subprocess.run([*command, address], capture_output=True, text=True, timeout=120, check=True)
    return result.stdout, result.stderr


@pytest.mark.parametrize("width", [1280, 500])
def test_it_opens_without_a_word_and_shows_the_figures(width: int, tmp_path: Path) -> None:
    document, log = opened(to_html(example_report()), tmp_path, width)
    assert "CONSOLE" not in log
    title = re.search(r"<title>(.*?)</title>", document)
    assert title is not None
    assert title[1] == "overflow=0 empty=0 charts=4"
    text = html.unescape(re.sub(r"<[^>]+>", "", document))
    for figure in ("26.2 %", "no significant difference", "0.0041", "99.67 %", "−0.17 points"):
        assert any(figure in clause for clause in headline(example_report()))
        assert figure in text


def test_an_overview_opens_too(tmp_path: Path) -> None:
    document, log = opened(overview_to_html([example_report(), unmeasured_report(), example_report()]), tmp_path, 500)
    assert "CONSOLE" not in log
    assert "<title>overflow=0 empty=0 charts=10</title>" in document
