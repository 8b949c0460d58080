"""``ir.Model`` to files: staged beside the destination, flushed, and put in place in one step."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import onnx
import onnx_ir as ir
from onnx.external_data_helper import _get_all_tensors

from onnxshrink.atomic_files import check_destination, flush_to_disk
from onnxshrink.errors import FileAccessError, first_line
from onnxshrink.graph.data_files import data_files
from onnxshrink.graph.load import weight_bytes
from onnxshrink.graph.walk import all_graphs

PROTOBUF_LIMIT_BYTES = 2**31 - 2**20
"""A protobuf message ends at 2 GiB; what is larger needs external data. One MiB is left for the graph itself."""

_SMALL_TENSOR_BYTES = 4096
"""Smaller tensors stay in the model file: ONNX Runtime infers shapes from some, which it cannot from external data."""

_INLINE_LIMIT_BYTES = 16 * 2**20
"""Models with more weight bytes are handed over as external data, which ONNX Runtime maps instead of copying."""


def serialized_bytes(model: ir.Model) -> int:
    """The size of the model as a file, exact to a few bytes per tensor, without copying its large weights."""
    with _large_tensors_set_aside(all_graphs(model)) as large:
        graph_bytes = ir.to_proto(model).ByteSize()
    return int(graph_bytes) + sum(int(tensor.nbytes) + 2 * len(tensor.shape) for _, tensor in large)


@contextmanager
def _large_tensors_set_aside(graphs: Iterable[ir.Graph]) -> Iterator[list[tuple[str, ir.TensorProtocol]]]:
    """Inside the block, initializers that are large or on disk hold one byte each. Yields their names and tensors.

    Names are unique within a graph only: both branches of an If may call their weights the same.
    """
    large = [
        (value, tensor)
        for graph in graphs
        for value in graph.initializers.values()
        if (tensor := value.const_value) is not None
        and (tensor.nbytes > _SMALL_TENSOR_BYTES or isinstance(tensor, ir.ExternalTensor))
    ]
    try:
        for value, _ in large:
            value.const_value = ir.tensor([0], dtype=ir.DataType.UINT8, name=value.name)
        yield [(value.name or "", tensor) for value, tensor in large]
    finally:
        for value, tensor in large:
            value.const_value = tensor


class StagedModel:
    """A model written under a temporary name beside its destination, to be checked and then put in place.

    Use it as a context manager: what is not committed is deleted on the way out, also on errors and Ctrl-C.
    """

    def __init__(self, folder: Path, path: Path, destination: Path) -> None:
        self._folder = folder
        self._destination = destination
        self.path = path

    def commit(self) -> None:
        """Move the model to its destination. The ``.onnx`` file is renamed last, in one step."""
        staged = [part for part in sorted(self._folder.iterdir()) if part != self.path]
        try:
            outdated = _outdated_data_files(self._destination, {part.name for part in staged})
            for part in staged:
                os.replace(part, self._destination.parent / part.name)
            os.replace(self.path, self._destination)
            flush_to_disk(self._destination.parent)
        except OSError as error:
            raise FileAccessError(f"cannot write {self._destination}: {error.strerror}") from error
        for part in outdated:
            part.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def stage_model(model: ir.Model, destination: Path, *, external: bool = False) -> StagedModel:
    """Write ``model`` beside ``destination`` and flush it to disk, without touching the destination.

    Args:
        external: whether weights go to a data file of their own; above 2 GiB they do in any case.

    Raises:
        FileAccessError: the folder cannot be written, or the disk is full.
    """
    external = external or weight_bytes(model) > PROTOBUF_LIMIT_BYTES
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    except OSError as error:
        raise FileAccessError(f"cannot write to {destination.parent}: {error.strerror}") from error
    staged = StagedModel(folder, folder / destination.name, destination)
    try:
        if external:
            _write_with_data_file(model, staged.path)
        else:
            _write_inline(model, staged.path)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise FileAccessError(f"cannot write {destination}: {error.strerror or first_line(error)}") from error
    except BaseException:  # also on Ctrl-C
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return staged


def save_model(model: ir.Model, destination: Path, *, force: bool = False, external: bool = False) -> None:
    """Write a model atomically; see :func:`stage_model` and :func:`check_destination` for what is refused."""
    check_destination(destination, force=force)
    with stage_model(model, destination, external=external) as staged:
        staged.commit()


def _write_inline(model: ir.Model, path: Path) -> None:
    """Write one protobuf message, its large initializers one after the other: memory holds one of them at a time."""
    with _large_tensors_set_aside([model.graph]) as set_aside:
        proto = ir.to_proto(model)
    large = dict(set_aside)
    small = [tensor for tensor in proto.graph.initializer if tensor.name not in large]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(small)
    graph = proto.graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    graph_bytes = len(graph) + sum(_field_bytes(len(_tensor_message(name, tensor))) for name, tensor in large.items())
    with path.open("wb") as stream:
        stream.write(proto.SerializeToString(deterministic=True))
        stream.write(_field_header(_MODEL_GRAPH, graph_bytes))
        stream.write(graph)
        for name, tensor in large.items():
            message = _tensor_message(name, tensor)
            stream.write(_field_header(_GRAPH_INITIALIZER, len(message)))
            stream.write(message)
        stream.flush()
        os.fsync(stream.fileno())


_MODEL_GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER
_GRAPH_INITIALIZER = onnx.GraphProto.INITIALIZER_FIELD_NUMBER


def _tensor_message(name: str, tensor: ir.TensorProtocol) -> bytes:
    """One serialized TensorProto with its values inside."""
    inline = ir.Tensor(tensor.numpy(), dtype=tensor.dtype) if isinstance(tensor, ir.ExternalTensor) else tensor
    message = ir.serde.serialize_tensor(inline)
    message.name = name
    return bytes(message.SerializeToString(deterministic=True))


def _field_header(number: int, length: int) -> bytes:
    """Tag and length of an embedded message in the protobuf wire format (https://protobuf.dev/programming-guides/encoding/)."""
    return _varint(number << 3 | 2) + _varint(length)


def _field_bytes(length: int) -> int:
    return len(_field_header(_GRAPH_INITIALIZER, length)) + length


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _write_with_data_file(model: ir.Model, path: Path) -> None:
    """Weights go to ``NAME.HASH.data``: a name of its own per content, so that replacing the model stays atomic."""
    data = path.with_name("data")
    ir.save(model, path, external_data=data.name, size_threshold_bytes=_SMALL_TENSOR_BYTES)
    if not data.exists() or data.stat().st_size == 0:  # no tensor is large enough for a file of its own
        data.unlink(missing_ok=True)
        _write_inline(model, path)
        return
    with data.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:12]
    final = f"{path.name}.{digest}.data"
    proto = onnx.load(path, load_external_data=False)
    for tensor in _get_all_tensors(proto):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = final
    path.write_bytes(proto.SerializeToString(deterministic=True))
    data.rename(path.with_name(final))
    flush_to_disk(path)
    flush_to_disk(path.with_name(final))


