"""The same against a server that speaks S3, where one is installed: ``pip install 'moto[server]' s3fs``."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from onnxshrink.batch.job import Job, Settings
from onnxshrink.batch.local_copy import local_copy
from onnxshrink.batch.remote_files import download, exists, file_at, find_files, upload, write_text
from onnxshrink.errors import FileAccessError
from onnxshrink.report.json_format import from_json, to_json
from onnxshrink.shrink import compress

CNN = Path(__file__).resolve().parents[2] / "sample_models" / "digits_cnn"

pytestmark = pytest.mark.filterwarnings("default")  # those of the server and the driver are theirs


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": f"http://{host}:{port}"})
    fsspec.filesystem("s3").mkdir(name := f"models-{secrets.token_hex(4)}")
    yield f"s3://{name}"
    fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


def test_a_model_in_a_bucket_is_compressed_into_the_bucket(bucket: str, tmp_path: Path) -> None:
    for name in ("model.onnx", "eval.npz"):
        upload(CNN / name, f"{bucket}/in/{name}")
    upload(CNN / "model.onnx", f"{bucket}/in/copy.onnx")
    found = find_files(f"{bucket}/in")
    assert [one.name for one in found] == ["copy.onnx", "eval.npz", "model.onnx"]
    assert found[0].mark == found[2].mark != found[1].mark
    assert [one.name for one in find_files(f"{bucket}/**/*.onnx")] == ["in/copy.onnx", "in/model.onnx"]
    settings = Settings(data=f"{bucket}/in/eval.npz")
    job = Job(
        "a.onnx", f"{bucket}/in/model.onnx", f"{bucket}/out/a.onnx", f"{bucket}/out/a.report.json", "key", settings
    )
    with local_copy(job) as here:
        report = compress(here.source, here.output, data=here.settings.data, latency_seconds=0.1)
        Path(here.report).write_text(to_json(report), encoding="utf-8")
    assert [one.name for one in find_files(f"{bucket}/out")] == ["a.onnx", "a.report.json"]
    download(f"{bucket}/out/a.onnx", tmp_path / "remote.onnx")
    compress(CNN / "model.onnx", tmp_path / "a.onnx", data=CNN / "eval.npz", latency_seconds=0.1)
    assert (tmp_path / "remote.onnx").read_bytes() == (tmp_path / "a.onnx").read_bytes()
    download(f"{bucket}/out/a.report.json", tmp_path / "r.json")
    assert from_json((tmp_path / "r.json").read_text(encoding="utf-8")).original.path == f"{bucket}/in/model.onnx"


def test_a_file_that_is_written_again_is_noticed(bucket: str) -> None:
    write_text(f"{bucket}/a", "one")
    first = file_at(f"{bucket}/a")
    write_text(f"{bucket}/a", "two")
    second = file_at(f"{bucket}/a")
    assert first is not None
    assert second is not None
    assert first.mark != second.mark
    assert not exists(f"{bucket}/b")
    with pytest.raises(FileAccessError, match="s3://none/"):
        write_text("s3://none/a", "no such bucket")
