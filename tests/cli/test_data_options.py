"""``--data`` takes every kind of data; what was guessed is printed and in the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import SAMPLES, Run

CNN = SAMPLES / "digits_cnn"


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """The evaluation data of the sample model as images in class folders, sixteen levels of gray in eight bits."""
    with np.load(CNN / "eval.npz") as arrays:
        images, labels = arrays["input"], arrays["label"]
    scale = 15 if images.max() > 1 else 240
    for index, (image, label) in enumerate(zip(images[:60], labels, strict=False)):
        folder = tmp_path / "digits" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(image[0] * scale).astype(np.uint8)).save(folder / f"{index:03}.png")
    (tmp_path / "digits.toml").write_text(f'scale = "1/{scale}"\n')
    return tmp_path / "digits"


def test_images_give_an_accuracy(run_ok: Run, digits: Path, tmp_path: Path) -> None:
    arguments = ("compress", CNN / "model.onnx", "--recipe", "drop-unused", "-o", tmp_path / "o.onnx", "--json")
    result = run_ok(*arguments, "--data", digits, "--latency-seconds", "0.1")
    report = json.loads(result.out)
    assert report["data"]["preprocessing"].startswith("images of 8×8 as they are, gray, ")
    assert report["data"]["samples"] == 60
    assert report["accuracy"]["original"] > 0.9
    note = "labels are the numbers that the 10 subfolders are named by"
    assert note in report["notes"]
    assert f"onnxshrink: {note}\n" in result.err


def test_a_guess_is_printed_and_a_config_silences_it(run_ok: Run, digits: Path, tmp_path: Path) -> None:
    (tmp_path / "digits.toml").rename(tmp_path / "other.toml")
    arguments = ("compress", CNN / "model.onnx", "--recipe", "drop-unused", "-o", tmp_path / "o.onnx", "--no-measure")
    guessed = run_ok(*arguments, "--data", digits)
    assert "onnxshrink: input 'input' " in guessed.err
    assert "divided by 255" in guessed.err
    said = run_ok(*arguments, "--force", "--data", digits, "--data-config", tmp_path / "other.toml")
    assert "divided by" not in said.err
    assert run_ok(*arguments, "--force", "-q", "--data", digits).err == ""


def test_sensitivity_takes_images_too(run_ok: Run, digits: Path) -> None:
    result = run_ok("sensitivity", CNN / "model.onnx", "--data", digits, "--calibration-samples", "8", "--json")
    assert json.loads(result.out)["samples"] == 8
    assert "onnxshrink: labels are the numbers" in result.err


def test_errors_of_data_have_their_exit_codes(run_failing: Run, digits: Path, tmp_path: Path) -> None:
    arguments = ("compress", CNN / "model.onnx", "-o", tmp_path / "o.onnx")
    assert run_failing(*arguments, "--data", tmp_path / "no").code == 6
    assert run_failing(*arguments, "--data", digits, "--data-config", tmp_path / "no.toml").code == 6
    (tmp_path / "bad.toml").write_text("sice = 8\n")
    result = run_failing(*arguments, "--data", digits, "--data-config", tmp_path / "bad.toml")
    assert result.code == 4
    assert "bad.toml, line 1: unknown field 'sice': did you mean 'size'?" in result.err
    assert run_failing(*arguments, "--data", "no_such_module:feeds").code == 4
