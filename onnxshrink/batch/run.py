"""The straight line of a batch: find the models, leave out what is done, have the rest done, keep what became of it."""

from __future__ import annotations

import functools
import itertools
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from onnxshrink.atomic_files import write_text_atomically
from onnxshrink.batch.copies import copied_entry
from onnxshrink.batch.digests import Seen, look_at, stamp_of
from onnxshrink.batch.inputs import RESERVED, Wanted, find_models, report_name
from onnxshrink.batch.job import Job, Settings
from onnxshrink.batch.ledger import LEDGER, Ledger, Record, read_ledger
from onnxshrink.batch.leftovers import remove_leftovers
from onnxshrink.batch.local_workers import CALIBRATION_SHARE, LocalWorkers
from onnxshrink.batch.places import Places, result_of
from onnxshrink.batch.plan import Plan, Planned, make_plan, refuse_to_replace
from onnxshrink.batch.progress import Unfailing, Unwatched, Watcher
from onnxshrink.batch.remote_files import is_url
from onnxshrink.batch.resources import available_bytes, usable_cores, worker_count
from onnxshrink.batch.scheduling import Scheduler
from onnxshrink.batch.settings import command_line, resolved
from onnxshrink.errors import FileAccessError, OnnxShrinkError
from onnxshrink.measure.machine import this_machine, versions
from onnxshrink.report.batch import Batch, BatchEntry
from onnxshrink.report.json_format import plain_json_parts

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Limits:
    """What the worker processes of this machine may take.

    Attributes:
        workers: how many there are; None: one per core, fewer when memory is short.
        timeout_seconds: for each model; None: no limit.
        memory_bytes: for each model; None: no limit.
    """

    workers: int | None = None
    timeout_seconds: float | None = None
    memory_bytes: int | None = None


def plan_batch(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    ledger: str | os.PathLike[str] | None = None,
    force: bool = False,
    retry_failed: bool = False,
) -> Plan:
    """What :func:`run_batch` would do; nothing is written.

    Raises:
        OnnxShrinkError: see :func:`run_batch`.
    """
    results = os.fspath(output)
    records, _ = read_ledger(ledger_folder(results, ledger))
    wanted = _wanted(inputs, results, settings)
    return make_plan(wanted, results, records, force=force, retry_failed=retry_failed)


def run_batch(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    limits: Limits | None = None,
    scheduler: Scheduler | None = None,
    ledger: str | os.PathLike[str] | None = None,
    force: bool = False,
    retry_failed: bool = False,
    planned: Callable[[Plan], None] | None = None,
    watcher: Watcher | None = None,
) -> Batch:
    """Compress many models, each in a process of its own, and keep what becomes of each as soon as it is known.

    Args:
        inputs: files, folders, globs and manifests; all but manifests also by URL.
        output: the folder of the results, the ledger, and the summary; made if need be. A path or a URL.
        settings: how models are compressed, unless their manifest says otherwise.
        limits: of the worker processes.
        scheduler: who does the work instead of worker processes on this machine.
        ledger: another folder for ledger and summary, on this machine; required when ``output`` is a URL.
        force: replace files in the output folder that no batch has made.
        retry_failed: do once more what failed in an earlier run.
        planned: called with the plan before the work starts.
        watcher: told what goes on.

    Returns:
        The summary, which is also written. That a model failed raises nothing.

    Raises:
        OnnxShrinkError: the inputs, settings or names make no sense, or files in the output folder would be lost:
            before anything is started. Later, when the ledger cannot be written.
        KeyboardInterrupt: what had ended is in ledger and summary then, and nothing half-done is left.
    """
    start = time.monotonic()
    results = os.fspath(output)
    folder = ledger_folder(results, ledger)
    told = Unfailing(watcher or Unwatched())
    command = command_line(settings or Settings())
    wanted = _wanted(inputs, results, settings)
    if not (folder / LEDGER).exists():
        places = Places()
        for one in wanted:  # before anything is written there
            refuse_to_replace(one, results, places, force=force)
    with Ledger(folder) as book:
        plan = make_plan(wanted, results, book.records, force=force, retry_failed=retry_failed)
        if not is_url(results):
            _clean_up(Path(results), book.records)
        book.records.clear()
        if planned is not None:
            planned(plan)
        told.planned(len(plan.models), len(plan.resumed))
        workers = scheduler or _local_workers(plan, limits or Limits(), book.temporary, told)
        run = _Run(plan, book, told)
        try:
            run.do(workers)
        except BaseException:  # also on Ctrl-C: what had ended is worth a summary, but not another error
            with suppress(OnnxShrinkError):
                _write_summary(folder, run.summary(command, time.monotonic() - start))
            raise
        batch = run.summary(command, time.monotonic() - start)
        _write_summary(folder, batch)
    return batch


