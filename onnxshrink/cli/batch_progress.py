"""A running batch on standard error: a live view on a terminal, else a line for each model that ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

import click

from onnxshrink.batch.progress import Unwatched, Watcher
from onnxshrink.report.batch import BatchEntry
from onnxshrink.report.batch_summary import duration_text
from onnxshrink.report.summary import bytes_text, percent

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_REFRESHES_PER_SECOND = 4
_MOST_RUNNING = 16
_LINES_BESIDE = 4
_BAR_WIDTH, _LEAST_BAR = 30, 5
_FEWEST_TO_JUDGE = 2
"""An estimate from fewer models is a guess."""


@contextmanager
def batch_display(*, quiet: bool) -> Iterator[Watcher]:
    """Shows what becomes of a batch, on standard error, while the block runs."""
    if quiet:
        yield Unwatched()
    elif not sys.stderr.isatty():
        yield PlainLines()
    else:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        view = LiveView(console)
        with Live(
            get_renderable=view.render, console=console, refresh_per_second=_REFRESHES_PER_SECOND, transient=True
        ):
            yield view


class Tally:
    """Counts, and what is running now. Every call is a few dictionary operations under a lock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._begun = clock()
        self._running: dict[str, tuple[float, str]] = {}
        self.models = self.resumed = self.ended_now = self.failed = 0

    def planned(self, models: int, resumed: int) -> None:
        self.models, self.resumed, self._begun = models, resumed, self._clock()

    def started(self, name: str) -> None:
        with self._lock:
            self._running[name] = (self._clock(), "starting")

    def step(self, name: str, text: str) -> None:
        with self._lock:
            since, _ = self._running.get(name, (self._clock(), ""))
            self._running[name] = (since, text)

    def ended(self, entry: BatchEntry) -> None:
        with self._lock:
            self._running.pop(entry.name, None)
            self.ended_now += 1
            self.failed += entry.status == "failed"

    @property
    def done(self) -> int:
        """Models that need nothing more, those of earlier runs and those that failed included."""
        return self.resumed + self.ended_now

    @property
    def left(self) -> int:
        return max(0, self.models - self.done)

    @property
    def seconds(self) -> float:
        return self._clock() - self._begun

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far; None as long as there is none."""
        if self.ended_now < _FEWEST_TO_JUDGE or not self.left:
            return None
        return self.seconds / self.ended_now * self.left

    def running(self) -> list[tuple[str, str, float]]:
        """Name, step and seconds of what is running, the longest first."""
        with self._lock:
            found = [(name, text, since) for name, (since, text) in self._running.items()]
        now = self._clock()
        return [(name, text, now - since) for name, text, since in sorted(found, key=lambda one: one[2])]


class PlainLines(Tally):
    """A line for every model that ends."""

    def planned(self, models: int, resumed: int) -> None:
        super().planned(models, resumed)
        if resumed:
            click.echo(f"onnxshrink: {resumed:,} of {models:,} are done already", err=True)

    def ended(self, entry: BatchEntry) -> None:
        super().ended(entry)
        click.echo(f"onnxshrink: [{self.done}/{self.models}] {entry_line(entry)}", err=True)


class LiveView(Tally):
    """A bar over all, and a line for every model that is running; models that failed scroll by above."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._console = console

    def ended(self, entry: BatchEntry) -> None:
        super().ended(entry)
        if entry.status == "failed":
            from rich.text import Text

            self._console.print(Text(entry_line(entry), style="red"), soft_wrap=True)

    def render(self) -> RenderableType:
        """What is shown at this moment; never more lines than the terminal has."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        head = Table.grid(padding=(0, 1))
        head.add_column(no_wrap=True)
        head.add_column(no_wrap=True, overflow="ellipsis")
        counts = Text(", ".join(self._counts()))
        width = max(_LEAST_BAR, min(_BAR_WIDTH, self._console.width - len(counts) - 4))
        head.add_row(ProgressBar(total=max(self.models, 1), completed=self.done, width=width), counts)
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=3)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=2)
        table.add_column(no_wrap=True, justify="right")
        running = self.running()
        shown = running[: max(1, min(_MOST_RUNNING, self._console.height - _LINES_BESIDE))]
        for name, step, seconds in shown:
            table.add_row(Text(f"  {name}"), Text(step, style="dim"), Text(duration_text(seconds)))
        if len(running) > len(shown):
            table.add_row(Text(f"  and {len(running) - len(shown)} more", style="dim"), "", "")
        return Group(head, table)

    def _counts(self) -> Iterator[str]:
        yield f"{self.done:,} of {self.models:,} done"
        if self.failed:
            yield f"{self.failed:,} failed"
        yield f"{self.left:,} left"
        yield duration_text(self.seconds)
        if self.seconds_left is not None:
            yield f"about {duration_text(self.seconds_left)} to go"


def entry_line(entry: BatchEntry) -> str:
    """What became of a model, in one line."""
    took = f", {duration_text(entry.seconds)}" if entry.seconds else ""
    if entry.status == "failed":
        return f"{entry.name}: failed: {entry.reason}{took}"
    if entry.original_bytes is None or entry.result_bytes is None:
        return f"{entry.name}: {entry.status}{took}"
    sizes = f"{bytes_text(entry.original_bytes)} → {bytes_text(entry.result_bytes)}"
    share = percent(entry.result_bytes / max(entry.original_bytes, 1), 1)
    failed = [gate.gate for gate in entry.gates if gate.status == "failed"]
    gates = f", gate failed: {', '.join(failed)}" if failed else ""
    copied = f", copy of {entry.reason}" if entry.status == "copied" else ""
    return f"{entry.name}: {sizes} ({share}){copied}{gates}{took}"
