"""``onnxshrink compare``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxshrink.atomic_files import write_text_atomically
from onnxshrink.cli.options import (
    HELP,
    custom_op_lib_option,
    data_options,
    debug_option,
    gate_options,
    metric_option,
    result_options,
)
from onnxshrink.errors import OnnxShrinkError

if TYPE_CHECKING:
    from onnxshrink.report.compared import Comparison, Pairing
    from onnxshrink.report.gates import Gate, Uncertain

_FOR_MODELS = ("data", "data_config", "metric", "threads", "batch_size", "latency_seconds", "seed", "custom_op_libs")


@click.command(context_settings=HELP)
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path), nargs=-1, required=True)
@data_options("For models: samples to run them on.")
@metric_option
@click.option("--threads", type=click.IntRange(0, os.cpu_count() or 1), default=0, help="For models; 0: all cores.")
@click.option("--batch-size", type=click.IntRange(1), default=1, help="For models: samples per timed run.")
@click.option("--latency-seconds", type=click.FloatRange(0.1), default=3.0, help="For models: time to spend on timing.")
@click.option("--seed", type=click.IntRange(0), default=0, help="For models: seeds synthetic inputs.")
@custom_op_lib_option
@gate_options
@result_options("comparison")
@debug_option
def compare(
    base: Path,
    new: tuple[Path, ...],
    gate_texts: tuple[str, ...],
    gate_files: tuple[Path, ...],
    gate_uncertain: Uncertain,
    gate_report: Path | None,
    reports: tuple[Path, ...],
    force: bool,
    quiet: bool,
    as_json: bool,
    **for_models: Any,
) -> int:
    """Compare BASE with each NEW: what compress, batch, evaluate or bench saved as .json, or models, which are then run
    side by side.

    \b
    Examples:
      onnxshrink compare main.json branch.json --report comparison.md
      onnxshrink compare main.json branch.json --gate 'size<=102%' --gate 'accuracy>=-0.5pt'
      onnxshrink compare model.onnx small.onnx --data eval.npz
    """
    from onnxshrink.cli.gating import check_gate_report, conclude, gates_from
    from onnxshrink.cli.output import check_report_paths

    gates = gates_from(gate_texts, gate_files)
    check_report_paths(reports, force=force)
    check_gate_report(gate_report, gates, force=force)
    saved = {path.suffix.lower() == ".json" for path in (base, *new)}
    if len(saved) > 1:
        raise click.UsageError("give reports (.json) or models, not some of each")
    if saved == {True}:
        _refuse_options_for_models(click.get_current_context())
        comparison = _of_reports(base, new, gates, gate_uncertain)
    else:
        comparison = _of_models(base, new, gates, gate_uncertain, quiet=quiet or as_json, options=for_models)
    _write(comparison, reports)
    _show(comparison, quiet=quiet, as_json=as_json)
    return conclude([(pairing.name, pairing.gates) for pairing in comparison.pairings], gate_report, quiet=quiet)


def _refuse_options_for_models(context: click.Context) -> None:
    for name in _FOR_MODELS:
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            option = next(one for one in context.command.params if one.name == name).opts[0]
            raise click.UsageError(f"{option} is for models: reports are not run")


def _of_reports(base: Path, new: Sequence[Path], gates: Sequence[Gate], uncertain: Uncertain) -> Comparison:
    from onnxshrink.cli.output import read_saved
    from onnxshrink.report.compared import Comparison
    from onnxshrink.report.comparison import compare_documents

    first = read_saved(base)
    pairings = []
    for path in new:
        try:
            pairings.append(compare_documents(first, read_saved(path), str(path), gates, uncertain))
        except OnnxShrinkError as error:
            raise type(error)(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
    return Comparison(str(base), tuple(pairings))


def _of_models(
    base: Path,
    new: Sequence[Path],
    gates: Sequence[Gate],
    uncertain: Uncertain,
    *,
    quiet: bool,
    options: dict[str, Any],
) -> Comparison:
    from onnxshrink.limits import limits_of
    from onnxshrink.metrics.spelling import parse_metrics

    metric = options.pop("metric")
    options["metrics"] = parse_metrics(metric) if metric else ()
    limits_of(gates, None, measure=True, data=options["data"], metrics=options["metrics"])

    from onnxshrink.cli.output import notices, progress_display
    from onnxshrink.report.compared import Comparison
    from onnxshrink.report.comparison import compare_within
    from onnxshrink.side_by_side import run_side_by_side

    pairings: list[Pairing] = []
    with progress_display(quiet=quiet) as progress:
        for path in new:
            notice = notices(quiet=quiet or bool(pairings))
            report = run_side_by_side(base, path, progress=progress, notice=notice, **options)
            pairings.append(compare_within(report, str(path), gates, uncertain))
    return Comparison(str(base), tuple(pairings))


def _write(comparison: Comparison, paths: Sequence[Path]) -> None:
    for path in paths:
        if path.suffix == ".json":
            from onnxshrink.report.json_format import plain_json

            write_text_atomically(path, plain_json(comparison) + "\n")
        else:
            from onnxshrink.report.comparison_markdown import comparison_markdown

            write_text_atomically(path, comparison_markdown(comparison))


def _show(comparison: Comparison, *, quiet: bool, as_json: bool) -> None:
    if as_json:
        from onnxshrink.report.json_format import plain_json

        click.echo(plain_json(comparison))
    elif not quiet:
        from rich.console import Console

        from onnxshrink.report.comparison_terminal import render_comparison

        render_comparison(comparison, Console())
