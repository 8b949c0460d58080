"""``onnxshrink batch``: what it prints, its exit codes, and how it is stopped."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onnxshrink.report.batch import Batch
from onnxshrink.report.json_format import read_document
from tests.batch.models import tiny_model
from tests.cli.conftest import SAMPLES, Run

ROOT = SAMPLES.parent


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for index, name in enumerate(("a.onnx", "sub/b.onnx")):
        tiny_model(tmp_path / "in" / name, index + 1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_models_are_compressed_and_listed(run_ok: Run, models: Path) -> None:
    run_ok("batch", "in", "-o", "out", "--no-latency")
    batch = read_document((models / "out/summary.json").read_text())
    assert [(entry.name, entry.status) for entry in batch.entries] == [
        ("a.onnx", "compressed"),
        ("sub/b.onnx", "compressed"),
    ]
    for entry in batch.entries:
        assert (models / entry.output).stat().st_size == entry.result_bytes
        assert read_document((models / entry.report).read_text()).result.sha256 == entry.result_sha256
        assert entry.latency_ratio is None
        assert entry.relative_error is not None


def test_json_is_the_summary_alone(run_ok: Run, models: Path) -> None:
    result = run_ok("batch", "in", "-o", "out", "--no-measure", "--json")
    found = read_document(result.out)
    assert isinstance(found, Batch)
    assert found.entries == read_document((models / "out/summary.json").read_text()).entries
    assert result.err == ""


def test_quiet_prints_nothing(run_ok: Run, models: Path) -> None:
    result = run_ok("batch", "in", "-o", "out", "--no-measure", "-q")
    assert (result.out, result.err) == ("", "")


def test_a_failure_is_worse_than_a_failed_gate(run: Run, models: Path) -> None:
    gate = ("--no-measure", "-q", "--gate", "size<=1%")
    result = run("batch", "in", "-o", "out", *gate, "--gate-report", "gates.xml")
    assert result.code == 1
    assert result.err.count("gate failed: size<=1%") == 2
    assert "sub/b.onnx" in (models / "gates.xml").read_text()
    (models / "in/bad.onnx").write_bytes(b"garbage")
    assert run("batch", "in", "-o", "out", *gate).code == 7
    failed = [entry for entry in read_document((models / "out/summary.json").read_text()).entries if not entry.output]
    assert [(entry.name, entry.exit_code) for entry in failed] == [("bad.onnx", 3)]
    assert "is not an ONNX file" in failed[0].reason


def test_a_dry_run_shows_what_would_be_done(run: Run, models: Path) -> None:
    (models / "in/bad.onnx").write_bytes(b"garbage")
    run("batch", "in", "-o", "out", "--no-measure", "-q")
    (models / "in/copy.onnx").write_bytes((models / "in/a.onnx").read_bytes())
    tiny_model(models / "in/new.onnx", 3)
    before = sorted((models / "out").rglob("*"))
    text = run("batch", "in", "-o", "out", "--no-measure", "--dry-run").out
    lines = {line.split(" → ")[0]: line for line in text.splitlines()}
    assert "done: in/a.onnx" in lines
    assert "failed before: in/bad.onnx" in lines
    assert "copy of a.onnx: in/copy.onnx" in lines
    assert "compress: in/new.onnx → new.onnx, 1.11 kB → about 346 B" in text
    assert "5 models: 1 to compress, 1 to copy, 2 done, 1 failed before" in text
    document = json.loads(run("batch", "in", "-o", "out", "--no-measure", "--dry-run", "--json").out)
    assert [model["act"] for model in document["models"]] == ["done", "failed before", "copy", "compress", "done"]
    assert sorted((models / "out").rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--preset", "safe"), 346),
        (("--recipe", "quantize-float16"), 602),
        (("--recipe", "drop-unused"), 1114),
        (("--recipe", "choose-bits{bits=4},pack-weights"), 218),
        (("--preset", "int8"), 346),
        (("--preset", "small"), None),
        (("--recipe", "prune-weights"), None),
    ],
)
def test_what_is_expected_of_a_recipe(
    options: tuple[str, ...], expected: int | None, run_ok: Run, models: Path
) -> None:
    document = json.loads(run_ok("batch", "in/a.onnx", "-o", "out", *options, "--dry-run", "--json").out)
    (model,) = document["models"]
    assert model["bytes"] == (models / "in/a.onnx").stat().st_size
    assert model["result_bytes"] == expected


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("in",), 2, "Missing option '-o'"),
        (("in", "-o", "out", "--preset", "safe", "--recipe", "drop-unused"), 2, "exclude each other"),
        (("in", "-o", "out", "--memory", "100"), 2, "--memory"),
        (("in", "-o", "out", "--data", "nowhere.npz"), 6, "the data file nowhere.npz does not exist"),
        (("in", "-o", "out", "--gate", "latency<=1", "--no-latency"), 2, "takes a clock"),
        (("nowhere", "-o", "out"), 6, "nowhere does not exist"),
        (("in/a.onnx", "in/./sub/../a.onnx", "in/sub", "-o", "in"), 6, "would be replaced by its own result"),
    ],
)
def test_what_is_refused_before_anything_starts(
    arguments: tuple[str, ...], code: int, message: str, run_failing: Run, models: Path
) -> None:
    result = run_failing("batch", *arguments)
    assert result.code == code
    assert message in result.err
    assert result.err.count("\n") == 1


def process(*arguments: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "onnxshrink", "batch", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload,no-any-return]


def test_a_full_disk_costs_the_models_that_do_not_fit(models: Path) -> None:
    (models / "in/large.onnx").write_bytes((SAMPLES / "digits_mlp/model.onnx").read_bytes())
    limit = 50_000  # bytes that a file may have: what is left of the disk
    running = process(
        *("in", "-o", "out", "--no-measure", "--jobs", "1"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    running.communicate()
    assert running.returncode == 7
    entries = {entry.name: entry for entry in read_document((models / "out/summary.json").read_text()).entries}
    assert entries["large.onnx"].status == "failed"
    assert entries["large.onnx"].exit_code == 6
    assert "cannot write" in entries["large.onnx"].reason
    assert {entries[name].status for name in ("a.onnx", "sub/b.onnx")} == {"compressed"}
    assert not (models / "out/large.onnx").exists()
    assert [path.name for path in (models / "out").rglob(".*")] == [".onnxshrink.lock"]


def test_the_cluster_decides_how_many_models_it_works_on(models: Path, run: Run) -> None:
    result = run("batch", "in", "-o", "out", "--scheduler", "tcp://host:8786", "--jobs", "2")
    assert result.code == 2
    assert "--jobs is for this machine" in result.err
    assert not (models / "out").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_cleanly_and_the_same_command_goes_on(
    number: signal.Signals, code: int, models: Path, run: Run
) -> None:
    (models / "m.jsonl").write_text(
        '{"path": "in/a.onnx"}\n{"path": "in/sub/b.onnx", "data": "tests.batch.models:hang"}\n'
    )
    options = ("m.jsonl", "-o", "out", "--no-measure", "--jobs", "1")
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    running = process(*options, env=environment)
    ledger = models / "out/ledger.jsonl"
    while not ledger.exists() or '"entry"' not in ledger.read_text():
        assert running.poll() is None
        time.sleep(0.02)
    while '"started":"b.onnx"' not in ledger.read_text():
        time.sleep(0.02)
    running.send_signal(number)
    _, told = running.communicate()
    assert running.returncode == code
    assert "onnxshrink: stopped; " in told
    assert [entry.name for entry in read_document((models / "out/summary.json").read_text()).entries] == ["a.onnx"]
    assert [path.name for path in (models / "out").rglob(".*")] == [".onnxshrink.lock"]
    (models / "m.jsonl").write_text('{"path": "in/a.onnx"}\n{"path": "in/sub/b.onnx"}\n')
    assert run(*("batch", *options)).code == 0
    assert ledger.read_text().count('"entry":{"name":"a.onnx"') == 1
