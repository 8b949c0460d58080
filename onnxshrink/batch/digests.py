"""Digests of models and of data: what decides whether a result is still the one that was asked for.

A model is read in full, with its external data, unless size, times and inode of all its files are those of the last
time. Data is read in full up to a limit, above which names, sizes and times stand for it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import mmap
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onnxshrink.batch.remote_files import is_url
from onnxshrink.errors import OnnxShrinkError

MOST_DATA_BYTES = 2**30
"""Data of more bytes is not read: that would cost more than it says."""

ABSENT = "absent"
"""The digest of a model that cannot be read."""

Stamp = tuple[int, int, int, int]
"""Size in bytes, time of modification and of change in ns, inode: whoever writes to a file changes one of them."""

_CHUNK_BYTES = 2**20
_RACY_NS = 2 * 10**9
"""A file changed this shortly before it was read may change again with the same stamp: clocks of file systems tick."""

_LOCATION = re.compile(rb"\n\x08location\x12")
"""How the entry begins, in a serialized tensor, that names a file of external data: key "location", value."""

_LONGEST_NAME = 4096

_MODULE = re.compile(r"([A-Za-z_][\w.]*):[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Seen:
    """A model as it was when its digest was taken.

    Attributes:
        sha256: of the model file and its external data, as :func:`onnxshrink.graph.load.file_digest` takes it.
        files: stamps by name, relative to the model's folder; None for files that are missing.
        bytes: size of all files.
        external: whether there is external data.
    """

    sha256: str
    files: Mapping[str, Stamp | None] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(stamp[0] for stamp in self.files.values() if stamp is not None)

    @property
    def external(self) -> bool:
        return len(self.files) > 1


def look_at(path: Path, last: Seen | None = None) -> Seen:
    """The digest of a model; ``last`` is trusted when nothing was written to its files since."""
    if last is not None and _is_as_it_was(path.parent, last):
        return last
    try:
        started = time.time_ns()
        stamp = stamp_of(path)
        if stamp is None:
            return Seen(ABSENT)
        digest = hashlib.sha256()
        names = _read_model(path, digest)
        files: dict[str, Stamp | None] = {path.name: _trusted(stamp, started)}
        for name in names:
            found = stamp_of(path.parent / name)
            files[name] = None if found is None else _trusted(found, started)
            if found is None:
                digest.update(b"missing")
            else:
                _update(digest, path.parent / name)
    except OSError:
        return Seen(ABSENT)
    return Seen(digest.hexdigest(), files)


def stamp_of(path: Path) -> Stamp | None:
    """None when there is no such file, or something else of that name."""
    try:
        status = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def external_files(content: bytes | mmap.mmap) -> list[str]:
    """Names of the files of external data in a serialized model, sorted, without parsing what may be gigabytes.

    A text that happens to look like such a name does no harm: the file counts as a part of the model if it is there.
    """
    names = set()
    for match in _LOCATION.finditer(content):
        length, start = _varint(content, match.end())
        name = bytes(content[start : start + min(length, _LONGEST_NAME)]).decode(errors="replace")
        if 0 < length <= _LONGEST_NAME and _stays_inside(name):
            names.add(name)
    return sorted(names)


class DataDigests:
    """Digests of data, each taken once."""

    def __init__(self) -> None:
        self._taken: dict[tuple[str | None, str | None], str] = {}

    def of(self, data: str | None, config: str | None = None) -> str:
        """The digest of what ``--data`` and ``--data-config`` name; empty without data."""
        if data is None:
            return ""
        if (data, config) not in self._taken:
            self._taken[data, config] = _digest_of_parts(_data_parts(data, config))
        return self._taken[data, config]

    def of_file(self, path: str) -> str:
        """The digest of a file that is data to nobody: a library, the module of a metric."""
        if (None, path) not in self._taken:
            self._taken[None, path] = _digest_of_parts(_file_parts(Path(path)))
        return self._taken[None, path]


def module_file(text: str) -> Path | None:
    """The file of the module that ``package.module:function`` names, found without importing the module itself."""
    match = _MODULE.fullmatch(text)
    if match is None:
        return None
    beside = Path(*match.group(1).split(".")).with_suffix(".py")  # modules in the current folder are found
    if beside.is_file():
        return beside
    try:
        found = importlib.util.find_spec(match.group(1))
    except (ImportError, AttributeError, ValueError):
        return None
    return None if found is None or found.origin is None else Path(found.origin)


def _data_parts(data: str, config: str | None) -> Iterator[str]:
    urls = [place for place in (data, config) if place is not None and is_url(place)]
    if urls:
        from onnxshrink.batch.remote_data import Data

        yield from (Data.at(url).digest for url in urls)
    if not is_url(data):
        yield from _local_data_parts(data, config if config is None or not is_url(config) else None)
    elif config is not None and not is_url(config):
        yield from _file_parts(Path(config))


def _local_data_parts(data: str, config: str | None) -> Iterator[str]:
    path = Path(data)
    module = None if path.exists() else module_file(data)
    if module is not None:
        yield data  # one of the functions in it
    yield from _file_parts(path if module is None else module)
    for extra in _config_files(path, config):
        yield from _file_parts(extra)


def _config_files(data: Path, config: str | None) -> Iterator[Path]:
    """The config of the data, and the files that it names."""
    from onnxshrink.data.config import FILE_NAME, find_config, read_config

    try:
        said = find_config(data) if config is None else read_config(Path(config))
    except (OnnxShrinkError, OSError):  # the run will say what is wrong with it
        beside = (data / FILE_NAME, data.with_suffix(".toml"), data.parent / FILE_NAME)
        yield from (path for path in ((Path(config),) if config is not None else beside) if path.is_file())
        return
    named = (Path(said.origin), said.labels_file, said.tokenizer)
    yield from (path for path in named if path is not None and path.is_file())


def _file_parts(path: Path) -> Iterator[str]:
    """What a file or a folder holds, by name."""
    if not path.is_dir():
        yield from _one_file(path, path.name, read=_size(path) <= MOST_DATA_BYTES)
        return
    files = sorted(file for file in path.rglob("*") if file.is_file())
    read = sum(map(_size, files)) <= MOST_DATA_BYTES
    for file in files:
        yield from _one_file(file, file.relative_to(path).as_posix(), read=read)


def _one_file(path: Path, name: str, *, read: bool) -> Iterator[str]:
    stamp = stamp_of(path)
    if stamp is None:
        yield f"{name} {ABSENT}"
    elif read:
        digest = hashlib.sha256()
        _update(digest, path)
        yield f"{name} {digest.hexdigest()}"
    else:
        yield f"{name} {stamp[0]} {stamp[1]}"


def _size(path: Path) -> int:
    stamp = stamp_of(path)
    return 0 if stamp is None else stamp[0]


def _digest_of_parts(parts: Iterator[str]) -> str:
    digest = hashlib.sha256()
    try:
        for part in parts:
            digest.update(f"{part}\n".encode(errors="surrogateescape"))
    except OSError:
        digest.update(ABSENT.encode())  # the run will say why it cannot be read
    return digest.hexdigest()


def _is_as_it_was(folder: Path, last: Seen) -> bool:
    return bool(last.files) and all(stamp_of(folder / name) == stamp for name, stamp in last.files.items())


def _trusted(stamp: Stamp, started_ns: int) -> Stamp:
    """The stamp, or one that no file has: changed so shortly before, the file may change again and keep its stamp."""
    return stamp if started_ns - stamp[2] > _RACY_NS else (stamp[0], stamp[1], 0, stamp[3])


def _read_model(path: Path, digest: hashlib._Hash) -> list[str]:
    """Feed the file to the digest; the names of its external data."""
    with path.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size <= _CHUNK_BYTES:
            content = stream.read()
            digest.update(content)
            names = external_files(content)
        else:
            _update(digest, path)
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                names = external_files(mapped)
    return [name for name in names if name != path.name]


def _update(digest: hashlib._Hash, path: Path) -> None:
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)


def _varint(content: bytes | mmap.mmap, position: int) -> tuple[int, int]:
    """A protobuf integer, and the position behind it; 0 where there is none."""
    value = 0
    for shift in range(0, 35, 7):
        if position >= len(content):
            return 0, position
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    return 0, position


def _stays_inside(name: str) -> bool:
    parts = Path(name).parts
    return bool(parts) and not Path(name).is_absolute() and ".." not in parts and "\0" not in name
