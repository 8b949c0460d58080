"""``onnxshrink report``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxshrink.cli.options import HELP, debug_option

if TYPE_CHECKING:
    from onnxshrink.report.report import Report

_MARKDOWN: Mapping[str, tuple[str, str]] = {
    "compression": ("markdown", "to_markdown"),
    "evaluation": ("evaluation_markdown", "evaluation_to_markdown"),
    "bench": ("bench_markdown", "bench_to_markdown"),
    "comparison": ("comparison_markdown", "comparison_markdown"),
    "batch": ("batch_markdown", "batch_to_markdown"),
}
"""The function that writes each kind of document as Markdown."""

_KINDS: Mapping[str, tuple[str, ...]] = {".html": ("compression", "batch"), ".csv": ("batch",)}
"""What the other formats are made of."""

_PLURALS: Mapping[str, str] = {"compression": "compressions", "batch": "batches"}


@click.command(context_settings=HELP)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="REPORT.json...")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Write .html, .md or .csv."
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@debug_option
def report(files: tuple[Path, ...], output: Path, force: bool) -> None:
    """Make a page or a Markdown text from what was saved as JSON.

    Reports of compress become .html or .md, several with an overview in front; the summary of a batch becomes .html,
    .md or .csv; evaluations, benches and comparisons become .md.

    \b
    Examples:
      onnxshrink report small.json -o small.html
      onnxshrink report float16.json int8.json -o both.html
      onnxshrink report bench.json -o bench.md
      onnxshrink report compressed/summary.json -o models.csv
    """
    from onnxshrink.atomic_files import check_destination, write_text_atomically

    if output.suffix not in (".html", ".md", ".csv"):
        raise click.UsageError(f"-o {output}: the name must end in .html, .md or .csv")
    check_destination(output, force=force)
    if output.suffix == ".html":
        from onnxshrink.report.html.page import check_installed

        check_installed()
    documents = [_read(path, output.suffix) for path in files]
    write_text_atomically(output, _rendered(documents, output))


def _rendered(documents: list[Any], output: Path) -> str:
    from onnxshrink.report.json_format import kind_of

    kinds = [kind_of(document) for document in documents]
    if set(kinds) == {"compression"}:
        return _of_compressions(documents, output.suffix)
    if output.suffix != ".md":
        return _of_batch(documents, kinds, output)
    return "\n".join(_markdown(document, kind) for document, kind in zip(documents, kinds, strict=True))


def _of_batch(documents: list[Any], kinds: list[str | None], output: Path) -> str:
    if kinds != ["batch"]:
        raise click.UsageError(f"-o {output}: give one summary of a batch, or reports of compress, not some of each")
    if output.suffix == ".csv":
        from onnxshrink.report.batch_csv import batch_to_csv

        return batch_to_csv(documents[0])
    from onnxshrink.report.html.batch_page import batch_to_html

    return batch_to_html(documents[0], output.parent)


def _of_compressions(reports: list[Report], suffix: str) -> str:
    if suffix == ".md":
        from onnxshrink.report.markdown import overview_to_markdown, to_markdown

        return to_markdown(reports[0]) if len(reports) == 1 else overview_to_markdown(reports)
    from onnxshrink.report.html.page import overview_to_html, to_html

    return to_html(reports[0]) if len(reports) == 1 else overview_to_html(reports)


def _markdown(document: Any, kind: str | None) -> str:
    module, function = _MARKDOWN[kind or ""]
    text: str = getattr(importlib.import_module(f"onnxshrink.report.{module}"), function)(document)
    return text


def _read(path: Path, suffix: str) -> Any:
    from onnxshrink.cli.output import read_saved
    from onnxshrink.errors import OnnxShrinkError
    from onnxshrink.report.json_format import kind_of

    document = read_saved(path)
    kind = kind_of(document)
    if kind not in _KINDS.get(suffix, (kind,)):
        what = " and ".join(_PLURALS[one] for one in _KINDS[suffix])
        raise OnnxShrinkError(f"{path} is a saved {kind}: {suffix} is made of {what} only, write -o FILE.md")
    return document
