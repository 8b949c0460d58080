"""Worker processes: what happens to a model happens to it alone, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from onnxshrink.batch.job import Job, Settings
from onnxshrink.batch.local_workers import LocalWorkers, _Slot
from onnxshrink.report.batch import BatchEntry
from onnxshrink.shrink import compress
from tests.batch.models import QUICK, job_for, tiny_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches processes through /proc")


def jobs(folder: Path, *data: str | None) -> list[Job]:
    """One job for each data, named by it."""
    made = []
    for number, one in enumerate(data):
        model = tiny_model(folder / f"{number}.onnx", number + 1)
        settings = replace(QUICK, data=None if one is None else f"tests.batch.models:{one}")
        made.append(job_for(model, folder / f"{number}-{one or 'good'}.onnx", settings=settings))
    return made


def results(entries: Iterator[BatchEntry]) -> dict[str, BatchEntry]:
    return {entry.name: entry for entry in entries}


def state(process: int) -> str:
    """The letter that /proc has for it; X when it is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def alive(process: int) -> bool:
    return state(process) not in "ZX"


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_harm_costs_the_model_that_did_it_and_no_other(tmp_path: Path) -> None:
    wanted = jobs(tmp_path, None, "segfault", None, "leave", None, "hang", "chatter", "eat", None)
    workers = LocalWorkers(2, tmp_path, timeout_seconds=10, memory_bytes=500 * 2**20)
    found = results(workers.run(wanted))
    assert len(found) == len(wanted)
    reasons = {name: entry.reason for name, entry in found.items() if entry.status == "failed"}
    assert reasons == {
        "1-segfault.onnx": "its process was ended by SIGSEGV",
        "3-leave.onnx": "its process ended with code 9: its last words",
        "5-hang.onnx": "it took longer than 10 s (--timeout) and was ended",
        "7-eat.onnx": "it took more than 500 MiB (--memory) and was ended",
    }
    for job in wanted:
        good = found[job.name].status == "compressed"
        assert Path(job.output).exists() == good
        if good:
            compress(job.source, tmp_path / "alone.onnx", data=job.settings.data, measure=False, force=True)
            assert Path(job.output).read_bytes() == (tmp_path / "alone.onnx").read_bytes()
    assert not list(tmp_path.glob(".*"))
    assert not list(tmp_path.glob("worker-*"))


def test_closing_ends_what_is_running_and_leaves_nothing(tmp_path: Path) -> None:
    workers = LocalWorkers(2, tmp_path)
    entries = workers.run(jobs(tmp_path, None, "hang", "hang", "hang"))
    assert next(entries).name == "0-good.onnx"
    running = [worker.pid for worker in workers._workers]
    assert len(running) == 2
    entries.close()
    assert not any(map(alive, running))
    assert not list(tmp_path.glob("worker-*"))


def test_jobs_are_taken_when_there_is_room_for_them(tmp_path: Path) -> None:
    taken: list[str] = []

    def lazily() -> Iterator[Job]:
        for job in jobs(tmp_path, None, None, None):
            taken.append(job.name)
            yield job

    entries = LocalWorkers(1, tmp_path).run(lazily())
    next(entries)
    assert taken == ["0-good.onnx", "1-good.onnx"]
    assert len(list(entries)) == 2


def test_a_worker_stays_warm_and_says_what_it_does(tmp_path: Path) -> None:
    told: list[tuple[str, ...]] = []
    seen: set[int] = set()

    class Watching:
        def started(self, name: str) -> None:
            told.append(("started", name))

        def step(self, name: str, text: str) -> None:
            seen.update(worker.pid for worker in workers._workers)
            told.append((name, text))

        def ended(self, entry: BatchEntry) -> None: ...

    workers = LocalWorkers(1, tmp_path, watcher=Watching())
    list(workers.run(jobs(tmp_path, None, None)))
    assert len(seen) == 1
    assert told[0] == ("started", "0-good.onnx")
    assert ("0-good.onnx", "loading") in told
    assert told.index(("started", "1-good.onnx")) > told.index(("0-good.onnx", "checking the result"))


def test_others_stand_still_while_one_is_timed_and_go_on_then(tmp_path: Path) -> None:
    states: list[str] = []
    grant = _Slot._next

    def watched(slot: _Slot, others: list[object]) -> None:
        grant(slot, others)  # type: ignore[arg-type]
        for worker in workers._workers:
            if slot.holder not in (None, worker):
                until(lambda process=worker.pid: state(process) == "T")  # type: ignore[misc]
                states.append("T")

    timed, hanging = jobs(tmp_path, None, "hang")
    timed = replace(timed, settings=Settings(preset="safe", latency_seconds=0.2))
    workers = LocalWorkers(2, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Slot, "_next", watched)
        entries = workers.run([timed, hanging])
        entry = next(entries)
    assert entry.latency_ratio is not None
    assert states == ["T"]
    assert all(state(worker.pid) in "RS" for worker in workers._workers)
    entries.close()


class FakeWorker:
    """Notes what is asked of it."""

    def __init__(self, name: str, *, busy: bool = True) -> None:
        self.name, self.job, self.waits = name, "a job" if busy else None, False
        self.said: list[str] = []

    def waits_for_slot(self) -> None:
        self.waits = True

    def grant_slot(self) -> None:
        self.waits = False
        self.said.append("granted")

    def stop(self) -> None:
        self.said.append("stopped")

    def go_on(self) -> None:
        self.said.append("goes on")


