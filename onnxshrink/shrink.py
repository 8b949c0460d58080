"""The straight line: load, apply the recipe's passes, check, measure original and result side by side, save, report."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from onnxshrink.alternatives import Chosen, Goal, Trials, Wish, choose
from onnxshrink.atomic_files import check_destination
from onnxshrink.calibrated import calibrated_context
from onnxshrink.calibration.dataset import Dataset
from onnxshrink.data.read import ConfigLike, DataLike
from onnxshrink.errors import CheckError, DataError, FileAccessError, ModelError
from onnxshrink.evidence import Comparison, Runtime, compare_models, model_facts
from onnxshrink.graph.data_files import data_files
from onnxshrink.graph.load import file_digest, load_model, uses_external_files, weight_bytes
from onnxshrink.graph.save import StagedModel, stage_model
from onnxshrink.graph.validity import complaint_of_checker
from onnxshrink.layer_facts import measure_layers
from onnxshrink.limits import limits_of, refuse_unanswerable
from onnxshrink.making import provenance_of
from onnxshrink.measure.kernels import measure_kernels
from onnxshrink.measure.machine import this_machine, versions
from onnxshrink.measure.own_process import run_in_own_process
from onnxshrink.measure.session import SessionSettings, evaluate_constants
from onnxshrink.measure.threads import threads_meant
from onnxshrink.metrics.base import Metric
from onnxshrink.metrics.spelling import parse_metrics
from onnxshrink.passes.base import Context, Effect
from onnxshrink.passes.checks import CheckFailure, Outputs
from onnxshrink.passes.runner import PassRunner
from onnxshrink.plan import Plan, plan_of
from onnxshrink.provenance import stamp, stamp_bytes
from onnxshrink.recipe import Recipe
from onnxshrink.report.figures import figures_of
from onnxshrink.report.gates import (
    Gate,
    Uncertain,
    judge,
)
from onnxshrink.report.report import Alternative, PassRecord, Report
from onnxshrink.source import ModelLike, Source, open_source
from onnxshrink.trial import CalibrationWish, Trial, data_facts, prepare_trial

RUN_LIMIT_BYTES = 2**30
"""Models with more bytes of weights are not run unless asked: a run takes several times their size in memory."""

KEEP_EXTERNAL_ABOVE_BYTES = 256 * 2**20
"""A model that came with external data keeps it above this size: whoever reads an inline model holds all of it."""

_OWN_PROCESS_ABOVE_BYTES = 32 * 2**20
"""Above this size the final check runs in a process of its own, so that its memory does not add to this one's."""

_OPTIMIZED_SLACK = 10
"""ONNX Runtime's own optimisations reorder arithmetic too: the final check allows this many times the tolerance."""


_FAR = 0.1
"""Relative output error from which a recipe's result is called out."""


@dataclass(frozen=True)
class _Result:
    """The compressed model, the file it is in now, and the file it will be in (None: nowhere)."""

    model: ir.Model
    file: Path
    path: Path | None


