"""Whole batches from and to a store, their jobs done in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from onnxshrink.batch.inputs import find_models
from onnxshrink.batch.job import Job, Settings
from onnxshrink.batch.manifest import read_manifest
from onnxshrink.batch.places import Places
from onnxshrink.batch.remote_files import download, find_files, remove, upload, write_text
from onnxshrink.batch.run import plan_batch, run_batch
from onnxshrink.batch.work import compress_job
from onnxshrink.cli.main import main
from onnxshrink.errors import FileAccessError
from onnxshrink.report.batch import Batch, BatchEntry
from onnxshrink.shrink import compress
from tests.batch.models import QUICK, tiny_model

ROOT = "memory://store"


@pytest.fixture(autouse=True)
def _empty_store() -> Iterator[None]:
    yield
    fsspec.filesystem("memory").store.clear()


class InProcess:
    """A scheduler whose worker is the process that asks."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def run(self, jobs: Iterable[Job]) -> Iterator[BatchEntry]:
        for job in jobs:
            self.names.append(job.name)
            yield compress_job(job, lambda _: None, nullcontext)


def store_models(folder: Path, *names: str) -> None:
    """Different models of these names; one called ``external`` comes with external data."""
    for place, name in enumerate(names, 1):
        here = folder / "in" / name
        tiny_model(here, place, external=f"{here.name}.data" if "external" in name else None)
        for file in here.parent.glob(f"{here.name}*"):
            upload(file, f"{ROOT}/in/{file.relative_to(folder / 'in').as_posix()}")


def run(folder: Path, settings: Settings = QUICK, **options: bool) -> tuple[list[str], Batch]:
    scheduler = InProcess()
    ledger = folder / "ledger"
    batch = run_batch([f"{ROOT}/in"], f"{ROOT}/out", settings, scheduler=scheduler, ledger=ledger, **options)
    return scheduler.names, batch


NAMES = ["a.onnx", "sub/external.onnx"]


