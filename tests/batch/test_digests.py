"""What a digest notices, and what it costs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import onnx
import onnx.helper
import pytest

from onnxshrink.batch import digests
from onnxshrink.batch.digests import ABSENT, DataDigests, Seen, external_files, look_at, module_file, stamp_of
from onnxshrink.graph.load import file_digest, load_model
from tests.batch.models import tiny_model


def settled(path: Path) -> None:
    """As if the file had been written long before it is looked at."""
    seen = stamp_of(path)
    assert seen is not None
    time.sleep(0)
    os.utime(path, ns=(seen[1] - 10**10, seen[1] - 10**10))


def test_a_model_has_the_digest_that_its_report_has(tmp_path: Path) -> None:
    inline, external = tiny_model(tmp_path / "a.onnx"), tiny_model(tmp_path / "b.onnx", external="b.data")
    for path in (inline, external):
        assert look_at(path).sha256 == file_digest(path, load_model(path))
    assert not look_at(inline).external
    assert look_at(external).external
    assert look_at(external).bytes == external.stat().st_size + (tmp_path / "b.data").stat().st_size


def test_external_data_counts_and_so_does_its_absence(tmp_path: Path) -> None:
    path, data = tiny_model(tmp_path / "a.onnx", external="a.data"), tmp_path / "a.data"
    whole = look_at(path)
    data.write_bytes(data.read_bytes()[:-1] + b"\x00")
    changed = look_at(path)
    data.unlink()
    missing = look_at(path)
    assert len({whole.sha256, changed.sha256, missing.sha256}) == 3
    assert missing.files["a.data"] is None


def test_a_folder_that_metadata_names_is_no_external_data(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "a.onnx")
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"location": "here"})
    onnx.save(model, path)
    (tmp_path / "here").mkdir()
    assert look_at(path).sha256 not in (ABSENT, look_at(tmp_path).sha256)
    assert look_at(path).files["here"] is None


def test_a_model_that_cannot_be_read_is_absent(tmp_path: Path) -> None:
    assert look_at(tmp_path / "a.onnx").sha256 == ABSENT
    assert look_at(tmp_path).sha256 == ABSENT


def test_an_untouched_model_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_model(tmp_path / "a.onnx", external="a.data")
    monkeypatch.setattr(digests, "_RACY_NS", 0)
    first = look_at(path)
    monkeypatch.setattr(digests, "_read_model", lambda *_: pytest.fail("it was read"))
    assert look_at(path, first) is first


def test_a_model_that_was_written_a_moment_ago_is_read_again(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "a.onnx")
    first = look_at(path)
    status = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert look_at(path, first).sha256 != first.sha256


def test_new_content_under_the_old_size_and_time_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_RACY_NS", 0)
    path = tiny_model(tmp_path / "a.onnx")
    first = look_at(path)
    status = path.stat()
    time.sleep(0.05)  # the clock of the file system ticks
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert look_at(path, first).sha256 != first.sha256


def test_files_of_external_data_are_found_without_parsing() -> None:
    entry = b"\n\x08location\x12"
    content = b"x" * 1000 + entry + b"\x05b.bin" + entry + b"\x07s/a.bin" + entry + b"\x07../evil" + entry + b"\xff"
    assert external_files(content) == ["b.bin", "s/a.bin"]


def test_data_is_its_content_and_not_its_name_or_time(tmp_path: Path) -> None:
    for name, content in (("a.csv", "x\n1"), ("b/a.csv", "x\n1"), ("c/a.csv", "x\n2")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    os.utime(tmp_path / "b/a.csv", (0, 0))
    taken = DataDigests()
    first, same, other = (taken.of(str(tmp_path / name)) for name in ("a.csv", "b/a.csv", "c/a.csv"))
    assert first == same != other
    assert taken.of(None) == ""


def test_a_folder_of_data_is_its_files_and_their_names(tmp_path: Path) -> None:
    for folder, name, content in (("a", "x.txt", "1"), ("b", "x.txt", "1"), ("c", "y.txt", "1"), ("d", "x.txt", "2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(content)
    first, same, renamed, changed = (DataDigests().of(str(tmp_path / folder)) for folder in "abcd")
    assert first == same
    assert len({first, renamed, changed}) == 3


def test_the_config_beside_the_data_counts_with_the_files_that_it_names(tmp_path: Path) -> None:
    data = tmp_path / "a.csv"
    data.write_text("x\n1")
    digests_taken = [DataDigests().of(str(data))]
    (tmp_path / "a.toml").write_text('labels-file = "l.csv"')
    (tmp_path / "l.csv").write_text("file,label\na.csv,1")
    digests_taken.append(DataDigests().of(str(data)))
    (tmp_path / "l.csv").write_text("file,label\na.csv,2")
    digests_taken.append(DataDigests().of(str(data)))
    (tmp_path / "own.toml").write_text("label = false")
    digests_taken.append(DataDigests().of(str(data), str(tmp_path / "own.toml")))
    assert len(set(digests_taken)) == 4


def test_a_config_that_cannot_be_read_counts_until_it_is_mended(tmp_path: Path) -> None:
    data, config = tmp_path / "a.csv", tmp_path / "a.toml"
    data.write_text("x\n1")
    taken = [DataDigests().of(str(data))]
    for text in ("label = ", "labels = 3", 'label = "x"'):
        config.write_text(text)
        taken.append(DataDigests().of(str(data)))
    assert len(set(taken)) == 4


def test_large_data_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "a.npz"
    data.write_bytes(b"12345")
    monkeypatch.setattr(digests, "MOST_DATA_BYTES", 4)
    first = DataDigests().of(str(data))
    data.write_bytes(b"54321")
    os.utime(data, (0, 0))
    assert DataDigests().of(str(data)) != first


def test_functions_of_one_module_are_different_data() -> None:
    taken = DataDigests()
    assert taken.of("tests.batch.models:hang") != taken.of("tests.batch.models:eat")
    assert module_file("tests.batch.models:hang") is not None
    assert module_file("no_such_module:hang") is None
    assert module_file("data/eval.npz") is None


def test_a_digest_survives_being_written_down(tmp_path: Path) -> None:
    seen = look_at(tiny_model(tmp_path / "a.onnx", external="a.data"))
    assert Seen(seen.sha256, dict(seen.files)) == seen
