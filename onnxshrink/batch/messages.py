"""What a worker process and the one that started it tell each other, pickled one after the other into pipes."""

from __future__ import annotations

from dataclasses import dataclass

from onnxshrink.report.batch import BatchEntry


@dataclass(frozen=True)
class Ready:
    """From the worker: it has imported what it needs. ``resident_bytes``: its memory then; None when unknown."""

    resident_bytes: int | None


@dataclass(frozen=True)
class Step:
    """From the worker: where the job is."""

    text: str


@dataclass(frozen=True)
class SlotWanted:
    """From the worker: it waits for the machine to itself."""


@dataclass(frozen=True)
class SlotGranted:
    """To the worker: nobody else is at work."""


@dataclass(frozen=True)
class SlotReleased:
    """From the worker: the others may go on."""


@dataclass(frozen=True)
class Ended:
    """From the worker: what became of the job; ``resident_bytes``: the worker's memory after it."""

    entry: BatchEntry
    resident_bytes: int | None


FromWorker = Ready | Step | SlotWanted | SlotReleased | Ended
