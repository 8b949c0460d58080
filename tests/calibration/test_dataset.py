"""Arrays become feeds; what does not fit the model is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxshrink.calibration.dataset import Dataset
from onnxshrink.errors import DataError, FileAccessError
from onnxshrink.measure.session import TensorSpec

IMAGE = TensorSpec("image", "tensor(float)", ("n", 3, 4, 4))
FIXED = TensorSpec("image", "tensor(float)", (2, 3, 4, 4))
STATE = TensorSpec("state", "tensor(float)", (1, 5))


def _images(count: int) -> np.ndarray:
    return np.arange(count * 48, dtype=np.float32).reshape(count, 3, 4, 4)


def test_samples_are_cut_into_batches_with_their_labels() -> None:
    data = Dataset.from_arrays({"image": _images(5), "label": np.arange(5)}, [IMAGE])
    batches = list(data.batches([IMAGE], 2))
    assert [batch.samples for batch in batches] == [2, 2, 1]
    assert [batch.labels.tolist() for batch in batches if batch.labels is not None] == [[0, 1], [2, 3], [4]]
    np.testing.assert_array_equal(np.concatenate([batch.feed["image"] for batch in batches]), _images(5))


def test_a_fixed_batch_overrides_and_drops_what_does_not_fill_it() -> None:
    data = Dataset.from_arrays({"image": _images(5)}, [FIXED])
    assert [batch.samples for batch in data.batches([FIXED], 1)] == [2, 2]
    assert [batch.samples for batch in data.batches([FIXED], 1, limit=1)] == [2]


def test_fewer_samples_than_the_fixed_batch_are_refused() -> None:
    data = Dataset.from_arrays({"image": _images(1)}, [FIXED])
    with pytest.raises(DataError, match="1 samples do not fill the model's fixed batch of 2"):
        list(data.batches([FIXED], 1))


def test_an_array_with_one_axis_more_holds_whole_feeds() -> None:
    arrays = {"image": np.stack([_images(2), _images(2) + 1]), "state": np.zeros((2, 1, 5), np.float32)}
    batches = list(Dataset.from_arrays(arrays, [FIXED, STATE]).batches([FIXED, STATE], 8))
    assert [batch.feed["image"].shape for batch in batches] == [(2, 3, 4, 4)] * 2
    assert batches[1].feed["image"][0, 0, 0, 0] == 1


def test_a_model_without_inputs_gets_one_empty_feed() -> None:
    assert [batch.feed for batch in Dataset({}).batches([], 4)] == [{}]


def test_types_are_converted_where_values_keep_their_meaning() -> None:
    data = Dataset.from_arrays({"image": _images(2).astype(np.float64)}, [IMAGE])
    assert next(data.batches([IMAGE], 2)).feed["image"].dtype == np.float32
    with pytest.raises(DataError, match="has type complex64, the model's input takes float32"):
        Dataset.from_arrays({"image": _images(2).astype(np.complex64)}, [IMAGE])
    with pytest.raises(DataError, match="has type float32, the model's input takes int64"):
        Dataset.from_arrays({"ids": np.ones((2, 3), np.float32)}, [TensorSpec("ids", "tensor(int64)", ("n", 3))])


def test_arrays_without_names_go_by_order(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", _images(3), np.zeros((3, 5), np.float32))
    state = TensorSpec("state", "tensor(float)", ("n", 5))
    data = Dataset.from_npz(tmp_path / "d.npz", [IMAGE, state])
    assert {name: array.shape for name, array in data.arrays.items()} == {"image": (3, 3, 4, 4), "state": (3, 5)}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"other": _images(2)}, "no array for the input 'image' (arrays: other)"),
        ({"image": np.zeros((2, 3, 5, 4), np.float32)}, "'image' has shape (2, 3, 5, 4), the model's input is [n, 3"),
        ({"image": np.zeros((2, 3), np.float32)}, "'image' has shape (2, 3)"),
        ({"image": np.full((2, 3, 4, 4), np.nan, np.float32)}, "'image' contains NaN"),
        ({"image": np.zeros((0, 3, 4, 4), np.float32)}, "there are no samples"),
        ({"image": _images(2), "label": np.zeros(3)}, "3 labels for 2 samples"),
        ({"image": _images(2), "label": np.array(3)}, "'label' is a single value: labels are one per sample"),
    ],
)
def test_what_does_not_fit_is_refused(arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError) as caught:
        Dataset.from_arrays(arrays, [IMAGE], "d.npz")
    assert message in str(caught.value)
    assert str(caught.value).startswith("d.npz: ")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("not an archive")
    np.save(tmp_path / "one.npy", _images(1))
    with pytest.raises(FileAccessError, match="does not exist"):
        Dataset.from_npz(tmp_path / "no.npz", [IMAGE])
    with pytest.raises(DataError, match="is not an"):
        Dataset.from_npz(tmp_path / "text.npz", [IMAGE])
    with pytest.raises(DataError, match="is not an"):
        Dataset.from_npz(tmp_path / "one.npy", [IMAGE])


def test_the_digest_depends_on_every_value() -> None:
    one, other = _images(2), _images(2)
    other[1, 2, 3, 3] += 1
    assert Dataset({"image": one}).digest == Dataset({"image": _images(2)}).digest != Dataset({"image": other}).digest