def compress(
    model: ModelLike,
    output: str | os.PathLike[str] | None = None,
    *,
    preset: str | None = None,
    recipe: str | Recipe | None = None,
    data: DataLike | None = None,
    data_config: ConfigLike | None = None,
    calibration_data: DataLike | None = None,
    calibration_samples: int | None = None,
    memory_bytes: int | None = None,
    calibration_cache: str | os.PathLike[str] | None = None,
    metric: str | Sequence[Metric] | None = None,
    goal: Goal | None = None,
    max_drop: float | None = None,
    max_load_ratio: float | None = None,
    seed: int = 0,
    force: bool = False,
    in_place: bool = False,
    measure: bool = True,
    latency: bool = True,
    threads: int = 0,
    batch_size: int = 1,
    latency_seconds: float = 3.0,
    custom_op_libs: Sequence[str] = (),
    external_data: bool | None = None,
    run_large: bool = False,
    gates: Sequence[str | Gate] = (),
    gate_uncertain: Uncertain = "warn",
    progress: Callable[[str], None] | None = None,
    notice: Callable[[str], None] | None = None,
) -> Report:
    """Compress a model, check the result, compare it with the original, and write it.

    Args:
        model: a path, a ``ModelProto`` or an ``onnx_ir.Model``; a model in memory is not changed.
        output: the file to write; None writes nothing, the report tells what would come out.
        preset: name of a preset; ``safe`` when neither preset nor recipe is given.
        recipe: passes to apply instead of a preset: a line of text, a ``.toml`` file, or a :class:`Recipe`.
        data: samples to compare on: a file or folder, ``package.module:function``, or what else
            :data:`onnxshrink.data.read.DataLike` names; None makes synthetic inputs up.
        data_config: a TOML file that says how ``data`` and ``calibration_data`` are read; None: the one that lies
            beside or inside them, if any. See docs/data.md.
        calibration_data: samples to find activation ranges on, like ``data``; None takes the samples of ``data``.
        calibration_samples: how many of them, from the first on; None: 100, or 512 where a sample is a text.
        memory_bytes: what activations may take while they are calibrated; None: a quarter of the machine's memory.
        calibration_cache: a folder that keeps activation statistics from run to run, by the digests of model and data.
        metric: metrics in one line, as the command line spells them, the first deciding; None chooses one by labels
            and outputs.
        goal: what a preset with alternatives chooses by, see :class:`onnxshrink.alternatives.Wish`; None:
            ``balanced``, or ``size`` for the presets that are about size.
        max_drop: the share of the metric, or without labels of the outputs' variance, that such a preset may lose;
            None: 1 %, or what the preset says.
        max_load_ratio: load time of the result, as a multiple of the original's: ``pack-weights`` packs no tighter than
            it is estimated to allow, and what is measured is judged by a gate ``load<=…%``.
        seed: seeds every random choice, and synthetic inputs.
        force: replace an existing output file.
        in_place: replace the input file when no other output is given.
        measure: compare latency, load time, memory and outputs; the checks of each pass are made in any case.
        latency: measure latency and load time, too. Without, alternatives that a preset chooses from count as equally
            fast.
        threads: intra-op threads of the measured sessions; 0 lets ONNX Runtime decide.
        batch_size: samples per run when latency is measured, where the model's inputs allow it.
        latency_seconds: time to spend on timing both models.
        custom_op_libs: shared libraries that register custom operators.
        external_data: write weights to a file of their own; None does so above 2 GiB, and above 256 MiB when the
            original did.
        run_large: also run models with more than 1 GiB of weights.
        gates: limits on the report's figures, such as ``size<=30%``, beside those of a ``.toml`` recipe. The report
            says how each was judged; a failed one raises nothing, and the result is written.
        gate_uncertain: what becomes of a gate whose limit lies within its figure's interval: ``warn`` leaves it
            ``uncertain``, ``pass`` and ``fail`` decide.
        progress: called with the name of each step.
        notice: called with each thing that was guessed about the data, before the work starts.

    Raises:
        OnnxShrinkError: one of its subclasses; nothing is written then.
    """
    plan = plan_of(preset, recipe, max_load_ratio)
    metrics = parse_metrics(metric) if isinstance(metric, str) else tuple(metric or ())
    if max_load_ratio is not None and measure and latency:
        gates = (*gates, f"load<={100 * max_load_ratio:g}%")
    limits = limits_of(gates, recipe, measure=measure, timed=latency, data=data, metrics=metrics)
    wish = plan.wish(goal, max_drop)
    tell, warn = progress or (lambda _: None), notice or (lambda _: None)
    settings = SessionSettings(threads=threads, custom_op_libs=tuple(custom_op_libs))
    destination = _destination(model, output, force=force, in_place=in_place)
    tell("loading")
    with open_source(model) as source:
        trial = None
        large = weight_bytes(source.model) > RUN_LIMIT_BYTES
        if run_large or not large:
            wanted = CalibrationWish(
                calibration_data,
                calibration_samples,
                memory_bytes,
                None if calibration_cache is None else Path(calibration_cache),
            )
            trial = prepare_trial(
                source, data, data_config, wanted, plan.max_relative_error, settings, seed=seed, batch_size=batch_size
            )
            for line in trial.explanation if trial is not None else ():
                warn(line)
        refuse_unanswerable(limits, trial, metrics)
        for one in metrics if measure else ():
            one.check(labelled=trial is not None and trial.data.labels is not None)
        plan.check_data(calibrated=trial is not None and trial.calibration is not None)
        runner = PassRunner(_context(trial, seed), trial.check if trial else None, tell)
        result, records = runner.run(source.model, plan.recipe)
        done = [(plan.recipe, records)]
        tried: tuple[Alternative, ...] = ()
        if plan.alternatives:
            chosen = _chosen(
                result,
                plan,
                trial,
                runner,
                settings,
                wish,
                metrics,
                batch_size=batch_size,
                seconds=latency_seconds if latency else None,
                seed=seed,
            )
            done.append((chosen.recipe, chosen.records))
            result, records, tried = chosen.model, records + chosen.records, chosen.tried
            plan = replace(plan, recipe=Recipe(plan.recipe.passes + chosen.recipe.passes))
        made = provenance_of(
            source,
            done,
            trial,
            seed=seed,
            batch_size=batch_size,
            threads=threads,
            run_large=run_large and large,
        )
        stamp(result, made)
        tell("checking the result")
        if external_data is None:
            external_data = uses_external_files(source.model) and weight_bytes(result) > KEEP_EXTERNAL_ABOVE_BYTES
        with _staged(result, destination, external_data) as staged:
            _verify(source, staged, trial, records)
            comparison = None
            if measure and trial is not None:
                comparison = compare_models(
                    source.file,
                    staged.path,
                    trial.data,
                    settings,
                    batch_size=batch_size,
                    latency_seconds=latency_seconds,
                    seed=seed,
                    metrics=metrics,
                    progress=tell,
                    timed=latency,
                )
            report = _report(
                source,
                _Result(_as_written(result, staged.path), staged.path, destination),
                plan,
                records,
                tried,
                trial,
                comparison,
                settings=settings,
                batch_size=batch_size,
                seed=seed,
            )
            if comparison is not None and trial is not None:
                tell("comparing layers")
                written = _as_written(result, staged.path)
                layers = measure_layers(source.model, written, trial.check.feeds, settings)
                report = replace(report, layers=layers)
            report = replace(report, gates=judge(limits, figures_of(report), gate_uncertain))
            if destination is not None:
                staged.commit()
    return report


