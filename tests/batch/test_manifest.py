"""Manifests: settings of each model."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from onnxshrink.batch.inputs import find_models
from onnxshrink.batch.job import Settings
from onnxshrink.batch.manifest import READERS, Listed, read_manifest
from onnxshrink.errors import OnnxShrinkError, RecipeError


def read(folder: Path, text: str, name: str = "models.toml", shared: Settings | None = None) -> list[Listed]:
    path = folder / name
    path.write_text(text)
    return read_manifest(path, shared or Settings())


def test_every_setting_can_be_said() -> None:
    assert READERS.keys() == {field.name for field in fields(Settings)}


def test_a_model_goes_before_defaults_and_those_before_options(tmp_path: Path) -> None:
    text = """
    [defaults]
    seed = 2
    max-drop = 0.05
    [[model]]
    path = "a.onnx"
    max_drop = 0.1
    gates = ["size<=30%"]
    [[model]]
    path = "sub/b.onnx"
    output = "c.onnx"
    """
    first, second = read(tmp_path, text, shared=Settings(seed=1, batch_size=8))
    assert first.settings == Settings(seed=2, max_drop=0.1, batch_size=8, gates=("size<=30%",))
    assert second.settings == Settings(seed=2, max_drop=0.05, batch_size=8)
    assert (second.path, second.output) == (str(tmp_path / "sub/b.onnx"), "c.onnx")


def test_a_recipe_takes_the_place_of_a_preset_and_the_other_way_round(tmp_path: Path) -> None:
    text = '[[model]]\npath = "a"\nrecipe = "drop-unused"\n[[model]]\npath = "b"\npreset = "tiny"'
    first, second = read(tmp_path, text, shared=Settings(preset="int8"))
    assert (first.settings.preset, first.settings.recipe) == (None, "drop-unused")
    assert (second.settings.preset, second.settings.recipe) == ("tiny", None)


def test_paths_are_relative_to_the_manifest(tmp_path: Path) -> None:
    text = (
        '{"path": "a.onnx", "data": "d.npz", "data-config": "d.toml", "recipe": "r.toml", "custom-op-libs": ["o.so"]}\n'
        "\n"
        '{"path": "b.onnx", "data": "tests.batch.models:hang", "recipe": "drop-unused"}\n'
    )
    first, second = read(tmp_path, text, "models.jsonl")
    assert first.path == str(tmp_path / "a.onnx")
    assert first.settings == Settings(
        data=str(tmp_path / "d.npz"),
        data_config=str(tmp_path / "d.toml"),
        recipe=str(tmp_path / "r.toml"),
        custom_op_libs=(str(tmp_path / "o.so"),),
    )
    assert (second.settings.data, second.settings.recipe) == ("tests.batch.models:hang", "drop-unused")


def test_the_config_of_other_data_is_not_kept(tmp_path: Path) -> None:
    text = '[[model]]\npath = "a"\ndata = "own.npz"\n[[model]]\npath = "b"'
    first, second = read(tmp_path, text, shared=Settings(data="all.npz", data_config="all.toml"))
    assert first.settings.data_config is None
    assert second.settings.data_config == "all.toml"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[model]]\npath = "a"\nmax-dorp = 0.1', "model 1: unknown key 'max-dorp': did you mean 'max-drop'?"),
        ('[[models]]\npath = "a"', "unknown key 'models': did you mean 'model'?"),
        ('[[model]]\npreset = "safe"', "model 1: 'path' must be the path of a model"),
        ('[model]\npath = "a"', "write [[model]], with two brackets"),
        ('[defaults]\nseed = -1\n[[model]]\npath = "a"', "[defaults]: 'seed' must be an integer from 0, not -1"),
        ('[[model]]\npath = "a"\nmax-drop = 2', "'max-drop' must be a number from 0 to 1, not 2"),
        ('[[model]]\npath = "a"\nlatency = 1', "'latency' must be true or false, not 1"),
        ('[[model]]\npath = "a"\ngoal = "sped"', "'goal' must be one of balanced, speed, size, not 'sped'"),
        ('[[model]]\npath = "a"\ngates = "size<=1"', "'gates' must be a list of texts"),
        ('[[model]]\npath = "a"\npreset = "safe"\nrecipe = "x"', "'preset' and 'recipe' exclude each other"),
        ("[defaults]", "lists no models"),
        ("[[model]", "is not valid TOML"),
    ],
)
def test_what_a_manifest_gets_wrong(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)
    assert "models.toml" in str(caught.value)


def test_lines_of_json_are_named_by_their_number(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"models.jsonl, line 2: not valid JSON"):
        read(tmp_path, '{"path": "a"}\n{"path"\n', "models.jsonl")
    with pytest.raises(RecipeError, match=r"line 1: expected a table"):
        read(tmp_path, "[1]\n", "models.jsonl")


@pytest.mark.parametrize("output", ["../a.onnx", "/a.onnx", "a/../../b.onnx", "summary.json"])
def test_results_stay_in_the_output_folder(output: str, tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(f'[[model]]\npath = "a.onnx"\noutput = "{output}"')
    with pytest.raises(OnnxShrinkError, match="the result cannot be called"):
        find_models([str(path)], tmp_path / "out", Settings())
