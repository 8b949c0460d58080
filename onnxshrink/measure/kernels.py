"""Which layers ONNX Runtime really computes from integers: read from the graph after its own optimisations.

What a model asks for is not what runs. A Conv between DequantizeLinear and QuantizeLinear becomes an integer kernel
only when everything around it fits, and one that was left in float may become one all the same: ONNX Runtime's
WeightBiasQuantization does that.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.constants import constant_tensor
from onnxshrink.graph.walk import is_op, label
from onnxshrink.measure.compute import measure_compute
from onnxshrink.measure.session import optimized_model, profile_kernels

if TYPE_CHECKING:
    import onnx

_INTEGER = ("QLinear", "QGemm", "MatMulInteger", "ConvInteger", "DynamicQuantize", "QAttention")
_LAYERS = ("Conv", "Gemm", "MatMul")
_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid")
_LAYER_NAME = re.compile(r"layer(\d+)_")
_PROFILED_RUNS = 12


@dataclass(frozen=True)
class KernelUse:
    """The kernels of a model's layers in ONNX Runtime's optimised graph, on this machine.

    Attributes:
        integer: kernels that compute from integers, by operator.
        integer_mac_share: share of the multiply-accumulates in them; None when the compute of a layer is unknown.
        missed: layers with quantized input and weights that run in float all the same.
        unasked: layers with float weights that run in integers all the same.
    """

    integer: Mapping[str, int]
    integer_mac_share: float | None
    missed: tuple[str, ...]
    unasked: tuple[str, ...]


def measure_kernels(model: ir.Model, feed: Mapping[str, np.ndarray] | None = None) -> KernelUse:
    """Optimise a copy of ``model`` and see what became of its layers.

    Args:
        feed: binds open dimensions, for the share of the multiply-accumulates.

    Raises:
        ModelError: ONNX Runtime does not load the model.
    """
    named = model.clone()
    names = {f"layer{index}_": label(node) for index, node in enumerate(named.graph)}
    for index, node in enumerate(named.graph):
        node.name = f"layer{index}_"
    kernels = _kernels_by_layer(optimized_model(named))
    integer = {name for name, op_type in kernels.items() if op_type.startswith(_INTEGER)}
    asked = {node.name: _asks_for_integers(node) for node in named.graph if is_op(node, *_LAYERS)}
    compute = [node for node in measure_compute(named, feed).nodes if node.macs is None or node.macs > 0]
    known = {node.node: node.macs for node in compute}
    share = None
    if known and None not in known.values():
        total = sum(macs or 0 for macs in known.values())
        share = sum(macs or 0 for name, macs in known.items() if name in integer) / max(total, 1)
    return KernelUse(
        dict(Counter(kernels[name] for name in integer)),
        share,
        tuple(names[name] for name, asks in asked.items() if name and asks and name in kernels and name not in integer),
        tuple(names[name] for name, asks in asked.items() if name and not asks and name in integer),
    )


def measure_layer_times(model: ir.Model, feed: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Time of the kernel of each Conv, Gemm and MatMul of the main graph, in µs, by the node's label.

    A guide, not a measurement: profiling costs time, and conversions between layouts and types are not counted.

    Raises:
        ModelError: ONNX Runtime does not load or run the model.
    """
    named = model.clone()
    owners = [_layer_of(node) for node in named.graph]
    labels = [None if owner is None else label(owner) for owner in owners]
    for index, node in enumerate(named.graph):  # kernels are named after their node or its output
        node.name = f"layer{index}_"
        for position, output in enumerate(node.outputs):
            output.name = f"layer{index}_output{position}"
    times: defaultdict[str, float] = defaultdict(float)
    for kernel, microseconds in profile_kernels(named, feed, _PROFILED_RUNS).items():
        found = _LAYER_NAME.search(kernel)
        name = labels[int(found[1])] if found else None
        if name is not None:
            times[name] += microseconds
    return dict(times)


def _kernels_by_layer(optimized: onnx.ModelProto) -> dict[str, str]:
    """Operators by the name of the node that they were made from, an integer kernel rather than what is around it."""
    kernels: dict[str, str] = {}
    for node in optimized.graph.node:
        found = _LAYER_NAME.search(node.name)
        if found and not kernels.get(found[0], "").startswith(_INTEGER):
            kernels[found[0]] = node.op_type
    return kernels


def _layer_of(node: ir.Node) -> ir.Node | None:
    """The layer that a node is, or whose activation it is: ONNX Runtime fuses the two under the activation's name."""
    if is_op(node, *_LAYERS):
        return node
    source = node.inputs[0] if node.inputs else None
    producer = None if source is None else source.producer()
    if source is not None and is_op(node, *_ACTIVATIONS) and is_op(producer, *_LAYERS) and len(source.uses()) == 1:
        return producer
    return None


def _asks_for_integers(node: ir.Node) -> bool:
    producers = [None if value is None else value.producer() for value in node.inputs[:2]]
    return all(
        producer is not None and is_op(producer, "DequantizeLinear") and _has_one_scale_or_is_constant(producer)
        for producer in producers
    )


def _has_one_scale_or_is_constant(dequantize: ir.Node) -> bool:
    scale = constant_tensor(dequantize.inputs[1])
    return constant_tensor(dequantize.inputs[0]) is not None or scale is None or scale.size == 1
