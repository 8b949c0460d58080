"""The ledger: on disk at once, whole whatever happens, and one process's at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from onnxshrink.batch.digests import Seen
from onnxshrink.batch.entries import failed_entry
from onnxshrink.batch.ledger import LEDGER, LOCK, Ledger, Record, read_ledger
from onnxshrink.errors import FileAccessError, OnnxShrinkError
from onnxshrink.report.batch import BatchEntry
from onnxshrink.report.gate_result import GateResult
from tests.batch.models import job_for

SEEN = Seen("ab" * 32, {"a.onnx": (1, 2, 3, 4), "a.data": None})
ENTRY = BatchEntry(
    name="sub/ä.onnx",
    source="in/ä.onnx",
    status="compressed",
    key="k",
    output="out/ä.onnx",
    seconds=1.5,
    relative_error=float("inf"),
    metric="top-1",
    metric_significant=True,
    gates=(GateResult("size<=30%", "passed", "size", "ratio", 0.3, 0.25),),
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        assert ledger.records == {}
        ledger.begin("b.onnx")
        ledger.begin(ENTRY.name)
        ledger.add(ENTRY, SEEN, None)
        records, _ = read_ledger(tmp_path)  # already
    assert records == {"b.onnx": Record(None), ENTRY.name: Record(ENTRY, SEEN, None)}
    assert list(records) == ["b.onnx", ENTRY.name]


def test_the_last_line_of_a_name_counts(tmp_path: Path) -> None:
    failed = failed_entry(job_for(tmp_path / "a.onnx", tmp_path / "a.onnx"), "why")
    with Ledger(tmp_path) as ledger:
        ledger.add(failed, None, None)
        ledger.add(replace(failed, reason="another"), None, None)
    found = read_ledger(tmp_path)[0]["a.onnx"].entry
    assert found is not None
    assert found.reason == "another"


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_a_line_that_was_cut_short_is_dropped_and_written_over(cut: int, tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.add(ENTRY, SEEN, SEEN)
        ledger.add(replace(ENTRY, name="b.onnx"), SEEN, SEEN)
    path = tmp_path / LEDGER
    path.write_bytes(path.read_bytes()[:-cut])
    with Ledger(tmp_path) as ledger:
        assert list(ledger.records) == [ENTRY.name]
        ledger.add(replace(ENTRY, name="c.onnx"), None, None)
    assert [json.loads(line)["entry"]["name"] for line in path.read_text().splitlines()] == [ENTRY.name, "c.onnx"]


def test_a_damaged_line_costs_its_model_only(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        for name in ("a", "b", "c"):
            ledger.add(replace(ENTRY, name=name), SEEN, SEEN)
    path = tmp_path / LEDGER
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\x00" * 50 + b"\n" + b'{"schema_version": 1, "entry": {}}\n' + lines[2])
    assert list(read_ledger(tmp_path)[0]) == ["a", "c"]


def test_the_ledger_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_text('{"schema_version": 2, "entry": {}}\n')
    with pytest.raises(OnnxShrinkError, match="newer onnxshrink"), Ledger(tmp_path):
        pass
    assert (tmp_path / LEDGER).read_text() == '{"schema_version": 2, "entry": {}}\n'


def test_two_batches_do_not_write_to_one_folder(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from onnxshrink.batch.ledger import Ledger; Ledger(Path(sys.argv[1]))"
    with Ledger(tmp_path):
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert other.returncode == 1
    assert f"another batch is writing to {tmp_path} (process {os.getpid()})" in other.stderr
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_temporary_files_are_removed_at_the_latest_by_the_next_batch(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        kept = ledger.temporary
        (kept / "x").write_text("x")
    assert not kept.exists()
    kept.mkdir()  # as if its process had been killed
    assert json.loads((tmp_path / LOCK).read_text())["temporary"] == str(kept)
    with Ledger(tmp_path) as ledger:
        assert not kept.exists()
        assert ledger.temporary.is_dir()


FULL = """
import resource, sys
from dataclasses import replace
from pathlib import Path
from onnxshrink.batch.ledger import Ledger
from tests.batch.test_ledger import ENTRY, SEEN
with Ledger(Path(sys.argv[1])) as ledger:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
    for name in "abc":
        ledger.add(replace(ENTRY, name=name), SEEN, SEEN)
"""


def test_a_disk_that_is_full_ends_with_the_name_of_the_ledger_and_a_whole_last_line(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert f"FileAccessError: cannot write the ledger {tmp_path / LEDGER}: " in done.stderr
    records, whole = read_ledger(tmp_path)
    assert list(records) == ["a"]
    assert whole == (tmp_path / LEDGER).stat().st_size


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileAccessError, match="cannot write to"), Ledger(tmp_path / "file"):
        pass
