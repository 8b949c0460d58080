"""What commands write beside the model: report files, and progress on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxshrink.atomic_files import check_destination, write_text_atomically

if TYPE_CHECKING:
    from onnxshrink.report.report import Report

TEXTS = (".json", ".md")
PAGES = (*TEXTS, ".html")


def read_saved(path: Path) -> Any:
    """Read a saved report, evaluation, bench or comparison.

    Raises:
        OnnxShrinkError: it cannot be read, or is none; the message names it.
    """
    from onnxshrink.errors import FileAccessError, OnnxShrinkError
    from onnxshrink.report.json_format import read_document

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileAccessError(f"cannot read the report {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise OnnxShrinkError(f"{path}: a report is UTF-8 text, and this is not") from error
    try:
        return read_document(text)
    except OnnxShrinkError as error:
        raise type(error)(f"{path}: {error}") from error


def check_report_paths(paths: Sequence[Path], *, force: bool, formats: Sequence[str] = TEXTS) -> None:
    """Refuse report files of an unknown format, or that cannot be written, before the work starts."""
    for path in paths:
        if path.suffix not in formats:
            raise click.UsageError(f"--report {path}: the name must end in {' or '.join(formats)}")
        check_destination(path, force=force)
    if any(path.suffix == ".html" for path in paths):
        from onnxshrink.report.html.page import check_installed

        check_installed()


def write_reports(report: Report, paths: Sequence[Path]) -> None:
    """Write the report once per path, in the format its name ends in."""
    from onnxshrink.report.json_format import to_json
    from onnxshrink.report.markdown import to_markdown

    pages = [path for path in paths if path.suffix == ".html"]
    if pages:
        from onnxshrink.report.html.page import to_html

        page = to_html(report)
        for path in pages:
            write_text_atomically(path, page)
    texts = [path for path in paths if path not in pages]
    write_texts(texts, as_json=lambda: to_json(report), as_markdown=lambda: to_markdown(report))


def write_texts(paths: Sequence[Path], *, as_json: Callable[[], str], as_markdown: Callable[[], str]) -> None:
    """Write a document once per path, in the format its name ends in."""
    for path in paths:
        write_text_atomically(path, as_json() + "\n" if path.suffix == ".json" else as_markdown())


def notices(*, quiet: bool = False) -> Callable[[str], None]:
    """Prints what was guessed about the data on standard error, a line each."""
    return (lambda _: None) if quiet else (lambda line: click.echo(f"onnxshrink: {line}", err=True))


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
