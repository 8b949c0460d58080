"""Multiply-accumulates (MACs) of one run, from shapes. A bias addition is not counted.

    Conv            out elements · (in channels / groups) · kernel elements
    ConvTranspose   in elements · (out channels / groups) · kernel elements
    MatMul, Gemm    out elements · inner dimension
    LSTM, GRU, RNN  steps · batch · (elements of W + elements of R)

Their quantized forms count the same. Nodes in If branches and Loop or Scan bodies count once and are flagged; functions
are counted at every call. Operators are described at https://onnx.ai/onnx/operators/ and, for ``com.microsoft``, at
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from onnxshrink.errors import DataError, ModelError
from onnxshrink.graph.edits import Names
from onnxshrink.graph.shapes import infer_shapes, static_shape
from onnxshrink.graph.walk import all_graphs, label
from onnxshrink.measure.session import SessionSettings, open_session


@dataclass(frozen=True)
class NodeCompute:
    """The compute of one node.

    Attributes:
        macs: multiply-accumulates; None when a shape is unknown or the operator is not understood.
        in_subgraph: whether the node is in an If, Loop or Scan body, and therefore counted once however often it runs.
    """

    node: str
    op_type: str
    macs: int | None
    in_subgraph: bool


@dataclass(frozen=True)
class ModelCompute:
    """The compute of every node that multiplies and accumulates, in graph order."""

    nodes: tuple[NodeCompute, ...]

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates of one run; None when those of some node are unknown."""
        known = [node.macs for node in self.nodes if node.macs is not None]
        return sum(known) if len(known) == len(self.nodes) else None

    @property
    def unknown(self) -> tuple[str, ...]:
        """Nodes whose compute is unknown."""
        return tuple(node.node for node in self.nodes if node.macs is None)


