"""What became of every model, on disk as soon as it is known: one JSON object a line, the last one of a name counts.

A line is a model that has been begun, or one that has ended::

    {"schema_version": 1, "started": "sub/a.onnx"}
    {"schema_version": 1, "entry": {...}, "source": {...}, "result": {...}}

``entry`` is a :class:`~onnxshrink.report.batch.BatchEntry`; ``source`` and ``result`` are the files as they were then,
so that nothing has to be read again that nobody has written to. What stands behind a line's end is on disk; a last line
that was cut short is dropped.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from onnxshrink.atomic_files import flush_to_disk
from onnxshrink.batch.digests import Seen
from onnxshrink.errors import FileAccessError, OnnxShrinkError
from onnxshrink.report.batch import BatchEntry
from onnxshrink.report.json_format import from_plain, to_plain

LEDGER = "ledger.jsonl"
LOCK = ".onnxshrink.lock"
SCHEMA_VERSION = 1

_TEMPORARY = "onnxshrink-batch-"


@dataclass(frozen=True, slots=True)
class Record:
    """What the ledger knows of a model.

    Attributes:
        entry: None when it was begun and did not end.
        source: the model as it was then; ``result``: what was made of it.
    """

    entry: BatchEntry | None
    source: Seen | None = None
    result: Seen | None = None


def read_ledger(folder: Path) -> tuple[dict[str, Record], int]:
    """The last record of every name, and the length of what is whole of the file; nothing when there is none.

    Raises:
        FileAccessError: it cannot be read.
        OnnxShrinkError: it was written by a newer onnxshrink.
    """
    path = folder / LEDGER
    records: dict[str, Record] = {}
    whole = 0
    try:
        with path.open("rb") as stream:
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                name, record = _read_line(line, path)
                if record is not None:
                    records[name] = record
    except FileNotFoundError:
        return {}, 0
    except OSError as error:
        raise FileAccessError(f"cannot read the ledger {path}: {error.strerror}") from error
    return records, whole


class Ledger:
    """The ledger of a folder, open for this process alone. A context manager.

    Attributes:
        records: what it held when it was opened, by name; whoever has read them may clear them.
        temporary: a folder for temporary files that is removed at the end, at the latest by whoever comes next.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder if need be, lock it, and read what is there.

        Raises:
            FileAccessError: it cannot be read or written, or another process is at work in it.
            OnnxShrinkError: see :func:`read_ledger`.
        """
        self._path = folder / LEDGER
        with ExitStack() as opened:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                lock = _lock(folder)
                opened.callback(os.close, lock)
                self.temporary = Path(opened.enter_context(_temporary_folder()))
                _note(lock, self.temporary)
                self.records, whole = read_ledger(folder)
                self._stream = opened.enter_context(self._path.open("ab", buffering=0))
                self._stream.truncate(whole)
                flush_to_disk(folder)
            except OSError as error:
                raise FileAccessError(f"cannot write to {folder}: {error.strerror}") from error
            self._opened = opened.pop_all()

    def begin(self, name: str) -> None:
        """Note that a result of this name may appear from now on."""
        self._write({"started": name})

    def add(self, entry: BatchEntry, source: Seen | None, result: Seen | None) -> None:
        """Note what became of a model; it is on disk when this returns.

        Raises:
            FileAccessError: it cannot be written.
        """
        files = {"source": source, "result": result}
        self._write({"entry": to_plain(entry)} | {key: to_plain(seen) for key, seen in files.items() if seen})
        try:
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise FileAccessError(f"cannot write the ledger {self._path}: {error.strerror}") from error

    def _write(self, line: Mapping[str, Any]) -> None:
        text = json.dumps({"schema_version": SCHEMA_VERSION, **line}, separators=(",", ":"), allow_nan=False) + "\n"
        end = self._stream.seek(0, os.SEEK_END)
        try:
            written = self._stream.write(text.encode())
            if written != len(text.encode()):
                raise OSError(0, "the disk is full")
        except OSError as error:
            with suppress(OSError):  # a line that is cut short is dropped by whoever reads it, too
                self._stream.truncate(end)
            raise FileAccessError(f"cannot write the ledger {self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Let others work in the folder."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read_line(line: bytes, path: Path) -> tuple[str, Record | None]:
    """A line's name and record; None for a line that is damaged, whose model is done again."""
    try:
        document = json.loads(line)
        if document["schema_version"] > SCHEMA_VERSION:
            raise OnnxShrinkError(f"{path} was written by a newer onnxshrink: upgrade, or choose another folder")
        if "started" in document:
            return str(document["started"]), Record(None)
        entry: BatchEntry = from_plain(BatchEntry, document["entry"])
        entry = replace(entry, recipe=sys.intern(entry.recipe))  # one text for all that have it
        return entry.name, Record(entry, _seen(document.get("source")), _seen(document.get("result")))
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", None


def _seen(data: Any) -> Seen | None:
    if data is None:
        return None
    files = {name: None if stamp is None else tuple(stamp) for name, stamp in data["files"].items()}
    return Seen(str(data["sha256"]), files)


def _lock(folder: Path) -> int:
    """Make sure that nobody else works in the folder, until this process ends; where that cannot be told, hope."""
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        import fcntl
    except ImportError:
        return lock
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _said(lock).get("pid", "unknown")
        os.close(lock)
        raise FileAccessError(
            f"another batch is writing to {folder} (process {holder}): wait until it ends, or choose another folder"
        ) from None
    except OSError:
        pass  # a file system that knows no locks
    _remove_temporary_files(_said(lock))
    return lock


def _said(lock: int) -> Mapping[str, Any]:
    """What the holder of the lock has written into it."""
    try:
        os.lseek(lock, 0, os.SEEK_SET)
        said = json.loads(os.read(lock, 4096) or b"{}")
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix=_TEMPORARY, ignore_cleanup_errors=True)


def _note(lock: int, temporary: Path) -> None:
    os.ftruncate(lock, 0)
    os.lseek(lock, 0, os.SEEK_SET)
    os.write(lock, json.dumps({"pid": os.getpid(), "temporary": str(temporary)}).encode())


def _remove_temporary_files(said: Mapping[str, Any]) -> None:
    """What a process that was killed could not remove."""
    folder = Path(str(said.get("temporary", "")))
    if folder.name.startswith(_TEMPORARY) and folder.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