def _chosen(
    cleaned: ir.Model,
    plan: Plan,
    trial: Trial | None,
    runner: PassRunner,
    settings: SessionSettings,
    wish: Wish,
    metrics: tuple[Metric, ...],
    *,
    batch_size: int,
    seconds: float | None,
    seed: int,
) -> Chosen:
    """One of the plan's alternatives; the first when there is nothing to measure on, or nothing to calibrate on.

    ``seconds``: time to spend on each latency; None measures none.
    """
    if trial is None:
        model, records = runner.run(cleaned, plan.alternatives[0])
        return Chosen(model, plan.alternatives[0], records, ())
    recipes = plan.alternatives
    if trial.calibration is None:
        recipes = tuple(recipe for recipe in recipes if not any(one_pass.needs_data for one_pass in recipe))
    trials = Trials(runner, trial.data, settings, batch_size, seconds, seed, metrics)
    return choose(cleaned, recipes, trials, wish)


def _destination(
    model: ModelLike, output: str | os.PathLike[str] | None, *, force: bool, in_place: bool
) -> Path | None:
    """The file to write, refused before any work when it must not or cannot be written."""
    origin = Path(model) if isinstance(model, str | os.PathLike) else None
    if output is None and not in_place:
        return None
    if output is None and origin is None:
        raise FileAccessError("a model in memory has no file to replace: give an output")
    destination = Path(output) if output is not None else origin
    assert destination is not None
    same = origin is not None and destination.exists() and origin.exists() and destination.samefile(origin)
    if same and not in_place:
        raise FileAccessError(f"{destination} is the input: use --in-place to replace it")
    check_destination(destination, force=force or same)
    return destination


def _context(trial: Trial | None, seed: int) -> Context:
    """What passes may ask for."""
    if trial is None:
        return Context(seed, evaluate_constants)
    return calibrated_context(seed, trial.check.feeds, trial.check.settings, trial.calibration)


@contextmanager
def _staged(model: ir.Model, destination: Path | None, external_data: bool) -> Iterator[StagedModel]:
    """The result as a file beside its destination, or in a temporary folder when nothing is to be written."""
    if destination is not None:
        with stage_model(model, destination, external=external_data) as staged:
            yield staged
        return
    with (
        tempfile.TemporaryDirectory(prefix="onnxshrink-") as folder,
        stage_model(model, Path(folder, "result.onnx"), external=external_data) as staged,
    ):
        yield staged


def _verify(source: Source, staged: StagedModel, trial: Trial | None, records: Sequence[PassRecord]) -> None:
    """Check the written file as users will run it, ONNX Runtime's optimisations on; CheckError when it fails."""
    complaint = complaint_of_checker(staged.path)
    if complaint is not None and complaint_of_checker(source.file) is None:
        raise CheckError(f"the result is not valid ONNX, nothing was written: {complaint}")
    if trial is None:
        return
    lossy = any(record.effect == "lossy" and record.status == "applied" for record in records)
    check = replace(
        trial.check,
        settings=replace(trial.check.settings, optimized=True),
        rounding_tolerance=_OPTIMIZED_SLACK * trial.check.rounding_tolerance,
    )
    try:
        if source.file.stat().st_size > _OWN_PROCESS_ABOVE_BYTES:
            after: Outputs = run_in_own_process(staged.path, check.feeds, check.settings).outputs
        else:
            after = check.outputs(staged.path)
        check.compare(check.reference, after, Effect.LOSSY if lossy else Effect.ROUNDING)
    except (CheckFailure, ModelError, DataError) as failure:
        raise CheckError(f"the result failed its check, nothing was written: {failure}") from failure


