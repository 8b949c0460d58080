from __future__ import annotations

import io
from dataclasses import dataclass, replace

import pytest
from rich.console import Console

from onnxshrink.batch.progress import Unwatched
from onnxshrink.cli.batch_progress import LiveView, PlainLines, Tally, batch_display, entry_line
from tests.report.batch_example import entry, failed_entry


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def view(width: int = 80, height: int = 24) -> tuple[LiveView, Clock, io.StringIO]:
    clock, stream = Clock(), io.StringIO()
    return LiveView(Console(file=stream, width=width, height=height, no_color=True), clock), clock, stream


def shown(one: LiveView) -> list[str]:
    one._console.print(one.render())
    stream = one._console.file
    assert isinstance(stream, io.StringIO)
    lines = stream.getvalue().splitlines()
    stream.truncate(0)
    stream.seek(0)
    return lines


def test_time_to_go_is_that_of_the_models_that_ended_in_this_run() -> None:
    clock = Clock()
    tally = Tally(clock)
    tally.planned(20, 8)
    clock.now += 5
    tally.ended(entry("a"))
    assert tally.seconds_left is None, "one model is no pace"
    tally.ended(failed_entry("b", "no"))
    assert (tally.done, tally.left, tally.failed) == (10, 10, 1)
    assert tally.seconds_left == 5 / 2 * 10


def test_the_longest_running_model_comes_first_and_a_lost_one_starts_anew() -> None:
    clock = Clock()
    tally = Tally(clock)
    tally.planned(3, 0)
    for name in "ab":
        tally.started(name)
        clock.now += 1
    tally.step("a", "loading")
    assert tally.running() == [("a", "loading", 2.0), ("b", "starting", 1.0)]
    tally.started("a")
    assert tally.running() == [("b", "starting", 1.0), ("a", "starting", 0.0)]
    tally.ended(entry("b"))
    tally.step("c", "told before it started")
    assert [name for name, _, _ in tally.running()] == ["a", "c"]


def test_the_live_view_counts_and_shows_what_runs() -> None:
    one, clock, _ = view()
    one.planned(200, 40)
    one.started("vision/a.onnx")
    clock.now += 12
    one.step("vision/a.onnx", "checking the result")
    for _ in range(4):
        one.ended(entry("x"))
    head, running = shown(one)
    assert "44 of 200 done, 156 left, 12 s, about 7 min 48 s to go" in " ".join(head.split())
    assert running.split() == ["vision/a.onnx", "checking", "the", "result", "12", "s"]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_live_view_never_exceeds_the_terminal(width: int) -> None:
    one, _, _ = view(width, height=12)
    one.planned(1000, 0)
    for place in range(50):
        one.started(f"registry/{'x' * 300}[y]/{place}.onnx")
    lines = shown(one)
    assert len(lines) == 10, "a bar, 8 models, and how many more"
    assert max(map(len, lines)) <= width
    assert "and 42 more" in lines[-1]


def test_failures_scroll_by_above_the_live_view() -> None:
    one, _, stream = view()
    one.planned(2, 0)
    one.ended(entry("fine"))
    one.ended(failed_entry("[b]", "the file is empty"))
    assert stream.getvalue() == "[b]: failed: the file is empty, 0.2 s\n"


def test_a_line_per_model_when_it_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with batch_display(quiet=False) as watcher:
        assert isinstance(watcher, PlainLines)
        watcher.planned(5, 2)
        watcher.started("a")
        watcher.step("a", "loading")
        watcher.ended(entry("a"))
        watcher.ended(failed_entry("b", "the file is empty"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "onnxshrink: 2 of 5 are done already",
        "onnxshrink: [3/5] a: 412 kB → 108 kB (26.2 %), 3.4 s",
        "onnxshrink: [4/5] b: failed: the file is empty, 0.2 s",
    ]


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with batch_display(quiet=True) as watcher:
        assert isinstance(watcher, Unwatched)
        watcher.planned(1, 0)
        watcher.ended(entry("a"))
    assert capsys.readouterr() == ("", "")


def test_lines_tell_copies_and_failed_gates() -> None:
    gate = replace(entry().gates[0], status="failed")
    assert entry_line(entry("a", gates=(gate,), seconds=0.0)) == "a: 412 kB → 108 kB (26.2 %), gate failed: size<=30%"
    copy = entry("b", status="copied", reason="a", seconds=0.0)
    assert entry_line(copy) == "b: 412 kB → 108 kB (26.2 %), copy of a"
    assert entry_line(entry("c", result_bytes=None)) == "c: compressed, 3.4 s"
