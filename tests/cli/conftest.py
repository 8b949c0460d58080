"""Three ways to run the command line: in process, in process with an expected failure, and as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from onnxshrink.cli.main import main

SAMPLES = Path(__file__).resolve().parents[2] / "sample_models"


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run in this process and return the exit code and both streams."""

    def call(*arguments: object) -> Result:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def run_ok(run: Run) -> Run:
    """Run and expect success."""

    def call(*arguments: object) -> Result:
        result = run(*arguments)
        assert result.code == 0, result.err
        return result

    return call


@pytest.fixture
def run_failing(run: Run, tmp_path: Path) -> Run:
    """Run and expect an error: one line, no traceback, and no file written, changed or left behind in ``tmp_path``."""

    def call(*arguments: object) -> Result:
        before = _snapshot(tmp_path)
        result = run(*arguments)
        assert result.code != 0
        assert "Traceback" not in result.err
        assert result.out == ""
        assert _snapshot(tmp_path) == before
        return result

    return call


@pytest.fixture
def run_process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``python -m onnxshrink`` as users do."""

    def call(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "onnxshrink", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)  # type: ignore[call-overload,no-any-return]

    return call


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
