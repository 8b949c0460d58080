"""What is where: models and results by path or by URL, as a plan looks at them.

What a store tells of its files stands for their bytes: they are not fetched to find out whether they have changed.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from onnxshrink.batch.digests import ABSENT, Seen, Stamp, look_at
from onnxshrink.batch.remote_files import RemoteFile, file_at, is_url, join, list_folder, name_of, parent
from onnxshrink.report.batch import BatchEntry

_NO_WEIGHTS = (".onnx", ".json", ".toml", ".md", ".html", ".csv", ".npz", ".npy", ".txt", ".png", ".jpg", ".wav")
"""Endings of files that are no external data."""


def below(folder: str, name: str) -> str:
    """The path or URL of a file below a folder."""
    return join(folder, name) if is_url(folder) else str(Path(folder) / name)


class Places:
    """Looks at files; each remote folder is listed once."""

    def __init__(self) -> None:
        self._folders: dict[str, dict[str, RemoteFile]] = {}
        self._weights: dict[str, list[str]] = {}

    def look(self, place: str, last: Seen | None = None) -> Seen:
        """A model or result as it is now: ``last`` when nothing was written to its files since."""
        if not is_url(place):
            return look_at(Path(place), last)
        here = self._in(parent(place))
        if last is not None and last.files and all(_stamp(here.get(name)) == was for name, was in last.files.items()):
            return last
        file = here.get(name_of(place))
        if file is None:
            return Seen(ABSENT)
        files = [file, *(here[name] for name in self._external(parent(place), name_of(place)))]
        digest = hashlib.sha256("\n".join(f"{one.name} {one.mark}" for one in files[1:]).encode())
        digest.update(file.mark.encode())
        return Seen(digest.hexdigest(), {one.name: _stamp(one) for one in files})

    def exists(self, place: str) -> bool:
        return name_of(place) in self._in(parent(place)) if is_url(place) else Path(place).exists()

    def mark(self, place: str) -> str:
        """What the store tells of a file; empty when there is none."""
        file = self._in(parent(place)).get(name_of(place))
        return "" if file is None else file.mark

    def _in(self, folder: str) -> dict[str, RemoteFile]:
        if folder not in self._folders:
            self._folders[folder] = list_folder(folder)
        return self._folders[folder]

    def _external(self, folder: str, model: str) -> Iterator[str]:
        """What is taken for a model's external data: files that begin as its name does, or all when it is alone."""
        if folder not in self._weights:
            self._weights[folder] = sorted(name for name in self._in(folder) if not name.endswith(_NO_WEIGHTS))
        names = self._weights[folder]
        if sum(name.endswith(".onnx") for name in self._in(folder)) == 1:
            yield from names
            return
        stem = PurePosixPath(model).stem
        for name in names[bisect.bisect_left(names, stem) :]:
            if not name.startswith(stem):
                return
            yield name


def result_of(entry: BatchEntry) -> Seen | None:
    """The files by URL of a result that has just been written; None when there is none."""
    if entry.output is None or entry.result_sha256 is None:
        return None
    file = file_at(entry.output)
    if file is not None and file.bytes == entry.result_bytes:
        return Seen(entry.result_sha256, {file.name: _stamp(file)})
    return replace(Places().look(entry.output), sha256=entry.result_sha256)  # there is external data


def _stamp(file: RemoteFile | None) -> Stamp | None:
    """Size and mark, in the place of what a file system knows of a file."""
    return None if file is None else (file.bytes, int(file.mark[:15], 16), 0, 0)
