"""The ``evaluate`` command: metrics of a model on data, and their differences from another model's."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxshrink.calibration.dataset import Dataset
from onnxshrink.errors import DataError, FileAccessError, RecipeError
from onnxshrink.judging import Judges, Labelled, LabelledBatch
from onnxshrink.measure.accuracy import compared_accuracy, metric_value
from onnxshrink.measure.machine import this_machine, versions
from onnxshrink.measure.session import Session, SessionSettings
from onnxshrink.measured import Accuracy, Agreement, MetricValue
from onnxshrink.metrics.base import Bound, Judged, Metric, ratio_of_sums
from onnxshrink.metrics.custom import Custom
from onnxshrink.metrics.spelling import metric_text, parse_metrics
from onnxshrink.numerics.agreement import AgreementMeter
from onnxshrink.report.evaluation import EvaluatedModel, Evaluation
from onnxshrink.report.evaluation_figures import figures_of_evaluation
from onnxshrink.report.gates import Gate, Uncertain, judge, parse_gates
from onnxshrink.report.report import DataFacts
from onnxshrink.source import ModelLike, Source, open_source
from onnxshrink.trial import ConfigLike, DataLike, data_facts, original_session, read_data

DEFAULT_BATCH = 16


@dataclass(frozen=True)
class _Found:
    """What judging found, see the fields of :class:`Evaluation` of these names."""

    data: DataFacts
    metrics: tuple[MetricValue, ...]
    differences: tuple[Accuracy, ...]
    agreement: Agreement | None
    reason: str = ""
    notes: tuple[str, ...] = ()
    metric_texts: tuple[str, ...] = ()
    labels_digest: str = ""


def evaluate(
    model: ModelLike,
    data: DataLike,
    *,
    against: ModelLike | None = None,
    metric: str | Sequence[Metric] | None = None,
    data_config: ConfigLike | None = None,
    label: str | None = None,
    batch_size: int = DEFAULT_BATCH,
    threads: int = 0,
    limit: int | None = None,
    custom_op_libs: Sequence[str] = (),
    seed: int = 0,
    gates: Sequence[str | Gate] = (),
    gate_uncertain: Uncertain = "warn",
    progress: Callable[[str], None] | None = None,
    notice: Callable[[str], None] | None = None,
) -> Evaluation:
    """Run a model on data, and judge its outputs by the labels, or by another model's outputs.

    Samples are streamed: memory is one batch, and a few numbers per sample.

    Args:
        model: a path, a ``ModelProto`` or an ``onnx_ir.Model``.
        data: samples: a path or a function (docs/data.md), arrays by input name, or a :class:`Dataset`.
        against: the model to compare with, usually the float one.
        metric: metrics in one line, as the command line spells them; None chooses by labels and outputs.
        data_config: how the data is read: a TOML file; None: the one beside it, or guessed.
        label: name of the array or column that holds the labels; None: what the config says, or ``label``.
        batch_size: samples per run, where the model's inputs leave that open.
        threads: intra-op threads; 0 lets ONNX Runtime decide.
        limit: how many samples are used, from the first on; None uses all.
        custom_op_libs: shared libraries that register custom operators.
        seed: seeds the bootstrap.
        gates: limits on the figures, such as ``top1>=0.70``; the result says how each was judged.
        gate_uncertain: what becomes of a gate whose limit lies within its figure's interval.
        progress: called with the name of each step.
        notice: called with each thing that was guessed about the data.

    Raises:
        OnnxShrinkError: one of its subclasses.
    """
    metrics = parse_metrics(metric) if isinstance(metric, str) else tuple(metric or ())
    tell, warn = progress or (lambda _: None), notice or (lambda _: None)
    limits = parse_gates(gates)
    settings = SessionSettings(threads=threads, custom_op_libs=tuple(custom_op_libs))
    with ExitStack() as stack:
        tell("loading")
        sources = [stack.enter_context(open_source(one)) for one in (against, model) if one is not None]
        sessions = [stack.enter_context(original_session(source, settings)) for source in sources]
        tell("running")
        if any(isinstance(one, Custom) and one.runs_the_model for one in metrics):
            found = _judged_by_functions(metrics, sessions, data, seed)
        else:
            samples = read_data(data, sessions[-1].inputs, data_config, model=sources[-1].path, label=label)
            for line in samples.explanation:
                warn(line)
            found = _judged_in_batches(
                metrics, sessions, Labelled.of(samples), batch_size=batch_size, limit=limit, seed=seed
            )
        evaluation = Evaluation(
            versions=versions(),
            machine=this_machine(),
            model=_model(sources[-1]),
            data=found.data,
            metrics=found.metrics,
            reason=found.reason,
            threads=threads,
            batch_size=batch_size,
            seed=seed,
            against=_model(sources[0]) if against is not None else None,
            differences=found.differences,
            agreement=found.agreement,
            notes=found.notes,
            metric_texts=found.metric_texts,
            labels_digest=found.labels_digest,
        )
    return replace(evaluation, gates=judge(limits, figures_of_evaluation(evaluation), gate_uncertain))


def _judged_in_batches(
    metrics: Sequence[Metric],
    sessions: Sequence[Session],
    samples: Labelled,
    *,
    batch_size: int,
    limit: int | None,
    seed: int,
) -> _Found:
    compared = len(sessions) == 2
    ignored = ", ".join(samples.data.ignored)
    if samples.labels is None and ignored and not compared and not metrics:
        raise DataError(
            f"{samples.data.description}: there is no array 'label'; --label names another one of {ignored}"
        )
    judges = Judges(metrics, samples, compared=compared, seed=seed)
    agreement = AgreementMeter()
    used = 0
    for batch in samples.batches(sessions[-1].inputs, batch_size, limit):
        outputs = [_outputs(session, batch) for session in sessions]
        judges.add(outputs, batch)
        if compared:
            _check_same_outputs(*outputs)
            agreement.add(outputs[0], outputs[1], batch.samples)
        used += batch.samples
    data = samples.data
    facts = replace(data_facts(data), samples=used)
    notes = (*data.explanation, *([f"these parts of the data were not used: {ignored}"] if ignored else []))
    differences = judges.accuracies() if compared else ()
    return _Found(
        facts,
        judges.values(),
        differences,
        agreement.agreement() if compared else None,
        judges.reason,
        notes,
        tuple(map(metric_text, judges.metrics)),
        samples.digest,
    )


def _outputs(session: Session, batch: LabelledBatch) -> dict[str, Any]:
    try:
        return session.run(batch.feed)
    except DataError as error:
        if batch.samples == 1:
            raise
        raise DataError(f"{error} (--batch-size 1 runs one sample at a time)") from error


def _check_same_outputs(reference: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
    missing = [name for name in reference if name not in outputs]
    if missing:
        raise DataError(f"the model has no output '{missing[0]}', which the one it is compared with has")


def _judged_by_functions(metrics: Sequence[Metric], sessions: Sequence[Session], data: DataLike, seed: int) -> _Found:
    """Metrics whose functions run the model themselves. Agreement is that of outputs on the original's own feeds."""
    functions = [metric for metric in metrics if isinstance(metric, Custom) and metric.runs_the_model]
    if len(functions) < len(metrics):
        raise RecipeError("metrics that run the model themselves cannot be mixed with others: evaluate them apart")
    arrays, description = _arrays(data)
    meter = AgreementMeter()
    values, differences = [], []
    for metric in functions:
        tables = []
        for index, session in enumerate(sessions):
            follower = sessions[1] if len(sessions) == 2 and index == 0 else None
            run = _runner(session, follower, meter)
            tables.append(metric.table(metric.call(run, arrays), None))
        bound = Bound(metric.label, ", ".join(spec.name for spec in sessions[0].outputs), _no_rows, ratio_of_sums)
        values.append(metric_value(metric, bound, tables[-1], seed=seed))
        if len(tables) == 2:
            differences.append(compared_accuracy(metric, bound, tables[0], tables[1], seed=seed))
    digest = Dataset(arrays).digest
    facts = DataFacts(description, digest, len(tables[-1]), synthetic=False)
    agreement = meter.agreement() if len(sessions) == 2 else None
    spelled = tuple(map(metric_text, functions))
    return _Found(facts, tuple(values), tuple(differences), agreement, metric_texts=spelled)


