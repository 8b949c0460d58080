"""What commands write beside the model: report files, and progress on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxshrink.atomic_files import check_destination, write_text_atomically

if TYPE_CHECKING:
    from onnxshrink.report.report import Report

_FORMATS = (".json", ".md", ".html")


def check_report_paths(paths: Sequence[Path], *, force: bool) -> None:
    """Refuse report files of an unknown format, or that cannot be written, before the work starts."""
    for path in paths:
        if path.suffix not in _FORMATS:
            raise click.UsageError(f"--report {path}: the name must end in {' or '.join(_FORMATS)}")
        check_destination(path, force=force)
    if any(path.suffix == ".html" for path in paths):
        from onnxshrink.report.html.page import check_installed

        check_installed()


def write_reports(report: Report, paths: Sequence[Path]) -> None:
    """Write the report once per path, in the format its name ends in."""
    for path in paths:
        if path.suffix == ".json":
            from onnxshrink.report.json_format import to_json

            write_text_atomically(path, to_json(report) + "\n")
        elif path.suffix == ".html":
            from onnxshrink.report.html.page import to_html

            write_text_atomically(path, to_html(report))
        else:
            from onnxshrink.report.markdown import to_markdown

            write_text_atomically(path, to_markdown(report))


@contextmanager
def progress_display(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Shows the current step and the time it takes on standard error, when that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("starting", total=None)
        yield lambda step: display.update(task, description=step)
