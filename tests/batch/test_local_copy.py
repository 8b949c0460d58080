"""A job whose files are elsewhere is done as one whose files are here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import onnx
import pytest

from onnxshrink.batch.job import Job, Settings
from onnxshrink.batch.local_copy import local_copy
from onnxshrink.batch.remote_files import download, find_files, upload, write_text
from onnxshrink.errors import FileAccessError, ModelError
from onnxshrink.report.json_format import from_json, to_json
from onnxshrink.report.report import Report
from onnxshrink.shrink import compress

CNN = Path(__file__).resolve().parents[2] / "sample_models" / "digits_cnn"
ROOT = "memory://bucket"


@pytest.fixture(autouse=True)
def _empty_store() -> Iterator[None]:
    yield
    fsspec.filesystem("memory").store.clear()


def job(**fields: object) -> Job:
    settings = Settings(preset="safe", data=f"{ROOT}/data/eval.npz", latency_seconds=0.1)
    places = (f"{ROOT}/models/a.onnx", f"{ROOT}/out/sub/a.onnx", f"{ROOT}/out/sub/a.report.json")
    return replace(Job("sub/a.onnx", *places, "key", settings), **fields)  # type: ignore[arg-type]


def store_model(tmp_path: Path, *, external: bool) -> Path:
    """The sample model, and its data, here and in the store."""
    here = tmp_path / "a.onnx"
    onnx.save_model(onnx.load(CNN / "model.onnx"), here, save_as_external_data=external, location="weights.bin")
    for file in tmp_path.iterdir():
        upload(file, f"{ROOT}/models/{file.name}")
    upload(CNN / "eval.npz", f"{ROOT}/data/eval.npz")
    return here


def done(one: Job) -> Report:
    """What a worker does between fetching and storing."""
    steps: list[str] = []
    with local_copy(one, steps.append) as here:
        report = compress(
            here.source, here.output, data=here.settings.data, measure=here.settings.measure, latency_seconds=0.1
        )
        Path(here.report).write_text(to_json(report), encoding="utf-8")
    assert steps == ["fetching", "storing the result"]
    return report


@pytest.mark.parametrize("external", [False, True])
def test_the_result_is_that_of_local_files_and_the_report_knows_no_other_place(external: bool, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    source = store_model(tmp_path / "here", external=external)
    compress(source, tmp_path / "local.onnx", data=CNN / "eval.npz", latency_seconds=0.1)
    done(job())
    assert [one.name for one in find_files(f"{ROOT}/out")] == ["sub/a.onnx", "sub/a.report.json"]
    download(f"{ROOT}/out/sub/a.onnx", tmp_path / "remote.onnx")
    assert (tmp_path / "remote.onnx").read_bytes() == (tmp_path / "local.onnx").read_bytes()
    download(f"{ROOT}/out/sub/a.report.json", tmp_path / "r.json")
    report = from_json((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert report.original.path == f"{ROOT}/models/a.onnx"
    assert report.result.path == f"{ROOT}/out/sub/a.onnx"
    assert "/tmp" not in (tmp_path / "r.json").read_text(encoding="utf-8")
    assert report.data is not None
    assert report.data.description == f"{ROOT}/data/eval.npz"
    assert report.accuracy is not None
    assert report.accuracy.samples == 450


def test_results_with_external_data_arrive_with_it(tmp_path: Path) -> None:
    store_model(tmp_path, external=False)
    one = job()
    with local_copy(one) as here:
        compress(here.source, here.output, external_data=True, measure=False)
        Path(here.report).write_text("{}", encoding="utf-8")
    found = find_files(f"{ROOT}/out/sub")
    assert len(found) == 3
    for file in found:
        download(file.url, tmp_path / "back" / file.name)
    onnx.checker.check_model(str(tmp_path / "back" / "a.onnx"))


def test_nothing_is_stored_when_the_work_fails(tmp_path: Path) -> None:
    store_model(tmp_path, external=False)

    def half_done() -> None:
        with local_copy(job()) as here:
            Path(here.output).write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half_done()
    assert find_files(f"{ROOT}/out") == []


def test_errors_name_the_places_that_the_user_knows(tmp_path: Path) -> None:
    write_text(f"{ROOT}/models/a.onnx", "garbage")
    upload(CNN / "eval.npz", f"{ROOT}/data/eval.npz")

    def compressed() -> None:
        with local_copy(job()) as here:
            compress(here.source, here.output)

    with pytest.raises(ModelError, match=rf"^{ROOT}/models/a\.onnx is not an ONNX file"):
        compressed()


def test_a_result_that_is_there_is_replaced_by_force_only(tmp_path: Path) -> None:
    store_model(tmp_path, external=False)
    write_text(f"{ROOT}/out/sub/a.onnx", "mine")
    with pytest.raises(FileAccessError, match=r"a\.onnx exists: use --force to replace it"), local_copy(job()):
        pass
    with local_copy(job(force=True)) as here:
        Path(here.output).write_bytes(b"new")
        Path(here.report).write_text(json.dumps({}), encoding="utf-8")
    download(f"{ROOT}/out/sub/a.onnx", tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == b"new"


def test_missing_models_and_data_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileAccessError, match=r"memory://bucket/data/eval\.npz does not exist"), local_copy(job()):
        pass
    store_model(tmp_path, external=True)
    fsspec.filesystem("memory").rm_file("/bucket/models/weights.bin")
    with pytest.raises(FileAccessError, match=r"models/weights\.bin does not exist"), local_copy(job()):
        pass


def test_a_damaged_model_is_left_to_whoever_compresses_it(tmp_path: Path) -> None:
    write_text(f"{ROOT}/models/a.onnx", "garbage")
    places = str(tmp_path / "out.onnx"), str(tmp_path / "out.json")
    with local_copy(job(settings=Settings(), output=places[0], report=places[1])) as here:
        assert Path(here.source).read_text(encoding="utf-8") == "garbage"
        assert (here.output, here.report) == places
        Path(here.report).write_text("{}", encoding="utf-8")


def test_a_job_without_urls_stays_as_it_is() -> None:
    one = Job("a.onnx", "a.onnx", "out/a.onnx", "out/a.json", "key", Settings(data="eval.npz"))
    with local_copy(one) as here:
        assert here is one
