"""What the commands print and write."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from onnxshrink.cli.main import _COMMANDS
from onnxshrink.passes.registry import PASSES
from onnxshrink.presets import PRESETS
from onnxshrink.report.json_format import from_json
from tests.cli.conftest import SAMPLES, Run

CNN = SAMPLES / "digits_cnn"
ROOT = SAMPLES.parent


def test_compress_writes_the_model_and_both_reports(run_ok: Run, tmp_path: Path) -> None:
    output, as_json, as_markdown = tmp_path / "small.onnx", tmp_path / "r.json", tmp_path / "r.md"
    arguments = ["--data", CNN / "eval.npz", "--latency-seconds", 0.2, "--report", as_json, "--report", as_markdown]
    result = run_ok("compress", CNN / "model.onnx", "-o", output, *arguments)
    assert "digits" in result.out or "small.onnx" in result.out
    onnx.checker.check_model(str(output), full_check=True)
    report = from_json(as_json.read_text())
    assert report.result.size.file_bytes == output.stat().st_size < 0.3 * (CNN / "model.onnx").stat().st_size
    assert report.accuracy is not None
    assert report.accuracy.samples == 450
    assert abs(report.accuracy.drop_points) <= 0.3
    assert report.agreement is not None
    assert report.agreement.relative_error is not None
    assert report.agreement.relative_error < 0.02
    assert "small.onnx" in as_markdown.read_text()


def test_json_goes_to_standard_output_alone(run_ok: Run, tmp_path: Path) -> None:
    result = run_ok("compress", CNN / "model.onnx", "-o", tmp_path / "o.onnx", "--no-measure", "--json")
    assert from_json(result.out).preset == "safe"
    assert result.err == ""


def test_quiet_prints_nothing(run_ok: Run, tmp_path: Path) -> None:
    result = run_ok("compress", CNN / "model.onnx", "-o", tmp_path / "o.onnx", "--no-measure", "--quiet")
    assert (result.out, result.err) == ("", "")


def test_a_recipe_file_does_the_same_as_its_line(run_ok: Run, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('[[pass]]\nname = "fold-batchnorm"\n')
    for name, recipe in (("a", "fold-batchnorm"), ("b", tmp_path / "r.toml")):
        run_ok("compress", CNN / "model.onnx", "-o", tmp_path / name, "--recipe", recipe, "--no-measure", "-q")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_inspect_says_what_is_in_a_model_and_what_would_help(run_ok: Run) -> None:
    text = run_ok("inspect", CNN / "model.onnx", "--layers").out
    assert "BatchNormalization" in text
    document = json.loads(run_ok("inspect", CNN / "model.onnx", "--json").out)
    assert document["size"]["parameters"] > 100_000


def test_passes_lists_every_pass_with_its_effect(run_ok: Run) -> None:
    text = run_ok("passes").out
    assert all(name in text for name in PASSES)


@pytest.mark.parametrize("name", PASSES)
def test_every_pass_explains_itself(name: str, run_ok: Run) -> None:
    text = run_ok("passes", name).out
    assert text.startswith(name)
    assert len(text.splitlines()) > 5
    assert "http" in text, "the source of the method"


def test_an_unknown_pass_names_the_nearest(run: Run) -> None:
    result = run("passes", "fold-batchnrom")
    assert result.code == 2
    assert "did you mean 'fold-batchnorm'?" in result.err


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_command_has_help_with_an_example_and_stands_in_the_readme(command: str, run_ok: Run) -> None:
    text = run_ok(command, "--help").out
    assert "Example" in text
    assert f"onnxshrink {command}" in text
    assert f"onnxshrink {command}" in (ROOT / "README.md").read_text()


def test_the_readme_names_every_pass_preset_and_exit_code(run_ok: Run) -> None:
    readme = (ROOT / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in [*PASSES, *PRESETS])
    codes = [line.split()[0] for line in run_ok("--help").out.split("Exit codes:")[1].splitlines() if line.strip()]
    assert all(f"| {code} |" in readme for code in codes)


def test_version_and_module_run(run_process: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    result = run_process("--version")
    assert (result.returncode, result.stdout.split()[0]) == (0, "onnxshrink")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["compress", "--help"],
        ["compare", "--help"],
        ["verify", "--help"],
        ["passes"],
        ["passes", "fold-batchnorm"],
    ],
)
def test_help_and_lists_start_without_the_heavy_libraries(arguments: list[str]) -> None:
    """Start-up time is what a user of a shell feels; the libraries are what it is made of."""
    probe = (
        "import sys; from onnxshrink.cli.main import main; code = main(sys.argv[1:]);"
        "heavy = [m for m in ('onnxruntime', 'numpy', 'onnx', 'onnx_ir', 'sympy')"
        " if m in sys.modules]; print(heavy, file=sys.stderr); sys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", probe, *arguments], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"
