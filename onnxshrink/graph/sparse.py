"""Sparse initializers become dense ones at load: onnx_ir has no sparse initializers, and drops them without a word."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx


def densify_sparse_initializers(proto: onnx.ModelProto) -> None:
    """Replace every sparse initializer of the model, in subgraphs too, by a dense one of the same name and values."""
    for graph in _graphs(proto.graph):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(onnx.numpy_helper.from_array(_dense(sparse), sparse.values.name))
        del graph.sparse_initializer[:]


def _dense(sparse: onnx.SparseTensorProto) -> np.ndarray:
    """Indices are linear positions, shape (nnz,), or coordinates, shape (nnz, rank)."""
    values = onnx.numpy_helper.to_array(sparse.values)
    indices = onnx.numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 2:
        dense[tuple(indices.T)] = values
    else:
        dense.reshape(-1)[indices] = values
    return dense


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)
