"""Worker processes on this machine: one model each at a time, so that whatever happens to it happens to it alone.

Workers stay warm from job to job. One is replaced when it has crashed, has been ended for its time or memory, or has
kept memory of earlier jobs. What is timed is timed while the other workers stand still.
"""

from __future__ import annotations

import queue
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from onnxshrink.batch.entries import failed_entry
from onnxshrink.batch.job import Job
from onnxshrink.batch.leftovers import remove_leftovers
from onnxshrink.batch.messages import Ended, Ready, SlotReleased, SlotWanted, Step
from onnxshrink.batch.progress import Unwatched, Watcher
from onnxshrink.batch.resources import MIB, check_memory_is_known, resident_by_group
from onnxshrink.batch.worker_process import Events, WorkerProcess
from onnxshrink.errors import OnnxShrinkError
from onnxshrink.report.batch import BatchEntry

_TICK_SECONDS = 0.05
_LONG_TICK_SECONDS = 0.5
_LOOK_SHARE = 0.05
"""Share of the time, at most, that goes into looking at memory."""

_START_SECONDS = 300.0
"""A worker that has not imported its modules by then never will."""

_KEPT_SHARE = 0.1
"""Share of the memory limit that a worker may keep from earlier jobs, beside what the next one may take."""

_KEPT_BYTES = 512 * MIB
"""The same where there is no limit."""

CALIBRATION_SHARE = 4
"""Activations may take this part of a worker's memory, as they may of the machine's when it works on one model."""


