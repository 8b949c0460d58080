"""What runs inside a Dask worker: processes below it that do one model each, as many at a time as it has threads.

A model that crashes, hangs or takes too much memory ends its own process, not the Dask worker with all that it is at.
"""

from __future__ import annotations

import queue
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from distributed import WorkerPlugin, get_worker
from distributed.comm import get_address_host

from onnxshrink.batch.job import Job
from onnxshrink.batch.leftovers import remove_leftovers
from onnxshrink.batch.local_workers import CALIBRATION_SHARE, LocalWorkers
from onnxshrink.batch.remote_files import is_url
from onnxshrink.batch.resources import available_bytes, usable_cores
from onnxshrink.errors import OnnxShrinkError
from onnxshrink.measure.machine import versions
from onnxshrink.report.batch import BatchEntry

MUST_MATCH = ("onnxshrink", "onnxruntime")
"""Packages of which client and workers need the same version: they decide what comes out."""

_CLOSING_SECONDS = 10.0


class WorkerStoppedError(Exception):
    """The Dask worker was told to stop while it had the job, as when its machine is taken back: others can do it."""


class Slots(WorkerPlugin):
    """Is sent to every Dask worker, also to those that come later."""

    def __init__(
        self,
        topic: str,
        neighbours: Mapping[str, int],
        *,
        timeout_seconds: float | None,
        memory_bytes: int | None,
    ) -> None:
        """
        Args:
            topic: of the messages about what goes on.
            neighbours: threads of all Dask workers of a machine, by its address: they share its cores.
            timeout_seconds: see :class:`~onnxshrink.batch.local_workers.LocalWorkers`; so for ``memory_bytes``.
        """
        self.name = topic
        self._topic, self._neighbours = topic, dict(neighbours)
        self._limits = {"timeout_seconds": timeout_seconds, "memory_bytes": memory_bytes}

    def setup(self, worker: Any) -> None:
        """Called by Dask on arrival."""
        self._worker = worker
        self._folder = Path(tempfile.mkdtemp(prefix="onnxshrink-", dir=worker.local_directory))
        self._service: _Service | None = None
        self._lock = threading.Lock()

    def teardown(self, worker: Any) -> None:
        """Called by Dask when the plugin is taken back: end what is running."""
        with self._lock:
            if self._service is not None:
                self._service.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def work(self, job: Job, expected: Mapping[str, str]) -> BatchEntry:
        """One job, in a thread of Dask's.

        Raises:
            OnnxShrinkError: this worker has other versions than the client, or its processes do not start.
        """
        difference = version_difference(expected, versions())
        if difference:
            raise OnnxShrinkError(f"the Dask worker {self._worker.address} has {difference}")
        with self._lock:
            if self._service is None:
                self._service = _Service(self._local_workers())
        places = [Path(place) for place in (job.output, job.report) if not is_url(place)]
        remove_leftovers(*places)  # of a worker that was lost with this job
        entry = self._service.work(replace(job, force=True))
        return entry

    def _local_workers(self) -> LocalWorkers:
        threads = self._worker.state.nthreads
        all_threads = max(threads, self._neighbours.get(get_address_host(self._worker.address), 0))
        available = available_bytes() if self._limits["memory_bytes"] is None else None
        return LocalWorkers(
            threads,
            self._folder,
            threads=max(1, usable_cores() // all_threads),
            calibration_bytes=None if available is None else available // all_threads // CALIBRATION_SHARE,
            watcher=_Messages(self._worker, self._topic),
            **self._limits,  # type: ignore[arg-type]
        )


def do_job(plugin: str, job: Job, expected: Mapping[str, str]) -> BatchEntry:
    """What the client submits."""
    slots: Slots = get_worker().plugins[plugin]
    return slots.work(job, expected)


def version_difference(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """``onnxruntime 1.31.1, the client has 1.32.0`` for packages that must match; empty when they do."""
    different = [
        f"{name} {there.get(name, 'not installed')}, the client has {here.get(name, 'none')}"
        for name in MUST_MATCH
        if here.get(name) != there.get(name)
    ]
    return "; ".join(different)


class _Service:
    """A thread that keeps the processes of one Dask worker busy with what its other threads ask for."""

    def __init__(self, workers: LocalWorkers) -> None:
        self._workers = workers
        self._asked: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._answers: dict[str, Future[BatchEntry]] = {}
        self._given = 0
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="onnxshrink", daemon=True)
        self._thread.start()

    def work(self, job: Job) -> BatchEntry:
        """Have a job done, and wait for it."""
        answer: Future[BatchEntry] = Future()
        with self._lock:
            if self._failure is not None:
                raise self._failure
            self._answers[job.name] = answer
        self._asked.put(job)
        self._workers.wake()
        return answer.result()

    def close(self) -> None:
        """End what is running; whoever waits for it gets an error."""
        self._workers.stop()
        self._asked.put(None)
        self._thread.join(_CLOSING_SECONDS)

    def _serve(self) -> None:
        failure: BaseException = WorkerStoppedError("the Dask worker was told to stop")
        try:
            for entry in self._workers.run(self._jobs()):
                self._given -= 1
                with self._lock:
                    answer = self._answers.pop(entry.name)
                answer.set_result(entry)
        except BaseException as error:
            failure = error
        with self._lock:
            self._failure = failure
            for answer in self._answers.values():
                answer.set_exception(failure)
            self._answers.clear()

    def _jobs(self) -> Iterator[Job | None]:
        """Jobs as they are asked for. Waits for one only when there is nothing else to see to."""
        while True:
            try:
                job = self._asked.get(block=self._given == 0)
            except queue.Empty:
                yield None
                continue
            if job is None:
                return
            self._given += 1
            yield job


class _Messages:
    """A watcher that hands on what it is told, through Dask, as ``[name]`` and ``[name, step]``."""

    def __init__(self, worker: Any, topic: str) -> None:
        self._worker, self._topic = worker, topic

    def planned(self, models: int, resumed: int) -> None:
        pass

    def started(self, name: str) -> None:
        self._worker.log_event(self._topic, [name])

    def step(self, name: str, text: str) -> None:
        self._worker.log_event(self._topic, [name, text])

    def ended(self, entry: BatchEntry) -> None:
        pass
