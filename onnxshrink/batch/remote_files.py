"""Files by URL, through fsspec: ``s3://``, ``gs://``, ``file://``, ``memory://`` and whatever else it has a driver for.

A file that is written appears under its name whole or not at all: object stores do that by themselves, elsewhere it is
written under another name beside it and renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from onnxshrink.errors import FileAccessError, OnnxShrinkError, first_line

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

_WHOLE_AT_ONCE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl")
"""Stores in which an object is there when its last byte is, and not before."""

_OF_CONTENT = ("md5Hash", "content_md5", "Content-MD5")
_OF_VERSION = ("etag", "mtime", "LastModified", "last_modified", "updated", "created")
"""What stores tell of an object: a digest of its bytes, or what differs when it was written again, the best first."""

_MAGIC = re.compile(r"[*?\[]")

_MD5_ETAG = re.compile(r'"?([0-9a-f]{32}(-\d+)?)"?')


def is_url(text: str) -> bool:
    """Whether this names a file by URL; a single letter is a drive of Windows."""
    return _URL.match(text) is not None


def join(folder: str, name: str) -> str:
    """The URL of a file below a folder."""
    return f"{folder.rstrip('/')}/{name}"


def parent(url: str) -> str:
    """The URL of the folder that a file is in."""
    return url.rpartition("/")[0]


def name_of(url: str) -> str:
    return url.rstrip("/").rpartition("/")[2]


def stays_below(name: str) -> bool:
    """Whether a relative name leads to a file below the folder that it is relative to."""
    return bool(name) and not name.startswith("/") and ".." not in PurePosixPath(name).parts


@dataclass(frozen=True)
class RemoteFile:
    """One file.

    Attributes:
        url: with its protocol.
        name: below the folder that was listed, with forward slashes.
        mark: changes when the file is written again, and is the same for equal files where the store tells so.
    """

    url: str
    name: str
    bytes: int
    mark: str


def find_files(url: str) -> list[RemoteFile]:
    """A file, or the files below a folder or those that match a glob, by name; empty when there are none.

    Names in a folder are relative to it, and those of a glob to the folder in front of its first pattern.

    Raises:
        FileAccessError: it cannot be listed.
    """
    files, path = filesystem(url)
    pattern = _MAGIC.search(url)
    with _told("list", url):
        files.invalidate_cache()
        if pattern is not None:
            found = files.glob(path, detail=True)
            for folder in [one for one, info in found.items() if info["type"] == "directory"]:
                found |= files.find(folder, detail=True)
            root = parent(url[: pattern.start()])
        else:
            found = files.find(path, detail=True)
            root = url.rstrip("/") if files.isdir(path) else parent(url)
    place = filesystem(root)[1]
    named = {PurePosixPath(one).relative_to(place).as_posix(): info for one, info in found.items()}
    return [
        _remote_file(join(root, name), name, info)
        for name, info in sorted(named.items())
        if info["type"] != "directory"
    ]


def list_folder(url: str) -> dict[str, RemoteFile]:
    """The files in a folder, not those in its subfolders, by name; empty when there is no such folder."""
    files, path = filesystem(url)
    with _told("list", url):
        files.invalidate_cache()
        try:
            found = files.ls(path, detail=True)
        except FileNotFoundError:
            return {}
    return {
        name: _remote_file(join(url, name), name, info)
        for name, info in ((name_of(info["name"]), info) for info in found)
        if info["type"] != "directory"
    }


def exists(url: str) -> bool:
    """Whether there is a file of this URL."""
    files, path = filesystem(url)
    with _told("look for", url):
        files.invalidate_cache()
        return bool(files.isfile(path))


def file_at(url: str) -> RemoteFile | None:
    """What is known of one file; None when there is none."""
    files, path = filesystem(url)
    with _told("look for", url):
        files.invalidate_cache()
        try:
            info = files.info(path)
        except FileNotFoundError:
            return None
    return None if info["type"] == "directory" else _remote_file(url, name_of(url), info)


def download(url: str, destination: Path) -> None:
    """Copy a file to this machine.

    Raises:
        FileAccessError: it is not there, or cannot be read.
    """
    files, path = filesystem(url)
    with _told("read", url):
        destination.parent.mkdir(parents=True, exist_ok=True)
        files.get_file(path, str(destination))


def upload(source: Path, url: str) -> None:
    """Copy a file from this machine, so that the URL never shows half of it.

    Raises:
        FileAccessError: it cannot be written.
    """
    files, path = filesystem(url)
    with _told("write", url):
        if set(_protocols(files)) & set(_WHOLE_AT_ONCE):
            files.put_file(str(source), path)
            return
        with _renamed(files, path) as temporary:
            files.put_file(str(source), temporary)


def copy(source: str, destination: str) -> None:
    """Copy a file within a store, whole or not at all.

    Raises:
        FileAccessError: it cannot be read or written.
    """
    files, path = filesystem(source)
    _, target = filesystem(destination)
    with _told("write", destination):
        if set(_protocols(files)) & set(_WHOLE_AT_ONCE):
            files.cp_file(path, target)
            return
        with _renamed(files, target) as temporary:
            files.cp_file(path, temporary)


def write_text(url: str, text: str) -> None:
    """Write a text file by URL, whole or not at all."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="onnxshrink-") as folder:
        local = Path(folder, "text")
        local.write_text(text, encoding="utf-8")
        upload(local, url)


