"""What there is to do: the jobs of a batch, less what an earlier run has done, each distinct model once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from onnxshrink.batch.digests import ABSENT, DataDigests, Seen, module_file
from onnxshrink.batch.inputs import Wanted
from onnxshrink.batch.job import Job, Settings
from onnxshrink.batch.ledger import Record
from onnxshrink.batch.places import Places, below
from onnxshrink.batch.remote_files import is_url, join, parent
from onnxshrink.errors import FileAccessError
from onnxshrink.measure.machine import versions
from onnxshrink.report.batch import BatchEntry

_TOOLS = ("onnxshrink", "onnxruntime", "onnx", "onnx-ir", "numpy")
"""Packages whose versions decide what comes out."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One model.

    Attributes:
        job: how its result is made.
        source: the model as it is now.
        entry: what an earlier run made of it, which still holds; None: it is to be done.
        result: the files of that result.
        twin: name of an equal model whose result will be this one's, too.
    """

    job: Job
    source: Seen
    entry: BatchEntry | None = None
    result: Seen | None = None
    twin: str | None = None


@dataclass(frozen=True)
class Plan:
    """All models, in the order of the inputs."""

    models: tuple[Planned, ...]

    @property
    def resumed(self) -> list[Planned]:
        """Those that are done."""
        return [model for model in self.models if model.entry is not None]

    @property
    def pending(self) -> list[Planned]:
        """Those that have to be compressed."""
        return [model for model in self.models if model.entry is None and model.twin is None]

    @property
    def twins(self) -> list[Planned]:
        """Those that get a copy of another one's result."""
        return [model for model in self.models if model.twin is not None]

    @property
    def largest_bytes(self) -> int:
        """Size of the largest model that has to be compressed."""
        return max((model.source.bytes for model in self.pending), default=0)


def make_plan(
    wanted: Sequence[Wanted],
    output: str,
    records: Mapping[str, Record],
    *,
    force: bool = False,
    retry_failed: bool = False,
) -> Plan:
    """Decide what is to be done.

    Args:
        wanted: the models, their settings resolved (:func:`~onnxshrink.batch.settings.resolved`).
        output: the folder of the results, by path or URL.
        records: what the ledger knows, by name.
        force: do files in the output folder that no batch has made count as its own.
        retry_failed: do models that failed count as not done.

    Raises:
        FileAccessError: a result would replace its own model, or, without ``force``, a file that no batch has made.
    """
    places = Places()
    keys = _Keys(places)
    models = []
    for one in wanted:
        record = records.get(one.name)
        source = places.look(one.source, record.source if record is not None else None)
        job = _job(one, output, keys.of(one, source), source, ours=record is not None or force)
        kept = None if record is None else _kept(record, job, places, retry_failed=retry_failed)
        if kept is None:
            refuse_to_replace(one, output, places, force=job.force)
            models.append(Planned(job, source))
        else:
            models.append(Planned(job, source, _as_seen_from_here(kept[0], job), kept[1]))
    return Plan(tuple(_with_twins(models)))


def _job(one: Wanted, output: str, key: str, source: Seen, *, ours: bool) -> Job:
    sha256 = None if source.sha256 == ABSENT or is_url(one.source) else source.sha256
    place = below(output, one.name), below(output, one.report)
    return Job(one.name, one.source, *place, key, one.settings, force=ours, source_sha256=sha256)


def _kept(record: Record, job: Job, places: Places, *, retry_failed: bool) -> tuple[BatchEntry, Seen | None] | None:
    """The entry and the result of an earlier run, when they are still what is asked for."""
    entry = record.entry
    if entry is None or entry.key != job.key:
        return None
    if entry.status == "failed":
        return None if retry_failed else (entry, None)
    result = places.look(job.output, record.result)
    return (entry, result) if result.sha256 == entry.result_sha256 else None


def _as_seen_from_here(entry: BatchEntry, job: Job) -> BatchEntry:
    """The entry with its paths as this run has them: the folder may have been moved."""
    output = None if entry.output is None else job.output
    report = job.report if entry.status == "compressed" else entry.report
    return replace(entry, source=job.source, output=output, report=report)


def refuse_to_replace(one: Wanted, output: str, places: Places, *, force: bool) -> None:
    """Results replace no files but, with ``force``, those that are not the model itself; else FileAccessError."""
    result = below(output, one.name)
    if not places.exists(result):
        return
    if one.source == result or (
        Path(one.source).exists() and Path(result).exists() and os.path.samefile(one.source, result)
    ):
        raise FileAccessError(f"{one.source} would be replaced by its own result: choose another output folder")
    if not force:
        raise FileAccessError(f"{result} exists and was not made by this batch: use --force to replace it")


def _with_twins(models: Sequence[Planned]) -> Iterator[Planned]:
    """The models, those that equal an earlier one, or one that is done, told so."""
    firsts: dict[tuple[str, ...], str] = {}
    for model in (*(model for model in models if model.entry is not None and model.entry.output), *models):
        firsts.setdefault(_same(model), model.job.name)
    for model in models:
        first = firsts[_same(model)]
        alone = model.entry is not None or first == model.job.name or model.source.sha256 == ABSENT
        yield model if alone else replace(model, twin=first)


def _same(model: Planned) -> tuple[str, ...]:
    """What equal models have in common. A file of external data has the result's name in its own, and in the model."""
    if model.source.external or model.job.settings.external_data:
        return model.job.key, PurePosixPath(model.job.name).name
    return (model.job.key,)


class _Keys:
    """Digests of all that decides what comes out."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._data = DataDigests()
        self._versions = {name: version for name, version in versions().items() if name in _TOOLS}
        self._settings: dict[Settings, Mapping[str, Any]] = {}

    def of(self, one: Wanted, source: Seen) -> str:
        if one.settings not in self._settings:
            self._settings[one.settings] = self._facts(one.settings)
        facts = {"source": source.sha256, "beside": self._beside(one), **self._settings[one.settings]}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _facts(self, settings: Settings) -> Mapping[str, Any]:
        """The settings, with digests in the place of paths."""
        data = self._data.of(settings.data, settings.data_config)
        facts: dict[str, Any] = {field.name: getattr(settings, field.name) for field in fields(settings)}
        facts |= {
            "data": data,
            "data_config": None,
            "calibration_data": self._data.of(settings.calibration_data, settings.data_config),
            "custom_op_libs": [self._data.of_file(path) for path in settings.custom_op_libs],
            "metric_modules": [self._data.of_file(str(file)) for file in _metric_modules(settings.metric)],
        }
        return {"versions": self._versions, "settings": facts}

    def _beside(self, one: Wanted) -> str:
        """Texts are read with the tokenizer that lies beside the model, if one does."""
        if one.settings.data is None and one.settings.calibration_data is None:
            return ""
        if is_url(one.source):
            return self._places.mark(join(parent(one.source), "tokenizer.json"))
        tokenizer = Path(one.source).parent / "tokenizer.json"
        return self._data.of_file(str(tokenizer)) if tokenizer.is_file() else ""


def _metric_modules(metric: str | None) -> Iterator[Path]:
    for part in (metric or "").split(","):
        file = module_file(part.partition("{")[0].strip())
        if file is not None:
            yield file
