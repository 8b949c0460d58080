"""Cached statistics: the same numbers, and never from a file that is not sound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.calibration import statistics_cache
from onnxshrink.calibration.statistics_cache import cached_statistics
from onnxshrink.numerics.activation_statistics import ActivationStatistics

_A, _B = ir.Value(name="a"), ir.Value(name="b")
_VALUES: Mapping[ir.Value, int | None] = {_A: 1, _B: None}


class _Collect:
    """Statistics of ``a`` alone, and how often they were asked for."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[ir.Value, ActivationStatistics]:
        self.calls += 1
        statistics = ActivationStatistics(1)
        statistics.add(np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32), batched=True)
        return {_A: statistics}


def _state(found: Mapping[ir.Value, ActivationStatistics]) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in found[_A].state().items()}


def test_the_second_time_the_file_answers(tmp_path: Path) -> None:
    collect, folder = _Collect(), tmp_path / "new" / "folder"
    first = cached_statistics(folder, "model", "data", _VALUES, collect)
    second = cached_statistics(folder, "model", "data", _VALUES, collect)
    assert collect.calls == 1
    assert list(first) == list(second) == [_A]
    assert _state(first) == _state(second)
    assert [path.suffix for path in folder.iterdir()] == [".npz"]


def test_without_a_folder_nothing_is_kept() -> None:
    collect = _Collect()
    for _ in range(2):
        assert list(cached_statistics(None, "model", "data", _VALUES, collect)) == [_A]
    assert collect.calls == 2


@pytest.mark.parametrize(
    ("model", "data", "values"),
    [
        ("other", "data", _VALUES),
        ("model", "other", _VALUES),
        ("model", "data", {_A: 2, _B: None}),
        ("model", "data", {_A: 1}),
    ],
    ids=["model", "data", "axis", "values"],
)
def test_another_key_is_another_file(
    tmp_path: Path, model: str, data: str, values: Mapping[ir.Value, int | None]
) -> None:
    collect = _Collect()
    cached_statistics(tmp_path, "model", "data", _VALUES, collect)
    cached_statistics(tmp_path, model, data, values, collect)
    assert collect.calls == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_another_runtime_is_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collect = _Collect()
    cached_statistics(tmp_path, "model", "data", _VALUES, collect)
    monkeypatch.setattr(statistics_cache.metadata, "version", lambda name: "0.0")
    cached_statistics(tmp_path, "model", "data", _VALUES, collect)
    assert collect.calls == 2


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return dict(archive)


def _bare_array(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))


def _foreign(path: Path) -> None:
    np.savez(path, key=np.array("another"), names=np.array("[]"))


def _unsound(path: Path) -> None:
    arrays = _arrays(path)
    np.savez(path, **(arrays | {"0/bins": arrays["0/bins"] + 1}))


def _incomplete(path: Path) -> None:
    arrays = _arrays(path)
    np.savez(path, **{name: array for name, array in arrays.items() if not name.startswith("0/")})


def _pickled(path: Path) -> None:
    np.savez(path, allow_pickle=True, key=np.array({"a": 1}, dtype=object), names=np.array("[]"))


def _renamed(path: Path) -> None:
    np.savez(path, **(_arrays(path) | {"names": np.array('["stranger"]')}))


def _numbers_for_names(path: Path) -> None:
    np.savez(path, **(_arrays(path) | {"names": np.array("3")}))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x93NUMPY\x01"),
        lambda path: path.write_bytes(path.read_bytes()[:-200]),
        lambda path: path.write_bytes(path.read_bytes()[:300] + b"\xff" * 40 + path.read_bytes()[340:]),
        _bare_array,
        _foreign,
        _unsound,
        _incomplete,
        _pickled,
        _renamed,
        _numbers_for_names,
    ],
)
def test_a_file_that_is_not_sound_is_replaced(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    collect = _Collect()
    first = cached_statistics(tmp_path, "model", "data", _VALUES, collect)
    (path,) = tmp_path.iterdir()
    damage(path)
    assert _state(cached_statistics(tmp_path, "model", "data", _VALUES, collect)) == _state(first)
    assert collect.calls == 2
    cached_statistics(tmp_path, "model", "data", _VALUES, collect)
    assert collect.calls == 2


def test_no_single_damaged_byte_is_believed(tmp_path: Path) -> None:
    collect = _Collect()
    first = cached_statistics(tmp_path, "model", "data", _VALUES, collect)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for position in range(0, len(content), 37):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        assert _state(cached_statistics(tmp_path, "model", "data", _VALUES, collect)) == _state(first)


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_cache(tmp_path: Path) -> None:
    collect, folder = _Collect(), tmp_path / "file"
    folder.write_text("in the way")
    assert list(cached_statistics(folder, "model", "data", _VALUES, collect)) == [_A]
    assert folder.read_text() == "in the way"


def test_a_failed_write_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(statistics_cache.os, "replace", fail)
    assert list(cached_statistics(tmp_path, "model", "data", _VALUES, _Collect())) == [_A]
    assert list(tmp_path.iterdir()) == []