def test_the_slot_is_one_workers_at_a_time_in_the_order_of_asking() -> None:
    a, b, c, idle = FakeWorker("a"), FakeWorker("b"), FakeWorker("c"), FakeWorker("idle", busy=False)
    everybody, slot = [a, b, c, idle], _Slot()
    slot.ask(a, everybody)  # type: ignore[arg-type]
    assert slot.holder is a
    assert (b.said, c.said, idle.said) == (["stopped"], ["stopped"], [])
    slot.ask(b, everybody)  # type: ignore[arg-type]
    assert (slot.holder, b.waits) == (a, True)
    slot.release(a, everybody)  # type: ignore[arg-type]
    assert slot.holder is b
    assert b.said == ["stopped", "goes on", "granted"]
    assert a.said[-1] == c.said[-1] == "stopped"
    slot.forget(b, [a, c, idle])  # type: ignore[arg-type]
    assert slot.holder is None
    assert a.said[-1] == c.said[-1] == "goes on"


def test_a_worker_that_dies_while_it_waits_is_forgotten() -> None:
    a, b = FakeWorker("a"), FakeWorker("b")
    slot = _Slot()
    slot.ask(a, [a, b])  # type: ignore[arg-type]
    slot.ask(b, [a, b])  # type: ignore[arg-type]
    slot.forget(b, [a])  # type: ignore[arg-type]
    slot.release(a, [a])  # type: ignore[arg-type]
    assert slot.holder is None


def test_waiting_and_standing_still_are_not_time_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxshrink.batch import worker_process

    now = [0.0]
    monkeypatch.setattr(worker_process.time, "monotonic", lambda: now[0])
    clock = worker_process._Clock()
    for step, passed in (("run", 1.0), ("pause", 10.0), ("pause", 5.0), ("run", 2.0), ("run", 4.0), ("pause", 100.0)):
        getattr(clock, step)()
        now[0] += passed
    assert clock.seconds == 7.0


KILLED = """
import sys
from pathlib import Path
from tests.batch.test_local_workers import jobs
from onnxshrink.batch.local_workers import LocalWorkers
folder = Path(sys.argv[1])
workers = LocalWorkers(2, folder)
entries = workers.run(jobs(folder, None, "hang", "hang"))
next(entries)
for worker in workers._workers:
    print(worker.pid, flush=True)
workers._workers[0].stop()
next(entries)
"""


def test_no_worker_outlives_its_parent_be_it_stopped_or_not(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    running = [int(parent.stdout.readline()) for _ in range(2)]
    assert all(map(alive, running))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until(lambda: not any(map(alive, running)))


def test_a_worker_that_keeps_memory_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxshrink.batch import local_workers

    monkeypatch.setattr(local_workers, "_KEPT_BYTES", -1)  # whatever it has is too much
    seen: list[int] = []

    class Watching:
        def started(self, name: str) -> None: ...

        def step(self, name: str, text: str) -> None:
            seen.extend(worker.pid for worker in workers._workers if worker.pid not in seen)

        def ended(self, entry: BatchEntry) -> None: ...

    workers = LocalWorkers(1, tmp_path, watcher=Watching())
    found = results(workers.run(jobs(tmp_path, None, None, None)))
    assert len(seen) == 3
    assert {entry.status for entry in found.values()} == {"compressed"}


def test_a_worker_has_its_share_of_the_threads(tmp_path: Path) -> None:
    wanted = jobs(tmp_path, None)
    settings = Settings(preset="lossless", latency=False)
    (entry,) = LocalWorkers(1, tmp_path, threads=3).run([replace(wanted[0], settings=settings)])
    from onnxshrink.report.json_format import from_json

    report = from_json(Path(entry.report or "").read_text())
    assert report.threads == 3
    compress(wanted[0].source, tmp_path / "alone.onnx", preset="lossless", measure=False)
    assert Path(wanted[0].output).read_bytes() == (tmp_path / "alone.onnx").read_bytes()


@pytest.mark.parametrize(
    ("memory", "calibration", "said", "expected"),
    [
        (None, None, None, None),
        (2**30, None, None, 2**28),
        (None, 5000, None, 5000),
        (2**30, 5000, None, 5000),
        (2**30, 5000, 7, 7),
    ],
)
def test_calibration_gets_a_part_of_what_a_worker_may_take(
    memory: int | None, calibration: int | None, said: int | None, expected: int | None, tmp_path: Path
) -> None:
    workers = LocalWorkers(1, tmp_path, memory_bytes=memory, calibration_bytes=calibration)
    job = job_for(tmp_path / "a.onnx", tmp_path / "b.onnx", settings=replace(QUICK, memory_bytes=said))
    assert workers._within_limits(job).settings.memory_bytes == expected


def test_what_a_worker_has_kept_is_not_the_next_jobs_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxshrink.batch import local_workers

    workers = LocalWorkers(1, tmp_path, memory_bytes=2**40)
    entries = workers.run(jobs(tmp_path, "hang"))
    taken = iter([2**40, 2**40 + 49, 2**40 + 51])
    monkeypatch.setattr(local_workers, "resident_by_group", lambda groups: dict.fromkeys(groups, next(taken)))

    class Keeper(local_workers.WorkerProcess):
        def give(self, job: Job) -> None:
            super().give(job)
            self.kept_bytes = 50

    monkeypatch.setattr(local_workers, "WorkerProcess", Keeper)
    (entry,) = entries
    assert "more than 1048576 MiB (--memory)" in entry.reason
    assert next(taken, None) is None