def _outdated_data_files(destination: Path, kept: set[str]) -> list[Path]:
    """Data files that this tool wrote for an earlier model of the same name."""
    return [part for part in data_files(destination) if part.name not in kept] if destination.exists() else []


def loadable_form(model: ir.Model) -> tuple[str | bytes, tempfile.TemporaryDirectory[str] | None]:
    """The model for ONNX Runtime: bytes, or, with large or external weights, a path in a temporary folder.

    Raises:
        FileAccessError: the temporary folder cannot be written.
    """
    weights = (value.const_value for graph in all_graphs(model) for value in graph.initializers.values())
    if any(isinstance(tensor, ir.ExternalTensor) for tensor in weights):
        model = _with_mapped_weights(model)
    if weight_bytes(model) <= _INLINE_LIMIT_BYTES:
        return ir.to_proto(model).SerializeToString(), None
    folder = tempfile.TemporaryDirectory(prefix="onnxshrink-")
    path = Path(folder.name) / "model.onnx"
    try:
        ir.save(model, path, external_data="weights", size_threshold_bytes=1024)
    except OSError as error:
        folder.cleanup()
        raise FileAccessError(f"cannot write temporary files to {folder.name}: {error.strerror}") from error
    except BaseException:  # also on Ctrl-C
        folder.cleanup()
        raise
    return str(path), folder


def _with_mapped_weights(model: ir.Model) -> ir.Model:
    """A copy whose weights in files are arrays mapped from them: nobody closes the files while it is written."""
    mapped = model.clone()
    for graph in all_graphs(mapped):
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
    return mapped
