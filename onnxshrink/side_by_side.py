"""Two models, neither made from the other here, run side by side on the same data."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from onnxshrink.calibration.dataset import Dataset
from onnxshrink.calibration.synthetic import synthetic_dataset
from onnxshrink.errors import ModelError
from onnxshrink.evidence import Comparison, Runtime, compare_models, model_facts
from onnxshrink.measure.machine import this_machine, versions
from onnxshrink.measure.session import Session, SessionSettings, TensorSpec, open_session
from onnxshrink.metrics.base import Metric
from onnxshrink.report.report import ModelFacts, Report
from onnxshrink.source import Source, open_source
from onnxshrink.trial import ConfigLike, DataLike, data_facts, read_data


def run_side_by_side(
    base: str | os.PathLike[str],
    new: str | os.PathLike[str],
    *,
    data: DataLike | None = None,
    data_config: ConfigLike | None = None,
    metrics: Sequence[Metric] = (),
    seed: int = 0,
    threads: int = 0,
    batch_size: int = 1,
    latency_seconds: float = 3.0,
    custom_op_libs: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
    notice: Callable[[str], None] | None = None,
) -> Report:
    """A report with ``base`` as the original and ``new`` as the result, and no passes between them.

    Args:
        data: samples to run both on; None makes synthetic inputs up. See :func:`onnxshrink.compress` for the others.
        data_config: how the data is read: a TOML file; None: the one beside it, or guessed.
        metrics: what the outputs are judged by; empty chooses by labels and outputs.

        notice: called with each thing that was guessed about the data.

    Raises:
        OnnxShrinkError: a model cannot be loaded or run, they take other inputs or give other outputs, or the data
            does not fit.
    """
    tell, warn = progress or (lambda _: None), notice or (lambda _: None)
    settings = SessionSettings(threads=threads, custom_op_libs=tuple(custom_op_libs))
    tell("loading")
    with open_source(base) as first, open_source(new) as second:
        samples = _samples(first, second, data, data_config, settings, seed=seed, batch_size=batch_size)
        for line in samples.explanation:
            warn(line)
        comparison = compare_models(
            first.file,
            second.file,
            samples,
            settings,
            batch_size=batch_size,
            latency_seconds=latency_seconds,
            seed=seed,
            metrics=metrics,
            progress=tell,
        )
        notes = (f"no data was given: the models ran on {samples.description}",) if samples.synthetic else ()
        return Report(
            versions=versions(),
            machine=this_machine(),
            preset=None,
            recipe="",
            seed=seed,
            original=_facts(first, comparison.original, comparison),
            result=_facts(second, comparison.result, comparison),
            passes=(),
            threads=threads,
            batch_size=batch_size,
            data=data_facts(samples),
            agreement=comparison.outputs.agreement,
            latency=comparison.latency,
            accuracy=next(iter(comparison.outputs.accuracies), None),
            other_metrics=comparison.outputs.accuracies[1:],
            metric_reason=comparison.outputs.reason,
            notes=notes,
        )


def _samples(
    base: Source,
    new: Source,
    data: DataLike | None,
    config: ConfigLike | None,
    settings: SessionSettings,
    *,
    seed: int,
    batch_size: int,
) -> Dataset:
    """The data, once it is certain that both models can be run on it and compared."""
    with _open(base, settings) as first, _open(new, settings) as second:
        _refuse_other_interface(first, second, base.name, new.name)
        if data is None:
            return synthetic_dataset(base.model, first, seed=seed, batch_size=batch_size)
        return read_data(data, first.inputs, config, model=base.path)


def _open(source: Source, settings: SessionSettings) -> Session:
    try:
        return open_session(source.file, settings)
    except ModelError as error:
        raise ModelError(f"{source.name}: {error}") from error


def _refuse_other_interface(first: Session, second: Session, base: str, new: str) -> None:
    before, after = ({spec.name: spec for spec in session.inputs} for session in (first, second))
    if before.keys() != after.keys() or not all(_fits(before[name], after[name]) for name in before):
        raise ModelError(f"the models take other inputs: {base} {_listed(first)}, {new} {_listed(second)}")
    given = {spec.name for spec in second.outputs}
    missing = [spec.name for spec in first.outputs if spec.name not in given]
    if missing:
        raise ModelError(f"{new} has no output '{missing[0]}', which {base} has: they cannot be compared")


def _fits(one: TensorSpec, other: TensorSpec) -> bool:
    """Whether some array is an input of both."""
    if one.type != other.type or len(one.shape) != len(other.shape):
        return False
    pairs = zip(one.shape, other.shape, strict=True)
    return all(first == second for first, second in pairs if isinstance(first, int) and isinstance(second, int))


def _listed(session: Session) -> str:
    texts = (f"{spec.name} {spec.type} [{', '.join(str(dim or '?') for dim in spec.shape)}]" for spec in session.inputs)
    return ", ".join(texts) or "none"


def _facts(source: Source, runtime: Runtime, comparison: Comparison) -> ModelFacts:
    return model_facts(
        source.model,
        source.file,
        name=source.name,
        path=source.path,
        sha256=source.sha256,
        runtime=runtime,
        feed=comparison.feed,
    )
