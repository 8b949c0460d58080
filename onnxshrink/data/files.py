"""Which files a data set is made of, what kind of data they hold, and the labels that stand beside them."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxshrink.data.config import FILE_NAME, DataConfig
from onnxshrink.data.samples import packed
from onnxshrink.errors import DataError, FileAccessError

SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "images": (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
    "arrays": (".npz", ".npy"),
    "audio": (".wav", ".flac", ".ogg", ".mp3"),
    "table": (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson"),
    "text": (".txt",),
}
"""Endings of the file names of each kind of data."""

LABEL_FILES = ("labels.csv", "labels.jsonl")

_NOT_DATA = (*LABEL_FILES, FILE_NAME, "tokenizer.json")
_FILE_COLUMNS = ("file", "filename", "path", "image", "name")
_ALONE = ("images", "arrays", "audio")
"""Kinds of which a folder holds one only; tables and texts may be notes that lie beside them."""


@dataclass(frozen=True)
class DataFiles:
    """The files of a data set in order.

    Attributes:
        kind: of the data in them.
        paths: sorted by name.
        root: the folder that was given, or the one of the file that was.
        groups: the subfolders' names, where the files lie in subfolders, one per class.
        folder_given: whether a folder was given, and not one file.
        left_out: subfolders that were not looked into, because files lie beside them.
    """

    kind: str
    paths: tuple[Path, ...]
    root: Path
    groups: tuple[str, ...] = ()
    folder_given: bool = False
    left_out: tuple[str, ...] = ()

    def name(self, index: int) -> str:
        """A file relative to the folder."""
        return self.paths[index].relative_to(self.root).as_posix()


def find_files(path: Path) -> DataFiles:
    """The files at ``path``: itself, or those in the folder, or in its subfolders.

    Raises:
        FileAccessError: there is nothing there.
        DataError: a file of an unknown kind, or a folder that is empty or holds several kinds.
    """
    if not path.exists():
        raise FileAccessError(f"the data file {path} does not exist")
    if not path.is_dir():
        kind = _kind(path)
        if kind is None:
            raise DataError(
                f"{path}: data is not read from '{path.suffix or path.name}' files (docs/data.md lists those it is)"
            )
        return DataFiles(kind, (path,), path.parent)
    try:
        top = _data_files(path)
        subfolders = {folder.name: _data_files(folder) for folder in _sorted(path) if folder.is_dir()}
    except OSError as error:
        raise FileAccessError(f"cannot read the folder {path}: {error.strerror}") from error
    groups = {name: files for name, files in subfolders.items() if files}
    nested = not any(_kind(file) in _ALONE for file in top) and any(
        _kind(file) in _ALONE for files in groups.values() for file in files
    )
    kind, files = _one_kind(path, [file for files in groups.values() for file in files] if nested else top)
    names = tuple(name for name, found in groups.items() if any(file in files for file in found[:1])) if nested else ()
    left_out = () if nested else tuple(groups)
    return DataFiles(kind, tuple(files), path, names, folder_given=True, left_out=left_out)


def _data_files(folder: Path) -> list[Path]:
    return [file for file in _sorted(folder) if _kind(file) is not None and file.name not in _NOT_DATA]


def _sorted(folder: Path) -> list[Path]:
    return sorted((entry for entry in folder.iterdir() if entry.name[0] not in "._"), key=lambda entry: entry.name)


def _kind(path: Path) -> str | None:
    return next((kind for kind, suffixes in SUFFIXES.items() if path.suffix.lower() in suffixes), None)


def _one_kind(folder: Path, files: Sequence[Path]) -> tuple[str, list[Path]]:
    """The kind of a folder's files, and those of that kind; files that may be notes do not count beside others."""
    found: dict[str, list[Path]] = {}
    for file in files:
        kind = _kind(file) or ""
        found.setdefault(file.suffix.lower() if kind in ("arrays", "table") else kind, []).append(file)
    alone = {name: group for name, group in found.items() if _kind(group[0]) in _ALONE}
    chosen = alone or found
    if not chosen:
        raise DataError(
            f"the folder {folder} holds no data files, nor do its subfolders (docs/data.md lists the kinds)"
        )
    if len(chosen) > 1:
        examples = " and ".join(str(group[0].relative_to(folder)) for group in chosen.values())
        raise DataError(f"the folder {folder} holds files of several kinds, for example {examples}: keep one kind")
    ((_, group),) = chosen.items()
    return _kind(group[0]) or "", group


def file_parts(files: DataFiles) -> Iterator[bytes]:
    """Names and contents of files, for a digest."""
    for index, path in enumerate(files.paths):
        yield f"{files.name(index)}\n".encode()
        with path.open("rb") as stream:
            yield hashlib.file_digest(stream, "sha256").digest()


