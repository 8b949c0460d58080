"""Who works on the jobs of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from onnxshrink.batch.job import Job
from onnxshrink.report.batch import BatchEntry


class Scheduler(Protocol):
    """Has jobs done, somewhere."""

    def run(self, jobs: Iterable[Job]) -> Iterator[BatchEntry]:
        """What became of each job, as they end, in any order.

        Jobs are taken as there is room for them: one that was taken is being worked on, or soon will be. Closing the
        iterator stops what is running, and leaves nothing behind.
        """
