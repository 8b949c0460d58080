"""How many models fit beside each other, by what the system says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnxshrink.batch import resources
from onnxshrink.batch.resources import (
    available_bytes,
    check_memory_is_known,
    resident_by_group,
    resident_bytes,
    usable_cores,
    worker_count,
)
from onnxshrink.errors import OnnxShrinkError

GIB = 2**30


@pytest.mark.parametrize(
    ("largest", "cores", "available", "limit", "count"),
    [
        (0, 8, 100 * GIB, None, 8),
        (0, 8, GIB, None, 3),  # 300 MiB each
        (GIB, 8, 20 * GIB, None, 3),  # 6.3 GiB each
        (GIB, 8, GIB, None, 1),  # at least one
        (GIB, 8, 20 * GIB, 2 * GIB, 8),  # they are ended before they take more
        (GIB, 8, None, None, 8),
    ],
)
def test_workers_fit_into_the_memory(
    largest: int, cores: int, available: int | None, limit: int | None, count: int
) -> None:
    assert worker_count(largest, cores, available, limit) == count


def test_a_container_has_less_than_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_CGROUP", tmp_path)
    machine = available_bytes()
    assert machine is not None
    cores = usable_cores()
    assert 1 <= cores <= (os.cpu_count() or 1)
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert (available_bytes(), usable_cores()) == (2_000_000, 1)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores() == cores
    assert (available_bytes() or 0) > 2_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_a_group_is_that_of_all_its_processes() -> None:
    eater = "import sys; x = bytearray(50_000_000); x[::4096] = x[::4096]; "
    child = eater + "print('there', flush=True); sys.stdin.read()"
    parent = eater + f"import subprocess; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
    )
    assert process.stdout is not None
    process.stdout.readline()
    taken = resident_by_group([process.pid, 2**22 + 1])
    alone = resident_bytes(process.pid)
    process.communicate()
    assert alone is not None
    assert 50_000_000 < alone < 80_000_000
    assert 100_000_000 < taken[process.pid] < 160_000_000
    assert taken[2**22 + 1] == 0
    assert resident_bytes(process.pid) == 0


def test_a_limit_on_memory_needs_somebody_who_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_memory_is_known()
    monkeypatch.setattr(resources, "_PROC", tmp_path / "nothing")
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(OnnxShrinkError, match="--memory needs /proc, which this system has not, or the package psutil"):
        check_memory_is_known()
