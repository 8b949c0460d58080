"""What would make a model smaller or faster, as far as one can tell without running it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.constants import uniform_element
from onnxshrink.graph.stored_weights import stored_weights
from onnxshrink.graph.walk import all_graphs, all_nodes, is_op
from onnxshrink.graph.weights import weight_operands
from onnxshrink.measured import ModelSize

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_QUANTIZED = ("DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "MatMulNBits")
_PER_CHANNEL_OPSET = 13


@dataclass(frozen=True)
class Hint:
    """One thing worth knowing. ``pass_name``: the pass that makes use of it, None when there is none."""

    text: str
    pass_name: str | None = None


def advise(model: ir.Model, size: ModelSize) -> tuple[Hint, ...]:
    """What would help, the largest effect first; ``size`` is that of ``model``."""
    rules: tuple[Callable[[ir.Model, ModelSize], Iterator[Hint]], ...] = (
        _overridable,
        _quantization,
        _generated_weights,
        _zeros,
        _batch_norms,
        _repeats,
        _identities,
        _shape_computations,
        _old_opset,
    )
    return tuple(hint for rule in rules for hint in rule(model, size))


def _overridable(model: ir.Model, size: ModelSize) -> Iterator[Hint]:
    count = sum(value.is_initializer() for value in model.graph.inputs)
    if count:
        yield Hint(
            f"{_count(count, 'initializer')} listed as inputs too: a caller may override them, so nothing is folded "
            "or quantized until they are frozen",
            "freeze-initializers",
        )


def _quantization(model: ir.Model, size: ModelSize) -> Iterator[Hint]:
    done = sum(node.op_type in _QUANTIZED for node in all_nodes(model))
    if done:
        yield Hint(f"already holds {_count(done, 'quantized node')}")
    tensors = [weight.tensor for weight in stored_weights(model)]
    weight_bytes = sum(int(tensor.nbytes) for tensor in tensors)
    share = weight_bytes / max(size.file_bytes, 1)
    if share >= 0.1:
        after = 1 - share + sum(int(tensor.size) for tensor in tensors) / max(size.file_bytes, 1)
        yield Hint(
            f"floating-point weights are {share:.0%} of the file: stored as int8 it would be about {after:.2f} of "
            "its size",
            "quantize-weights",
        )


def _generated_weights(model: ir.Model, size: ModelSize) -> Iterator[Hint]:
    generated = {
        node.inputs[index]
        for node in all_nodes(model)
        for index, _ in weight_operands(node)
        if index < len(node.inputs) and uniform_element(node.inputs[index]) is not None
    }
    if generated:
        yield Hint(
            f"{_count(len(generated), 'weight')} made by ConstantOfShape nodes: the file stores no bytes for them"
        )


def _zeros(model: ir.Model, size: ModelSize) -> Iterator[Hint]:
    share = size.zeros / max(size.parameters, 1)
    if share >= 0.3:
        yield Hint(f"{share:.0%} of the parameters are zero: gzip makes use of that, ONNX Runtime does not")


def _batch_norms(model: ir.Model, size: ModelSize) -> Iterator[Hint]:
    norms = [node for node in all_nodes(model) if is_op(node, "BatchNormalization")]
    foldable = sum(is_op(producer, *_WEIGHTED) for node in norms if (producer := _producer(node)) is not None)
    if foldable:
        yield Hint(
            f"{foldable} of {_count(len(norms), 'BatchNormalization node')} right behind a layer with weights",
            "fold-batchnorm",
        )


def _repeats(model: ir.Model, size: ModelSize) -> Iterator[Hint]:
    """Initializers that hold what another one holds; large ones are told apart by samples first."""
    groups: dict[object, list[ir.TensorProtocol]] = defaultdict(list)
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.nbytes >= 1024 and not isinstance(tensor, ir.ExternalTensor):
                groups[tensor.dtype, tuple(tensor.shape), _fingerprint(tensor)].append(tensor)
    saved = 0
    for first, *others in groups.values():
        saved += sum(int(other.nbytes) for other in others if np.array_equal(first.numpy(), other.numpy()))
    if saved:
        yield Hint(f"{saved:,} bytes of initializers repeat others", "share-identical")


def _identities(model: ir.Model, size: ModelSize) -> Iterator[Hint]:
    idle = sum(is_op(node, "Identity", "Dropout") for node in all_nodes(model))
    if idle:
        yield Hint(f"{_count(idle, 'Identity or Dropout node')} without effect", "drop-identity")


def _shape_computations(model: ir.Model, size: ModelSize) -> Iterator[Hint]:
    shapes = sum(is_op(node, "Shape") for node in all_nodes(model))
    if shapes:
        yield Hint(f"{_count(shapes, 'Shape node')}: constants where shapes are fixed", "fold-constants")


def _old_opset(model: ir.Model, size: ModelSize) -> Iterator[Hint]:
    opset = model.opset_imports.get("")
    if opset is not None and opset < _PER_CHANNEL_OPSET:
        yield Hint(
            f"opset {opset} has no quantization per channel; {_PER_CHANNEL_OPSET} and later have",
            "convert-opset",
        )


def _producer(node: ir.Node) -> ir.Node | None:
    value = node.inputs[0] if node.inputs else None
    return None if value is None else value.producer()


def _fingerprint(tensor: ir.TensorProtocol) -> bytes:
    """A few elements from all over the tensor, as bytes."""
    flat = tensor.numpy().reshape(-1)
    return flat[:: max(1, flat.size // 64)].tobytes()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
