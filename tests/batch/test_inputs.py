"""Which models a batch is about, and what their results are called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnxshrink.batch.inputs import Wanted, find_models
from onnxshrink.batch.job import Settings
from onnxshrink.errors import FileAccessError


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files that only look like models: nobody reads them here."""
    for name in ("m/a.onnx", "m/b.txt", "m/sub/a.onnx", "m/sub/deep/c.onnx", "m/.hidden/d.onnx", "m/.e.onnx"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*inputs: str, output: str = "out") -> list[tuple[str, str]]:
    return [(wanted.source, wanted.name) for wanted in find_models(inputs, Path(output), Settings())]


def test_a_folder_keeps_its_structure_and_hidden_files_are_left_out(models: Path) -> None:
    expected = ["a.onnx", "sub/a.onnx", "sub/deep/c.onnx"]
    assert found("m") == [(f"m/{name}", name) for name in expected]


def test_a_file_gives_its_name_whatever_it_ends_in(models: Path) -> None:
    assert found("m/sub/a.onnx", "m/b.txt") == [("m/sub/a.onnx", "a.onnx"), ("m/b.txt", "b.txt")]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("m/**/*.onnx", ["a.onnx", "sub/a.onnx", "sub/deep/c.onnx"]),
        ("m/*/*.onnx", ["sub/a.onnx"]),
        ("m/s*", ["sub/a.onnx", "sub/deep/c.onnx"]),
        ("m/*", ["a.onnx", "sub/a.onnx", "sub/deep/c.onnx"]),
        ("m/**", ["a.onnx", "sub/a.onnx", "sub/deep/c.onnx"]),
        ("*/sub/a.on?x", ["m/sub/a.onnx"]),
    ],
)
def test_a_glob_keeps_what_follows_its_fixed_part(pattern: str, names: list[str], models: Path) -> None:
    assert [name for _, name in found(pattern)] == names


def test_the_output_folder_is_not_looked_into(models: Path) -> None:
    (models / "m/out").mkdir()
    (models / "m/out/a.onnx").write_text("a result")
    assert ("m/out/a.onnx", "out/a.onnx") not in found("m", output="m/out")
    assert ("m/out/a.onnx", "out/a.onnx") not in found("m/**/*.onnx", output="m/out")
    assert ("m/out/a.onnx", "out/a.onnx") in found("m", output="elsewhere")


def test_a_model_that_is_given_twice_counts_once(models: Path) -> None:
    assert found("m/a.onnx", "./m/a.onnx", "m") == found("m")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (("m/nothing.onnx",), "m/nothing.onnx does not exist"),
        (("m/.hidden/none",), "does not exist"),
        (("m/*.pb",), "m/*.pb: no .onnx files"),
        (("m/a.onnx", "m/sub/a.onnx"), "m/a.onnx and m/sub/a.onnx would both be written to a.onnx"),
    ],
)
def test_what_is_refused_before_anything_starts(inputs: tuple[str, ...], message: str, models: Path) -> None:
    with pytest.raises(FileAccessError) as caught:
        found(*inputs)
    assert message in str(caught.value)


def test_names_that_differ_in_case_only_are_one_name(models: Path) -> None:
    (models / "m/A.onnx").write_text("on other systems these are one file")
    with pytest.raises(FileAccessError, match=r"m/A.onnx and m/a.onnx would both be written to a.onnx"):
        found("m")


def test_a_folder_cannot_be_a_file(models: Path) -> None:
    (models / "n/a.onnx").mkdir(parents=True)
    (models / "n/a.onnx/b.onnx").write_text("in a folder called like a model")
    with pytest.raises(FileAccessError, match=r"m/a.onnx would be written to a.onnx, which is a folder for"):
        found("m/a.onnx", "n")


def test_reports_of_different_models_have_different_names() -> None:
    reports = [Wanted("", name, Settings()).report for name in ("a.onnx", "a.pb", "sub/a.onnx")]
    assert reports == ["a.report.json", "a.pb.report.json", "sub/a.report.json"]


def test_linked_folders_are_left_out_and_linked_files_are_not(models: Path) -> None:
    os.symlink("sub", models / "m/again")
    os.symlink("sub/a.onnx", models / "m/b.onnx")
    assert [name for _, name in found("m")] == ["a.onnx", "b.onnx", "sub/a.onnx", "sub/deep/c.onnx"]
