"""The data that a run is tried on, read from what the user gave, and the check that passes have to hold against."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from onnxshrink.calibrated import CalibrationRuns
from onnxshrink.calibration.dataset import Dataset, default_calibration_samples, feeds_of
from onnxshrink.calibration.synthetic import synthetic_dataset
from onnxshrink.data.read import ConfigLike, DataLike, read_data
from onnxshrink.errors import ModelError
from onnxshrink.graph.walk import custom_domains
from onnxshrink.measure.session import Session, SessionSettings, open_session
from onnxshrink.passes.checks import OutputCheck, agreement_of, rounding_tolerance
from onnxshrink.report.report import DataFacts
from onnxshrink.source import Source

__all__ = [
    "CHECK_SAMPLES",
    "CalibrationWish",
    "ConfigLike",
    "DataLike",
    "Trial",
    "data_facts",
    "feeds_of",
    "prepare_trial",
    "read_data",
]

CHECK_SAMPLES = 4
"""Samples on which outputs are compared before and after passes."""


@dataclass(frozen=True)
class CalibrationWish:
    """What the user wants activations to be calibrated on."""

    data: DataLike | None
    samples: int | None
    memory_bytes: int | None
    cache: Path | None


@dataclass(frozen=True)
class Trial:
    """The data to run the models on, and the check that passes have to hold against.

    ``calibration`` is what ranges are found on, the first ``calibration_samples`` of the data: None without real data.
    ``explanation``: what was guessed about the data and the calibration data.
    """

    data: Dataset
    check: OutputCheck
    calibration: CalibrationRuns | None
    calibration_samples: int
    explanation: tuple[str, ...] = ()


def prepare_trial(
    source: Source,
    data: DataLike | None,
    config: ConfigLike | None,
    calibration: CalibrationWish,
    max_relative_error: float | None,
    settings: SessionSettings,
    *,
    seed: int,
    batch_size: int,
) -> Trial | None:
    """Run the original on a few samples, ONNX Runtime's own optimisations off: what passes are held against.

    None when there are no samples, and none can be made up for the types of its inputs (sequences, bfloat16).
    """
    plain = replace(settings, optimized=False, threads=1)  # one thread adds up in one order
    with original_session(source, plain) as session:
        if data is None and any(spec.dtype is None for spec in session.inputs):
            return None
        samples = _samples(data, config, source, session, seed=seed, batch_size=batch_size)
        feeds = list(feeds_of(samples, session.inputs, CHECK_SAMPLES))
        reference = [session.run(feed) for feed in feeds]
        again = session.run(feeds[0])
        others = samples
        if calibration.data is not None:
            others = read_data(calibration.data, session.inputs, config, model=source.path, label_optional=True)
        count = calibration.samples or default_calibration_samples(session.inputs)
        runs = _calibration_runs(calibration, count, others, session, settings)
    deterministic = agreement_of(reference[:1], [again]).equal_share == 1
    check = OutputCheck(feeds, reference, plain, deterministic, rounding_tolerance(source.model), max_relative_error)
    return Trial(samples, check, runs, count, tuple(dict.fromkeys(samples.explanation + others.explanation)))


def _calibration_runs(
    wanted: CalibrationWish, count: int, samples: Dataset, session: Session, settings: SessionSettings
) -> CalibrationRuns | None:
    """The calibration samples, one run each; None when only synthetic data is at hand."""
    if samples.synthetic:
        return None
    feeds = feeds_of(samples, session.inputs, count)
    return CalibrationRuns(feeds, replace(settings, optimized=False), wanted.memory_bytes, wanted.cache)


def original_session(source: Source, settings: SessionSettings) -> Session:
    try:
        return open_session(source.file, settings)
    except ModelError as error:
        domains = custom_domains(source.model)
        if domains and not settings.custom_op_libs:
            hint = f"; --custom-op-lib gives the library with the operators of {', '.join(domains)}"
            raise ModelError(f"{source.name}: {error}{hint}") from error
        raise ModelError(f"{source.name}: {error}") from error


def _samples(
    data: DataLike | None, config: ConfigLike | None, source: Source, session: Session, *, seed: int, batch_size: int
) -> Dataset:
    if data is None:
        return synthetic_dataset(source.model, session, seed=seed, batch_size=batch_size)
    return read_data(data, session.inputs, config, model=source.path)


def data_facts(data: Dataset) -> DataFacts:
    """What reports say of the data."""
    return DataFacts(
        data.description, data.digest, data.samples, data.synthetic, data.synthetic_seed, data.preprocessing
    )
