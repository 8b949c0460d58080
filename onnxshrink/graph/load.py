"""Files to ``ir.Model``: external data stays on disk, and what cannot be loaded is refused with its cause."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx.external_data_helper import _get_all_tensors, uses_external_data
from onnx_ir.passes.common import TopologicalSortPass

from onnxshrink.errors import FileAccessError, ModelError, first_line
from onnxshrink.graph.sparse import densify_sparse_initializers
from onnxshrink.graph.walk import all_graphs, all_nodes

MIN_OPSET = 7
MIN_IR_VERSION = 3

_CHUNK_BYTES = 2**20
_MAP_ABOVE_BYTES = 16 * 2**20
_MAPPED_TENSOR_BYTES = 2**16
_IN_MODEL_FILE = "onnxshrink.in_model_file"


def load_model(path: str | os.PathLike[str]) -> ir.Model:
    """Load a model. Weights in external data stay on disk (memory-mapped); nodes come out in topological order.

    Raises:
        FileAccessError: the file, or a file of its external data, cannot be read.
        ModelError: not an ONNX model, damaged, older than opset 7 or IR version 3, or newer than this onnx package,
            or external data outside the model's folder.
    """
    path = Path(path)
    proto = _parse(path)
    _check_versions(proto, path)
    _check_external_data(proto, path)
    return from_proto(_with_mapped_weights(proto, path), path)


def from_proto(proto: onnx.ModelProto, path: Path | None = None) -> ir.Model:
    """Turn a ``ModelProto`` into a model; ``path`` is the file it came from, where external data is looked up."""
    name = str(path) if path is not None else "the model"
    try:
        densify_sparse_initializers(proto)
        model = ir.from_proto(proto)
        if path is not None:
            for graph in all_graphs(model):
                ir.external_data.set_base_dir(graph, path.absolute().parent)
            _read_inner_external_data(model)
            for tensor in _initializer_tensors(model):
                if isinstance(tensor, ir.ExternalTensor) and str(tensor.location) == path.name:
                    tensor.meta[_IN_MODEL_FILE] = True
        TopologicalSortPass()(model)
    except Exception as error:  # onnx_ir reports a damaged graph by whatever its reading code runs into
        raise ModelError(f"{name} is not a valid ONNX model: {first_line(error)}") from error
    return model


def _read_inner_external_data(model: ir.Model) -> None:
    """Take external data outside the main graph's initializers into memory: there it is rare and small."""
    for graph in all_graphs(model):
        for value in graph.initializers.values() if graph is not model.graph else ():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = _in_memory(value.const_value)
        for node in graph:
            for name, attribute in node.attributes.items():
                if isinstance(attribute.value, ir.ExternalTensor):
                    node.attributes[name] = ir.AttrTensor(name, _in_memory(attribute.value))


def _in_memory(tensor: ir.ExternalTensor) -> ir.Tensor[np.ndarray]:
    return ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)


