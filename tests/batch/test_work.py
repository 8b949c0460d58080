"""One job: its entry says what the report says, and what goes wrong becomes a reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from onnxshrink.batch import work
from onnxshrink.batch.digests import look_at
from onnxshrink.batch.job import Job, Settings
from onnxshrink.batch.work import compress_job
from onnxshrink.errors import FileAccessError
from onnxshrink.report.batch import BatchEntry
from onnxshrink.report.json_format import from_json
from tests.batch.models import QUICK, job_for, tiny_model
from tests.cli.conftest import SAMPLES

MLP = SAMPLES / "cancer_mlp"


def do(job: Job) -> BatchEntry:
    return compress_job(job, lambda _: None, nullcontext)


def test_the_entry_has_the_figures_of_the_report(tmp_path: Path) -> None:
    settings = Settings(preset="safe", data=str(MLP / "eval.npz"), latency_seconds=0.1, gates=("size<=50%", "size<=1%"))
    entry = do(job_for(MLP / "model.onnx", tmp_path / "deep/a.onnx", settings=settings))
    report = from_json((tmp_path / "deep/a.report.json").read_text())
    assert report.latency is not None
    assert report.accuracy is not None
    assert report.agreement is not None
    assert report.data is not None
    assert entry.status == "compressed"
    assert (entry.original_bytes, entry.result_bytes) == (26393, (tmp_path / "deep/a.onnx").stat().st_size)
    assert entry.latency_ratio == report.latency.ratio
    assert (entry.metric, entry.metric_result) == ("top-1", report.accuracy.result)
    assert entry.metric_significant == report.accuracy.significant
    assert entry.relative_error == report.agreement.relative_error
    assert entry.data_digest == report.data.digest
    assert entry.result_sha256 == report.result.sha256
    assert [gate.status for gate in entry.gates] == ["passed", "failed"]
    assert entry.exit_code == 1
    assert entry.seconds > 0


def test_the_digest_of_an_entry_is_that_of_the_files(tmp_path: Path) -> None:
    for external in (False, True):
        settings = Settings(preset="lossless", measure=False, external_data=external)
        entry = do(job_for(SAMPLES / "digits_mlp/model.onnx", tmp_path / f"{external}.onnx", settings=settings))
        seen = look_at(Path(entry.output or ""))
        assert (seen.sha256, seen.bytes, seen.external) == (entry.result_sha256, entry.result_bytes, external)


def test_latency_alone_can_be_left_out(tmp_path: Path) -> None:
    settings = Settings(preset="safe", data=str(MLP / "eval.npz"), latency=False)
    entry = do(job_for(MLP / "model.onnx", tmp_path / "a.onnx", settings=settings))
    report = from_json((tmp_path / "a.report.json").read_text())
    assert (entry.latency_ratio, report.latency, report.original.load_ms, report.result.load_ms) == (None, None, (), ())
    assert entry.metric == "top-1"
    assert entry.result_gzip_bytes is not None


@pytest.mark.parametrize(
    ("settings", "code", "reason"),
    [
        (replace(QUICK, recipe="no-such-pass", preset=None), 2, "unknown pass 'no-such-pass'"),
        (replace(QUICK, data="nowhere.npz"), 6, "nowhere.npz does not exist"),
        (replace(QUICK, data="tests.batch.no_module:f"), 4, "cannot import 'tests.batch.no_module'"),
        (replace(QUICK, preset="int8", recipe=None, latency=False, measure=True), 0, ""),
        (Settings(preset="safe", data=str(MLP / "eval.npz")), 4, "model"),
    ],
)
def test_what_goes_wrong_is_a_reason(settings: Settings, code: int, reason: str, tmp_path: Path) -> None:
    entry = do(job_for(tiny_model(tmp_path / "m.onnx"), tmp_path / "a.onnx", settings=settings))
    assert entry.exit_code == code
    assert reason in entry.reason
    assert (entry.output is None) == (code != 0) == (not (tmp_path / "a.onnx").exists())


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (MemoryError(), 70, "not enough memory for this model"),
        (ZeroDivisionError("of a defect\nof two lines"), 70, "internal error: ZeroDivisionError: of a defect"),
        (SystemExit(3), 70, "internal error: SystemExit: 3"),
        (FileAccessError("two\nlines"), 6, "two lines"),
    ],
)
def test_what_nobody_expects_is_a_reason_too(
    error: BaseException, code: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(work, "compress", fail)
    entry = do(job_for(tmp_path / "m.onnx", tmp_path / "a.onnx"))
    assert (entry.status, entry.exit_code, entry.reason) == ("failed", code, reason)


def test_an_existing_file_is_replaced_only_when_the_job_says_so(tmp_path: Path) -> None:
    model, output = tiny_model(tmp_path / "m.onnx"), tmp_path / "a.onnx"
    output.write_text("mine")
    assert "exists: use --force" in do(job_for(model, output)).reason
    assert output.read_text() == "mine"
    assert do(job_for(model, output, force=True)).status == "compressed"


def test_without_its_report_there_is_no_result(tmp_path: Path) -> None:
    settings = replace(QUICK, external_data=True)
    job = replace(job_for(tiny_model(tmp_path / "m.onnx"), tmp_path / "out/a.onnx", settings=settings))
    entry = do(replace(job, report=str(tmp_path / "nowhere/a.report.json")))
    assert entry.exit_code == FileAccessError.exit_code
    assert "cannot write" in entry.reason
    assert list((tmp_path / "out").iterdir()) == []


def test_timing_happens_in_the_slot_and_waiting_for_it_is_not_time_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, inside, steps = [0.0], [], []
    monkeypatch.setattr(work.time, "perf_counter", lambda: now[0])

    @contextmanager
    def slot() -> Iterator[None]:
        now[0] += 1000.0  # it takes its time
        inside.append(steps[-1])
        yield
        now[0] += 1.0

    settings = Settings(preset="safe", latency_seconds=0.1)
    entry = compress_job(
        job_for(tiny_model(tmp_path / "m.onnx"), tmp_path / "a.onnx", settings=settings), steps.append, slot
    )
    assert entry.latency_ratio is not None
    assert inside == ["timing"]
    assert entry.seconds == 1.0
