"""What loads, and what is refused with which error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxshrink.errors import FileAccessError, ModelError, OnnxShrinkError
from onnxshrink.graph.load import file_digest, load_model, model_files, uses_external_files
from tests.support import outputs

ADD = '<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (float[2] y) { y = Add(x, w) }'


def _add_model() -> onnx.ModelProto:
    proto = onnx.parser.parse_model(ADD)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 2], np.float32), "w"))
    return proto


def _external(folder: Path, location: str, length: int = 8) -> Path:
    proto = _add_model()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(length)}.items():
        tensor.external_data.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_is_found_beside_the_model(tmp_path: Path) -> None:
    (tmp_path / "w.data").write_bytes(np.array([3, 4], np.float32).tobytes())
    path = _external(tmp_path, "w.data")
    model = load_model(path)
    assert uses_external_files(model)
    assert model_files(path, model) == [path, tmp_path / "w.data"]
    np.testing.assert_array_equal(outputs(model, {"x": np.zeros(2, np.float32)})["y"], [3, 4])


def test_the_digest_covers_external_data(tmp_path: Path) -> None:
    (tmp_path / "w.data").write_bytes(np.array([3, 4], np.float32).tobytes())
    path = _external(tmp_path, "w.data")
    before = file_digest(path, load_model(path))
    (tmp_path / "w.data").write_bytes(np.array([3, 5], np.float32).tobytes())
    assert file_digest(path, load_model(path)) != before


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _bad_files(folder: Path) -> dict[str, tuple[Path, type[OnnxShrinkError], str]]:
    whole = _add_model().SerializeToString()
    old = _add_model()
    old.opset_import[0].version = 6
    new = _add_model()
    new.opset_import[0].version = 999
    ancient = _add_model()
    ancient.ir_version = 2
    outside = folder / "inner"
    outside.mkdir()
    (folder / "secret").write_bytes(b"12345678")
    absolute = folder / "absolute"
    absolute.mkdir()
    missing = folder / "gone"
    missing.mkdir()
    short = folder / "short"
    short.mkdir()
    (short / "w.data").write_bytes(b"1234")
    linked = folder / "linked"
    linked.mkdir()
    (linked / "w.data").symlink_to(folder / "secret")
    return {
        "missing": (folder / "no.onnx", FileAccessError, "does not exist"),
        "folder": (folder, FileAccessError, "is a folder"),
        "empty": (_write(folder / "empty.onnx", b""), ModelError, "is empty (0 bytes)"),
        "text": (_write(folder / "text.onnx", b"hello, this is text\n" * 9), ModelError, "is not an ONNX file"),
        "truncated": (_write(folder / "cut.onnx", whole[: len(whole) // 2]), ModelError, "truncated"),
        "old opset": (_write(folder / "old.onnx", old.SerializeToString()), ModelError, "has opset 6; supported are 7"),
        "new opset": (_write(folder / "new.onnx", new.SerializeToString()), ModelError, "has opset 999"),
        "old IR": (_write(folder / "ir.onnx", ancient.SerializeToString()), ModelError, "has IR version 2"),
        "outside": (_external(outside, "../secret"), ModelError, "lies outside the model's folder"),
        "absolute": (_external(absolute, "/etc/hostname"), ModelError, "lies outside the model's folder"),
        "symlink": (_external(linked, "w.data"), ModelError, "lies outside the model's folder"),
        "no data": (_external(missing, "w.data"), FileAccessError, "external data file 'w.data' of 'w' is missing"),
        "short data": (_external(short, "w.data"), ModelError, "'w' ends at byte 8, the file at 4"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "missing", "folder", "empty", "text", "truncated", "old opset", "new opset", "old IR",
        "outside", "absolute", "symlink", "no data", "short data",
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    path, kind, message = _bad_files(tmp_path)[case]
    with pytest.raises(kind) as caught:
        load_model(path)
    assert message in str(caught.value)
    assert str(path.name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unsorted_nodes_come_out_sorted(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (float[2] y) { a = Neg(x) y = Neg(a) }'
    )
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(nodes))
    path = _write(tmp_path / "m.onnx", proto.SerializeToString())
    assert [node.outputs[0].name for node in load_model(path).graph] == ["a", "y"]


@pytest.mark.parametrize("linear", [True, False])
def test_sparse_initializers_become_dense(linear: bool, tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 13]> g (float[2,3] x) => (float[2,3] y) { y = Add(x, w) }'
    )
    values = numpy_helper.from_array(np.array([5, 7], np.float32), "w")
    indices = np.array([1, 5], np.int64) if linear else np.array([[0, 1], [1, 2]], np.int64)
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(indices, "i"), [2, 3])
    proto.graph.sparse_initializer.append(sparse)
    model = load_model(_write(tmp_path / "m.onnx", proto.SerializeToString()))
    expected = np.array([[0, 5, 0], [0, 0, 7]], np.float32)
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), expected)  # type: ignore[union-attr]


def test_external_data_of_constant_nodes_is_read_into_memory(tmp_path: Path) -> None:
    (tmp_path / "w.data").write_bytes(np.array([3, 4], np.float32).tobytes())
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.data")
    graph = helper.make_graph(
        [helper.make_node("Constant", [], ["w"], value=tensor), helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    model = load_model(_write(tmp_path / "m.onnx", proto.SerializeToString()))
    assert not isinstance(next(iter(model.graph)).attributes["value"].as_tensor(), ir.ExternalTensor)
    np.testing.assert_array_equal(outputs(model, {"x": np.zeros(2, np.float32)})["y"], [3, 4])
