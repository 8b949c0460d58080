"""Which models a batch is about: files, folders, globs and manifests, and what the results are called."""

from __future__ import annotations

import glob
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from onnxshrink.batch.job import Settings
from onnxshrink.batch.manifest import MANIFESTS, read_manifest
from onnxshrink.batch.remote_files import find_files, is_url, name_of
from onnxshrink.errors import FileAccessError

SUFFIX = ".onnx"
"""Of the files that count as models in folders and globs; a file that is named itself may be called as it likes."""


RESERVED = ("ledger.jsonl", "summary.json", "summary.md", "summary.csv", "summary.html")
"""What the batch itself writes."""

_OUTSIDE = re.compile(r"(^|/)\.\.?(/|$)|^/|^$|\\|\0")
"""Paths that may not lie below the folder that they are put to."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model that is to be compressed.

    Attributes:
        source: its path.
        name: of the result: its path below the output folder, with forward slashes.
        settings: how.
    """

    source: str
    name: str
    settings: Settings

    @property
    def report(self) -> str:
        """Name of its report."""
        return report_name(self.name)


def report_name(name: str) -> str:
    """The report lies beside the result."""
    return f"{name.removesuffix(SUFFIX)}.report.json"


def find_models(inputs: Sequence[str], output: str | Path, settings: Settings) -> list[Wanted]:
    """Every model once, in the order of the inputs, folders sorted.

    Args:
        inputs: files, folders, globs and manifests; all but manifests by path or by URL.
        output: the folder of the results, which is not looked into.
        settings: what holds for all models, unless their manifest says otherwise.

    Raises:
        FileAccessError: an input is not there, or holds no models; or two results would have one name.
        OnnxShrinkError: a manifest is wrong.
    """
    found = [wanted for text in inputs for wanted in _of_input(text, str(output), settings)]
    distinct = {(os.path.abspath(wanted.source), wanted.name, wanted.settings): wanted for wanted in reversed(found)}
    models = list(reversed(distinct.values()))
    _refuse_clashes(models)
    return models


def _of_input(text: str, results: str, settings: Settings) -> Iterable[Wanted]:
    path, output = Path(text), Path(results)
    if is_url(text):
        found = [Wanted(url, name, settings) for url, name in _remote(text, results)]
    elif path.is_dir():
        found = [Wanted(str(file), name, settings) for file, name in _below(path, output)]
    elif path.suffix in MANIFESTS and path.is_file():
        return [
            Wanted(one.path, one.output or Path(one.path).name, one.settings) for one in read_manifest(path, settings)
        ]
    elif not path.exists() and glob.has_magic(text):
        found = [Wanted(str(file), name, settings) for file, name in _matching(text, output)]
    elif path.exists() or path.is_symlink():
        return [Wanted(text, path.name, settings)]
    else:
        raise FileAccessError(f"{text} does not exist")
    if not found:
        raise FileAccessError(f"{text}: no {SUFFIX} files")
    return found


def _remote(url: str, results: str) -> Iterator[tuple[str, str]]:
    """The model of a URL, or those in a folder or that match a pattern, and their names. Hidden ones are left out."""
    found = find_files(url)
    single = len(found) == 1 and found[0].name == name_of(url)
    for file in found:
        hidden = any(part.startswith(".") for part in PurePosixPath(file.name).parts)
        inside = is_url(results) and file.url.startswith(f"{results.rstrip('/')}/")
        if single or (file.name.endswith(SUFFIX) and not hidden and not inside):
            yield file.url, file.name


def _below(folder: Path, output: Path) -> Iterator[tuple[Path, str]]:
    """The models in a folder and its subfolders, and their names. Hidden ones and linked subfolders are left out."""
    results = output.resolve()
    for place, subfolders, files in os.walk(folder, onerror=_refuse):
        here = Path(place)
        if here.resolve() == results:
            subfolders.clear()
            continue
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(files):
            if name.endswith(SUFFIX) and not name.startswith("."):
                file = here / name
                yield file, file.relative_to(folder).as_posix()


def _refuse(error: OSError) -> None:
    raise FileAccessError(f"cannot read the folder {error.filename}: {error.strerror}") from error


def _matching(pattern: str, output: Path) -> Iterator[tuple[Path, str]]:
    """The models that match a pattern, or lie in folders that do; names keep what follows the pattern's fixed part."""
    parts = Path(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed])
    results = output.resolve()
    for text in sorted(glob.glob(pattern, recursive=True)):
        found = Path(text)
        if found.is_dir():
            if not pattern.endswith("**"):  # that one gives what is in the folder, too
                yield from ((file, file.relative_to(root).as_posix()) for file, _ in _below(found, output))
        elif found.name.endswith(SUFFIX) and results not in found.resolve().parents:
            yield found, found.relative_to(root).as_posix()


def folded(name: str) -> str:
    """A name as file systems compare it that take upper and lower case, or forms of accents, for the same."""
    return unicodedata.normalize("NFC", name).casefold()


def _refuse_clashes(models: Sequence[Wanted]) -> None:
    """Every result and every report needs a name of its own, and a folder cannot be a file."""
    taken: dict[str, Wanted] = {}
    for wanted in models:
        if _OUTSIDE.search(wanted.name) or wanted.name in RESERVED:
            raise FileAccessError(f"{wanted.source}: the result cannot be called '{wanted.name}' in the output folder")
        for name in (wanted.name, wanted.report):
            first = taken.setdefault(folded(name), wanted)
            if first is not wanted:
                raise FileAccessError(
                    f"{first.source} and {wanted.source} would both be written to {name}: give the folder above them, "
                    "quote the glob, or set 'output' in a manifest"
                )
    for wanted in models:
        for parent in PurePosixPath(wanted.name).parents:
            file = taken.get(folded(str(parent)))
            if file is not None:
                raise FileAccessError(
                    f"{file.source} would be written to {parent}, which is a folder for the result of {wanted.source}"
                )
