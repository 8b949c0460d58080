"""``onnxshrink report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxshrink.cli.options import HELP, debug_option

if TYPE_CHECKING:
    from onnxshrink.report.report import Report


@click.command(context_settings=HELP)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="REPORT.json...")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Write .html or .md."
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@debug_option
def report(files: tuple[Path, ...], output: Path, force: bool) -> None:
    """Make a page or a Markdown text from reports that compress saved as JSON. Several get an overview in front.

    \b
    Examples:
      onnxshrink report small.json -o small.html
      onnxshrink report float16.json int8.json -o both.html
    """
    from onnxshrink.atomic_files import check_destination, write_text_atomically

    if output.suffix not in (".html", ".md"):
        raise click.UsageError(f"-o {output}: the name must end in .html or .md")
    check_destination(output, force=force)
    if output.suffix == ".html":
        from onnxshrink.report.html.page import check_installed

        check_installed()
    write_text_atomically(output, _rendered([_read(path) for path in files], output.suffix))


def _rendered(reports: list[Report], suffix: str) -> str:
    if suffix == ".md":
        from onnxshrink.report.markdown import overview_to_markdown, to_markdown

        return to_markdown(reports[0]) if len(reports) == 1 else overview_to_markdown(reports)
    from onnxshrink.report.html.page import overview_to_html, to_html

    return to_html(reports[0]) if len(reports) == 1 else overview_to_html(reports)


def _read(path: Path) -> Report:
    from onnxshrink.errors import FileAccessError, OnnxShrinkError
    from onnxshrink.report.json_format import from_json

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileAccessError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise OnnxShrinkError(f"{path}: a report is UTF-8 text, and this is not") from error
    try:
        return from_json(text)
    except OnnxShrinkError as error:
        raise type(error)(f"{path}: {error}") from error
