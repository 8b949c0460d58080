"""A batch as a table for spreadsheets and data frames: a line per model, numbers as they were measured."""

from __future__ import annotations

import csv
import dataclasses
import io

from onnxshrink.report.batch import Batch, BatchEntry

_COLUMNS = tuple(field.name for field in dataclasses.fields(BatchEntry))


def batch_to_csv(batch: Batch) -> str:
    """A header and a line per model; gates as ``size<=30%: passed`` with semicolons between them."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*_COLUMNS, "size_ratio"])
    for entry in batch.entries:
        writer.writerow([*(_cell(entry, name) for name in _COLUMNS), _size_ratio(entry)])
    return stream.getvalue()


def _cell(entry: BatchEntry, name: str) -> object:
    if name == "gates":
        return "; ".join(f"{gate.gate}: {gate.status}" for gate in entry.gates)
    value = getattr(entry, name)
    return str(value).lower() if isinstance(value, bool) else value


def _size_ratio(entry: BatchEntry) -> float | None:
    if entry.original_bytes is None or entry.result_bytes is None:
        return None
    return entry.result_bytes / max(entry.original_bytes, 1)
