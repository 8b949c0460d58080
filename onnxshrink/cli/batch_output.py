"""What a batch leaves behind: its summaries in the output folder, the table, and the exit code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxshrink.atomic_files import write_text_atomically
from onnxshrink.cli.gating import conclude

if TYPE_CHECKING:
    from onnxshrink.report.batch import Batch

PART_FAILED = 7
SUMMARY = "summary"

_MOST_LINES = 50


def write_summaries(batch: Batch, folder: Path, output: str) -> None:
    """``summary.md`` and ``.csv``, and ``.html`` where the extra for it is installed, beside ``summary.json``.

    Args:
        folder: where the run has written ``summary.json``.
        output: the folder of the results; by URL, they are stored there, too.
    """
    from onnxshrink.batch.remote_files import is_url, join, upload
    from onnxshrink.report.batch_csv import batch_to_csv
    from onnxshrink.report.batch_markdown import batch_to_markdown
    from onnxshrink.report.html.page import pages_are_possible

    if pages_are_possible():
        from onnxshrink.report.html.batch_page import batch_to_html

        write_text_atomically(folder / f"{SUMMARY}.html", batch_to_html(batch, output if is_url(output) else folder))
    write_text_atomically(folder / f"{SUMMARY}.md", batch_to_markdown(batch))
    write_text_atomically(folder / f"{SUMMARY}.csv", batch_to_csv(batch))
    if is_url(output):
        for path in sorted(folder.glob(f"{SUMMARY}.*")):
            upload(path, join(output, path.name))


def show_batch(batch: Batch, *, quiet: bool, as_json: bool, verbose: bool) -> None:
    """The table on standard output, or JSON, or nothing; what failed on standard error where no table tells it."""
    if as_json:
        from onnxshrink.report.json_format import plain_json

        click.echo(plain_json(batch))
    elif not quiet:
        from rich.console import Console

        from onnxshrink.report.batch_terminal import render_batch

        render_batch(batch, Console(), verbose=verbose)
        return
    failed = [entry for entry in batch.entries if entry.status == "failed"]
    for entry in failed[:_MOST_LINES]:
        click.echo(f"onnxshrink: failed: {entry.name}: {entry.reason}", err=True)
    if len(failed) > _MOST_LINES:
        click.echo(f"onnxshrink: and {len(failed) - _MOST_LINES} more failed", err=True)


def conclude_batch(batch: Batch, gate_report: Path | None, *, quiet: bool = False) -> int:
    """Write the gate report, tell failed gates, and return the exit code: 7 when a model failed, 1 when a gate did."""
    suites = [(entry.name, entry.gates) for entry in batch.entries if entry.gates]
    errors = {entry.name: entry.reason for entry in batch.entries if entry.status == "failed"}
    code = conclude(suites, gate_report, quiet=quiet, errors=errors)
    return PART_FAILED if errors else code
