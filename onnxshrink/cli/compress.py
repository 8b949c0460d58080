"""``onnxshrink compress``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxshrink.cli.compression_options import compression_options
from onnxshrink.cli.options import HELP, debug_option, gate_options
from onnxshrink.recipe import Recipe

if TYPE_CHECKING:
    from onnxshrink.alternatives import Goal
    from onnxshrink.report.gates import Uncertain


@click.command(context_settings=HELP)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="The file to write.")
@click.option("--in-place", is_flag=True, help="Replace MODEL itself (without -o).")
@click.option("--force", is_flag=True, help="Replace an existing output or report file.")
@compression_options()
@click.option(
    "--calibration-cache",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="A folder that keeps activation statistics from run to run.",
)
@click.option(
    "--report",
    "reports",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the report as .json, .md or .html; repeatable.",
)
@gate_options
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Print every change and every skip.")
@debug_option
def compress(
    model: Path,
    output: Path | None,
    in_place: bool,
    force: bool,
    preset: str | None,
    recipe: str | None,
    data: Path | None,
    data_config: Path | None,
    calibration_data: Path | None,
    calibration_samples: int | None,
    memory_bytes: int | None,
    calibration_cache: Path | None,
    reports: tuple[Path, ...],
    no_measure: bool,
    no_latency: bool,
    threads: int,
    batch_size: int,
    latency_seconds: float,
    metric: str | None,
    goal: Goal | None,
    max_drop: float | None,
    max_load_ratio: float | None,
    seed: int,
    external_data: bool | None,
    run_large: bool,
    custom_op_libs: tuple[str, ...],
    gate_texts: tuple[str, ...],
    gate_files: tuple[Path, ...],
    gate_uncertain: Uncertain,
    gate_report: Path | None,
    quiet: bool,
    as_json: bool,
    verbose: bool,
) -> int:
    """Make MODEL smaller, check the result, and report what that cost.

    \b
    Examples:
      onnxshrink compress model.onnx -o small.onnx
      onnxshrink compress model.onnx -o small.onnx --data eval.npz --report report.md
      onnxshrink compress model.onnx -o small.onnx --data photos/ --data-config photos.toml
      onnxshrink compress model.onnx -o pruned.onnx --recipe 'fold-batchnorm,prune-weights{sparsity=0.6}'
      onnxshrink compress model.onnx -o small.onnx --data eval.npz --gate 'size<=30%' --gate 'accuracy>=-0.5pt'
    """
    if output is None and not in_place:
        raise click.UsageError("say where the result goes: -o FILE, or --in-place")
    if preset is not None and recipe is not None:
        raise click.UsageError("--preset and --recipe exclude each other")
    passes = Recipe.read(recipe) if recipe is not None else None

    from onnxshrink.cli.gating import check_gate_report, conclude, gates_from
    from onnxshrink.cli.output import PAGES, check_report_paths, notices, progress_display, write_reports

    gates = gates_from(gate_texts, gate_files, recipe)
    check_report_paths(reports, force=force, formats=PAGES)
    check_gate_report(gate_report, gates, force=force)

    from onnxshrink.shrink import compress as run

    with progress_display(quiet=quiet or as_json) as progress:
        report = run(
            model,
            output,
            preset=preset,
            recipe=passes,
            data=data,
            data_config=data_config,
            calibration_data=calibration_data,
            calibration_samples=calibration_samples,
            memory_bytes=memory_bytes,
            seed=seed,
            force=force,
            in_place=in_place,
            measure=not no_measure,
            latency=not no_latency,
            threads=threads,
            batch_size=batch_size,
            latency_seconds=latency_seconds,
            calibration_cache=calibration_cache,
            metric=metric,
            goal=goal,
            max_drop=max_drop,
            max_load_ratio=max_load_ratio,
            custom_op_libs=custom_op_libs,
            external_data=external_data,
            run_large=run_large,
            gates=gates,
            gate_uncertain=gate_uncertain,
            progress=progress,
            notice=notices(quiet=quiet),
        )
    write_reports(report, reports)
    if as_json:
        from onnxshrink.report.json_format import to_json

        click.echo(to_json(report))
    elif not quiet:
        from rich.console import Console

        from onnxshrink.report.terminal import render

        render(report, Console(), verbose=verbose)
    return conclude([(report.result.name, report.gates)], gate_report, quiet=quiet)
