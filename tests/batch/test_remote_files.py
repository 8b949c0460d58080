"""Files by URL: in memory, on disk, and in stores that say what real ones do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from onnxshrink.batch.remote_data import Data, fetch_data
from onnxshrink.batch.remote_files import (
    _mark,
    download,
    exists,
    file_at,
    find_files,
    is_url,
    remove,
    stays_below,
    upload,
    write_text,
)
from onnxshrink.errors import FileAccessError, OnnxShrinkError


@pytest.fixture(params=["memory", "file"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty folder of each kind."""
    if request.param == "file":
        yield tmp_path.as_uri() + "/store"
        return
    yield "memory://store"
    fsspec.filesystem("memory").store.clear()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("s3://bucket/a.onnx", True),
        ("memory://a", True),
        ("C://a", False),
        ("a.onnx", False),
        ("/a://b", False),
        ("", False),
    ],
)
def test_what_a_url_is(text: str, url: bool) -> None:
    assert is_url(text) is url


@pytest.mark.parametrize(
    ("name", "below"),
    [("w.data", True), ("sub/w", True), ("../w", False), ("/w", False), ("a/../../w", False), ("", False)],
)
def test_what_stays_below_a_folder(name: str, below: bool) -> None:
    assert stays_below(name) is below


def test_what_was_written_can_be_found_read_and_removed(root: str, tmp_path: Path) -> None:
    assert not exists(f"{root}/sub/a.onnx")
    assert find_files(root) == []
    (tmp_path / "a").write_bytes(b"12345")
    upload(tmp_path / "a", f"{root}/sub/a.onnx")
    write_text(f"{root}/b.onnx", "né")
    found = find_files(root)
    assert [(one.name, one.bytes) for one in found] == [("b.onnx", 3), ("sub/a.onnx", 5)]
    assert [one.name for one in find_files(f"{root}/sub/a.onnx")] == ["a.onnx"]
    assert [one.name for one in find_files(f"{root}/*.onnx")] == ["b.onnx"]
    assert [one.name for one in find_files(f"{root}/**/*.onnx")] == ["b.onnx", "sub/a.onnx"]
    assert [one.name for one in find_files(f"{root}/s*")] == ["sub/a.onnx"]
    download(found[1].url, tmp_path / "back" / "a")
    assert (tmp_path / "back" / "a").read_bytes() == b"12345"
    remove(found[0].url)
    remove(found[0].url)
    assert [one.name for one in find_files(root)] == ["sub/a.onnx"]
    assert file_at(f"{root}/sub") is None


def test_a_file_that_is_written_again_has_another_mark(root: str) -> None:
    write_text(f"{root}/a", "one")
    first = file_at(f"{root}/a")
    assert file_at(f"{root}/a") == first
    write_text(f"{root}/a", "two")
    second = file_at(f"{root}/a")
    assert first is not None
    assert second is not None
    assert (first.bytes, second.bytes) == (3, 3)
    assert first.mark != second.mark


def test_half_a_file_never_has_the_name(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(f"{root}/a", "old")
    (tmp_path / "new").write_text("new", encoding="utf-8")
    files, _ = fsspec.core.url_to_fs(root)
    put = type(files).put_file

    def broken(self: object, source: str, target: str, **options: object) -> None:
        put(self, source, target, **options)
        raise OSError("the line went dead")

    monkeypatch.setattr(type(files), "put_file", broken)
    with pytest.raises(FileAccessError, match=r"cannot write .*/a: OSError: the line went dead"):
        upload(tmp_path / "new", f"{root}/a")
    with files.open(fsspec.core.url_to_fs(f"{root}/a")[1], "rb") as stream:
        assert stream.read() == b"old"
    assert [one.name for one in find_files(root)] == ["a"]


def test_what_a_killed_process_left_is_removed_by_the_next_one(root: str) -> None:
    for name in (".a.onnx.0123abcd", ".a.onnx.notes", ".b.onnx.0123abcd"):
        write_text(f"{root}/{name}", "left")
    write_text(f"{root}/a.onnx", "new")
    assert [one.name for one in find_files(root)] == [".a.onnx.notes", ".b.onnx.0123abcd", "a.onnx"]


def test_what_stores_tell_of_a_file() -> None:
    """Equal for equal bytes where there is a digest, else for the same version of the same file."""
    md5 = {"ETag": '"0123456789abcdef0123456789abcdef"', "size": 5}
    assert _mark(md5, "s3://a/x") == _mark({**md5, "LastModified": "later"}, "s3://b/y")
    assert _mark(md5, "s3://a/x") != _mark({**md5, "size": 6}, "s3://a/x")
    google = {"md5Hash": "XUFAKrxLKna5cZ2REBfFkg==", "size": 5, "etag": "CJ"}
    assert _mark(google, "gs://a/x") == _mark({**google, "etag": "CK"}, "gs://b/x")
    other = {"size": 5, "mtime": 1.5}
    assert _mark(other, "sftp://a/x") != _mark(other, "sftp://a/y")
    assert _mark(other, "sftp://a/x") != _mark({**other, "mtime": 2.5}, "sftp://a/x")
    assert _mark({"size": 5, "ETag": 'W/"1"'}, "https://a/x") != _mark({"size": 5, "ETag": 'W/"1"'}, "https://a/y")


def test_data_is_fetched_once_and_again_when_it_has_changed(root: str) -> None:
    write_text(f"{root}/photos/a.txt", "a")
    write_text(f"{root}/photos/sub/b.txt", "b")
    write_text(f"{root}/photos.toml", 'labels-file = "labels.csv"\ntokenizer = "../outside.json"\n')
    write_text(f"{root}/labels.csv", "a.txt,1")
    here = fetch_data(f"{root}/photos/")
    assert sorted(path.relative_to(here.parent).as_posix() for path in here.parent.rglob("*") if path.is_file()) == [
        "labels.csv",
        "photos.toml",
        "photos/a.txt",
        "photos/sub/b.txt",
    ]
    assert fetch_data(f"{root}/photos") == here
    write_text(f"{root}/photos/a.txt", "A")
    changed = fetch_data(f"{root}/photos")
    assert changed != here
    assert (changed / "a.txt").read_text(encoding="utf-8") == "A"


def test_a_single_file_is_data_too(root: str) -> None:
    write_text(f"{root}/x/x", "1")
    write_text(f"{root}/x/data.toml", "")
    assert fetch_data(f"{root}/x/x").read_text(encoding="utf-8") == "1"
    assert fetch_data(f"{root}/x").is_dir()
    assert sorted(Data.at(f"{root}/x/x").files) == ["data.toml", "x"]


def test_what_is_not_there_is_one_line(root: str, tmp_path: Path) -> None:
    for call in (lambda: fetch_data(f"{root}/none"), lambda: download(f"{root}/none", tmp_path / "x")):
        with pytest.raises(FileAccessError, match="none does not exist"):
            call()
    with pytest.raises(FileAccessError, match=r"cannot open nonsense://a"):
        find_files("nonsense://a")


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(OnnxShrinkError, match=r"pip install 'onnxshrink\[remote\]'"):
        exists("s3://bucket/a.onnx")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(OnnxShrinkError, match=r"s3://bucket/a.onnx: this protocol needs another package: .*s3fs"):
        exists("s3://bucket/a.onnx")
