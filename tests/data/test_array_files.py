"""Rows of array files equal numpy's, and no more of a file is read than the rows in use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxshrink.calibration.dataset import Dataset
from onnxshrink.data.array_files import open_npy, open_npz
from onnxshrink.data.read import read_data
from onnxshrink.errors import DataError, FileAccessError
from onnxshrink.measure.session import TensorSpec
from tests.data.sources import all_values, config

X = TensorSpec("x", "tensor(float)", ("n", 3))
VALUES = np.arange(60, dtype=np.float32).reshape(20, 3)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_of_archives_in_any_order(tmp_path: Path, save: object) -> None:
    text = np.array(["a", "bcd"] * 10)
    save(tmp_path / "d.npz", x=VALUES, text=text, columns=np.asfortranarray(VALUES), big=VALUES.astype(">f8"))  # type: ignore[operator]
    arrays = open_npz(tmp_path / "d.npz")
    for rows in (slice(0, 4), slice(15, 30), slice(3, 5), slice(20, 22), slice(None)):
        for name, want in (("x", VALUES), ("text", text), ("columns", VALUES), ("big", VALUES)):
            np.testing.assert_array_equal(arrays[name][rows], want[rows])
    assert arrays["x"].shape == (20, 3)
    assert arrays["x"].dtype == np.float32


def test_only_the_rows_in_use_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "plain.npz", x=VALUES)
    np.savez_compressed(tmp_path / "packed.npz", x=VALUES)
    sizes: list[int] = []
    for kind in ("_FileRows", "_CompressedRows"):
        owner = f"onnxshrink.data.array_files.{kind}"
        module, _, name = owner.rpartition(".")
        original = getattr(__import__(module, fromlist=[name]), name)._read

        def counted(self: object, offset: int, array: np.ndarray, original: object = original) -> None:
            sizes.append(len(array))
            original(self, offset, array)  # type: ignore[operator]

        monkeypatch.setattr(f"{owner}._read", counted)
    for path in (tmp_path / "plain.npz", tmp_path / "packed.npz"):
        sizes.clear()
        data = Dataset.from_npz(path, [X])
        assert sum(sizes) == 1  # the first sample, to see whether it fits
        assert sum(batch.samples for batch in data.batches([X], 4, limit=10)) == 10
        assert sizes[1:] == [4, 4, 2]


def test_large_rows_of_files_are_read_ahead(tmp_path: Path) -> None:
    wide = TensorSpec("x", "tensor(float)", ("n", 1 << 14))
    values = np.arange(5 << 14, dtype=np.float32).reshape(5, 1 << 14)
    np.savez_compressed(tmp_path / "d.npz", x=values)
    data = Dataset.from_npz(tmp_path / "d.npz", [wide])
    assert data.source.slow
    assert not Dataset({"x": values}).source.slow
    np.testing.assert_array_equal(all_values(data, [wide])["x"], values)


def test_the_digest_is_that_of_the_arrays_in_memory(tmp_path: Path) -> None:
    many = np.arange(600, dtype=np.float32).reshape(200, 3)
    np.savez_compressed(tmp_path / "d.npz", x=many, label=np.arange(200))
    data = Dataset.from_npz(tmp_path / "d.npz", [X])
    assert data.digest == Dataset({"x": many}).digest
    assert data.labels is not None
    assert data.labels.tolist() == list(range(200))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_archives(tmp_path: Path, save: object) -> None:
    path = tmp_path / "d.npz"
    values = np.random.default_rng(0).standard_normal((500, 3)).astype(np.float32)
    save(path, x=values)  # type: ignore[operator]
    content = bytearray(path.read_bytes())
    content[300:400] = b"\xff" * 100
    path.write_bytes(content)
    if save is np.savez_compressed:
        with pytest.raises(DataError, match="is not a readable"):
            all_values(Dataset.from_npz(path, [X]), [X])
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"is not an \.npz archive"):
        open_npz(path)


def test_python_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.array([{"a": 1}], object))
    with pytest.raises(DataError, match="the array 'x' holds Python objects"):
        open_npz(tmp_path / "d.npz")
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"bad.npy is not a readable \.npy file"):
        open_npy(tmp_path / "bad.npy")
    with pytest.raises(FileAccessError, match="does not exist"):
        open_npy(tmp_path / "no.npy")


def test_one_npy_file_is_the_only_input(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", VALUES)
    np.testing.assert_array_equal(all_values(read_data(tmp_path / "d.npy", [X]), [X])["x"], VALUES)
    with pytest.raises(DataError, match="is one array, the model takes 2 inputs"):
        read_data(tmp_path / "d.npy", [X, TensorSpec("y", "tensor(float)", ("n", 3))])


def test_a_folder_of_files_with_one_sample_each(tmp_path: Path) -> None:
    for index in range(5):
        np.savez(tmp_path / f"{index}.npz", x=VALUES[index], label=index * 2)
    data = read_data(tmp_path, [X])
    np.testing.assert_array_equal(all_values(data, [X])["x"], VALUES[:5])
    assert data.labels is not None
    assert data.labels.tolist() == [0, 2, 4, 6, 8]
    assert data.samples == 5


def test_a_folder_of_files_with_batches_of_several_sizes(tmp_path: Path) -> None:
    for name, rows in (("a", slice(0, 3)), ("b", slice(3, 4)), ("c", slice(4, 9))):
        np.savez(tmp_path / f"{name}.npz", x=VALUES[rows], label=np.arange(20)[rows])
    data = read_data(tmp_path, [X])
    assert [batch.samples for batch in data.batches([X], 4)] == [4, 4, 1]
    np.testing.assert_array_equal(all_values(data, [X], 4)["x"], VALUES[:9])
    assert data.labels is not None
    assert data.labels.tolist() == list(range(9))
    bad = VALUES[:2].copy()
    bad[1, 1] = np.nan
    np.savez(tmp_path / "d.npz", x=bad, label=[0, 0])
    with pytest.raises(DataError, match=r"d\.npz, sample 1: 'x' contains NaN"):
        all_values(read_data(tmp_path, [X]), [X])


def test_a_folder_of_whole_feeds(tmp_path: Path) -> None:
    specs = [TensorSpec("x", "tensor(float)", (1, "t", 3)), TensorSpec("state", "tensor(float)", (2, 1, 4))]
    for index, length in enumerate((5, 2)):
        np.savez(tmp_path / f"{index}.npz", x=np.full((1, length, 3), index), state=np.zeros((2, 1, 4), np.float32))
    feeds = [batch.feed for batch in read_data(tmp_path, specs).batches(specs, 8)]
    assert [feed["x"].shape for feed in feeds] == [(1, 5, 3), (1, 2, 3)]
    assert feeds[1]["x"].dtype == np.float32


def test_a_folder_of_npy_files_named_after_the_inputs(tmp_path: Path) -> None:
    for name, values in (("x", VALUES), ("label", np.arange(20)), ("other", VALUES)):
        np.save(tmp_path / f"{name}.npy", values)
    data = read_data(tmp_path, [X])
    np.testing.assert_array_equal(all_values(data, [X])["x"], VALUES)
    assert data.ignored == ("other",)
    assert data.labels is not None
    assert len(data.labels) == 20


def test_labels_of_subfolders(tmp_path: Path) -> None:
    for folder, row in (("no", 0), ("yes", 1)):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "0.npy", VALUES[row])
    data = read_data(tmp_path, [X])
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1]
    assert data.explanation == ("labels are the 2 names in sorted order: 0 is no, 1 is yes",)


def test_arrays_are_renamed_scaled_and_labelled_as_the_config_says(tmp_path: Path) -> None:
    raw = np.arange(24, dtype=np.uint8).reshape(4, 6)[:, :3]
    np.savez(tmp_path / "d.npz", pixels=raw, score=np.array([0.5, 1.0]))
    said = config('label = "score"\n[inputs.x]\narray = "pixels"\nscale = "1/2"\nmean = [1, 2, 3]\nstd = 4\n')
    data = read_data(tmp_path / "d.npz", [X], said)
    want = (raw.astype(np.float32) / 2 - np.array([1, 2, 3], np.float32)) / 4
    np.testing.assert_array_equal(all_values(data, [X])["x"], want)
    assert data.labels is not None
    assert data.labels.tolist() == [0.5, 1.0]
    assert data.samples_per_label == 2
    assert data.preprocessing == "'x' divided by 2, mean 1 2 3, std 4"
    short = read_data(tmp_path / "d.npz", [X], config('label = false\n[inputs]\nx = "pixels"'))
    np.testing.assert_array_equal(all_values(short, [X])["x"], raw)
    with pytest.raises(DataError, match="no array 'other' for the input 'x'"):
        read_data(tmp_path / "d.npz", [X], config('[inputs]\nx = "other"'))
    with pytest.raises(DataError, match="no array 'mark' for the labels"):
        read_data(tmp_path / "d.npz", [X], config('label = "mark"\n[inputs]\nx = "pixels"'))


def test_a_type_may_be_forced(tmp_path: Path) -> None:
    ids = TensorSpec("ids", "tensor(int64)", ("n", 3))
    np.savez(tmp_path / "d.npz", ids=np.array([[0.6, 1.4, 2.0]], np.float32))
    with pytest.raises(DataError, match="has type float32, the model's input takes int64"):
        read_data(tmp_path / "d.npz", [ids])
    data = read_data(tmp_path / "d.npz", [ids], config('dtype = "int64"'))
    assert all_values(data, [ids])["ids"].tolist() == [[1, 1, 2]]


def test_arrays_by_order_are_scaled_too() -> None:
    data = read_data({"arr_0": np.full((2, 3), 10, np.uint8)}, [X], config("mean = 4"))
    assert all_values(data, [X])["x"].tolist() == [[6.0] * 3] * 2
    both = read_data({"arr_0": VALUES, "arr_1": VALUES + 1}, [X, TensorSpec("y", "tensor(float)", ("n", 3))])
    assert both.explanation == ("arrays without names are given to the inputs in order: arr_0 is 'x', arr_1 is 'y'",)


def test_inputs_with_the_same_value_for_every_sample() -> None:
    inputs = [X, TensorSpec("rate", "tensor(int64)", ()), TensorSpec("factor", "tensor(float)", ("n", 2))]
    said = config("[inputs.rate]\nvalue = 16000\n[inputs.factor]\nvalue = [1.0, 2.0]\n")
    batch = next(read_data({"x": VALUES}, inputs, said).batches(inputs, 3))
    assert batch.samples == 3
    assert batch.feed["rate"].shape == ()
    assert batch.feed["rate"] == 16000
    assert batch.feed["factor"].tolist() == [[1.0, 2.0]] * 3
