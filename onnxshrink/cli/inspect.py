"""``onnxshrink inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from onnxshrink.cli.options import HELP, debug_option


@click.command(context_settings=HELP)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--layers", is_flag=True, help="Show the weight distribution of every layer.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@debug_option
def inspect(model: Path, layers: bool, as_json: bool) -> None:
    """Show what is in MODEL and what would help; the model is not run.

    \b
    Example:
      onnxshrink inspect model.onnx --layers
    """
    from onnxshrink.inspection import inspect_model

    inspection = inspect_model(model)
    if as_json:
        from onnxshrink.report.json_format import plain_json

        click.echo(plain_json(inspection))
        return

    from rich.console import Console

    from onnxshrink.report.inspection_terminal import render_inspection

    render_inspection(inspection, Console(), layers=layers)