class LocalWorkers:
    """A :class:`~onnxshrink.batch.scheduling.Scheduler` of processes on this machine."""

    def __init__(
        self,
        count: int,
        folder: Path,
        *,
        threads: int = 1,
        timeout_seconds: float | None = None,
        memory_bytes: int | None = None,
        calibration_bytes: int | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            count: of workers.
            folder: for temporary files.
            threads: that each worker may use.
            timeout_seconds: that a model may take, waiting for its turn left out; None: as long as it likes.
            memory_bytes: that the process of a model and those that it starts may take; None: as much as there is.
            calibration_bytes: what activations may take while they are calibrated, where the job does not say; None: a
                quarter of ``memory_bytes``, or of the machine's memory.
            watcher: is told what goes on.

        Raises:
            OnnxShrinkError: there is a memory limit, and no way to know how much is taken.
        """
        if memory_bytes is not None:
            check_memory_is_known()
        self._count, self._folder, self._threads = count, folder, threads
        self._timeout, self._memory = timeout_seconds, memory_bytes
        limited = None if memory_bytes is None else memory_bytes // CALIBRATION_SHARE
        self._calibration = limited if calibration_bytes is None else calibration_bytes
        self._watcher: Watcher = watcher or Unwatched()
        self._events: Events = queue.SimpleQueue()
        self._workers: list[WorkerProcess] = []
        self._slot = _Slot()
        self._next_look = 0.0
        self._stopped = False

    def run(self, jobs: Iterable[Job | None]) -> Iterator[BatchEntry]:
        """See :class:`~onnxshrink.batch.scheduling.Scheduler`; None among the jobs: there is none at this moment."""
        waiting = iter(jobs)
        try:
            while not self._stopped:
                self._assign(waiting)
                if all(worker.job is None for worker in self._workers):
                    return
                for entry in self._happened():
                    self._assign(waiting)  # before the books are kept, for which nobody has to wait
                    yield entry
                if self._events.empty():  # else somebody may have ended in time
                    yield from self._over_limits()
        finally:
            for worker in tuple(self._workers):
                self._discard(worker)

    def wake(self) -> None:
        """Ask for jobs again at once. May be called from any thread, as :meth:`stop` may."""
        self._events.put((None, None))

    def stop(self) -> None:
        """End what is running, and the iterator."""
        self._stopped = True
        self.wake()

    def _assign(self, waiting: Iterator[Job | None]) -> None:
        """Give jobs to idle workers, starting those that there are not yet; not while something is timed."""
        while self._slot.holder is None:
            idle = next((worker for worker in self._workers if worker.job is None), None)
            if idle is None and len(self._workers) >= self._count:
                return
            job = next(waiting, None)
            if job is None:
                return
            if idle is None:
                idle = WorkerProcess(self._events, self._threads, self._folder, self._memory)
                self._workers.append(idle)
            self._watcher.started(job.name)
            idle.give(self._within_limits(job))

    def _within_limits(self, job: Job) -> Job:
        if self._calibration is None or job.settings.memory_bytes is not None:
            return job
        return replace(job, settings=replace(job.settings, memory_bytes=self._calibration))

    def _happened(self) -> Iterator[BatchEntry]:
        """Wait a moment for something to happen, and see to it."""
        limited = self._memory is not None or self._timeout is not None
        try:
            worker, message = self._events.get(timeout=_TICK_SECONDS if limited else _LONG_TICK_SECONDS)
        except queue.Empty:
            return
        if worker is None or worker not in self._workers:
            return  # somebody woke us, or it was an earlier one's last sign of life
        match message:
            case Ready(resident):
                worker.begins(resident)
            case Step(text) if worker.job is not None:
                self._watcher.step(worker.job.name, text)
            case SlotWanted():
                self._slot.ask(worker, self._workers)
            case SlotReleased():
                self._slot.release(worker, self._workers)
            case Ended(entry, resident):
                yield self._ended(worker, entry, resident)
            case None:
                yield from self._gone(worker)

    def _ended(self, worker: WorkerProcess, entry: BatchEntry, resident: int | None) -> BatchEntry:
        entry = replace(entry, seconds=round(worker.seconds, 3))
        worker.is_done(resident)
        if worker.kept_bytes > (_KEPT_BYTES if self._memory is None else self._memory * _KEPT_SHARE):
            self._discard(worker)
        return entry

    def _gone(self, worker: WorkerProcess) -> Iterator[BatchEntry]:
        """A worker ended by itself, or was ended by somebody else."""
        job, seconds = worker.job, worker.seconds
        code = self._discard(worker)
        words = worker.last_words
        if not worker.ready and code >= 0:
            raise OnnxShrinkError(f"a worker process does not start: {words or f'it ended with code {code}'}")
        if job is not None:
            yield failed_entry(job, _reason(code, words), seconds=round(seconds, 3))

    def _over_limits(self) -> Iterator[BatchEntry]:
        """End what takes too long or too much."""
        for worker in tuple(self._workers):
            if worker.job is not None and self._timeout is not None and worker.seconds > self._timeout:
                yield self._end(worker, f"it took longer than {self._timeout:g} s (--timeout) and was ended")
            if not worker.ready and worker.age_seconds > _START_SECONDS:
                raise OnnxShrinkError(f"a worker process has not started within {_START_SECONDS:g} s")
        if self._memory is None or time.monotonic() < self._next_look:
            return
        start = time.monotonic()
        taken = resident_by_group([worker.pid for worker in self._workers])
        self._next_look = time.monotonic() + max(_TICK_SECONDS, (time.monotonic() - start) / _LOOK_SHARE)
        for worker in tuple(self._workers):
            if worker.job is not None and taken[worker.pid] - worker.kept_bytes > self._memory:
                yield self._end(worker, f"it took more than {self._memory // MIB} MiB (--memory) and was ended")

    def _end(self, worker: WorkerProcess, reason: str) -> BatchEntry:
        job, seconds = worker.job, worker.seconds
        assert job is not None
        self._discard(worker)
        return failed_entry(job, reason, seconds=round(seconds, 3))

    def _discard(self, worker: WorkerProcess) -> int:
        """End a worker; another one will take its place when there is a job for it."""
        self._workers.remove(worker)
        code = worker.end()
        self._slot.forget(worker, self._workers)
        if worker.job is not None:
            remove_leftovers(Path(worker.job.output), Path(worker.job.report))
        return code


class _Slot:
    """Lets one worker at a time have the machine to itself: the others stand still meanwhile."""

    def __init__(self) -> None:
        self.holder: WorkerProcess | None = None
        self._queue: deque[WorkerProcess] = deque()

    def ask(self, worker: WorkerProcess, workers: Iterable[WorkerProcess]) -> None:
        worker.waits_for_slot()
        self._queue.append(worker)
        if self.holder is None:
            self._next(workers)

    def release(self, worker: WorkerProcess, workers: Iterable[WorkerProcess]) -> None:
        if worker is self.holder:
            self.holder = None
            self._next(workers)

    def forget(self, worker: WorkerProcess, workers: Iterable[WorkerProcess]) -> None:
        """It is no more."""
        if worker in self._queue:
            self._queue.remove(worker)
        self.release(worker, workers)

    def _next(self, workers: Iterable[WorkerProcess]) -> None:
        if not self._queue:
            for worker in workers:
                worker.go_on()
            return
        self.holder = self._queue.popleft()
        for worker in workers:
            if worker is not self.holder and worker.job is not None and not worker.waits:
                worker.stop()
        self.holder.go_on()
        self.holder.grant_slot()


def _reason(code: int, words: str) -> str:
    """Why a worker is gone, from its exit code."""
    said = f": {words}" if words else ""
    if code >= 0:
        return f"its process ended with code {code}{said}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = "; perhaps the system ran out of memory" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}{said}"
