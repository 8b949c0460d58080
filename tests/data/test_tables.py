"""Rows become samples, columns become inputs, and a cell that is no value is named."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxshrink.data import rows
from onnxshrink.data.read import read_data
from onnxshrink.errors import DataError
from onnxshrink.measure.session import TensorSpec
from tests.data.sources import all_values, config

X = TensorSpec("x", "tensor(float)", ("n", 3))
AGE = TensorSpec("age", "tensor(int64)", ("n", 1))
NAME = TensorSpec("name", "tensor(string)", ("n",))

COLUMNS = {"a": [1.5, 2, 3, 4], "b": [0, -1, 1e-3, 7], "c": [9, 8, 7, 6], "label": [0, 1, 1, 0]}
VALUES = np.array([COLUMNS[name] for name in "abc"], np.float32).T

Write = Callable[[Path, Mapping[str, Sequence[Any]]], Path]


def _csv(folder: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    (folder / "d.csv").write_text("\n".join(lines) + "\n")
    return folder / "d.csv"


def _jsonl(folder: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    import json

    found = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    (folder / "d.jsonl").write_text("\n".join(map(json.dumps, found)))
    return folder / "d.jsonl"


def _parquet(folder: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(
        pyarrow.table({name: list(values) for name, values in columns.items()}), folder / "d.parquet"
    )
    return folder / "d.parquet"


FORMATS = pytest.mark.parametrize("write", [_csv, _jsonl, _parquet])


@FORMATS
def test_a_column_per_feature(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path, COLUMNS)
    data = read_data(path, [X])
    np.testing.assert_array_equal(all_values(data, [X])["x"], VALUES)
    assert data.samples == 4
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 1, 0]
    assert data.explanation == ("input 'x' is made of 3 columns in their order: a, b, c",)
    assert [batch.samples for batch in data.batches([X], 3)] == [3, 1]


@FORMATS
def test_a_column_per_input(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path, {"name": ["ann", "bob"], "age": [30, 41], "score": [0.5, 1.5], "note": ["", "x"]})
    data = read_data(path, [AGE, NAME], config('label = "score"'))
    found = all_values(data, [AGE, NAME])
    assert found["age"].tolist() == [[30], [41]]
    assert found["name"].tolist() == ["ann", "bob"]
    assert data.labels is not None
    assert data.labels.tolist() == [0.5, 1.5]
    assert data.ignored == ("note",)
    assert data.explanation == ()


@pytest.mark.parametrize("write", [_jsonl, _parquet])
def test_lists_in_cells(tmp_path: Path, write: Write) -> None:
    spec = TensorSpec("ids", "tensor(int64)", ("n", "length"))
    path = write(tmp_path, {"ids": [[1, 2], [3, 4], [5, 6, 7]], "label": [1, 0, 1]})
    feeds = [batch.feed["ids"].tolist() for batch in read_data(path, [spec]).batches([spec], 2)]
    assert feeds == [[[1, 2], [3, 4]], [[5, 6, 7]]]


def test_the_config_names_columns_and_scales_them(tmp_path: Path) -> None:
    path = _csv(tmp_path, COLUMNS)
    said = config('label = false\n[inputs.x]\ncolumns = ["c", "a", "label"]\nmean = [1, 2, 3]\nstd = 2')
    data = read_data(path, [X], said)
    want = (np.array([COLUMNS[name] for name in ("c", "a", "label")], np.float32).T - np.float32([1, 2, 3])) / 2
    np.testing.assert_array_equal(all_values(data, [X])["x"], want)
    assert data.labels is None
    assert data.ignored == ("b",)


def test_pixels_in_columns_take_the_shape_of_the_input(tmp_path: Path) -> None:
    spec = TensorSpec("image", "tensor(float)", ("n", 1, 2, 2))
    path = _csv(tmp_path, {"label": [3], **{f"pixel{index}": [index] for index in range(4)}})
    assert all_values(read_data(path, [spec]), [spec])["image"].tolist() == [[[[0, 1], [2, 3]]]]


def test_usual_names_of_the_label_and_the_last_column_are_guessed(tmp_path: Path) -> None:
    data = read_data(_csv(tmp_path, {**{name: COLUMNS[name] for name in "abc"}, "Target": ["u", "v", "u", "u"]}), [X])
    assert data.labels is not None
    assert data.labels.tolist() == ["u", "v", "u", "u"]
    assert data.explanation[0] == "column 'Target' is taken for the labels"
    data = read_data(_csv(tmp_path, {**{name: COLUMNS[name] for name in "abc"}, "kind": [5, 6, 5, 5]}), [X])
    assert data.explanation[0] == "the last column, 'kind', is taken for the labels"
    assert data.labels is not None
    assert data.labels.tolist() == [5, 6, 5, 5]
    named = read_data(tmp_path / "d.csv", [X], config('label = "kind"\nlabel-offset = -5'))
    assert named.labels is not None
    assert named.labels.tolist() == [0, 1, 0, 0]


def test_text_labels_become_places_among_the_classes(tmp_path: Path) -> None:
    path = _csv(tmp_path, {**{name: COLUMNS[name] for name in "abc"}, "label": ["u", "v", "u", "u"]})
    labels = read_data(path, [X], config('classes = ["v", "u"]')).labels
    assert labels is not None
    assert labels.tolist() == [1, 0, 1, 1]


def test_delimiters_quotes_and_files_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text('a;b;c;label\n1;"2";3;0\n\n4;5;6;1\n')
    assert all_values(read_data(tmp_path / "d.csv", [X]), [X])["x"].tolist() == [[1, 2, 3], [4, 5, 6]]
    (tmp_path / "d.tsv").write_text("a\tb\tc\n1\t2\t3\n")
    assert all_values(read_data(tmp_path / "d.tsv", [X]), [X])["x"].tolist() == [[1, 2, 3]]
    (tmp_path / "e.csv").write_text("7,1,2,3\n8,4,5,6\n")
    data = read_data(tmp_path / "e.csv", [X], config('label = "1"'))
    assert all_values(data, [X])["x"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert data.labels is not None
    assert data.labels.tolist() == [7, 8]
    assert "starts with numbers: its columns are called 1 to 4" in data.explanation[1]
    (tmp_path / "f.csv").write_text("a#b#c\n1#2#3\n")
    assert all_values(read_data(tmp_path / "f.csv", [X], config("delimiter = '#'")), [X])["x"].tolist() == [[1, 2, 3]]


def test_truth_values_and_whole_numbers(tmp_path: Path) -> None:
    path = _csv(tmp_path, {"age": ["true", "3.0", "False"]})
    assert all_values(read_data(path, [AGE]), [AGE])["age"].tolist() == [[1], [3], [0]]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("", "d.csv, row 2: column 'b' is empty: drop that row, or set allow-nan = true"),
        ("NA", "d.csv, row 2: column 'b' is empty"),
        ("red", "d.csv, row 2: column 'b' holds 'red', the input 'x' takes float32"),
        ("nan", "row 2: 'x' contains NaN"),
    ],
)
def test_cells_that_are_no_values_are_named(tmp_path: Path, cell: str, message: str) -> None:
    path = _csv(tmp_path, {"a": [1, 2], "b": [1, cell], "c": [1, 2]})
    with pytest.raises(DataError) as caught:
        all_values(read_data(path, [X]), [X])
    assert message in str(caught.value)


def test_missing_values_where_they_are_allowed(tmp_path: Path) -> None:
    path = _csv(tmp_path, {"a": [1, 2], "b": [1, ""], "c": [1, 2]})
    got = all_values(read_data(path, [X], config("allow-nan = true")), [X])["x"]
    np.testing.assert_array_equal(got, [[1, 1, 1], [2, np.nan, 2]])


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = _csv(tmp_path, {"a": [1], "b": [2]})
    with pytest.raises(DataError, match="the input 'x' takes 3 values, 2 columns are left for it"):
        read_data(path, [X])
    with pytest.raises(DataError, match=r"no column 'z' \(columns: a, b\)"):
        read_data(path, [X], config('[inputs]\nx = ["a", "b", "z"]'))
    with pytest.raises(DataError, match="no columns for the inputs 'x', 'age'"):
        read_data(path, [X, AGE])
    with pytest.raises(DataError, match=r"column 'age' holds '1\.5', the input 'age' takes int64"):
        read_data(_csv(tmp_path, {"age": [1.5]}), [AGE])
    (tmp_path / "d.csv").write_text("a,b,c\n1,2,3\n4,5\n")
    with pytest.raises(DataError, match=r"d\.csv, line 3: 2 cells for 3 columns"):
        all_values(read_data(tmp_path / "d.csv", [X]), [X])
    (tmp_path / "d.jsonl").write_text('{"a": 1, "b": 2, "c": 3}\n{"a"\n')
    with pytest.raises(DataError, match=r"d\.jsonl, line 2: not valid JSON"):
        all_values(read_data(tmp_path / "d.jsonl", [X]), [X])
    (tmp_path / "d.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"d\.parquet is not a readable Parquet file"):
        read_data(tmp_path / "d.parquet", [X])
    (tmp_path / "d.csv").write_text("a,b,c\n")
    with pytest.raises(DataError, match="there are no samples"):
        read_data(tmp_path / "d.csv", [X])


def test_files_of_a_folder_follow_one_another(tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / f"{index}.csv").write_text(f"a,b,c,label\n{index},0,0,{index}\n{index},1,0,{index}\n")
    data = read_data(tmp_path, [X])
    assert all_values(data, [X])["x"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2]
    (tmp_path / "3.csv").write_text("a,c,label\n0,0,1\n")
    with pytest.raises(DataError, match=r"3\.csv: no column 'b'"):
        all_values(read_data(tmp_path, [X]), [X])


def test_no_more_rows_are_read_than_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _csv(tmp_path, {name: range(1000) for name in "abc"})
    data = read_data(path, [X])
    taken: list[int] = []
    original = rows.Table.rows

    def counted(self: rows.Table, columns: Sequence[str]) -> Any:
        for row in original(self, columns):
            taken.append(1)
            yield row

    monkeypatch.setattr(rows.Table, "rows", counted)
    assert sum(batch.samples for batch in data.batches([X], 8, limit=20)) == 20
    assert len(taken) <= 20
    assert data.samples == 1000


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _parquet(tmp_path, COLUMNS)
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needs pyarrow: pip install 'onnxshrink\[tables\]'"):
        read_data(path, [X])
