"""What a model is made of, how its weights are distributed, and what would help; found without running it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxshrink.advice import Hint, advise
from onnxshrink.graph.constants import read_array
from onnxshrink.graph.load import load_model
from onnxshrink.graph.stored_weights import StoredWeight, stored_weights
from onnxshrink.graph.walk import all_nodes, label, operator_counts, subgraphs_of
from onnxshrink.measure.compute import measure_compute
from onnxshrink.measure.size import measure_size
from onnxshrink.measured import ModelSize
from onnxshrink.numerics.distribution import Distribution, describe

_KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")


@dataclass(frozen=True)
class TensorFacts:
    """One input or output. ``shape``: sizes, or names of open dimensions (``?`` when unnamed); None: any rank."""

    name: str
    type: str
    shape: tuple[int | str, ...] | None


@dataclass(frozen=True)
class WeightFacts:
    """One weight.

    Attributes:
        name: name of the constant.
        node: the first node that multiplies by it, or gathers from it.
        op_type: the operator of that node.
        channel_axes: axes along which an int8 weight has scales of its own.
        size_bytes: bytes of its elements as stored.
        zeros: elements equal to zero.
        distribution: None when the weight is empty or holds NaN or infinity.
    """

    name: str
    node: str
    op_type: str
    dtype: str
    shape: tuple[int, ...]
    channel_axes: tuple[int, ...]
    size_bytes: int
    zeros: int
    distribution: Distribution | None


@dataclass(frozen=True)
class Inspection:
    """What :func:`inspect_model` found.

    Attributes:
        name: the file's name, or the graph's when the model has no file.
        producer: the tool that wrote the model, with its version; empty when unknown.
        nodes: nodes per operator (``domain::op`` outside the default domain), most frequent first.
        control_flow: how many nodes of each operator hold subgraphs.
        custom_domains: domains whose operators neither ONNX nor ONNX Runtime defines, and that are no functions.
        functions: names of the model-local functions.
        external_data: whether weights are in files of their own.
        macs: multiply-accumulates of one run at batch size 1; None when they depend on dimensions left open.
        macs_unknown: nodes whose multiply-accumulates are unknown.
        weights: every weight once, in graph order.
        hints: what would help.
    """

    name: str
    producer: str
    ir_version: int
    opset_imports: Mapping[str, int]
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    size: ModelSize
    nodes: Mapping[str, int]
    control_flow: Mapping[str, int]
    custom_domains: tuple[str, ...]
    functions: tuple[str, ...]
    external_data: bool
    macs: int | None
    macs_unknown: tuple[str, ...]
    weights: tuple[WeightFacts, ...]
    hints: tuple[Hint, ...]


def inspect_model(model: str | os.PathLike[str] | ir.Model) -> Inspection:
    """Look into a model, given as a file or as a graph, which is left as it is.

    Raises:
        FileAccessError, ModelError: the file cannot be read as a model.
    """
    path = None if isinstance(model, ir.Model) else Path(model)
    graph = model if isinstance(model, ir.Model) else load_model(model)
    size = measure_size(graph, path, compressed=False)
    compute = measure_compute(graph, input_shapes=_single_sample_shapes(graph))
    return Inspection(
        name=path.name if path is not None else graph.graph.name or "model",
        producer=f"{graph.producer_name or ''} {graph.producer_version or ''}".strip(),
        ir_version=graph.ir_version,
        opset_imports=dict(sorted(graph.opset_imports.items())),
        inputs=tuple(_tensor_facts(value) for value in graph.graph.inputs),
        outputs=tuple(_tensor_facts(value) for value in graph.graph.outputs),
        size=size,
        nodes=operator_counts(graph),
        control_flow=dict(Counter(node.op_type for node in all_nodes(graph) if any(subgraphs_of(node)))),
        custom_domains=_custom_domains(graph),
        functions=tuple(function.name for function in graph.functions.values()),
        external_data=len(size.files) > 1,
        macs=compute.macs,
        macs_unknown=compute.unknown,
        weights=tuple(_weight_facts(weight) for weight in stored_weights(graph)),
        hints=advise(graph, size),
    )


def _single_sample_shapes(model: ir.Model) -> dict[str, tuple[int, ...]]:
    """The inputs' shapes with an open first dimension taken as 1; inputs with other open dimensions are left out."""
    shapes = {}
    for value in model.graph.inputs:
        if value.name is None or not value.shape:
            continue
        first = value.shape[0] if isinstance(value.shape[0], int) else 1
        rest = [dim for dim in value.shape[1:] if isinstance(dim, int)]
        if len(rest) == len(value.shape) - 1:
            shapes[value.name] = (first, *rest)
    return shapes


def _tensor_facts(value: ir.Value) -> TensorFacts:
    shape = None
    if value.shape is not None:
        shape = tuple(dim if isinstance(dim, int) else dim.value or "?" for dim in value.shape)
    kind = "unknown" if value.type is None else str(value.type).removeprefix("Tensor(").removesuffix(")")
    return TensorFacts(value.name or "", kind, shape)


def _custom_domains(model: ir.Model) -> tuple[str, ...]:
    local = {(function.domain, function.name) for function in model.functions.values()}
    used = {node.domain for node in all_nodes(model) if (node.domain, node.op_type) not in local}
    return tuple(sorted(used.difference(_KNOWN_DOMAINS)))


def _weight_facts(weight: StoredWeight) -> WeightFacts:
    zeros, distribution = read_array(
        weight.tensor, lambda array: (int(array.size - np.count_nonzero(array)), describe(array, weight.channel_axes))
    )
    return WeightFacts(
        name=weight.name,
        node=label(weight.uses[0].node),
        op_type=weight.uses[0].node.op_type,
        dtype=weight.tensor.dtype.name,
        shape=weight.shape,
        channel_axes=weight.channel_axes,
        size_bytes=int(weight.tensor.nbytes),
        zeros=zeros,
        distribution=distribution,
    )
