"""What ``onnxshrink sensitivity`` prints and refuses."""

from __future__ import annotations

import io
import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console

from onnxshrink.recipe import Recipe
from onnxshrink.report.sensitivity_terminal import render_sensitivity
from onnxshrink.sensitivity import NodeSensitivity, Sensitivity, Suggestion
from tests.cli.conftest import SAMPLES, Run

MLP = SAMPLES / "digits_mlp"
ARGUMENTS = ("sensitivity", MLP / "model.onnx", "--data", MLP / "eval.npz", "--threads", 1, "--calibration-samples", 8)


def test_the_table_and_the_flag_to_paste(run_ok: Run) -> None:
    text = run_ok(*ARGUMENTS, "--max-error", 0.002).out
    assert all(name in text for name in ("/1/Gemm", "/3/Gemm", "/5/Gemm", "error alone", "MACs"))
    (line,) = [line for line in text.splitlines() if "--recipe" in line]
    flag, recipe = shlex.split(line)
    assert flag == "--recipe"
    assert str(Recipe.parse(recipe)).startswith("quantize-static{exclude=/")


def test_json_holds_every_node_and_the_recipe(run_ok: Run) -> None:
    found = json.loads(run_ok(*ARGUMENTS, "--json", "--top", 1).out)
    assert len(found["nodes"]) == 3
    assert found["nodes"][0]["error"] >= found["nodes"][1]["error"]
    assert Recipe.parse(found["suggestion"]["recipe"])
    assert sum(node["mac_share"] for node in found["nodes"]) == pytest.approx(1)


def test_errors_are_one_line_with_the_exit_code_of_their_kind(run_failing: Run, tmp_path: Path) -> None:
    model = MLP / "model.onnx"
    missing = run_failing("sensitivity", model)
    assert (missing.code, "made-up inputs say nothing" in missing.err) == (2, True)
    assert run_failing("sensitivity", model, "--data", tmp_path / "none.npz").code == 6
    assert run_failing("sensitivity", tmp_path / "none.onnx", "--data", MLP / "eval.npz").code == 6
    np.savez(tmp_path / "other.npz", input=np.zeros((3, 5), np.float32))
    assert run_failing("sensitivity", model, "--data", tmp_path / "other.npz").code == 4
    refused = run_failing(*ARGUMENTS, "--recipe", "quantize-static{exclude=nothing}")
    assert (refused.code, refused.err.count("\n"), "matches no node" in refused.err) == (2, 1, True)
    assert run_failing(*ARGUMENTS, "--recipe", "fold-constants").code == 2
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])), tmp_path / "empty.onnx")
    assert run_failing("sensitivity", tmp_path / "empty.onnx", "--data", MLP / "eval.npz").code == 3


def _found(count: int, chosen: int) -> Sensitivity:
    nodes = tuple(
        NodeSensitivity(f"/a/very/long/name/of/a/layer/{i}/Conv", "Conv", 0.1, 0.1, 0.2, 0.1) for i in range(count)
    )
    names = tuple(node.node for node in nodes[:chosen])
    suggestion = Suggestion(names, 0.2, 0.1 * chosen, f"quantize-static{{exclude={'|'.join(names)}}}")
    return Sensitivity("net.onnx", "quantize-static", "eval.npz", 8, nodes, 0.3, None, suggestion)


def _rendered(found: Sensitivity, width: int = 80, top: int = 20) -> str:
    stream = io.StringIO()
    render_sensitivity(found, Console(file=stream, width=width, no_color=True), top=top)
    return stream.getvalue()


@pytest.mark.parametrize("width", [70, 80, 200])
def test_only_the_flag_is_wider_than_the_terminal(width: int) -> None:
    lines = _rendered(_found(10, 4), width).splitlines()
    assert max(len(line) for line in lines if "--recipe" not in line) <= min(width, 120)
    assert shlex.split(lines[-1])[1] == _found(10, 4).suggestion.recipe


def test_nodes_beyond_the_first_are_summed_up() -> None:
    text = _rendered(_found(10, 1), top=3)
    assert text.count("very/long") == 3 + 1
    assert "7 more" in text
    assert "70.0 %" in text
    assert "With the worst node, 10.0 % of the MACs, in float" in text


def test_what_is_said_when_there_is_nothing_to_paste() -> None:
    assert "No node stands out" in _rendered(_found(3, 0))
    assert "at most 0.5 with every node in int8" in _rendered(replace(_found(3, 0), max_error=0.5))
    none_left = _rendered(replace(_found(3, 3), max_error=0.01))
    assert "No node can be in int8 when the error is to be at most 0.01" in none_left
    assert "--recipe" not in none_left