def remove(url: str) -> None:
    """Remove a file, if it is there."""
    files, path = filesystem(url)
    with _told("remove", url), contextlib.suppress(FileNotFoundError):
        files.rm_file(path)


def filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, and the path in it.

    Raises:
        OnnxShrinkError: fsspec, or its driver for this protocol, is not installed.
        FileAccessError: no such protocol, or it cannot be reached.
    """
    try:
        import fsspec
    except ImportError as error:
        raise OnnxShrinkError(f"{url}: URLs need fsspec: pip install 'onnxshrink[remote]'") from error
    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise OnnxShrinkError(f"{url}: this protocol needs another package: {first_line(error)}") from error
    except Exception as error:  # drivers raise what their libraries raise
        raise FileAccessError(f"cannot open {url}: {first_line(error)}") from error
    return files, path


def _protocols(files: AbstractFileSystem) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


@contextmanager
def _renamed(files: AbstractFileSystem, path: str) -> Iterator[str]:
    """Another name in the same folder, which is changed to ``path`` when the block ends without an error.

    What was left under such a name by a process that was killed is removed.
    """
    folder, _, name = path.rpartition("/")
    left_over = re.compile(re.escape(f"{folder}/.{name}.") + "[0-9a-f]{8}")
    temporary = f"{folder}/.{name}.{secrets.token_hex(4)}"
    try:
        files.makedirs(folder, exist_ok=True)
        for one in files.ls(folder, detail=False):
            if left_over.fullmatch(one):
                files.rm_file(one)
        yield temporary
        files.mv(temporary, path)
    except BaseException:  # also on Ctrl-C
        with contextlib.suppress(Exception):
            files.rm_file(temporary)
        raise


@contextmanager
def _told(what: str, url: str) -> Iterator[None]:
    """Turns what a driver raises, of which there is no list, into one line."""
    try:
        yield
    except OnnxShrinkError:
        raise
    except FileNotFoundError as error:
        raise FileAccessError(f"{url} does not exist") from error
    except Exception as error:  # drivers raise what their libraries raise
        raise FileAccessError(f"cannot {what} {url}: {type(error).__name__}: {first_line(error)}") from error


def _remote_file(url: str, name: str, info: Mapping[str, Any]) -> RemoteFile:
    return RemoteFile(url, name, int(info["size"] or 0), _mark(info, url))


def _mark(info: Mapping[str, Any], url: str) -> str:
    """A digest of what the store tells; of the URL, too, where equal files need not have equal marks."""
    known = {key.lower(): value for key, value in info.items() if value is not None}
    size = info.get("size")
    for key in _OF_CONTENT:
        if key.lower() in known:
            return _digest(size, known[key.lower()])
    etag = _MD5_ETAG.fullmatch(str(known.get("etag", "")))
    if etag is not None:
        return _digest(size, etag[1])
    version = next((known[key.lower()] for key in _OF_VERSION if key.lower() in known), "")
    return _digest(size, url, version.timestamp() if isinstance(version, datetime) else version)


def _digest(*facts: object) -> str:
    return hashlib.sha256("\n".join(map(str, facts)).encode()).hexdigest()