def _with_mapped_weights(proto: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Let the large weights of a large file be read from the file itself: memory need not hold a copy of them."""
    status = path.stat()
    if status.st_size < _MAP_ABOVE_BYTES or status.st_nlink > 1 or path.resolve() != path.absolute():
        return proto  # onnx_ir maps no file that has several names
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        position = 0
        for tensor in proto.graph.initializer:
            data = tensor.raw_data
            found = content.find(data[:_MAPPED_TENSOR_BYTES], position) if len(data) >= _MAPPED_TENSOR_BYTES else -1
            if found < 0 or content[found : found + len(data)] != data:
                continue
            position = found + len(data)
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in {"location": path.name, "offset": found, "length": len(data)}.items():
                tensor.external_data.add(key=key, value=str(value))
    # A parsed message frees its memory as a whole only: parse what is left of it anew.
    lean = onnx.ModelProto()
    lean.ParseFromString(proto.SerializeToString())
    return lean


def is_in_data_file(tensor: ir.TensorProtocol | None) -> bool:
    """Whether a tensor is external data in the sense of ONNX: in another file than the model."""
    return isinstance(tensor, ir.ExternalTensor) and not tensor.meta.get(_IN_MODEL_FILE)


def release_weights(model: ir.Model) -> None:
    """Give back the memory of weights that were read from disk; they are read again when they are needed again."""
    for tensor in _initializer_tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            with contextlib.suppress(BufferError):  # somebody still looks at it
                tensor.release()


def model_digest(model: ir.Model) -> str:
    """SHA-256 of a model in memory: its graph and the bytes of its weights, in hex."""
    digest = hashlib.sha256()
    for tensor in _initializer_tensors(model):
        digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}\n".encode())
        digest.update(tensor.tobytes())
    bare = model.clone()
    for graph in all_graphs(bare):
        graph.initializers.clear()
    digest.update(ir.to_proto(bare).SerializeToString(deterministic=True))
    return digest.hexdigest()


def file_digest(path: Path, model: ir.Model) -> str:
    """SHA-256 of a model: of the file, and of its external data files behind it in the order of their names."""
    digest = hashlib.sha256()
    for part in model_files(path, model):
        with part.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def model_files(path: Path, model: ir.Model) -> list[Path]:
    """The files that ``model``, loaded from ``path``, consists of: the file, then its external data files by name."""
    locations = {
        str(tensor.location)
        for tensor in _all_tensors(model)
        if isinstance(tensor, ir.ExternalTensor) and is_in_data_file(tensor)
    }
    return [path, *(path.parent / location for location in sorted(locations))]


def uses_external_files(model: ir.Model) -> bool:
    """Whether any initializer lives in external data."""
    return any(is_in_data_file(tensor) for tensor in _initializer_tensors(model))


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers, in the main graph and in subgraphs."""
    return sum(int(tensor.nbytes) for tensor in _initializer_tensors(model))


def _parse(path: Path) -> onnx.ModelProto:
    if path.is_dir():
        raise FileAccessError(f"{path} is a folder: give the .onnx file in it")
    try:
        if path.stat().st_size == 0:
            raise ModelError(f"{path} is empty (0 bytes)")
        proto = onnx.load(path, format="protobuf", load_external_data=False)
    except FileNotFoundError:
        raise FileAccessError(f"{path} does not exist") from None
    except OSError as error:
        raise FileAccessError(f"cannot read {path}: {error.strerror}") from error
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX file, or it is truncated: it does not parse as protobuf") from error
    if not proto.HasField("graph") or not proto.ir_version:
        raise ModelError(f"{path} is not an ONNX file: it holds no graph")
    return proto


def _check_versions(proto: onnx.ModelProto, path: Path) -> None:
    if not MIN_IR_VERSION <= proto.ir_version <= onnx.IR_VERSION:
        raise ModelError(
            f"{path} has IR version {proto.ir_version}; supported are {MIN_IR_VERSION} to {onnx.IR_VERSION}"
        )
    newest = onnx.defs.onnx_opset_version()
    for opset in proto.opset_import:
        if opset.domain in ("", "ai.onnx") and not MIN_OPSET <= opset.version <= newest:
            raise ModelError(
                f"{path} has opset {opset.version}; supported are {MIN_OPSET} to {newest}: export it again, "
                "or convert it with onnx.version_converter"
            )


def _check_external_data(proto: onnx.ModelProto, path: Path) -> None:
    """External data must lie in the model's folder, exist, and be long enough."""
    folder = path.absolute().parent
    for location, tensor, end in _external_ranges(proto):
        target = (folder / location).resolve()
        if os.path.isabs(location) or not target.is_relative_to(folder.resolve()):
            raise ModelError(f"{path}: the external data '{location}' of '{tensor}' lies outside the model's folder")
        if not target.is_file():
            raise FileAccessError(f"{path}: the external data file '{location}' of '{tensor}' is missing")
        size = target.stat().st_size
        if end > size:
            raise ModelError(f"{path}: '{location}' is truncated: '{tensor}' ends at byte {end}, the file at {size}")


def _external_ranges(proto: onnx.ModelProto) -> Iterator[tuple[str, str, int]]:
    """Location, tensor name and last byte of every tensor in external data."""
    for tensor in _get_all_tensors(proto):
        if uses_external_data(tensor):
            info = {entry.key: entry.value for entry in tensor.external_data}
            yield info.get("location", ""), tensor.name, int(info.get("offset", 0)) + int(info.get("length", 0))


def _initializer_tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value


def _all_tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    yield from _initializer_tensors(model)
    for node in all_nodes(model):
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                yield attribute.as_tensor()
