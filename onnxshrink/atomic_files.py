"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from onnxshrink.errors import FileAccessError


def check_destination(destination: Path, *, force: bool) -> None:
    """Refuse a destination that cannot be written, before any work is done for it.

    Raises:
        FileAccessError: a folder, an existing file without ``force``, or a parent folder that is missing or read-only.
    """
    if destination.is_dir():
        raise FileAccessError(f"{destination} is a folder: give the name of the .onnx file to write")
    if not destination.parent.is_dir():
        raise FileAccessError(f"the output folder {destination.parent} does not exist: create it first")
    if destination.exists() and not force:
        raise FileAccessError(f"{destination} exists: use --force to replace it")
    if not os.access(destination.parent, os.W_OK):
        raise FileAccessError(f"the output folder {destination.parent} is read-only")


def write_text_atomically(path: Path, text: str | Iterable[str]) -> None:
    """Write a text file so that its name never shows half of it; FileAccessError when it cannot be written.

    ``text``: all of it, or its parts in order, so that it need not be in memory as a whole.
    """
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.writelines([text] if isinstance(text, str) else text)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, _file_mode())
            os.replace(temporary, path)
        except BaseException:  # also on Ctrl-C
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise FileAccessError(f"cannot write {path}: {error.strerror}") from error


def _file_mode() -> int:
    """The mode a newly created file gets: temporary files are private otherwise."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def flush_to_disk(path: Path) -> None:
    """Wait until the file, or the entries of the folder, are on disk."""
    with contextlib.suppress(PermissionError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
