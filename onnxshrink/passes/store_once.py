"""Constants of equal content, stored once: equal ones are shared, reshaped and transposed copies are computed.

    b = a        b = Reshape(a, shape)        b = Transpose(a)

ONNX Runtime folds the Reshape or Transpose when it loads the model. Copies are sought within one graph, function bodies
aside, by a digest of their bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.constants import content_digest, is_fixed_initializer, read_array
from onnxshrink.graph.edits import Names
from onnxshrink.passes.base import Change
from onnxshrink.passes.kept_constants import obstacle
from onnxshrink.storage.decoders import DecoderBuilder

_LEAST_SHARED_BYTES = 64
_LEAST_COMPUTED_BYTES = 512


def store_once(model: ir.Model, names: Names) -> Iterator[Change]:
    """Let one constant of each content remain in every graph, and compute or share the others."""
    for graph in (model.graph, *model.graph.subgraphs()):
        values = [value for value in graph.initializers.values() if _may_be_shared(value)]
        counts = Counter(map(_kind, values))
        seen: dict[Hashable, ir.Value] = {}
        for value in values:
            if counts[_kind(value)] > 1:
                change = _stored_once(model, value, seen, names)
                if change is not None:
                    yield change


def _may_be_shared(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or tensor.dtype == ir.DataType.STRING or tensor.nbytes <= _LEAST_SHARED_BYTES:
        return False
    return is_fixed_initializer(value) and not value.is_graph_output() and bool(value.uses())


def _kind(value: ir.Value) -> Hashable:
    assert value.const_value is not None
    return value.const_value.dtype, value.const_value.size


def _stored_once(model: ir.Model, value: ir.Value, seen: dict[Hashable, ir.Value], names: Names) -> Change | None:
    tensor = value.const_value
    assert tensor is not None and value.graph is not None
    name, shape = value.name or "a constant", _shape(tensor)
    digest = read_array(tensor, content_digest)
    first = seen.setdefault((_kind(value), digest), value)
    if first is value:
        return _transposed(model, value, tensor, seen, names)
    assert first.const_value is not None
    if _shape(first.const_value) == shape:
        value.replace_all_uses_with(first)
        value.graph.initializers.pop(name)
        return Change(name, f"equals {first.name}, stored once")
    if tensor.nbytes < _LEAST_COMPUTED_BYTES or obstacle(value) is not None:
        return None
    build = DecoderBuilder(model, value, names)
    build.replace(build.node("Reshape", [first, build.ints(*shape)], tensor.dtype))
    return Change(name, f"{first.name} in another shape, stored once")


def _transposed(
    model: ir.Model, value: ir.Value, tensor: ir.TensorProtocol, seen: dict[Hashable, ir.Value], names: Names
) -> Change | None:
    shape = _shape(tensor)
    if len(shape) != 2 or 1 in shape or tensor.nbytes < _LEAST_COMPUTED_BYTES:
        return None
    reversed_shapes = (other for other in seen.values() if other is not value and _kind(other) == _kind(value))
    if not any(other.const_value is not None and _shape(other.const_value) == shape[::-1] for other in reversed_shapes):
        return None
    first = seen.get((_kind(value), read_array(tensor, _digest_of_transpose)))
    if first is None or first is value or first.const_value is None or _shape(first.const_value) != shape[::-1]:
        return None
    if obstacle(value) is not None:
        return None
    name, build = value.name or "a constant", DecoderBuilder(model, value, names)
    build.replace(build.node("Transpose", [first], tensor.dtype))
    return Change(name, f"{first.name} transposed, stored once")


def _digest_of_transpose(array: np.ndarray) -> bytes:
    return content_digest(array.T)


def _shape(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    return tuple(int(size) for size in tensor.shape.numpy())
