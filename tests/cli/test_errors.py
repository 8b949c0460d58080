"""Every failure a user can cause: one line, the documented exit code, the destination untouched, no stray files."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from tests.cli.conftest import SAMPLES, Run

MLP = SAMPLES / "cancer_mlp" / "model.onnx"
Process = Callable[..., subprocess.CompletedProcess[str]]


def _single_line(text: str) -> str:
    assert text.startswith("onnxshrink: error: ")
    assert text.count("\n") == 1
    return text


def _model(folder: Path, text: str, name: str = "bad.onnx") -> Path:
    path = folder / name
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return path


def _unknown_operator(folder: Path) -> Path:
    return _model(folder, '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Frob(x) }')


def _custom_operator(folder: Path) -> Path:
    text = '<ir_version: 8, opset_import: ["": 17, "my.ops": 1]> g (float[2] x) => (float[2] y) { y = my.ops.Frob(x) }'
    return _model(folder, text)


def _contradiction(folder: Path) -> Path:
    text = (
        '<ir_version: 8, opset_import: ["": 17]> g (float[2,3] x, float[4,5] z) => (float[2,5] y) { y = MatMul(x, z) }'
    )
    return _model(folder, text)


def _text_file(folder: Path) -> Path:
    path = folder / "text.onnx"
    path.write_text("this is not a model\n")
    return path


@pytest.mark.parametrize("command", ["compress", "inspect"])
@pytest.mark.parametrize(
    ("model", "code", "message"),
    [
        (lambda folder: folder / "missing.onnx", 6, "does not exist"),
        (lambda folder: folder, 6, "is a folder"),
        (_text_file, 3, "is not an ONNX file"),
    ],
)
def test_bad_files(
    command: str, model: Callable[[Path], Path], code: int, message: str, run_failing: Run, tmp_path: Path
) -> None:
    output = ("-o", tmp_path / "out.onnx") if command == "compress" else ()
    result = run_failing(command, model(tmp_path), *output)
    assert result.code == code
    assert message in _single_line(result.err)


@pytest.mark.parametrize(
    ("make", "code", "message"),
    [
        (_unknown_operator, 3, "bad.onnx: onnxruntime cannot load the model"),
        (_custom_operator, 3, "--custom-op-lib gives the library with the operators of my.ops"),
        (_contradiction, 3, "bad.onnx: onnxruntime cannot load the model"),
    ],
)
def test_models_that_onnxruntime_refuses(
    make: Callable[[Path], Path], code: int, message: str, run_failing: Run, tmp_path: Path
) -> None:
    result = run_failing("compress", make(tmp_path), "-o", tmp_path / "out.onnx")
    assert result.code == code
    assert message in _single_line(result.err)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("fold-batchnrom", "did you mean 'fold-batchnorm'?"),
        ("prune-weights{sparcity=0.5}", "did you mean 'sparsity'?"),
        ("prune-weights{sparsity=1.5}", "sparsity"),
        ("prune-weights{sparsity=much}", "sparsity must be number, got 'much'"),
        ("missing.toml", "cannot read the recipe missing.toml"),
    ],
)
def test_bad_recipes(recipe: str, message: str, run_failing: Run, tmp_path: Path) -> None:
    result = run_failing("compress", MLP, "-o", tmp_path / "out.onnx", "--recipe", recipe)
    assert result.code == (6 if recipe.endswith(".toml") else 2)
    assert message in _single_line(result.err)


def test_an_unknown_preset_names_the_nearest(run_failing: Run, tmp_path: Path) -> None:
    result = run_failing("compress", MLP, "-o", tmp_path / "out.onnx", "--preset", "lossles")
    assert result.code == 2
    assert "did you mean 'lossless'?" in _single_line(result.err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say where the result goes"),
        (("-o", "x.onnx", "--preset", "safe", "--recipe", "drop-unused"), "exclude each other"),
        (("-o", "x.onnx", "--report", "r.pdf"), "must end in .json or .md"),
        (("-o", "x.onnx", "--threads", "-1"), "--threads"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], message: str, run_failing: Run) -> None:
    result = run_failing("compress", MLP, *arguments)
    assert result.code == 2
    assert message in _single_line(result.err)
    assert "(see onnxshrink compress --help)" in result.err


def test_an_existing_output_is_kept_without_force(run_failing: Run, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    output.write_bytes(b"precious")
    result = run_failing("compress", MLP, "-o", output)
    assert result.code == 6
    assert "exists: use --force" in _single_line(result.err)


def test_an_existing_report_is_kept_without_force(run_failing: Run, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    report.write_text("precious")
    result = run_failing("compress", MLP, "-o", tmp_path / "out.onnx", "--report", report)
    assert result.code == 6


def test_the_input_is_replaced_only_in_place(run_failing: Run, run_ok: Run, tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(MLP.read_bytes())
    result = run_failing("compress", model, "-o", model, "--force")
    assert "is the input: use --in-place" in _single_line(result.err)
    run_ok("compress", model, "--in-place", "--no-measure", "-q")
    assert model.stat().st_size < MLP.stat().st_size
    assert list(tmp_path.iterdir()) == [model]


def test_a_missing_custom_operator_library(run_failing: Run, tmp_path: Path) -> None:
    result = run_failing("compress", MLP, "-o", tmp_path / "o.onnx", "--custom-op-lib", tmp_path / "no.so")
    assert result.code == 6
    assert "no.so does not exist" in _single_line(result.err)


def test_a_missing_output_folder(run_failing: Run, tmp_path: Path) -> None:
    result = run_failing("compress", MLP, "-o", tmp_path / "no" / "out.onnx")
    assert result.code == 6
    assert "does not exist: create it first" in _single_line(result.err)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to read-only folders")
def test_a_read_only_output_folder(run_failing: Run, tmp_path: Path) -> None:
    folder = tmp_path / "ro"
    folder.mkdir(mode=0o555)
    result = run_failing("compress", MLP, "-o", folder / "out.onnx")
    assert result.code == 6
    assert "is read-only" in _single_line(result.err)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"wrong": np.zeros((4, 30), np.float32)}, "no array for the input 'input'"),
        ({"input": np.zeros((4, 31), np.float32)}, "'input' has shape (4, 31)"),
        ({"input": np.full((4, 30), np.nan, np.float32)}, "contains NaN"),
    ],
)
def test_data_that_does_not_fit(arrays: dict[str, np.ndarray], message: str, run_failing: Run, tmp_path: Path) -> None:
    data = tmp_path / "d.npz"
    np.savez(data, **arrays)  # type: ignore[arg-type]
    result = run_failing("compress", MLP, "-o", tmp_path / "out.onnx", "--data", data)
    assert result.code == 4
    assert message in _single_line(result.err)


def test_a_full_disk_leaves_the_old_output(run_process: Process, tmp_path: Path) -> None:
    """A limit on the size of written files acts like a full disk: the write of the model fails half way."""
    output = tmp_path / "out.onnx"
    output.write_bytes(b"precious")
    model = SAMPLES / "digits_cnn" / "model.onnx"

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    result = run_process("compress", model, "-o", output, "--force", "--no-measure", preexec_fn=limit)
    assert result.returncode == 6
    assert f"cannot write {output}: File too large" in _single_line(result.stderr)
    assert output.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_in_the_middle_leaves_nothing_behind(sent: signal.Signals, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    output.write_bytes(b"precious")
    arguments = ["compress", SAMPLES / "digits_vit" / "model.onnx", "-o", output, "--force", "--latency-seconds", 60]
    process = subprocess.Popen(
        [sys.executable, "-m", "onnxshrink", *map(str, arguments)], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:  # the staged result appears
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(sent)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; nothing was written" in _single_line(error.lstrip("\n"))
    assert output.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [output]


def test_debug_shows_where_it_happened(run_process: Process, tmp_path: Path) -> None:
    result = run_process("compress", tmp_path / "missing.onnx", "-o", tmp_path / "o.onnx", "--debug")
    assert result.returncode != 0
    assert "Traceback" in result.stderr
    assert "FileAccessError" in result.stderr


def test_an_internal_error_is_one_line_too(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("onnxshrink.shrink.compress", broken)
    result = run("compress", MLP, "-o", tmp_path / "out.onnx")
    assert result.code == 70
    assert "internal error: ZeroDivisionError: a defect" in _single_line(result.err)
