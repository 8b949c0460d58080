"""Arrays in ``.npy`` and ``.npz`` files, of which only the rows in use are in memory.

A ``.npy`` file, and an ``.npz`` member that is stored as it is, are read at their offsets. A compressed member is
decompressed as a stream: rows in order cost one decompression, rows further back start it again.
"""

from __future__ import annotations

import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from onnxshrink.data.samples import Rows
from onnxshrink.errors import DataError, FileAccessError, first_line

_DAMAGED = "file: it is damaged or incomplete"

_LOCAL_HEADER = 30
"""Bytes of a zip member's local header; behind them stand its name and its extra field, then the data."""


def open_npz(path: Path) -> dict[str, Rows]:
    """The arrays of an ``.npz`` file by name.

    Raises:
        FileAccessError: the file cannot be read.
        DataError: it is no .npz archive, or an array is damaged, or holds Python objects.
    """
    with _readable(path, ".npz archive: make one with numpy.savez"):
        if path.is_file() and not zipfile.is_zipfile(path):
            raise DataError(f"{path} is not an .npz archive: make one with numpy.savez")
        archive = zipfile.ZipFile(path)
        members = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
        if not members:
            raise DataError(f"{path} is not an .npz archive: it holds no arrays")
        return {entry.filename.removesuffix(".npy"): _member(path, archive, entry) for entry in members}


def open_npy(path: Path) -> Rows:
    """The array of a ``.npy`` file; see :func:`open_npz`."""
    with _readable(path, ".npy file: make one with numpy.save"), path.open("rb") as stream:
        header = _Header(stream, str(path))
        if header.in_memory:
            return header.load(stream)
        return _FileRows(path, stream.tell(), header)


class _Header:
    """What stands before the elements of an array: their type and shape."""

    def __init__(self, stream: IO[bytes], origin: str) -> None:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self.shape, self._fortran, self.dtype = read(stream)
        if self.dtype.hasobject:
            raise DataError(f"{origin} holds Python objects, which are not read from files: they could run code")
        self.row_shape = self.shape[1:]
        self.row_bytes = int(np.prod(self.row_shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def in_memory(self) -> bool:
        """Whether rows do not lie one behind the other, so that the whole array has to be read."""
        return not self.shape or (self._fortran and len(self.shape) > 1)

    def load(self, stream: IO[bytes]) -> np.ndarray:
        array = np.empty(self.shape, self.dtype, order="F" if self._fortran else "C")
        _fill(stream, array.T if self._fortran else array)
        return array


class _StoredRows:
    """Rows of an array in a file."""

    def __init__(self, header: _Header) -> None:
        self._header = header
        self._lock = threading.Lock()
        self.shape: tuple[int, ...] = header.shape
        self.dtype: np.dtype[Any] = header.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = rows.indices(len(self))
        assert step == 1
        array = np.empty((max(stop - start, 0), *self._header.row_shape), self.dtype)
        if array.nbytes:
            with self._lock:
                self._read(start * self._header.row_bytes, array)
        return array

    def _read(self, offset: int, array: np.ndarray) -> None:
        raise NotImplementedError


class _FileRows(_StoredRows):
    """Rows that lie in a file as they are, from ``offset`` on."""

    def __init__(self, path: Path, offset: int, header: _Header) -> None:
        super().__init__(header)
        self._path, self._offset = path, offset

    def _read(self, offset: int, array: np.ndarray) -> None:
        with _readable(self._path, _DAMAGED), self._path.open("rb") as stream:
            stream.seek(self._offset + offset)
            _fill(stream, array)


class _CompressedRows(_StoredRows):
    """Rows of a compressed member of an archive."""

    def __init__(self, path: Path, stream: IO[bytes], header: _Header) -> None:
        super().__init__(header)
        self._path, self._stream, self._offset = path, stream, stream.tell()

    def _read(self, offset: int, array: np.ndarray) -> None:
        with _readable(self._path, _DAMAGED):
            self._stream.seek(self._offset + offset)
            _fill(self._stream, array)


def _member(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Rows:
    stream = archive.open(entry)
    header = _Header(stream, f"{path}: the array '{entry.filename.removesuffix('.npy')}'")
    if header.in_memory:
        return header.load(stream)
    if entry.compress_type != zipfile.ZIP_STORED:
        return _CompressedRows(path, stream, header)
    return _FileRows(path, _data_offset(path, entry) + stream.tell(), header)


def _data_offset(path: Path, entry: zipfile.ZipInfo) -> int:
    with path.open("rb") as stream:
        stream.seek(entry.header_offset)
        name, extra = struct.unpack("<HH", stream.read(_LOCAL_HEADER)[26:])
    return entry.header_offset + _LOCAL_HEADER + int(name) + int(extra)


def _fill(stream: IO[bytes], array: np.ndarray) -> None:
    """Read the elements of a contiguous array."""
    if not array.nbytes:
        return
    waiting = memoryview(array.reshape(-1).view(np.uint8).data)
    while waiting:
        part = stream.read(min(len(waiting), 1 << 20))
        if not part:
            raise EOFError
        waiting[: len(part)] = part
        waiting = waiting[len(part) :]


@contextmanager
def _readable(path: Path, what: str) -> Iterator[None]:
    """Errors of reading ``path`` as what the user can understand; ``what``: the file is not readable as this."""
    try:
        yield
    except FileNotFoundError:
        raise FileAccessError(f"the data file {path} does not exist") from None
    except OSError as error:
        raise FileAccessError(f"cannot read the data file {path}: {error.strerror or first_line(error)}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError) as error:
        raise DataError(f"{path} is not a readable {what}") from error
