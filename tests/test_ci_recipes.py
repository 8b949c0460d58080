"""The recipes of docs/ci.md run as they stand there, with stand-ins for what only a CI service has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from onnxshrink.report.gates import FIGURES, parse_gates
from onnxshrink.report.json_format import from_json

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "sample_models" / "cancer_mlp"
STAND_IN = '#!/bin/sh\necho "$(basename "$0") $*" >> "$CALLS"\n'


def fences(language: str, page: str = "ci.md") -> list[str]:
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def documents() -> dict[str, Any]:
    """Every YAML file of the page, by the name in its first line."""
    return {text.split("\n", 1)[0].lstrip("# "): yaml.safe_load(text) for text in fences("yaml")}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with the layout that the page describes, and stand-ins for pip and gh on the path."""
    for folder in ("models", "data", "bin"):
        (tmp_path / folder).mkdir()
    (tmp_path / "models" / "model.onnx").write_bytes((MODEL / "model.onnx").read_bytes())
    for name in ("eval.npz", "calib.npz"):
        (tmp_path / "data" / name).write_bytes((MODEL / name).read_bytes())
    (gates,) = fences("toml")
    (tmp_path / "gates.toml").write_text(gates)
    for name in ("pip", "gh"):
        (tmp_path / "bin" / name).write_text(STAND_IN)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def run_script(script: str, project: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{project / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CALLS": str(project / "calls"),
        **variables,
    }
    command = ["bash", "-e", "-c", script]
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def statuses(project: Path) -> list[str]:
    return [gate.status for gate in from_json((project / "build" / "report.json").read_text()).gates]


def test_the_shell_script(project: Path) -> None:
    """A build whose gates fail, then one whose gates hold, compared with the first."""
    (script,) = fences("sh")
    gates = project / "gates.toml"
    good = gates.read_text()
    gates.write_text('gates = ["size<=1%"]\n')
    first = run_script(script, project)
    assert first.returncode == 1
    assert "gate failed: size<=1%" in first.stderr
    assert "small.onnx is identical to what is made from models/model.onnx" in first.stdout
    (project / "base").mkdir()
    (project / "build" / "report.json").rename(project / "base" / "report.json")
    gates.write_text(good)
    second = run_script(script, project)
    assert second.returncode == 0, second.stderr
    assert len(statuses(project)) == 3
    assert "failed" not in statuses(project)
    assert (project / "build" / "comparison.md").read_text().startswith("### `base/report.json`")


def test_the_github_workflow(project: Path) -> None:
    workflow = documents()[".github/workflows/model.yml"]
    assert set(workflow[True]) == {"pull_request", "push"}  # YAML 1.1 reads "on" as a boolean
    steps = workflow["jobs"]["compress"]["steps"]
    assert all(("uses" in step) != ("run" in step) for step in steps)
    variables = {
        **workflow["env"],
        "GITHUB_STEP_SUMMARY": str(project / "summary.md"),
        "NUMBER": "12",
    }
    for step in steps:
        if "run" in step:
            result = run_script(step["run"], project, **variables)
            assert result.returncode == 0, f"{step.get('name')}: {result.stderr}"
    assert "failed" not in statuses(project)
    assert (project / "summary.md").read_text().startswith("### `model.onnx` → `small.onnx`")
    assert (project / "base" / "report.json").exists()
    calls = (project / "calls").read_text().splitlines()
    assert calls == ["pip install onnxshrink", "gh pr comment 12 --edit-last --body-file build/report.md"]


def test_the_gitlab_pipeline(project: Path) -> None:
    job = documents()[".gitlab-ci.yml"]["model"]
    variables = {**job["variables"], "CI_COMMIT_BRANCH": "main", "CI_DEFAULT_BRANCH": "main"}
    for line in job["script"]:
        result = run_script(line, project, **variables)
        assert result.returncode == 0, f"{line}: {result.stderr}"
    root = ElementTree.parse(project / job["artifacts"]["reports"]["junit"]).getroot()
    assert (root.get("tests"), root.get("failures")) == ("3", "0")
    assert (project / "base" / "report.json").exists()
    compare = run_script(job["script"][3], project, **variables)
    assert compare.returncode == 0, compare.stderr
    assert (project / "build" / "comparison.md").exists()


def test_the_pre_commit_hooks(project: Path) -> None:
    hooks = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
    (repository,) = documents()[".pre-commit-config.yaml"]["repos"]
    assert {hook["id"] for hook in repository["hooks"]} == set(hooks)
    assert all(re.search(hook["files"], "models/small.onnx") for hook in hooks.values())
    made = run_script("onnxshrink compress models/model.onnx -o models/small.onnx --no-measure -q", project)
    assert made.returncode == 0, made.stderr
    for used in repository["hooks"]:
        hook = hooks[used["id"]]
        assert (hook["language"], hook["pass_filenames"]) == ("python", False)
        command = [*hook["entry"].split(), *used["args"]]
        result = run_script(" ".join(f"'{word}'" for word in command), project)
        assert result.returncode == 0, result.stderr


def test_the_gates_page_names_every_figure_and_its_examples_are_gates() -> None:
    page = (ROOT / "docs" / "gates.md").read_text()
    assert all(f"`{name}`" in page for name in FIGURES)
    (toml,) = fences("toml", "gates.md")
    assert len(parse_gates(tomllib.loads(toml)["gates"])) == 3
    examples = re.findall(r"`([a-z_0-9]+(?:<=|>=)[^`]+)`", page)
    assert len(examples) > 5
    bare = {"size<=30", "top1>=70"}
    assert len(parse_gates(example for example in examples if example not in bare)) == len(examples) - 2
