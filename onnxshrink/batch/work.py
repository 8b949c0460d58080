"""One job done, wherever that happens: what a user can cause becomes an entry, never an exception."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from onnxshrink.atomic_files import write_text_atomically
from onnxshrink.batch.entries import compressed_entry, failed_entry
from onnxshrink.batch.job import Job
from onnxshrink.batch.local_copy import local_copy
from onnxshrink.errors import FileAccessError, OnnxShrinkError, first_line
from onnxshrink.graph.data_files import data_files
from onnxshrink.measure.exclusive import Slot, slots_from
from onnxshrink.report.batch import BatchEntry
from onnxshrink.report.json_format import to_json
from onnxshrink.report.report import Report
from onnxshrink.shrink import compress

_INTERNAL_ERROR = 70


def compress_job(job: Job, progress: Callable[[str], None], exclusive: Slot) -> BatchEntry:
    """Compress the model, and write the result and then its report, each whole or not at all.

    Args:
        job: what to do.
        progress: called with the name of each step.
        exclusive: gives the machine to this job alone while something is timed.
    """
    clock = _Clock()
    try:
        with local_copy(job, progress) as here:
            with slots_from(lambda: clock.stopped(exclusive)):
                report = _compressed(here, progress)
            _write_report(here, report)
    except OnnxShrinkError as error:
        return failed_entry(job, str(error), error.exit_code, seconds=clock.seconds)
    except MemoryError:
        return failed_entry(job, "not enough memory for this model", _INTERNAL_ERROR, seconds=clock.seconds)
    except (Exception, SystemExit) as error:  # a defect, or a function of the user's, costs this model only
        reason = f"internal error: {type(error).__name__}: {first_line(error)}"
        return failed_entry(job, reason, _INTERNAL_ERROR, seconds=clock.seconds)
    return compressed_entry(job, report, seconds=clock.seconds)


class _Clock:
    """How long a job takes, waiting for its turn left out."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return round(time.perf_counter() - self._start, 3)

    @contextmanager
    def stopped(self, slot: Slot) -> Iterator[None]:
        """The slot, waiting for which does not count."""
        asked = time.perf_counter()
        with slot():
            self._start += time.perf_counter() - asked
            yield


def _compressed(job: Job, progress: Callable[[str], None]) -> Report:
    settings = job.settings
    output = Path(job.output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileAccessError(f"cannot make the folder {output.parent}: {error.strerror}") from error
    return compress(
        job.source,
        output,
        preset=None if settings.recipe is not None else settings.preset,
        recipe=settings.recipe,
        data=settings.data,
        data_config=settings.data_config,
        calibration_data=settings.calibration_data,
        calibration_samples=settings.calibration_samples,
        memory_bytes=settings.memory_bytes,
        metric=settings.metric,
        goal=settings.goal,
        max_drop=settings.max_drop,
        max_load_ratio=settings.max_load_ratio,
        seed=settings.seed,
        force=job.force,
        measure=settings.measure,
        latency=settings.latency,
        threads=settings.threads,
        batch_size=settings.batch_size,
        latency_seconds=settings.latency_seconds,
        custom_op_libs=settings.custom_op_libs,
        external_data=settings.external_data,
        run_large=settings.run_large,
        gates=settings.gates,
        gate_uncertain=settings.gate_uncertain,
        progress=progress,
    )


def _write_report(job: Job, report: Report) -> None:
    """The report, or neither it nor the result: what is there without an entry is nobody's."""
    try:
        write_text_atomically(Path(job.report), to_json(report) + "\n")
    except BaseException:  # also on Ctrl-C
        output = Path(job.output)
        for path in (output, *data_files(output)):
            path.unlink(missing_ok=True)
        raise
