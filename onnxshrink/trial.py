"""The data that a run is tried on, read from what the user gave, and the check that passes have to hold against."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxshrink.calibrated import CalibrationRuns
from onnxshrink.calibration.dataset import Dataset, Feed
from onnxshrink.calibration.synthetic import synthetic_dataset
from onnxshrink.errors import ModelError
from onnxshrink.graph.walk import custom_domains
from onnxshrink.measure.session import Session, SessionSettings, TensorSpec, open_session
from onnxshrink.passes.checks import OutputCheck, agreement_of, rounding_tolerance
from onnxshrink.source import Source

CHECK_SAMPLES = 4
"""Samples on which outputs are compared before and after passes."""

DataLike = str | os.PathLike[str] | Dataset | Mapping[str, np.ndarray]


@dataclass(frozen=True)
class CalibrationWish:
    """What the user wants activations to be calibrated on."""

    data: DataLike | None
    samples: int
    memory_bytes: int | None
    cache: Path | None


@dataclass(frozen=True)
class Trial:
    """The data to run the models on, and the check that passes have to hold against.

    ``calibration`` is what ranges are found on: None without real data.
    """

    data: Dataset
    check: OutputCheck
    calibration: CalibrationRuns | None


def prepare_trial(
    source: Source,
    data: DataLike | None,
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
        samples = _samples(data, source.model, session, seed=seed, batch_size=batch_size)
        feeds = feeds_of(samples, session.inputs, CHECK_SAMPLES)
        reference = [session.run(feed) for feed in feeds]
        again = session.run(feeds[0])
        runs = _calibration_runs(calibration, samples, source.model, session, settings)
    deterministic = agreement_of(reference[:1], [again]).equal_share == 1
    check = OutputCheck(feeds, reference, plain, deterministic, rounding_tolerance(source.model), max_relative_error)
    return Trial(samples, check, runs)


def _calibration_runs(
    wanted: CalibrationWish, data: Dataset, model: ir.Model, session: Session, settings: SessionSettings
) -> CalibrationRuns | None:
    """The calibration samples, one run each; None when only synthetic data is at hand."""
    samples = data if wanted.data is None else _samples(wanted.data, model, session, seed=0, batch_size=1)
    if samples.synthetic:
        return None
    feeds = feeds_of(samples, session.inputs, wanted.samples)
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


def _samples(data: DataLike | None, model: ir.Model, session: Session, *, seed: int, batch_size: int) -> Dataset:
    if data is None:
        return synthetic_dataset(model, session, seed=seed, batch_size=batch_size)
    return read_data(data, session.inputs)


def read_data(data: DataLike, inputs: Sequence[TensorSpec]) -> Dataset:
    """Samples for a model with these inputs: of an ``.npz`` file, of arrays by name, or of a :class:`Dataset`.

    Raises:
        FileAccessError: the file cannot be read.
        DataError: the samples do not fit the inputs.
    """
    if isinstance(data, Dataset):
        return data.fitted_to(inputs)
    if isinstance(data, Mapping):
        return Dataset.from_arrays(data, inputs)
    return Dataset.from_npz(data, inputs)


def feeds_of(data: Dataset, inputs: Sequence[TensorSpec], limit: int) -> list[Feed]:
    """The first ``limit`` samples, one run each."""
    return [batch.feed for batch in data.batches(inputs, 1, limit=limit)]
