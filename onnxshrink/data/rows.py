"""Rows of ``.csv``, ``.jsonl``, ``.parquet`` and ``.txt`` files, read from the start as often as they are needed."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from onnxshrink.data.config import DataConfig
from onnxshrink.data.files import DataFiles, class_ids, json_object, number_or_text
from onnxshrink.data.samples import packed
from onnxshrink.errors import DataError, FileAccessError, first_line

LINE = "line"
"""The only column of a .txt file."""

_DELIMITERS = (",", ";", "\t", "|")
_BATCH_ROWS = 256


class Table:
    """The rows of one file, or of several with the same columns, one file after another.

    Attributes:
        columns: their names; numbers from 1 on where a .csv file has no header.
        without_header: whether a .csv file starts with a row of numbers.
    """

    def __init__(self, files: DataFiles, config: DataConfig) -> None:
        self._paths = files.paths
        self._delimiter = config.delimiter
        self.without_header = False
        self.columns = self._columns(files.paths[0])

    def rows(self, columns: Sequence[str]) -> Iterator[list[Any]]:
        """The cells of these columns, row by row: text from .csv and .txt, values of any kind from the others."""
        return chain.from_iterable(self._file_rows(path, columns) for path in self._paths)

    def count(self) -> int | None:
        """How many rows there are, where the files tell."""
        if any(path.suffix != ".parquet" for path in self._paths):
            return None
        return sum(int(_parquet(path).metadata.num_rows) for path in self._paths)

    def _columns(self, path: Path) -> tuple[str, ...]:
        with _readable(path):
            if path.suffix == ".parquet":
                return tuple(_parquet(path).schema_arrow.names)
            if path.suffix == ".txt":
                return (LINE,)
            if path.suffix in (".jsonl", ".ndjson"):
                return tuple(next(_json_rows(path), {}))
            return self._csv_columns(path)

    def _csv_columns(self, path: Path) -> tuple[str, ...]:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            line = stream.readline()
        if self._delimiter is None:
            self._delimiter = max(_DELIMITERS, key=line.count) if path.suffix == ".csv" else "\t"
        cells = next(csv.reader([line], delimiter=self._delimiter), [])
        self.without_header = bool(cells) and all(map(_is_number, cells))
        if self.without_header:
            return tuple(str(number) for number in range(1, len(cells) + 1))
        return tuple(cell.strip() for cell in cells)

    def _file_rows(self, path: Path, columns: Sequence[str]) -> Iterator[list[Any]]:
        with _readable(path):
            if path.suffix == ".parquet":
                yield from _parquet_rows(path, columns)
            elif path.suffix == ".txt":
                yield from ([line] for line in _lines(path))
            elif path.suffix in (".jsonl", ".ndjson"):
                yield from ([row.get(column) for column in columns] for row in _json_rows(path))
            else:
                yield from self._csv_rows(path, columns)

    def _csv_rows(self, path: Path, columns: Sequence[str]) -> Iterator[list[str]]:
        found = self._csv_columns(path)
        missing = [column for column in columns if column not in found]
        if missing:
            raise DataError(f"{path}: no column '{missing[0]}' (columns: {', '.join(found)})")
        places = [found.index(column) for column in columns]
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=self._delimiter or ",")
            for number, row in enumerate(reader):
                if (number == 0 and not self.without_header) or not row:
                    continue
                if len(row) != len(found):
                    raise DataError(f"{path}, line {reader.line_num}: {len(row)} cells for {len(found)} columns")
                yield [row[place] for place in places]


def column_labels(table: Table, label: str | None, config: DataConfig, origin: str) -> np.ndarray | None:
    """The labels in a column; text stays text unless the config names the classes."""
    if label is None:
        return None
    cells = [row[0] for row in table.rows([label])]
    labels = packed([number_or_text(cell) if isinstance(cell, str) else cell for cell in cells])
    if labels.dtype.kind == "U" and config.classes is None:
        return labels
    return class_ids(labels, config, origin)[0]


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as stream:
        yield from (line.rstrip("\n") for line in stream if line.strip())


def _json_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield json_object(line, f"{path}, line {number}")


def _parquet(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path} needs pyarrow: pip install 'onnxshrink[tables]'") from None
    try:
        return pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is not a readable Parquet file: {first_line(error)}") from error


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[list[Any]]:
    with _parquet(path) as file:
        missing = [column for column in columns if column not in file.schema_arrow.names]
        if missing:
            raise DataError(f"{path}: no column '{missing[0]}' (columns: {', '.join(file.schema_arrow.names)})")
        for batch in file.iter_batches(_BATCH_ROWS, columns=list(dict.fromkeys(columns))):
            found = {name: column.to_pylist() for name, column in zip(batch.schema.names, batch.columns, strict=True)}
            for row in range(batch.num_rows):
                yield [found[column][row] for column in columns]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileAccessError(f"cannot read the data file {path}: {error.strerror or first_line(error)}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a readable {path.suffix} file: {first_line(error)}") from error
