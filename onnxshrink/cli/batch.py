"""``onnxshrink batch``."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal

import click

from onnxshrink.cli.compression_options import compression_options
from onnxshrink.cli.options import HELP, debug_option, gate_options

if TYPE_CHECKING:
    from onnxshrink.batch.job import Settings
    from onnxshrink.batch.progress import Watcher
    from onnxshrink.batch.run import Limits
    from onnxshrink.batch.scheduling import Scheduler
    from onnxshrink.report.gates import Uncertain

_SIGNALS = ("SIGINT", "SIGTERM")


@click.command(context_settings=HELP)
@click.argument("inputs", nargs=-1, required=True, metavar="IN...")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUTDIR",
    help="The folder of the results; made if need be. A path or a URL.",
)
@click.option(
    "--ledger",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep ledger and summaries in this folder of this machine; required when OUTDIR is a URL. [default: OUTDIR]",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Do the work on a Dask cluster: tcp://HOST:8786, or 'local' for one on this machine (docs/cluster.md). "
    "[default: processes of this command]",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    metavar="N",
    help="Models at a time, each in a process of its own. [default: one per core, fewer when memory is short]",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="End the process of a model that takes longer; waiting for its turn does not count.",
)
@click.option(
    "--memory",
    type=click.IntRange(256),
    metavar="MIB",
    help="End the process of a model that takes more memory, together with those that it starts.",
)
@click.option("--retry-failed", is_flag=True, help="Do what failed in an earlier run once more.")
@click.option("--force", is_flag=True, help="Replace files in OUTDIR that no batch has made.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and write nothing.")
@compression_options(memory="--calibration-memory")
@gate_options
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors and failed gates.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary, or the plan, as JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Print every model, however many there are.")
@debug_option
def batch(
    inputs: tuple[str, ...],
    output: str,
    ledger: Path | None,
    scheduler: str | None,
    jobs: int | None,
    timeout: float | None,
    memory: int | None,
    retry_failed: bool,
    force: bool,
    dry_run: bool,
    preset: str | None,
    recipe: str | None,
    data: Path | None,
    data_config: Path | None,
    calibration_data: Path | None,
    calibration_samples: int | None,
    memory_bytes: int | None,
    no_measure: bool,
    no_latency: bool,
    threads: int,
    batch_size: int,
    latency_seconds: float,
    metric: str | None,
    goal: Literal["speed", "size", "balanced"] | None,
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
    """Compress many models on all cores. What goes wrong with one of them costs that one only.

    IN is a model, a folder with models, a quoted pattern such as 'models/**/*.onnx', each also by URL (s3://, gs://,
    file://), or a manifest (.toml, .jsonl) that gives each model its own settings. The same command again does what
    is missing, or has changed. docs/batch.md has the rest, docs/cluster.md what is about URLs and clusters.

    \b
    Examples:
      onnxshrink batch models/ -o small/
      onnxshrink batch models/ -o small/ --jobs 4 --timeout 600 --memory 4096 --no-latency
      onnxshrink batch models.toml -o small/ --gate 'size<=30%' --gate-report gates.xml
      onnxshrink batch 'models/*/model.onnx' -o small/ --preset int8 --data eval.npz --dry-run
      onnxshrink batch s3://zoo/models -o s3://zoo/small --ledger zoo/ --scheduler tcp://scheduler:8786
    """
    if preset is not None and recipe is not None:
        raise click.UsageError("--preset and --recipe exclude each other")
    if jobs is not None and scheduler not in (None, "local"):
        raise click.UsageError("--jobs is for this machine: on a cluster it is --nthreads of its workers")

    from onnxshrink.batch.job import Settings
    from onnxshrink.cli.gating import check_gate_report, gates_from

    gates = gates_from(gate_texts, gate_files)
    if gates or not any(text.endswith((".toml", ".jsonl")) for text in (*inputs, recipe or "")):
        check_gate_report(gate_report, gates, force=True)
    settings = Settings(
        preset=preset,
        recipe=recipe,
        data=_text(data),
        data_config=_text(data_config),
        calibration_data=_text(calibration_data),
        calibration_samples=calibration_samples,
        memory_bytes=memory_bytes,
        metric=metric,
        goal=goal,
        max_drop=max_drop,
        max_load_ratio=max_load_ratio,
        seed=seed,
        measure=not no_measure,
        latency=not no_latency,
        threads=threads,
        batch_size=batch_size,
        latency_seconds=latency_seconds,
        external_data=external_data,
        run_large=run_large,
        custom_op_libs=custom_op_libs,
        gates=tuple(map(str, gates)),
        gate_uncertain=gate_uncertain,
    )
    _check_data(settings)
    if dry_run:
        _show_plan(inputs, output, settings, ledger, force=force, retry_failed=retry_failed, as_json=as_json)
        return 0

    from onnxshrink.batch.run import Limits, ledger_folder, run_batch
    from onnxshrink.cli.batch_output import conclude_batch, show_batch, write_summaries
    from onnxshrink.cli.batch_progress import batch_display

    limits = Limits(jobs, timeout, None if memory is None else memory * 2**20)
    with _stoppable():
        try:
            with batch_display(quiet=quiet or as_json) as display:
                found = run_batch(
                    inputs,
                    output,
                    settings,
                    limits=limits,
                    scheduler=None if scheduler is None else _dask(scheduler, limits, display, quiet=quiet or as_json),
                    ledger=ledger,
                    force=force,
                    retry_failed=retry_failed,
                    watcher=display,
                )
        except _Stopped as stopped:
            click.echo("onnxshrink: stopped; the same command goes on from there", err=True)
            return 128 + stopped.number
    write_summaries(found, ledger_folder(output, ledger), output)
    show_batch(found, quiet=quiet, as_json=as_json, verbose=verbose)
    return conclude_batch(found, gate_report, quiet=quiet)


def _dask(address: str, limits: Limits, watcher: Watcher, *, quiet: bool) -> Scheduler:
    """The Dask cluster at an address."""
    from onnxshrink.batch.dask_cluster import check_installed
    from onnxshrink.batch.dask_workers import DaskWorkers
    from onnxshrink.batch.resources import usable_cores
    from onnxshrink.cli.output import notices

    check_installed()
    return DaskWorkers(
        address,
        limits.workers or usable_cores(),
        timeout_seconds=limits.timeout_seconds,
        memory_bytes=limits.memory_bytes,
        watcher=watcher,
        notice=notices(quiet=quiet),
    )


class _Stopped(KeyboardInterrupt):
    """Ctrl-C, or the system's wish that this process ends."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def _stoppable() -> Iterator[None]:
    """The first signal stops cleanly; the second one at once: workers end with this process."""

    def stop(number: int, _frame: FrameType | None) -> None:
        for name in _SIGNALS:
            signal.signal(getattr(signal, name), lambda number, _: os._exit(128 + number))
        raise _Stopped(number)

    before = {name: signal.signal(getattr(signal, name), stop) for name in _SIGNALS}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _show_plan(
    inputs: tuple[str, ...],
    output: str,
    settings: Settings,
    ledger: Path | None,
    *,
    force: bool,
    retry_failed: bool,
    as_json: bool,
) -> None:
    from onnxshrink.batch.estimate import forecast, forecast_lines
    from onnxshrink.batch.run import plan_batch
    from onnxshrink.report.json_format import plain_json

    plan = plan_batch(inputs, output, settings, ledger=ledger, force=force, retry_failed=retry_failed)
    expected = forecast(plan)
    if as_json:
        click.echo(plain_json(expected))
        return
    for line in forecast_lines(expected):
        click.echo(line)


def _check_data(settings: Settings) -> None:
    """Data that is for all models, and is not there, is refused at once."""
    from onnxshrink.batch.digests import module_file
    from onnxshrink.errors import FileAccessError

    for text in (settings.data, settings.calibration_data):
        if text is not None and not Path(text).exists() and module_file(text) is None and ":" not in text:
            raise FileAccessError(f"the data file {text} does not exist")
    if (
        settings.data_config is not None
        and "://" not in settings.data_config
        and not Path(settings.data_config).exists()
    ):
        raise FileAccessError(f"the data config {settings.data_config} does not exist")


def _text(path: Path | str | None) -> str | None:
    return None if path is None else str(path)
