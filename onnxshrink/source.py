"""The model that a run starts from: a file, or a model in memory that is given a temporary file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from onnxshrink.errors import ModelError
from onnxshrink.graph.load import file_digest, from_proto, load_model
from onnxshrink.graph.save import stage_model

ModelLike = str | os.PathLike[str] | onnx.ModelProto | ir.Model


@dataclass(frozen=True)
class Source:
    """The original.

    Attributes:
        model: its graph; passes work on copies.
        file: the file it is in, a temporary one for a model in memory.
        path: the path as the user gave it; None for a model in memory.
        sha256: digest of the file and its external data.
    """

    model: ir.Model
    file: Path
    path: Path | None
    sha256: str

    @property
    def name(self) -> str:
        return self.path.name if self.path is not None else self.model.graph.name or "model"


@contextmanager
def open_source(model: ModelLike) -> Iterator[Source]:
    """Load a model from a path, a ``ModelProto`` or an ``ir.Model``; neither is changed.

    Raises:
        FileAccessError, ModelError: see :func:`~onnxshrink.graph.load.load_model`.
    """
    if isinstance(model, str | os.PathLike):
        path = Path(model)
        loaded = load_model(path)
        yield Source(loaded, path, path, file_digest(path, loaded))
        return
    if not isinstance(model, ir.Model | onnx.ModelProto):
        raise ModelError(f"a model is a path, an onnx.ModelProto or an onnx_ir.Model, not {type(model).__name__}")
    graph = model.clone() if isinstance(model, ir.Model) else from_proto(_copy(model))
    with (
        tempfile.TemporaryDirectory(prefix="onnxshrink-") as folder,
        stage_model(graph, Path(folder, "m.onnx")) as kept,
    ):
        yield Source(graph, kept.path, None, file_digest(kept.path, graph))


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy
