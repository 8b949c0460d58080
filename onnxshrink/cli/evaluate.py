"""``onnxshrink evaluate``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxshrink.cli.options import (
    HELP,
    custom_op_lib_option,
    data_options,
    debug_option,
    gate_options,
    metric_option,
    result_options,
)

if TYPE_CHECKING:
    from onnxshrink.report.gates import Uncertain


@click.command(context_settings=HELP)
@click.argument("model", type=click.Path(path_type=Path))
@data_options("Samples, with labels where there are any. Required.")
@click.option("--label", metavar="NAME", help="The array or column that holds the labels. [default: label]")
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="FLOAT.onnx",
    help="The model to compare with: both values, and their difference with a 95 % interval.",
)
@metric_option
@click.option("--batch-size", type=click.IntRange(1), default=16, help="Samples per run, where the inputs allow it.")
@click.option("--threads", type=click.IntRange(0, os.cpu_count() or 1), default=0, help="Threads; 0: all cores.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Use the first N samples. [default: all]")
@click.option("--seed", type=click.IntRange(0), default=0, help="Seeds the bootstrap.")
@custom_op_lib_option
@gate_options
@result_options("result")
@click.option("-v", "--verbose", is_flag=True, help="Print the agreement of every output.")
@debug_option
def evaluate(
    model: Path,
    data: Path | None,
    data_config: Path | None,
    label: str | None,
    against: Path | None,
    metric: str | None,
    batch_size: int,
    threads: int,
    limit: int | None,
    seed: int,
    custom_op_libs: tuple[str, ...],
    gate_texts: tuple[str, ...],
    gate_files: tuple[Path, ...],
    gate_uncertain: Uncertain,
    gate_report: Path | None,
    reports: tuple[Path, ...],
    force: bool,
    quiet: bool,
    as_json: bool,
    verbose: bool,
) -> int:
    """Show how good MODEL is on data, or with --against how far from another model. Nothing is changed.

    \b
    Examples:
      onnxshrink evaluate small.onnx --data eval.npz --against model.onnx
      onnxshrink evaluate small.onnx --data photos/ --gate 'top1>=0.70'
      onnxshrink evaluate detector.onnx --data eval.npz --against float.onnx --metric 'detection{score=0.7,nms=0.3}'
    """
    if data is None:
        raise click.UsageError("give samples with --data")

    from onnxshrink.cli.gating import check_gate_report, conclude, gates_from
    from onnxshrink.cli.output import check_report_paths, notices, progress_display, write_texts

    gates = gates_from(gate_texts, gate_files)
    check_report_paths(reports, force=force)
    check_gate_report(gate_report, gates, force=force)

    from onnxshrink.evaluation import evaluate as run
    from onnxshrink.report.evaluation_markdown import evaluation_to_markdown
    from onnxshrink.report.json_format import plain_json

    with progress_display(quiet=quiet or as_json) as progress:
        found = run(
            model,
            data,
            against=against,
            metric=metric,
            data_config=data_config,
            label=label,
            batch_size=batch_size,
            threads=threads,
            limit=limit,
            custom_op_libs=custom_op_libs,
            seed=seed,
            gates=gates,
            gate_uncertain=gate_uncertain,
            progress=progress,
            notice=notices(quiet=quiet),
        )
    write_texts(reports, as_json=lambda: plain_json(found), as_markdown=lambda: evaluation_to_markdown(found))
    if as_json:
        click.echo(plain_json(found))
    elif not quiet:
        from rich.console import Console

        from onnxshrink.report.evaluation_terminal import render_evaluation

        render_evaluation(found, Console(), verbose=verbose)
    return conclude([(found.model.name, found.gates)], gate_report, quiet=quiet)