def measure_compute(
    model: ir.Model,
    feeds: Mapping[str, np.ndarray] | None = None,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> ModelCompute:
    """Count the multiply-accumulates of one run.

    Args:
        model: left as it is.
        feeds: inputs by name, whose shapes bind the dimensions that the model leaves open. Where shape inference
            cannot follow, the model is run on them once to see the shapes; if ONNX Runtime refuses, those stay unknown.
        input_shapes: shapes of inputs by name, to bind dimensions without running the model.
    """
    model = model.clone()
    InlinePass()(model)
    model.graph.outputs.clear()  # inference keeps what a model declares for its outputs, open dimensions included
    shapes = {**(input_shapes or {}), **{name: feed.shape for name, feed in (feeds or {}).items()}}
    if shapes:
        _bind_inputs(model, shapes)
    infer_shapes(model)
    if feeds:
        _observe_shapes(model, feeds)
    return ModelCompute(
        tuple(
            NodeCompute(label(node), node.op_type, _macs(node), in_subgraph=graph is not model.graph)
            for graph in all_graphs(model)
            for node in graph
            if (node.domain, node.op_type) in _COMPUTED
        )
    )


def known_macs(model: ir.Model, feed: Mapping[str, np.ndarray]) -> int:
    """Multiply-accumulates of one run on ``feed``, without running the model; nodes that are not understood count 0."""
    compute = measure_compute(model, input_shapes={name: array.shape for name, array in feed.items()})
    return sum(node.macs or 0 for node in compute.nodes)


def _bind_inputs(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give the inputs their shapes, and forget the open shapes behind them, which would contradict."""
    for graph in all_graphs(model):
        for node in graph:
            for value in node.outputs:
                if static_shape(value) is None:
                    value.shape = None
    for value in model.graph.inputs:
        if value.name is not None and value.name in shapes:
            value.shape = ir.Shape(shapes[value.name])


def _observe_shapes(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> None:
    """Run the model once to learn the shapes that counting needs and inference does not know.

    Only shapes are read out, by Shape nodes, so that no activation is kept. Nodes in subgraphs are out of reach.
    """
    unknown = [
        value
        for node in model.graph
        if (node.domain, node.op_type) in _COMPUTED and _macs(node) is None
        for value in (*node.inputs, *node.outputs[:1])
        if value is not None and static_shape(value) is None and not value.is_initializer()
    ]
    if not unknown:
        return
    observed = model.clone()
    values = ir.convenience.create_value_mapping(observed.graph)
    names = Names(observed)
    shapes = {names.fresh("observed_shape"): value for value in dict.fromkeys(unknown) if value.name in values}
    for name, value in shapes.items():
        node = ir.node("Shape", [values[value.name or ""]])
        node.outputs[0].name, node.outputs[0].dtype = name, ir.DataType.INT64
        observed.graph.append(node)
        observed.graph.outputs.append(node.outputs[0])
    try:
        with open_session(observed, SessionSettings(optimized=False, threads=1)) as session:
            for name, shape in session.run(feeds).items():
                shapes[name].shape = ir.Shape(shape.tolist())
    except (DataError, ModelError):  # such as custom operators: a count that stays unknown is an answer too
        return


def _macs(node: ir.Node) -> int | None:
    kind = _COMPUTED[node.domain, node.op_type]
    if kind == "unknown":
        return None
    if kind == "matmul_nbits":
        rows = static_shape(_input(node, 0))
        columns = node.attributes.get_int("N", 0)
        return None if rows is None else math.prod(rows) * columns
    if kind == "recurrent":
        return _recurrent(node)
    data, weight = _operands(node)
    if data is None or weight is None:
        return None
    if kind == "matmul":
        return _matmul(data, weight)
    if kind == "gemm":
        inner = data[0] if node.attributes.get_int("transA", 0) == 1 else data[1]
        return math.prod(data) * math.prod(weight) // max(inner, 1)
    positions = data if kind == "transposed" else static_shape(node.outputs[0])
    return None if positions is None else math.prod(positions) * math.prod(weight[1:])


def _matmul(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    batch = np.broadcast_shapes(a[:-2], b[:-2])
    columns = b[-1] if len(b) > 1 else 1
    return math.prod(batch) * math.prod(a[-2:]) * columns


def _operands(node: ir.Node) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """Shapes of the two multiplied inputs; in QLinear operators each is followed by its scale and zero point."""
    second = 3 if node.op_type.startswith("QLinear") else 1
    return static_shape(_input(node, 0)), static_shape(_input(node, second))


def _recurrent(node: ir.Node) -> int | None:
    data, weight, recurrence = (static_shape(_input(node, index)) for index in range(3))
    if data is None or weight is None or recurrence is None:
        return None
    return data[0] * data[1] * (math.prod(weight) + math.prod(recurrence))


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


_COMPUTED = {
    ("", "Conv"): "conv",
    ("", "ConvInteger"): "conv",
    ("", "QLinearConv"): "conv",
    ("", "ConvTranspose"): "transposed",
    ("", "Gemm"): "gemm",
    ("", "MatMul"): "matmul",
    ("", "MatMulInteger"): "matmul",
    ("", "QLinearMatMul"): "matmul",
    ("", "LSTM"): "recurrent",
    ("", "GRU"): "recurrent",
    ("", "RNN"): "recurrent",
    ("", "Einsum"): "unknown",
    ("", "Attention"): "unknown",
    ("", "DeformConv"): "unknown",
    ("com.microsoft", "FusedConv"): "conv",
    ("com.microsoft", "DynamicQuantizeMatMul"): "matmul",
    ("com.microsoft", "MatMulIntegerToFloat"): "matmul",
    ("com.microsoft", "DynamicQuantizeLSTM"): "recurrent",
    ("com.microsoft", "MatMulNBits"): "matmul_nbits",
    ("com.microsoft", "Attention"): "unknown",
    ("com.microsoft", "MultiHeadAttention"): "unknown",
}
"""Operators that multiply and accumulate, by domain and name, and how they are counted."""