def _no_rows(batch: Judged) -> np.ndarray:
    """The rows of functions that run the model are not read batch by batch."""
    raise NotImplementedError(batch)


def _runner(session: Session, follower: Session | None, meter: AgreementMeter) -> Callable[[Mapping[str, Any]], Any]:
    """What a function is given to run a model with; ``follower`` is run on the same feeds and compared."""
    types = {spec.name: spec.dtype for spec in session.inputs}

    def run(feed: Mapping[str, Any]) -> dict[str, Any]:
        arrays = {name: np.ascontiguousarray(array, types.get(name)) for name, array in feed.items()}
        outputs = session.run(arrays)
        if follower is not None:
            meter.add(outputs, follower.run(arrays))
        return outputs

    return run


def _arrays(data: DataLike) -> tuple[Mapping[str, np.ndarray], str]:
    """Every array of the data, and where they come from: for functions that read them as they like."""
    if isinstance(data, Mapping):
        return data, "arrays"
    if isinstance(data, Dataset):
        return {name: array[: len(array)] for name, array in data.arrays.items()}, data.description
    if callable(data):
        raise DataError("a metric that runs the model itself takes arrays or an .npz file, not a function of feeds")
    path = Path(os.fspath(data))
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}, str(path)
    except OSError as error:
        raise FileAccessError(f"cannot read the data file {path}: {error.strerror}") from error
    except (ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a readable .npz archive: make one with numpy.savez") from error


def _model(source: Source) -> EvaluatedModel:
    return EvaluatedModel(source.name, None if source.path is None else str(source.path), source.sha256)
