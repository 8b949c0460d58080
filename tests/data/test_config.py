"""Errors in a config name file, line and field; what is said about one input wins over what is said about all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxshrink.data.config import DataConfig, InputConfig, find_config, read_config
from onnxshrink.data.read import read_data
from onnxshrink.errors import DataError, FileAccessError
from onnxshrink.measure.session import TensorSpec
from tests.data.sources import config

SPEC = TensorSpec("x", "tensor(float)", ("n", 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size = 8\n", None),
        ("sise = 8\n", "data.toml, line 1: unknown field 'sise': did you mean 'size'?"),
        ("\nzzz = 1\n", "data.toml, line 2: unknown field 'zzz' (docs/data.md lists them)"),
        ("size = [8]\n", "line 1: 'size' must be a number of pixels, or [height, width], not [8]"),
        ("size = true\n", "'size' must be a number of pixels"),
        (
            "# a\n[inputs.x]\nfit = 'zoom'\n",
            "line 3: 'inputs.x.fit' must be one of crop, stretch, pad, none, not 'zoom'",
        ),
        ("[inputs]\nx.sized = 1\n", "line 2: unknown field 'inputs.x.sized': did you mean 'size'?"),
        ("std = [1, 0]\n", "'std' must be other than 0, not [1, 0]"),
        ("mean = 'a'\n", "'mean' must be a number or a list of numbers, not 'a'"),
        ("scale = '1/0'\n", "'scale' must be a number or a fraction such as \"1/255\", not '1/0'"),
        ("dtype = 'floaty'\n", "'dtype' must be the name of a numpy type such as float32, not 'floaty'"),
        ("max-length = 0\n", "'max-length' must be an integer from 1, not 0"),
        ("pad-value = 300\n", "'pad-value' must be an integer from 0 to 255, not 300"),
        ("label = true\n", "'label' must be a name, or false, not True"),
        ("special-tokens = 1\n", "'special-tokens' must be true or false, not 1"),
        ("inputs = 3\n", "data.toml, line 1: 'inputs' must hold one table for each input"),
        ("[inputs]\nx = 3\n", "line 2: 'inputs.x' must be a table"),
        ("a = \n", "data.toml is not valid TOML: Invalid value (at line 1, column 5)"),
        ("value = [[1], [2, 3]]\n", "'value' must be a number, text, or a list of them"),
    ],
)
def test_errors_name_file_line_and_field(text: str, message: str | None) -> None:
    if message is None:
        assert config(text).every.size == (8, 8)
        return
    with pytest.raises(DataError) as caught:
        config(text)
    assert message in str(caught.value)


def test_fields_of_one_input_win() -> None:
    said = config('mean = [1, 2, 3]\nstd = 2\nscale = "1/255"\n[inputs.a]\nmean = 0.5\n[inputs]\nb = ["c", "d"]\n')
    assert said.of("a") == InputConfig(mean=(0.5,), std=(2.0,), scale=(1.0, 255.0))
    assert said.of("b").columns == ("c", "d")
    assert said.of("other").mean == (1.0, 2.0, 3.0)


def test_fields_of_other_kinds_of_data_and_unknown_inputs_are_refused() -> None:
    with pytest.raises(DataError, match="'tokenizer' is for text; the data is images"):
        config('tokenizer = "t.json"').check("images", ["x"])
    with pytest.raises(DataError, match="'mean' is for arrays, images, table and audio; the data is text"):
        config("mean = 1").check("text", ["x"])
    with pytest.raises(DataError, match="the model has no input 'imag': did you mean 'image'"):
        config("[inputs.imag]\nsize = 8").check("images", ["image"])


def test_paths_are_relative_to_the_config() -> None:
    assert config('tokenizer = "a/t.json"', Path("/data")).tokenizer == Path("/data/a/t.json")


def test_where_a_config_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "eval"
    folder.mkdir()
    assert find_config(folder) == DataConfig()
    for place, size in ((tmp_path / "data.toml", 1), (tmp_path / "eval.toml", 2), (folder / "data.toml", 3)):
        place.write_text(f"size = {size}")
        assert find_config(folder).every.size == (size, size)
    assert find_config(tmp_path / "eval.npz").every.size == (2, 2)
    monkeypatch.chdir(folder)
    assert find_config(Path(".")).every.size == (3, 3)
    (folder / "data.toml").unlink()
    assert find_config(Path(".")).every.size == (2, 2)
    assert find_config(tmp_path / "calib.npz").origin == str(tmp_path / "data.toml")


def test_a_config_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileAccessError, match=r"the data config .*no\.toml does not exist"):
        read_config(tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="is not a text file"):
        read_config(tmp_path / "bad.toml")


def test_calibration_data_needs_no_labels(tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.savez(tmp_path / "calib.npz", x=rows)
    (tmp_path / "calib.csv").write_text("a,b\n0,1\n2,3\n4,5\n")
    (tmp_path / "parts").mkdir()
    for index in range(2):
        np.savez(tmp_path / "parts" / f"{index}.npz", x=rows)
    said = DataConfig(label="score")
    for name in ("calib.npz", "calib.csv", "parts"):
        found = read_data(tmp_path / name, [SPEC], said, label_optional=True)
        assert found.labels is None
        with pytest.raises(DataError, match="score"):
            read_data(tmp_path / name, [SPEC], said)
    assert read_data({"x": rows, "score": rows[:, 0]}, [SPEC], said, label_optional=True).labels is not None
