"""A job whose files are elsewhere, done here: models and data are fetched, results are put in their place."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxshrink.atomic_files import write_text_atomically
from onnxshrink.batch.job import Job, Settings
from onnxshrink.batch.remote_data import fetch_data
from onnxshrink.batch.remote_files import download, exists, is_url, join, name_of, parent, stays_below, upload
from onnxshrink.errors import FileAccessError, OnnxShrinkError

_BESIDE_MODEL = ("tokenizer.json",)
"""What texts are read with, when it lies beside the model."""


@contextmanager
def local_copy(job: Job, progress: Callable[[str], None] = lambda _: None) -> Iterator[Job]:
    """The job with local paths. When the block ends without an error, results go where the job says.

    The report is put in its place last: where it is, so is the result.

    Raises:
        FileAccessError: a file cannot be read or written, or the result is there already and may not be replaced.
    """
    if not any(map(is_url, _places(job))):
        yield job
        return
    if is_url(job.output) and not job.force and exists(job.output):
        raise FileAccessError(f"{job.output} exists: use --force to replace it")
    with tempfile.TemporaryDirectory(prefix="onnxshrink-") as text:
        folder = _Folder(Path(text))
        progress("fetching")
        settings = _settings_here(job.settings)
        source = job.source
        if is_url(source):
            source = str(folder.fetch_model(source, beside=settings.data or settings.calibration_data))
        here = replace(
            job, source=source, output=folder.result(job.output), report=folder.result(job.report), settings=settings
        )
        known = _Known.by(job, here)
        try:
            yield here
        except OnnxShrinkError as error:
            raise type(error)(known.told(str(error))) from error
        progress("storing the result")
        folder.deliver(job, here, known)


def _places(job: Job) -> tuple[str, ...]:
    settings = job.settings
    data = (settings.data, settings.data_config, settings.calibration_data)
    return (job.source, job.output, job.report, *(place for place in data if place))


@dataclass(frozen=True)
class _Folder:
    """The temporary folder of one job: the model in one subfolder, what is made of it in another."""

    path: Path

    def fetch_model(self, url: str, *, beside: str | None) -> Path:
        """The model with its external data, and what texts are read with when there is data."""
        place = self.path / "source" / name_of(url)
        download(url, place)
        for name in _external_names(place):
            download(join(parent(url), name), place.parent / name)
        for name in _BESIDE_MODEL if beside else ():
            if exists(join(parent(url), name)):
                download(join(parent(url), name), place.parent / name)
        return place

    def result(self, place: str) -> str:
        """Where a result is written on this machine."""
        if not is_url(place):
            return place
        here = self.path / "result" / name_of(place)
        here.parent.mkdir(exist_ok=True)
        return str(here)

    def deliver(self, job: Job, here: Job, known: _Known) -> None:
        """Put what was written for URLs in its place: external data, then the model, then the report."""
        report = Path(here.report)
        write_text_atomically(report, known.told(report.read_text(encoding="utf-8")))
        if is_url(job.output):
            output = Path(here.output)
            for file in sorted(output.parent.iterdir()):
                if file not in (output, report):
                    upload(file, join(parent(job.output), file.name))
            upload(output, job.output)
        if is_url(job.report):
            upload(report, job.report)


@dataclass(frozen=True)
class _Known:
    """Folders of this machine, and the URLs under which the user knows them."""

    folders: tuple[tuple[str, str], ...]

    @classmethod
    def by(cls, job: Job, here: Job) -> _Known:
        pairs = zip(_places(job), _places(here), strict=True)
        return cls(tuple((f"{Path(local).parent}/", f"{parent(url)}/") for url, local in pairs if is_url(url)))

    def told(self, text: str) -> str:
        """A text with the places that the user knows."""
        for local, url in self.folders:
            text = text.replace(local, url)
        return text


def _external_names(model: Path) -> list[str]:
    """Names of the external data files that a model names and that may lie beside it; none of what is no model."""
    import onnx
    from google.protobuf.message import DecodeError
    from onnx.external_data_helper import _get_all_tensors, uses_external_data

    try:
        proto = onnx.load(model, format="protobuf", load_external_data=False)
    except DecodeError:
        return []  # compressing it says what is wrong
    found = {
        entry.value
        for tensor in _get_all_tensors(proto)
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return sorted(filter(stays_below, found))


def _settings_here(settings: Settings) -> Settings:
    for name in ("data", "data_config", "calibration_data"):
        place = getattr(settings, name)
        if place is not None and is_url(place):
            here: dict[str, Any] = {name: str(fetch_data(place))}
            settings = replace(settings, **here)
    return settings
