"""The result of a model that equals another one: a link to that one's result, or a copy."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from onnxshrink.atomic_files import flush_to_disk
from onnxshrink.batch.entries import failed_entry
from onnxshrink.batch.job import Job
from onnxshrink.batch.remote_files import copy, is_url, join, list_folder, name_of, parent
from onnxshrink.errors import FileAccessError, OnnxShrinkError
from onnxshrink.graph.data_files import data_files
from onnxshrink.report.batch import BatchEntry


def copied_entry(first: BatchEntry, job: Job) -> BatchEntry:
    """Give ``job`` the result of ``first``, whose model is the same: its entry. It fails as the first one did."""
    if first.output is None:
        return failed_entry(job, first.reason, first.exit_code)
    if is_url(first.output):
        return _copied_by_url(first, first.output, job)
    origin, destination = Path(first.output), Path(job.output)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        for data in data_files(origin) if first.result_bytes != origin.stat().st_size else ():
            _link(data, destination.parent / data.name)
        _link(origin, destination)
        flush_to_disk(destination.parent)
    except OSError as error:
        return failed_entry(job, f"cannot write {destination}: {error.strerror}", FileAccessError.exit_code)
    return _entry(first, job)


def _copied_by_url(first: BatchEntry, origin: str, job: Job) -> BatchEntry:
    try:
        prefix = f"{name_of(origin)}."
        for name in list_folder(parent(origin)):
            if name.startswith(prefix) and name.endswith(".data"):
                copy(join(parent(origin), name), join(parent(job.output), name))
        copy(origin, job.output)
    except OnnxShrinkError as error:
        return failed_entry(job, str(error), error.exit_code)
    return _entry(first, job)


def _entry(first: BatchEntry, job: Job) -> BatchEntry:
    return replace(
        first,
        name=job.name,
        source=job.source,
        status="copied",
        reason=first.name,
        output=job.output,
        seconds=0.0,
    )


def _link(origin: Path, destination: Path) -> None:
    """Put the file there under a second name, or, where that cannot be, its content; whole or not at all."""
    if destination.exists() and destination.samefile(origin):
        return
    folder = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        staged = folder / destination.name
        try:
            os.link(origin, staged)
        except OSError:  # another file system, or one that knows no links
            shutil.copyfile(origin, staged)
            flush_to_disk(staged)
        os.replace(staged, destination)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
