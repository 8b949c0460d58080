"""Data by URL, fetched once for all jobs of this process, with the files that say how it is read."""

from __future__ import annotations

import hashlib
import tempfile
import threading
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from onnxshrink.batch.remote_files import (
    RemoteFile,
    download,
    exists,
    file_at,
    find_files,
    join,
    name_of,
    parent,
    stays_below,
)
from onnxshrink.errors import FileAccessError

_NAMED_IN_CONFIG = ("labels-file", "tokenizer")
"""Files that a data config names, relative to where it is."""


def fetch_data(url: str) -> Path:
    """Where a file or folder is on this machine, with what lies beside it to say how it is read.

    Raises:
        FileAccessError: there is no such thing, or it cannot be read.
    """
    return _KEPT.fetch(Data.at(url))


@dataclass(frozen=True)
class Data:
    """What is known of a file or folder.

    Attributes:
        files: by their place below the folder that it is fetched to.
    """

    url: str
    files: Mapping[str, RemoteFile]

    @classmethod
    def at(cls, url: str) -> Data:
        """Look at it without reading it.

        Raises:
            FileAccessError: there is no such thing, or it cannot be listed.
        """
        url = url.rstrip("/")
        name, file = name_of(url), file_at(url)
        files = {name: file} if file else {f"{name}/{one.name}": one for one in find_files(url)}
        if not files:
            raise FileAccessError(f"{url} does not exist")
        for config in dict.fromkeys(("data.toml", f"{PurePosixPath(name).stem}.toml")):
            found = None if config == name else file_at(join(parent(url), config))
            if found is not None:
                files[config] = found
        return cls(url, files)

    @property
    def digest(self) -> str:
        """Changes when any of the files is written again."""
        facts = [self.url, *(f"{place} {file.mark}" for place, file in sorted(self.files.items()))]
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()


@dataclass
class _KeptData:
    """What was fetched. It is removed with the process."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _folder: tempfile.TemporaryDirectory[str] | None = None
    _kept: dict[str, Path] = field(default_factory=dict)

    def fetch(self, data: Data) -> Path:
        digest = data.digest
        with self._lock:
            if digest not in self._kept:
                self._folder = self._folder or tempfile.TemporaryDirectory(prefix="onnxshrink-data-")
                folder = Path(self._folder.name, digest)
                for place, file in data.files.items():
                    download(file.url, folder / place)
                for place in [place for place in data.files if place.endswith(".toml")]:
                    _fetch_named(folder / place, parent(data.files[place].url))
                self._kept[digest] = folder / name_of(data.url)
        return self._kept[digest]


_KEPT = _KeptData()


def _fetch_named(config: Path, url: str) -> None:
    """What a config names."""
    for name in _named_in(config):
        if not (config.parent / name).exists() and exists(join(url, name)):
            download(join(url, name), config.parent / name)


def _named_in(config: Path) -> Iterator[str]:
    try:
        said = tomllib.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # whoever reads the data says what is wrong with it
        return
    for key in _NAMED_IN_CONFIG:
        name = said.get(key)
        if isinstance(name, str) and stays_below(name):
            yield name
