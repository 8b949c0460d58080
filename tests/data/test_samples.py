"""Items are read when they are asked for, once where they are asked for in order."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from onnxshrink.calibration.dataset import Dataset, feeds_of
from onnxshrink.data.samples import Block, Chained, Cursor, Samples, packed, read_ahead
from onnxshrink.errors import DataError
from onnxshrink.measure.session import TensorSpec

X = TensorSpec("x", "tensor(float)", ("n", 2))


class Counting(Samples):
    """Samples that tell which of them were read."""

    slow = False

    def __init__(self, samples: int) -> None:
        self._samples, self.reads = samples, []  # type: ignore[var-annotated]

    def read(self, start: int, stop: int) -> Block:
        found = range(self._samples)[start:stop]
        self.reads += found
        return Block({"x": np.array([[index, 0] for index in found], np.float32).reshape(-1, 2)})

    def count(self, limit: int | None = None) -> int:
        return self._samples

    def digest_parts(self) -> Iterator[bytes]:
        yield b"counting"


def test_a_cursor_goes_forward_at_no_cost_and_backward_by_starting_again() -> None:
    starts: list[int] = []

    def restart() -> Iterator[int]:
        starts.append(1)
        return iter(range(10))

    cursor = Cursor(restart)
    assert cursor.read(0, 2) == [0, 1]
    assert cursor.read(2, 4) == [2, 3]
    assert cursor.read(6, 7) == [6]
    assert cursor.read(6, 7) == [6]
    assert len(starts) == 1
    assert cursor.read(5, 7) == [5, 6]
    assert len(starts) == 2
    assert cursor.length is None
    assert cursor.read(8, 20) == [8, 9]
    assert cursor.length == 10
    assert cursor.read(10, 12) == []
    assert len(starts) == 2
    assert cursor.count() == 10


def test_a_cursor_counts_no_further_than_it_must() -> None:
    taken: list[int] = []
    cursor = Cursor(lambda: (taken.append(index) or index for index in range(100)))
    assert cursor.count(3) == 3
    assert len(taken) == 3
    assert cursor.count() == 100


def test_feeds_are_read_when_they_are_asked_for() -> None:
    source = Counting(50)
    feeds = feeds_of(Dataset(source), [X], 20)
    assert len(feeds) == 20
    first = feeds[:4]
    assert len(first) == 4
    assert len(feeds[10:][:3]) == 3
    assert source.reads == []
    assert [feed["x"][0, 0] for feed in first] == [0, 1, 2, 3]
    assert feeds[10:][1]["x"].tolist() == [[11, 0]]
    assert feeds[-1]["x"].tolist() == [[19, 0]]
    assert source.reads == [0, 1, 2, 3, 11, 19]
    assert [feed["x"][0, 0] for feed in first] == [0, 1, 2, 3]
    with pytest.raises(IndexError):
        feeds[20]


def test_feeds_leave_padding_out_where_the_model_allows_it() -> None:
    ids = np.array([[5, 6, 0, 0], [7, 8, 9, 0]])
    data = Dataset({"ids": ids, "attention_mask": (ids > 0).astype(np.int64)})
    open_axes, fixed = (
        [TensorSpec(name, "tensor(int64)", shape) for name in ("ids", "attention_mask")]
        for shape in (("batch", "tokens"), ("batch", 4))
    )
    feeds = feeds_of(data, open_axes, 2)
    assert [feed["ids"].tolist() for feed in feeds] == [[[5, 6]], [[7, 8, 9]]]
    assert feeds[0]["attention_mask"].tolist() == [[1, 1]]
    assert [feed["ids"].shape for feed in feeds_of(data, fixed, 2)] == [(1, 4), (1, 4)]


def test_a_limit_reads_no_more_than_that_and_one_batch_no_more_than_itself() -> None:
    source = Counting(1000)
    data = Dataset(source)
    assert sum(batch.samples for batch in data.batches([X], 16, limit=40)) == 40
    assert source.reads == list(range(40))
    source.slow = True
    source.reads.clear()
    next(data.batches([X], 16))
    assert source.reads == list(range(16))


def test_slow_samples_are_read_ahead_by_one_batch_in_another_thread() -> None:
    threads: list[str] = []

    def items() -> Iterator[int]:
        for item in range(4):
            threads.append(threading.current_thread().name)
            yield item

    found = read_ahead(items())
    assert next(found) == 0
    assert len(threads) == 1
    assert list(found) == [1, 2, 3]
    assert threads[0] == threading.current_thread().name
    assert all(name.startswith("onnxshrink-data") for name in threads[1:])


def test_errors_of_the_reading_thread_arrive() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise DataError("broken")

    with pytest.raises(DataError, match="broken"):
        list(read_ahead(items()))


def test_parts_are_opened_as_far_as_needed() -> None:
    class Parts(Chained):
        counted: list[int] = []  # noqa: RUF012

        def part_count(self, part: int) -> int:
            self.counted.append(part)
            return part + 1

        def read_part(self, part: int, start: int, stop: int) -> Mapping[str, np.ndarray]:
            return {"x": np.array([[part, place] for place in range(start, stop)], np.float32)}

        def digest_parts(self) -> Iterator[bytes]:
            yield b""

    parts = Parts(100)
    assert np.array(parts.read(0, 4).arrays["x"]).tolist() == [[0, 0], [1, 0], [1, 1], [2, 0]]
    assert parts.counted == [0, 1, 2]
    assert parts.place(5) == (2, 2)
    assert parts.count() == 5050
    assert len(parts.read(5049, 5060)) == 1


def test_nan_is_found_when_it_is_read_and_the_sample_named() -> None:
    values = np.zeros((6, 2), np.float32)
    values[0] = np.inf
    values[0, 1] = -np.inf
    values[4, 1] = np.nan
    batches = Dataset({"x": values}, "d").batches([X], 3)
    assert next(batches).samples == 3
    with pytest.raises(DataError, match="d: sample 4: 'x' contains NaN"):
        next(batches)
    assert len(list(Dataset({"x": values}, "d", allow_nan=True).batches([X], 3))) == 2


def test_labels_may_belong_to_groups_of_samples() -> None:
    arrays = {"x": np.zeros((6, 2), np.float32), "label": np.array([0.5, 1.5, 2.5])}
    data = Dataset.from_arrays(arrays, [X], "d")
    assert data.samples_per_label == 2
    assert data.labels is not None
    assert data.labels.tolist() == [0.5, 1.5, 2.5]
    assert next(data.batches([X], 2)).labels is None
    assert data.explanation == ("3 labels for 6 samples: 2 to each",)
    with pytest.raises(DataError, match="d: 3 labels for 6 samples"):
        Dataset.from_arrays(arrays, [X], "d", samples_per_label=3)


def test_labels_of_any_kind_stay_what_they_are() -> None:
    boxes = packed([np.zeros((2, 4)), np.zeros((0, 4)), np.ones((1, 4))])
    assert boxes.dtype == object
    assert [box.shape for box in boxes] == [(2, 4), (0, 4), (1, 4)]
    assert packed(["a", "bc"]).tolist() == ["a", "bc"]
    assert packed([1, 2]).dtype == np.int64
    assert packed([np.eye(2), np.eye(2)]).shape == (2, 2, 2)
    assert packed([{"a": 1}, None]).tolist() == [{"a": 1}, None]
    data = Dataset({"x": np.zeros((3, 2), np.float32)}, labels=boxes)
    batch = next(data.batches([X], 2))
    assert batch.labels is not None
    assert [box.shape for box in batch.labels] == [(2, 4), (0, 4)]
