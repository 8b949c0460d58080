"""``onnxshrink sensitivity``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from onnxshrink.cli.options import (
    HELP,
    calibration_memory_option,
    calibration_options,
    custom_op_lib_option,
    data_options,
    debug_option,
)
from onnxshrink.recipe import Recipe


@click.command(context_settings=HELP)
@click.argument("model", type=click.Path(path_type=Path))
@data_options("Samples to measure errors on. Required.")
@calibration_options
@calibration_memory_option()
@click.option(
    "--recipe",
    metavar="TEXT|FILE",
    default="quantize-static",
    help="What to quantize with: a line, or a .toml file, with quantize-static in it.",
)
@click.option(
    "--max-error",
    type=click.FloatRange(0, min_open=True),
    metavar="ERROR",
    help="Relative error of the outputs that the suggested recipe should reach. [default: where the gain levels off]",
)
@click.option("--top", type=click.IntRange(1), default=20, help="How many nodes are shown.")
@click.option("--threads", type=click.IntRange(0, os.cpu_count() or 1), default=0, help="Threads; 0: all cores.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Seeds random choices.")
@custom_op_lib_option
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@debug_option
def sensitivity(
    model: Path,
    data: Path | None,
    data_config: Path | None,
    calibration_data: Path | None,
    calibration_samples: int | None,
    recipe: str,
    max_error: float | None,
    top: int,
    memory_bytes: int | None,
    threads: int,
    seed: int,
    custom_op_libs: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show which nodes of MODEL lose most in int8, and the recipe that leaves those in float. Nothing is written.

    \b
    Examples:
      onnxshrink sensitivity model.onnx --data eval.npz --calibration-data calib.npz
      onnxshrink sensitivity model.onnx --data calib.npz --max-error 0.05
    """
    if data is None:
        raise click.UsageError("give samples with --data: made-up inputs say nothing about sensitivity")
    passes = Recipe.read(recipe)

    from onnxshrink.cli.output import notices, progress_display
    from onnxshrink.sensitivity import measure_sensitivity

    with progress_display(quiet=as_json) as progress:
        found = measure_sensitivity(
            model,
            data,
            recipe=passes,
            data_config=data_config,
            calibration_data=calibration_data,
            calibration_samples=calibration_samples,
            memory_bytes=memory_bytes,
            max_error=max_error,
            seed=seed,
            threads=threads,
            custom_op_libs=custom_op_libs,
            progress=progress,
            notice=notices(),
        )
    if as_json:
        from onnxshrink.report.json_format import plain_json

        click.echo(plain_json(found))
        return

    from rich.console import Console

    from onnxshrink.report.sensitivity_terminal import render_sensitivity

    render_sensitivity(found, Console(), top=top)
