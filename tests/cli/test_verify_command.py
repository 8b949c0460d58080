from __future__ import annotations

import json
from pathlib import Path

import onnx

from tests.cli.conftest import SAMPLES, Run

MLP = SAMPLES / "cancer_mlp"


def test_identical_and_different_results(run: Run, run_ok: Run, tmp_path: Path) -> None:
    output = tmp_path / "o.onnx"
    run_ok("compress", MLP / "model.onnx", "-o", output, "--no-measure", "-q")
    arguments = ("verify", output, "--against", MLP / "model.onnx")
    assert f"{output} is identical to what is made from" in run_ok(*arguments).out
    assert run_ok(*arguments, "-q").out == ""
    proto = onnx.load(output)
    proto.metadata_props.add(key="author", value="me")
    onnx.save(proto, output)
    result = run(*arguments)
    assert result.code == 5
    assert "it differs in its metadata only" in result.out
    assert "metadata: author: me, rebuilt absent" in result.out
    document = json.loads(run(*arguments, "--json").out)
    assert (document["identical"], document["weights"]) == (False, [])


def test_what_is_missing_is_one_line(run_ok: Run, run_failing: Run, tmp_path: Path) -> None:
    output = tmp_path / "o.onnx"
    run_ok("compress", MLP / "model.onnx", "-o", output, "--no-measure", "-q", "--data", MLP / "eval.npz")
    for arguments, code, message in (
        ((MLP / "model.onnx", "--against", MLP / "model.onnx"), 3, "does not say how it was made"),
        ((output, "--against", MLP / "model.onnx"), 4, "give it with --data"),
        ((output, "--against", SAMPLES / "digits_cnn" / "model.onnx"), 5, "is not the model that"),
        ((output, "--against", tmp_path / "no.onnx"), 6, "does not exist"),
        ((output,), 2, "--against"),
    ):
        result = run_failing("verify", *arguments)
        assert result.code == code
        assert message in result.err
        assert result.err.count("\n") == 1
