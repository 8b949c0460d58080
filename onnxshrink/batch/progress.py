"""What a running batch tells whoever shows it; every call is cheap, and may come from any thread."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

from onnxshrink.report.batch import BatchEntry


class Watcher(Protocol):
    """Is told what becomes of each model, by its name in the batch."""

    def planned(self, models: int, resumed: int) -> None:
        """So many models there are, and so many of them were done by earlier runs; told once, first."""

    def started(self, name: str) -> None:
        """A worker has begun with it; it may be told again when a lost worker's job starts anew."""

    def step(self, name: str, text: str) -> None:
        """It is at this step."""

    def ended(self, entry: BatchEntry) -> None:
        """It is done, or has failed."""


class Unwatched:
    """Nobody looks."""

    def planned(self, models: int, resumed: int) -> None:
        pass

    def started(self, name: str) -> None:
        pass

    def step(self, name: str, text: str) -> None:
        pass

    def ended(self, entry: BatchEntry) -> None:
        pass


class Unfailing:
    """Tells another watcher, whose terminal may be gone: the work goes on without it."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def planned(self, models: int, resumed: int) -> None:
        with suppress(OSError):
            self._watcher.planned(models, resumed)

    def started(self, name: str) -> None:
        with suppress(OSError):
            self._watcher.started(name)

    def step(self, name: str, text: str) -> None:
        with suppress(OSError):
            self._watcher.step(name, text)

    def ended(self, entry: BatchEntry) -> None:
        with suppress(OSError):
            self._watcher.ended(entry)
