"""Jobs on a Dask cluster: of two workers on this machine, of which one is lost; of none; of the wrong ones."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import onnx
import pytest

from onnxshrink.batch.dask_cluster import check_shared
from onnxshrink.batch.dask_workers import DaskWorkers
from onnxshrink.batch.job import Job, Settings
from onnxshrink.cli.main import main
from onnxshrink.errors import FileAccessError, OnnxShrinkError
from onnxshrink.report.batch import BatchEntry
from onnxshrink.shrink import compress
from tests.batch import trouble

distributed = pytest.importorskip("distributed")

MODEL = Path(__file__).resolve().parents[2] / "sample_models" / "cancer_mlp" / "model.onnx"
FAST = Settings(preset="safe", measure=False)


@contextmanager
def dask_cluster(workers: int, threads: int = 1) -> Iterator[Any]:
    with distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=threads,
        processes=True,
        host="127.0.0.1",
        dashboard_address=":0",
        silence_logs=logging.CRITICAL,
        memory_limit=0,
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Any]:
    with dask_cluster(2) as cluster:
        yield cluster


class Told:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.steps: list[tuple[str, str]] = []

    def planned(self, models: int, resumed: int) -> None:
        pass

    def started(self, name: str) -> None:
        self.names.append(name)

    def step(self, name: str, text: str) -> None:
        self.steps.append((name, text))

    def ended(self, entry: BatchEntry) -> None:
        pass


def jobs(folder: Path, count: int, settings: Settings = FAST) -> list[Job]:
    """Models that differ in their names."""
    (folder / "in").mkdir(exist_ok=True)
    found = []
    for place in range(count):
        source = folder / "in" / f"{place}.onnx"
        proto = onnx.load(MODEL)
        proto.graph.name = f"graph {place}"
        onnx.save(proto, source)
        result = folder / "out" / "sub" / f"{place}.onnx"
        found.append(Job(f"sub/{place}.onnx", str(source), str(result), f"{result}.json", f"key {place}", settings))
    return found


def test_every_model_comes_out_as_it_does_alone(two_workers: Any, tmp_path: Path) -> None:
    told = Told()
    given = jobs(tmp_path, 6)
    broken = replace(given[2], source=str(tmp_path / "in" / "broken.onnx"))
    (tmp_path / "in" / "broken.onnx").write_text("garbage", encoding="utf-8")
    given[2] = broken
    workers = DaskWorkers(two_workers.scheduler_address, watcher=told)
    entries = {entry.name: entry for entry in workers.run(given)}
    assert sorted(entries) == sorted(job.name for job in given)
    for place, job in enumerate(given):
        entry = entries[job.name]
        if job is broken:
            assert entry.status == "failed"
            assert "not an ONNX file" in entry.reason
            assert not Path(job.output).exists()
            continue
        assert (entry.status, entry.source, entry.output, entry.report) == (
            "compressed",
            job.source,
            job.output,
            job.report,
        )
        compress(job.source, tmp_path / f"{place}.onnx", measure=False)
        assert Path(job.output).read_bytes() == (tmp_path / f"{place}.onnx").read_bytes()
    assert sorted(told.names) == sorted(entries)
    assert (given[0].name, "loading") in told.steps
    assert list((tmp_path / "out").glob(".onnxshrink*")) == []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where data that makes trouble leaves its traces; known to clusters that are started after this."""
    found = tmp_path / "traces"
    found.mkdir()
    monkeypatch.setenv(trouble.FOLDER, str(found))
    return found


def troubled(job: Job, what: str) -> Job:
    return replace(job, settings=replace(job.settings, data=f"tests.batch.trouble:{what}"))


def processes(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("pid-")) for path in folder.glob("pid-*")]


def until(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("how", ["killed", "closed"])
def test_the_jobs_of_a_worker_that_is_lost_are_done_by_another(how: str, folder: Path, tmp_path: Path) -> None:
    told = Told()
    given = jobs(tmp_path, 8)
    given[0] = troubled(given[0], "waits")
    with dask_cluster(2) as cluster, distributed.Client(cluster, set_as_default=False) as client:

        def lose_the_worker_that_has_it() -> None:
            until(lambda: processes(folder))
            (first,) = processes(folder)
            parents = client.run(os.getpid)
            (address,) = [
                one for one, tasks in client.processing().items() if any("sub/0.onnx" in key for key in tasks)
            ]
            os.kill(parents[address], signal.SIGKILL if how == "killed" else signal.SIGTERM)
            until(lambda: is_gone(first))
            (folder / "go").touch()

        thread = threading.Thread(target=lose_the_worker_that_has_it)
        thread.start()
        entries = list(DaskWorkers(cluster.scheduler_address, watcher=told).run(given))
        thread.join()
    assert sorted(entry.name for entry in entries) == sorted(job.name for job in given)
    assert {entry.status for entry in entries} == {"compressed"}
    assert told.names.count(given[0].name) == 2
    assert len(processes(folder)) == 2
    for place, job in enumerate(given[1:], 1):
        compress(job.source, tmp_path / f"{place}.onnx", measure=False)
        assert Path(job.output).read_bytes() == (tmp_path / f"{place}.onnx").read_bytes()
    assert list((tmp_path / "out" / "sub").glob(".*")) == []


def test_a_job_that_kills_every_worker_is_given_up(folder: Path, tmp_path: Path) -> None:
    given = jobs(tmp_path, 3)
    given[1] = troubled(given[1], "kills_dask_worker")
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}), dask_cluster(1) as cluster:
        entries = {entry.name: entry for entry in DaskWorkers(cluster.scheduler_address).run(given)}
    assert {name: entry.status for name, entry in entries.items()} == {
        "sub/0.onnx": "compressed",
        "sub/1.onnx": "failed",
        "sub/2.onnx": "compressed",
    }
    assert entries["sub/1.onnx"].reason == "KilledWorker: 2 Dask workers were lost while they were at it"
    assert len(processes(folder)) == 2


