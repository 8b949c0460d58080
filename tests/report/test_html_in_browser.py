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
FRAME = """<!DOCTYPE html><html><head><title></title></head><body>
<iframe style="border:0;width:{width}px;height:900px" srcdoc="{page}"></iframe>
<script>addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const charts = [...page.querySelectorAll("svg.chart")];
  const empty = charts.filter(chart => chart.getBoundingClientRect().height < 20).length;
  document.title = `overflow=${{root.scrollWidth - root.clientWidth}} empty=${{empty}} charts=${{charts.length}}`;
  document.body.dataset.text = page.body.innerText;
}});</script></body></html>"""
"""The page in a frame, which may be narrower than a browser's window, and a probe that tells what it looks like."""


def dumped(page: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A page as it stands in the browser once its scripts have run, and what the browser logged."""
    (folder / "frame.html").write_text(page, encoding="utf-8")
    assert CHROMIUM is not None
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={folder / 'profile'}", "--window-size=1400,900", "--dump-dom"]
    address = (folder / "frame.html").as_uri()
    return subprocess.run([*command, address], capture_output=True, text=True, timeout=120, check=True)


def opened(page: str, folder: Path, width: int) -> tuple[str, str, str]:
    """What the probe found, the page's text as it is shown, and what the browser logged."""
    result = dumped(FRAME.format(width=width, page=html.escape(page)), folder)
    title, text = re.search(r"<title>(.*?)</title>", result.stdout), re.search(r'data-text="([^"]*)"', result.stdout)
    assert title is not None
    assert text is not None
    return title[1], html.unescape(text[1]), result.stderr


@pytest.mark.parametrize("width", [1280, 390])
def test_it_opens_without_a_word_and_shows_the_figures(width: int, tmp_path: Path) -> None:
    found, text, log = opened(to_html(example_report()), tmp_path, width)
    assert "CONSOLE" not in log
    assert found == "overflow=0 empty=0 charts=4"
    for figure in ("26.2 %", "no significant difference", "0.0041", "99.67 %", "98.17 % → 98.00 %"):
        assert any(figure in clause for clause in headline(example_report()))
        assert figure in text


def test_an_overview_opens_too(tmp_path: Path) -> None:
    page = overview_to_html([example_report(), unmeasured_report(), example_report()])
    found, text, log = opened(page, tmp_path, 390)
    assert "CONSOLE" not in log
    assert found == "overflow=0 empty=0 charts=10"
    assert "3 compressions" in text