def ledger_folder(output: str, ledger: str | os.PathLike[str] | None = None) -> Path:
    """Where ledger and summary are.

    Raises:
        FileAccessError: results go to a URL, and nobody said where the ledger is kept: it is appended to and flushed as
            models end, which stores cannot do.
    """
    if ledger is None and is_url(output):
        raise FileAccessError(
            f"{output} is a URL: say with --ledger in which folder of this machine the ledger is kept"
        )
    return Path(output if ledger is None else ledger)


def _write_summary(folder: Path, batch: Batch) -> None:
    write_text_atomically(folder / SUMMARY, itertools.chain(plain_json_parts(batch), "\n"))


def _clean_up(folder: Path, records: Mapping[str, Record]) -> None:
    """Remove what a killed run was writing."""
    for name, record in records.items():
        if record.entry is None:
            remove_leftovers(folder / name, folder / report_name(name))
    remove_leftovers(*(folder / name for name in RESERVED))


def _local_workers(plan: Plan, limits: Limits, folder: Path, watcher: Watcher) -> Scheduler:
    cores, available = usable_cores(), available_bytes()
    count = limits.workers or worker_count(plan.largest_bytes, cores, available, limits.memory_bytes)
    count = max(1, min(count, len(plan.pending)))
    shared = None if available is None or limits.memory_bytes is not None else available // count // CALIBRATION_SHARE
    return LocalWorkers(
        count,
        folder,
        threads=max(1, cores // count),
        timeout_seconds=limits.timeout_seconds,
        memory_bytes=limits.memory_bytes,
        calibration_bytes=shared,
        watcher=watcher,
    )


def _wanted(inputs: Sequence[str | os.PathLike[str]], results: str, settings: Settings | None) -> list[Wanted]:
    shared = settings or Settings()
    resolve = functools.cache(resolved)
    found = find_models([os.fspath(one) for one in inputs], results, shared)
    return [replace(one, settings=_resolved(one, shared, resolve)) for one in found]


def _resolved(one: Wanted, shared: Settings, resolve: Callable[[Settings], Settings]) -> Settings:
    try:
        return resolve(one.settings)
    except OnnxShrinkError as error:
        if one.settings == shared:
            raise
        raise type(error)(f"{one.source}: {error}") from error  # its manifest says so


class _Run:
    """The models of a plan, as they end."""

    def __init__(self, plan: Plan, ledger: Ledger, watcher: Watcher) -> None:
        self._plan, self._ledger, self._watcher = plan, ledger, watcher
        self._models = {model.job.name: model for model in plan.models}
        self._twins: dict[str, list[Planned]] = {}
        for model in plan.twins:
            self._twins.setdefault(model.twin or "", []).append(model)
        self._ended = {model.job.name: model.entry for model in plan.resumed if model.entry is not None}

    def summary(self, command: str, seconds: float) -> Batch:
        """What became of the models that ended, in the order of the inputs."""
        return Batch(
            versions=versions(),
            machine=this_machine(),
            command=command,
            entries=tuple(self._ended[name] for name in self._models if name in self._ended),
            seconds=round(seconds, 3),
            resumed=len(self._plan.resumed),
        )

    def do(self, scheduler: Scheduler) -> None:
        for entry in tuple(self._ended.values()):
            self._copy(entry)
        entries = scheduler.run(self._begun())
        try:
            for entry in entries:
                self._keep(entry)
                self._copy(entry)
        finally:
            if isinstance(entries, Generator):
                entries.close()

    def _begun(self) -> Iterator[Job]:
        for model in self._plan.pending:
            self._ledger.begin(model.job.name)
            yield model.job

    def _keep(self, entry: BatchEntry) -> None:
        model = self._models[entry.name]
        entry = _sharing_texts(entry, model.job)
        self._ended[entry.name] = entry  # first: a signal between the two would leave it out of the summary
        self._ledger.add(entry, model.source, _result(entry))
        self._watcher.ended(entry)

    def _copy(self, first: BatchEntry) -> None:
        for twin in self._twins.pop(first.name, ()):
            self._ledger.begin(twin.job.name)
            self._keep(copied_entry(first, twin.job))


def _sharing_texts(entry: BatchEntry, job: Job) -> BatchEntry:
    """The entry, which came through a pipe, with the texts that the job has already: thousands of them add up."""
    names = ("name", "source", "key", "output", "report", "source_sha256")
    same = {name: getattr(job, name) for name in names if getattr(entry, name) == getattr(job, name)}
    return replace(entry, recipe=sys.intern(entry.recipe), **same)


def _result(entry: BatchEntry) -> Seen | None:
    """The files of a result that has just been written; None when there is none."""
    if entry.output is None or entry.result_sha256 is None:
        return None
    if is_url(entry.output):
        return result_of(entry)
    path = Path(entry.output)
    stamp = stamp_of(path)
    if stamp is not None and stamp[0] == entry.result_bytes:
        return Seen(entry.result_sha256, {path.name: stamp})
    return look_at(path)  # there is external data