def test_a_folder_of_a_store_is_compressed_into_another_one(tmp_path: Path) -> None:
    store_models(tmp_path, *NAMES)
    write_text(f"{ROOT}/in/.hidden.onnx", "not looked at")
    write_text(f"{ROOT}/in/broken.onnx", "garbage")
    names, batch = run(tmp_path)
    assert names == [entry.name for entry in batch.entries] == ["a.onnx", "broken.onnx", "sub/external.onnx"]
    assert batch.entries[1].reason.startswith(f"{ROOT}/in/broken.onnx is not an ONNX file")
    assert [one.name for one in find_files(f"{ROOT}/out")] == [
        "a.onnx",
        "a.report.json",
        "sub/external.onnx",
        "sub/external.report.json",
    ]
    for place, name in enumerate(NAMES):
        compress(tmp_path / "in" / name, tmp_path / f"{place}.onnx", measure=False)
        download(f"{ROOT}/out/{name}", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == (tmp_path / f"{place}.onnx").read_bytes()
    assert (batch.entries[0].source, batch.entries[0].output) == (f"{ROOT}/in/a.onnx", f"{ROOT}/out/a.onnx")


def test_only_what_has_changed_is_done_again(tmp_path: Path) -> None:
    store_models(tmp_path, *NAMES, "b.onnx")
    assert len(run(tmp_path)[0]) == 3
    names, batch = run(tmp_path)
    assert names == []
    assert batch.resumed == 3
    upload(tmp_path / "in" / "a.onnx", f"{ROOT}/in/b.onnx")
    assert run(tmp_path)[0] == ["b.onnx"]
    upload(tmp_path / "in" / "sub" / "external.onnx.data", f"{ROOT}/in/sub/external.onnx.data")
    assert run(tmp_path)[0] == ["sub/external.onnx"]
    remove(f"{ROOT}/out/a.onnx")
    assert run(tmp_path)[0] == ["a.onnx"]
    write_text(f"{ROOT}/out/b.onnx", "somebody else's")
    assert run(tmp_path)[0] == ["b.onnx"]
    assert len(run(tmp_path, replace(QUICK, preset="lossless"))[0]) == 3


def test_data_by_url_is_part_of_what_decides(tmp_path: Path) -> None:
    store_models(tmp_path, "a.onnx")
    write_text(f"{ROOT}/data/x.csv", "x\n1\n")
    settings = replace(QUICK, data=f"{ROOT}/data/x.csv")
    keys = []
    for text in ("x\n1\n", "x\n2\n"):
        write_text(f"{ROOT}/data/x.csv", text)
        plan = plan_batch([f"{ROOT}/in"], f"{ROOT}/out", settings, ledger=tmp_path / "ledger")
        keys.append(plan.models[0].job.key)
    assert keys[0] != keys[1]
    plan = plan_batch([f"{ROOT}/in"], f"{ROOT}/out", settings, ledger=tmp_path / "ledger")
    assert plan.models[0].job.key == keys[1]


def test_files_that_no_batch_has_made_are_not_replaced(tmp_path: Path) -> None:
    store_models(tmp_path, "a.onnx")
    write_text(f"{ROOT}/out/a.onnx", "mine")
    with pytest.raises(FileAccessError, match=r"out/a\.onnx exists and was not made by this batch"):
        run(tmp_path)
    assert run(tmp_path, force=True)[0] == ["a.onnx"]
    with pytest.raises(FileAccessError, match="would be replaced by its own result"):
        run_batch([f"{ROOT}/in/a.onnx"], f"{ROOT}/in", QUICK, ledger=tmp_path / "other", force=True)


def test_equal_models_are_copied_within_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As stores have it that tell digests of what they keep."""
    monkeypatch.setattr(
        "onnxshrink.batch.remote_files._mark",
        lambda info, url: fsspec.filesystem("memory").cat_file(url)[-40:].hex() + "0",
    )
    store_models(tmp_path, "a.onnx")
    upload(tmp_path / "in" / "a.onnx", f"{ROOT}/in/sub/b.onnx")
    names, batch = run(tmp_path)
    assert names == ["a.onnx"]
    assert [entry.status for entry in batch.entries] == ["compressed", "copied"]
    files = fsspec.filesystem("memory")
    assert files.cat_file("/store/out/a.onnx") == files.cat_file("/store/out/sub/b.onnx")
    assert run(tmp_path)[0] == []


def test_results_by_url_need_a_ledger_on_this_machine(tmp_path: Path) -> None:
    store_models(tmp_path, "a.onnx")
    with pytest.raises(FileAccessError, match="say with --ledger in which folder of this machine the ledger is kept"):
        run_batch([f"{ROOT}/in"], f"{ROOT}/out", QUICK)


def test_patterns_single_models_and_manifests_name_models_by_url(tmp_path: Path) -> None:
    store_models(tmp_path, *NAMES)

    def found(text: str, output: str = "out") -> list[tuple[str, str]]:
        return [(one.source, one.name) for one in find_models([text], output, QUICK)]

    assert found(f"{ROOT}/in/**/*.onnx") == [
        (f"{ROOT}/in/a.onnx", "a.onnx"),
        (f"{ROOT}/in/sub/external.onnx", "sub/external.onnx"),
    ]
    assert found(f"{ROOT}/in/sub/external.onnx") == [(f"{ROOT}/in/sub/external.onnx", "external.onnx")]
    assert found(ROOT, f"{ROOT}/in/sub") == [(f"{ROOT}/in/a.onnx", "in/a.onnx")], "results are not looked into"
    with pytest.raises(FileAccessError, match=r"memory://store/none: no \.onnx files"):
        found(f"{ROOT}/none")
    manifest = tmp_path / "m.toml"
    manifest.write_text(f'[[model]]\npath = "{ROOT}/in/a.onnx"\ndata = "{ROOT}/x.npz"\n', encoding="utf-8")
    (listed,) = read_manifest(manifest, QUICK)
    assert (listed.path, listed.settings.data) == (f"{ROOT}/in/a.onnx", f"{ROOT}/x.npz")


def test_the_only_model_of_a_folder_has_all_other_files_for_its_weights() -> None:
    write_text(f"{ROOT}/one/model.onnx", "")
    write_text(f"{ROOT}/one/weights.bin", "1")
    write_text(f"{ROOT}/one/notes.md", "no weights")
    seen = Places().look(f"{ROOT}/one/model.onnx")
    assert list(seen.files) == ["model.onnx", "weights.bin"]
    assert Places().look(f"{ROOT}/one/model.onnx", seen) is seen
    write_text(f"{ROOT}/one/weights.bin", "2")
    assert Places().look(f"{ROOT}/one/model.onnx", seen).sha256 != seen.sha256
    write_text(f"{ROOT}/one/other.onnx", "")
    assert list(Places().look(f"{ROOT}/one/model.onnx").files) == ["model.onnx"]


def test_the_command_takes_urls_and_stores_the_summaries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_model(tmp_path / "in" / "a.onnx")
    root = tmp_path.as_uri()
    arguments = ["batch", f"{root}/in", "-o", f"{root}/out", "--no-measure", "-q"]
    assert main(arguments) == 6
    assert "say with --ledger" in capsys.readouterr().err
    assert main([*arguments, "--ledger", str(tmp_path / "ledger")]) == 0
    stored = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert stored == ["a.onnx", "a.report.json", *(f"summary.{end}" for end in ("csv", "html", "json", "md"))]
    assert 'href="a.report.json"' in (tmp_path / "out" / "summary.html").read_text(encoding="utf-8")
    assert (tmp_path / "ledger" / "ledger.jsonl").exists()