def labels_of(files: DataFiles, config: DataConfig) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """One label per file, and what was guessed about them: of a labels file, or else the subfolders' names.

    Raises:
        DataError: a file without a label, or a labels file that cannot be understood.
    """
    if config.label is False:
        return None, ()
    beside = [files.root / name for name in LABEL_FILES if (files.root / name).is_file()]
    source = config.labels_file or (beside[0] if beside else None)
    if source is not None:
        return class_ids(_labels_in(source, files, config), config, str(source))
    if not files.groups:
        return None, ()
    names = [path.parent.name for path in files.paths]
    if config.classes is None and all(name.isdecimal() for name in files.groups):
        note = f"labels are the numbers that the {len(files.groups)} subfolders are named by"
        return shifted(np.array([int(name) for name in names]), config), (note,)
    return class_ids(np.array(names), config, str(files.root))


def class_ids(labels: np.ndarray, config: DataConfig, origin: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels that are names as their places among ``classes``, or else in sorted order; others as they are."""
    if labels.dtype.kind != "U":
        return shifted(labels, config), ()
    classes = config.classes or tuple(sorted(set(labels.tolist())))
    places = {name: place for place, name in enumerate(classes)}
    unknown = sorted(set(labels.tolist()) - set(places))
    if unknown:
        raise DataError(f"{origin}: the label '{unknown[0]}' is none of the 'classes' of {config.origin}")
    note = (
        f"labels are the {len(classes)} names in sorted order: 0 is {classes[0]}, {len(classes) - 1} is {classes[-1]}"
    )
    return shifted(np.array([places[name] for name in labels.tolist()]), config), () if config.classes else (note,)


def shifted(labels: np.ndarray, config: DataConfig) -> np.ndarray:
    """Labels with the config's offset, where they are integers."""
    return labels + config.label_offset if labels.dtype.kind in "iu" and config.label_offset else labels


def _labels_in(source: Path, files: DataFiles, config: DataConfig) -> np.ndarray:
    """The labels that a file gives, in the order of the data files. Several lines about one file are one label."""
    rows = label_rows(source)
    if not rows:
        raise DataError(f"{source} holds no labels")
    key = next((name for name in _FILE_COLUMNS if name in rows[0]), None)
    if key is None:
        raise DataError(f"{source}: no column 'file' (columns: {', '.join(rows[0])})")
    columns = _label_columns(source, [name for name in rows[0] if name != key], config)
    found: dict[str, list[Any]] = {}
    for row in rows:
        values = [row.get(column) for column in columns]
        found.setdefault(str(row[key]), []).append(values[0] if len(columns) == 1 else values)
    several = any(len(values) > 1 for values in found.values())
    labels = []
    for index in range(len(files.paths)):
        values = found.get(files.name(index), found.get(files.paths[index].name, []))
        if not values and not several:
            raise DataError(f"{files.paths[index]} has no label in {source}")
        labels.append(np.array(values) if several else values[0])
    return packed(labels)


def _label_columns(source: Path, columns: Sequence[str], config: DataConfig) -> Sequence[str]:
    wanted = config.label_name or "label"
    if wanted in columns:
        return [wanted]
    if config.label_name or not columns:
        raise DataError(f"{source}: no column '{wanted}' (columns: {', '.join(columns)})")
    return columns


def label_rows(source: Path) -> list[dict[str, Any]]:
    """The lines of a .csv or .jsonl file, numbers as numbers."""
    try:
        with source.open(encoding="utf-8-sig", newline="") as stream:
            if source.suffix == ".jsonl":
                return list(_json_rows(source, stream))
            return [{name: number_or_text(cell) for name, cell in row.items()} for row in csv.DictReader(stream)]
    except FileNotFoundError:
        raise FileAccessError(f"the labels file {source} does not exist") from None
    except OSError as error:
        raise FileAccessError(f"cannot read the labels file {source}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{source} is not a readable .csv file") from error


def _json_rows(source: Path, stream: Any) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(stream, 1):
        if line.strip():
            yield json_object(line, f"{source}, line {number}")


def json_object(line: str, where: str) -> dict[str, Any]:
    """A line of a .jsonl file."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON ({error.msg})") from error
    if not isinstance(row, dict):
        raise DataError(f'{where}: expected an object such as {{"text": "…", "label": 1}}')
    return row


def number_or_text(cell: str | None) -> int | float | str | None:
    """A cell of a .csv file: an integer, another number, or text."""
    if cell is None:
        return None
    for read in (int, float):
        try:
            return read(cell)
        except ValueError:
            continue
    return cell
