"""``onnxshrink bench``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import click

from onnxshrink.cli.options import HELP, custom_op_lib_option, data_options, debug_option, result_options


def _counts(low: int, high: int | None = None) -> Callable[[click.Context, click.Parameter, str], tuple[int, ...]]:
    """Reads whole numbers between bounds, separated by commas; a number that is there twice counts once."""

    def read(context: click.Context, option: click.Parameter, text: str) -> tuple[int, ...]:
        numbers = [_number(part) for part in text.split(",")] if text else []
        if any(number is None or number < low or (high is not None and number > high) for number in numbers):
            bounds = f"of {low} or more" if high is None else f"from {low} to {high}"
            raise click.BadParameter(f"'{text}' is not a list of whole numbers {bounds}, such as 1,2", context, option)
        return tuple(dict.fromkeys(number for number in numbers if number is not None))

    return read


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdecimal() else None


@click.command(context_settings=HELP)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...", type=click.Path(path_type=Path))
@data_options("Samples to run all models on. [default: made-up inputs]")
@click.option("--own-inputs", is_flag=True, help="Make inputs up for each model by itself: their inputs may differ.")
@click.option(
    "--batch-size",
    "batch_sizes",
    callback=_counts(1),
    default="",
    show_default=False,
    metavar="N,…",
    help="Samples per run; several make a section each. [default: 1, or what the models fix]",
)
@click.option(
    "--threads",
    callback=_counts(0, os.cpu_count() or 1),
    default="0",
    metavar="N,…",
    help="Threads of the sessions, 0: all cores; several make a section each.",
)
@click.option(
    "--seconds", type=click.FloatRange(0.1), default=2.0, help="Time per model and section, loading included."
)
@click.option("--profile", is_flag=True, help="Show where the time goes, by operator and by node.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Seeds made-up inputs.")
@custom_op_lib_option
@result_options("result", ".json (every timing included) or .md")
@debug_option
def bench(
    models: tuple[Path, ...],
    data: Path | None,
    data_config: Path | None,
    own_inputs: bool,
    batch_sizes: tuple[int, ...],
    threads: tuple[int, ...],
    seconds: float,
    profile: bool,
    seed: int,
    custom_op_libs: tuple[str, ...],
    reports: tuple[Path, ...],
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Time models beside each other, and say which are significantly faster or slower than the first one.

    Models are loaded many times and run in turns. A difference that chance explains is called "no significant
    difference".

    \b
    Examples:
      onnxshrink bench model.onnx small.onnx
      onnxshrink bench float.onnx int8.onnx int4.onnx --batch-size 1,8 --threads 1,2 --report bench.md
      onnxshrink bench model.onnx --profile
    """
    if data is not None and own_inputs:
        raise click.UsageError("--data and --own-inputs exclude each other")

    from onnxshrink.cli.output import check_report_paths, progress_display

    check_report_paths(reports, force=force)

    from onnxshrink.bench import bench_models

    with progress_display(quiet=quiet or as_json) as progress:
        result = bench_models(
            models,
            data=data,
            data_config=data_config,
            own_inputs=own_inputs,
            batch_sizes=batch_sizes,
            threads=threads,
            seconds=seconds,
            seed=seed,
            profile=profile,
            custom_op_libs=custom_op_libs,
            progress=progress,
        )

    from onnxshrink.atomic_files import write_text_atomically
    from onnxshrink.report.bench_markdown import bench_to_markdown
    from onnxshrink.report.json_format import plain_json

    for path in reports:
        text = plain_json(result) + "\n" if path.suffix == ".json" else bench_to_markdown(result)
        write_text_atomically(path, text)
    if as_json:
        click.echo(plain_json(result))
    elif not quiet:
        from rich.console import Console

        from onnxshrink.report.bench_terminal import render_bench

        render_bench(result, Console())
