"""A Dask cluster as a scheduler of jobs: an existing one by its address, or one on this machine while it runs.

Jobs of workers that are lost are done by others. A job has failed when it was at work in more lost workers than the
cluster allows (``distributed.scheduler.allowed-failures``, 3 unless said otherwise). Dask also gives up jobs that only
waited in such workers: those are given to it anew.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from onnxshrink.batch.dask_cluster import (
    LOCAL,
    check_installed,
    check_shared,
    check_versions,
    cluster,
    threads_by_machine,
)
from onnxshrink.batch.entries import failed_entry
from onnxshrink.batch.job import Job
from onnxshrink.batch.progress import Unwatched, Watcher
from onnxshrink.batch.remote_files import is_url
from onnxshrink.errors import OnnxShrinkError, first_line
from onnxshrink.report.batch import BatchEntry

if TYPE_CHECKING:
    from distributed import Client, Future

_WORKERS_SECONDS = 120.0
"""A cluster without workers is waited for this long: one that grows with its work needs to start some."""

_TICK_SECONDS = 1.0
_LOOK_SECONDS = 5.0
_PER_THREAD = 2
"""Jobs that are given to the cluster at a time, for each of its threads: one at work, and one that comes next."""

_MOST_TIMES = 10
"""A job is not given more often to workers that are told to stop."""

_INTERNAL_ERROR = 70


@dataclass(frozen=True)
class DaskWorkers:
    """A :class:`~onnxshrink.batch.scheduling.Scheduler` on a Dask cluster.

    Attributes:
        address: of the cluster's scheduler, ``tcp://host:8786``; ``local``: workers here, which end with the run.
        jobs: models at a time of a local cluster.
        timeout_seconds: that a model may take; None: as long as it likes.
        memory_bytes: that the processes of a model may take; None: as much as there is.
        watcher: is told what goes on; ``notice`` what a user should know, a line each.
        seconds_without_workers: after which a cluster that has none is given up.
    """

    address: str
    jobs: int = 1
    timeout_seconds: float | None = None
    memory_bytes: int | None = None
    watcher: Watcher = Unwatched()
    notice: Callable[[str], None] = lambda _: None
    seconds_without_workers: float = _WORKERS_SECONDS

    def run(self, jobs: Iterable[Job]) -> Iterator[BatchEntry]:
        """See :class:`~onnxshrink.batch.scheduling.Scheduler`.

        Raises:
            OnnxShrinkError: Dask is not installed, the cluster cannot be reached or has no workers, or a worker has
                other versions than this process or does not see the folder of the results: before anything is started.
                Later, when the cluster is lost.
        """
        check_installed()
        with cluster(self.address, self.jobs) as client:
            expected = check_versions(client, self.seconds_without_workers, self.notice)
            run = _Run(self, client, expected)
            try:
                yield from run.entries(iter(jobs))
            finally:
                run.close()


@dataclass(frozen=True)
class _Given:
    """A job that the cluster has; ``times``: the how manieth time."""

    job: Job
    future: Future
    times: int


class _Run:
    """The jobs of one run that the cluster has."""

    def __init__(self, asked: DaskWorkers, client: Client, expected: Mapping[str, str]) -> None:
        from onnxshrink.batch.dask_slots import Slots

        self._asked, self._client, self._expected = asked, client, expected
        self._topic = f"onnxshrink-{secrets.token_hex(6)}"
        self._done: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self._given: dict[str, _Given] = {}
        self._begun: dict[str, int] = {}
        self._room = self._seen = 0
        self._looked, self._with_workers = 0.0, time.monotonic()
        self._checked: set[Path] = set()
        client.subscribe_topic(self._topic, self._told)
        client.register_plugin(
            Slots(
                self._topic,
                threads_by_machine(client),
                timeout_seconds=asked.timeout_seconds,
                memory_bytes=asked.memory_bytes,
            )
        )

    def entries(self, jobs: Iterator[Job]) -> Iterator[BatchEntry]:
        """What became of the jobs, as they end."""
        while True:
            self._look_at_cluster()
            while len(self._given) < self._room:
                job = next(jobs, None)
                if job is None:
                    break
                self._give(job)
            if not self._given:
                return
            try:
                ended = self._done.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                continue
            yield from self._ended(ended)

    def close(self) -> None:
        """Take back what has not ended, and end what is running."""
        with contextlib.suppress(Exception):  # the cluster may be gone, and there is nothing more to be done then
            self._client.cancel([given.future for given in self._given.values()], force=True)
        with contextlib.suppress(Exception):
            self._client.unregister_worker_plugin(self._topic)
        with contextlib.suppress(Exception):
            self._client.unsubscribe_topic(self._topic)

    def _give(self, job: Job, times: int = 1) -> None:
        """Have a job done; ``times``: the how manieth time it is given."""
        from onnxshrink.batch.dask_slots import do_job

        self._check_folder(job)
        key = f"{self._topic}-{times}-{job.name}"
        future = self._client.submit(do_job, self._topic, _absolute(job), self._expected, key=key, pure=False)
        self._given[key] = _Given(job, future, times)
        future.add_done_callback(self._done.put)

    def _ended(self, future: Future) -> Iterator[BatchEntry]:
        """What became of a job; nothing when it is done once more."""
        from distributed import KilledWorker

        from onnxshrink.batch.dask_slots import WorkerStoppedError

        given = self._given.pop(future.key)
        job = given.job
        if future.status == "cancelled":
            raise OnnxShrinkError(
                f"the Dask cluster {self._asked.address} dropped its jobs: it was shut down, or started anew"
            )
        error = None if future.status == "finished" else future.exception()
        if error is None:
            entry: BatchEntry = future.result()
            there = entry.status != "failed"
            output, report = (job.output, job.report) if there else (None, None)
            yield replace(entry, source=job.source, output=output, report=report)
        elif isinstance(error, OnnxShrinkError):
            raise error
        elif isinstance(error, WorkerStoppedError) and given.times < _MOST_TIMES:
            self._give(job, given.times + 1)
        elif isinstance(error, KilledWorker):
            begun = self._begun.get(job.name, 0)
            if begun <= error.allowed_failures and given.times <= error.allowed_failures:
                self._give(job, given.times + 1)
            else:
                reason = (
                    f"KilledWorker: {begun or error.allowed_failures + 1} Dask workers were lost while they were at it"
                )
                yield failed_entry(job, reason, _INTERNAL_ERROR)
        else:
            reason = f"internal error of the Dask worker: {type(error).__name__}: {first_line(error)}"
            yield failed_entry(job, reason, _INTERNAL_ERROR)

    def _look_at_cluster(self) -> None:
        """How many jobs it takes; an error when it has been lost, or has had no worker for long."""
        now = time.monotonic()
        if self._looked and now - self._looked < _LOOK_SECONDS:
            return
        if self._client.status not in ("running", "connecting"):
            raise OnnxShrinkError(f"lost the Dask scheduler {self._asked.address}")
        with contextlib.suppress(OSError):  # it may come back
            self._seen = sum(self._client.nthreads().values())
        self._looked = now
        if self._seen:
            self._room, self._with_workers = _PER_THREAD * self._seen, now
        elif now - self._with_workers > self._asked.seconds_without_workers:
            raise OnnxShrinkError(
                f"the Dask cluster has had no workers for {self._asked.seconds_without_workers:g} s: start some, and "
                "run the same command again"
            )

    def _check_folder(self, job: Job) -> None:
        """Results that are no URLs go to a folder that every machine must have."""
        if is_url(job.output) or self._asked.address == LOCAL:
            return
        folder = Path(job.output).absolute().parents[len(PurePosixPath(job.name).parts) - 1]
        if folder not in self._checked:
            check_shared(self._client, folder)
            self._checked.add(folder)

    def _told(self, event: tuple[float, Any]) -> None:
        """A message of a worker's."""
        name, *step = event[1]
        if step:
            self._asked.watcher.step(name, step[0])
        else:
            self._begun[name] = self._begun.get(name, 0) + 1
            self._asked.watcher.started(name)


def _absolute(job: Job) -> Job:
    """The job with paths that mean the same wherever it is done."""
    here = functools.partial(_absolute_path, Path.cwd())
    settings = replace(
        job.settings,
        data=here(job.settings.data),
        data_config=here(job.settings.data_config),
        calibration_data=here(job.settings.calibration_data),
        custom_op_libs=tuple(here(path) or "" for path in job.settings.custom_op_libs),
    )
    places = {name: here(getattr(job, name)) or "" for name in ("source", "output", "report")}
    return replace(job, settings=settings, source=places["source"], output=places["output"], report=places["report"])


def _absolute_path(folder: Path, place: str | None) -> str | None:
    """URLs, and functions that give data, stay as they are."""
    if place is None or is_url(place) or (":" in place and not Path(place).exists()):
        return place
    return str(folder / place)
