"""The result of an equal model: a link, or a copy, whole or not at all."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from onnxshrink.batch.copies import copied_entry
from onnxshrink.batch.entries import failed_entry
from onnxshrink.report.batch import BatchEntry
from tests.batch.models import job_for, written


@pytest.fixture
def first(tmp_path: Path) -> BatchEntry:
    return written(job_for(tmp_path / "m.onnx", tmp_path / "out/a.onnx"))


def refuse(*_: object) -> None:
    raise OSError("no links here")


@pytest.mark.parametrize("links", [True, False])
def test_a_result_is_linked_and_copied_where_there_are_no_links(
    links: bool, first: BatchEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    job = job_for(tmp_path / "again.onnx", tmp_path / "out/sub/b.onnx")
    entry = copied_entry(first, job)
    result = Path(job.output)
    assert result.read_bytes() == Path(first.output or "").read_bytes()
    assert result.samefile(first.output or "") == links
    assert (entry.status, entry.reason, entry.name, entry.source) == ("copied", "a.onnx", "b.onnx", job.source)
    assert (entry.output, entry.report, entry.seconds) == (job.output, first.report, 0.0)
    assert [path.name for path in result.parent.iterdir()] == ["b.onnx"]
    again = copied_entry(first, job)  # over what is there
    assert again == entry
    assert [path.name for path in result.parent.iterdir()] == ["b.onnx"]


def test_data_files_go_along(first: BatchEntry, tmp_path: Path) -> None:
    (tmp_path / "out/a.onnx.0123456789ab.data").write_bytes(b"weights")
    (tmp_path / "out/other.onnx.0123456789ab.data").write_bytes(b"of another one")
    larger = replace(first, result_bytes=(first.result_bytes or 0) + 7)
    copied_entry(larger, job_for(tmp_path / "again.onnx", tmp_path / "out/sub/a.onnx"))
    assert sorted(path.name for path in (tmp_path / "out/sub").iterdir()) == ["a.onnx", "a.onnx.0123456789ab.data"]


def test_what_cannot_be_written_fails(first: BatchEntry, tmp_path: Path) -> None:
    (tmp_path / "out/sub").write_text("no folder")
    entry = copied_entry(first, job_for(tmp_path / "again.onnx", tmp_path / "out/sub/b.onnx"))
    assert (entry.status, entry.exit_code, entry.output) == ("failed", 6, None)
    assert entry.reason.startswith(f"cannot write {tmp_path / 'out/sub/b.onnx'}: ")


def test_it_fails_as_the_first_one_did(tmp_path: Path) -> None:
    first = failed_entry(job_for(tmp_path / "m.onnx", tmp_path / "a.onnx"), "why", 4, seconds=3.0)
    job = job_for(tmp_path / "again.onnx", tmp_path / "b.onnx")
    entry = copied_entry(first, job)
    assert (entry.name, entry.status, entry.reason, entry.exit_code) == ("b.onnx", "failed", "why", 4)
    assert entry.key == job.key
