"""Files to ``ir.Model`` and back: external data, refusals that name the cause, and atomic writing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

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

PROTOBUF_LIMIT_BYTES = 2**31 - 2**20
"""A protobuf message ends at 2 GiB; what is larger needs external data. One MiB is left for the graph itself."""

KEEP_EXTERNAL_ABOVE_BYTES = 256 * 2**20
"""A model that came with external data keeps it above this size: writing it inline would hold it in memory twice."""

_SMALL_TENSOR_BYTES = 4096
_CHUNK_BYTES = 2**20


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
    return from_proto(proto, path)


def from_proto(proto: onnx.ModelProto, path: Path | None = None) -> ir.Model:
    """Turn a ``ModelProto`` into a model; ``path`` is the file it came from, where external data is looked up."""
    name = str(path) if path is not None else "the model"
    try:
        densify_sparse_initializers(proto)
        model = ir.from_proto(proto)
        if path is not None:
            for graph in all_graphs(model):
                ir.external_data.set_base_dir(graph, path.absolute().parent)
        TopologicalSortPass()(model)
    except Exception as error:  # onnx_ir reports a damaged graph by whatever its reading code runs into
        raise ModelError(f"{name} is not a valid ONNX model: {first_line(error)}") from error
    return model


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
    locations = {str(tensor.location) for tensor in _all_tensors(model) if isinstance(tensor, ir.ExternalTensor)}
    return [path, *(path.parent / location for location in sorted(locations))]


def uses_external_files(model: ir.Model) -> bool:
    """Whether any initializer lives in external data."""
    return any(isinstance(tensor, ir.ExternalTensor) for tensor in _initializer_tensors(model))


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers, in the main graph and in subgraphs."""
    return sum(int(tensor.nbytes) for tensor in _initializer_tensors(model))


def serialized_bytes(model: ir.Model) -> int:
    """The size of the model as a file, exact to a few bytes per tensor, without copying its large weights."""
    values = [value for graph in all_graphs(model) for value in graph.initializers.values()]
    large = [
        (value, tensor)
        for value in values
        if (tensor := value.const_value) is not None and tensor.nbytes > _SMALL_TENSOR_BYTES
    ]
    stand_in = ir.tensor([0], dtype=ir.DataType.UINT8)
    try:
        for value, _ in large:
            value.const_value = ir.Tensor(stand_in.numpy(), name=value.name)
        graph_bytes = ir.to_proto(model).ByteSize()
    finally:
        for value, tensor in large:
            value.const_value = tensor
    return int(graph_bytes) + sum(int(tensor.nbytes) + 2 * len(tensor.shape) for _, tensor in large)


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
            _sync(self._destination.parent)
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


def check_destination(destination: Path, *, force: bool) -> None:
    """Refuse a destination that cannot be written, before any work is done for it.

    Raises:
        FileAccessError: a folder, an existing file without ``force``, or a parent folder that is missing or read-only.
    """
    if destination.is_dir():
        raise FileAccessError(f"{destination} is a folder: give the name of the .onnx file to write")
    if not destination.parent.is_dir():
        raise FileAccessError(f"the output folder {destination.parent} does not exist: create it first")
    if destination.exists() and not force:
        raise FileAccessError(f"{destination} exists: use --force to replace it")
    if not os.access(destination.parent, os.W_OK):
        raise FileAccessError(f"the output folder {destination.parent} is read-only")


def stage_model(model: ir.Model, destination: Path, *, external: bool | None = None) -> StagedModel:
    """Write ``model`` beside ``destination`` and flush it to disk, without touching the destination.

    Args:
        external: whether weights go to a data file of their own; None decides by size (always above 2 GiB).

    Raises:
        FileAccessError: the folder cannot be written, or the disk is full.
    """
    total = weight_bytes(model)
    if external is None:
        external = total > KEEP_EXTERNAL_ABOVE_BYTES and uses_external_files(model)
    external = external or total > PROTOBUF_LIMIT_BYTES
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
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return staged


def save_model(model: ir.Model, destination: Path, *, force: bool = False, external: bool | None = None) -> None:
    """Write a model atomically; see :func:`stage_model` and :func:`check_destination` for what is refused."""
    check_destination(destination, force=force)
    with stage_model(model, destination, external=external) as staged:
        staged.commit()


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file so that its name never shows half of it; FileAccessError when it cannot be written."""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, _file_mode())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise FileAccessError(f"cannot write {path}: {error.strerror}") from error


def _file_mode() -> int:
    """The mode a newly created file gets: temporary files are private otherwise."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


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


def _write_inline(model: ir.Model, path: Path) -> None:
    data = ir.to_proto(model).SerializeToString(deterministic=True)
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _write_with_data_file(model: ir.Model, path: Path) -> None:
    """Weights go to ``NAME.HASH.data``: a name of its own per content, so that replacing the model stays atomic."""
    data = path.with_name("data")
    ir.save(model, path, external_data=data.name)
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
    _sync(path)
    _sync(path.with_name(final))


def _outdated_data_files(destination: Path, kept: set[str]) -> list[Path]:
    """Data files that this tool wrote for an earlier model of the same name."""
    pattern = f"{destination.name}.????????????.data"
    return [part for part in destination.parent.glob(pattern) if part.name not in kept]


def _sync(path: Path) -> None:
    with contextlib.suppress(PermissionError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
