"""A function's feeds are run as they are yielded, from the start in every sweep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxshrink.calibration.dataset import feeds_of
from onnxshrink.data.read import read_data
from onnxshrink.errors import DataError
from onnxshrink.measure.session import TensorSpec
from tests.data.sources import all_values

X = TensorSpec("x", "tensor(float)", ("n", 2))


class Source:
    """A function that counts its calls and what it yields."""

    def __init__(self, *yielded: Any) -> None:
        self.values, self.calls, self.yields = yielded, 0, 0

    def __call__(self) -> Iterator[Any]:
        self.calls += 1
        for value in self.values:
            self.yields += 1
            yield value


def test_samples_without_the_batch_axis_are_stacked() -> None:
    source = Source(*({"x": np.float32([index, 0])} for index in range(5)))
    data = read_data(source, [X])
    assert [batch.feed["x"].tolist() for batch in data.batches([X], 2)] == [
        [[0, 0], [1, 0]],
        [[2, 0], [3, 0]],
        [[4, 0]],
    ]
    assert data.samples == 5
    assert data.labels is None


def test_feeds_are_run_as_they_are() -> None:
    source = Source(*(({"x": np.zeros((size, 2), np.float32)}, np.arange(size)) for size in (3, 1, 2)))
    data = read_data(source, [X])
    batches = list(data.batches([X], 8))
    assert [batch.samples for batch in batches] == [3, 1, 2]
    assert [batch.labels.tolist() for batch in batches if batch.labels is not None] == [[0, 1, 2], [0], [0, 1]]
    assert data.samples == 6
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2, 0, 0, 1]


def test_labels_of_any_kind() -> None:
    boxes = [np.zeros((count, 4)) for count in (1, 3)]
    data = read_data(Source(*(({"x": np.zeros(2, np.float32)}, box) for box in boxes)), [X])
    assert data.labels is not None
    assert [label.shape for label in data.labels] == [(1, 4), (3, 4)]
    data = read_data(Source(({"x": np.zeros(2, np.float32)}, "a"), ({"x": np.zeros(2, np.float32)}, "b")), [X])
    assert data.labels is not None
    assert data.labels.tolist() == ["a", "b"]


def test_each_sweep_calls_the_function_once_and_goes_no_further_than_it_must() -> None:
    source = Source(*({"x": np.zeros((1, 2), np.float32)} for _ in range(100)))
    data = read_data(source, [X])
    assert (source.calls, source.yields) == (1, 1)
    feeds = feeds_of(data, [X], 10)
    assert len(list(feeds)) == 10
    assert (source.calls, source.yields) == (2, 20)  # once to count them
    source.calls = source.yields = 0
    assert len(list(data.batches([X], 1))) == 100
    assert (source.calls, source.yields) == (1, 100)
    assert (data.samples, len(data.digest)) == (100, 64)
    assert (source.calls, source.yields) == (1, 100)


def test_the_digest_depends_on_every_feed() -> None:
    def data(last: float) -> str:
        return read_data(Source({"x": np.zeros(2)}, {"x": np.array([0, last])}), [X]).digest

    assert data(1) == data(1) != data(2)


def test_a_function_by_name_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_samples_here.py").write_text(
        "import numpy as np\n\nnothing = 3\n\ndef feeds():\n    for index in range(3):\n"
        "        yield {'x': np.full((1, 2), index, np.float32)}, index\n"
    )
    monkeypatch.chdir(tmp_path)
    data = read_data("my_samples_here:feeds", [X])
    assert all_values(data, [X])["x"][:, 0].tolist() == [0, 1, 2]
    assert data.description == "my_samples_here:feeds"
    with pytest.raises(DataError, match="the module 'my_samples_here' has no function 'foods'"):
        read_data("my_samples_here:foods", [X])
    with pytest.raises(DataError, match="has something else than a function called 'nothing'"):
        read_data("my_samples_here:nothing", [X])
    with pytest.raises(DataError, match="cannot import 'no_such_module' for no_such_module:feeds: ModuleNotFoundError"):
        read_data("no_such_module:feeds", [X])


@pytest.mark.parametrize(
    ("yielded", "message"),
    [
        ((), "there are no samples"),
        ((3,), "feed 0 is a int: yield dicts of arrays by input name"),
        (({"y": np.zeros(2)},), "feed 0 has no array for the input 'x' (arrays: y)"),
        (({"x": np.zeros((1, 1, 2))},), "feed 0: 'x' has shape (1, 1, 2)"),
        (({"x": np.zeros((1, 3))},), "feed 0: 'x' has shape (1, 3), the model's input is [n, 2]"),
        (({"x": np.zeros((1, 2))}, {"x": np.array([[np.nan, 0]])}), "feed 1: 'x' contains NaN"),
    ],
)
def test_what_does_not_fit_is_refused(yielded: tuple[Any, ...], message: str) -> None:
    with pytest.raises(DataError) as caught:
        all_values(read_data(Source(*yielded), [X]), [X])
    assert message in str(caught.value)


def test_feeds_that_cannot_be_read_again_are_refused() -> None:
    with pytest.raises(DataError, match=r"data is a path, .* or a function, not a generator"):
        read_data(Source({"x": np.zeros(2)})(), [X])  # type: ignore[arg-type]


def test_errors_of_the_function_take_one_line() -> None:
    def broken() -> Iterator[Any]:
        yield {"x": np.zeros((1, 2), np.float32)}
        raise KeyError("pixel")

    data = read_data(broken, [X])
    with pytest.raises(DataError, match=r"broken raised KeyError: 'pixel'"):
        all_values(data, [X])
