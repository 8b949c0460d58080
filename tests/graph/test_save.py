"""Files appear whole or not at all, with the right bytes, inline or external."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxshrink.atomic_files import write_text_atomically
from onnxshrink.errors import FileAccessError
from onnxshrink.graph import save
from onnxshrink.graph.load import load_model
from onnxshrink.graph.save import save_model, serialized_bytes, stage_model
from onnxshrink.measure.session import SessionSettings, open_session
from tests.support import model_from_text, outputs

TEXT = (
    '<ir_version: 8, opset_import: ["" : 13]> g (float[n,64] x) => (float[n,64] y) { h = MatMul(x, w) y = Add(h, b) }'
)
RNG = np.random.default_rng(0)
WEIGHTS = {
    "w": RNG.standard_normal((64, 64), np.float32),
    "b": RNG.standard_normal(64, np.float32),
}


def _model() -> ir.Model:
    return model_from_text(TEXT, **WEIGHTS)


def _constants(path: Path) -> dict[str, bytes]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor).tobytes() for tensor in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("external", [False, True])
def test_weights_come_back_bit_for_bit(external: bool, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save_model(_model(), path, external=external)
    onnx.checker.check_model(str(path), full_check=True)
    assert _constants(path) == {name: array.tobytes() for name, array in WEIGHTS.items()}
    assert len(list(tmp_path.iterdir())) == 1 + external


@pytest.mark.parametrize("external", [False, True])
def test_the_same_model_gives_the_same_bytes(external: bool, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save_model(_model(), tmp_path / folder / "m.onnx", external=external)
    first, second = ([part.read_bytes() for part in sorted((tmp_path / f).iterdir())] for f in ("a", "b"))
    assert first == second


def test_serialized_bytes_is_the_size_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save_model(_model(), path)
    assert abs(serialized_bytes(_model()) - path.stat().st_size) <= 4 * len(WEIGHTS)


def test_replacing_a_model_with_external_data_leaves_no_old_data_behind(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save_model(_model(), path, external=True)
    other = model_from_text(TEXT, w=2 * WEIGHTS["w"], b=WEIGHTS["b"])
    save_model(other, path, external=True, force=True)
    assert len(list(tmp_path.iterdir())) == 2
    feeds = {"x": np.eye(64, dtype=np.float32)}
    np.testing.assert_array_equal(outputs(load_model(path), feeds)["y"], outputs(other, feeds)["y"])


def test_above_the_protobuf_limit_weights_go_to_a_file_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(save, "PROTOBUF_LIMIT_BYTES", 1000)
    save_model(_model(), tmp_path / "m.onnx", external=False)
    assert len(list(tmp_path.iterdir())) == 2


def test_an_external_model_can_be_saved_inline(tmp_path: Path) -> None:
    save_model(_model(), tmp_path / "m.onnx", external=True)
    save_model(load_model(tmp_path / "m.onnx"), tmp_path / "inline.onnx", external=False)
    assert _constants(tmp_path / "inline.onnx") == {name: array.tobytes() for name, array in WEIGHTS.items()}
    assert (tmp_path / "inline.onnx").stat().st_size > 64 * 64 * 4


def test_what_is_not_committed_leaves_nothing_behind(tmp_path: Path) -> None:
    with stage_model(_model(), tmp_path / "m.onnx") as staged:
        assert staged.path.exists()
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileAccessError, match="No space left on device"):
        save_model(_model(), path, force=True)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_refused_destinations(tmp_path: Path) -> None:
    existing = tmp_path / "m.onnx"
    existing.write_bytes(b"old")
    for destination, message in [
        (tmp_path, "is a folder"),
        (existing, "exists: use --force"),
        (tmp_path / "no" / "m.onnx", "does not exist: create it first"),
    ]:
        with pytest.raises(FileAccessError, match=message):
            save_model(_model(), destination)
    assert existing.read_bytes() == b"old"


def test_text_files_are_replaced_in_one_step_and_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "r.md"
    write_text_atomically(path, "one")
    write_text_atomically(path, "two")
    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_only_data_files_of_the_replaced_model_are_removed(tmp_path: Path) -> None:
    """Names with characters that mean something in patterns, and files of others that look alike, are no match."""
    path = tmp_path / "m[1].onnx"
    save_model(_model(), path, external=True)
    others = [tmp_path / name for name in ("m1.onnx.0123456789ab.data", "m[1].onnx.mybackupfile.data")]
    for other in others:
        other.write_bytes(b"precious")
    save_model(model_from_text(TEXT, w=2 * WEIGHTS["w"], b=WEIGHTS["b"]), path, external=True, force=True)
    assert [other.read_bytes() for other in others] == [b"precious"] * 2
    assert len(list(tmp_path.iterdir())) == 2 + len(others)


def test_weights_of_the_same_name_in_two_branches_both_count() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["" : 13]>
        g (bool c, float[40,40] x) => (float[40,40] y) {
            y = If(c) <then_branch = t () => (float[40,40] a) { a = Identity(x) },
                       else_branch = e () => (float[40,40] b) { b = Neg(x) }> }"""
    )
    for graph in model.graph.subgraphs():
        graph.register_initializer(ir.Value(name="w", const_value=ir.tensor(np.zeros((40, 40), np.float32), name="w")))
    assert abs(serialized_bytes(model) - len(ir.to_proto(model).SerializeToString())) <= 40


def test_sizes_that_shapes_are_inferred_from_stay_in_the_model_file(tmp_path: Path) -> None:
    """ONNX Runtime needs the values of ``sizes`` when it loads the model, and does not look for them elsewhere."""
    text = '<ir_version: 8, opset_import: ["" : 13]> g (float[n,64] x) => (float[n,1] y) {'
    names = ["y", *(f"y{index}" for index in range(1, 64))]
    text += f" h = MatMul(x, w) {', '.join(names)} = Split <axis = 1> (h, sizes) }}"
    model = model_from_text(text, w=WEIGHTS["w"], sizes=np.ones(64, np.int64))
    save_model(model, tmp_path / "m.onnx", external=True)
    stored = {
        tensor.name: tensor for tensor in onnx.load(tmp_path / "m.onnx", load_external_data=False).graph.initializer
    }
    assert [name for name, tensor in stored.items() if tensor.external_data] == ["w"]
    feeds = {"x": RNG.standard_normal((2, 64), np.float32)}
    with open_session(tmp_path / "m.onnx", SessionSettings(optimized=False, threads=1)) as session:
        np.testing.assert_array_equal(session.run(feeds)["y"], outputs(model, feeds)["y"])


def test_small_weights_get_no_file_of_their_own(tmp_path: Path) -> None:
    model = model_from_text(TEXT, w=np.eye(64, 64, dtype=np.float32)[:, :2], b=np.zeros(2, np.float32))
    for name, external in (("a.onnx", False), ("b.onnx", True)):
        save_model(model, tmp_path / name, external=external)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