def _report(
    source: Source,
    result: _Result,
    plan: Plan,
    records: tuple[PassRecord, ...],
    tried: tuple[Alternative, ...],
    trial: Trial | None,
    comparison: Comparison | None,
    *,
    settings: SessionSettings,
    batch_size: int,
    seed: int,
) -> Report:
    feed = comparison.feed if comparison else None
    report = Report(
        versions=versions(),
        machine=this_machine(),
        preset=plan.preset,
        recipe=str(plan.recipe),
        seed=seed,
        original=model_facts(
            source.model,
            source.file,
            name=source.name,
            path=source.path,
            sha256=source.sha256,
            runtime=comparison.original if comparison else Runtime(),
            feed=feed,
        ),
        result=model_facts(
            result.model,
            result.file,
            name=result.path.name if result.path else source.name,
            path=result.path,
            sha256=file_digest(result.file, result.model),
            runtime=comparison.result if comparison else Runtime(),
            feed=feed,
        ),
        passes=records,
        threads=threads_meant(settings.threads),
        batch_size=batch_size if comparison else None,
        data=data_facts(trial.data) if trial else None,
        agreement=comparison.outputs.agreement if comparison else None,
        latency=comparison.latency if comparison else None,
        accuracy=next(iter(comparison.outputs.accuracies), None) if comparison else None,
        other_metrics=comparison.outputs.accuracies[1:] if comparison else (),
        metric_reason=comparison.outputs.reason if comparison else "",
        alternatives=tried,
    )
    if feed is not None and any(record.effect == "lossy" and record.status == "applied" for record in records):
        kernels = measure_kernels(result.model, feed)
        report = replace(
            report,
            integer_kernels=kernels.integer,
            integer_mac_share=kernels.integer_mac_share,
            missed_kernels=kernels.missed,
        )
    return replace(report, notes=tuple(_notes(report, trial, stamp_bytes(result.model))))


def _as_written(model: ir.Model, file: Path) -> ir.Model:
    """The model with its external data, if any, where ``file`` has it."""
    return load_model(file) if uses_external_files(model) or data_files(file) else model


def _notes(report: Report, trial: Trial | None, provenance_bytes: int) -> Iterator[str]:
    """What a reader must know before believing the numbers."""
    if trial is None and report.original.size.file_bytes > RUN_LIMIT_BYTES:
        gib = report.original.size.file_bytes / 2**30
        yield f"the model takes {gib:.1f} GiB and was not run: it was checked for validity only (--run-large runs it)"
    elif trial is None:
        yield "inputs of its types cannot be made up, so the model was not run: it was checked for validity only"
    elif not trial.check.deterministic:
        yield "the original's outputs change from run to run: only their shapes were compared"
    if trial is not None:
        yield from trial.explanation
        yield from _notes_on_data(report, trial.data)
    if report.missed_kernels:
        names = ", ".join(report.missed_kernels[:3])
        yield f"{len(report.missed_kernels)} quantized layers run in float all the same on this machine: {names}"
    yield from _notes_on_choice(report.alternatives)
    if report.preset is None and report.agreement is not None and (report.agreement.relative_error or 0) > _FAR:
        yield f"the recipe moved the outputs far: relative error {report.agreement.relative_error:.2g}"
    grown = report.result.size.file_bytes - report.original.size.file_bytes
    if grown > 0:
        extra = f", {provenance_bytes} of them the record of how it was made" if provenance_bytes else ""
        yield f"the result is {grown:,} bytes larger than the original{extra}"
    if report.latency is not None and report.latency.significant and report.latency.ratio > 1:
        yield f"the result is slower on this machine: {report.latency.verdict}"


def _notes_on_choice(tried: Sequence[Alternative]) -> Iterator[str]:
    measured = [one for one in tried if one.failure is None]
    if measured and all(one.latency_ratio is None for one in measured):
        yield "latency was not measured: what was tried counts as equally fast"
    if tried and not any(one.kept for one in tried):
        yield "nothing that was tried holds what was asked: the cleaned-up model was kept"


def _notes_on_data(report: Report, data: Dataset) -> Iterator[str]:
    if report.agreement is None:
        yield f"passes were checked on {data.description}; latency, memory and agreement were not measured"
        return
    if data.synthetic:
        yield f"no data was given: outputs were compared on {data.description}; accuracy is unknown"
    if data.ignored:
        yield f"parts of the data that are neither an input nor the labels were not used: {', '.join(data.ignored)}"
    if data.labels is not None and report.accuracy is None:
        yield f"the labels were not used: {report.metric_reason}"