def test_a_model_that_crashes_or_hangs_costs_itself_only(folder: Path, tmp_path: Path) -> None:
    given = jobs(tmp_path, 4)
    given[0], given[2] = troubled(given[0], "crashes"), troubled(given[2], "waits")
    with dask_cluster(1, threads=2) as cluster, distributed.Client(cluster, set_as_default=False) as client:
        before = client.run(os.getpid)
        workers = DaskWorkers(cluster.scheduler_address, timeout_seconds=3)
        entries = {entry.name: entry for entry in workers.run(given)}
        assert client.run(os.getpid) == before
    assert [entries[job.name].status for job in given] == ["failed", "compressed", "failed", "compressed"]
    assert "SIGSEGV" in entries["sub/0.onnx"].reason
    assert "longer than 3 s (--timeout)" in entries["sub/2.onnx"].reason
    assert all(map(is_gone, processes(folder)))


def test_closing_ends_what_is_running_and_leaves_the_cluster(folder: Path, tmp_path: Path) -> None:
    given = jobs(tmp_path, 30)
    given[0] = troubled(given[0], "waits")
    taken = []
    with dask_cluster(2) as cluster:
        workers = DaskWorkers(cluster.scheduler_address)
        entries = workers.run(taken.append(job.name) or job for job in given)  # type: ignore[func-returns-value]
        next(entries)
        until(lambda: processes(folder))
        entries.close()  # type: ignore[attr-defined]
        until(lambda: all(map(is_gone, processes(folder))))
        assert len(taken) < 20, "jobs are taken as there is room for them"
        assert not Path(given[0].output).exists()
        assert [entry.status for entry in workers.run(given[1:2])] == ["compressed"]


def test_other_versions_are_refused_before_anything_starts(
    two_workers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxshrink.measure import machine

    here = machine.versions()
    monkeypatch.setattr(machine, "versions", lambda: {**here, "onnxruntime": "0.1", "numpy": "0.2"})
    workers = DaskWorkers(two_workers.scheduler_address)
    never: Iterator[Job] = iter(jobs(tmp_path, 1))
    with pytest.raises(OnnxShrinkError) as caught:
        list(workers.run(never))
    assert f"has onnxruntime {here['onnxruntime']}, the client has 0.1: install the same on all machines" in str(
        caught.value
    )
    assert next(never).name == "sub/0.onnx"
    notices: list[str] = []
    monkeypatch.setattr(machine, "versions", lambda: {**here, "numpy": "0.2"})
    list(replace(workers, notice=notices.append).run(jobs(tmp_path, 1)))
    assert notices[0].startswith(f"versions differ: numpy {here['numpy']} there, 0.2 here (tcp://127.0.0.1:")


def test_a_cluster_that_is_not_there_or_has_no_workers_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxshrink.batch.dask_cluster._CONNECT_SECONDS", 0.5)
    with pytest.raises(
        FileAccessError, match=r"cannot reach the Dask scheduler tcp://127\.0\.0\.1:1: is it running there\?"
    ):
        list(DaskWorkers("tcp://127.0.0.1:1").run([]))
    with pytest.raises(FileAccessError, match="is no address of a Dask scheduler"):
        list(DaskWorkers("nonsense://x").run([]))
    with (
        dask_cluster(0) as cluster,
        pytest.raises(OnnxShrinkError, match=r"has no workers, and got none within 0\.3 s"),
    ):
        list(DaskWorkers(cluster.scheduler_address, seconds_without_workers=0.3).run([]))


def test_a_folder_that_a_worker_does_not_see_is_refused(tmp_path: Path) -> None:
    class Client:
        def run(self, function: Any, path: str) -> dict[str, bool]:
            return {"tcp://a:1": function(path), "tcp://b:1": False}

    with pytest.raises(FileAccessError, match=r"the Dask worker tcp://b:1 does not see .*/out: give a folder that all"):
        check_shared(Client(), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_command_starts_a_cluster_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = jobs(tmp_path, 2)
    arguments = ["batch", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--no-measure", "--jobs", "1"]
    assert main([*arguments, "--scheduler", "local"]) == 0
    told = capsys.readouterr()
    assert told.err.splitlines()[0].startswith("onnxshrink: [1/2] ")
    assert "2 of 2 models compressed" in told.out
    compress(given[1].source, tmp_path / "1.onnx", measure=False)
    assert (tmp_path / "out" / "1.onnx").read_bytes() == (tmp_path / "1.onnx").read_bytes()
    assert main([*arguments, "-q"]) == 0, "the ledger is the same without Dask"
    assert (tmp_path / "out" / "ledger.jsonl").read_text(encoding="utf-8").count('"entry"') == 2


def test_without_a_scheduler_and_without_urls_neither_dask_nor_fsspec_is_imported(tmp_path: Path) -> None:
    jobs(tmp_path, 1)
    probe = (
        "import sys; from onnxshrink.cli.main import main; code = main(sys.argv[1:]);"
        "print([name for name in ('distributed', 'dask', 'fsspec') if name in sys.modules]); sys.exit(code)"
    )
    arguments = ["batch", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--no-measure", "-q"]
    found = subprocess.run([sys.executable, "-c", probe, *arguments], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(OnnxShrinkError, match=r"pip install 'onnxshrink\[dask\]'"):
        list(DaskWorkers("local").run([]))
